"""Checks of options: (value, option, source) -> the value in its type, or a `ConfigurationError` that names all three."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from .errors import ConfigurationError

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def check_api_key(value: object, source: str = "argument", option: str = "api_key") -> str:
    """The key, without surrounding blanks. The value itself is never shown."""
    if not isinstance(value, str):
        raise bad(option, source, f"must be a str, not {type(value).__name__}")
    key = value.strip(" \t")
    if not key:
        raise bad(option, source, "is empty")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise bad(option, source, "must be one line of printable ASCII without blanks")
    return key


def check_base_url(value: object, source: str = "argument", option: str = "base_url") -> str:
    """An http or https URL with a host, no credentials, no query; a path is kept, a trailing slash is not."""
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
    return ConfigurationError(f"{option} (from {source}) {what}")


def shown(value: object) -> str:
    if type(value) is str:
        written = repr(value[:60])
        return written if len(written) <= 62 else f"{written[:61]}…"
    if type(value) is int and value.bit_length() > 64:
        return f"one of {value.bit_length()} bits"  # Python itself refuses to print very long ones
    return repr(value) if type(value) in (int, float, bool) else type(value).__name__


def integer(lowest: int, highest: int) -> Callable[[Any, str, str], int]:
    def check(value: Any, option: str, source: str) -> int:
        given: Any = value
        if isinstance(value, str):
            given = int(value) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value) else None
        if type(given) is not int or not lowest <= given <= highest:
            raise bad(option, source, f"must be a whole number from {lowest} to {highest}, not {shown(value)}")
        return given

    return check


def number(lowest: float, highest: float) -> Callable[[Any, str, str], float]:
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


WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def boolean(value: Any, option: str, source: str) -> bool:
    known = WORDS.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(known, bool):
        raise bad(option, source, f"must be true or false, not {shown(value)}")
    return known


def choice(*allowed: str) -> Callable[[Any, str, str], str]:
    """One of these words."""

    def check(value: Any, option: str, source: str) -> str:
        text = value.strip().lower() if isinstance(value, str) else None
        if text is None or text not in allowed:
            raise bad(option, source, f"must be one of {', '.join(allowed)}, not {shown(value)}")
        return text

    return check


def words(value: Any, option: str, source: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise bad(option, source, f"must be a str that is not empty, not {shown(value)}")
    return value.strip()


def directory(value: Any, option: str, source: str) -> str:
    """The absolute path of a directory, whether it is there or not: the working directory may change."""
    try:
        path = os.fspath(value)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise bad(option, source, f"must be the path of a directory, not {shown(value)}")
    return os.path.abspath(os.path.expanduser(path))


def check_headers(value: Any, option: str, source: str) -> Mapping[str, str]:
    """Names and values that HTTP can carry. The values are never shown.

    From the environment they are a text: `name=value,name=value`.
    """
    if isinstance(value, str):
        value = dict(item.split("=", 1) for item in value.split(",") if "=" in item)
    if not isinstance(value, Mapping):
        raise bad(option, source, f"must be a mapping of header names to values, not {type(value).__name__}")
    headers = {}
    for header, text in value.items():
        if not isinstance(header, str) or not _HEADER_NAME.fullmatch(header.strip()):
            raise bad(option, source, "has a name that is not a header's")
        if not isinstance(text, str) or not text.isascii() or not text.isprintable():
            raise bad(option, source, f"has a value for {header.strip()} that is not one line of printable ASCII")
        headers[header.strip()] = text.strip()
    return MappingProxyType(headers)
