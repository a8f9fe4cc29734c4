"""The decoder of untrusted JSON: strict, and bounded in depth and memory."""

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
"""Bound on the nesting of arrays and objects, counted from the root of the body."""
MAX_WEIGHT = 1_000_000
"""Bound on the memory that a body takes as Python values, in units: 1 per comma, 2 per array, 3 per object."""
LIGHT_BODY = 1 << 20
"""Bytes below which no body takes much memory."""


class DecodeError(ValueError):
    """Raised for a body that is refused as a whole. `status` is the HTTP status of the answer, the text one sentence."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Rejected(ValueError):
    """Raised for one item of a body that cannot be read or stored. The text is the reason, for the sender."""


def weight_of(body: bytes) -> int:
    """Estimate the memory that a JSON body takes as Python values, in the units of `MAX_WEIGHT`."""
    return body.count(b",") + 2 * body.count(b"[") + 3 * body.count(b"{")


def too_many() -> DecodeError:
    """The error for a body that would take too much memory as Python values."""
    return DecodeError(413, "The body holds too many values; send it in parts.")


def weigh(body: bytes) -> None:
    """Raise `too_many` for a body that would take too much memory as Python values."""
    if len(body) > LIGHT_BODY and weight_of(body) > MAX_WEIGHT:
        raise too_many()


def parse(body: bytes) -> tuple[Any, Callable[[Any], str]]:
    """Return the document, and a function that turns a part of it back into JSON text.

    The function raises `ValueError` for a value that JSON or UTF-8 cannot hold, and `RecursionError` for too much depth. Raises
    `DecodeError`: 400 for a body that is no strict JSON, 413 for too many values.
    """
    weigh(body)
    if orjson is not None:
        try:
            return orjson.loads(body), _dump_quick
        except ValueError:
            pass  # the plain parser accepts a lone surrogate, which spoils one event only
    return _parse_plain(body), dump_plain


Dump = Callable[[Any], str]
Make = Callable[[dict[str, Any], Any, "str | None", Dump], Any]


def parse_list(body: bytes, name: str, needed: str, make: Make) -> Any:
    """Return the object in a body, with each item of the list `name` replaced by `make(document, item, text, dump)`.

    The body must have been weighed. Any other document is returned unchanged. Raises as `parse` and `make` do. The arguments of
    `make`, which may be called twice for an item: the document, of which it may read the member `needed`; the item; the JSON text
    of the item, or None; and the function that `parse` returns.
    """
    try:
        if orjson is not None:
            return _with_items(orjson.loads(body), name, make, _dump_quick)
        return _scan_object(body.decode(), name, needed, make)
    except DecodeError:
        raise
    except (ValueError, IndexError, RecursionError):
        pass  # parsed again below, which names the problem or accepts the oddity
    return _with_items(_parse_plain(body), name, make, dump_plain)


def _with_items(document: Any, name: str, make: Make, dump: Dump) -> Any:
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
    """Return JSON text. Raises `ValueError` for a number that is not finite or a text with lone surrogates."""
    text = _dump(value)
    if not text.isascii():
        text.encode()  # raises UnicodeEncodeError, a ValueError, for a lone surrogate
    return text


def too_deep() -> NoReturn:
    """Raise the error for a body that is nested too deep."""
    raise DecodeError(400, f"The body is nested deeper than {MAX_DEPTH} levels.")


def is_text(value: str) -> bool:
    """Return True if a string can be encoded as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


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


# check_circular is off, since the values come from a parser.
_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode
_scan = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_distinct).raw_decode
_space = re.compile(r"[ \t\n\r]*")


def _skip_space(text: str, at: int) -> int:
    """Return the position after any white space at a position."""
    match = _space.match(text, at)
    return at if match is None else match.end()


def _scan_object(text: str, name: str, needed: str, make: Make) -> dict[str, Any]:
    """Do the work of `parse_list` item by item: memory holds the values of one item.

    Raises `ValueError`, `IndexError` or `RecursionError` for a text that is no strict JSON object, repeats a key, has a number
    beyond a double, or has the list before the member `needed`.
    """
    document: dict[str, Any] = {}
    at = _skip_mark(text, 0, "{")
    while True:
        if text[at] != '"':
            raise ValueError("no key")
        key, at = _scan(text, at)
        if key in document or (key == name and needed not in document):
            raise ValueError("in no order")
        at = _skip_mark(text, at, ":")
        if key == name:
            at = _skip_mark(text, at, "[")
            document[key], at = _scan_items(text, at, document, make)
        else:
            document[key], at = _scan(text, at)
        at = _skip_space(text, at)
        if text[at] != ",":
            break
        at = _skip_space(text, at + 1)
    if _skip_mark(text, at, "}") != len(text):
        raise ValueError("more than an object")
    return document


def _scan_items(text: str, at: int, document: dict[str, Any], make: Make) -> tuple[list[Any], int]:
    """Return the made items of a list, and the position after it. `at` is the position after its bracket."""
    made: list[Any] = []
    if text[at] == "]":
        return made, at + 1
    while True:
        item, end = _scan(text, at)
        made.append(make(document, item, text[at:end], dump_plain))
        at = end if text[end] == "," else _skip_space(text, end)
        if text[at] == "]":
            return made, at + 1
        if text[at] != ",":
            raise ValueError("no list")
        at = _skip_space(text, at + 1)


def _skip_mark(text: str, at: int, mark: str) -> int:
    """Return the position after a mark, and the white space around it, that must stand at this position."""
    at = _skip_space(text, at)
    if text[at] != mark:
        raise ValueError(f"no {mark}")
    return _skip_space(text, at + 1)


def _dump_quick(value: Any) -> str:
    try:
        text: str = orjson.dumps(value).decode()
    except TypeError:  # an integer beyond 64 bits, or more than about 250 levels
        return dump_plain(value)
    return text
