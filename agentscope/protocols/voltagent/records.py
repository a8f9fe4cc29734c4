"""Bodies of the history calls, made of events. WIRE.md section 3 has the format.

The API takes objects only, so that any other input or output goes out as `{"value": …}`; it camelCases the keys of metadata,
and has no place for many things that an event may say. So `metadata.agentscope` carries a note that restores the very same
event in a receiver of ours, `decode.py`, and means nothing to anybody else:

    type      that of the event; a step in one event goes out as a step.start and a step.end
    stepId, parentId, runId
    fields    all fields that are no payload, and the payloads that found no place elsewhere; times as RFC 3339
    wrapped   which of input and output were wrapped
    added     keys of this metadata that the event itself did not set
    metaData  the event's own meta_data, where the keys beside the note are not exactly that
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
    camel_case_keys,
    event_name,
)

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Record(NamedTuple):
    """A body, and the metadata in it, as a JSON object, that later records of the same run or step have to repeat."""

    body: bytes
    metadata: bytes


class Place(NamedTuple):
    """Where a step belongs, in the backend's words."""

    history_id: str
    parent_event_id: str | None = None
    agent_id: str | None = None
    """The name of the agent around it, or of the run."""


def history_record(event: Event) -> Record:
    """The body of `POST /history`, for a run.start."""
    making = _Making(event)
    agent = making.text("agent_name") or "unknown"
    making.put("id", event.run_id)
    making.put("agent_id", agent)
    making.put("userId", making.text("user_id"))
    making.put("conversationId", making.text("conversation_id"))
    making.put("startTime", making.moment("started_at"))
    making.put("status", RUN_STATUSES.get(making.text("status") or "running", "working"))
    making.put("tags", making.texts("tags"))
    making.payload("input")
    # The API has fields for these too.
    making.put("version", _text(making.metadata.get("version")))
    making.put("level", _level(making.metadata.get("level")))
    making.put("completionStartTime", _text(making.metadata.get("completionStartTime")))
    return making.record({"agentId": agent})


def history_update(event: Event, base: Mapping[str, Any] = _NOTHING) -> Record:
    """The body of `PATCH /history/{id}`, for a run.update or a run.end. `base` is the metadata that the run has by now.

    The API knows two ends: what is neither completed nor failed goes out as an error that says what it was.
    """
    making = _Making(event)
    status = making.outcome() if event.type == RUN_END else making.text("status")
    if status is not None:
        known = RUN_STATUSES.get(status)
        making.put("status", known or ("error" if event.type == RUN_END else None))
        if status == "failed":
            making.set("error", making.error())
        elif known is None and event.type == RUN_END:
            making.set("error", status)
    making.put("end_time", making.moment("ended_at"))
    making.put("tags", making.texts("tags"))
    making.put("usage", making.object("usage"))
    making.payload("input")
    making.payload("output")
    return making.record(base=base)


def start_record(event: Event, place: Place) -> Record:
    """The body of `POST /history-events` that begins a step, for a step.start."""
    making = _Making(event)
    event_type = EVENT_TYPES.get(making.text("step_type") or "", OTHER_TYPE)
    making.event(event_type, "start", place.history_id, place.parent_event_id)
    making.put("start_time", making.moment("started_at"))
    making.put("status", "running")
    making.put("level", _level(event.fields.get("level")) or "INFO")
    making.payload("input")
    making.payload("output")
    return making.record(making.own(place.agent_id))


def verdict_record(event: Event, place: Place, base: Mapping[str, Any] = _NOTHING) -> Record:
    """The body of `POST /history-events` that ends a step, for a step.end: a success or an error below the start.

    `place.parent_event_id` is the backend's id of the start, `base` the metadata that the step has by now. What is neither
    completed nor failed goes out as cancelled, with what it was for a message.
    """
    making = _Making(event)
    event_type = EVENT_TYPES.get(making.text("step_type") or "", OTHER_TYPE)
    status = making.outcome()
    known = STEP_STATUSES.get(status, CANCELLED)
    verb = "success" if known == "completed" else "error"
    making.event(event_type, verb, place.history_id, place.parent_event_id)
    making.put("start_time", making.moment("ended_at"))
    making.put("end_time", making.moment("ended_at"))
    making.put("status", known)
    making.put("level", {"completed": "INFO", "error": "ERROR"}.get(known, "WARNING"))
    making.put("status_message", making.message(status))
    making.set("usage", making.object("usage"))
    making.payload("input")
    making.payload("output")
    return making.record(making.own(place.agent_id), base)


def event_update(event: Event, agent_id: str | None = None, base: Mapping[str, Any] = _NOTHING) -> Record:
    """The body of `PATCH /history-events/{id}`, for a step.update. `base` is the metadata that the step has by now."""
    making = _Making(event)
    status = making.text("status")
    if status is not None:
        making.put("status", STEP_STATUSES.get(status, CANCELLED))
        making.put("status_message", making.message(status))
    making.put("end_time", making.moment("ended_at"))
    making.put("level", _level(event.fields.get("level")))
    making.set("usage", making.object("usage"))
    making.payload("input")
    making.payload("output")
    return making.record(making.own(agent_id), base)


class _Making:
    """A body in the making, and what of the event has found no place in it so far."""

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
        """What the event itself sets, as the API has it."""

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
        """What the metadata of a step always says, unless the user says otherwise."""
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
        """The status of an end; where it says none, what the receiver takes it for."""
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
        """A payload that goes out only if it is an object."""
        value = self._encoded(field)
        if value is None or not _is_object(value):
            return None
        self._placed.add(field)
        return value

    def error(self) -> bytes | None:
        """The error as the API takes it: a string or an object. Only an object is what the receiver gives back."""
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
        """A payload field. Raises `TypeError` if a hook has put something else there."""
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
    """`meta_data` as keys of metadata, and whether they are exactly that: it may be no object, or have other keys."""
    value = None if payload is None else json.loads(payload)
    if not isinstance(value, dict):
        return {}, False
    flat = {key: inner for key, inner in camel_case_keys(value).items() if key not in RESERVED}
    return flat, bool(value) and flat == value


def _object(parts: Mapping[str, bytes]) -> bytes:
    return b"{%b}" % b",".join([b"%b:%b" % (dumps(name).encode(), value) for name, value in parts.items()])


def _json(value: Any) -> bytes:
    return value if type(value) is bytes else dumps(value).encode()


def _is_object(payload: bytes) -> bool:
    # Payloads are large, and were encoded by this package: looking at the bytes will do.
    return payload.lstrip().startswith(b"{")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _level(value: Any) -> str | None:
    return value if isinstance(value, str) and value in LEVELS else None
