"""JSON forms of Python objects: one function per class, and the table that chooses the function.

A form is a JSON scalar or one of the four classes below; `fallback` encodes it within bounds. Foreign code may run here and
may raise, so the caller guards every call. Iterators are not consumed. Nothing is read that might ask a database or a file:
attributes come from the object's own memory, and no `repr`, length or item of a lazy collection is read.
"""

from __future__ import annotations

import binascii
import sys
from codecs import utf_8_decode
from collections import OrderedDict, UserString, deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, ValuesView
from datetime import date, datetime, time, timedelta
from enum import Enum
from functools import partial
from itertools import islice
from operator import getitem
from re import Pattern
from types import MemberDescriptorType, SimpleNamespace
from typing import Any, NamedTuple, TypeVar

from .foreign import called, is_hosts
from .text import class_name

_MISSING = object()
HIDDEN = "<hidden>"
"""Stands for a field that its class excludes from its `repr` or dump, as is done with secrets."""

_MAX_REPR = 1 << 14  # characters
_MAX_ARRAY = 1000  # elements of a numeric array that is encoded in full
_MAX_ROWS, _MAX_COLUMNS = 10, 100  # of a table
_READABLE = bytes([*range(0x20, 0x7F), *b"\t\n\r"])
_CONTROL = bytes(code for code in range(0x20) if code not in _READABLE)
_T = TypeVar("_T")


class Items(NamedTuple):
    """A JSON array: the items that were read, of `total`."""

    items: list[Any]
    total: int


class Pairs(NamedTuple):
    """A JSON object: the pairs that were read, of `total`. Keys may have any type."""

    pairs: list[tuple[Any, Any]]
    total: int


class Replacement(NamedTuple):
    """A value to encode instead of this one."""

    value: object


class Placeholder(NamedTuple):
    """The text encoded in place of a value that JSON cannot represent in full."""

    text: str


Form = bool | int | float | str | Items | Pairs | Replacement | Placeholder | None

_TEXTS = frozenset({("decimal", "Decimal"), ("uuid", "UUID"), ("pathlib", "PurePath")})
"""Classes whose form is `str(value)`, by top-level module and name: importing them would take longer than this whole package."""


_LAZY = {
    "django": ("QuerySet", "RawQuerySet", "BaseManager", "LazyObject"),
    "mongoengine": ("BaseQuerySet",),
    "peewee": ("BaseQuery",),
    "pony": ("Query", "QueryResult", "Entity"),
    "tortoise": ("AwaitableQuery",),
    "sqlalchemy": ("Query",),
    "pyspark": ("DataFrame",),
    "ibis": ("Expr",),
    "shelve": ("Shelf",),
    "dbm": ("_Database",),
    "h5py": ("HLObject",),
    "zarr": ("Group", "Array"),
}
"""Classes, by top-level module, whose `repr`, length or items may run a query or read a file."""


def json_form(value: Any, room: int, most: int) -> Form:
    """Return the JSON form of `value`, with at most `most` members or about `room` bytes. Raises what foreign code raises."""
    kind = type(value)
    for base in kind.__mro__:
        known = _KINDS.get(base)
        if known is not None:
            return known(value, room, most)
        module = base.__module__.partition(".")[0]
        if (module, base.__name__) in _TEXTS:
            return str(value)
        if base.__name__ in _LAZY.get(module, ()):
            return _lazy(value)
    dataclasses = sys.modules.get("dataclasses")  # without the module there are no dataclasses
    if dataclasses is not None and dataclasses.is_dataclass(kind):
        return _fields(value, ((field.name, field.repr) for field in dataclasses.fields(kind)))
    if isinstance(attributes := getattr(kind, "__attrs_attrs__", None), tuple):
        return _fields(value, ((attribute.name, attribute.repr is not False) for attribute in attributes))
    if (model := _model_fields(kind)) is not None:
        return _model(value, model)
    if (row := _row(value, kind)) is not None:
        return row
    library = kind.__module__.partition(".")[0]
    if library == "numpy" and hasattr(value, "tolist"):
        return _array(value)
    if library in _TABLES and kind.__name__ in ("DataFrame", "Series"):
        return _TABLES[library](value)
    if issubclass(kind, Mapping):
        keys = copy_members(lambda: value, most)
        return Pairs([(key, read_member(partial(getitem, value, key), "value")) for key in keys], len(value))
    if issubclass(kind, (Sequence, Set, ValuesView)):
        return Items(copy_members(lambda: value, most), len(value))
    return _repr(value)


def read_member(get: Callable[[], object], what: str) -> object:
    """Call foreign code to read a member; a failure becomes a placeholder that names `what`."""
    return called(get, Placeholder(f"<{what} failed>"))


def copy_members(source: Callable[[], Iterable[_T]], most: int) -> list[_T]:
    """Return the first `most` members. Retries when another thread resizes the container, three times at most."""
    for _ in range(3):
        try:
            return list(islice(source(), most))
        except RuntimeError as error:
            if is_hosts(error):
                raise
            continue
    return list(islice(source(), most))


def _repr(value: object) -> Form:
    text = called(partial(repr, value), None)
    if text is None:
        return Placeholder(f"<{class_name(value)}: repr failed>")
    length = str.__len__(text)
    if length <= _MAX_REPR:
        return text
    return Placeholder(f"{str.__getitem__(text, slice(_MAX_REPR))}…[cut: {length} characters]")


def _lazy(value: object) -> Form:
    state = _state(value)
    loaded = state.get("_result_cache", state.get("_wrapped"))  # of a query set, and of a lazy object
    if type(loaded) is list or hasattr(type(loaded), "_meta"):
        return Replacement(loaded)
    return Placeholder(f"<{class_name(value)}: not read>")


def _fields(value: object, names: Iterable[tuple[str, bool]]) -> Pairs:
    state = _state(value)
    pairs = [
        (name, HIDDEN if not shown else state[name] if name in state else _of_class(value, name))
        for name, shown in names
    ]
    return Pairs(pairs, len(pairs))


def _of_class(value: object, name: str) -> object:
    """Read an attribute from a slot or from the class. No property or other descriptor is run, since it might ask a database."""
    found = next((base.__dict__[name] for base in type(value).__mro__ if name in base.__dict__), _MISSING)
    if type(found) is MemberDescriptorType:
        try:
            return found.__get__(value)
        except AttributeError:
            found = _MISSING
    if found is _MISSING:
        return Placeholder(f"<{name} failed>")
    return Placeholder(f"<{name}: not read>") if hasattr(type(found), "__get__") else found


def _state(value: object) -> dict[str, Any]:
    """Return the instance's `__dict__`; {} for an object without one."""
    try:
        state = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return state if type(state) is dict else {}


def _row(value: object, kind: type) -> Form:
    """Return the loaded columns of an object of SQLAlchemy, Django or peewee; None for any other object."""
    state = _state(value)
    for mark in ("_sa_instance_state", "_state"):
        if mark in state and hasattr(kind, "__mapper__" if mark == "_sa_instance_state" else "_meta"):
            pairs = [(name, item) for name, item in state.items() if name != mark]
            return Pairs(pairs, len(pairs))
    if type(data := state.get("__data__")) is dict and hasattr(kind, "_meta"):
        return Pairs(list(data.items()), len(data))
    return None


def _model_fields(kind: type) -> Mapping[str, Any] | None:
    """Return the fields of a pydantic 2 or 1 model class, recognised by its attributes, since pydantic is not imported."""
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
    # Not model_dump(), which runs serializers that users wrote.
    state: dict[str, Any] = value.__dict__
    if "root" in fields and len(fields) == 1 and hasattr(type(value), "__pydantic_root_model__"):
        return Replacement(state.get("root"))
    pairs = []
    for name in fields:
        if name in state:
            info = fields[name]
            info = getattr(info, "field_info", info)  # pydantic 1 has it inside
            hidden = getattr(info, "exclude", None) is True or getattr(info, "repr", True) is False
            pairs.append((name, HIDDEN if hidden else state[name]))
    pairs.extend((getattr(value, "__pydantic_extra__", None) or {}).items())
    return Pairs(pairs, len(pairs))


def _array(value: Any) -> Form:
    if value.dtype.kind in "mM":
        if not value.shape:
            return str(value)
        value = value.astype(str)  # `tolist` would give numbers of nanoseconds
    if value.size > _MAX_ARRAY:
        first = value.flat[:8].tolist()
        summary = {"array": list(value.shape), "dtype": str(value.dtype), "first": first, "cut": Placeholder("…")}
        return Pairs(list(summary.items()), len(summary))
    plain = value.tolist()
    return _repr(value) if type(plain) is type(value) else Replacement(plain)


def _pandas(value: Any) -> Form:
    head = value.iloc[:_MAX_ROWS] if len(value.shape) == 1 else value.iloc[:_MAX_ROWS, :_MAX_COLUMNS]
    columns = {} if len(value.shape) == 1 else {"columns": list(head.columns)}
    data = head.tolist() if len(value.shape) == 1 else head.to_dict("split")["data"]
    return _table(value.shape, {**columns, "index": list(head.index), "data": data})


def _polars(value: Any) -> Form:
    if len(value.shape) == 1:
        return _table(value.shape, {"data": value[:_MAX_ROWS].to_list()})
    head = value[:_MAX_ROWS, :_MAX_COLUMNS]
    return _table(value.shape, {"columns": head.columns, "data": head.rows()})


_TABLES: dict[str, Callable[[Any], Form]] = {"pandas": _pandas, "polars": _polars}
"""Functions for tables, by module: a form has the shape and the first rows and columns."""


def _table(shape: Sequence[int], parts: dict[str, Any]) -> Form:
    pairs = [("shape", list(shape)), *parts.items()]
    if shape[0] > _MAX_ROWS or shape[-1] > _MAX_COLUMNS > len(shape):
        pairs.append(("cut", Placeholder("…")))
    return Pairs(pairs, len(pairs))


def bytes_text(value: bytes, whole: bool = True) -> str | None:
    """Decode bytes as UTF-8, or as Latin-1 if nearly all are ASCII; None if they are no text.

    whole: False if the last character may be cut.
    """
    try:
        decoded, strange = utf_8_decode(value, "strict", whole)[0], len(value) - len(value.translate(None, _CONTROL))
    except UnicodeDecodeError:
        decoded, strange = value.decode("latin-1"), len(value.translate(None, _READABLE))
    return decoded if 5 * strange <= len(value) else None


def _bytes(value: Any, room: int, most: int) -> Form:
    """Return bytes as text if they are text, so that it can be read and redacted; else as a data URL."""
    length = value.nbytes if isinstance(value, memoryview) else len(value)
    start = bytes(value[:room])[:room]
    whole = len(start) == length
    if (text := bytes_text(start if whole else start[: max(0, room - 60)], whole)) is not None:
        return text if whole else Placeholder(f"{text}…[cut: {length} bytes]")
    head = "data:application/octet-stream;base64,"
    fits = max(0, room - len(head) - 40) // 4 * 3
    start = bytes(value[:fits])[:fits]
    text = head + binascii.b2a_base64(start, newline=False).decode()
    return text if len(start) == length else Placeholder(f"{text}…[cut: {length} bytes]")


def _dict(value: Any, room: int, most: int) -> Form:
    # The view of the base class, since a subclass's may compute, block or load.
    view = OrderedDict.items if isinstance(value, OrderedDict) else dict.items
    return Pairs(copy_members(lambda: view(value), most), dict.__len__(value))


def _list(value: Any, room: int, most: int) -> Form:
    return Items(copy_members(lambda: list.__iter__(value), most), list.__len__(value))


def _tuple(value: Any, room: int, most: int) -> Form:
    items = copy_members(lambda: tuple.__iter__(value), most)
    names = getattr(type(value), "_fields", None)
    if isinstance(names, tuple) and len(names) == len(items):
        return Pairs(list(zip(names, items, strict=False)), len(items))
    return Items(items, tuple.__len__(value))


def _set(value: Any, room: int, most: int) -> Form:
    items = copy_members(lambda: value, most)
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
    return Pairs([("type", type_name(value)), ("message", read_member(lambda: str(value), "message"))], 2)


def type_name(value: object) -> str:
    """Return the qualified name of the value's class; the module `builtins` is left out."""
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
    deque: lambda value, room, most: Items(copy_members(lambda: deque.__iter__(value), most), deque.__len__(value)),
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    datetime: lambda value, room, most: value.isoformat(),
    date: lambda value, room, most: value.isoformat(),
    time: lambda value, room, most: value.isoformat(),
    timedelta: _timedelta,
    Enum: lambda value, room, most: Replacement(value.value),
    BaseException: _exception,
    Pattern: lambda value, room, most: Replacement(value.pattern),
    SimpleNamespace: lambda value, room, most: _dict(value.__dict__, room, most),
    **dict.fromkeys((UserString, complex), lambda value, room, most: str(value)),
    **dict.fromkeys((range, type), lambda value, room, most: _repr(value)),
}
