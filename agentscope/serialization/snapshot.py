"""Snapshots: any value at all as bounded, strict JSON, made in the agent's own thread at the call.

What is mutated after the call must not change what is sent, and nothing of the agent's may break here. Plain JSON goes
through a quick check of its size and types and then through a C encoder: orjson when it can be imported, else the
standard library's. Everything else is rendered by `rendering`, slower and just as bounded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from json import encoder as _stdlib
from sys import float_info
from typing import Any

from .depth import is_deeper
from .exceptions import describe_exception
from .fallback import MAX_DEPTH, MAX_NODES, render
from .text import text

__all__ = ["describe_exception", "encode", "prepare", "text"]

_Dumps = Callable[[object], bytes]

_MAX_FLOAT = float_info.max
_CONSTANTS = frozenset({bool, type(None)})
_UNRENDERED = b'"<cannot be rendered>"'


def encode(value: object, limit: int = 1 << 20) -> tuple[bytes, bool]:
    """Render `value` as JSON: UTF-8 without NaN, lone surrogates or integers beyond 64 bits.

    Returns the bytes, at most `limit` of them (or 96, if that is more), and whether anything was lost: cut, replaced by
    a placeholder, or a key renamed. A rendering that tells the whole value in JSON's terms (a set as an array, a
    dataclass as an object, a datetime in ISO 8601, an unknown object as its `repr`) loses nothing; nor does a field
    that its class keeps out of its own `repr` (`repr=False`, pydantic's `exclude=True`), which shows as "<hidden>".

    Raises nothing but KeyboardInterrupt, whatever the value does.
    """
    try:
        encoded = _plain(value, limit, MAX_DEPTH, MAX_NODES)[0]
        return (encoded, False) if encoded is not None else render(value, limit, _plain)
    except KeyboardInterrupt:
        raise
    except BaseException:  # near the interpreter's recursion limit, or out of memory
        return _UNRENDERED, True


def _plain(value: object, limit: int, max_depth: int, max_nodes: int) -> tuple[bytes | None, int]:
    """Encode `value` if it is plain JSON within the bounds, else None: it takes the careful way. Also how many values
    were looked at. Another thread may change the value meanwhile: what comes out is valid JSON all the same."""
    nodes = _count_plain(value, limit, max_depth, max_nodes)
    if nodes < 0:
        return None, -nodes
    try:
        encoded = _dumps(value)
    except (TypeError, ValueError, RuntimeError):
        # A lone surrogate, or too little stack left, or no longer plain.
        return None, nodes
    return (encoded if len(encoded) <= limit else None), nodes


def _count_plain(value: object, limit: int, max_depth: int, max_nodes: int) -> int:
    """How many values are in `value`; negative if it is not made of exactly JSON's types within the bounds.

    Runs no foreign code but `len()` of a key that is no str. Its price is added to a C encoder's at every call: the
    loop does as little as can be.
    """
    found: list[Any] = [value]
    add = found.extend
    dicts: list[dict[str, object]] = []
    lists = 0
    room = limit
    try:
        for item in found:  # which grows meanwhile
            kind = type(item)
            if kind is str:
                room -= len(item)
            elif kind is dict:
                dicts.append(item)
                if len(item) > max_nodes or len(found) > max_nodes or room < 0:
                    return -max_nodes
                add(item.values())
            elif kind is list or kind is tuple:
                lists += 1
                if len(item) > max_nodes or len(found) > max_nodes or room < 0:
                    return -max_nodes
                add(item)
            elif kind is int:
                if not -0x8000_0000_0000_0000 <= item <= 0xFFFF_FFFF_FFFF_FFFF:
                    return -len(found)
            elif kind is float:
                if not -_MAX_FLOAT <= item <= _MAX_FLOAT:  # nor is NaN
                    return -len(found)
            elif kind not in _CONSTANTS:
                return -len(found)
        nodes = len(found)
        if dicts and room >= 0:
            keys = dicts[0] if len(dicts) == 1 else chain.from_iterable(dicts)
            room -= sum(map(len, keys))  # the encoder refuses keys that have a length and are no str
        if nodes > max_nodes or room < 0 or (lists + len(dicts) > max_depth and is_deeper(value, max_depth)):
            return -nodes
    except Exception:  # TypeError: a key that is no str; RuntimeError: another thread resized a dict
        return -len(found)
    return nodes


def _refuse(value: object) -> object:
    raise TypeError(type(value))


def _standard_dumps() -> _Dumps:
    make = getattr(_stdlib, "c_make_encoder", None)
    if make is None:
        encode_text = json.JSONEncoder(
            ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
        ).encode
        return lambda value: encode_text(value).encode()
    # What JSONEncoder.encode() builds anew at each call, built once: half of the price of a small payload.
    chunks = make(None, _refuse, _stdlib.encode_basestring, None, ":", ",", False, False, False)
    join = "".join
    return lambda value: join(chunks(value, 0)).encode()


def _fast_dumps() -> _Dumps | None:
    try:
        from orjson import dumps
    except Exception:
        return None
    # A copy, because orjson returns the buffer it grew: kept in a queue, it costs eight times its length.
    return lambda value: b"%b" % dumps(value)


def _choose_dumps(value: object) -> bytes:
    """Stands for the encoder until it is chosen, so that importing agentscope imports nothing else."""
    prepare()
    return _dumps(value)


def prepare() -> None:
    """Choose the encoder now, and not at the first call: that may be a signal handler's, and imports take locks."""
    global _dumps
    if _dumps is _choose_dumps:
        _dumps = _fast_dumps() or _standard_dumps()


_dumps: _Dumps = _choose_dumps
