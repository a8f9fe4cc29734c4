"""The encoding of events and times as JSON."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from math import isfinite
from typing import Any

from agentscope.events import TIME_FIELDS, PlainStep, ReadyEvent, Session

dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""Encode a value as strict, compact JSON text."""

UNENCODABLE = (ValueError, TypeError, OverflowError, RecursionError)
"""The exceptions of encoding an event into which a hook has put a value that is no JSON."""

_EPOCH = datetime(1970, 1, 1)


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).isoformat()


def naive_utc(time_ns: int) -> str:
    """A UTC time for the classic calls: `2026-01-31T12:00:00.123456`."""
    second = time_ns // 1_000_000_000
    # The microseconds are digits of the number, and formatting it is faster than dividing it.
    micros = str(time_ns)[-9:-3] if second > 0 else f"{time_ns // 1000 % 1_000_000:06d}"
    return f"{_second(second)}.{micros}"


def zoned_utc(time_ns: int) -> str:
    """A time for the batch call (RFC 3339): `2026-01-31T12:00:00.123456Z`."""
    return naive_utc(time_ns) + "Z"


def event_json(event: ReadyEvent, session: Session) -> bytes:
    """Encode an event as an item of a batch's `events`, with its payloads, which are JSON bytes, at the end.

    The fields are written out because this runs for every event: a call for each field would double the cost.
    """
    if isinstance(event, PlainStep):
        seq, run_id, step_id, parent_id, _, name, step_type, started_at, elapsed, given, output = event
        ended = naive_utc(started_at + elapsed)
        text = (
            f'{{"id":"{session.event_prefix}{seq:012x}","seq":{seq},"time":"{ended}Z","type":"step",'
            f'"run_id":{quoted(run_id)},"step_id":{quoted(step_id)},'
            f'"parent_id":{"null" if parent_id is None else quoted(parent_id)},'
            f'"name":{quoted(name)},"step_type":{quoted(step_type)},"status":"completed",'
            f'"latency_ms":{elapsed // 1000 / 1000},"started_at":"{naive_utc(started_at)}Z","ended_at":"{ended}Z"'
        ).encode()
        if given is None:
            return text + b"}" if output is None else b"".join((text, b',"output":', output, b"}"))
        if output is None:
            return b"".join((text, b',"input":', given, b"}"))
        return b"".join((text, b',"input":', given, b',"output":', output, b"}"))
    type_, seq, time_ns, run_id, place, parent_id, fields, _ = event
    head = (
        f'{{"id":"{session.event_prefix}{seq:012x}","seq":{seq},"time":"{naive_utc(time_ns)}Z","type":"{type_}",'
        f'"run_id":{quoted(run_id)},"step_id":{"null" if place is None else quoted(place)},'
        f'"parent_id":{"null" if parent_id is None else quoted(parent_id)}'
    )
    parts = [b""]
    for name, value in fields.items():
        if type(value) is bytes:
            parts.append(_key(name).encode())
            parts.append(value)
        elif type(value) is str:
            head += f"{_key(name)}{quoted(value)}"
        elif type(value) is int:
            head += f'{_key(name)}"{naive_utc(value)}Z"' if name in TIME_FIELDS else f"{_key(name)}{value}"
        elif isinstance(value, float) and isfinite(value):
            head += f"{_key(name)}{value!r}"
        else:
            head += f"{_key(name)}{dumps(value)}"
    parts[0] = head.encode()
    parts.append(b"}")
    return b"".join(parts)


@lru_cache(maxsize=256)
def _key(name: str) -> str:
    return f",{quoted(name)}:"


def plain(name: str, value: Any) -> Any:
    """The JSON value of a field that is no payload: times in nanoseconds become text."""
    return zoned_utc(value) if name in TIME_FIELDS and type(value) is int else value
