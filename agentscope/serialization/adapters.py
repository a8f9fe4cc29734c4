"""What an object that is not JSON looks like in JSON: one function a kind, and the table that chooses.

A form is a scalar of JSON, or one of the four classes below; `rendering` writes it down within its bounds. Foreign code
may run here and may raise: the caller guards every call. Nothing is consumed that can be read only once.
"""

from __future__ import annotations

import binascii
import sys
from collections import OrderedDict, UserString, deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, ValuesView
from datetime import date, datetime, time, timedelta
from enum import Enum
from functools import partial
from itertools import islice
from operator import getitem
from re import Pattern
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

HIDDEN = "<hidden>"
"""In place of a field whose author keeps it out of its class's own `repr` or dump: often a secret."""

_MAX_REPR = 1 << 14  # characters
_MAX_ARRAY = 1000  # elements of a numeric array that are told one by one
_T = TypeVar("_T")


class Items(NamedTuple):
    """An array: the items that were read, of `total`."""

    items: list[Any]
    total: int


class Pairs(NamedTuple):
    """An object: the pairs that were read, of `total`; the keys may be anything."""

    pairs: list[tuple[Any, Any]]
    total: int


class Inner(NamedTuple):
    """Another value that tells this one."""

    value: object


class Note(NamedTuple):
    """Text in place of a value that is not all there."""

    text: str


Form = bool | int | float | str | Items | Pairs | Inner | Note | None

_TEXTS = frozenset({("decimal", "Decimal"), ("uuid", "UUID"), ("pathlib", "PurePath")})
"""Classes whose `str()` says it all, by module and name: importing them would take longer than the rest of this package."""


def form(value: Any, room: int, most: int) -> Form:
    """The form of `value`, with at most `most` members or about `room` bytes. Raises whatever foreign code raises."""
    kind = type(value)
    for base in kind.__mro__:
        known = _KINDS.get(base)
        if known is not None:
            return known(value, room, most)
        if (base.__module__.partition(".")[0], base.__name__) in _TEXTS:
            return str(value)
    dataclasses = sys.modules.get("dataclasses")  # where nobody has imported it, nothing is of its making
    if dataclasses is not None and dataclasses.is_dataclass(kind):
        return _fields(value, ((field.name, field.repr) for field in dataclasses.fields(kind)))
    if isinstance(attributes := getattr(kind, "__attrs_attrs__", None), tuple):
        return _fields(value, ((attribute.name, attribute.repr is not False) for attribute in attributes))
    if (model := _model_fields(kind)) is not None:
        return _model(value, model)
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return _array(value)
    if issubclass(kind, Mapping):
        keys = copied(lambda: value, most)
        return Pairs([(key, read(partial(getitem, value, key), "value")) for key in keys], len(value))
    if issubclass(kind, (Sequence, Set, ValuesView)):
        return Items(copied(lambda: value, most), len(value))
    return _repr(value)


def class_name(value: object) -> str:
    return _name_of(type(value))[:60]


_name_of: Callable[[type], str] = type.__dict__["__name__"].__get__  # past any metaclass


def read(get: Callable[[], object], what: str) -> object:
    """One member by foreign code, or a note that it could not be read."""
    try:
        return get()
    except KeyboardInterrupt:
        raise
    except BaseException:
        return Note(f"<{what} failed>")


def copied(source: Callable[[], Iterable[_T]], most: int) -> list[_T]:
    """The first `most` members at one moment. Another thread may resize the container: then again, a few times."""
    for _ in range(3):
        try:
            return list(islice(source(), most))
        except RuntimeError:
            continue
    return list(islice(source(), most))


def _repr(value: object) -> Form:
    try:
        text = repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return Note(f"<{class_name(value)}: repr failed>")
    length = str.__len__(text)
    if length <= _MAX_REPR:
        return text
    return Note(f"{str.__getitem__(text, slice(_MAX_REPR))}…[cut: {length} characters]")


def _fields(value: object, names: Iterable[tuple[str, bool]]) -> Pairs:
    pairs = [(name, read(partial(getattr, value, name), name) if shown else HIDDEN) for name, shown in names]
    return Pairs(pairs, len(pairs))


def _model_fields(kind: type) -> Mapping[str, Any] | None:
    """The fields of a pydantic model class of version 2 or 1, known by its marks: pydantic is not imported."""
    for fields, mark in (
        ("__pydantic_fields__", "__pydantic_validator__"),
        ("model_fields", "__pydantic_validator__"),
        ("__fields__", "__fields_set__"),
    ):
        found = getattr(kind, fields, None) if hasattr(kind, mark) else None
        if isinstance(found, Mapping):
            return found
    return None


def _model(value: Any, fields: Mapping[str, Any]) -> Form:
    # The instance's own dictionary, because model_dump() runs serializers that users wrote.
    state: dict[str, Any] = value.__dict__
    if "root" in fields and len(fields) == 1 and hasattr(type(value), "__pydantic_root_model__"):
        return Inner(state.get("root"))
    pairs = []
    for name in fields:
        if name in state:
            info = fields[name]
            hidden = getattr(info, "exclude", None) is True or getattr(info, "repr", True) is False
            pairs.append((name, HIDDEN if hidden else state[name]))
    pairs.extend((getattr(value, "__pydantic_extra__", None) or {}).items())
    return Pairs(pairs, len(pairs))


def _array(value: Any) -> Form:
    if value.size > _MAX_ARRAY:
        first = value.flat[:8].tolist()
        told = {"array": list(value.shape), "dtype": str(value.dtype), "first": first, "cut": Note("…")}
        return Pairs(list(told.items()), len(told))
    plain = value.tolist()
    return _repr(value) if type(plain) is type(value) else Inner(plain)


def _bytes(value: Any, room: int, most: int) -> Form:
    length = value.nbytes if isinstance(value, memoryview) else len(value)
    head = "data:application/octet-stream;base64,"
    fits = max(0, room - len(head) - 40) // 4 * 3
    told = bytes(value[:fits])[:fits]
    text = head + binascii.b2a_base64(told, newline=False).decode()
    return text if len(told) == length else Note(f"{text}…[cut: {length} bytes]")


def _dict(value: Any, room: int, most: int) -> Form:
    # The base class's view reads what is stored; a subclass's own could compute, block or load.
    view = OrderedDict.items if isinstance(value, OrderedDict) else dict.items
    return Pairs(copied(lambda: view(value), most), dict.__len__(value))


def _list(value: Any, room: int, most: int) -> Form:
    return Items(copied(lambda: list.__iter__(value), most), list.__len__(value))


def _tuple(value: Any, room: int, most: int) -> Form:
    items = copied(lambda: tuple.__iter__(value), most)
    names = getattr(type(value), "_fields", None)
    if isinstance(names, tuple) and len(names) == len(items):
        return Pairs(list(zip(names, items, strict=False)), len(items))
    return Items(items, tuple.__len__(value))


def _set(value: Any, room: int, most: int) -> Form:
    items = copied(lambda: value, most)
    kinds = set(map(type, items))
    if kinds <= {str} or kinds <= {int, float}:
        items.sort()
    return Items(items, len(value))


def _timedelta(value: timedelta, room: int, most: int) -> Form:
    microseconds = value // timedelta(microseconds=1)
    seconds, fraction = divmod(abs(microseconds), 1_000_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    part = f".{fraction:06d}".rstrip("0") if fraction else ""
    return f"{'-' * (microseconds < 0)}P{days}DT{hours}H{minutes}M{seconds}{part}S"


def _exception(value: BaseException, room: int, most: int) -> Form:
    return Pairs([("type", type_name(value)), ("message", read(lambda: str(value), "message"))], 2)


def type_name(value: object) -> str:
    """The qualified name of the value's class; without its module if that is builtins."""
    kind = type(value)
    module = kind.__dict__.get("__module__")
    name = class_name(value)
    return f"{module[:200]}.{name}" if isinstance(module, str) and module != "builtins" else name


_KINDS: dict[type, Callable[[Any, int, int], Form]] = {
    str: lambda value, room, most: str.__getitem__(value, slice(None)),
    int: lambda value, room, most: int.__index__(value),
    float: lambda value, room, most: float.__float__(value),
    dict: _dict,
    list: _list,
    tuple: _tuple,
    set: _set,
    frozenset: _set,
    deque: lambda value, room, most: Items(copied(lambda: deque.__iter__(value), most), deque.__len__(value)),
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    datetime: lambda value, room, most: value.isoformat(),
    date: lambda value, room, most: value.isoformat(),
    time: lambda value, room, most: value.isoformat(),
    timedelta: _timedelta,
    Enum: lambda value, room, most: Inner(value.value),
    BaseException: _exception,
    Pattern: lambda value, room, most: Inner(value.pattern),
    SimpleNamespace: lambda value, room, most: _dict(value.__dict__, room, most),
    **dict.fromkeys((UserString, complex), lambda value, room, most: str(value)),
    **dict.fromkeys((range, type), lambda value, room, most: _repr(value)),
}
