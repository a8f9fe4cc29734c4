"""The format of events in the spool: one byte string each, with a checksum. Pure.

    checksum (4 bytes) · length of the head (4 bytes) · head, JSON · payloads, one after the other

The checksum is CRC-32 (that of zlib) over the number of the event and all that follows; both numbers are big-endian. The head
is an array: type, time_ns, run_id, step_id, parent_id, size, the fields that are no payload, and [name, length] of each payload.
"""

from __future__ import annotations

import json
import zlib
from struct import Struct

from agentscope.events import Event, FieldValue, QueuedEvent, in_full

_FRAME = Struct(">II")
_SALT = Struct(">qI")
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class Damaged(Exception):
    """The bytes do not match their checksum."""


def pack(queued: QueuedEvent) -> bytes:
    """Encode an event. Raises one of `json_encode.UNENCODABLE` if a hook has put a value into it that is not JSON."""
    event = in_full(queued)
    plain, payloads, lengths = {}, [], []
    for name, value in event.fields.items():
        if type(value) is bytes:
            payloads.append(value)
            lengths.append((name, len(value)))
        else:
            plain[name] = value
    head = _encode(
        (event.type, event.time_ns, event.run_id, event.step_id, event.parent_id, event.size, plain, lengths)
    ).encode("ascii")
    rest = b"".join((head, *payloads))
    return _FRAME.pack(_checksum(event.seq, len(head), rest), len(head)) + rest


def unpack(seq: int, data: object) -> Event:
    """Decode an event. Raises `Damaged` for bytes that `pack` has not made for this number."""
    if type(data) is not bytes or len(data) < _FRAME.size:
        raise Damaged
    checksum, length = _FRAME.unpack_from(data)
    rest = data[_FRAME.size :]
    if length > len(rest) or checksum != _checksum(seq, length, rest):
        raise Damaged
    try:
        type_, time_ns, run_id, step_id, parent_id, size, plain, lengths = json.loads(rest[:length])
        fields: dict[str, FieldValue] = plain
        start = length
        for name, number in lengths:
            fields[name] = rest[start : start + number]
            start += number
    except (ValueError, TypeError, AttributeError) as error:
        raise Damaged from error
    return Event(type_, seq, time_ns, run_id, step_id, parent_id, fields, size)


def _checksum(seq: int, length: int, rest: bytes) -> int:
    return zlib.crc32(rest, zlib.crc32(_SALT.pack(seq, length)))
