"""Protobuf from strangers: OTLP's messages, read within bounds.

What the wire format itself forbids refuses the body. What is wrong with one span only (its ids, a text that is no UTF-8, a
value nested too deep) refuses that span. As protobuf has it, fields that are not known are skipped, the last of several
values of one field counts, and messages in a field that should come once are merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct

from agentscope.protocols.json_decode import MAX_WEIGHT, DecodeError, weigh

from .limits import DEEPEST_READ, LONGEST_SHOWN_ID, Wrong, check_ids
from .model import Span, SpanEvent, SpanGroup, Unreadable, Value

Extent = tuple[int, int]
"""Where a message lies in the body: its first byte and the one after its last. A merged message has several."""
Known = dict[int, int]
"""The tags that a message's reader looks for, by field number: each field has one wire type only."""

_MESSAGE_WEIGHT = 3  # beside one for each field: about what JSON of the same content would weigh
_MASK = (1 << 64) - 1
_fixed64 = Struct("<Q").unpack_from
_double = Struct("<d").unpack_from


def _known(*tags: int) -> Known:
    return {tag >> 3: tag for tag in tags}


_REQUEST = _LIST = _RESPONSE = _known(0x0A)
_RESOURCE_SPANS = _SCOPE_SPANS = _SCOPE = _KEY_VALUE = _known(0x0A, 0x12)
_SPAN = _known(0x0A, 0x12, 0x1A, 0x22, 0x2A, 0x30, 0x39, 0x41, 0x4A, 0x5A, 0x7A)
_EVENT = _known(0x09, 0x12, 0x1A)
_STATUS = _known(0x12, 0x18)
_ANY = _known(0x0A, 0x10, 0x18, 0x21, 0x2A, 0x32, 0x3A)
_PARTIAL = _known(0x08, 0x12)


def decode_request(body: bytes) -> list[SpanGroup]:
    """The spans of an `ExportTraceServiceRequest`, a group for each `ScopeSpans`.

    A span that is wrong by itself becomes `Unreadable`. Raises `DecodeError`: 400 for what is no such message, 413 for too
    many values.
    """
    weigh(body)  # attributes hold JSON that is parsed later, each by itself
    try:
        return _Reader(body).request()
    except Wrong as wrong:  # in what all spans of a group share
        raise DecodeError(400, f"The body is not OTLP: {wrong}.") from None


def decode_response(body: bytes) -> tuple[int, str] | None:
    """How many spans were rejected and why, of an `ExportTraceServiceResponse`; None if it is no such message."""
    try:
        rejected, message = _Reader(body).response()
    except (DecodeError, Wrong):
        return None
    return (rejected, message) if rejected >= 0 else None


class _Reader:
    """One body being read."""

    def __init__(self, body: bytes) -> None:
        self._data = body
        self._room = MAX_WEIGHT

    def request(self) -> list[SpanGroup]:
        groups: list[SpanGroup] = []
        for outer, a, b in self._fields(((0, len(self._data)),), _REQUEST):
            if outer != 0x0A:
                continue
            resources: list[Extent] = []
            scopes: list[Extent] = []
            for tag, c, d in self._fields(((a, b),), _RESOURCE_SPANS):
                if tag == 0x0A:
                    resources.append((c, d))
                elif tag == 0x12:
                    scopes.append((c, d))
            resource = self._key_values(resources, 1)
            groups += [self._scope_spans(extent, resource) for extent in scopes]
        return groups

    def response(self) -> tuple[int, str]:
        rejected, message = 0, (0, 0)
        partial = [(a, b) for tag, a, b in self._fields(((0, len(self._data)),), _RESPONSE) if tag == 0x0A]
        for tag, a, b in self._fields(partial, _PARTIAL):
            if tag == 0x08:
                rejected = _signed(a)
            elif tag == 0x12:
                message = a, b
        return rejected, self._text(message)

    def _scope_spans(self, extent: Extent, resource: dict[str, Value]) -> SpanGroup:
        scopes: list[Extent] = []
        spans: list[Span | Unreadable] = []
        for tag, a, b in self._fields((extent,), _SCOPE_SPANS):
            if tag == 0x0A:
                scopes.append((a, b))
            elif tag == 0x12:
                spans.append(self._span((a, b)))
        name = version = 0, 0
        for tag, a, b in self._fields(scopes, _SCOPE):
            if tag == 0x0A:
                name = a, b
            elif tag == 0x12:
                version = a, b
        return SpanGroup(resource, self._text(name), self._text(version), spans)

    def _span(self, extent: Extent) -> Span | Unreadable:
        try:
            return self._sound_span(extent)
        except Wrong as wrong:
            span_id = b""
            for tag, a, b in self._fields((extent,), _SPAN):
                if tag == 0x12:
                    span_id = self._data[a : min(b, a + LONGEST_SHOWN_ID // 2)]
            return Unreadable(span_id.hex(), str(wrong))

    def _sound_span(self, extent: Extent) -> Span:
        trace_id = span_id = parent = trace_state = name = 0, 0
        kind = start = end = 0
        attributes: dict[str, Value] = {}
        events: list[SpanEvent] = []
        statuses: list[Extent] = []
        for tag, a, b in self._fields((extent,), _SPAN):
            if tag == 0x4A:
                self._key_value((a, b), attributes, 1)
            elif tag == 0x0A:
                trace_id = a, b
            elif tag == 0x12:
                span_id = a, b
            elif tag == 0x22:
                parent = a, b
            elif tag == 0x2A:
                name = a, b
            elif tag == 0x30:
                kind = _enum(a)
            elif tag == 0x39:
                start = _fixed64(self._data, a)[0]
            elif tag == 0x41:
                end = _fixed64(self._data, a)[0]
            elif tag == 0x5A:
                events.append(self._event((a, b)))
            elif tag == 0x7A:
                statuses.append((a, b))
            elif tag == 0x1A:
                trace_state = a, b
        ids = check_ids(*(self._data[a:b].hex() for a, b in (trace_id, span_id, parent)))
        code, message = 0, (0, 0)
        for tag, a, b in self._fields(statuses, _STATUS):
            if tag == 0x12:
                message = a, b
            elif tag == 0x18:
                code = _enum(a)
        return Span(
            *ids,
            self._text(name),
            kind,
            start,
            end,
            attributes,
            code,
            self._text(message),
            events,
            self._text(trace_state),
        )

    def _event(self, extent: Extent) -> SpanEvent:
        name = 0, 0
        time_ns = 0
        attributes: dict[str, Value] = {}
        for tag, a, b in self._fields((extent,), _EVENT):
            if tag == 0x09:
                time_ns = _fixed64(self._data, a)[0]
            elif tag == 0x12:
                name = a, b
            elif tag == 0x1A:
                self._key_value((a, b), attributes, 1)
        return SpanEvent(self._text(name), time_ns, attributes)

    def _key_values(self, extents: Iterable[Extent], depth: int) -> dict[str, Value]:
        """What a `KeyValueList` holds, or a `Resource`, which begins like one."""
        found: dict[str, Value] = {}
        for tag, a, b in self._fields(extents, _LIST):
            if tag == 0x0A:
                self._key_value((a, b), found, depth)
        return found

    def _key_value(self, extent: Extent, into: dict[str, Value], depth: int) -> None:
        key = 0, 0
        values: list[Extent] = []
        for tag, a, b in self._fields((extent,), _KEY_VALUE):
            if tag == 0x0A:
                key = a, b
            elif tag == 0x12:
                values.append((a, b))
        into[self._text(key)] = self._any(values, depth) if values else None

    def _any(self, extents: Iterable[Extent], depth: int) -> Value:
        """An `AnyValue`. `depth` is the level that it would be as a list or a mapping.

        Its members exclude each other: the last one counts, and is merged with those of its own kind right before it.
        """
        member = value = 0
        places: list[Extent] = []
        for tag, a, b in self._fields(extents, _ANY):
            if tag >> 3 not in _ANY:
                continue
            if tag == member and tag in (0x2A, 0x32):
                places.append((a, b))
            else:
                member, value, places = tag, a, [(a, b)]
        if member == 0x0A:
            return self._text(places[-1])
        if member == 0x18:
            return _signed(value)
        if member == 0x10:
            return value != 0
        if member == 0x21:
            number: float = _double(self._data, value)[0]
            return number
        if member == 0x3A:
            return self._data[slice(*places[-1])]
        if member == 0:
            return None
        if depth > DEEPEST_READ:
            raise Wrong(f"a value is nested deeper than {DEEPEST_READ} levels")
        if member == 0x32:
            return self._key_values(places, depth + 1)
        return [self._any(((a, b),), depth + 1) for tag, a, b in self._fields(places, _LIST) if tag == 0x0A]

    def _fields(self, extents: Iterable[Extent], known: Known) -> Iterator[tuple[int, int, int]]:
        """The fields of a message, as (tag, a, b): a varint's value is `a`, anything else lies between `a` and `b`."""
        data = self._data
        self._spend(_MESSAGE_WEIGHT)
        for position, end in extents:
            while position < end:
                try:
                    tag = data[position]
                    position += 1
                    if tag > 127:
                        tag, position = self._varint(position - 1)
                    kind = tag & 7
                    if kind == 2:
                        size = data[position]
                        position += 1
                        if size > 127:
                            size, position = self._varint(position - 1)
                    elif kind == 0:
                        size = 0
                        value = data[position]
                        position += 1
                        if value > 127:
                            value, position = self._varint(position - 1)
                    elif kind == 1:
                        size = 8
                    elif kind == 5:
                        size = 4
                    else:
                        raise _malformed("it has a group, or a field of an unknown type")
                except IndexError:
                    raise _malformed("it is truncated") from None
                start, position = position, position + size
                if position > end:
                    raise _malformed("it is truncated")
                if not 8 <= tag < 1 << 32 or known.get(tag >> 3, tag) != tag:
                    raise _malformed("a field has an impossible number or type")
                self._spend(1)
                yield tag, start if kind else value, position

    def _varint(self, position: int) -> tuple[int, int]:
        """The number that begins here, of 64 bits, and where it ends. Raises `IndexError` at the end of the body."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._data[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & _MASK, position
        raise _malformed("a number is longer than 64 bits")

    def _text(self, extent: Extent) -> str:
        try:
            return self._data[extent[0] : extent[1]].decode()
        except UnicodeDecodeError:
            raise Wrong("a text is not valid UTF-8") from None

    def _spend(self, weight: int) -> None:
        self._room -= weight
        if self._room < 0:
            raise DecodeError(413, "The body holds too many values; send it in parts.")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _enum(value: int) -> int:
    """An enum has 32 bits, and keeps numbers that nobody has named yet."""
    value &= (1 << 32) - 1
    return value - (1 << 32) if value >> 31 else value


def _malformed(why: str) -> DecodeError:
    return DecodeError(400, f"The body is not protobuf: {why}.")
