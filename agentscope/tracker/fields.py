"""The values that a caller passed, turned into the fields of an event. Never raises, and notes each value that was mended."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import partial
from operator import index
from typing import Any, NamedTuple

from agentscope.events import (
    MILLISECONDS,
    NUMBER,
    PAYLOAD,
    RUN_STATUSES,
    STEP_FIELDS,
    STEP_TYPES,
    TEXT,
    TEXTS,
    Field,
    PlainFields,
    RunStatus,
)
from agentscope.serialization.foreign import called
from agentscope.serialization.snapshot import encode, seal, text

LONGEST_NAME = 4096
"""Characters of a text field; a platform may take fewer."""
MOST_TEXTS = 1_000
"""Texts of a list."""
LONGEST_TEXT = 1_024
"""Characters of a text in a list."""
_INT64 = 2**63 - 1
LONGEST_SHOWN = 60
"""Characters of a name from outside in a log line."""
DURATIONS = frozenset(name for name, field in STEP_FIELDS.items() if field.type == MILLISECONDS)
_DIGITS = {MILLISECONDS: 3, NUMBER: 9}
"""Digits that a number is rounded to, by the type of its field."""
_new = tuple.__new__


class Encoded(NamedTuple):
    """A payload that was encoded or sealed before; `lossy` if that lost something."""

    data: bytes
    lossy: bool


def captured(value: Any, limit: int, sealing: bool) -> Encoded:
    """Encode the present state of any value. `sealing`: only seal it, if it can be sealed."""
    if type(value) is Encoded:
        return value
    if sealing and (data := seal(value, limit)) is not None:
        return _new(Encoded, (data, False))
    return _new(Encoded, encode(value, limit))


def plain_step(
    name: Any, step_type: Any, started_at: int, elapsed: int, given: Encoded | None, output: Encoded | None
) -> PlainFields | None:
    """Return the fields of a plain step; None if a value has to be mended, which `Fields` does."""
    clean = type(name) is str and len(name) <= LONGEST_NAME and name.isprintable()  # as `Fields.name` has it
    if not clean or type(step_type) is not str or step_type not in STEP_TYPES:
        return None
    data = told = None
    if given is not None:
        data, lossy = given
        if lossy:
            return None
    if output is not None:
        told, lossy = output
        if lossy:
            return None
    return name, step_type, started_at, elapsed, data, told


class Fields:
    """The fields of one event, its payloads encoded, or with `sealing` sealed, as they are at this moment."""

    __slots__ = ("limit", "mended", "sealing", "size", "values")

    def __init__(self, limit: int, values: dict[str, Any], sealing: bool = False) -> None:
        self.limit = limit
        self.sealing = sealing
        self.values = values
        self.size = 0
        """Bytes of the payloads and names."""
        self.mended: list[tuple[str, str]] = []
        """Problems to report to the caller, each as (kind, sentence)."""

    def payload(self, name: str, value: Any) -> None:
        """Set a payload field to any value, encoded now. None is not set."""
        if value is None:
            return
        data, lossy = captured(value, self.limit, self.sealing)
        self.values[name] = data
        self.size += len(data)
        if lossy:
            self.values.setdefault("truncated", []).append(name)

    def error(self, value: Any) -> None:
        """Set the error: an exception, or any value that describes one."""
        if issubclass(type(value), BaseException):
            from agentscope.serialization.exceptions import describe_exception  # `prepare` has imported it

            value = describe_exception(value)
        self.payload("error", value)

    def name(self, field: str, value: Any, default: str | None = None) -> None:
        """Set a short text. None is not set, unless there is a default, which replaces it."""
        if type(value) is str and len(value) <= LONGEST_NAME and value.isprintable():
            self.values[field] = value  # as it is, nearly always: what is printable holds no NUL and no lone surrogate
            self.size += len(value)
            return
        if value is None and default is None:
            return
        told = _plain_text(value)
        if told is None:
            self.mended.append(("wrong_type", f"{field} takes a str; another value is recorded as its str()"))
            told = value if value is not None else default
        self.values[field] = name = text(told, LONGEST_NAME)
        self.size += len(name)

    def number(self, field: str, value: Any, digits: int | None = None) -> None:
        """Set a number, rounded to `digits` or to an integer. Another value is left out."""
        if value is None:
            return
        number = _plain_number(value)
        if number is None:
            self.mended.append(("wrong_type", f"{field} takes a number; other values are left out"))
        elif number < 0 and field in DURATIONS:
            self.mended.append(("negative_duration", f"{field} takes no negative number; it is left out"))
        else:
            self.values[field] = number if type(number) is int else round(number, digits)

    def texts(self, field: str, value: Any) -> None:
        """Set a list of texts. A single text becomes a list of one; any other value is left out."""
        found = self.texts_of(field, value)
        if found is not None:
            self.values[field] = found
            self.size += sum(map(len, found))

    def texts_of(self, field: str, value: Any) -> list[str] | None:
        """Return the value as a list of plain texts; None if it is not one."""
        if value is None:
            return None
        if issubclass(type(value), str):
            value = (value,)
        if type(value) not in (list, tuple, set, frozenset):
            self.mended.append(("wrong_type", f"{field} takes a list of str; another value is left out"))
            return None
        return [text(item, LONGEST_TEXT) for item in list(value)[:MOST_TEXTS]]

    def give(self, table: Mapping[str, Field], name: str, value: Any) -> None:
        """Set a field by its name, according to its type in the table. An unknown name is an invalid call."""
        field = table.get(name)
        if field is None or not field.given:
            self.mended.append(("unknown_field", unknown(name, table)))
        elif value is not None:
            if field.type == PAYLOAD:
                self.payload(name, value)
            elif field.type == TEXT:
                self.name(name, value)
            elif field.type == TEXTS:
                self.texts(name, value)
            else:
                self.number(name, value, _DIGITS.get(field.type))

    def step(self, name: Any, step_type: Any, meta_data: Any) -> None:
        """Set the fields that every step has."""
        self.name("name", name, default="step")
        if type(step_type) is str and step_type in STEP_TYPES and meta_data is None:
            self.values["step_type"] = step_type
        else:
            self.step_type(step_type, meta_data)

    def step_type(self, value: Any, meta_data: Any) -> None:
        """Set the step type. An unknown one becomes `other`, and its text goes into `meta_data` as `step_type`."""
        known = _plain_text(value)
        if known in STEP_TYPES:
            self.values["step_type"] = known
        else:
            self.values["step_type"] = "other"
            original = text(value if known is None else known, LONGEST_NAME)
            if type(meta_data) is Encoded:
                meta_data = json.loads(meta_data.data)
            meta_data = {**_plain_dict(meta_data), "step_type": original}
            allowed = ", ".join(sorted(STEP_TYPES))
            self.mended.append(("unknown_step_type", f"an unknown step_type is recorded as other; known are {allowed}"))
        self.payload("meta_data", meta_data)

    def status(self, value: Any, error: Any) -> None:
        """Set the status that a run ends with. For `completed` and for an unknown word the error decides."""
        if error is None and type(value) is str and value == "completed":
            self.values["status"] = value  # as it is, nearly always
            return
        known = _plain_text(value)
        if known in RUN_STATUSES and known != "running":
            # `completed` is also the default of a caller that passes only an error.
            self.values["status"] = outcome(error) if known == "completed" else known
        else:
            self.values["status"] = outcome(error)
            sentence = "a run ends as completed, failed or cancelled; another status is replaced by the one that fits"
            self.mended.append(("unknown_status", sentence))


def outcome(error: Any) -> RunStatus:
    """Return the status of a run or step that ended with this error, or without one."""
    if error is None:
        return "completed"
    for module, name in (("asyncio", "CancelledError"), ("trio", "Cancelled")):
        # A library that is not imported has raised nothing, and importing it here would take long.
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and issubclass(type(error), kind):
            return "cancelled"
    return "failed"


def unknown(name: str, table: Mapping[str, Field]) -> str:
    """Return the sentence about a name that is no field, with the most similar field."""
    from difflib import get_close_matches  # only a caller that misspelt a name pays for it

    name = text(name, LONGEST_SHOWN)
    found = get_close_matches(name, [field.name for field in table.values() if field.given], 1)
    return f"there is no field {name!r}, and its value is not recorded" + (
        f"; did you mean {found[0]!r}?" if found else ""
    )


def _plain_text(value: Any) -> str | None:
    """Return a str of any subclass (a member of an enum, say) as a plain str; None for any other value."""
    if type(value) is str:
        return value
    return str.__str__(value) if issubclass(type(value), str) else None


def _plain_dict(value: Any) -> dict[Any, Any]:
    """Return a dict of any subclass as a plain dict; another value under the key `value`."""
    if value is None:
        return {}
    if issubclass(type(value), dict):
        copied: dict[Any, Any] | None = called(
            lambda: dict(list(dict.items(value))), None
        )  # keys are foreign code, too
        if copied is not None:
            return copied
    return {"value": value}


def _plain_number(value: Any) -> int | float | None:
    """Return a number (numpy's and `decimal`'s too) as int or float; None if it is none, not finite, or beyond 64 bits."""
    kind = type(value)
    number: Any = value
    if kind is not int and kind is not float:
        convert: Any = index if hasattr(kind, "__index__") else float if hasattr(kind, "__float__") else None
        number = called(partial(convert, value), None) if convert is not None else None
    if number is None or kind is bool:
        return None
    return number if -_INT64 <= number <= _INT64 else None
