"""Configuration: one frozen value. Each option comes from its argument, else its environment variable, else its default.

The environment variable of an option is `AGENTSCOPE_` and its name in capitals: `AGENTSCOPE_BATCH_SIZE`. A value that
cannot work raises `ConfigurationError`, which names the option, where the value came from and what is allowed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from typing import Any, NoReturn

from agentscope.exporters.agentscope import AgentScopeExporter
from agentscope.exporters.base import NO_HEADERS, OVERRIDES, Exporter
from agentscope.exporters.otlp import OTLPExporter
from agentscope.exporters.voltagent import VoltAgentExporter

from ._validation import (
    WORDS,
    bad,
    boolean,
    check_api_key,
    check_base_url,
    check_headers,
    choice,
    directory,
    integer,
    number,
    words,
)

MiB = 1 << 20

Redact = bool | Callable[[dict[str, Any]], dict[str, Any]] | Sequence["str | re.Pattern[str]"]
"""True: mask secret-named keys. A callable: what it returns is sent. Patterns: matching text is masked as well."""

OnDrop = Callable[[str, int], object]
"""Called in the worker thread with (reason, number of events) each time events are dropped."""

DEFAULT_BASE_URL = "http://localhost:8000"


@dataclass(frozen=True)
class Config:
    """Every option of a tracker. Times are in seconds, sizes in bytes."""

    api_key: str = ""
    base_url: str = DEFAULT_BASE_URL
    batch_size: int = 2000
    """Events a request carries at most. It goes as soon as 500 wait, and takes along all that have come by then."""
    flush_interval: float = 1.0
    """How long an event waits for company before its batch is sent."""
    timeout: float = 10.0
    """The wall-clock limit of one attempt, from connecting to the last byte of the answer."""
    fail_silently: bool = True
    """False: wrong arguments raise at the call, and failed delivery raises from `flush()` and `shutdown()`."""
    enabled: bool = True
    """False: nothing is recorded, no thread is started, and no key is needed."""
    sample_rate: float = 1.0
    """The share of runs that is recorded, decided by a hash of the run id: all processes agree."""
    max_queue_bytes: int = 60 * MiB
    """What may wait in memory; beyond it events are dropped, and counted as queue_full."""
    max_batch_bytes: int = 4 * MiB
    max_payload_bytes: int = MiB
    """What one payload field may take; larger ones are cut and marked."""
    max_connections: int = 4
    """How many runs are sent at once to a platform that takes one record a request."""
    shutdown_timeout: float = 10.0
    """How long exit may be delayed while the backend keeps acknowledging; without progress it is 2 s at most."""
    max_retries: int | None = None
    """After so many failed attempts in a row a batch is dropped, as retry_limit; None: never, while there is room."""
    retry_delay: float = 0.5
    """The bound of the first wait before another attempt; it doubles with each failure, up to 30 s."""
    protocol: str = "agentscope"
    """`agentscope`, or `otlp` for an OpenTelemetry backend: then `endpoint` and `headers` say where and with which key."""
    endpoint: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    service_name: str = ""
    """What OpenTelemetry backends show as the service; default `OTEL_SERVICE_NAME`."""
    exporters: tuple[Exporter, ...] = ()
    """Several destinations: each event goes to all of them. Then `protocol`, `endpoint` and `headers` may not be given;
    `api_key` and `base_url` are for those `AgentScopeExporter`s that have none of their own."""
    spool_dir: str = ""
    """A directory for what is not delivered yet: accepted events are on disk within 250 ms, and survive `SIGKILL`."""
    spool_max_bytes: int = 512 * MiB
    """What all files in `spool_dir` may take together; beyond it events wait in memory, as without a spool."""
    flush_on_signal: bool = False
    """True: SIGTERM and SIGHUP deliver what there is before they end the process, or call the handler that was there."""
    redact: Redact = True
    on_drop: OnDrop | None = None

    def __repr__(self) -> str:
        shown = []
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("api_key", "headers"):
                value = "…" if value else None
            elif item.name == "redact" and not isinstance(value, bool):
                value = "…"  # patterns may well spell out what they hide
            elif item.name == "on_drop" and value is not None:
                value = "…"
            shown.append(f"{item.name}={value!r}" if value != "…" else f"{item.name}=…")
        return f"Config({', '.join(shown)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Config holds a key and is not pickled: make it in the process that uses it")

    @classmethod
    def load(cls, options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Config:
        """Check `options` (None means not given) and fill the rest from `environ` and the defaults.

        Raises `ConfigurationError` for the first option that cannot work.
        """
        values: dict[str, Any] = {}
        for item in fields(cls):
            value, source = options.get(item.name), "argument"
            if value is None and item.name not in _NOT_IN_ENVIRONMENT:
                text = from_env(item.name, environ)
                if text is not None:
                    value, source = text, f"environment variable {env_name(item.name)}"
            if value is not None:
                values[item.name] = CHECKS[item.name](value, item.name, source)
        config = cls(**values)
        if not config.enabled:
            return config
        config._refuse_unused({name for name, value in options.items() if value is not None})
        return replace(config, exporters=tuple(item.checked(environ) for item in config._destinations()))

    def _inheriting(self, exporter: Exporter) -> Exporter:
        if not isinstance(exporter, AgentScopeExporter):
            return exporter
        same = exporter.base_url or self.base_url
        return replace(exporter, api_key=exporter.api_key or self.api_key, base_url=same)

    @property
    def address(self) -> str:
        """Where everything goes: the URL, or all of them."""
        return " ".join(exporter.url for exporter in self.exporters) or self.base_url

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be sent as part of an event."""
        return tuple(secret for exporter in self.exporters for secret in exporter.secrets) or (self.api_key,)

    @property
    def family(self) -> str:
        """The kind of backend, if there is but one."""
        return type(self.exporters[0]).__name__ if len(self.exporters) == 1 else ""

    @property
    def announces(self) -> bool:
        """Whether the start of a step has to be sent before what is inside it: VoltAgent's backend makes the ids."""
        return any(isinstance(exporter, VoltAgentExporter) for exporter in self.exporters)

    def _refuse_unused(self, arguments: Set[str]) -> None:
        """An argument that says where events go, and would be passed over, is a mistake. The environment may speak to others."""
        if self.exporters:
            inherits = any(isinstance(exporter, AgentScopeExporter) for exporter in self.exporters)
            unused: tuple[str, ...] = (
                "protocol",
                "endpoint",
                "headers",
                *(() if inherits else ("api_key", "base_url")),
            )
            instead = "with exporters, which say it themselves"
        elif self.protocol != "otlp":
            unused, instead = ("endpoint", "headers"), 'without protocol="otlp"'
        elif "protocol" in arguments:
            unused, instead = ("api_key", "base_url"), 'with protocol="otlp": give endpoint, and headers with the key'
        else:
            return
        for option in unused:
            if option in arguments:
                raise bad(option, "argument", f"is not used {instead}")

    def _destinations(self) -> tuple[Exporter, ...]:
        if self.exporters:
            return tuple(map(self._inheriting, self.exporters))
        if self.protocol == "otlp":
            return (OTLPExporter(endpoint=self.endpoint, headers=self.headers),)
        return (AgentScopeExporter(api_key=self.api_key, base_url=self.base_url),)


def env_name(option: str) -> str:
    """The environment variable of an option."""
    return "AGENTSCOPE_" + option.upper()


def from_env(option: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The option's text in the environment; None if it is not set there, or empty."""
    return (os.environ if environ is None else environ).get(env_name(option)) or None


def _redact(value: Any, option: str, source: str) -> Redact:
    if isinstance(value, str) and value.strip().lower() in WORDS:
        return boolean(value, option, source)
    if isinstance(value, bool):
        return value
    if callable(value):
        function: Callable[[dict[str, Any]], dict[str, Any]] = value
        return function
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(map(_is_pattern, value)):
        allowed = "must be True, False, a callable, or a sequence of regular expressions"
        raise bad(option, source, allowed if source == "argument" else "must be true or false")
    for pattern in value:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError):
            raise bad(option, source, "holds a pattern that is not a regular expression") from None
    return tuple(value)


def _is_pattern(value: object) -> bool:
    return isinstance(value.pattern if isinstance(value, re.Pattern) else value, str)


def _on_drop(value: Any, option: str, source: str) -> OnDrop:
    if not callable(value):
        raise bad(option, source, "must be callable with (reason, count)")
    checked: OnDrop = value
    return checked


def _exporters(value: Any, option: str, source: str) -> tuple[Exporter, ...]:
    if (
        not isinstance(value, (list, tuple))
        or not value
        or not all(isinstance(item, (AgentScopeExporter, OTLPExporter, VoltAgentExporter)) for item in value)
    ):
        raise bad(
            option,
            source,
            "must be a list of AgentScopeExporter(…), OTLPExporter(…) or VoltAgentExporter(…), at least one",
        )
    return tuple(value)


_NOT_IN_ENVIRONMENT = frozenset({"on_drop", "exporters"})

CHECKS: dict[str, Callable[[Any, str, str], Any]] = {
    **OVERRIDES,
    "protocol": choice("agentscope", "otlp"),
    "endpoint": lambda value, option, source: check_base_url(value, source, option),
    "headers": check_headers,
    "service_name": words,
    "exporters": _exporters,
    "api_key": lambda value, option, source: check_api_key(value, source, option),
    "base_url": lambda value, option, source: check_base_url(value, source, option),
    "fail_silently": boolean,
    "enabled": boolean,
    "sample_rate": number(0.0, 1.0),
    "max_payload_bytes": integer(256, 16 * MiB),
    "max_connections": integer(1, 64),
    "spool_dir": directory,
    "spool_max_bytes": integer(MiB, 1 << 50),
    "flush_on_signal": boolean,
    "redact": _redact,
    "on_drop": _on_drop,
}
"""One check an option: (value, option, source) -> the value in its type, or `ConfigurationError`."""
