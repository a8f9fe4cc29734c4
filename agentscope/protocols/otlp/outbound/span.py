"""The encoding of whole events as spans, with the attributes of every convention that backends read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from agentscope.events import FIELDS, PAYLOAD_FIELDS, Event
from agentscope.protocols.ids import span_id_of, trace_id_of
from agentscope.protocols.json_encode import dumps
from agentscope.protocols.otlp import semantic_conventions as names
from agentscope.protocols.otlp.semantic_conventions import Kind
from agentscope.protocols.otlp.wire.model import ERROR, OK, UNSET, Span, SpanEvent, Value
from agentscope.protocols.token_usage import OF_LLM_STEP, OF_RUN, OF_STEP, token_attributes, tokens_of

from .attributes import Content, put
from .payload import Payload

LONGEST_STATUS = 1024
"""The most characters of a status message."""
LATEST = (1 << 63) - 1
"""Nanoseconds since the epoch: the latest time for readers with signed 64-bit times."""

_FAILED = frozenset({"failed", "error"})
_ATTRIBUTES = {name: field.attributes for name, field in FIELDS.items()}
"""The span attributes of each field. It is empty for fields that the span itself or the code below covers."""


def span_of(event: Event, *, voltops: bool = False) -> Span:
    """Encode a whole run (`step_id` None) or step, with the merged fields of its start, updates and end.

    voltops: True to give large payloads the attribute names of VoltOps. Raises only exceptions of `UNENCODABLE`, for fields
    that are no JSON.
    """
    fields, is_run = event.fields, event.step_id is None
    payloads = {name: Payload(fields[name]) for name in PAYLOAD_FIELDS if fields.get(name) is not None}
    content = Content(payloads, fields)
    given, step_type = fields.get("agent_name" if is_run else "name"), fields.get("step_type")
    name = given if type(given) is str and given else None
    start, end, times = _times(event)
    attributes: dict[str, Value] = {names.RUN_ID: event.run_id}
    put(attributes, event.step_id, names.STEP_ID)
    put(attributes, event.parent_id, names.PARENT_ID)
    attributes |= times | _plain_fields(fields)
    for value, attribute in ((given, names.NAME), (step_type, names.STEP_TYPE)):
        if value is not None:
            attributes[attribute] = _plain(value)
    kind = names.RUN_KIND if is_run else names.KINDS.get(step_type if type(step_type) is str else "", names.OTHER_KIND)
    by_convention, span_name = _conventions(kind, content, name, event)
    attributes |= by_convention
    attributes |= content.payloads(voltops)
    usage = payloads.get("usage")
    if usage is not None:
        attributes[names.USAGE] = usage.text
    tokens = tokens_of(None if usage is None else usage.value, fields.get("tokens_used"))
    attributes |= token_attributes(tokens, OF_RUN if is_run else OF_LLM_STEP if step_type == "llm_call" else OF_STEP)
    status, message, failure, events = _outcome(fields.get("status"), payloads.get("error"), end)
    attributes |= failure
    parent_id = None if is_run else event.run_id
    if event.parent_id is not None:
        parent_id = event.parent_id
    return Span(
        trace_id_of(event.run_id),
        span_id_of(event.run_id if event.step_id is None else event.step_id),
        "" if parent_id is None else span_id_of(parent_id),
        span_name,
        kind.span_kind,
        start,
        end,
        attributes,
        status,
        message,
        events,
    )


def _conventions(kind: Kind, content: Content, name: str | None, event: Event) -> tuple[dict[str, Value], str]:
    """The attributes of the conventions for this type of step, and the span's name."""
    attributes: dict[str, Value] = {"openinference.span.kind": kind.openinference}
    put(attributes, kind.voltops or None, "span.type")
    operation, subject = kind.operation, name
    if operation == "invoke_agent":
        attributes |= _agent(content, name, event) | content.of_agent()
    elif operation == "chat":
        attributes |= content.of_model_call()
        model = attributes.get("llm.model_name")
        subject = model if type(model) is str else None
    elif operation == "execute_tool":
        attributes |= content.of_tool(name)
    elif operation == "retrieval":
        attributes |= content.of_retrieval(name)
    elif kind is names.MEMORY_KIND:
        operation, subject = content.memory_operation(name), None
        attributes |= content.of_memory(operation) | {names.MLFLOW_SPAN_TYPE: "MEMORY"}
        if operation == names.SEARCH_MEMORY:
            attributes["openinference.span.kind"] = "RETRIEVER"
    else:
        step_type = event.fields.get("step_type")
        return attributes, name or (step_type if type(step_type) is str and step_type else "step")
    attributes["gen_ai.operation.name"] = operation
    return attributes, f"{operation} {subject}" if subject else operation


def _agent(content: Content, name: str | None, event: Event) -> dict[str, Value]:
    entity = (content.meta_text("agentId", "agent_id") if event.step_id is None else event.step_id) or name
    attributes: dict[str, Value] = {"entity.type": "agent"}
    put(attributes, entity, "entity.id")
    put(attributes, name, "gen_ai.agent.name", "agent.name", "entity.name")
    if event.step_id is None:
        put(attributes, name, names.MLFLOW_TRACE_NAME)
    if name is not None and event.parent_id is not None:
        attributes |= {"voltagent.is_subagent": True, "subagent.id": entity, "subagent.name": name}
    return attributes


def _plain_fields(fields: Mapping[str, Any]) -> dict[str, Value]:
    """The attributes of plain fields. A field that is not in the table keeps its own name."""
    return {
        attribute: _plain(value)
        for name, value in fields.items()
        if value is not None
        for attribute in _ATTRIBUTES.get(name, (f"agentscope.{name}",))
    }


def _plain(value: Any) -> Value:
    if type(value) in (str, bool, int, float):
        known: Value = value
        return known
    if isinstance(value, (list, tuple)):
        return [item if type(item) is str else dumps(item) for item in value]
    return value.decode() if type(value) is bytes else dumps(value)


def _times(event: Event) -> tuple[int, int, dict[str, Value]]:
    """The start and end of the span in nanoseconds since the epoch, and attributes for fields that differ from them.

    A span needs both, and its end must not be before its start. Without an end it is the time of the event, so that a later span
    counts as later. Without a start it is the end less the latency.
    """
    started, ended = event.fields.get("started_at"), event.fields.get("ended_at")
    latency: Any = event.fields.get("latency_ms")
    lasted = int(latency * 1e6) if type(latency) in (int, float) and isfinite(latency) and latency > 0 else 0
    end = ended if type(ended) is int else event.time_ns
    start = started if type(started) is int else end - lasted
    start = min(max(start, 1), LATEST)
    end = min(max(end, start), LATEST)
    differing: dict[str, Value] = {
        attribute: 0 if given is None else _plain(given)
        for attribute, given, used in ((names.STARTED_AT, started, start), (names.ENDED_AT, ended, end))
        if given != used
    }
    return start, end, differing


def _outcome(status: Any, error: Payload | None, end: int) -> tuple[int, str, dict[str, Value], tuple[SpanEvent, ...]]:
    """The status of the span, its message, attributes and events."""
    if error is None or error.data == b"null":
        if status not in _FAILED:
            return (OK if status == "completed" else UNSET), "", {}, ()
        return ERROR, "", {names.ERROR_TYPE: "_OTHER"}, ()
    value = error.value
    described, is_whole = _described(value, error)
    attributes: dict[str, Value] = {}
    if not is_whole:
        attributes[names.ERROR_PAYLOAD] = error.text
    if not value and status not in _FAILED:  # an empty error is no failure
        return (OK if status == "completed" else UNSET), "", attributes, ()
    attributes[names.ERROR_TYPE] = described.get("type") or "_OTHER"
    event = SpanEvent(names.EXCEPTION, end, {names.EXCEPTION_KEYS[key]: text for key, text in described.items()})
    message = described.get("message") or described.get("type") or ""
    return ERROR, message[:LONGEST_STATUS], attributes, (event,) if described else ()


def _described(value: Any, error: Payload) -> tuple[dict[str, str], bool]:
    """The known type, message and traceback, and True if the error has nothing else."""
    if isinstance(value, dict):
        found = {key: value[key] for key in names.EXCEPTION_KEYS if type(value.get(key)) is str}
        whole = bool(found) and len(found) == len(value)
        if "type" not in found:
            found |= _text_of(value, "type", "name", "code", "status")
        if "message" not in found:
            found |= _text_of(value, "message", "error", "detail", "reason")
        return found, whole
    if type(value) is str:
        return {"message": value}, False
    return {"message": error.text[:LONGEST_STATUS]}, False


def _text_of(value: Mapping[str, Any], key: str, *spellings: str) -> dict[str, str]:
    """A text for `key` under other spellings of it. A value that is no text is encoded as JSON."""
    for spelling in spellings:
        found = value.get(spelling)
        if found is not None:
            return {key: found if type(found) is str else json.dumps(found, ensure_ascii=False)[:LONGEST_STATUS]}
    return {}
