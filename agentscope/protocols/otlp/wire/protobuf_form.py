"""OTLP in protobuf, by hand: faster than the library, and without its version in the user's environment.

The messages are those of opentelemetry-proto, packages `collector.trace.v1`, `trace.v1`, `resource.v1` and `common.v1`; a
number in a comment is the field's. The encoding: https://protobuf.dev/programming-guides/encoding/. Requests are read by the
receiver only, which has opentelemetry-proto for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from struct import Struct

from .limits import DEEPEST_SENT, HIGHEST_INT, LOWEST_INT, as_text, digits, in_time, utf8
from .model import Span, SpanEvent, Value

CONTENT_TYPE = "application/x-protobuf"

_MASK = (1 << 64) - 1
_ONE = [bytes((number,)) for number in range(128)]
_TEXT_HEAD = [bytes((size + 2, 0x0A, size)) for size in range(126)]
"""The length and the head of an `AnyValue` with a text, for each short length of the text."""
_KEYS: dict[str, bytes] = {}
"""The encoded beginning of a `KeyValue` by attribute name. A program sends few different names."""
_MOST_KEYS, _LONGEST_KEY = 1024, 64
_double = Struct("<d").pack
_fixed64 = Struct("<Q").pack
_times = Struct("<BQBQ").pack


def encode_span(span: Span) -> bytes:
    """Encode a `Span` without its tag in a request. Raises `ValueError` for ids that are not hexadecimal."""
    name = utf8(span.name)
    parts = [_field(b"\x0a", bytes.fromhex(span.trace_id)), _field(b"\x12", bytes.fromhex(span.span_id))]  # 1, 2
    if span.trace_state:
        parts.append(_field(b"\x1a", utf8(span.trace_state)))  # 3
    if span.parent_span_id:
        parts.append(_field(b"\x22", bytes.fromhex(span.parent_span_id)))  # 4
    parts += (b"\x2a", _varint(len(name)), name, b"\x30", _varint(span.kind & _MASK))  # 5, 6
    parts.append(_times(0x39, in_time(span.start_ns), 0x41, in_time(span.end_ns)))  # 7, 8
    _attributes(b"\x4a", span.attributes, parts)  # 9
    for event in span.events:
        parts.append(_field(b"\x5a", _event(event)))  # 11
    status = _field(b"\x12", utf8(span.status_message)) if span.status_message else b""  # 2
    if span.status:
        status += b"\x18" + _varint(span.status & _MASK)  # 3
    if status:
        parts.append(_field(b"\x7a", status))  # 15
    return b"".join(parts)


def encode_request(spans: Sequence[bytes], resource: Mapping[str, Value], scope_name: str, scope_version: str) -> bytes:
    """Encode an `ExportTraceServiceRequest` of one resource and one scope around spans from `encode_span`."""
    about: list[bytes] = []
    _attributes(b"\x0a", resource, about)
    scope = _field(b"\x0a", utf8(scope_name)) + _field(b"\x12", utf8(scope_version))
    inner = [_field(b"\x0a", scope)]
    for span in spans:
        inner += (b"\x12", _varint(len(span)), span)
    size = sum(map(len, inner))
    head = b"%b\x12%b" % (_field(b"\x0a", b"".join(about)), _varint(size))
    return b"".join((b"\x0a", _varint(len(head) + size), head, *inner))


def encode_response(rejected: int, message: str, what: str = "Spans") -> bytes:
    """Encode an `ExportTraceServiceResponse` that tells how many spans were rejected, and why; empty without any.

    The responses to logs and metrics have the same fields, whatever was rejected.
    """
    partial = b"\x08" + _varint(rejected) if rejected else b""  # 1
    if message:
        partial += _field(b"\x12", utf8(message))  # 2
    return _field(b"\x0a", partial) if partial else b""


def encode_status(message: str) -> bytes:
    """Encode a `google.rpc.Status`, the body of an error in OTLP. Its code is left out, since senders must ignore it."""
    return _field(b"\x12", utf8(message))


def _attributes(tag: bytes, attributes: Mapping[str, Value], parts: list[bytes], depth: int = 1) -> None:
    """Append each attribute to `parts` as a `KeyValue` in the field of `tag`."""
    for name, value in attributes.items():
        key = _KEYS.get(name) or _key(name)
        if type(value) is str:  # most of them are, and short: then tables have the lengths
            try:
                data = value.encode()
            except UnicodeEncodeError:
                data = utf8(value)
            size = len(data)
            whole = size + len(key) + 3
            if whole < 128:
                parts += (tag, _ONE[whole], key, _TEXT_HEAD[size], data)
                continue
            head = b"\x0a" + _varint(size)
            outer = _varint(len(head) + size)
            parts += (tag, _varint(len(key) + len(outer) + len(head) + size), key, outer, head, data)
        else:
            inner = _any(value, depth)
            outer = _varint(len(inner))
            parts += (tag, _varint(len(key) + len(outer) + len(inner)), key, outer, inner)


def _any(value: Value, depth: int) -> bytes:
    """Encode an `AnyValue`. `depth` is its level if it is a list or a mapping."""
    if value is None:
        return b""
    if isinstance(value, str):
        return _field(b"\x0a", utf8(value))  # 1
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"  # 2
    if isinstance(value, int):
        if LOWEST_INT <= value <= HIGHEST_INT:
            return b"\x18" + _varint(value & _MASK)  # 3
        return _field(b"\x0a", digits(value).encode())
    if isinstance(value, float):
        return b"\x21" + _double(value)  # 4
    if isinstance(value, bytes):
        return _field(b"\x3a", value)  # 7
    parts: list[bytes] = []
    if depth > DEEPEST_SENT:
        return _field(b"\x0a", utf8(as_text(value)))
    if isinstance(value, Mapping):
        _attributes(b"\x0a", value, parts, depth + 1)
        return _field(b"\x32", b"".join(parts))  # 6
    if isinstance(value, Sequence):
        for item in value:
            parts.append(_field(b"\x0a", _any(item, depth + 1)))
        return _field(b"\x2a", b"".join(parts))  # 5
    return _field(b"\x0a", utf8(as_text(value)))


def _event(event: SpanEvent) -> bytes:
    parts = [b"\x09", _fixed64(in_time(event.time_ns)), _field(b"\x12", utf8(event.name))]  # 1, 2
    _attributes(b"\x1a", event.attributes, parts)  # 3
    return b"".join(parts)


def _key(name: str) -> bytes:
    """Encode the beginning of a `KeyValue`, up to the length of its value."""
    key = _field(b"\x0a", utf8(name)) + b"\x12"
    if len(name) <= _LONGEST_KEY and len(_KEYS) < _MOST_KEYS:
        _KEYS[name] = key
    return key


def _field(tag: bytes, data: bytes) -> bytes:
    return b"%b%b%b" % (tag, _varint(len(data)), data)


def _varint(number: int) -> bytes:
    if number < 128:
        return _ONE[number]
    if number < 1 << 14:
        return bytes((number & 127 | 128, number >> 7))
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


# ---- reading --------------------------------------------------------------------------------------------------------


def decode_response(body: bytes) -> tuple[int, str] | None:
    """Return how many spans an `ExportTraceServiceResponse` rejects and why, or None for a body that is no such message."""
    rejected, message = 0, b""
    try:
        # A message in a field that comes several times is merged: its parts follow each other.
        partial = b"".join(bytes(value) for tag, value in _fields(body, {1: 0x0A}) if tag == 0x0A)
        for tag, value in _fields(partial, {1: 0x08, 2: 0x12}):
            if tag == 0x08:
                rejected = int(value)
            elif tag == 0x12:
                message = bytes(value)
        return (rejected, message.decode()) if rejected <= HIGHEST_INT else None
    except (ValueError, IndexError):
        return None


def _fields(data: bytes, known: dict[int, int]) -> Iterator[tuple[int, int | bytes]]:
    """Yield the tag and the value of each field. A field in `known` has one tag only.

    Raises `IndexError` for data that ends early, `ValueError` for other data that is not protobuf.
    """
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        if not 8 <= tag < 1 << 32 or known.get(tag >> 3, tag) != tag:
            raise ValueError("a field has an impossible number or type")
        kind = tag & 7
        value: int | bytes = b""
        size = 0
        if kind == 0:
            value, position = read_varint(data, position)
        elif kind == 2:
            size, position = read_varint(data, position)
            value = data[position : position + size]
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("a field has an unknown type")
        position += size
        if position > len(data):
            raise IndexError
        yield tag, value


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Read the number that begins at `position`, and where it ends. Raises `IndexError` for one that never does."""
    value = data[position]
    if value < 128:
        return value, position + 1
    value &= 127
    for shift in range(7, 70, 7):
        position += 1
        byte = data[position]
        value |= (byte & 127) << shift
        if byte < 128:
            return value & _MASK, position + 1
    raise IndexError
