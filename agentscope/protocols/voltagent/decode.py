"""The decoder of history calls: bodies into patches, without clock, I/O or ids of its own.

A start event begins a step, and a success or error event below it ends that step. Any other event is a step of its own.
Events of this SDK are restored from their note.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from agentscope.events import (
    RUN_END,
    RUN_START,
    RUN_UPDATE,
    STEP,
    STEP_END,
    STEP_START,
    STEP_UPDATE,
    TEXT,
    TEXTS,
    TIME,
)
from agentscope.protocols.agentscope.decode import Arrival, Patch, check_values, parse_object, patch_of
from agentscope.protocols.agentscope.fields import AN_ID, FORMS, Form, is_id, normalise
from agentscope.protocols.json_decode import DecodeError, Rejected

from .vocabulary import CANCELLED, NOTE, RESERVED, STEP_TYPES, camel_case, verb_of

SESSION = "history"
"""The session of all patches from these calls. Their order is the order of arrival."""

_RUN_STATUSES = {
    "working": "running",
    "running": "running",
    "completed": "completed",
    "error": "failed",
    CANCELLED: CANCELLED,
}
_STEP_STATUSES = {"running": "running", "completed": "completed", "error": "failed", CANCELLED: CANCELLED}
_ENDED = frozenset({"completed", "failed", CANCELLED})
_USUAL_LEVELS = frozenset({"INFO", "ERROR"})
_OF_STEPS = frozenset({STEP_START, STEP_UPDATE, STEP_END})
_HEAD = frozenset({"id", "seq", "time", "type", "run_id", "step_id", "parent_id", "session_id"})


# ---- bodies into records ---------------------------------------------------------------------------------------------


def read(body: bytes) -> dict[str, Any]:
    """Return the known fields of a body, in snake_case, with times in the form of `Patch.time`.

    Raises `DecodeError`: 400 if it is no strict JSON or too deep, 413 for too many values, 422 for an invalid field.
    """
    document, dump = parse_object(body)
    given = {_ALIASES.get(name, name): value for name, value in document.items() if value is not None}
    record: dict[str, Any] = {}
    for name in _FORMS.keys() & given.keys():
        record[name] = _FORMS[name].of(given[name])
        if record[name] is None:
            raise DecodeError(422, f"{name} must be {_FORMS[name].expected}.")
    check_values(record, dump)
    return record


_ID = Form(AN_ID, lambda value: value if is_id(value) else None)
_OBJECT = Form("an object", lambda value: value if type(value) is dict else None)
_FORMS = {
    **dict.fromkeys(("id", "history_id", "parent_event_id"), _ID),
    **dict.fromkeys(("agent_id", "user_id", "conversation_id"), FORMS[TEXT]),
    **dict.fromkeys(("event_type", "event_name", "version", "level", "status"), FORMS[TEXT]),
    **dict.fromkeys(
        ("start_time", "end_time", "completion_start_time"), FORMS[TIME]._replace(expected="an ISO 8601 time")
    ),
    **dict.fromkeys(("metadata", "usage"), _OBJECT),
    # Other values than the API's objects are stored too.
    **dict.fromkeys(("input", "output", "status_message"), Form("JSON", lambda value: value)),
    "tags": FORMS[TEXTS],
}
_ALIASES = {
    camel_case(name): name for name in ("user_id", "conversation_id", "start_time", "end_time", "completion_start_time")
}


# ---- records into patches --------------------------------------------------------------------------------------------


def run_started(record: Mapping[str, Any], run_id: str, arrival: Arrival) -> Patch:
    """Return the patch of `POST /history`. Raises `DecodeError` (422) for a record without an agent."""
    if "agent_id" not in record:
        raise DecodeError(422, "agent_id is required.")
    note = read_note(record, RUN_START)
    if note is not None:
        return patch_of(SESSION, RUN_START, run_id, None, None, note.fields, arrival)
    fields = {
        "agent_name": record["agent_id"],
        "status": _status(record, _RUN_STATUSES, "working"),
        "started_at": record.get("start_time", arrival.now),
        "source": "voltagent",
        **_same(record, "user_id", "conversation_id", "tags", "input"),
    }
    meta_data = _meta_data(record, "version", "level", "completion_start_time")
    if meta_data:
        fields["meta_data"] = meta_data
    return patch_of(SESSION, RUN_START, run_id, None, None, fields, arrival)


def run_changed(record: Mapping[str, Any], run_id: str, arrival: Arrival) -> Patch:
    """Return the patch of `PATCH /history/{id}`: the end of the run if the status is final, else an update."""
    note = read_note(record, RUN_UPDATE, RUN_END)
    if note is not None:
        return patch_of(SESSION, note.type, run_id, None, None, note.fields, arrival)
    fields = _same(record, "input", "output", "usage", "tags")
    meta_data = _meta_data(record, "version", "level", "completion_start_time")
    if "status" in record:
        fields["status"] = _status(record, _RUN_STATUSES)
    ended = fields.get("status") in _ENDED
    if ended or "end_time" in record:
        fields["ended_at"] = record.get("end_time", arrival.now)
    if fields.get("status") == "failed" and meta_data.get("error") is not None:
        error = meta_data.pop("error")
        fields["error"] = {"message": error} if isinstance(error, str) else error
    if meta_data:
        fields["meta_data"] = meta_data
    return patch_of(SESSION, RUN_END if ended else RUN_UPDATE, run_id, None, None, fields, arrival)


def event_added(record: Mapping[str, Any], parent: Mapping[str, Any] | None, arrival: Arrival) -> Patch:
    """Return the patch of `POST /history-events`. `parent` is the stored event of the id `parent_event_id`, or None.

    Raises `DecodeError` (422) for a record without a history, a type or a name.
    """
    for name in ("history_id", "event_type", "event_name"):
        if name not in record:
            raise DecodeError(422, f"{name} is required.")
    run_id = record["history_id"]
    above = parent if parent is not None and parent["run_id"] == run_id else None
    names = _same(record, "event_type", "event_name", "parent_event_id")
    note = read_note(record, STEP_START, STEP_END)
    if note is not None:
        fields = {**note.fields, **names}
        return patch_of(SESSION, note.type, run_id, note.step_id, note.parent_id, fields, arrival)
    status = _status(record, _STEP_STATUSES, "running")
    fields = {**names, "status": status, **_same(record, "input", "output"), **_event_details(record, status)}
    began = record.get("start_time", arrival.now)
    if status in _ENDED:
        fields["ended_at"] = record.get("end_time", began)
        if above is not None and _is_verdict_on(record, above):
            return patch_of(SESSION, STEP_END, run_id, above["step_id"], None, fields, arrival)
    fields.update(
        name=_name(record) or record["event_name"],
        step_type=STEP_TYPES.get(record["event_type"], "other"),
        started_at=began,
    )
    parent_id = record.get("parent_event_id") if above is None else above["step_id"]
    kind = STEP if status in _ENDED else STEP_START
    return patch_of(
        SESSION, kind, run_id, arrival.event_id, None if parent_id == run_id else parent_id, fields, arrival
    )


def event_changed(record: Mapping[str, Any], target: Mapping[str, Any], arrival: Arrival) -> Patch:
    """Return the patch of `PATCH /history-events/{id}` for the step of `target`, the stored event with this id."""
    run_id, step_id = target["run_id"], target["step_id"]
    note = read_note(record, STEP_UPDATE)
    if note is not None:
        return patch_of(SESSION, note.type, run_id, step_id, note.parent_id, note.fields, arrival)
    status = _status(record, _STEP_STATUSES) if "status" in record else None
    fields = {**_same(record, "input", "output"), **_event_details(record, status)}
    if status is not None:
        fields["status"] = status
    if "start_time" in record:
        fields["started_at"] = record["start_time"]
    if status in _ENDED or "end_time" in record:
        fields["ended_at"] = record.get("end_time", arrival.now)
    name = _name(record)
    if name is not None:
        fields["name"] = name
    return patch_of(SESSION, STEP_END if status in _ENDED else STEP_UPDATE, run_id, step_id, None, fields, arrival)


def _is_verdict_on(record: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    """Return True if an event ends the step of its parent event, False if it is a step below it."""
    same_type = above["type"] == STEP_START and above.get("event_type") == record["event_type"]
    return same_type and verb_of(record["event_name"]) in ("success", "error")


def _event_details(record: Mapping[str, Any], status: str | None) -> dict[str, Any]:
    """Return the error, the usage and the `meta_data` of an event, without values that are the default."""
    found: dict[str, Any] = {}
    named = ["version", "tags"]
    if record.get("level") not in _USUAL_LEVELS:
        named.append("level")
    message = record.get("status_message")
    if status == "failed" and message is not None:
        found["error"] = {"message": message} if isinstance(message, str) else message
    else:
        named.append("status_message")
    meta_data = _meta_data(record, *named)
    name = _name(record)
    for key, usual in (("displayName", name), ("id", name), ("instructions", None)):
        if key in meta_data and meta_data[key] == usual:
            del meta_data[key]
    parameters: Any = meta_data.get("modelParameters")
    for key in ("model", "provider") if isinstance(parameters, dict) else ():
        if isinstance(parameters.get(key), str):
            found[key] = parameters[key]
    if isinstance(meta_data.get("usage"), dict):
        found["usage"] = meta_data.pop("usage")
    if "event_type" in record and record["event_type"] not in STEP_TYPES:
        meta_data["eventType"] = record["event_type"]
    if meta_data:
        found["meta_data"] = meta_data
    return found


def _meta_data(record: Mapping[str, Any], *named: str) -> dict[str, Any]:
    """Return the metadata together with the `named` fields of the record, which runs and steps have no field for."""
    extra = {camel_case(name): record[name] for name in named if name in record}
    return {**record.get("metadata", {}), **extra}


def _name(record: Mapping[str, Any]) -> str | None:
    metadata = record.get("metadata", {})
    return next((name for key in ("displayName", "id") if isinstance(name := metadata.get(key), str) and name), None)


def _status(record: Mapping[str, Any], known: Mapping[str, str], default: str | None = None) -> str:
    status = known.get(record.get("status", default))
    if status is None:
        raise DecodeError(422, f"status must be one of {', '.join(known)}.")
    return status


def _same(record: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: record[name] for name in names if name in record}


# ---- notes of this SDK --------------------------------------------------------------------------------------------------


class Note(NamedTuple):
    """The event in `metadata.agentscope` of a record."""

    type: str
    step_id: str | None
    parent_id: str | None
    fields: Mapping[str, Any]


def read_note(record: Mapping[str, Any], *types: str) -> Note | None:
    """Return the note in a record's metadata, or None without a valid note for an event of these types.

    `records.py` describes the form of a note.
    """
    metadata: dict[str, Any] = record.get("metadata", {})
    note = metadata.get(NOTE)
    if not isinstance(note, dict) or note.get("type") not in types:
        return None
    step_id, parent_id, fields = note.get("stepId"), note.get("parentId"), note.get("fields", {})
    wrapped, added = note.get("wrapped", []), note.get("added", [])
    if not (isinstance(fields, dict) and isinstance(wrapped, list) and isinstance(added, list)):
        return None
    if not (is_id(step_id) if note["type"] in _OF_STEPS else step_id is None):
        return None
    if not (parent_id is None or is_id(parent_id)):
        return None
    fields = {name: value for name, value in fields.items() if name not in _HEAD}
    try:
        normalise(fields)
    except Rejected:
        return None
    if "metaData" in note:
        fields["meta_data"] = note["metaData"]
    else:
        own = {key: value for key, value in metadata.items() if key not in RESERVED and key not in added}
        if own:
            fields["meta_data"] = own
    for name in ("input", "output"):
        if name in record:
            value = record[name]
            fields[name] = value.get("value") if name in wrapped and isinstance(value, dict) else value
    elsewhere = {
        "error": metadata.get("error") if step_id is None else record.get("status_message"),
        "usage": record.get("usage") if step_id is None else metadata.get("usage"),
    }
    for name, value in elsewhere.items():
        if name not in fields and isinstance(value, dict):
            fields[name] = value
    return Note(note["type"], step_id, parent_id, fields)
