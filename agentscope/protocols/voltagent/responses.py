"""Answers of the receiver to the history calls: the stored record, in the form that the published client parses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .vocabulary import CANCELLED, RUN_STATUSES, STEP_STATUSES, level_or_none, text_or_none

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def history_view(run_id: str, fields: Mapping[str, Any], updated_at: str) -> dict[str, Any]:
    """Return a run as a history. `fields` are those of the stored run; times have the form of `Patch.time`."""
    meta_data = _object(fields.get("meta_data"))
    known = meta_data or {}
    status = fields.get("status") or "running"
    return {
        "id": run_id,
        "agent_id": fields.get("agent_name") or "unknown",
        "user_id": fields.get("user_id"),
        "conversation_id": fields.get("conversation_id"),
        "start_time": fields.get("started_at"),
        "end_time": fields.get("ended_at"),
        "completion_start_time": text_or_none(known.get("completionStartTime")),
        "status": RUN_STATUSES.get(status, "error"),
        "input": _object(fields.get("input")),
        "output": _object(fields.get("output")),
        "tags": fields.get("tags"),
        "metadata": meta_data,
        "version": text_or_none(known.get("version")),
        "level": level_or_none(known.get("level")),
        "usage": _usage(fields.get("usage")),
        "created_at": fields.get("first_at"),
        "updated_at": updated_at,
    }


def added_view(event_id: str, record: Mapping[str, Any], stored_at: str) -> dict[str, Any]:
    """Return an event as it was received, since the published client builds later events from its metadata."""
    names = ("history_id", "event_type", "event_name", "start_time", "end_time", "parent_event_id", "tags", "metadata")
    return {
        "id": event_id,
        **{name: record.get(name) for name in (*names, "version")},
        "status": record.get("status", "running"),
        "status_message": _message(record.get("status_message")),
        "level": level_or_none(record.get("level")) or "INFO",
        "input": _object(record.get("input")),
        "output": _object(record.get("output")),
        "created_at": stored_at,
        "updated_at": stored_at,
    }


def changed_view(event: Mapping[str, Any], step: Mapping[str, Any], updated_at: str) -> dict[str, Any]:
    """Return an event after a change. `event` is the stored event, `step` the stored step."""
    name = step.get("name")
    meta_data = _object(step.get("meta_data")) or {}
    return {
        "id": event["id"],
        "history_id": event["run_id"],
        "event_type": event.get("event_type", "custom"),
        "event_name": event.get("event_name", "custom"),
        "start_time": step.get("started_at"),
        "end_time": step.get("ended_at"),
        "status": STEP_STATUSES.get(step.get("status") or "running", CANCELLED),
        "status_message": _message(step.get("error")),
        "level": level_or_none(meta_data.get("level")) or "INFO",
        "parent_event_id": event.get("parent_event_id"),
        "input": _object(step.get("input")),
        "output": _object(step.get("output")),
        "tags": event.get("tags"),
        "metadata": {"displayName": name, "id": name, **meta_data} if name else meta_data,
        "version": text_or_none(meta_data.get("version")),
        "created_at": event["time"],
        "updated_at": updated_at,
    }


def _object(value: Any) -> dict[str, Any] | None:
    """Return a payload as an object, as the API requires: other values are wrapped as `{"value": …}`."""
    return value if value is None or isinstance(value, dict) else {"value": value}


def _message(value: Any) -> Any:
    return value if isinstance(value, str) else _object(value)


def _usage(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    return {name: count for name, count in value.items() if name not in _COUNTS or type(count) is int}
