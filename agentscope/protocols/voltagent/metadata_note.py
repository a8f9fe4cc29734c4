"""The reader of the note by which a history call of this SDK restores its event exactly. `records.py` describes its form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from agentscope.events import STEP_END, STEP_START, STEP_UPDATE
from agentscope.protocols.agentscope.fields import Rejected, is_id, normalise

from .vocabulary import NOTE, RESERVED

_OF_STEPS = frozenset({STEP_START, STEP_UPDATE, STEP_END})
_HEAD = frozenset({"id", "seq", "time", "type", "run_id", "step_id", "parent_id", "session_id"})


class Note(NamedTuple):
    """The event that a note restores."""

    type: str
    step_id: str | None
    parent_id: str | None
    fields: Mapping[str, Any]


def read_note(record: Mapping[str, Any], *types: str) -> Note | None:
    """Return the note in a record's metadata, or None without a valid note for an event of these types."""
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
