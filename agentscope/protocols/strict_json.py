"""JSON from strangers: strict, and bounded in depth and in what it costs in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
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


def weigh(body: bytes) -> None:
    """Raise `DecodeError` (413) for a body whose JSON, wherever it stands in there, would cost too much as Python values."""
    if len(body) > LIGHT_BODY and body.count(b",") + 2 * body.count(b"[") + 3 * body.count(b"{") > MAX_WEIGHT:
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
    try:
        return json.loads(body.decode(), parse_constant=_no_constant), dump_plain
    except RecursionError:
        too_deep()
    except UnicodeDecodeError:
        raise DecodeError(400, "The body is not valid UTF-8.") from None
    except ValueError as problem:
        raise DecodeError(400, f"The body is not JSON: {problem}.") from None


def dump_plain(value: Any) -> str:
    """JSON text; `ValueError` for a number that is not finite or a text with lone surrogates."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
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


def _dump_quick(value: Any) -> str:
    try:
        text: str = orjson.dumps(value).decode()
    except TypeError:  # it knows 64 bits and some 250 levels
        return dump_plain(value)
    return text
