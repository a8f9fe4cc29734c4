"""Pieces of JSON that protocols are made of."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from ..events import Event, Session

dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""Strict and compact; what it gives still has to be encoded as UTF-8."""

UNENCODABLE = (ValueError, TypeError, OverflowError, RecursionError)
"""What encoding an event may raise, if a hook has put something into it that is not JSON."""

_EPOCH = datetime(1970, 1, 1)


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).isoformat()


def naive_utc(time_ns: int) -> str:
    """`2026-01-31T12:00:00.123456`, in UTC, as the classic calls take it."""
    second, rest = divmod(time_ns, 1_000_000_000)
    return f"{_second(second)}.{rest // 1000:06d}"


def zoned_utc(time_ns: int) -> str:
    """`2026-01-31T12:00:00.123456Z`, as the batch call takes it (RFC 3339)."""
    return naive_utc(time_ns) + "Z"


def event_json(event: Event, session: Session) -> bytes:
    """One item of a batch's `events`: WIRE.md calls it a patch. Payload fields are put in as the bytes they are."""
    parts = [
        f'{{"id":"{session.event_id(event.seq)}","seq":{event.seq},"time":"{zoned_utc(event.time_ns)}",'
        f'"type":"{event.type}","run_id":{dumps(event.run_id)},"step_id":{_optional(event.step_id)},'
        f'"parent_id":{_optional(event.parent_id)}'.encode()
    ]
    for name, value in event.fields.items():
        parts.append(b',"%b":' % name.encode())
        parts.append(value if type(value) is bytes else dumps(plain(name, value)).encode())
    parts.append(b"}")
    return b"".join(parts)


def plain(name: str, value: Any) -> Any:
    """A field that is no payload, as it is written: times are kept in nanoseconds until here."""
    return zoned_utc(value) if name in ("started_at", "ended_at") and type(value) is int else value


def _optional(text: str | None) -> str:
    return "null" if text is None else dumps(text)
