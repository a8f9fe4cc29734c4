"""From what a caller passed to the fields of an event. Never raises; says what had to be mended."""

from __future__ import annotations

from operator import index
from typing import Any, NamedTuple

from agentscope.events import RUN_STATUSES, STEP_TYPES, PlainFields
from agentscope.serialization.snapshot import describe_exception, encode, text

LONGEST_NAME = 4096
"""Characters of a name or an external id; a platform may take fewer."""
_INT64 = 2**63 - 1
_new = tuple.__new__


class Encoded(NamedTuple):
    """A payload that was encoded before; `lossy` if that lost something."""

    data: bytes
    lossy: bool


def captured(value: Any, limit: int) -> Encoded:
    """Any value at all, encoded as it is at this moment."""
    if type(value) is Encoded:
        return value
    return _new(Encoded, encode(value, limit))


def plain_step(
    name: Any, step_type: Any, started_at: int, elapsed: int, given: Encoded | None, output: Encoded | None
) -> PlainFields | None:
    """A step of which no more is told than this, if all of that is as it should be; else it takes `Fields` to mend it."""
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
    return _new(PlainFields, (name, step_type, started_at, elapsed, data, told))


class Fields:
    """The fields of one event, its payloads encoded as they are at this moment."""

    __slots__ = ("limit", "mended", "size", "values")

    def __init__(self, limit: int, values: dict[str, Any]) -> None:
        self.limit = limit
        self.values = values
        self.size = 0
        """Bytes of the payloads and names."""
        self.mended: list[tuple[str, str]] = []
        """What the caller should know: (kind, sentence)."""

    def payload(self, name: str, value: Any) -> None:
        """Any value at all, encoded now. None is not set."""
        if value is None:
            return
        data, lossy = captured(value, self.limit)
        self.values[name] = data
        self.size += len(data)
        if lossy:
            self.values.setdefault("truncated", []).append(name)

    def error(self, value: Any) -> None:
        """An exception, or any value that tells of one."""
        self.payload("error", describe_exception(value) if issubclass(type(value), BaseException) else value)

    def name(self, field: str, value: Any, default: str | None = None) -> None:
        """A short text. None is not set, unless there is a default: then it should have been a text."""
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
        """A number, rounded to a whole one or to so many digits; what is no number is left out."""
        if value is None:
            return
        number = _plain_number(value)
        if number is None:
            self.mended.append(("wrong_type", f"{field} takes a number; other values are left out"))
        else:
            self.values[field] = number if type(number) is int else round(number, digits)

    def milliseconds(self, field: str, value: Any) -> None:
        """A duration, to the microsecond."""
        self.number(field, value, digits=3)

    def step(self, name: Any, step_type: Any, output: Any, error: Any, tokens_used: Any, meta_data: Any) -> None:
        """What every step has."""
        self.name("name", name, default="step")
        if type(step_type) is str and step_type in STEP_TYPES and meta_data is None:
            self.values["step_type"] = step_type
        else:
            self.step_type(step_type, meta_data)
        if output is not None:
            self.payload("output", output)
        if error is not None:
            self.error(error)
        if tokens_used is not None:
            self.number("tokens_used", tokens_used)

    def step_type(self, value: Any, meta_data: Any) -> None:
        """One of the step types; another becomes `other`, and what it was goes into `meta_data` as `step_type`."""
        known = _plain_text(value)
        if known in STEP_TYPES:
            self.values["step_type"] = known
        else:
            self.values["step_type"] = "other"
            original = text(value if known is None else known, LONGEST_NAME)
            meta_data = {**_plain_dict(meta_data), "step_type": original}
            allowed = ", ".join(sorted(STEP_TYPES))
            self.mended.append(("unknown_step_type", f"an unknown step_type is recorded as other; known are {allowed}"))
        self.payload("meta_data", meta_data)

    def status(self, value: Any, failed: bool) -> None:
        """How a run ended: `failed` if there is an error; else what is told, and `completed` for an unknown word."""
        known = _plain_text(value)
        if known in RUN_STATUSES and known != "running":
            # `completed` is also what is meant where only an error was told.
            self.values["status"] = "failed" if failed else known
        else:
            self.values["status"] = "failed" if failed else "completed"
            sentence = "a run ends as completed or failed; another status is recorded as the one of them that fits"
            self.mended.append(("unknown_status", sentence))


def _plain_text(value: Any) -> str | None:
    """A str as exactly that, whatever its class makes of it (an enum's member, say); None for anything else."""
    if type(value) is str:
        return value
    return str.__str__(value) if issubclass(type(value), str) else None


def _plain_dict(value: Any) -> dict[Any, Any]:
    """A dict as a new one, past what its class makes of it; anything else under the key `value`."""
    if value is None:
        return {}
    if issubclass(type(value), dict):
        try:
            return dict(list(dict.items(value)))
        except KeyboardInterrupt:
            raise
        except BaseException:  # keys are foreign code, too
            pass
    return {"value": value}


def _plain_number(value: Any) -> int | float | None:
    """A number as Python's own, numpy's and `decimal`'s too; None for what is none, or not finite, or beyond 64 bits."""
    kind = type(value)
    number: Any = value
    if kind is not int and kind is not float:
        try:
            number = (
                index(value) if hasattr(kind, "__index__") else float(value) if hasattr(kind, "__float__") else None
            )
        except KeyboardInterrupt:
            raise
        except BaseException:  # foreign code, such as an array's
            return None
    if number is None or kind is bool:
        return None
    return number if -_INT64 <= number <= _INT64 else None
