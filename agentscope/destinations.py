"""Where events go: what `exporters=[…]` takes. Values only; `delivery` makes of them what really sends."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, TypeVar
from urllib.parse import unquote

from .checks import (
    check_api_key,
    check_base_url,
    check_headers,
    choice,
    integer,
    number,
    words,
)
from .errors import ConfigurationError

MiB = 1 << 20
TRACES_PATH = "/v1/traces"
DEFAULT_OTLP_URL = "http://localhost:4318"
DEFAULT_VOLTAGENT_URL = "https://api.voltagent.dev"
_MOST_SECONDS = 60
_SECRET_NAME = re.compile(r"auth|key|token|secret|cookie|password|credential|signature", re.IGNORECASE)
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


E = TypeVar("E")


@dataclass(frozen=True, kw_only=True, repr=False)
class Exporter:
    """One destination. What is None here is as the tracker has it. Times are in seconds, sizes in bytes.

    A tracker with several exporters gives each event to all of them; each has a queue, a retry and counts of its own.
    """

    batch_size: int | None = None
    flush_interval: float | None = None
    timeout: float | None = None
    max_queue_bytes: int | None = None
    max_batch_bytes: int | None = None
    max_retries: int | None = None
    retry_delay: float | None = None
    shutdown_timeout: float | None = None

    SECRETS: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        shown = [
            f"{item.name}=…" if item.name in self.SECRETS else f"{item.name}={getattr(self, item.name)!r}"
            for item in fields(self)
            if getattr(self, item.name) not in (None, "", NO_HEADERS)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a key and is not pickled: make it in the process that uses it")

    def __copy__(self: E) -> E:
        return self

    def __deepcopy__(self: E, memo: object) -> E:
        return self

    def checked(self, environ: Mapping[str, str] | None = None) -> Exporter:
        """The same with its values checked, and what is missing taken from the environment.

        Raises `ConfigurationError` for the first value that cannot work.
        """
        values: dict[str, Any] = {
            name: check(getattr(self, name), name, "argument")
            for name, check in OVERRIDES.items()
            if getattr(self, name) is not None
        }
        return replace(self, **values)

    def overrides(self) -> dict[str, Any]:
        """The options of a tracker that this destination sets for itself."""
        return {name: value for name in OVERRIDES if (value := getattr(self, name)) is not None}

    @property
    def url(self) -> str:
        """Where it goes."""
        raise NotImplementedError

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be sent as part of an event."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, repr=False)
class AgentScopeExporter(Exporter):
    """An AgentScope backend, or `agentscope serve`. What is missing is taken from `AGENTSCOPE_API_KEY`, `AGENTSCOPE_BASE_URL`."""

    api_key: str = ""
    base_url: str = ""

    SECRETS: ClassVar[tuple[str, ...]] = ("api_key",)

    def checked(self, environ: Mapping[str, str] | None = None) -> AgentScopeExporter:
        own = super().checked(environ)
        assert isinstance(own, AgentScopeExporter)
        key, key_source = _given(own.api_key, "AGENTSCOPE_API_KEY", environ)
        url, url_source = _given(own.base_url, "AGENTSCOPE_BASE_URL", environ)
        if not key:
            raise missing_key()
        return replace(
            own,
            api_key=check_api_key(key, key_source),
            base_url=check_base_url(url or "http://localhost:8000", url_source),
        )

    @property
    def url(self) -> str:
        return self.base_url

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.api_key,)


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


@dataclass(frozen=True, kw_only=True, repr=False)
class VoltAgentExporter(Exporter):
    """VoltAgent's backend: OTLP where it takes that, else the history calls.

    What is missing is taken from `VOLTAGENT_BASE_URL`, `VOLTAGENT_PUBLIC_KEY` and `VOLTAGENT_SECRET_KEY`.
    """

    base_url: str = ""
    """Default `https://api.voltagent.dev`."""
    public_key: str = ""
    secret_key: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    """Sent with each request besides the keys."""

    SECRETS: ClassVar[tuple[str, ...]] = ("public_key", "secret_key", "headers")

    def checked(self, environ: Mapping[str, str] | None = None) -> VoltAgentExporter:
        own = super().checked(environ)
        assert isinstance(own, VoltAgentExporter)
        url, url_source = _given(own.base_url, "VOLTAGENT_BASE_URL", environ)
        keys: dict[str, Any] = {}
        for name in ("public_key", "secret_key"):
            key, source = _given(getattr(own, name), f"VOLTAGENT_{name.upper()}", environ)
            if not key:
                raise ConfigurationError(
                    f"{name} is missing: pass {name}=… or set VOLTAGENT_{name.upper()} "
                    "(a local receiver without a key takes any non-empty one)"
                )
            keys[name] = check_api_key(key, source, name)
        return replace(
            own,
            **keys,
            base_url=check_base_url(url or DEFAULT_VOLTAGENT_URL, url_source),
            headers=check_headers(own.headers, "headers", "argument"),
        )

    @property
    def url(self) -> str:
        return self.base_url

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.secret_key, self.public_key)


OVERRIDES = {
    "batch_size": integer(1, 10_000),
    "flush_interval": number(0.0, 3600.0),
    "timeout": number(0.05, 600.0),
    "max_queue_bytes": integer(64 * 1024, 64 << 30),
    "max_batch_bytes": integer(1024, 30 * MiB),
    "max_retries": integer(0, 1_000_000),
    "retry_delay": number(0.0, 60.0),
    "shutdown_timeout": number(0.0, 600.0),
}
"""One check an option that every destination may have its own value of."""


def missing_key() -> ConfigurationError:
    return ConfigurationError(
        "api_key is missing: pass api_key=… or set AGENTSCOPE_API_KEY "
        "(a local receiver without a key takes any non-empty one)"
    )


def service_name(given: str | None, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The resource that spans come from: `OTEL_RESOURCE_ATTRIBUTES`, under `OTEL_SERVICE_NAME`, under what was given."""
    env = os.environ if environ is None else environ
    named = given or env.get("OTEL_SERVICE_NAME")
    resource = {"service.name": "unknown_service:python", **_pairs(env.get("OTEL_RESOURCE_ATTRIBUTES", ""))}
    return {**resource, "service.name": named} if named else resource


def _given(value: str, variable: str, environ: Mapping[str, str] | None) -> tuple[str, str]:
    if value:
        return value, "argument"
    return (os.environ if environ is None else environ).get(variable, ""), f"environment variable {variable}"


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
