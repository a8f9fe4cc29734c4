"""The decoding of spans of other emitters into the fields of a run or a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from agentscope.events import FIELDS, RUN_FIELDS, STEP_FIELDS, TEXT, TEXTS, Field
from agentscope.protocols.json_encode import zoned_utc
from agentscope.protocols.otlp.semantic_conventions import (
    EXCEPTION,
    EXCEPTION_KEYS,
    FIRST_CHUNK_SECONDS,
    INPUT_MIME_TYPE,
    OUTPUT_MIME_TYPE,
)
from agentscope.protocols.otlp.wire.model import ERROR, Span, SpanEvent, SpanGroup
from agentscope.protocols.token_usage import Tokens, tokens_of

from . import attribute_names
from .attributes import Attributes, payload_of, plain
from .messages import MESSAGE_EVENTS, Told, first_turn, listed, of_event_list, of_events
from .step_types import LLM, RETRIEVAL, TOOL, kind_of, name_of

MOST_EVENTS = 32
"""The most events of one span that `meta_data` keeps, besides messages and the exception."""

_BAD_WORDS = (("langfuse.observation.level", "ERROR"), ("agent.state", "error"), ("gen_ai.tool.status", "error"))
"""Attribute values that mean a failure although the span's status is unset."""


class Foreign(NamedTuple):
    """The fields read from a span of another SDK."""

    kind: str
    """The step type."""
    name: str
    ended: bool
    fields: dict[str, Any]
    """The fields of both runs and steps: status, times, input, output, error, usage."""
    of_run: dict[str, Any]
    """The fields of the run, such as its user, which emitters set on any span."""
    of_step: dict[str, Any]
    """The fields of steps only, such as the model."""
    meta_data: dict[str, Any]
    run_meta_data: dict[str, Any]
    run_name: str | None


def understood(span: Span, group: SpanGroup) -> Foreign:
    """Decode a span. Every attribute ends in one field, or stays in `meta_data` under its own name."""
    attributes = Attributes(span.attributes)
    kind = kind_of(span)
    name = name_of(span, kind, attributes)
    ended = span.end_ns > 0
    error, failed, handled = _error(span, attributes)
    fields: dict[str, Any] = {"status": "failed" if failed else "completed" if ended else "running"}
    if span.start_ns > 0:
        fields["started_at"] = zoned_utc(span.start_ns)
    if ended:
        fields["ended_at"] = zoned_utc(span.end_ns)
    told = _content(span, attributes, kind)
    usage = _usage(attributes)
    found = {"input": told.input, "output": told.output, "error": error, "usage": usage, "source": group.scope_name}
    fields.update((field, value) for field, value in found.items() if value is not None and value != "")
    of_run, of_step = _told_fields(attributes, RUN_FIELDS), _told_fields(attributes, STEP_FIELDS)
    seconds = attributes.amount(FIRST_CHUNK_SECONDS, "gen_ai.server.time_to_first_token")
    if seconds is not None:
        of_step.setdefault("first_token_ms", round(seconds * 1000, 3))
    run_name = attributes.text("langfuse.trace.name", "traceloop.workflow.name")
    run_meta = attributes.objects(attribute_names.TRACE_META_OBJECTS, attribute_names.TRACE_META_PREFIXES)
    meta = attributes.objects(attribute_names.META_OBJECTS, attribute_names.META_PREFIXES)
    reasons = attributes.texts(*attribute_names.FINISH_REASONS)
    if reasons:
        meta.setdefault("finish_reasons", reasons)
    tools = listed(attributes, "llm.tools")
    if tools:
        meta.setdefault("tools", tools)
    if handled is not None:
        meta.setdefault("exception", handled)
    events = _events(span.events)
    if events:
        meta.setdefault("events", events)
    meta = {**attributes.rest(attribute_names.NOISE), **meta}
    return Foreign(kind, name, ended, fields, of_run, of_step, meta, run_meta, run_name)


def resource_data(group: SpanGroup) -> dict[str, Any]:
    """The part of a run's `meta_data` that describes the sending program."""
    kept = Attributes(group.resource).rest()
    return {"resource": kept} if kept else {}


def _content(span: Span, attributes: Attributes, kind: str) -> Told:
    given = span.attributes.get
    asked = attributes.payload(attribute_names.INPUTS, given(INPUT_MIME_TYPE))
    said = attributes.payload(attribute_names.OUTPUTS, given(OUTPUT_MIME_TYPE))
    # Content under further names is used too, so that it does not fill meta_data.
    inputs = {prefix: listed(attributes, prefix) for prefix in attribute_names.INPUT_LISTS}
    outputs = {prefix: listed(attributes, prefix) for prefix in attribute_names.OUTPUT_LISTS}
    # The payload beside them has the request and the response in the objects of a library.
    if kind == RETRIEVAL:
        said = outputs["retrieval.documents"] or said
    elif kind == LLM:
        asked, said = inputs["llm.input_messages"] or asked, outputs["llm.output_messages"] or said
    conversation = attributes.payload(attribute_names.CONVERSATIONS)
    if conversation is not None:
        new_from = attributes.number("pydantic_ai.new_message_index")
        asked, said = _or((asked, said), first_turn(conversation, new_from))
    asked, said = _or((asked, said), (_first(inputs.values()), _first(outputs.values())))
    asked, said = _or((asked, said), of_events(span.events, unwrapped=kind == TOOL))
    if "events" in span.attributes:
        told = of_event_list(payload_of(given("events")))
        if told != Told(None, None):
            attributes.take(("events",))
        asked, said = _or((asked, said), told)
    return Told(asked, said)


def _or(known: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
    return (known[0] if known[0] is not None else other[0]), (known[1] if known[1] is not None else other[1])


def _first(found: Iterable[Any]) -> Any:
    return next((value for value in found if value), None)


def _usage(attributes: Attributes) -> dict[str, int] | None:
    known = {field: attributes.number(*names) for field, names in attribute_names.TOKENS.items()}
    tokens = Tokens(**known)
    told = tokens_of(attributes.objects(attribute_names.USAGE_OBJECTS))
    return {**told.usage(), **tokens.usage()} or None


_NAMES = {
    name: (*field.attributes, *attribute_names.ALIASES.get(name, ()))
    for name, field in FIELDS.items()
    if field.given and field.attributes and name not in ("tokens_used", "latency_ms")  # usage and the times have these
}
"""The attribute names of each field, under every convention."""


def _told_fields(attributes: Attributes, table: Mapping[str, Field]) -> dict[str, Any]:
    """The fields of the table that are in the attributes."""
    read: dict[str, Callable[..., Any]] = {TEXT: attributes.text, TEXTS: attributes.texts}
    found = {
        name: read.get(table[name].type, attributes.amount)(*names) for name, names in _NAMES.items() if name in table
    }
    return {name: value for name, value in found.items() if value not in (None, "", [])}


def resource_fields(group: SpanGroup) -> dict[str, Any]:
    """The fields of a run that are in the resource of its spans."""
    return _told_fields(
        Attributes(group.resource), {name: field for name, field in RUN_FIELDS.items() if field.resource}
    )


def _error(span: Span, attributes: Attributes) -> tuple[Any, bool, Any]:
    """The `error` payload, True if the span failed, and a recorded exception that did not make it fail."""
    recorded = next((event.attributes for event in reversed(span.events) if event.name == EXCEPTION), {})
    exception = {key: plain(recorded[name]) for key, name in EXCEPTION_KEYS.items() if recorded.get(name)}
    known = {
        "type": attributes.text(*attribute_names.ERROR_TYPES),
        "message": attributes.text(*attribute_names.ERROR_MESSAGES) or span.status_message,
        "traceback": attributes.text(*attribute_names.ERROR_TRACES),
    }
    failed = (
        span.status == ERROR
        or "error.type" in span.attributes
        or any(span.attributes.get(name) == word for name, word in _BAD_WORDS)
    )
    if not failed:
        return None, False, exception or None
    return {**{key: text for key, text in known.items() if text}, **exception} or None, True, None


def _events(events: Iterable[SpanEvent]) -> list[dict[str, Any]]:
    kept = [event for event in events if event.name != EXCEPTION and event.name not in MESSAGE_EVENTS]
    return [
        {"name": event.name, "time": zoned_utc(event.time_ns), **({"attributes": told} if told else {})}
        for event in kept[:MOST_EVENTS]
        for told in ({name: payload_of(value) for name, value in event.attributes.items()},)
    ]


def is_root(span: Span) -> bool:
    """Tell if a span has no parent."""
    return not span.parent_span_id.strip("0")
