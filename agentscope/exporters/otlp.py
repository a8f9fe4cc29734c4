"""The OTLP destination: any OpenTelemetry backend, configured by the standard variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar
from urllib.parse import unquote

from agentscope._validation import check_base_url, check_headers, choice, number, words

from .base import NO_HEADERS, Exporter

TRACES_PATH = "/v1/traces"


DEFAULT_OTLP_URL = "http://localhost:4318"


_MOST_SECONDS = 60


_SECRET_NAME = re.compile(r"auth|key|token|secret|cookie|password|credential|signature", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, repr=False)
class OTLPExporter(Exporter):
    """Any OpenTelemetry backend, over OTLP/HTTP. VoltAgent's reads names of its own: `VoltAgentExporter` writes those.

    What is missing is taken from the standard variables, those with `_TRACES` first: `OTEL_EXPORTER_OTLP_ENDPOINT`,
    `_HEADERS`, `_TIMEOUT`, `_PROTOCOL`, `_COMPRESSION` and `_CERTIFICATE`.
    https://opentelemetry.io/docs/specs/otel/protocol/exporter/
    """

    endpoint: str = ""
    """The backend's address; `/v1/traces` is appended unless it is the end already. Default `http://localhost:4318`."""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    """Sent with each request: the place for keys. They show in no repr."""
    encoding: str | None = None
    """`protobuf` (the default) or `json`. Where the backend refuses the one, the other is tried."""
    compression: str | None = None
    """`gzip` or `none`. By default gzip, except to this machine."""
    certificate: str | None = None
    """A file of certificates to trust instead of the usual ones."""

    SECRETS: ClassVar[tuple[str, ...]] = ("headers",)

    def checked(self, environ: Mapping[str, str] | None = None) -> OTLPExporter:
        own = super().checked(environ)
        assert isinstance(own, OTLPExporter)
        env = os.environ if environ is None else environ
        headers: Mapping[str, str] = check_headers(own.headers or _otel_headers(env), "headers", "argument")
        certificate, source = (own.certificate, "argument") if own.certificate else _otel(env, "CERTIFICATE")
        return replace(
            own,
            endpoint=_otlp_endpoint(own.endpoint, env),
            headers=headers,
            encoding=_otlp_encoding(own.encoding, env),
            compression=_otel_choice(own.compression, "compression", "COMPRESSION", ("gzip", "none"), env),
            certificate=None if certificate is None else words(certificate, "certificate", source),
            timeout=_otlp_timeout(own.timeout, env),
        )

    @property
    def url(self) -> str:
        return self.endpoint

    @property
    def secrets(self) -> tuple[str, ...]:
        # A header's value often begins with a word such as Bearer. One that holds no key, but a tenant's name, say, is no secret.
        return tuple(value.rpartition(" ")[2] for name, value in self.headers.items() if _SECRET_NAME.search(name))


def service_name(given: str | None, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The resource that spans come from: `OTEL_RESOURCE_ATTRIBUTES`, under `OTEL_SERVICE_NAME`, under what was given."""
    env = os.environ if environ is None else environ
    named = given or env.get("OTEL_SERVICE_NAME")
    resource = {"service.name": "unknown_service:python", **_pairs(env.get("OTEL_RESOURCE_ATTRIBUTES", ""))}
    return {**resource, "service.name": named} if named else resource


def _otel(env: Mapping[str, str], name: str) -> tuple[str | None, str]:
    """The value of a standard variable, the one for traces first, and where it came from."""
    for variable in (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
        value = env.get(variable, "").strip()
        if value:
            return value, f"environment variable {variable}"
    return None, "default"


def endpoint_variable(environ: Mapping[str, str] | None = None) -> str | None:
    """The standard variable that says where spans go, if one does."""
    value, source = _otel(os.environ if environ is None else environ, "ENDPOINT")
    return None if value is None else source.removeprefix("environment variable ")


def _otel_choice(
    given: str | None, option: str, name: str, allowed: tuple[str, ...], env: Mapping[str, str]
) -> str | None:
    value, source = (given, "argument") if given is not None else _otel(env, name)
    return None if value is None else choice(*allowed)(value, option, source)


def _otlp_endpoint(given: str, env: Mapping[str, str]) -> str:
    value, source = (given, "argument") if given else _otel(env, "ENDPOINT")
    url = check_base_url(value or DEFAULT_OTLP_URL, source, "endpoint")
    # The variable for traces names the very address (as the specification has it), all others the backend.
    exact = url.endswith(TRACES_PATH) or "_TRACES_" in source
    return url if exact else url + TRACES_PATH


def _otlp_encoding(given: str | None, env: Mapping[str, str]) -> str:
    if given is not None:
        return choice("protobuf", "json")(given, "encoding", "argument")
    value, source = _otel(env, "PROTOCOL")
    if value is None:
        return "protobuf"
    return choice("http/protobuf", "http/json")(value, "protocol", source).removeprefix("http/")


def _otlp_timeout(given: float | None, env: Mapping[str, str]) -> float | None:
    if given is not None:
        return given
    value, source = _otel(env, "TIMEOUT")
    if value is None:
        return None
    told = number(0.05, 600_000)(value, "timeout", source)
    # The specification counts milliseconds here, OpenTelemetry's own Python SDK seconds: nobody means 10 milliseconds.
    return told if told <= _MOST_SECONDS else told / 1000


def _otel_headers(env: Mapping[str, str]) -> dict[str, str]:
    value, source = _otel(env, "HEADERS")
    headers = _pairs(value or "")
    return dict(check_headers(headers, "headers", source))


def _pairs(text: str) -> dict[str, str]:
    """`name=value,name=value`, percent-encoded: the form of W3C Baggage, which OpenTelemetry's variables have."""
    pairs = {}
    for item in text.split(","):
        name, separator, value = item.partition("=")
        if separator and name.strip():
            pairs[unquote(name.strip())] = unquote(value.strip())
    return pairs
