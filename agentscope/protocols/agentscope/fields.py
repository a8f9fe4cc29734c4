"""The check of received fields by type, and the normal form of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import lru_cache
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


class Form(NamedTuple):
    """The check of one type of values."""

    expected: str
    of: Callable[[Any], Any]
    """Return the normal form of a value, or None for one that is not as expected."""


def _text(value: Any) -> Any:
    return value if type(value) is str else None


def _moment(value: Any) -> Any:
    try:
        return normal_time(value) if type(value) is str else None
    except ValueError:
        return None


def _count(value: Any) -> Any:
    if type(value) is float:
        return int(value) if value.is_integer() else None
    return value if type(value) is int else None


def _number(value: Any) -> Any:
    return value if type(value) is int or type(value) is float else None


def _texts(value: Any) -> Any:
    return value if type(value) is list and all(type(item) is str for item in value) else None


_TEXT = Form("a string", _text)
FORMS = {
    TEXT: _TEXT,
    TEXTS: Form("a list of strings", _texts),
    WHOLE: Form("a whole number", _count),
    NUMBER: Form("a number", _number),
    MILLISECONDS: Form("a number of milliseconds", _number),
    TIME: Form("an RFC 3339 time", _moment),
}
_FORMS = {name: FORMS[field.type] for name, field in FIELDS.items() if field.type in FORMS}


def normalise(fields: dict[str, Any]) -> bool:
    """Check the fields of the table, and bring them into their normal form. Return whether that changed any.

    Raises `Rejected` for a value of a wrong type.
    """
    changed = False
    for name, value in fields.items():
        form = _FORMS.get(name)
        if form is None or value is None or (form is _TEXT and type(value) is str):
            continue
        normal = form.of(value)
        if normal is None:
            raise Rejected(f"{name} must be {form.expected}")
        if normal is not value:
            fields[name] = normal  # the keys stay as they are, so that the loop may go on
            changed = True
    return changed
