"""The decoder of the AgentScope ingest calls, batch and classic: bodies into patches, without clock, I/O or ids of its own.

A body that is no JSON or has no envelope raises `DecodeError` with the HTTP status of the answer. A wrong event is rejected
alone, and the others are kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from agentscope.events import EVENT_TYPES, RUN_END, RUN_FIELDS, RUN_START, RUN_UPDATE, STEP, STEP_FIELDS, Field
from agentscope.protocols.json_decode import (
    MAX_DEPTH,
    DecodeError,
    Dump,
    Rejected,
    dump_plain,
    is_text,
    parse,
    parse_list,
    too_deep,
    weigh,
)
from agentscope.serialization.depth import is_deeper

from .fields import AN_ID, is_id, normal_time, normalise

MAX_SEQ = (1 << 63) - 1
META_PREFIX = "agentscope_"
"""The prefix of the keys in `meta_data` under which the classic calls carry the fields that they have no place for."""

LONGEST_HEARTBEAT = 3600
"""Seconds. A session that promises less often than that to say that it lives promises nothing."""
MAX_DROPPED = 10**12
"""The most dropped events that one batch reports for one reason, so that sums stay far below 64 bits."""
MOST_REASONS = 32
"""The most reasons that are told apart, in one batch and in the counts of a store."""
OTHER_REASON = "other"
"""The reason that stands for all reasons beyond `MOST_REASONS`."""
CLASSIC_SESSION = "classic"
"""The session of all patches from the classic calls. Their order is the order of arrival."""
RESERVED_SESSIONS = frozenset({CLASSIC_SESSION, "history", "otlp"})
"""The sessions of events of protocols without sessions. A batch may not use them, since these ids can be guessed."""
_EVENT_DEPTH = MAX_DEPTH - 2  # an event sits inside the envelope and its list
_RUN_TYPES = frozenset({RUN_START, RUN_UPDATE, RUN_END})
_NOT_IN_ROWS = ("input", "output", "meta_data", "truncated")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Arrival(NamedTuple):
    """The event id, time (in the form of `Patch.time`) and `seq` that the receiver assigns to an event without its own."""

    event_id: str
    now: str
    seq: int


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
    """`{"id": str | None, "reason": str}` for each event that was rejected."""
    dropped: dict[str, int]
    """The number of events that the sender dropped before this batch, by reason."""
    heartbeat: float | None = None
    """The seconds between two requests of a session in which something is open; None if the sender does not promise any."""


def decode_batch(body: bytes, *, weighed: bool = False, lean: bool = False) -> Batch:
    """Decode the body of `POST /api/ingest/batch`.

    weighed: True if the number of its values was checked before. lean: True to leave the payloads that no row needs out of
    `Patch.fields`; `Patch.body` has them. Raises `DecodeError`: 400 for a body that is no strict JSON or too deep, 413 for too
    many values, 422 for a wrong envelope.
    """
    if not weighed:
        weigh(body)
    document = parse_list(body, "events", "session_id", _lean_item if lean else _item)
    del body  # up to 32 MB that nothing needs any longer
    if not isinstance(document, dict):
        raise DecodeError(422, "The body must be a JSON object with batch_id, session_id and events.")
    events = document.pop("events", None)
    if not isinstance(events, list):
        raise DecodeError(422, "events must be a list.")
    if is_deeper(document, MAX_DEPTH):
        too_deep()
    batch_id = _envelope_id(document, "batch_id")
    session_id = _envelope_id(document, "session_id")
    if session_id in RESERVED_SESSIONS:
        raise DecodeError(422, f"session_id {session_id!r} is that of another protocol.")
    dropped = _dropped(document.get("dropped"))
    patches = [event for event in events if type(event) is Patch]
    rejected = [event for event in events if type(event) is dict] if len(patches) < len(events) else []
    return Batch(batch_id, session_id, patches, rejected, dropped, _heartbeat(document.get("heartbeat_seconds")))


def _item(document: dict[str, Any], event: Any, text: str | None, dump: Dump) -> Patch | dict[str, Any]:
    """Return an event as a patch, or the id and the reason of one that is rejected."""
    try:
        return _patch(event, text, document.get("session_id"), dump)
    except Rejected as wrong:
        return {"id": _own_id(event), "reason": str(wrong)}


def _lean_item(document: dict[str, Any], event: Any, text: str | None, dump: Dump) -> Patch | dict[str, Any]:
    item = _item(document, event, text, dump)
    if type(item) is Patch:
        for name in _NOT_IN_ROWS:
            event.pop(name, None)
    return item


def decode_run(body: bytes, run_id: str, arrival: Arrival) -> Patch:
    """Decode the body of the classic `POST /api/ingest/run`. The receiver makes the run id."""
    fields = _classic_fields(body, RUN_FIELDS, "agent_name")
    fields = {"status": "running", "started_at": arrival.now, **fields}
    return patch_of(CLASSIC_SESSION, RUN_START, run_id, None, None, fields, arrival)


def decode_step(body: bytes, run_id: str, step_id: str, arrival: Arrival) -> Patch:
    """Decode the body of the classic `POST /api/ingest/run/{id}/step`. The receiver makes the step id."""
    fields = _classic_fields(body, STEP_FIELDS, "name")
    fields = {"step_type": "other", "status": "failed" if fields.get("error") else "completed", **fields}
    return patch_of(CLASSIC_SESSION, STEP, run_id, step_id, None, fields, arrival)


def decode_run_update(body: bytes, run_id: str, arrival: Arrival) -> Patch:
    """Decode the body of the classic `PATCH /api/ingest/run/{id}`."""
    fields = _classic_fields(body, RUN_FIELDS)
    ended = fields.get("status", "running") != "running"
    if ended:
        fields.setdefault("ended_at", arrival.now)
    return patch_of(CLASSIC_SESSION, RUN_END if ended else RUN_UPDATE, run_id, None, None, fields, arrival)


def _patch(event: Any, text: str | None, session_id: Any, dump: Dump) -> Patch:
    """Return an event as a patch. Raises `Rejected`. The session is checked with the envelope."""
    if not isinstance(event, dict):
        raise Rejected("an event must be an object")
    get = event.get
    event_id, run_id, step_id, kind, seq = get("id"), get("run_id"), get("step_id"), get("type"), get("seq")
    if not is_id(event_id):
        raise Rejected(f"id must be {AN_ID}")
    if not is_id(run_id):
        raise Rejected(f"run_id must be {AN_ID}")
    if type(kind) is not str or kind not in EVENT_TYPES:
        raise Rejected("type must be one of " + ", ".join(sorted(EVENT_TYPES)))
    if kind in _RUN_TYPES:
        if step_id is not None:
            raise Rejected(f"an event of type {kind} names no step")
    elif not is_id(step_id):
        raise Rejected(f"step_id must be {AN_ID}")
    parent_id = get("parent_id")
    if parent_id is not None and not is_id(parent_id):
        raise Rejected(f"parent_id must be null or {AN_ID}")
    if type(seq) is not int or not 0 <= seq <= MAX_SEQ:
        raise Rejected("seq must be a whole number from 0 to 2^63 - 1")
    given = get("time")
    if type(given) is not str:
        raise Rejected("time must be an RFC 3339 time")
    changed = normalise(event)
    try:
        time = normal_time(given)
    except ValueError:
        raise Rejected("time must be an RFC 3339 time") from None
    if time != given:
        event["time"] = time
        changed = True
    if "session_id" in event:
        del event["session_id"]  # that of the envelope counts
        changed = True
    if text is None or changed or ("\\" in text and _SURROGATE.search(text) is not None):
        text = _dumped(event, dump)
    if text.count("{") + text.count("[") > _EVENT_DEPTH and is_deeper(event, _EVENT_DEPTH):
        too_deep()
    return Patch(event_id, kind, run_id, step_id, time, session_id, seq, event, text)


def _dumped(event: dict[str, Any], dump: Dump) -> str:
    try:
        return dump(event)
    except ValueError:
        raise Rejected("a number is out of range or a text is not valid Unicode") from None
    except RecursionError:
        too_deep()


def _classic_fields(body: bytes, table: Mapping[str, Field], required: str | None = None) -> dict[str, Any]:
    """Return the fields in a classic body. A field that the calls lack is read from `meta_data`, where this SDK puts it."""
    document, dump = parse_object(body)
    fields = {name: document[name] for name in table if table[name].classic and document.get(name) is not None}
    try:
        normalise(fields)
    except Rejected as wrong:
        raise DecodeError(422, f"{wrong}.") from None
    meta_data: Any = fields.get("meta_data")
    for name in table if isinstance(meta_data, dict) else ():
        noted = {name: meta_data.get(META_PREFIX + name)}
        if table[name].classic or noted[name] is None:
            continue
        try:
            normalise(noted)
        except Rejected:
            continue  # another sender's key of this name
        fields |= noted
        del meta_data[META_PREFIX + name]
    check_values(fields, dump)
    if required is not None and required not in fields:
        raise DecodeError(422, f"{required} is required.")
    return fields


def parse_object(body: bytes) -> tuple[dict[str, Any], Dump]:
    """Return the object in a body, and the function of `parse`. Raises `DecodeError` for any other body."""
    document, dump = parse(body)
    if not isinstance(document, dict):
        raise DecodeError(422, "The body must be a JSON object.")
    if is_deeper(document, MAX_DEPTH):
        too_deep()
    return document, dump


def check_values(fields: dict[str, Any], dump: Dump) -> None:
    """Raise `DecodeError` for a value that JSON or UTF-8 cannot hold."""
    try:
        dump(fields)
    except ValueError:
        raise DecodeError(422, "A number is out of range or a text is not valid Unicode.") from None


def patch_of(
    session_id: str,
    kind: str,
    run_id: str,
    step_id: str | None,
    parent_id: str | None,
    fields: Mapping[str, Any],
    arrival: Arrival,
) -> Patch:
    """Make a patch of an event that was sent without an id, a time and a `seq`."""
    event_id, now, seq = arrival
    fields = dict(fields)
    try:
        normalise(fields)
    except Rejected as wrong:
        raise DecodeError(422, f"{wrong}.") from None
    head = {"id": event_id, "seq": seq, "time": now, "type": kind, "run_id": run_id, "step_id": step_id}
    event = {**head, "parent_id": parent_id, **fields}
    return Patch(event_id, kind, run_id, step_id, now, session_id, seq, event, dump_plain(event))


def _envelope_id(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if not is_id(value) or not is_text(value):
        raise DecodeError(422, f"{name} must be {AN_ID}.")
    return value


def _dropped(reports: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    if reports is None:
        return counts
    if not isinstance(reports, list):
        raise DecodeError(422, "dropped must be a list.")
    for report in reports:
        reason, count = (report.get("reason"), report.get("count")) if isinstance(report, dict) else (None, None)
        if not is_id(reason) or not is_text(reason):
            raise DecodeError(422, f"reason must be {AN_ID}, in each item of dropped.")
        if type(count) is not int or not 0 <= count <= 1 << 53:
            raise DecodeError(422, "count must be a whole number from 0 to 2^53, in each item of dropped.")
        if reason not in counts and len(counts) >= MOST_REASONS:
            reason = OTHER_REASON
        counts[reason] = min(counts.get(reason, 0) + count, MAX_DROPPED)
    return counts


def _heartbeat(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 1 <= value <= LONGEST_HEARTBEAT else None


def _own_id(event: Any) -> str | None:
    value = event.get("id") if isinstance(event, dict) else None
    return value if isinstance(value, str) and is_text(value) else None
