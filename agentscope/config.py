"""The configuration of a tracker: one frozen value. Each option is taken from its argument, else its variable, else its default.

`agentscope.options.OPTIONS` has the options themselves, and `help(agentscope.create_tracker)` shows them. The variable of an
option is `AGENTSCOPE_` and its name in capitals, such as `AGENTSCOPE_BATCH_SIZE`. A value that cannot work raises
`ConfigurationError` with the option, the source of the value and the allowed values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypedDict

from agentscope.exporters import CustomExporter, Destination
from agentscope.exporters.custom import why_not_an_exporter
from agentscope.options import NO_HEADERS, OPTIONS, Check, OnDrop, Redact, bad, choice, shown

if TYPE_CHECKING:
    from agentscope.exporters import EventExporter

__all__ = ["CHECKS", "Config", "Options", "SharedOptions", "TrackerOptions", "env_name", "from_env"]


ProtocolName = Literal["agentscope", "otlp"]


class SharedOptions(TypedDict, total=False):
    """The keyword arguments of both faces. None is the same as not given."""

    batch_size: int | None
    flush_interval: float | None
    timeout: float | None
    fail_silently: bool | None
    enabled: bool | None
    sample_rate: float | None
    max_queue_bytes: int | None
    max_batch_bytes: int | None
    max_payload_bytes: int | None
    max_connections: int | None
    shutdown_timeout: float | None
    max_retries: int | None
    retry_delay: float | None
    headers: Mapping[str, str] | None
    service_name: str | None
    exporters: Sequence[Destination | EventExporter] | None
    spool_dir: str | os.PathLike[str] | None
    spool_max_bytes: int | None
    flush_on_signal: bool | None
    redact: Redact | None
    on_drop: OnDrop | None


class TrackerOptions(SharedOptions, total=False):
    """The keyword arguments of `create_tracker` after the key and the address."""

    protocol: ProtocolName | None
    endpoint: str | None


class Options(TrackerOptions, total=False):
    """The keyword arguments of `Tracker`."""

    api_key: str | None
    base_url: str | None


def _default(option: str) -> Any:
    return OPTIONS[option].default


@dataclass(frozen=True)
class Config:
    """Every option of a tracker, as `help(agentscope.create_tracker)` describes them. Times are in seconds, sizes in bytes."""

    api_key: str | None = None
    base_url: str = _default("base_url")
    batch_size: int = _default("batch_size")
    flush_interval: float = _default("flush_interval")
    timeout: float = _default("timeout")
    fail_silently: bool = _default("fail_silently")
    enabled: bool = _default("enabled")
    sample_rate: float = _default("sample_rate")
    max_queue_bytes: int = _default("max_queue_bytes")
    max_batch_bytes: int = _default("max_batch_bytes")
    max_payload_bytes: int = _default("max_payload_bytes")
    max_connections: int = _default("max_connections")
    shutdown_timeout: float = _default("shutdown_timeout")
    max_retries: int | None = None
    retry_delay: float = _default("retry_delay")
    protocol: str = _default("protocol")
    endpoint: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    service_name: str = ""
    exporters: tuple[Destination, ...] = ()
    spool_dir: str = ""
    spool_max_bytes: int = _default("spool_max_bytes")
    flush_on_signal: bool = _default("flush_on_signal")
    redact: Redact = True
    on_drop: OnDrop | None = None

    def __repr__(self) -> str:
        hidden = {"api_key", "headers", "on_drop"}
        if not isinstance(self.redact, bool):  # patterns may spell out what they hide
            hidden.add("redact")
        values = [(item.name, getattr(self, item.name)) for item in fields(self)]
        shown = [
            f"{name}={value!r}" if name not in hidden else f"{name}={'…' if value else None}" for name, value in values
        ]
        return f"Config({', '.join(shown)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Config holds a key and is not pickled: make it in the process that uses it")

    @classmethod
    def load(cls, options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Config:
        """Check `options`, where None means not given, and take the others from `environ` and the defaults.

        Raises `ConfigurationError` for the first option that cannot work.
        """
        values: dict[str, Any] = {}
        for name, option in OPTIONS.items():
            value, source = options.get(name), "argument"
            if value is None and option.from_environment:
                text = from_env(name, environ)
                if text is not None:
                    value, source = text, f"environment variable {env_name(name)}"
            if value is not None:
                values[name] = CHECKS[name](value, name, source)
        config = cls(**values)
        if not config.enabled:
            return config
        chosen = config._destinations({name for name, value in options.items() if value is not None})
        return replace(config, exporters=tuple(item.checked(environ) for item in chosen))

    @property
    def address(self) -> str:
        """The addresses of all destinations, joined by spaces."""
        return " ".join(exporter.identity for exporter in self.exporters) or self.base_url

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must never be sent as part of an event."""
        known = tuple(secret for exporter in self.exporters for secret in exporter.secrets)
        return known or ((self.api_key,) if self.api_key else ())

    @property
    def family(self) -> str:
        """The kind of the destination; empty if there are several."""
        return type(self.exporters[0]).__name__ if len(self.exporters) == 1 else ""

    @property
    def announces(self) -> bool:
        """The start of a step has to be sent before the steps inside it."""
        return any(exporter.ANNOUNCES_STEPS for exporter in self.exporters)

    def _destinations(self, arguments: Set[str]) -> tuple[Destination, ...]:
        """Return the destinations, unchecked. Raises `ConfigurationError` for an argument that no destination uses.

        Unused variables are allowed, since another program may use them.
        """
        if self.exporters:
            used = {name for exporter in self.exporters for name in exporter.INHERITED}
            _refuse(arguments - used, {"protocol"}, "with exporters, which have it themselves")
            return tuple(
                replace(item, **{name: getattr(self, name) for name in item.INHERITED if getattr(item, name) is None})
                for item in self.exporters
            )
        kind = _PROTOCOLS[self.protocol]
        if self.protocol == _default("protocol") or "protocol" in arguments:
            instead = f'with protocol="{self.protocol}", which takes {" and ".join(kind.OPTIONS)}'
            _refuse(arguments - set(kind.OPTIONS), set(), instead)
        return (kind(**{name: getattr(self, name) for name in kind.OPTIONS}),)


def _refuse(arguments: Set[str], others: set[str], instead: str) -> None:
    for option in OPTIONS:
        if option in arguments and (option in others or any(option in kind.OPTIONS for kind in _PROTOCOLS.values())):
            raise bad(option, "argument", f"is not used {instead}")


def env_name(option: str) -> str:
    """Return the environment variable of an option."""
    return "AGENTSCOPE_" + option.upper()


def from_env(option: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the option's text in the environment; None if it is not set there, or empty."""
    return (os.environ if environ is None else environ).get(env_name(option)) or None


def _exporters(value: Any, option: str, source: str) -> tuple[Destination, ...]:
    exporters: list[Destination] = []
    for item in OPTIONS["exporters"].check(value, option, source):
        if isinstance(item, Destination) and item.ADDRESS:
            exporters.append(item)
        elif isinstance(item, CustomExporter) or (problem := why_not_an_exporter(item)) is None:
            exporters.append(item if isinstance(item, CustomExporter) else CustomExporter(target=item))
        else:
            raise bad(option, source, f"{_EXPECTED}, not {shown(item)}{problem}")
    return tuple(exporters)


_EXPECTED = "must be a list of AgentScopeExporter(…), another exporter of this package, or an object with export(events, timeout)"


_PROTOCOLS = {kind.PROTOCOL: kind for kind in Destination.KINDS.values() if kind.PROTOCOL}
"""The destinations that the option `protocol` chooses from."""

CHECKS: dict[str, Check] = {
    **{name: option.check for name, option in OPTIONS.items()},
    "protocol": choice(*_PROTOCOLS),
    "exporters": _exporters,
}
"""The check of each option: (value, option, source) -> the value in its type, or `ConfigurationError`."""
