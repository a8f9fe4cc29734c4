"""Snapshots: any value at all as bounded, strict JSON, made in the agent's own thread at the call.

What is mutated after the call must not change what is sent, and nothing of the agent's may break here. Plain JSON goes
through a quick check of its size and types and then through a C encoder: orjson when it can be imported, else the
standard library's. Everything else is rendered by `fallback`, slower and just as bounded.

While the worker has time, plain JSON is only *sealed* at the call: `marshal` copies it for a sixth of the price of the
encoder, and the worker makes the JSON of the copy. Under load the JSON is made at the call all the same, because the work of
one thread holds up all others.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Callable
from itertools import chain
from json import encoder as _stdlib
from sys import float_info
from typing import Any

from . import foreign
from .depth import MAX_DEPTH, MAX_NODES, is_deeper
from .foreign import is_hosts
from .text import text

__all__ = ["encode", "is_sealed", "prepare", "seal", "text", "unsealed"]

_Dumps = Callable[[object], bytes]

_MAX_FLOAT = float_info.max
_CONSTANTS = frozenset({bool, type(None)})
_CHARACTER, _VALUE = 6, 5
"""The most JSON bytes of one character; and those of a number with its separators, in units of `_CHARACTER`."""
SEAL = b"\x80"
"""The first byte of a sealed payload is at least this one."""
_UNRENDERED = b'"<cannot be rendered>"'


def encode(value: object, limit: int = 1 << 20) -> tuple[bytes, bool]:
    """Encode any value as JSON: UTF-8 without NaN, lone surrogates or integers beyond 64 bits.

    Returns the bytes, at most `max(limit, 96)`, and True if anything was lost: cut, replaced by a placeholder, or a key
    renamed. Nothing is lost by a conversion to JSON's types (a set to an array, a dataclass to an object, a datetime to
    ISO 8601, an unknown object to its `repr`), nor by "<hidden>" for a field that its class excludes from its own `repr`
    (`repr=False`, pydantic's `exclude=True`).

    Raises no `Exception` but the host's, whatever code of the value does.
    """
    try:
        encoded = _plain(value, limit, MAX_DEPTH, MAX_NODES)[0]
        if encoded is not None:
            return encoded, False
        from .fallback import render  # `prepare` has imported it; `import agentscope` alone does not pay for it

        return render(value, limit, _plain)
    except Exception as error:  # near the interpreter's recursion limit, or out of memory
        if is_hosts(error):
            raise
        return _UNRENDERED, True


def seal(value: object, limit: int) -> bytes | None:
    """Copy a plain value, for `unsealed` to make its JSON later.

    Returns None for a value that is not plain, for one whose JSON may have more than `limit` bytes, and always with orjson, which
    is as quick.
    """
    if not _seals:
        return None
    # This is not `_count_plain`: the further things that it finds out would cost a third more.
    level: list[Any] = [value]
    depth = 0
    room = limit // _CHARACTER - _VALUE
    try:
        while level:
            depth += 1
            inside: list[Any] = []
            add = inside.extend
            for item in level:
                kind = type(item)
                if kind is str:
                    room -= len(item)
                elif kind is dict:
                    room -= sum(map(len, item)) + _VALUE * len(item)
                    if room < 0:
                        return None
                    add(item.values())
                elif kind is list or kind is tuple:
                    room -= _VALUE * len(item)
                    if room < 0:
                        return None
                    add(item)
                elif kind is int:
                    if not -0x8000_0000_0000_0000 <= item <= 0xFFFF_FFFF_FFFF_FFFF:
                        return None
                elif kind is not float and kind not in _CONSTANTS:
                    return None
            level = inside
        if room < 0 or depth > MAX_DEPTH:
            return None
        sealed = marshal.dumps(value)  # type: ignore[arg-type]  # it refuses other types by a ValueError
    except Exception as error:  # a key without a length, another thread changes the value, or out of memory
        if is_hosts(error):
            raise
        return None
    return sealed if is_sealed(sealed) else None


def is_sealed(payload: bytes) -> bool:
    """Tell a sealed payload from JSON.

    `marshal` sets the highest bit of the first byte of an object with several references, as an argument has. The first
    character of our JSON is ASCII.
    """
    return payload[:1] >= SEAL


def unsealed(payload: bytes) -> tuple[bytes, bool]:
    """Return the JSON of a payload, sealed or not, and True if anything was lost."""
    if not is_sealed(payload):
        return payload, False
    value = marshal.loads(payload)  # noqa: S302 - `seal` made it in this very process
    try:
        return _dumps(value), False
    except (TypeError, ValueError, RuntimeError):
        # NaN, a lone surrogate, or changed by another thread while it was sealed.
        return encode(value, 1 << 30)


def _plain(value: object, limit: int, max_depth: int, max_nodes: int) -> tuple[bytes | None, int]:
    """Encode `value` if it is plain JSON within the bounds. Returns the bytes or None, and the number of values examined.

    Another thread may change the value meanwhile; the result is valid JSON all the same.
    """
    nodes = _count_plain(value, limit, max_depth, max_nodes)
    if nodes < 0:
        return None, -nodes
    try:
        encoded = _dumps(value)
    except (TypeError, ValueError, RuntimeError) as error:
        # A lone surrogate, or too little stack left, or no longer plain.
        if is_hosts(error):
            raise
        return None, nodes
    return (encoded if len(encoded) <= limit else None), nodes


def _count_plain(value: object, limit: int, max_depth: int, max_nodes: int) -> int:
    """Count the values in `value`; the result is negative if its types are not exactly JSON's or a bound is exceeded.

    The only foreign code that may run is `len()` of a key that is no str. This loop costs about as much as the C encoder, so it
    does the least possible.
    """
    found: list[Any] = [value]
    add = found.extend
    dicts: list[dict[str, object]] = []
    lists = 0
    room = limit
    try:
        for item in found:  # the loop itself extends the list
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
            room -= sum(map(len, keys))  # keys of another type with a length are refused by the encoder
        if nodes > max_nodes or room < 0 or (lists + len(dicts) > max_depth and is_deeper(value, max_depth)):
            return -nodes
    except Exception as error:  # TypeError: a key that is no str; RuntimeError: another thread resized a dict
        if is_hosts(error):
            raise
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
    # Built once, while JSONEncoder.encode() builds it for each call: half of the time of a small payload.
    chunks = make(None, _refuse, _stdlib.encode_basestring, None, ":", ",", False, False, False)
    join = "".join
    return lambda value: join(chunks(value, 0)).encode()


def _fast_dumps() -> _Dumps | None:
    try:
        from orjson import dumps
    except Exception as error:
        if is_hosts(error):
            raise
        return None
    # A copy, because orjson returns its oversized buffer, which takes up to eight times its length in the queue.
    return lambda value: b"%b" % dumps(value)


def _choose_dumps(value: object) -> bytes:
    """Stands for the encoder until it is chosen, so that importing agentscope imports nothing else."""
    prepare()
    return _dumps(value)


def prepare() -> None:
    """Import everything, and choose the encoder, now and not at the first call: that may be a signal handler's, and imports
    take locks."""
    global _dumps, _seals
    from . import exceptions, fallback  # noqa: F401 - loaded here, used later

    foreign.prepare()
    if _dumps is _choose_dumps:
        fast = _fast_dumps()
        _dumps, _seals = fast or _standard_dumps(), fast is None


_dumps: _Dumps = _choose_dumps
_seals = False
"""True if the chosen encoder is the standard library's."""
