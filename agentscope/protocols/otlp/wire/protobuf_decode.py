"""The answer to an OTLP request in protobuf: a message of two fields, read without a library.

Requests are read by the receiver only, which has opentelemetry-proto for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from .limits import HIGHEST_INT

_RESPONSE = {1: 0x0A}
_PARTIAL_SUCCESS = {1: 0x08, 2: 0x12}


def decode_response(body: bytes) -> tuple[int, str] | None:
    """Return how many spans an `ExportTraceServiceResponse` rejects and why, or None for a body that is no such message."""
    rejected, message = 0, b""
    try:
        # A message in a field that comes several times is merged: its parts follow each other.
        partial = b"".join(bytes(value) for tag, value in _fields(body, _RESPONSE) if tag == 0x0A)
        for tag, value in _fields(partial, _PARTIAL_SUCCESS):
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
        tag, position = _varint(data, position)
        if not 8 <= tag < 1 << 32 or known.get(tag >> 3, tag) != tag:
            raise ValueError("a field has an impossible number or type")
        kind = tag & 7
        value: int | bytes = b""
        size = 0
        if kind == 0:
            value, position = _varint(data, position)
        elif kind == 2:
            size, position = _varint(data, position)
            value = data[position : position + size]
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("a field has an unknown type")
        position += size
        if position > len(data):
            raise IndexError
        yield tag, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Read the number that begins at `position`, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, position
    raise ValueError("a number is longer than 64 bits")
