"""The encoder of history calls: events into the bodies that the package `voltagent` 0.1.1 sends.

The API takes objects only, so that any other input or output is sent as `{"value": …}`. It converts the keys of metadata to
camelCase, and lacks many fields of an event. Therefore `metadata.agentscope` holds a note from which the receiver of this
package restores the event exactly (`decode.py`); other backends ignore it:

    type      type of the event; a whole step is sent as a step.start and a step.end
    stepId, parentId, runId
    fields    the fields that the rest of the record does not hold; times as RFC 3339
    wrapped   the names of the payloads (input, output) that were wrapped
    added     keys of this metadata that are not from the event's meta_data
    metaData  the event's meta_data, if it differs from the metadata without the note and the added keys
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from agentscope.events import RUN_END, RUN_START, Event
from agentscope.protocols.json_encode import dumps, naive_utc, plain

from .vocabulary import (
    CANCELLED,
    EVENT_TYPES,
    LEVELS,
    NOTE,
    OTHER_TYPE,
    RESERVED,
    RUN_STATUSES,
    STEP_STATUSES,
    camel_case_metadata,
    event_name,
)

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Record(NamedTuple):
    """A body, and the metadata in it as a JSON object, which later records of the same run or step repeat."""

    body: bytes
    metadata: bytes


class Place(NamedTuple):
    """The position of a step, in ids of the backend."""

    history_id: str
    parent_event_id: str | None = None
    agent_id: str | None = None
    """Name of the agent around the step, or of the run."""


def history_record(event: Event) -> Record:
    """Return the body of `POST /history`, for a run.start."""
    builder = _Builder(event)
    agent = builder.text("agent_name") or "unknown"
    builder.put("id", event.run_id)
    builder.put("agent_id", agent)
    builder.put("userId", builder.text("user_id"))
    builder.put("conversationId", builder.text("conversation_id"))
    builder.put("startTime", builder.moment("started_at"))
    builder.put("status", RUN_STATUSES.get(builder.text("status") or "running", "working"))
    builder.put("tags", builder.texts("tags"))
    builder.payload("input")
    # The API has fields for these too.
    builder.put("version", _text(builder.metadata.get("version")))
    builder.put("level", _level(builder.metadata.get("level")))
    builder.put("completionStartTime", _text(builder.metadata.get("completionStartTime")))
    return builder.record({"agentId": agent})


def history_update(event: Event, base: Mapping[str, Any] = _NOTHING) -> Record:
    """Return the body of `PATCH /history/{id}`, for a run.update or a run.end. `base` is the run's current metadata.

    The API has two final statuses: a run that is neither completed nor failed is sent as an error with its status as message.
    """
    builder = _Builder(event)
    status = builder.outcome() if event.type == RUN_END else builder.text("status")
    if status is not None:
        known = RUN_STATUSES.get(status)
        builder.put("status", known or ("error" if event.type == RUN_END else None))
        if status == "failed":
            builder.set("error", builder.error())
        elif known is None and event.type == RUN_END:
            builder.set("error", status)
    builder.put("end_time", builder.moment("ended_at"))
    builder.put("tags", builder.texts("tags"))
    builder.put("usage", builder.object("usage"))
    builder.payload("input")
    builder.payload("output")
    return builder.record(base=base)


def start_record(event: Event, place: Place) -> Record:
    """Return the body of `POST /history-events` that begins a step, for a step.start."""
    builder = _Builder(event)
    event_type = EVENT_TYPES.get(builder.text("step_type") or "", OTHER_TYPE)
    builder.event(event_type, "start", place.history_id, place.parent_event_id)
    builder.put("start_time", builder.moment("started_at"))
    builder.put("status", "running")
    builder.put("level", _level(event.fields.get("level")) or "INFO")
    builder.payload("input")
    builder.payload("output")
    return builder.record(builder.own(place.agent_id))


def verdict_record(event: Event, place: Place, base: Mapping[str, Any] = _NOTHING) -> Record:
    """Return the body of `POST /history-events` that ends a step, for a step.end: a success or an error below the start.

    `place.parent_event_id` is the backend's id of the start, `base` the step's current metadata. A step that is neither
    completed nor failed is sent as cancelled, with its status as message.
    """
    builder = _Builder(event)
    event_type = EVENT_TYPES.get(builder.text("step_type") or "", OTHER_TYPE)
    status = builder.outcome()
    known = STEP_STATUSES.get(status, CANCELLED)
    verb = "success" if known == "completed" else "error"
    builder.event(event_type, verb, place.history_id, place.parent_event_id)
    builder.put("start_time", builder.moment("ended_at"))
    builder.put("end_time", builder.moment("ended_at"))
    builder.put("status", known)
    builder.put("level", {"completed": "INFO", "error": "ERROR"}.get(known, "WARNING"))
    builder.put("status_message", builder.message(status))
    builder.set("usage", builder.object("usage"))
    builder.payload("input")
    builder.payload("output")
    return builder.record(builder.own(place.agent_id), base)


def event_update(event: Event, agent_id: str | None = None, base: Mapping[str, Any] = _NOTHING) -> Record:
    """Return the body of `PATCH /history-events/{id}`, for a step.update. `base` is the step's current metadata."""
    builder = _Builder(event)
    status = builder.text("status")
    if status is not None:
        builder.put("status", STEP_STATUSES.get(status, CANCELLED))
        builder.put("status_message", builder.message(status))
    builder.put("end_time", builder.moment("ended_at"))
    builder.put("level", _level(event.fields.get("level")))
    builder.set("usage", builder.object("usage"))
    builder.payload("input")
    builder.payload("output")
    return builder.record(builder.own(agent_id), base)


class _Builder:
    """The builder of a body, with the names of the fields that are in it so far."""

    def __init__(self, event: Event) -> None:
        self._event = event
        self._parts: dict[str, bytes] = {}
        self._set: dict[str, bytes] = {}
        self._wrapped: list[str] = []
        self._placed = {"meta_data"}
        meta_data = event.fields.get("meta_data")
        if not isinstance(meta_data, bytes | None):
            raise TypeError("meta_data holds no JSON")  # a hook made it
        self._meta = meta_data
        self.metadata, self._is_exact = _flat(self._meta)
        """Keys of metadata from the event's meta_data, in camelCase."""

    def put(self, name: str, value: Any) -> None:
        """A field of the body; None is left out. Bytes are JSON."""
        if value is not None:
            self._parts[name] = _json(value)

    def set(self, name: str, value: Any) -> None:
        """A reserved key of the metadata; None is left out. Bytes are JSON."""
        if value is not None:
            self._set[name] = _json(value)

    def event(self, event_type: str, verb: str, history_id: str, parent_event_id: str | None) -> None:
        self.put("history_id", history_id)
        self.put("event_type", event_type)
        self.put("event_name", event_name(event_type, verb))
        self.put("parent_event_id", parent_event_id)

    def own(self, agent_id: str | None) -> dict[str, Any]:
        """Return the default metadata of a step, which the user's metadata overrides."""
        name = self.text("name")
        found: dict[str, Any] = {"displayName": name, "id": name, "agentId": agent_id}
        model = {field: value for field in ("model", "provider") if (value := self.text(field)) is not None}
        found["modelParameters"] = model or None
        return {key: value for key, value in found.items() if value is not None}

    def text(self, field: str) -> str | None:
        return _text(self._event.fields.get(field))

    def texts(self, field: str) -> list[str] | None:
        value = self._event.fields.get(field)
        return value if isinstance(value, list) else None

    def moment(self, field: str) -> str | None:
        value = self._event.fields.get(field)
        return f"{naive_utc(value)}+00:00" if type(value) is int else None

    def outcome(self) -> str:
        """Return the status of an end; the default is that of the receiver: failed with an error, else completed."""
        error = self._encoded("error")
        return self.text("status") or ("completed" if error is None or not json.loads(error) else "failed")

    def payload(self, field: str) -> None:
        value = self._encoded(field)
        if value is None:
            return
        if _is_object(value):
            self.put(field, value)
        else:
            self._wrapped.append(field)
            self.put(field, b'{"value":%b}' % value)
        self._placed.add(field)

    def object(self, field: str) -> bytes | None:
        """Return a payload if it is an object, else None, which leaves it to the note."""
        value = self._encoded(field)
        if value is None or not _is_object(value):
            return None
        self._placed.add(field)
        return value

    def error(self) -> bytes | None:
        """Return the error as the API takes it, a string or an object. The note restores any other than an object."""
        value = self._encoded("error")
        if value is None or value.startswith(b'"'):
            return value
        return self.object("error") or b'{"value":%b}' % value

    def message(self, status: str) -> bytes | str | None:
        if status == "failed":
            return self.error()
        return None if status in STEP_STATUSES else status

    def record(self, own: Mapping[str, Any] = _NOTHING, base: Mapping[str, Any] = _NOTHING) -> Record:
        merged = {**own, **base, **self.metadata}
        encoded = {name: _json(value) for name, value in merged.items()}
        self._parts["metadata"] = _object({**encoded, **self._set, NOTE: self._note([*encoded])})
        return Record(_object(self._parts), _object(encoded))

    def _encoded(self, field: str) -> bytes | None:
        """Return a payload field. Raises `TypeError` if a redaction hook has replaced it by a value that is not encoded."""
        value = self._event.fields.get(field)
        if value is not None and type(value) is not bytes:
            raise TypeError(f"{field} must be encoded JSON")
        return value

    def _note(self, keys: list[str]) -> bytes:
        event = self._event
        note: dict[str, Any] = {"type": event.type}
        if event.step_id is not None:
            note["stepId"] = event.step_id
        elif event.type == RUN_START:
            note["runId"] = event.run_id
        if event.parent_id is not None:
            note["parentId"] = event.parent_id
        left = {name: value for name, value in event.fields.items() if name not in self._placed}
        if left:
            note["fields"] = _object({name: _json(plain(name, value)) for name, value in left.items()})
        if self._wrapped:
            note["wrapped"] = self._wrapped
        added = [key for key in keys if key not in self.metadata]
        if added:
            note["added"] = added
        if self._meta is not None and not self._is_exact:
            note["metaData"] = self._meta
        return _object({name: _json(value) for name, value in note.items()})


def _flat(payload: bytes | None) -> tuple[dict[str, Any], bool]:
    """Return `meta_data` as keys of metadata, and True if they represent it exactly: an object without reserved keys."""
    value = None if payload is None else json.loads(payload)
    if not isinstance(value, dict):
        return {}, False
    flat = {key: inner for key, inner in camel_case_metadata(value).items() if key not in RESERVED}
    return flat, bool(value) and flat == value


def _object(parts: Mapping[str, bytes]) -> bytes:
    return b"{%b}" % b",".join([b"%b:%b" % (dumps(name).encode(), value) for name, value in parts.items()])


def _json(value: Any) -> bytes:
    return value if type(value) is bytes else dumps(value).encode()


def _is_object(payload: bytes) -> bool:
    # The first byte decides: payloads are JSON made by this package, and too large to parse again.
    return payload.lstrip().startswith(b"{")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _level(value: Any) -> str | None:
    return value if isinstance(value, str) and value in LEVELS else None
