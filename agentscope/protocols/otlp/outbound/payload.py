"""Payload fields of an event for a span: JSON that was encoded at the call, and is parsed only if needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from agentscope.protocols.json_encode import dumps

LARGEST_PARSED = 64 << 10
"""Bytes. A larger payload is not parsed: this code runs in the worker and holds the GIL."""
LARGEST_COPIED = 8 << 10
"""Bytes. A larger payload goes into one attribute, a smaller one into several: gzip removes repetitions within 32 KiB."""


class _Unknown:
    """The value of a payload that was not parsed. It has no JSON type, so every type check fails on it."""


UNKNOWN: Final = _Unknown()


class Payload:
    """One payload: its text, and its value, which is parsed on demand."""

    __slots__ = ("_value", "data", "text")

    def __init__(self, given: object) -> None:
        """Raises one of `UNENCODABLE` for bytes that are not UTF-8, and for a value of a hook that is no JSON."""
        self.data = given if type(given) is bytes else dumps(given).encode()
        self.text = self.data.decode()
        self._value: Any = self

    @property
    def value(self) -> Any:
        """The parsed payload, or UNKNOWN if it is large or invalid."""
        if self._value is self:
            self._value = UNKNOWN
            if len(self.data) <= LARGEST_PARSED:
                try:
                    self._value = json.loads(self.text)
                except (ValueError, RecursionError):
                    pass
        return self._value

    @property
    def object(self) -> Mapping[str, Any]:
        """The parsed payload if it is an object, else an empty one."""
        value = self.value if self.data[:1] == b"{" else None
        return value if isinstance(value, dict) else {}

    @property
    def plain_text(self) -> str | None:
        """The text of a payload that is a JSON string; None for others, and for a text that cannot be an attribute."""
        if self.data[:1] != b'"':
            return None
        value = self.value
        if type(value) is not str or "\0" in value:  # some databases refuse NUL
            return None
        try:
            value.encode()
        except UnicodeEncodeError:  # lone surrogates, which only JSON can hold
            return None
        return value

    def mentions(self, name: bytes) -> bool:
        """Tell if the payload may hold this key. A search in the bytes costs a tenth of parsing."""
        return b'"%b"' % name in self.data

    @property
    def is_small(self) -> bool:
        """True if copies of the payload cost little."""
        return len(self.data) <= LARGEST_COPIED


NOTHING = Payload(b"null")


def first(objects: tuple[Mapping[str, Any], ...], *names: str) -> Any:
    """The first value other than None under one of these names in one of these objects, or None."""
    return next((value for each in objects for name in names if (value := each.get(name)) is not None), None)


def first_text(objects: tuple[Mapping[str, Any], ...], *names: str) -> str | None:
    """The first text that is not empty under one of these names in one of these objects, or None."""
    return next((v for each in objects for name in names if type(v := each.get(name)) is str and v), None)
