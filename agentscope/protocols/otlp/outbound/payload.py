"""Payload fields of an event on their way into a span: JSON that was encoded at the call, parsed only where that is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from agentscope.protocols.json_encode import dumps

LARGEST_PARSED = 64 << 10
"""Bytes. What is larger is passed on as the text it is: this runs in the worker, and every microsecond holds the GIL."""
LARGEST_COPIED = 8 << 10
"""Bytes of a payload that is written under the names of several conventions. Gzip sees 32 KiB back and folds such copies into
next to nothing; of what is larger there is one."""


class _Unknown:
    """Stands for a value that was not parsed. It is no JSON, so every test for a shape fails on it."""


UNKNOWN: Final = _Unknown()


class Payload:
    """One payload, as text, and as a value once that is asked for."""

    __slots__ = ("_value", "data", "text")

    def __init__(self, given: object) -> None:
        """Raises what `UNENCODABLE` names for bytes that are not UTF-8, or a value that is no JSON (a hook may put one there)."""
        self.data = given if type(given) is bytes else dumps(given).encode()
        self.text = self.data.decode()
        self._value: Any = self

    @property
    def value(self) -> Any:
        """The parsed payload, or UNKNOWN if it is large or no JSON."""
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
        """The string that the payload is, or None if it is something else, or should not stand there bare."""
        if self.data[:1] != b'"':
            return None
        value = self.value
        if type(value) is not str or "\0" in value:  # many a database refuses NUL
            return None
        try:
            value.encode()
        except UnicodeEncodeError:  # lone surrogates, which only JSON can tell
            return None
        return value

    def mentions(self, name: bytes) -> bool:
        """Whether it may hold a key of this name: a look at the bytes is a tenth of the price of parsing."""
        return b'"%b"' % name in self.data

    @property
    def is_small(self) -> bool:
        """Whether copies of it cost little."""
        return len(self.data) <= LARGEST_COPIED


NOTHING = Payload(b"null")


def first(objects: tuple[Mapping[str, Any], ...], *names: str) -> Any:
    """The first value, other than None, under one of these names in one of these objects; None if there is none."""
    return next((value for each in objects for name in names if (value := each.get(name)) is not None), None)


def first_text(objects: tuple[Mapping[str, Any], ...], *names: str) -> str | None:
    """The same, for a text that is not empty."""
    return next((v for each in objects for name in names if type(v := each.get(name)) is str and v), None)
