"""Where events go: what `exporters=[…]` takes. Values only; `delivery` makes of them what really sends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, TypeVar

from agentscope._validation import integer, number

MiB = 1 << 20
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


def _given(value: str, variable: str, environ: Mapping[str, str] | None) -> tuple[str, str]:
    if value:
        return value, "argument"
    return (os.environ if environ is None else environ).get(variable, ""), f"environment variable {variable}"
