"""The OTLP destination: any OpenTelemetry backend, configured by the standard variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, get_args
from urllib.parse import unquote

from agentscope.options import NO_HEADERS, check_base_url, check_headers, choice, header_pairs, number, words
from agentscope.protocols.agentscope.protocol import BATCH
from agentscope.protocols.base import WireProtocol

from .base import HTTPDestination, Settings
from .http.url import is_loopback

Encoding = Literal["protobuf", "json"]
Compression = Literal["gzip", "none"]
_ENCODINGS: dict[str, Encoding] = {name: name for name in get_args(Encoding)}
_COMPRESSIONS: dict[str, Compression] = {name: name for name in get_args(Compression)}

DEFAULT_OTLP_URL = "http://localhost:4318"
TRACES_PATH = "/v1/traces"
VOLTAGENT_TRACES_PATH = "/api/public/otel/v1/traces"
"""The path of VoltAgent's backend. A receiver takes spans there, too."""

_LONGEST_TIMEOUT = 60
"""Seconds. A larger number in the variable is taken for milliseconds."""
_SECRET_NAME = re.compile(r"auth|key|token|secret|cookie|password|credential|signature", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, repr=False)
class OTLPExporter(HTTPDestination):
    """Any OpenTelemetry backend, over OTLP/HTTP. `VoltAgentExporter` writes the attributes that VoltAgent's backend reads.

    A receiver (`agentscope serve`) announces its batch call. The exporter uses it from then on, so that open runs and steps
    are shown.

    Missing values are taken from the standard variables, those with `_TRACES` first: `OTEL_EXPORTER_OTLP_ENDPOINT`,
    `_HEADERS`, `_TIMEOUT`, `_PROTOCOL`, `_COMPRESSION` and `_CERTIFICATE`.
    https://opentelemetry.io/docs/specs/otel/protocol/exporter/
    """

    endpoint: str = ""
    """The backend's address. `/v1/traces` is appended unless the address ends with it. Default `http://localhost:4318`."""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    """Sent with each request, such as a key. Their values are never shown."""
    encoding: Encoding | None = None
    """`protobuf` (the default) or `json`. If the backend refuses one, the other is tried."""
    compression: Compression | None = None
    """`gzip` or `none`. By default gzip, except to this machine."""
    certificate: str | None = None
    """A file of certificates to trust instead of the usual ones."""

    PROTOCOL: ClassVar[str] = "otlp"
    OPTIONS: ClassVar[tuple[str, ...]] = ("endpoint", "headers")
    ADDRESS: ClassVar[str] = "endpoint"
    SECRETS: ClassVar[tuple[str, ...]] = ("headers",)
    ORDERS_EVENTS: ClassVar[frozenset[str]] = frozenset({BATCH})

    def checked(self, environ: Mapping[str, str] | None = None) -> OTLPExporter:
        own = super().checked(environ)
        env = os.environ if environ is None else environ
        headers, headers_source = _otel(env, "HEADERS")
        compression, where = _otel(env, "COMPRESSION", own.compression)
        check = choice(*_COMPRESSIONS)
        certificate, certificate_source = _otel(env, "CERTIFICATE", own.certificate or None)
        return replace(
            own,
            endpoint=_endpoint(own.endpoint, env),
            headers=check_headers(own.headers, "headers", "argument") or _headers(headers or "", headers_source),
            encoding=_encoding(own.encoding, env),
            compression=None if compression is None else _COMPRESSIONS[check(compression, "compression", where)],
            certificate=None if certificate is None else words(certificate, "certificate", certificate_source),
            timeout=_timeout(own.timeout, env),
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        # The key follows a word such as Bearer. Other headers, such as a tenant's name, hold no secret.
        return tuple(value.rpartition(" ")[2] for name, value in self.headers.items() if _SECRET_NAME.search(name))

    @property
    def trusted_certificates(self) -> str | None:
        return self.certificate

    @property
    def root(self) -> str:
        for path in (VOLTAGENT_TRACES_PATH, TRACES_PATH):
            if self.url.endswith(path):
                return self.url.removesuffix(path)
        return self.url

    def request_headers(self) -> Mapping[str, str]:
        return self.headers

    def protocol(self, settings: Settings) -> WireProtocol:
        from agentscope.protocols.otlp.protocol import OTLPProtocol, OTLPState

        encoding, resource = self.encoding or "protobuf", service_name(settings.service_name)
        compress = not is_loopback(self.url) if self.compression is None else self.compression == "gzip"

        largest = settings.max_batch_bytes
        path = self.url.removeprefix(self.root)
        state = OTLPState(path=path, encoding=encoding, compress=compress, largest_body=largest, resource=resource)
        return self.shared(lambda: OTLPProtocol(state), encoding, compress, *resource.items())


def service_name(given: str | None, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the resource of spans: `OTEL_RESOURCE_ATTRIBUTES`, overridden by `OTEL_SERVICE_NAME`, overridden by `given`."""
    env = os.environ if environ is None else environ
    named = given or env.get("OTEL_SERVICE_NAME")
    resource = {"service.name": "unknown_service:python", **_pairs(env.get("OTEL_RESOURCE_ATTRIBUTES", ""))}
    return {**resource, "service.name": named} if named else resource


def _otel(env: Mapping[str, str], name: str, given: str | None = None) -> tuple[str | None, str]:
    """Return an argument, else the value of a standard variable, the one for traces first; and the source."""
    if given is not None:
        return given, "argument"
    for variable in (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
        value = env.get(variable, "").strip()
        if value:
            return value, f"environment variable {variable}"
    return None, "default"


def endpoint_variable() -> str | None:
    """Return the name of the standard variable that holds the address, if one is set."""
    value, source = _otel(os.environ, "ENDPOINT")
    return None if value is None else source.removeprefix("environment variable ")


def _endpoint(given: str, env: Mapping[str, str]) -> str:
    value, source = _otel(env, "ENDPOINT", given or None)
    url = check_base_url(value or DEFAULT_OTLP_URL, "endpoint", source)
    # By the specification the variable for traces holds the whole address, all others that of the backend.
    return url if url.endswith(TRACES_PATH) or "_TRACES_" in source else url + TRACES_PATH


def _encoding(given: Encoding | None, env: Mapping[str, str]) -> Encoding:
    if given is not None:
        return _ENCODINGS[choice(*_ENCODINGS)(given, "encoding", "argument")]
    value, source = _otel(env, "PROTOCOL")
    checked = choice(*(f"http/{name}" for name in _ENCODINGS))(value or "http/protobuf", "protocol", source)
    return _ENCODINGS[checked.removeprefix("http/")]


def _timeout(given: float | None, env: Mapping[str, str]) -> float | None:
    value, source = _otel(env, "TIMEOUT")
    if given is not None or value is None:
        return given
    told = number(0.05, 600_000)(value, "timeout", source)
    # The specification counts milliseconds, OpenTelemetry's Python SDK seconds. A timeout of 10 ms makes no sense.
    return told if told <= _LONGEST_TIMEOUT else told / 1000


def _headers(text: str, source: str) -> Mapping[str, str]:
    pairs = header_pairs(text, "headers", source)
    return check_headers({unquote(name): unquote(value) for name, value in pairs.items()}, "headers", source)


def _pairs(text: str) -> dict[str, str]:
    """Parse `name=value,name=value` with percent-encoding: W3C Baggage, the form of OpenTelemetry's variables."""
    pairs = {}
    for item in text.split(","):
        name, separator, value = item.partition("=")
        if separator and name.strip():
            pairs[unquote(name.strip())] = unquote(value.strip())
    return pairs
