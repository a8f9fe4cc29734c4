"""Configuration: one frozen value. Each option comes from its argument, else its environment variable, else its default.

The environment variable of an option is `AGENTSCOPE_` and its name in capitals: `AGENTSCOPE_BATCH_SIZE`. A value that
cannot work raises `ConfigurationError`, which names the option, where the value came from and what is allowed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from .errors import ConfigurationError

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
    batch_size: int = 500
    """Events a request carries at most."""
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
    max_queue_bytes: int = 48 * MiB
    """What may wait in memory; beyond it events are dropped, and counted as queue_full."""
    max_batch_bytes: int = 4 * MiB
    max_payload_bytes: int = MiB
    """What one payload field may take; larger ones are cut and marked."""
    max_connections: int = 4
    """How many runs are sent at once to a platform that takes one record a request."""
    shutdown_timeout: float = 10.0
    """How long exit may be delayed while the backend keeps acknowledging; without progress it is 2 s at most."""
    redact: Redact = True
    on_drop: OnDrop | None = None

    def __repr__(self) -> str:
        shown = []
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "api_key":
                value = "…" if value else None
            elif item.name == "redact" and not isinstance(value, bool):
                value = "…"  # patterns may well spell out what they hide
            elif item.name == "on_drop" and value is not None:
                value = "…"
            shown.append(f"{item.name}={value!r}" if value != "…" else f"{item.name}=…")
        return f"Config({', '.join(shown)})"

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
        if not values.get("api_key") and values.get("enabled", True):
            raise ConfigurationError(
                f"api_key is missing: pass api_key=… or set {env_name('api_key')} "
                "(a local receiver without a key takes any non-empty one)"
            )
        return cls(**values)


def env_name(option: str) -> str:
    """The environment variable of an option."""
    return "AGENTSCOPE_" + option.upper()


def from_env(option: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The option's text in the environment; None if it is not set there, or empty."""
    return (os.environ if environ is None else environ).get(env_name(option)) or None


def check_api_key(value: object, source: str = "argument", option: str = "api_key") -> str:
    """The key, without surrounding blanks. The value itself is never shown."""
    if not isinstance(value, str):
        raise _bad(option, source, f"must be a str, not {type(value).__name__}")
    key = value.strip(" \t")
    if not key:
        raise _bad(option, source, "is empty")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise _bad(option, source, "must be one line of printable ASCII without blanks")
    return key


def check_base_url(value: object, source: str = "argument", option: str = "base_url") -> str:
    """An http or https URL with a host, no credentials, no query; a path is kept, a trailing slash is not."""
    allowed = 'must be an http:// or https:// URL with a host, such as "http://localhost:8000"'
    if not isinstance(value, str):
        raise _bad(option, source, f"{allowed}, not {type(value).__name__}")
    url = value.strip()
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise _bad(option, source, allowed) from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise _bad(option, source, allowed)
    if any(c.isspace() or not c.isprintable() for c in url) or "\\" in url:
        raise _bad(option, source, f"{allowed}; blanks and control characters are not allowed")
    if parts.username is not None or parts.password is not None:
        raise _bad(option, source, "must not carry a user name or password; the key goes into api_key")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise _bad(option, source, "must not have a query or a fragment")
    return url.rstrip("/")


def _bad(option: str, source: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"{option} (from {source}) {what}")


def _shown(value: object) -> str:
    if type(value) is str:
        return repr(value[:60])
    if type(value) is int and value.bit_length() > 64:
        return f"one of {value.bit_length()} bits"  # Python itself refuses to print very long ones
    return repr(value) if type(value) in (int, float, bool) else type(value).__name__


def _integer(lowest: int, highest: int) -> Callable[[Any, str, str], int]:
    def check(value: Any, option: str, source: str) -> int:
        number: Any = value
        if isinstance(value, str):
            number = int(value) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value) else None
        if type(number) is not int or not lowest <= number <= highest:
            raise _bad(option, source, f"must be a whole number from {lowest} to {highest}, not {_shown(value)}")
        return number

    return check


def _number(lowest: float, highest: float) -> Callable[[Any, str, str], float]:
    def check(value: Any, option: str, source: str) -> float:
        number: Any = value
        if isinstance(value, str):
            try:
                number = float(value)
            except ValueError:
                number = None
        if type(number) not in (int, float) or not lowest <= number <= highest:  # NaN is neither
            raise _bad(option, source, f"must be a number from {lowest:g} to {highest:g}, not {_shown(value)}")
        return float(number)

    return check


_WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def _boolean(value: Any, option: str, source: str) -> bool:
    known = _WORDS.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(known, bool):
        raise _bad(option, source, f"must be true or false, not {_shown(value)}")
    return known


def _redact(value: Any, option: str, source: str) -> Redact:
    if isinstance(value, str) and value.strip().lower() in _WORDS:
        return _boolean(value, option, source)
    if isinstance(value, bool):
        return value
    if callable(value):
        function: Callable[[dict[str, Any]], dict[str, Any]] = value
        return function
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(map(_is_pattern, value)):
        allowed = "must be True, False, a callable, or a sequence of regular expressions"
        raise _bad(option, source, allowed if source == "argument" else "must be true or false")
    for pattern in value:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError):
            raise _bad(option, source, "holds a pattern that is not a regular expression") from None
    return tuple(value)


def _is_pattern(value: object) -> bool:
    return isinstance(value.pattern if isinstance(value, re.Pattern) else value, str)


def _on_drop(value: Any, option: str, source: str) -> OnDrop:
    if not callable(value):
        raise _bad(option, source, "must be callable with (reason, count)")
    checked: OnDrop = value
    return checked


_NOT_IN_ENVIRONMENT = frozenset({"on_drop"})

CHECKS: dict[str, Callable[[Any, str, str], Any]] = {
    "api_key": lambda value, option, source: check_api_key(value, source, option),
    "base_url": lambda value, option, source: check_base_url(value, source, option),
    "batch_size": _integer(1, 10_000),
    "flush_interval": _number(0.0, 3600.0),
    "timeout": _number(0.05, 600.0),
    "fail_silently": _boolean,
    "enabled": _boolean,
    "sample_rate": _number(0.0, 1.0),
    "max_queue_bytes": _integer(64 * 1024, 64 << 30),
    "max_batch_bytes": _integer(1024, 30 * MiB),
    "max_payload_bytes": _integer(256, 16 * MiB),
    "max_connections": _integer(1, 64),
    "shutdown_timeout": _number(0.0, 600.0),
    "redact": _redact,
    "on_drop": _on_drop,
}
"""One check an option: (value, option, source) -> the value in its type, or `ConfigurationError`."""
