"""JSON from strangers: strict, and bounded in depth and in what it costs in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib import import_module
from math import isfinite
from typing import Any, NoReturn

try:
    orjson: Any = import_module("orjson")
except ImportError:
    orjson = None

MAX_DEPTH = 64
"""Arrays and objects may be nested this deep, counted from the root of the body."""
MAX_WEIGHT = 1_000_000
"""Bound on what a body may cost as Python values: one a comma, two an array, three an object."""
LIGHT_BODY = 1 << 20
"""Bytes below which a body cannot cost much, whatever it holds."""


class DecodeError(ValueError):
    """A body that is refused as a whole. `status` is the HTTP status to answer; the text is one sentence."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def weight_of(body: bytes) -> int:
    """About how many values a body of JSON holds, those that cost more counted as several."""
    return body.count(b",") + 2 * body.count(b"[") + 3 * body.count(b"{")


def weigh(body: bytes) -> None:
    """Raise `DecodeError` (413) for a body whose JSON, wherever it stands in there, would cost too much as Python values."""
    if len(body) > LIGHT_BODY and weight_of(body) > MAX_WEIGHT:
        raise DecodeError(413, "The body holds too many values; send it in parts.")


def parse(body: bytes) -> tuple[Any, Callable[[Any], str]]:
    """The document, and what turns a part of it back into JSON text.

    That function raises `ValueError` for what JSON or UTF-8 cannot hold, `RecursionError` for too much depth. Raises
    `DecodeError`: 400 for what is not strict JSON, 413 for too many values.
    """
    weigh(body)
    if orjson is not None:
        try:
            return orjson.loads(body), _dump_quick
        except ValueError:
            pass  # the plain parser tells a lone surrogate in one event from a body that is no JSON
    return _parse_plain(body), dump_plain


Dump = Callable[[Any], str]
Make = Callable[[dict[str, Any], Any, "str | None", Dump], Any]


def parse_list(body: bytes, name: str, needed: str, make: Make) -> Any:
    """The object in a body, with what `make` makes of each item in the place of a list of this name.

    `make` is called with the object, of which it may read the member `needed`, an item, the text that the item was parsed
    from if that says the same as its value and nothing else, and what turns values back into text, as `parse` gives it.
    It may be called more than once for an item, and must keep nothing. What is no such object comes back as it is.
    The body must have been weighed. Raises as `parse` does, and what `make` raises.
    """
    try:
        if orjson is not None:
            return _made(orjson.loads(body), name, make, _dump_quick)
        return _scanned(body.decode(), name, needed, make)
    except DecodeError:
        raise
    except (ValueError, IndexError, RecursionError):
        pass  # what is odd about it, the plain parser tells better
    return _made(_parse_plain(body), name, make, dump_plain)


def _made(document: Any, name: str, make: Make, dump: Dump) -> Any:
    items = document.get(name) if isinstance(document, dict) else None
    if isinstance(items, list):
        document[name] = [make(document, item, None, dump) for item in items]
    return document


def _parse_plain(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), parse_constant=_no_constant)
    except RecursionError:
        too_deep()
    except UnicodeDecodeError:
        raise DecodeError(400, "The body is not valid UTF-8.") from None
    except ValueError as problem:
        raise DecodeError(400, f"The body is not JSON: {problem}.") from None


def dump_plain(value: Any) -> str:
    """JSON text; `ValueError` for a number that is not finite or a text with lone surrogates."""
    text = _dump(value)
    if not text.isascii():
        text.encode()  # a lone surrogate shows here, as a UnicodeEncodeError, which is a ValueError
    return text


def deeper_than(value: Any, limit: int) -> bool:
    """Whether arrays and objects are nested more than `limit` deep, `value` itself included."""
    level = [value]
    for _ in range(limit):
        level = [child for item in level if type(item) in _CONTAINERS for child in _children(item)]
        if not level:
            return False
    return any(type(item) in _CONTAINERS for item in level)


def too_deep() -> NoReturn:
    """Refuse a body for its depth."""
    raise DecodeError(400, f"The body is nested deeper than {MAX_DEPTH} levels.")


def is_text(value: str) -> bool:
    """Whether a string can be stored and sent as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


_CONTAINERS = (dict, list)


def _children(item: Any) -> Any:
    return item.values() if type(item) is dict else item


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError("out of range")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


# What is parsed was made by this package's own parsers, so that it goes round in no circle.
_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode
_scan = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_distinct).raw_decode
_space = re.compile(r"[ \t\n\r]*")


def _behind(text: str, at: int) -> int:
    """The place behind the space, if any, that begins at a place."""
    match = _space.match(text, at)
    return at if match is None else match.end()


def _scanned(text: str, name: str, needed: str, make: Make) -> dict[str, Any]:
    """As `parse_list`, item by item: the values of one are gone before the next is parsed.

    Raises `ValueError`, `IndexError` or `RecursionError` for a text that is no strict JSON or no such object, has a key twice
    or a number beyond a double somewhere, or names what is needed too late.
    """
    document: dict[str, Any] = {}
    at = _after(text, 0, "{")
    while True:
        if text[at] != '"':
            raise ValueError("no key")
        key, at = _scan(text, at)
        if key in document or (key == name and needed not in document):
            raise ValueError("in no order")
        at = _after(text, at, ":")
        if key == name:
            at = _after(text, at, "[")
            document[key], at = _items(text, at, document, make)
        else:
            document[key], at = _scan(text, at)
        at = _behind(text, at)
        if text[at] != ",":
            break
        at = _behind(text, at + 1)
    if _after(text, at, "}") != len(text):
        raise ValueError("more than an object")
    return document


def _items(text: str, at: int, document: dict[str, Any], make: Make) -> tuple[list[Any], int]:
    """What is made of the items of a list, from behind its bracket, and the place behind its end."""
    made: list[Any] = []
    if text[at] == "]":
        return made, at + 1
    while True:
        item, end = _scan(text, at)
        made.append(make(document, item, text[at:end], dump_plain))
        at = end if text[end] == "," else _behind(text, end)
        if text[at] == "]":
            return made, at + 1
        if text[at] != ",":
            raise ValueError("no list")
        at = _behind(text, at + 1)


def _after(text: str, at: int, mark: str) -> int:
    """The place of what comes behind a mark that must be at this place, or behind some space."""
    at = _behind(text, at)
    if text[at] != mark:
        raise ValueError(f"no {mark}")
    return _behind(text, at + 1)


def _dump_quick(value: Any) -> str:
    try:
        text: str = orjson.dumps(value).decode()
    except TypeError:  # it knows 64 bits and some 250 levels
        return dump_plain(value)
    return text
