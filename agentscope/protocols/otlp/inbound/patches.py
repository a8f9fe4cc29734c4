"""The decoding of spans into the patches that the receiver stores: spans of this SDK without loss, others by convention.

A trace is a run, and a span a step. A root that is an agent, or has no particular type, is the run itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from math import isfinite
from typing import Any

from agentscope.events import (
    FIELDS,
    MILLISECONDS,
    NUMBER,
    RUN_END,
    RUN_START,
    RUN_UPDATE,
    STEP,
    STEP_START,
    TEXT,
    TEXTS,
    WHOLE,
)
from agentscope.protocols.agentscope.decode import Patch
from agentscope.protocols.agentscope.fields import MAX_ID, normal_time
from agentscope.protocols.ids import run_id_of, span_id_of
from agentscope.protocols.json_decode import MAX_DEPTH
from agentscope.protocols.json_encode import zoned_utc
from agentscope.protocols.otlp import semantic_conventions as names
from agentscope.protocols.otlp.wire.model import Span, SpanGroup, Value
from agentscope.serialization.depth import is_deeper

from .attributes import parsed, plain
from .step_types import AGENT, OTHER, REASONING, kind_of
from .third_party import Foreign, is_root, resource_data, resource_fields, understood

SESSION = "otlp"
"""The `Patch.session_id` of all spans, which have no session."""

_RUNS = frozenset({AGENT, OTHER, REASONING})
"""Step types of roots that become the run only. A root of another type becomes a run and a step."""
_EVENT_DEPTH = MAX_DEPTH - 2
_LATEST = 253_402_300_799 * 10**9  # the last second of the year 9999


def patches_of(span: Span, group: SpanGroup) -> list[Patch]:
    """Decode a span of `group` into at most two patches: to a run and to a step.

    Equal spans give equal event ids in either encoding, and different spans different ids. Raises `ValueError` with the reason
    for a span that cannot be stored.
    """
    if not 0 < max(span.start_ns, span.end_ns) <= _LATEST:
        raise ValueError("its times must be in nanoseconds since the epoch, up to the year 9999")
    given = span.attributes.get(names.RUN_ID)
    run_id = run_id_of(span.trace_id) if given is None else _id(given, names.RUN_ID)
    if given is not None and (names.STEP_ID in span.attributes or span.span_id == span_id_of(run_id)):
        return [_own(span, run_id)]
    # A span with the id of a run of this SDK is a step in it, even without a parent: the run has its own name and end.
    return _foreign(span, group, run_id, is_root(span) and given is None)


def is_run(span: Span) -> bool:
    """Tell if a root of another emitter is the run only, and not a step as well."""
    return kind_of(span) in _RUNS


def without_repeats(patches: Iterable[Patch]) -> list[Patch]:
    """The patches without repeated updates of the same run, such as its user, conversation or tags.

    Many emitters set these on every span of a trace.
    """
    kept: list[Patch] = []
    seen: set[tuple[str, str]] = set()
    for patch in patches:
        if patch.type == RUN_UPDATE:
            told = {name: value for name, value in patch.fields.items() if name not in ("id", "time")}
            key = patch.run_id, json.dumps(told, sort_keys=True)
            if key in seen:
                continue
            seen.add(key)
        kept.append(patch)
    return kept


# ---- spans of this SDK --------------------------------------------------------------------------------------------


def _own(span: Span, run_id: str) -> Patch:
    attributes = span.attributes
    step = attributes.get(names.STEP_ID)
    step_id = None if step is None else _id(step, names.STEP_ID)
    parent = attributes.get(names.PARENT_ID)
    if parent is not None:
        parent_id: str | None = _id(parent, names.PARENT_ID)
    else:
        parent_id = None if step_id is None else _parent(span, run_id)
    fields: dict[str, Any] = {}
    _put_text(fields, "agent_name" if step_id is None else "name", attributes.get(names.NAME), names.NAME)
    _put_text(fields, "step_type", attributes.get(names.STEP_TYPE), names.STEP_TYPE)
    for put, field, name in _CARRIED:
        put(fields, field, attributes.get(name), name)
    _put_time(fields, "started_at", attributes.get(names.STARTED_AT), span.start_ns)
    _put_time(fields, "ended_at", attributes.get(names.ENDED_AT), span.end_ns)
    for field, value_name, type_name in (
        (names.INPUT, names.INPUT_VALUE, names.INPUT_MIME_TYPE),
        (names.OUTPUT, names.OUTPUT_VALUE, names.OUTPUT_MIME_TYPE),
    ):
        value = attributes.get(value_name, attributes.get(field))
        if value is not None:
            fields[field] = value if attributes.get(type_name) == names.TEXT_TYPE else _json(value)
    for field, name in (("meta_data", names.META_DATA), ("meta_data", names.METADATA), ("usage", names.USAGE)):
        if attributes.get(name) is not None:
            fields.setdefault(field, _json(attributes[name]))
    error = _own_error(span)
    if error is not None:
        fields["error"] = error
    ended = "ended_at" in fields
    types = (RUN_END, RUN_START) if step_id is None else (STEP, STEP_START)
    return _patch(types[0] if ended else types[1], run_id, step_id, parent_id, span.end_ns or span.start_ns, fields)


def _own_error(span: Span) -> Any:
    if names.ERROR_PAYLOAD in span.attributes:
        return _json(span.attributes[names.ERROR_PAYLOAD])
    told = next((event.attributes for event in span.events if event.name == names.EXCEPTION), {})
    return {key: plain(told[name]) for key, name in names.EXCEPTION_KEYS.items() if name in told} or None


def _json(value: Value) -> Any:
    return parsed(value) if type(value) is str else plain(value)


def _put_text(fields: dict[str, Any], field: str, value: Value, name: str) -> None:
    if value is not None:
        if type(value) is not str:
            raise ValueError(f"{name} must be a string")
        fields[field] = value


def _put_number(fields: dict[str, Any], field: str, value: Value, name: str) -> None:
    if value is not None:
        if type(value) not in (int, float) or (type(value) is float and not isfinite(value)):
            raise ValueError(f"{name} must be a number")
        fields[field] = value


def _put_list(fields: dict[str, Any], field: str, value: Value, name: str) -> None:
    if value is not None:
        items = plain(value)
        if type(items) is not list or not all(type(item) is str for item in items):
            raise ValueError(f"{name} must be a list of strings")
        fields[field] = items


_PUT = {TEXT: _put_text, TEXTS: _put_list, WHOLE: _put_number, NUMBER: _put_number, MILLISECONDS: _put_number}
_CARRIED = tuple((_PUT[field.type], name, field.attributes[0]) for name, field in FIELDS.items() if field.attributes)
"""The fields with an attribute: the function that reads it, the field, and the attribute."""


def _put_time(fields: dict[str, Any], field: str, value: Value, span_ns: int) -> None:
    """Set a time: that of the attribute if there is one (0 for none), else that of the span."""
    if value is None:
        value = span_ns
    try:
        if type(value) is str:
            fields[field] = normal_time(value)
        elif type(value) is not int:
            raise TypeError
        elif value:
            fields[field] = zoned_utc(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{field} must be a time") from None


# ---- spans of other emitters ---------------------------------------------------------------------------------------


def _foreign(span: Span, group: SpanGroup, run_id: str, root: bool) -> list[Patch]:
    told = understood(span, group)
    time_ns = span.end_ns or span.start_ns
    patches: list[Patch] = []
    if root:
        patches.append(_run(span, group, run_id, told))
    elif told.of_run:
        # At the time of the span's start, so that the fields of the root, at its end, take precedence.
        patches.append(_patch(RUN_UPDATE, run_id, None, None, span.start_ns or time_ns, told.of_run))
    if not root or told.kind not in _RUNS:
        fields = {"name": told.name, "step_type": told.kind, **told.fields, **told.of_step}
        if told.meta_data:
            fields["meta_data"] = told.meta_data
        type_ = STEP if told.ended else STEP_START
        patches.append(_patch(type_, run_id, span.span_id, _parent(span, run_id), time_ns, fields))
    return patches


def _run(span: Span, group: SpanGroup, run_id: str, told: Foreign) -> Patch:
    fields = {"agent_name": told.run_name or told.name, **told.fields, **resource_fields(group), **told.of_run}
    meta = {**told.run_meta_data, **resource_data(group)}
    if told.kind in _RUNS:
        meta = {**told.meta_data, **told.of_step, **meta}  # a run has no fields of steps
        fields["span_id"] = span.span_id  # the parent id in its children
    else:
        fields.pop("usage", None)  # the step has it
    if fields["agent_name"] != told.name:
        meta.setdefault("span_name", told.name)
    if meta:
        fields["meta_data"] = meta
    return _patch(RUN_END if told.ended else RUN_START, run_id, None, None, span.end_ns or span.start_ns, fields)


# ---- both ----------------------------------------------------------------------------------------------------------


def _parent(span: Span, run_id: str) -> str | None:
    return None if is_root(span) or span.parent_span_id == span_id_of(run_id) else span.parent_span_id


def _patch(
    type_: str, run_id: str, step_id: str | None, parent_id: str | None, time_ns: int, fields: Mapping[str, Any]
) -> Patch:
    time = zoned_utc(time_ns)
    head = {"seq": 0, "time": time, "type": type_, "run_id": run_id, "step_id": step_id, "parent_id": parent_id}
    event: dict[str, Any] = {**head, **fields}
    if is_deeper(event, _EVENT_DEPTH):
        raise ValueError(f"a value is nested deeper than {_EVENT_DEPTH} levels")
    try:
        text = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        event_id = blake2b(text.encode(), digest_size=16).hexdigest()
    except (ValueError, RecursionError):
        raise ValueError("a number is out of range or a text is not valid Unicode") from None
    event["id"] = event_id
    return Patch(event_id, type_, run_id, step_id, time, SESSION, 0, event, f'{{"id":"{event_id}",{text[1:]}')


def _id(value: Value, name: str) -> str:
    if type(value) is not str or not 0 < len(value) <= MAX_ID or "\0" in value:
        raise ValueError(f"{name} must be a string of 1 to {MAX_ID} characters without NUL")
    return value
