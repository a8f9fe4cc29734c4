"""The decoding of spans into the patches that the receiver stores: spans of this SDK without loss, others by convention.

A trace is a run, and a span a step. A root that is an agent, or has no particular type, is the run itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

from agentscope.events import (
    FIELDS,
    RUN_END,
    RUN_FIELDS,
    RUN_START,
    RUN_UPDATE,
    STEP,
    STEP_FIELDS,
    STEP_START,
    TEXT,
    TEXTS,
    Field,
)
from agentscope.protocols.agentscope.decode import Patch
from agentscope.protocols.agentscope.fields import AN_ID, is_id, normalise
from agentscope.protocols.ids import run_id_of, span_id_of
from agentscope.protocols.json_decode import MAX_DEPTH
from agentscope.protocols.json_encode import zoned_utc
from agentscope.protocols.otlp import semantic_conventions as names
from agentscope.protocols.otlp.wire.model import CONSUMER, ERROR, SERVER, Span, SpanEvent, SpanGroup, SpanLink, Value
from agentscope.serialization.depth import is_deeper

from . import attribute_names
from .attributes import Attributes, parsed, payload_of, plain
from .messages import MESSAGE_EVENTS, Content, first_turn, flattened_list, messages_of
from .step_types import AGENT, LLM, OTHER, REASONING, RETRIEVAL, TOOL, step_name_of, step_type_of

SESSION = "otlp"
"""The `Patch.session_id` of all spans, which have no session."""
MOST_EVENTS = 128
"""The most events, and the most links, of one span that `meta_data` keeps: the bound of OpenTelemetry's SDKs."""

_RUNS = frozenset({AGENT, OTHER, REASONING})
"""Step types of roots that become the run only. A root of another type becomes a run and a step."""
_EVENT_DEPTH = MAX_DEPTH - 2
_LATEST = 253_402_300_799 * 10**9  # the last second of the year 9999
_PAYLOADS = (
    (names.INPUT, names.INPUT_VALUE, names.INPUT_MIME_TYPE),
    (names.OUTPUT, names.OUTPUT_VALUE, names.OUTPUT_MIME_TYPE),
)
_OF_EXCEPTION = frozenset({*names.EXCEPTION_KEYS.values(), "exception.escaped"})
_KINDS = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_CANCELLED = frozenset(
    {
        *("cancelled", "canceled", "cancellederror", "cancelerror", "aborterror", "generatorexit"),
        *("cancellationexception", "operationcanceledexception", "taskcanceledexception"),
    }
)
"""Types of exceptions of a call that was cancelled, in Python, JavaScript, Java, C# and Go, in lower case."""
_CANCELLATIONS = (("agent.state", "cancelled"), ("gen_ai.tool.status", "cancelled"))
_FAILURES = (("langfuse.observation.level", "ERROR"), ("agent.state", "error"), ("gen_ai.tool.status", "error"))
"""Attribute values that mean a failure although the span's status is unset."""
_NAMES = {
    name: (*field.attributes, *attribute_names.ALIASES.get(name, ()))
    for name, field in FIELDS.items()
    if field.given and field.attributes and name not in ("tokens_used", "latency_ms")  # usage and the times have these
}
"""The attribute names of each field, under every convention."""
_PLAIN_FIELDS = (
    ("step_type", names.STEP_TYPE),
    *((name, field.attributes[0]) for name, field in FIELDS.items() if field.attributes),
)
_RESOURCE_FIELDS = {name: field for name, field in RUN_FIELDS.items() if field.resource}


def patches_of(span: Span, group: SpanGroup) -> list[Patch]:
    """Decode a span of `group` into at most two patches: to a run and to a step.

    Equal spans give equal event ids in either encoding, and different spans different ids. Raises `ValueError` with the reason
    for a span that cannot be stored.
    """
    if not 0 < max(span.start_ns, span.end_ns) <= _LATEST:
        raise ValueError("its times must be in nanoseconds since the epoch, up to the year 9999")
    if span.attributes.get(attribute_names.SPAN_TYPE) == attribute_names.PENDING and span.parent_span_id:
        span = _pending(span)
    given = span.attributes.get(names.RUN_ID)
    run_id = run_id_of(span.trace_id) if given is None else _id(given, names.RUN_ID)
    if given is not None and (names.STEP_ID in span.attributes or span.span_id == span_id_of(run_id)):
        return [_own(span, run_id)]
    # A span with the id of a run of this SDK is a step in it, even without a parent: the run has its own name and end.
    return _third_party(span, group, run_id, _is_root(span) and given is None)


def _pending(span: Span) -> Span:
    """Return the span that Logfire announces by a child without length."""
    parent = span.attributes.get(attribute_names.PENDING_PARENT)
    attributes = {
        name: value
        for name, value in span.attributes.items()
        if name not in (attribute_names.SPAN_TYPE, attribute_names.PENDING_PARENT)
    }
    return span._replace(
        span_id=span.parent_span_id,
        parent_span_id=parent if isinstance(parent, str) else "",
        end_ns=0,
        attributes=attributes,
    )


def is_run(span: Span) -> bool:
    """Return True if a root of another emitter becomes a run only, and not a step as well."""
    return step_type_of(span) in _RUNS


def without_repeats(patches: Iterable[Patch]) -> list[Patch]:
    """The patches without repeated updates of the same run, such as its user, conversation or tags.

    Many emitters set these on every span of a trace.
    """
    kept: list[Patch] = []
    seen: set[tuple[str, str]] = set()
    for patch in patches:
        if patch.type == RUN_UPDATE:
            update = {name: value for name, value in patch.fields.items() if name not in ("id", "time")}
            key = patch.run_id, json.dumps(update, sort_keys=True)
            if key in seen:
                continue
            seen.add(key)
        kept.append(patch)
    return kept


# ---- spans of this SDK --------------------------------------------------------------------------------------------


def _own(span: Span, run_id: str) -> Patch:
    """Restore the event of a span of this SDK."""
    attributes = span.attributes
    step_id, parent_id = (
        None if attributes.get(name) is None else _id(attributes[name], name)
        for name in (names.STEP_ID, names.PARENT_ID)
    )
    if parent_id is None and step_id is not None:
        parent_id = _parent(span, run_id)
    fields: dict[str, Any] = {}
    for name, attribute in (("name" if step_id else "agent_name", names.NAME), *_PLAIN_FIELDS):
        value = attributes.get(attribute)
        if value is not None:
            fields[name] = [*value] if isinstance(value, (list, tuple)) else value
    times: dict[str, str] = {}
    for name, attribute, span_ns in (
        ("started_at", names.STARTED_AT, span.start_ns),
        ("ended_at", names.ENDED_AT, span.end_ns),
    ):
        time = attributes.get(attribute)
        if time is None:
            time = span_ns
        if type(time) is not int:
            fields[name] = plain(time)
        elif time:
            times[name] = _time(time)
    normalise(fields)
    fields |= times
    for name, value_name, type_name in _PAYLOADS:
        value = attributes.get(value_name, attributes.get(name))
        if value is not None:
            fields[name] = value if attributes.get(type_name) == names.TEXT_TYPE else _json(value)
    for name, attribute in (("meta_data", names.META_DATA), ("meta_data", names.METADATA), ("usage", names.USAGE)):
        if attributes.get(attribute) is not None:
            fields.setdefault(name, _json(attributes[attribute]))
    payload = attributes.get(names.ERROR_PAYLOAD)
    error = _exception(span.events) or None if payload is None else _json(payload)
    if error is not None:
        fields["error"] = error
    types = (RUN_END, RUN_START) if step_id is None else (STEP, STEP_START)
    type_ = types[0] if "ended_at" in fields else types[1]
    return _patch(type_, run_id, step_id, parent_id, span.end_ns or span.start_ns, fields)


def _json(value: Value) -> Any:
    return parsed(value) if type(value) is str else plain(value)


def _time(time_ns: int) -> str:
    try:
        return zoned_utc(time_ns)
    except (ValueError, OverflowError):
        raise ValueError("a time must be in the calendar") from None


# ---- spans of other emitters ---------------------------------------------------------------------------------------


def _third_party(span: Span, group: SpanGroup, run_id: str, is_root: bool) -> list[Patch]:
    """Decode a span of another emitter. Every attribute ends in one field, or stays in `meta_data` under its own name."""
    attributes = Attributes(span.attributes)
    step_type = step_type_of(span)
    name = step_name_of(span, step_type, attributes)
    ended, time_ns = span.end_ns > 0, span.end_ns or span.start_ns
    fields, handled = _fields(span, attributes, step_type)
    if group.scope_name:
        fields["source"] = group.scope_name
    run_fields, step_fields = (_table_fields(attributes, table) for table in (RUN_FIELDS, STEP_FIELDS))
    cost = attributes.cost(_NAMES["cost_usd"])
    if cost is not None:
        step_fields["cost_usd"] = cost
    seconds = attributes.number(names.FIRST_CHUNK_SECONDS, "gen_ai.server.time_to_first_token")
    if seconds is not None:
        step_fields.setdefault("first_token_ms", round(seconds * 1000, 3))
    run_name = attributes.text(*attribute_names.TRACE_NAMES)
    run_meta = attributes.merged_objects(attribute_names.TRACE_META_OBJECTS, attribute_names.TRACE_META_PREFIXES)
    meta = _meta_data(span, group, attributes, handled)
    is_step = not is_root or step_type not in _RUNS
    of_resource = _table_fields(Attributes(group.resource), _RESOURCE_FIELDS)
    patches: list[Patch] = []
    if is_root:
        run = {
            "agent_name": run_name or name,
            "name": name,
            "step_type": step_type,
            **fields,
            **of_resource,
            **run_fields,
        }
        run["span_id"] = span.span_id  # the parent id in its children, and the root's id where a trace has several
        if is_step:
            run_meta = {**_resource(group), **run_meta}
            run.pop("usage", None)  # the step has it
        else:
            run_meta = {**meta, **run_meta}
            run |= step_fields
        if run["agent_name"] != name:
            run_meta.setdefault("span_name", name)
        if run_meta:
            run["meta_data"] = run_meta
        patches.append(_patch(RUN_END if ended else RUN_START, run_id, None, None, time_ns, run))
    else:
        if attribute_names.SPAN_TAGS in span.attributes and "tags" in run_fields:
            meta.setdefault("tags", run_fields.pop("tags"))
        if span.kind in (SERVER, CONSUMER) or step_type == AGENT:  # the topmost step, if the root is not traced
            run_fields |= {f"trace_{field}": value for field, value in of_resource.items()}
        if run_name:
            run_fields["trace_name"] = run_name
        if run_meta:
            run_fields["meta_data"] = run_meta
        if run_fields:
            # At the time of the span's start, so that the fields of the root, at its end, take precedence.
            patches.append(_patch(RUN_UPDATE, run_id, None, None, span.start_ns or time_ns, run_fields))
    if is_step:
        step = {"name": name, "step_type": step_type, **fields, **step_fields}
        if meta:
            step["meta_data"] = meta
        patches.append(
            _patch(STEP if ended else STEP_START, run_id, span.span_id, _parent(span, run_id), time_ns, step)
        )
    return patches


def _fields(span: Span, attributes: Attributes, step_type: str) -> tuple[dict[str, Any], Any]:
    """The fields of both runs and steps, and a recorded exception that did not make the span fail."""
    content = _content(span, attributes, step_type)
    error, status, handled = _error(span, attributes, step_type == LLM and content.output in _NOTHING)
    fields: dict[str, Any] = {"status": status or ("completed" if span.end_ns > 0 else "running")}
    for name, time_ns in (("started_at", span.start_ns), ("ended_at", span.end_ns)):
        if time_ns > 0:
            fields[name] = zoned_utc(time_ns)
    tokens = attributes.tokens()
    usage = {**attributes.counts(attribute_names.USAGE_OBJECTS), **tokens.usage()} or None
    found = {"input": content.input, "output": content.output, "error": error, "usage": usage}
    fields.update((name, value) for name, value in found.items() if value is not None and value != "")
    return fields, handled


def _content(span: Span, attributes: Attributes, step_type: str) -> Content:
    given = span.attributes.get
    content = Content(
        attributes.payload(attribute_names.INPUTS, given(names.INPUT_MIME_TYPE)),
        attributes.payload(attribute_names.OUTPUTS, given(names.OUTPUT_MIME_TYPE)),
    )
    # Content under further names is used too, so that it does not fill meta_data.
    inputs = {prefix: flattened_list(attributes, prefix) for prefix in attribute_names.INPUT_LISTS}
    outputs = {prefix: flattened_list(attributes, prefix) for prefix in attribute_names.OUTPUT_LISTS}
    # The payload beside them has the request and the response in the objects of a library.
    if step_type == RETRIEVAL:
        content = Content(None, outputs["retrieval.documents"] or None).completed(content)
    elif step_type == LLM:
        messages = Content(inputs["llm.input_messages"] or None, outputs["llm.output_messages"] or None)
        content = messages.completed(content)
    conversation = attributes.payload(attribute_names.CONVERSATIONS)
    if conversation is not None:
        attributes.use(("pydantic_ai.new_message_index",))
        content = content.completed(first_turn(conversation, given("pydantic_ai.new_message_index")))
    lists = (next(filter(None, found.values()), None) for found in (inputs, outputs))
    content = content.completed(Content(*lists))
    events = messages_of(((event.name, event.attributes) for event in span.events), unwrapped=step_type == TOOL)
    content = content.completed(events)
    listed = payload_of(given("events"))  # of Pydantic AI before version 2 of its format
    items = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    earlier = messages_of((item["event.name"], item) for item in items if isinstance(item.get("event.name"), str))
    if earlier != Content(None, None):
        attributes.use(("events",))
    return content.completed(earlier)


def _meta_data(span: Span, group: SpanGroup, attributes: Attributes, handled: Any) -> dict[str, Any]:
    """The `meta_data` of a span: values that have no field, the unused attributes, and the parts of the span beside these."""
    meta = attributes.merged_objects(attribute_names.META_OBJECTS, attribute_names.META_PREFIXES)
    for name, value in (
        ("finish_reasons", attributes.texts(*attribute_names.FINISH_REASONS)),
        ("tools", flattened_list(attributes, "llm.tools")),
        ("exception", handled),
    ):
        if value:
            meta.setdefault(name, value)
    found = {**attributes.rest(attribute_names.NOISE), **meta}
    for name, part in {**_resource(group), **_parts(span, group)}.items():
        found[f"otlp.{name}" if name in found else name] = part  # an attribute may have the name
    return found


def _resource(group: SpanGroup) -> dict[str, Any]:
    resource = Attributes(group.resource).rest()
    return {"resource": resource} if resource else {}


def _parts(span: Span, group: SpanGroup) -> dict[str, Any]:
    """The parts of a span that are no attributes and have no field, under the names of OTLP."""
    scope = {"name": group.scope_name, "version": group.scope_version, "attributes": _plain(group.scope_attributes)}
    parts: dict[str, Any] = {"kind": _KINDS.get(span.kind, span.kind), "scope": _given(scope)}
    if span.events:
        exceptions = sum(event.name == names.EXCEPTION for event in span.events)
        events = [
            event
            for event in span.events
            if event.name not in MESSAGE_EVENTS and (event.name != names.EXCEPTION or exceptions > 1)
        ]
        parts["events"] = [_event(event) for event in events[:MOST_EVENTS]]
        parts["events_left_out"] = max(0, len(events) - MOST_EVENTS)
    if span.links:
        parts["links"] = [_link(link) for link in span.links[:MOST_EVENTS]]
        parts["links_left_out"] = max(0, len(span.links) - MOST_EVENTS)
    parts["trace_state"] = span.trace_state
    parts["dropped_attributes_count"] = span.dropped_attributes
    parts["dropped_events_count"] = span.dropped_events
    parts["dropped_links_count"] = span.dropped_links
    return _given(parts)


def _event(event: SpanEvent) -> dict[str, Any]:
    more = {"attributes": _plain(event.attributes), "dropped_attributes_count": event.dropped_attributes}
    return {"name": event.name, "time": zoned_utc(event.time_ns), **_given(more)}


def _link(link: SpanLink) -> dict[str, Any]:
    parts = {
        "trace_id": link.trace_id,
        "span_id": link.span_id,
        "trace_state": link.trace_state,
        "attributes": _plain(link.attributes),
        "dropped_attributes_count": link.dropped_attributes,
    }
    return _given(parts)


def _plain(attributes: Mapping[str, Value]) -> dict[str, Any]:
    return {name: payload_of(value) for name, value in attributes.items()}


def _given(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if part}


def _table_fields(attributes: Attributes, table: Mapping[str, Field]) -> dict[str, Any]:
    """The fields of the table that are in the attributes."""
    read: dict[str, Callable[..., Any]] = {TEXT: attributes.text, TEXTS: attributes.texts}
    found = {
        name: read.get(table[name].type, attributes.number)(*aliases)
        for name, aliases in _NAMES.items()
        if name in table and name != "cost_usd"  # which may be in several parts
    }
    return {name: value for name, value in found.items() if value not in (None, "", [])}


def _error(span: Span, attributes: Attributes, is_call_without_answer: bool) -> tuple[Any, str | None, Any]:
    """The `error` payload, the status of a span that failed or was cancelled, and the exception of one that did neither."""
    recorded = next((event.attributes for event in reversed(span.events) if event.name == names.EXCEPTION), {})
    exception = {key: value for key, value in _exception(reversed(span.events)).items() if value}
    exception |= {name: payload_of(value) for name, value in recorded.items() if name not in _OF_EXCEPTION}
    known = {
        "type": attributes.text(*attribute_names.ERROR_TYPES),
        "message": attributes.text(*attribute_names.ERROR_MESSAGES) or span.status_message,
        "traceback": attributes.text(*attribute_names.ERROR_TRACES),
    }
    error = {**{key: text for key, text in known.items() if text}, **exception}
    if any(span.attributes.get(name) == word for name, word in _CANCELLATIONS):
        return error or None, "cancelled", None
    failed = (
        span.status == ERROR
        or "error.type" in span.attributes
        or any(span.attributes.get(name) == word for name, word in _FAILURES)
        # LangSmith sets the status OK beside the exception of a call that failed.
        or (
            bool(recorded)
            and (is_call_without_answer or any(name.startswith("langsmith.") for name in span.attributes))
        )
    )
    if not failed:
        return None, None, exception or None
    kind = str(error.get("type") or "").rpartition(".")[2] or str(error.get("message") or "").partition(":")[0]
    return error or None, "cancelled" if kind.lower() in _CANCELLED else "failed", None


# ---- both ----------------------------------------------------------------------------------------------------------


def _exception(events: Iterable[SpanEvent]) -> dict[str, Any]:
    """The first exception among the events of a span, by the keys of the `error` payload."""
    recorded = next((event.attributes for event in events if event.name == names.EXCEPTION), {})
    return {key: plain(recorded[name]) for key, name in names.EXCEPTION_KEYS.items() if name in recorded}


def _is_root(span: Span) -> bool:
    return not span.parent_span_id.strip("0")


def _parent(span: Span, run_id: str) -> str | None:
    return None if _is_root(span) or span.parent_span_id == span_id_of(run_id) else span.parent_span_id


def update_of(
    type_: str, run_id: str, step_id: str | None, time_ns: int, fields: Mapping[str, Any], seq: int = 0
) -> Patch:
    """Make a patch that other parts of OTLP than spans tell. Raises `ValueError` with the reason if it cannot be stored."""
    if not 0 < time_ns <= _LATEST:
        raise ValueError("its time must be in nanoseconds since the epoch, up to the year 9999")
    return _patch(type_, run_id, step_id, None, time_ns, fields, seq)


def _patch(
    type_: str,
    run_id: str,
    step_id: str | None,
    parent_id: str | None,
    time_ns: int,
    fields: Mapping[str, Any],
    seq: int = 0,
) -> Patch:
    time = zoned_utc(time_ns)
    head = {"seq": seq, "time": time, "type": type_, "run_id": run_id, "step_id": step_id, "parent_id": parent_id}
    event: dict[str, Any] = {**head, **fields}
    normalise(event)
    if is_deeper(event, _EVENT_DEPTH):
        raise ValueError(f"a value is nested deeper than {_EVENT_DEPTH} levels")
    try:
        text = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        event_id = blake2b(text.encode(), digest_size=16).hexdigest()
    except (ValueError, RecursionError):
        raise ValueError("a number is out of range or a text is not valid Unicode") from None
    event["id"] = event_id
    return Patch(event_id, type_, run_id, step_id, time, SESSION, seq, event, f'{{"id":"{event_id}",{text[1:]}')


def _id(value: Value, name: str) -> str:
    if not is_id(value):
        raise ValueError(f"{name} must be {AN_ID}")
    return value
