"""The slow encoder, for values that are not plain JSON, are too large, or run foreign code.

The result is bounded in bytes, depth, number of values and time. Calls of foreign code are guarded. JSON is written piece by
piece, so that the bound holds for the bytes themselves and not for an estimate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from enum import Enum
from reprlib import Repr
from time import perf_counter_ns, thread_time_ns
from typing import Any

from .adapters import Form, Items, Pairs, Placeholder, Replacement, bytes_text, json_form, read_member
from .depth import MAX_DEPTH, MAX_NODES
from .foreign import is_hosts
from .text import class_name, replace_surrogates

_MAX_SLOW_NODES = 20_000  # values that are encoded one by one, which takes microseconds each
_MAX_SLOW_MEMBERS = 5_000  # of one container that is encoded member by member: to read more takes most of the time
_CPU_NS, _WALL_NS = 6_000_000, 200_000_000
"""The time for one rendering, in nanoseconds: of the processor, because a small value must be whole on a busy machine, too; and
of the clock, because foreign code may wait."""
_NODES_A_LOOK = 32  # values between two looks at the clocks
MIN_INT, MAX_INT = -(2**63), 2**64 - 1
"""Range of integers that every reader of the wire takes."""

Plain = Callable[[object, int, int, int], "tuple[bytes | None, int]"]
"""The fast encoder: `plain(value, limit, max_depth, max_nodes)` returns the JSON or None, and the number of values it saw."""

_LEAST = 96  # bytes, which are enough for the placeholder of any value
_SHARE = 4096  # bytes that a large member gets at least, so that the first of many are whole instead of all cut
_SMALL = 64  # characters of a string that is encoded before room is shared out
_MAX_KEY = 256  # characters
_MAX_BITS = 1024  # of an integer whose digits are written
_SCALARS = frozenset({str, int, float, bool, type(None)})

_quote = json.JSONEncoder(ensure_ascii=False).encode
_brief = Repr()
_brief.maxtuple = _brief.maxfrozenset = 16
_brief.maxstring = _brief.maxother = _MAX_KEY


def render(value: object, limit: int, plain: Plain) -> tuple[bytes, bool]:
    """Return JSON of `value`, at most `max(limit, 96)` bytes, and True for a loss. Raises only the host's exceptions."""
    renderer = _Renderer(plain, fair=False)
    try:
        return renderer.value(value, limit, 1), renderer.lossy
    except _NoRoom:  # only a value that does not fit as a whole is cut, each member to its share
        renderer = _Renderer(plain, fair=True)
        return renderer.value(value, limit, 1), renderer.lossy


class _NoRoom(Exception):
    """Raised when the value does not fit into the limit as a whole."""


def quote(value: str) -> tuple[bytes, bool]:
    """Return `value` as a JSON string, and True if surrogates had to be replaced."""
    try:
        return _quote(value).encode(), False
    except UnicodeEncodeError:
        return _quote(replace_surrogates(value)).encode(), True


class _Renderer:
    """The state of one rendering. Methods that take `room` return at most `max(room, _LEAST)` bytes.

    With `fair`, members share the room; without, the first that does not fit raises `_NoRoom`.
    """

    def __init__(self, plain: Plain, fair: bool) -> None:
        self.lossy = False
        self._cpu_until = thread_time_ns() + _CPU_NS
        self._wall_until = perf_counter_ns() + _WALL_NS
        self._fair = fair
        self._plain = plain
        self._nodes = _MAX_SLOW_NODES
        self._tries = MAX_NODES // 2  # values that the fast encoder may examine in vain before it is no longer tried
        self._open: set[int] = set()  # ids of the containers around the current value, to detect cycles

    def value(self, value: Any, room: int, depth: int) -> bytes:
        """Render `value`, which stands inside `depth - 1` containers."""
        self._count_node()
        room = max(room, _LEAST)
        kind = type(value)
        try:
            if kind in _SCALARS:
                return self._scalar(value, room)
            if kind is Placeholder:
                return self._form(value, room, depth)
            if id(value) in self._open:
                return self._placeholder("<cycle>")
            if 1 < depth <= MAX_DEPTH and self._tries > 0 and (kind is dict or kind is list or kind is tuple):
                encoded, seen = self._plain(value, room, MAX_DEPTH - depth + 1, MAX_NODES)
                if encoded is not None:
                    return encoded
                self._tries -= seen
            self._open.add(id(value))
            try:
                return self._form(
                    json_form(value, room, min(room // 2, self._nodes, _MAX_SLOW_MEMBERS) + 1), room, depth
                )
            finally:
                self._open.discard(id(value))
        except _NoRoom:
            raise
        except Exception as error:
            if is_hosts(error):
                raise
            return self._placeholder(f"<{class_name(value)}: cannot be rendered>")

    def _count_node(self) -> None:
        self._nodes -= 1
        if self._nodes % _NODES_A_LOOK == 0 and self._is_late():
            self._nodes = 0

    def _is_late(self, kept: int = 0) -> bool:
        """Return whether at most `kept` nanoseconds of the time are left."""
        return thread_time_ns() + kept > self._cpu_until or perf_counter_ns() > self._wall_until

    def _form(self, form: Form, room: int, depth: int) -> bytes:
        if isinstance(form, Placeholder):
            self.lossy = True
            return self._text(form.text, room)
        if not isinstance(form, (Items, Pairs, Replacement)):
            return self._scalar(form, room)
        if depth > MAX_DEPTH:
            return self._placeholder("<too deep>")
        if isinstance(form, Replacement):
            return self.value(form.value, room, depth + 1)
        room -= 2 + _LEAST  # for the brackets, and for a placeholder if members are left out
        if isinstance(form, Items):
            parts, cut = self._members([(b"", item) for item in form.items], room, depth)
            if cut := cut + form.total - len(form.items):
                parts.append(self._placeholder(f"…[cut: {cut} items]"))
            return b"[%b]" % b",".join(parts)
        entries = self._unique_keys(form.pairs)
        parts, cut = self._members(entries, room, depth)
        if cut := cut + form.total - len(entries):
            name = "…[cut]"
            while any(prefix == quote(name)[0] + b":" for prefix, _ in entries):
                name = f"…{name}"
            parts.append(quote(name)[0] + b":" + self._placeholder(f"{cut} keys"))
        return b"{%b}" % b",".join(parts)

    def _members(self, entries: list[tuple[bytes, Any]], room: int, depth: int) -> tuple[list[bytes], int]:
        """Render pairs of (key with its colon, or empty; value), in order. Returns the parts and the number that had no room."""
        parts = [b""] * len(entries)
        later: list[int] = []
        cut = 0
        for index, (prefix, value) in enumerate(entries):
            if self._nodes <= 0:
                cut += 1
            elif type(value) not in _SCALARS or (type(value) is str and len(value) > _SMALL):
                later.append(index)
            else:
                self._count_node()
                part = prefix + self._scalar(value, 6 * _SMALL + 2)
                if len(part) < room:
                    parts[index] = part
                    room -= len(part) + 1
                else:
                    cut += self._no_room()
        for done, index in enumerate(later):
            prefix, value = entries[index]
            free = room - len(prefix) - 1
            if self._nodes <= 0:
                cut += 1
            elif free < _LEAST:
                cut += self._no_room()
            else:
                share = max(free // (len(later) - done), min(free, _SHARE)) if self._fair else free
                parts[index] = part = prefix + self.value(value, share, depth + 1)
                room -= len(part) + 1
        return [part for part in parts if part], cut

    def _unique_keys(self, pairs: list[tuple[object, object]]) -> list[tuple[bytes, Any]]:
        """Return each pair with its key as `"key":`. Keys are made unique by renaming those that are not plain strings.

        Pairs for which there is no time are left out.
        """
        entries: list[tuple[bytes, Any]] = []
        taken = {key for key, _ in pairs if type(key) is str}
        counts: dict[str, int] = {}
        for key, value in pairs:
            if len(entries) % _NODES_A_LOOK == 31 and self._is_late(_CPU_NS // 2):
                break  # the other half is for the values
            name, is_faithful = _key(key)
            if not is_faithful:
                self.lossy = True
            if not is_faithful or type(key) is not str:
                unique = name
                while unique in taken:
                    self.lossy = True
                    counts[name] = count = counts.get(name, 0) + 1
                    unique = f"{name} ({class_name(key)}{f' {count}' if count > 1 else ''})"
                taken.add(unique)
                name = unique
            entries.append((quote(name)[0] + b":", value))
        return entries

    def _scalar(self, value: bool | int | float | str | None, room: int) -> bytes:
        if isinstance(value, str):
            return self._text(value, room)
        if value is None:
            return b"null"
        if isinstance(value, bool):
            return b"true" if value else b"false"
        if isinstance(value, float):
            if math.isfinite(value):
                return repr(value).encode()
            return self._placeholder("NaN" if value != value else "Infinity" if value > 0 else "-Infinity")
        if MIN_INT <= value <= MAX_INT:
            return b"%d" % value
        if (bits := value.bit_length()) > _MAX_BITS:
            return self._placeholder(f"<int of {bits} bits>")
        return b'"%d"' % value

    def _no_room(self) -> int:
        if not self._fair:
            raise _NoRoom
        return 1

    def _placeholder(self, text: str) -> bytes:
        self.lossy = True
        encoded = quote(text)[0]
        return encoded if len(encoded) <= _LEAST else self._cut(text, _LEAST)

    def _text(self, value: str, room: int) -> bytes:
        if len(value) <= room:
            encoded, is_lossy = quote(value)
            if len(encoded) <= room:
                self.lossy |= is_lossy
                return encoded
        self._no_room()
        return self._cut(value, room)

    def _cut(self, value: str, room: int) -> bytes:
        self.lossy = True
        mark = f"…[cut: {len(value)} characters]".encode()
        room -= len(mark) + 2
        parts = []
        position = 0
        # A character takes at most six bytes, so every piece fits, and the room shrinks by a sixth at least each time.
        while piece := value[position : position + room // 6]:
            encoded = quote(piece)[0][1:-1]
            parts.append(encoded)
            room -= len(encoded)
            position += len(piece)
        return b'"%b%b"' % (b"".join(parts), mark)


def _key(key: Any) -> tuple[str, bool]:
    """Return the name of `key` in a JSON object, and True if it represents the key without loss."""
    kind = type(key)
    if issubclass(kind, str):
        name: Any = str.__getitem__(key, slice(None))
    elif issubclass(kind, bytes) and (decoded := bytes_text(bytes(key))) is not None:
        name = decoded
    elif issubclass(kind, (tuple, frozenset, bytes)):
        name = read_member(lambda: _brief.repr(key), "key")
    else:
        name = read_member(lambda: str(key.value if issubclass(kind, Enum) else key), "key")
    if isinstance(name, Placeholder):
        return name.text, False
    if len(name) > _MAX_KEY:
        return f"{name[:_MAX_KEY]}…", False
    return name, not quote(name)[1]
