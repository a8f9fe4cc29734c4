"""The options of a tracker: type, default, check and description of each, in one table; and the checks.

A check takes (value, option, source) and returns the value in its type, or raises a `ConfigurationError` that names all three.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from .errors import ConfigurationError

MiB = 1 << 20
DEFAULT_BASE_URL = "http://localhost:8000"
NO_HEADERS: Mapping[str, str] = MappingProxyType({})

Redact = bool | Callable[[dict[str, Any]], dict[str, Any]] | Sequence["str | re.Pattern[str]"]
"""True: values under secret names are masked. A callable: its result is sent. Patterns: matching text is masked as well."""

OnDrop = Callable[[str, int], object]
"""Called in the worker thread with (reason, number of events) each time events are dropped."""

Check = Callable[[Any, str, str], Any]

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Option(NamedTuple):
    """One option of a tracker."""

    type: str
    default: Any
    check: Check
    text: str
    """Its effect, with the unit and the special values."""
    from_environment: bool = True


def check_api_key(value: object, option: str = "api_key", source: str = "argument") -> str:
    """Return the key without surrounding blanks and line ends, which files and pipes add. The error never holds the key."""
    if not isinstance(value, str):
        raise bad(option, source, f"must be a str, not {type(value).__name__}")
    key = value.strip(" \t\r\n")
    if not key:
        raise bad(option, source, "is empty")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise bad(option, source, "must be one line of printable ASCII without blanks")
    return key


def check_base_url(value: object, option: str = "base_url", source: str = "argument") -> str:
    """Return an http or https URL that has a host, no credentials and no query. A path is kept, a trailing slash is not."""
    from urllib.parse import urlsplit  # `import agentscope` does not need it

    allowed = 'must be an http:// or https:// URL with a host, such as "http://localhost:8000"'
    if not isinstance(value, str):
        raise bad(option, source, f"{allowed}, not {type(value).__name__}")
    url = value.strip()
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise bad(option, source, allowed) from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise bad(option, source, allowed)
    if any(c.isspace() or not c.isprintable() for c in url) or "\\" in url:
        raise bad(option, source, f"{allowed}; blanks and control characters are not allowed")
    if parts.username is not None or parts.password is not None:
        raise bad(option, source, "must not carry a user name or password; the key goes into api_key")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise bad(option, source, "must not have a query or a fragment")
    return url.rstrip("/")


def bad(option: str, source: str, what: str) -> ConfigurationError:
    """Make the error for an option whose value cannot work."""
    return ConfigurationError(f"{option} (from {source}) {what}")


def shown(value: object) -> str:
    """Write a wrong value for an error: numbers and short texts as they are, anything else by its type."""
    if type(value) is str:
        written = repr(value[:60])
        return written if len(written) <= 62 else f"{written[:61]}…"
    if type(value) is int and value.bit_length() > 64:
        return f"one of {value.bit_length()} bits"  # Python itself refuses to print very long ones
    return repr(value) if type(value) in (int, float, bool) else type(value).__name__


def integer(lowest: int, highest: int) -> Callable[[Any, str, str], int]:
    """Make a check for a whole number in this range."""

    def check(value: Any, option: str, source: str) -> int:
        given: Any = value
        if isinstance(value, str):
            given = int(value) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value) else None
        if type(given) is not int or not lowest <= given <= highest:
            raise bad(option, source, f"must be a whole number from {lowest} to {highest}, not {shown(value)}")
        return given

    return check


def number(lowest: float, highest: float) -> Callable[[Any, str, str], float]:
    """Make a check for a number in this range."""

    def check(value: Any, option: str, source: str) -> float:
        given: Any = value
        if isinstance(value, str):
            try:
                given = float(value)
            except ValueError:
                given = None
        if type(given) not in (int, float) or not lowest <= given <= highest:  # NaN is neither
            raise bad(option, source, f"must be a number from {lowest:g} to {highest:g}, not {shown(value)}")
        return float(given)

    return check


WORDS = {**dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off"), False)}


def boolean(value: Any, option: str, source: str) -> bool:
    """Return a bool, which the environment writes as one of `WORDS`."""
    known = WORDS.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(known, bool):
        raise bad(option, source, f"must be true or false, not {shown(value)}")
    return known


def choice(*allowed: str) -> Callable[[Any, str, str], str]:
    """Make a check for one of these words."""

    def check(value: Any, option: str, source: str) -> str:
        text = value.strip().lower() if isinstance(value, str) else None
        if text is None or text not in allowed:
            raise bad(option, source, f"must be one of {', '.join(allowed)}, not {shown(value)}")
        return text

    return check


def words(value: Any, option: str, source: str) -> str:
    """Return a text that is not empty, without surrounding blanks."""
    if not isinstance(value, str) or not value.strip():
        raise bad(option, source, f"must be a str that is not empty, not {shown(value)}")
    return value.strip()


def directory(value: Any, option: str, source: str) -> str:
    """Return the absolute path of a directory, which need not exist. The working directory may change later."""
    try:
        path = os.fspath(value)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise bad(option, source, f"must be the path of a directory, not {shown(value)}")
    return os.path.abspath(os.path.expanduser(path.rstrip("\r\n")))


def check_headers(value: Any, option: str, source: str) -> Mapping[str, str]:
    """Return header names and values that HTTP can carry. The error never holds a value.

    The environment writes them as `name=value,name=value`.
    """
    if isinstance(value, str):
        value = header_pairs(value, option, source)
    if not isinstance(value, Mapping):
        raise bad(option, source, f"must be a mapping of header names to values, not {type(value).__name__}")
    headers = {}
    for header, text in value.items():
        if not isinstance(header, str) or not _HEADER_NAME.fullmatch(header.strip()):
            raise bad(option, source, "has a name that is not a header's")
        line = text.strip(" \t\r\n") if isinstance(text, str) else "\n"
        if not line.isascii() or not line.isprintable():
            raise bad(option, source, f"has a value for {header.strip()} that is not one line of printable ASCII")
        headers[header.strip()] = line
    return MappingProxyType(headers)


def header_pairs(text: str, option: str, source: str) -> dict[str, str]:
    """Parse `name=value,name=value`, where `name: value` is understood as well. The error never holds a part of the text."""
    pairs = {}
    for item in filter(str.strip, text.split(",")):
        found = re.fullmatch(r"([^=:]*)[=:](.*)", item, re.DOTALL)
        if found is None:  # ignoring it would send requests without a key
            raise bad(option, source, "must be name=value,name=value, with a comma inside of a value written as %2C")
        pairs[found[1].strip()] = found[2].strip()
    return pairs


def redaction(value: Any, option: str, source: str) -> Redact:
    """Return a switch, a callable, or a tuple of patterns that compile."""
    if isinstance(value, str) and value.strip().lower() in WORDS:
        return boolean(value, option, source)
    if isinstance(value, bool):
        return value
    if callable(value):
        function: Callable[[dict[str, Any]], dict[str, Any]] = value
        return function
    patterns = () if isinstance(value, str) or not isinstance(value, Sequence) else value
    texts = [item.pattern if isinstance(item, re.Pattern) else item for item in patterns]
    if patterns is not value or not all(isinstance(text, str) for text in texts):
        allowed = "must be True, False, a callable, or a sequence of regular expressions"
        raise bad(option, source, allowed if source == "argument" else "must be true or false")
    for pattern in value:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError):
            raise bad(option, source, "holds a pattern that is not a regular expression") from None
    return tuple(value)


def drop_hook(value: Any, option: str, source: str) -> OnDrop:
    """Return a callable."""
    if not callable(value):
        raise bad(option, source, "must be callable with (reason, count)")
    checked: OnDrop = value
    return checked


def destinations(value: Any, option: str, source: str) -> tuple[Any, ...]:
    """Return exporters as a tuple. `agentscope.config` checks each, as this module knows none."""
    if not isinstance(value, (list, tuple)) or not value:
        raise bad(option, source, f"must be a list of exporters, at least one, not {shown(value)}")
    return tuple(value)


def _whole(default: int | None, lowest: int, highest: int, text: str) -> Option:
    return Option("int", default, integer(lowest, highest), text)


def _number(default: float, lowest: float, highest: float, text: str) -> Option:
    return Option("float", default, number(lowest, highest), text)


def _switch(default: bool, text: str) -> Option:
    return Option("bool", default, boolean, text)


OPTIONS: dict[str, Option] = {
    "api_key": Option(
        "str", None, check_api_key, "The key of the backend. Only a receiver on this machine needs none."
    ),
    "base_url": Option("str", DEFAULT_BASE_URL, check_base_url, "The address of the backend."),
    "batch_size": _whole(2000, 1, 10_000, "Most events in one request. A request is sent as soon as 500 events wait."),
    "flush_interval": _number(1.0, 0.0, 3600.0, "Seconds that an event waits for others before its batch is sent."),
    "timeout": _number(10.0, 0.05, 600.0, "Seconds for one attempt, from connecting to the last byte of the answer."),
    "fail_silently": _switch(
        True, "False: wrong arguments raise at the call, and failed delivery raises from flush() and shutdown()."
    ),
    "enabled": _switch(True, "False: nothing is recorded, no thread is started and no key is needed."),
    "sample_rate": _number(
        1.0, 0.0, 1.0, "Share of runs that are recorded, 0 to 1. The run's id decides, so all processes agree."
    ),
    "max_queue_bytes": _whole(
        60 * MiB, 1 << 16, 64 << 30, "Bytes of events that wait in memory. More are dropped and counted as queue_full."
    ),
    "max_batch_bytes": _whole(4 * MiB, 1024, 30 * MiB, "Bytes of events in one request."),
    "max_payload_bytes": _whole(
        MiB, 256, 16 * MiB, "Bytes of one payload field. A larger one is cut and marked as truncated."
    ),
    "max_connections": _whole(
        4, 1, 64, "Runs that are sent at the same time to a platform that takes one record a request."
    ),
    "shutdown_timeout": _number(
        10.0, 0.0, 600.0, "Seconds that exit waits while the backend acknowledges events; 2 s without progress."
    ),
    "max_retries": _whole(
        None, 0, 1_000_000, "Failed attempts in a row after which a batch is dropped, as retry_limit. None: no limit."
    ),
    "retry_delay": _number(
        0.5, 0.0, 60.0, "Seconds: upper bound of the first wait before a retry. Each failure doubles it, up to 30 s."
    ),
    "protocol": Option(
        "str",
        "agentscope",
        words,
        'Kind of backend: "agentscope", or "otlp" (OpenTelemetry; `endpoint` and `headers`).',
    ),
    "endpoint": Option("str", "", check_base_url, 'The address of the backend, with protocol="otlp".'),
    "headers": Option(
        "Mapping[str, str]", NO_HEADERS, check_headers, 'Headers of each request, such as a key, with protocol="otlp".'
    ),
    "service_name": Option(
        "str", "", words, "Name of the service in OpenTelemetry backends; without it OTEL_SERVICE_NAME, if that is set."
    ),
    "exporters": Option(
        "Sequence[Destination | EventExporter]",
        (),
        destinations,
        "Several destinations, each of which gets every event; `protocol`, `endpoint` and `headers` may not be given then.",
        from_environment=False,
    ),
    "spool_dir": Option(
        "str | os.PathLike[str]", "", directory, "Directory for undelivered events, which survive SIGKILL after 250 ms."
    ),
    "spool_max_bytes": _whole(
        512 * MiB, MiB, 1 << 50, "Bytes of all files in `spool_dir`. More events wait in memory, as without a spool."
    ),
    "flush_on_signal": _switch(
        False, "True: SIGTERM and SIGHUP deliver queued events before they end the process or call the earlier handler."
    ),
    "redact": Option(
        "bool | Callable | Sequence[str | re.Pattern[str]]",
        True,
        redaction,
        "True: values under secret names are masked. A callable gets each event's fields and returns those to send. "
        "Patterns: matching text is masked as well.",
    ),
    "on_drop": Option(
        "Callable[[str, int], object]",
        None,
        drop_hook,
        "Called in the worker thread with (reason, number of events) when events are dropped.",
        from_environment=False,
    ),
}
"""Every option of a tracker, in the order in which it is documented."""


def describe() -> str:
    """Write the table for a docstring: name, type, default and text of each option."""
    return "\n".join(
        f"    {name}: {kind} = {dict(default) if default is NO_HEADERS else default!r}\n        {text}"
        for name, (kind, default, _, text, _) in OPTIONS.items()
    )


def check_names(call: str, options: Mapping[str, Any], allowed: Mapping[str, Any] = OPTIONS) -> None:
    """Raise the usual TypeError for an option that does not exist."""
    for name in options:
        if name not in allowed:
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")
