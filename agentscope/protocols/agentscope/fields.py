"""The check of received fields by type, their bounds, and the normal form of their values.

Every protocol has its fields checked here before they are stored, and so has every event that is read back, since an earlier
version may have stored it. Nothing that is read can then be too large a number to add up, to format or to show.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple, TypeGuard

from agentscope.events import FIELDS, MILLISECONDS, NUMBER, TEXT, TEXTS, TIME, WHOLE
from agentscope.protocols.json_decode import Rejected

MAX_ID = 255
"""The most characters of an id of an event, a run or a step."""
AN_ID = f"a string of 1 to {MAX_ID} characters without NUL"

_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:([Zz])|([+-])([0-9]{2}):?([0-9]{2}))?"
)
_NORMAL_LENGTH = len("2026-01-31T12:00:00.000000Z")


def is_id(value: object) -> TypeGuard[str]:
    """Return whether a value can be the id of an event, a run or a step."""
    return type(value) is str and 0 < len(value) <= MAX_ID and "\0" not in value


def normal_time(text: str) -> str:
    """Return an RFC 3339 or ISO 8601 time in UTC, with six digits and Z. A time without a zone is in UTC.

    Raises `ValueError` for anything else.
    """
    if len(text) == _NORMAL_LENGTH and text[19] == "." and text[26] == "Z" and _is_second(text[:19]):
        fraction = text[20:26]
        if fraction.isascii() and fraction.isdigit():
            return text  # as this SDK writes it; the cache is by the second, since many times share one
    return _normalised(text)


@lru_cache(maxsize=1024)
def _is_second(text: str) -> bool:
    """Return whether these 19 characters are a time to the second in its normal form."""
    try:
        return _normalised(text) == f"{text}.000000Z"
    except ValueError:
        return False


@lru_cache(maxsize=4096)
def _normalised(text: str) -> str:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time")
    day, clock, fraction, _, sign, hours, minutes = match.groups()
    moment = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:<06}")
    if sign:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        try:
            moment = moment - offset if sign == "+" else moment + offset
        except OverflowError:
            raise ValueError("out of the calendar") from None
    return moment.isoformat(timespec="microseconds") + "Z"


def time_text(moment: datetime) -> str:
    """Return a zoned `datetime` in the form of `Patch.time`."""
    return moment.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def time_text_of(seconds: float) -> str:
    """Return the text of a time in seconds since the epoch."""
    return time_text(datetime.fromtimestamp(seconds, timezone.utc))


MAX_TOKENS = 10**12
"""The most tokens of one step or run, so that sums stay far below 64 bits."""
MAX_COST = 1e6
"""The most US dollars of one step."""
MAX_MILLISECONDS = 10**12
"""The longest duration: 31 years."""
MAX_TEXT = 4096
"""The most characters of a name, or of another field that holds a text."""
MAX_TEXTS = 1000
"""The most texts of a list, such as tags."""


class Form(NamedTuple):
    """The check of one type of values."""

    expected: str
    of: Callable[[Any], Any]
    """Return the normal form of a value, within its bounds, or None for one that is not as expected."""


def _text(value: Any) -> Any:
    return value[:MAX_TEXT] if type(value) is str else None


def _moment(value: Any) -> Any:
    try:
        return normal_time(value) if type(value) is str else None
    except ValueError:
        return None


def _within(value: int | float, most: int | float) -> int | float:
    """Return the number within -most and most. One that is not finite stays, and is refused when the event is encoded."""
    if type(value) is float and not isfinite(value):
        return value
    return value if -most <= value <= most else most if value > 0 else -most


def _count(value: Any) -> Any:
    if type(value) is float:
        value = int(value) if value.is_integer() else None
    return _within(value, MAX_TOKENS) if type(value) is int else None


def _number(most: int | float) -> Callable[[Any], Any]:
    return lambda value: _within(value, most) if type(value) in (int, float) else None


def _texts(value: Any) -> Any:
    if type(value) is not list or not all(type(item) is str for item in value):
        return None
    if len(value) <= MAX_TEXTS and all(len(item) <= MAX_TEXT for item in value):
        return value
    return [item[:MAX_TEXT] for item in value[:MAX_TEXTS]]


def _usage(value: Any) -> Any:
    """Return a `usage` payload whose numbers are within the bound, those of its details included. Any JSON is as expected."""
    if type(value) is not dict:
        return value
    changed = {}
    for key, item in value.items():
        bounded = _usage(item) if type(item) is dict else item
        if type(item) in (int, float):
            bounded = _within(item, MAX_TOKENS)
        if bounded is not item:
            changed[key] = bounded
    return {**value, **changed} if changed else value


_TEXT = Form("a string", _text)
FORMS = {
    TEXT: _TEXT,
    TEXTS: Form("a list of strings", _texts),
    WHOLE: Form("a whole number", _count),
    NUMBER: Form("a number", _number(MAX_COST)),
    MILLISECONDS: Form("a number of milliseconds", _number(MAX_MILLISECONDS)),
    TIME: Form("an RFC 3339 time", _moment),
}
_FORMS = {
    **{name: FORMS[field.type] for name, field in FIELDS.items() if field.type in FORMS},
    "usage": Form("JSON", _usage),
}


def normalise(fields: dict[str, Any]) -> bool:
    """Check the fields of the table, and bring them into their normal form. Return whether that changed any.

    A number beyond its bound becomes the bound. A text that is too long is cut, and named in `truncated`. Raises `Rejected`
    for a value of a wrong type.
    """
    changed = False
    cut: list[str] = []
    for name, value in fields.items():
        form = _FORMS.get(name)
        if form is None or value is None or (form is _TEXT and type(value) is str and len(value) <= MAX_TEXT):
            continue
        normal = form.of(value)
        if normal is None:
            raise Rejected(f"{name} must be {form.expected}")
        if normal is not value:
            fields[name] = normal  # the keys stay as they are, so that the loop may go on
            changed = True
            if form is _TEXT or (type(normal) is list and name != "truncated"):
                cut.append(name)
    if cut:
        fields["truncated"] = [*(fields.get("truncated") or ()), *cut]
    return changed


def readable(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a stored event within today's bounds. A value of a wrong type becomes None."""
    for name, value in fields.items():
        form = _FORMS.get(name)
        if form is not None and value is not None:
            fields[name] = form.of(value)
    return fields
