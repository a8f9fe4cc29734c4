"""Start events of traces, of steps and of custom events (`add_event`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from agentscope.events import STEP_START
from agentscope.protocols.ids import new_id
from agentscope.protocols.voltagent.vocabulary import STEP_TYPES
from agentscope.tracker.context import HANDLE, Place
from agentscope.tracker.fields import Fields, _plain_text
from agentscope.tracker.recorder import id_of
from agentscope.types import STEP_TYPES as KNOWN_STEP_TYPES

from .options import FINAL, add_fields, add_metadata, level_of, moment_of, status_of, take
from .registry import Entry, Registry

H = TypeVar("H")


def begin_trace(registry: Registry, make: Callable[[Entry], H], given: dict[str, Any], fields: Fields) -> H:
    """Begin a trace: a run, or a step if a run of the tracker or of another process is current. `make` makes its handle."""
    values, recorder = fields.values, registry.recorder
    run_id = id_of(take(given, "id")) or new_id()
    started_at = moment_of(take(given, "startTime", "start_time"), fields) or time.time_ns()
    values.update(status="running", started_at=started_at)
    fields.name("agent_name", take(given, "agentId", "agent_id", "name"), default="unknown")
    agent_name = values["agent_name"]
    about = {
        "agentId": agent_name,
        "version": take(given, "version"),
        "level": level_of(take(given, "level"), fields),
        "completionStartTime": take(given, "completionStartTime", "completion_start_time"),
    }
    within = _surroundings(registry)
    if within is None:
        values["source"] = "voltagent"
        add_fields(fields, given, of_run=True)
    else:  # a step has no fields for these
        about["userId"] = take(given, "userId", "user_id")
        about["conversationId"] = take(given, "conversationId", "conversation_id")
        about["tags"] = fields.texts_of("tags", take(given, "tags"))
    fields.payload("input", take(given, "input"))
    metadata = take(given, "metadata")
    known = {name: value for name, value in about.items() if value is not None}
    add_metadata(fields, given, metadata, known, of_run=within is None)
    recorder.say_mended(fields)
    own, step_id, parent_id = (run_id, None, None) if within is None else (within.run_id, run_id, within.parent_id)
    entry = Entry(own, step_id, parent_id, agent_name, "agent", started_at)
    entry.is_trace = True
    try:
        handle = make(entry)
        if recorder.begin(run_id, fields, within):
            registry.add(entry)
        return handle
    except BaseException as error:
        registry.abandon(entry, error)
        raise


def begin_step(
    registry: Registry,
    make: Callable[[Entry], H],
    above: Entry,
    step_type: str,
    given: dict[str, Any],
    fields: Fields,
    *,
    own: Mapping[str, Any] | None = None,
    step_id: str | None = None,
    parent_id: str | None = None,
    started_at: int | None = None,
) -> H:
    """Begin a step below `above`, or below the current step inside it. `make` makes its handle."""
    recorder, values, run_id = registry.recorder, fields.values, above.run_id
    step_id = step_id or recorder.new_step_id()
    started_at = started_at or time.time_ns()
    values["status"] = "running"
    values["started_at"] = started_at
    values["step_type"] = step_type
    fields.name("name", given.pop("name", None), default=step_type)
    fields.payload("input", given.pop("input", None))
    metadata = given.pop("metadata", None)
    if given:
        add_fields(fields, given, of_run=False)
    if metadata is not None or given or own:
        add_metadata(fields, given, metadata, own)
    if fields.mended:
        recorder.say_mended(fields)
    parent_id = parent_id or registry.runs.below(run_id, above.step_id)
    entry = Entry(run_id, step_id, parent_id, values["name"], step_type, started_at)
    try:
        handle = make(entry)
        recorder.put(STEP_START, run_id, step_id, parent_id, fields, step_type == "agent")
        registry.add(entry)
        return handle
    except BaseException as error:
        registry.abandon(entry, error)
        raise


def begin_event(
    registry: Registry, make: Callable[[Entry], H], above: Entry, given: dict[str, Any], fields: Fields
) -> H:
    """Begin a custom event as a step. A final status ends it at once. `make` makes its handle."""
    event_type = _plain_text(take(given, "type", "event_type", "eventType"))
    step_type = STEP_TYPES.get(event_type or "", event_type if event_type in KNOWN_STEP_TYPES else "other")
    own = {"eventType": event_type} if event_type and step_type == "other" else {}
    for name in ("version", "tags"):
        value = take(given, name)
        if value is not None:
            own[name] = value
    status = status_of(take(given, "status"), fields)
    level = level_of(take(given, "level"), fields)
    if level is not None:
        fields.values["level"] = level
    ended_at = moment_of(take(given, "endTime", "end_time"), fields)
    error, output = take(given, "statusMessage", "status_message"), take(given, "output")
    take(given, "traceId", "trace_id")
    over = status in FINAL
    if not over:
        fields.payload("output", output)
    begun: list[Entry] = []

    def keep(entry: Entry) -> H:
        begun.append(entry)
        return make(entry)

    handle = begin_step(
        registry,
        keep,
        above,
        step_type,
        given,
        fields,
        own=own,
        step_id=id_of(take(given, "id")),
        parent_id=id_of(take(given, "parentEventId", "parent_event_id")),
        started_at=moment_of(take(given, "startTime", "start_time"), fields),
    )
    if over:
        registry.end(begun[0], status or "", output=output, error=error, ended_at=ended_at)
    return handle


def _surroundings(registry: Registry) -> Place | None:
    """Return the position of the current step or run of the tracker, or None."""
    scope = registry.runs.innermost()
    return None if scope is None or scope.sort == HANDLE else Place(scope.run_id, scope.step_id)
