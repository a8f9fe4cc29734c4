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
    NOTE,
    OTHER_TYPE,
    RESERVED,
    RUN_STATUSES,
    STEP_STATUSES,
    camel_case_metadata,
    event_name,
    level_or_none,
    text_or_none,
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
    body = _Body(event)
    agent = body.text("agent_name") or "unknown"
    body.put("id", event.run_id)
    body.put("agent_id", agent)
    body.put("userId", body.text("user_id"))
    body.put("conversationId", body.text("conversation_id"))
    body.put_time("startTime", "started_at")
    body.put("status", RUN_STATUSES.get(body.text("status") or "running", "working"))
    body.put_list("tags")
    body.put_payloads("input")
    # The API has fields for these too.
    body.put("version", text_or_none(body.metadata.get("version")))
    body.put("level", level_or_none(body.metadata.get("level")))
    body.put("completionStartTime", text_or_none(body.metadata.get("completionStartTime")))
    return body.record({"agentId": agent})


def history_update(event: Event, base: Mapping[str, Any] = _NOTHING) -> Record:
    """Return the body of `PATCH /history/{id}`, for a run.update or a run.end. `base` is the run's current metadata.

    The API has two final statuses: a run that is neither completed nor failed is sent as an error with its status as message.
    """
    body = _Body(event)
    status = body.outcome() if event.type == RUN_END else body.text("status")
    if status is not None:
        known = RUN_STATUSES.get(status)
        body.put("status", known or ("error" if event.type == RUN_END else None))
        if status == "failed":
            body.set("error", body.error())
        elif known is None and event.type == RUN_END:
            body.set("error", status)
    body.put_time("end_time", "ended_at")
    body.put_list("tags")
    body.put("usage", body.object("usage"))
    body.put_payloads("input", "output")
    return body.record(base=base)


def start_record(event: Event, place: Place) -> Record:
    """Return the body of `POST /history-events` that begins a step, for a step.start."""
    body = _Body(event)
    body.put_place(place, "start")
    body.put_time("start_time", "started_at")
    body.put("status", "running")
    body.put("level", level_or_none(event.fields.get("level")) or "INFO")
    body.put_payloads("input", "output")
    return body.record(body.step_metadata(place.agent_id))


def verdict_record(event: Event, place: Place, base: Mapping[str, Any] = _NOTHING) -> Record:
    """Return the body of `POST /history-events` that ends a step, for a step.end: a success or an error below the start.

    `place.parent_event_id` is the backend's id of the start, `base` the step's current metadata. A step that is neither
    completed nor failed is sent as cancelled, with its status as message.
    """
    body = _Body(event)
    status = body.outcome()
    known = STEP_STATUSES.get(status, CANCELLED)
    body.put_place(place, "success" if known == "completed" else "error")
    body.put_time("start_time", "ended_at")
    body.put_time("end_time", "ended_at")
    body.put_step_status(status)
    body.put("level", {"completed": "INFO", "error": "ERROR"}.get(known, "WARNING"))
    body.set("usage", body.object("usage"))
    body.put_payloads("input", "output")
    return body.record(body.step_metadata(place.agent_id), base)


def event_update(event: Event, agent_id: str | None = None, base: Mapping[str, Any] = _NOTHING) -> Record:
    """Return the body of `PATCH /history-events/{id}`, for a step.update. `base` is the step's current metadata."""
    body = _Body(event)
    status = body.text("status")
    if status is not None:
        body.put_step_status(status)
    body.put_time("end_time", "ended_at")
    body.put("level", level_or_none(event.fields.get("level")))
    body.set("usage", body.object("usage"))
    body.put_payloads("input", "output")
    return body.record(body.step_metadata(agent_id), base)


class _Body:
    """A body that is being built, with the names of the event's fields that are in it so far."""

    def __init__(self, event: Event) -> None:
        self._event = event
        self._parts: dict[str, bytes] = {}
        self._set: dict[str, bytes] = {}
        self._wrapped: list[str] = []
        self._placed = {"meta_data"}
        self._meta = self._encoded("meta_data")
        self.metadata, self._is_exact = _flat(self._meta)
        """Keys of metadata from the event's meta_data, in camelCase."""

    def put(self, name: str, value: Any) -> None:
        """Put a field into the body; None is left out. Bytes are JSON."""
        if value is not None:
            self._parts[name] = _json(value)

    def set(self, name: str, value: Any) -> None:
        """Put a reserved key into the metadata; None is left out. Bytes are JSON."""
        if value is not None:
            self._set[name] = _json(value)

    def put_place(self, place: Place, verb: str) -> None:
        event_type = EVENT_TYPES.get(self.text("step_type") or "", OTHER_TYPE)
        self.put("history_id", place.history_id)
        self.put("event_type", event_type)
        self.put("event_name", event_name(event_type, verb))
        self.put("parent_event_id", place.parent_event_id)

    def put_time(self, name: str, field: str) -> None:
        value = self._event.fields.get(field)
        if type(value) is int:
            self.put(name, f"{naive_utc(value)}+00:00")

    def put_list(self, field: str) -> None:
        value = self._event.fields.get(field)
        if isinstance(value, list):
            self.put(field, value)

    def put_step_status(self, status: str) -> None:
        self.put("status", STEP_STATUSES.get(status, CANCELLED))
        if status == "failed":
            self.put("status_message", self.error())
        elif status not in STEP_STATUSES:
            self.put("status_message", status)

    def put_payloads(self, *fields: str) -> None:
        for field in fields:
            value = self._encoded(field)
            if value is None:
                continue
            if not _is_object(value):
                self._wrapped.append(field)
                value = b'{"value":%b}' % value
            self.put(field, value)
            self._placed.add(field)

    def step_metadata(self, agent_id: str | None) -> dict[str, Any]:
        """Return the default metadata of a step, which the user's metadata overrides."""
        name = self.text("name")
        model = {field: value for field in ("model", "provider") if (value := self.text(field)) is not None}
        found = {"displayName": name, "id": name, "agentId": agent_id, "modelParameters": model or None}
        return {key: value for key, value in found.items() if value is not None}

    def text(self, field: str) -> str | None:
        return text_or_none(self._event.fields.get(field))

    def outcome(self) -> str:
        """Return the status of an end; the default is that of the receiver: failed with an error, else completed."""
        error = self._encoded("error")
        return self.text("status") or ("completed" if error is None or not json.loads(error) else "failed")

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

    def record(self, defaults: Mapping[str, Any] = _NOTHING, base: Mapping[str, Any] = _NOTHING) -> Record:
        encoded = {name: _json(value) for name, value in {**defaults, **base, **self.metadata}.items()}
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
        note: dict[str, Any] = {"type": event.type, "stepId": event.step_id, "parentId": event.parent_id}
        if event.type == RUN_START:
            note["runId"] = event.run_id
        left = {name: value for name, value in event.fields.items() if name not in self._placed}
        if left:
            note["fields"] = _object({name: _json(plain(name, value)) for name, value in left.items()})
        note["wrapped"] = self._wrapped or None
        note["added"] = [key for key in keys if key not in self.metadata] or None
        if not self._is_exact:
            note["metaData"] = self._meta
        return _object({name: _json(value) for name, value in note.items() if value is not None})


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
