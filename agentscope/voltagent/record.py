"""Base of the record classes: dataclasses with checked fields, field names in snake_case or camelCase, and extra fields."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

from agentscope.protocols.voltagent.vocabulary import camel_case
from agentscope.serialization.foreign import is_hosts
from agentscope.serialization.text import class_name

from .errors import ValidationError


class Check(NamedTuple):
    """The check of a field. `expected` describes valid values."""

    expected: str
    accept: Callable[[Any], Any]
    """Returns the value to store, or None for an invalid one. An exception means the same."""

    def of(self, value: Any, where: str) -> Any:
        """Return the value to store. Raises `ValidationError`, whose message does not show the value."""
        try:
            known = self.accept(value)
        except ValidationError:
            raise  # of a nested record
        except Exception as error:  # foreign code of the value's class
            if is_hosts(error):
                raise
            known = None
        if known is None:
            raise ValidationError(f"{where} must be {self.expected}, not {class_name(value)}")
        return known


def required(check: Check) -> Any:
    """Declare a required field."""
    return field(metadata={"check": check})


def optional(check: Check, default: Any = None) -> Any:
    """Declare an optional field. None stands for the default."""
    return field(default=default, metadata={"check": check})


@dataclass(init=False, repr=False, eq=False)
class Record:
    """Base of the record classes. Unknown names are kept in `model_extra` and are attributes too.

    Raises `ValidationError` for a field that is missing or of a wrong type.
    """

    def __init__(self, **values: Any) -> None:
        kind: Any = type(self)
        names, given, extra = _names(kind), dict[str, Any](), dict[str, Any]()
        for name, value in values.items():
            own = names.get(name)
            if own is None:
                extra[name] = value
            elif given.get(own) is None:
                given[own] = value
        self.__dict__["model_fields_set"] = frozenset(name for name, value in given.items() if value is not None)
        self.__dict__["model_extra"] = extra
        for item in fields(kind):
            value = given.get(item.name)
            if value is not None:
                value = item.metadata["check"].of(value, f"{kind.__name__}.{item.name}")
            elif item.default is not MISSING:
                value = item.default
            else:
                raise ValidationError(f"{kind.__name__}.{item.name} is missing: {item.metadata['check'].expected}")
            self.__dict__[item.name] = value

    def model_dump(self, *, exclude: Collection[str] = (), exclude_none: bool = False) -> dict[str, Any]:
        """Return all fields as a new dict, nested records as dicts too. `exclude` names fields to leave out."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: value.model_dump(exclude_none=exclude_none) if isinstance(value, Record) else value
            for name, value in {**found, **self.model_extra}.items()
            if name not in exclude and not (exclude_none and value is None)
        }

    def __getattr__(self, name: str) -> Any:
        extra = self.__dict__.get("model_extra", {})
        if name == "model_extra" or name not in extra:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return extra[name]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        assert isinstance(other, Record)
        return self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]  # records are mutable

    def __repr__(self) -> str:
        """Name the fields that are set, without values, which may be payloads or keys."""
        set_ = ", ".join(f"{name}=…" for name, value in self.model_dump().items() if value is not None)
        return f"{type(self).__name__}({set_})"


@cache
def _names(kind: type) -> Mapping[str, str]:
    """Return the field names by every spelling that the constructor takes."""
    own = [item.name for item in fields(kind)]
    snake = {_snake_case(name): name for name in own}
    return {**snake, **{camel_case(name): name for name in own}, **{name: name for name in own}}


def _snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


# ---- checks ----------------------------------------------------------------------------------------------------------


def _instance(expected: str, *kinds: type) -> Check:
    return Check(expected, lambda value: value if issubclass(type(value), kinds) else None)


def _whole(value: Any) -> int | None:
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _texts(value: Any) -> list[str] | None:
    is_list = issubclass(type(value), (list, tuple)) and all(issubclass(type(item), str) for item in value)
    return list(value) if is_list else None


def _text_pairs(value: Any) -> dict[str, str] | None:
    pairs = dict(value) if issubclass(type(value), Mapping) else None
    return None if pairs is None or _texts([*pairs, *pairs.values()]) is None else pairs


def one_of(kind: type[Enum]) -> Check:
    """Return a check for a member of an enumeration, or its value."""
    return Check("one of " + ", ".join(str(member.value) for member in kind), kind)


def record(kind: type[Record]) -> Check:
    """Return a check for a record of this class, or a dict of its fields."""

    def accept(value: Any) -> Any:
        if issubclass(type(value), kind):
            return value
        return kind(**value) if issubclass(type(value), dict) and all(type(name) is str for name in value) else None

    return Check(f"a {kind.__name__} or a dict of its fields", accept)


TEXT = _instance("a str", str)
FLAG = _instance("a bool", bool)
OBJECT = _instance("a dict", dict)
MESSAGE = _instance("a str or a dict", str, dict)
ANYTHING = _instance("any value", object)
WHOLE = Check("a whole number", _whole)
NUMBER = Check("a number", lambda value: value if type(value) in (int, float) else None)
TEXTS = Check("a list of str", _texts)
TEXT_PAIRS = Check("a dict of str to str", _text_pairs)
