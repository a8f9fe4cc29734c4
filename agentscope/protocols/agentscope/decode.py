"""Bodies of the AgentScope ingest calls, batch and classic, into patches. Pure: no clock, no I/O, no ids of its own.

The formats are WIRE.md sections 1 and 2. A body that cannot be understood at all raises `DecodeError` with the HTTP
status that says so; an event that is wrong by itself is rejected, and its neighbours are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, NamedTuple, TypeGuard

from agentscope.events import EVENT_TYPES, RUN_END, RUN_START, RUN_UPDATE, STEP
from agentscope.protocols.strict_json import (
    MAX_DEPTH,
    DecodeError,
    deeper_than,
    dump_plain,
    is_text,
    parse,
    too_deep,
)

__all__ = ["Batch", "DecodeError", "Patch", "decode_batch", "decode_run", "decode_run_update", "decode_step"]

MAX_ID = 255
"""Characters in an id of an event, a run or a step."""
MAX_SEQ = (1 << 63) - 1

_AN_ID = f"a string of 1 to {MAX_ID} characters without NUL"
_EVENT_DEPTH = MAX_DEPTH - 2  # an event sits inside the envelope and its list
_RUN_TYPES = frozenset({RUN_START, RUN_UPDATE, RUN_END})
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:([Zz])|([+-])([0-9]{2}):?([0-9]{2}))?"
)
_TEXT_FIELDS = ("name", "step_type", "status", "agent_name", "external_id", "user_id", "conversation_id", "source")
_EXPECTED: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(_TEXT_FIELDS, ((str,), "a string")),
    "started_at": ((str,), "an RFC 3339 time"),
    "ended_at": ((str,), "an RFC 3339 time"),
    "tokens_used": ((int, float), "a whole number"),
    "latency_ms": ((int, float), "a number of milliseconds"),
    "tags": ((list,), "a list of strings"),
    "truncated": ((list,), "a list of strings"),
}


class Patch(NamedTuple):
    """One decoded event. `(time, session_id, seq)` is its place in the order."""

    id: str
    type: str
    run_id: str
    step_id: str | None
    time: str
    """RFC 3339, UTC, six digits and Z, so that text order is time order."""
    session_id: str
    seq: int
    fields: Mapping[str, Any]
    """The whole event; `fold` reads from it the fields that it knows."""
    body: str
    """The event as JSON text."""


class Batch(NamedTuple):
    """A decoded batch body: `len(patches) + len(rejected)` is the number of events that were sent."""

    batch_id: str
    session_id: str
    patches: list[Patch]
    rejected: list[dict[str, Any]]
    """`{"id": str | None, "reason": str}` for each event that is wrong by itself."""
    dropped: dict[str, int]
    """Events that the sender gave up before this batch, by reason."""


class _Rejected(ValueError):
    """An event that is wrong by itself; the text says why."""


def decode_batch(body: bytes) -> Batch:
    """Decode the body of `POST /api/ingest/batch`.

    Raises `DecodeError`: 400 for what is not strict JSON or too deep, 413 for too many values, 422 for a wrong envelope.
    """
    document, dump = parse(body)
    del body  # up to 32 MB that nothing needs any longer
    if not isinstance(document, dict):
        raise DecodeError(422, "The body must be a JSON object with batch_id, session_id and events.")
    events = document.pop("events", None)
    if not isinstance(events, list):
        raise DecodeError(422, "events must be a list.")
    if deeper_than(document, MAX_DEPTH):
        too_deep()
    batch_id = _envelope_id(document, "batch_id")
    session_id = _envelope_id(document, "session_id")
    dropped = _dropped(document.get("dropped"))
    patches: list[Patch] = []
    rejected: list[dict[str, Any]] = []
    for event in events:
        try:
            patches.append(_patch(event, session_id, dump))
        except _Rejected as wrong:
            rejected.append({"id": _own_id(event), "reason": str(wrong)})
    return Batch(batch_id, session_id, patches, rejected, dropped)


def decode_run(body: bytes, *, event_id: str, run_id: str, now: str, seq: int) -> Patch:
    """Decode the body of the classic `POST /api/ingest/run`. The run id is the server's; `now` is a `Patch.time`."""
    fields = _classic_fields(body, ("agent_name", "external_id", "input", "meta_data", "started_at", "status"))
    if "agent_name" not in fields:
        raise DecodeError(422, "agent_name is required.")
    fields.setdefault("status", "running")
    fields.setdefault("started_at", now)
    return _classic(RUN_START, fields, event_id, run_id, None, now, seq)


def decode_step(body: bytes, *, event_id: str, run_id: str, step_id: str, now: str, seq: int) -> Patch:
    """Decode the body of the classic `POST /api/ingest/run/{id}/step`. The step id is the server's."""
    names = ("name", "step_type", "input", "output", "error", "meta_data", "tokens_used", "latency_ms")
    fields = _classic_fields(body, (*names, "started_at", "ended_at", "status"))
    if "name" not in fields:
        raise DecodeError(422, "name is required.")
    fields.setdefault("step_type", "other")
    fields.setdefault("status", "failed" if fields.get("error") else "completed")
    return _classic(STEP, fields, event_id, run_id, step_id, now, seq)


def decode_run_update(body: bytes, *, event_id: str, run_id: str, now: str, seq: int) -> Patch:
    """Decode the body of the classic `PATCH /api/ingest/run/{id}`."""
    fields = _classic_fields(body, ("status", "output", "error", "meta_data", "ended_at"))
    ended = fields.get("status", "running") != "running"
    if ended:
        fields.setdefault("ended_at", now)
    return _classic(RUN_END if ended else RUN_UPDATE, fields, event_id, run_id, None, now, seq)


@lru_cache(maxsize=4096)
def normal_time(text: str) -> str:
    """An RFC 3339 or ISO 8601 time as UTC with six digits and Z; without a zone it is taken as UTC.

    Raises `ValueError` for anything else.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time")
    day, clock, fraction, _, sign, hours, minutes = match.groups()
    moment = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:<06}")
    if sign:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        try:
            moment = moment - offset if sign == "+" else moment + offset
        except OverflowError:
            raise ValueError("out of the calendar") from None
    return moment.isoformat(timespec="microseconds") + "Z"


def time_text(moment: datetime) -> str:
    """A zoned `datetime` in the form of `Patch.time`."""
    return moment.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _patch(event: Any, session_id: str, dump: Callable[[Any], str]) -> Patch:
    if not isinstance(event, dict):
        raise _Rejected("an event must be an object")
    event.pop("session_id", None)  # the envelope's is the one that counts
    get = event.get
    event_id, run_id, step_id, kind, seq = get("id"), get("run_id"), get("step_id"), get("type"), get("seq")
    if not is_id(event_id):
        raise _Rejected(f"id must be {_AN_ID}")
    if not is_id(run_id):
        raise _Rejected(f"run_id must be {_AN_ID}")
    if type(kind) is not str or kind not in EVENT_TYPES:
        raise _Rejected("type must be one of " + ", ".join(sorted(EVENT_TYPES)))
    if kind in _RUN_TYPES:
        if step_id is not None:
            raise _Rejected(f"an event of type {kind} names no step")
    elif not is_id(step_id):
        raise _Rejected(f"step_id must be {_AN_ID}")
    parent_id = get("parent_id")
    if parent_id is not None and not is_id(parent_id):
        raise _Rejected(f"parent_id must be null or {_AN_ID}")
    if type(seq) is not int or not 0 <= seq <= MAX_SEQ:
        raise _Rejected("seq must be a whole number from 0 to 2^63 - 1")
    time = get("time")
    if type(time) is not str:
        raise _Rejected("time must be an RFC 3339 time")
    wrong = check_fields(event)
    if wrong:
        raise _Rejected(wrong)
    try:
        event["time"] = time = normal_time(time)
    except ValueError:
        raise _Rejected("time must be an RFC 3339 time") from None
    try:
        body = dump(event)
    except ValueError:
        raise _Rejected("a number is out of range or a text is not valid Unicode") from None
    except RecursionError:
        too_deep()
    if body.count("{") + body.count("[") > _EVENT_DEPTH and deeper_than(event, _EVENT_DEPTH):
        too_deep()
    return Patch(event_id, kind, run_id, step_id, time, session_id, seq, event, body)


def check_fields(fields: dict[str, Any]) -> str | None:
    """Check the fields whose type is fixed, and bring times into their normal form. The answer says what is wrong."""
    for name in fields.keys() & _EXPECTED.keys():
        value = fields[name]
        if value is None:
            continue
        types, expected = _EXPECTED[name]
        if type(value) not in types:
            return f"{name} must be {expected}"
        if name.endswith("_at"):
            try:
                fields[name] = normal_time(value)
            except ValueError:
                return f"{name} must be {expected}"
        elif type(value) is list:
            if not all(type(item) is str for item in value):
                return f"{name} must be {expected}"
        elif type(value) is float and name == "tokens_used":
            if not value.is_integer():
                return f"{name} must be {expected}"
            fields[name] = int(value)
    return None


def _classic_fields(body: bytes, allowed: tuple[str, ...]) -> dict[str, Any]:
    """The fields that a classic body sets: its clients send null for what they do not set."""
    document, dump = parse(body)
    if not isinstance(document, dict):
        raise DecodeError(422, "The body must be a JSON object.")
    if deeper_than(document, MAX_DEPTH):
        too_deep()
    fields = {name: document[name] for name in allowed if document.get(name) is not None}
    wrong = check_fields(fields)
    if wrong:
        raise DecodeError(422, f"{wrong}.")
    try:
        dump(fields)
    except ValueError:
        raise DecodeError(422, "A number is out of range or a text is not valid Unicode.") from None
    return fields


def _classic(
    kind: str, fields: dict[str, Any], event_id: str, run_id: str, step_id: str | None, now: str, seq: int
) -> Patch:
    head = {"id": event_id, "seq": seq, "time": now, "type": kind, "run_id": run_id, "step_id": step_id}
    event = {**head, "parent_id": None, **fields}
    return Patch(event_id, kind, run_id, step_id, now, "classic", seq, event, dump_plain(event))


def _envelope_id(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if not is_id(value) or not is_text(value):
        raise DecodeError(422, f"{name} must be {_AN_ID}.")
    return value


def is_id(value: object) -> TypeGuard[str]:
    return type(value) is str and 0 < len(value) <= MAX_ID and "\0" not in value


def _dropped(reports: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    if reports is None:
        return counts
    if not isinstance(reports, list):
        raise DecodeError(422, "dropped must be a list.")
    for report in reports:
        reason, count = (report.get("reason"), report.get("count")) if isinstance(report, dict) else (None, None)
        if not is_id(reason) or not is_text(reason):
            raise DecodeError(422, f"reason must be {_AN_ID}, in each item of dropped.")
        if type(count) is not int or not 0 <= count <= 1 << 53:
            raise DecodeError(422, "count must be a whole number from 0 to 2^53, in each item of dropped.")
        counts[reason] = counts.get(reason, 0) + count
    return counts


def _own_id(event: Any) -> str | None:
    value = event.get("id") if isinstance(event, dict) else None
    return value if isinstance(value, str) and is_text(value) else None
