"""Random spans, their messages in opentelemetry-proto, and the conversion of such messages into the model here."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from agentscope.protocols.json_decode import DecodeError
from agentscope.protocols.otlp.wire.model import Span, SpanEvent, SpanGroup, SpanLink, Value
from agentscope.protocols.otlp.wire.protobuf_form import _varint
from agentscope.server.ingest.otlp import DECODERS

TRACE_ID = "5b8efff798038103d269b633813fc60c"
SPAN_ID = "eee19b7ec3c1b174"

_ID_NAMES = {"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"}

times = st.integers(0, (1 << 64) - 1)
texts = st.text(max_size=12)
plain_values = st.one_of(
    st.none(),
    texts,
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=True, allow_infinity=True),
    st.binary(max_size=12),
)
values = st.recursive(
    plain_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
mappings = st.dictionaries(texts, values, max_size=4)


def ids(size: int) -> st.SearchStrategy[str]:
    """The hexadecimal digits of `size` bytes, not all zero."""
    return st.binary(min_size=size, max_size=size).filter(any).map(bytes.hex)


events = st.builds(SpanEvent, texts, times, mappings, st.just(0))
spans = st.builds(
    Span,
    trace_id=ids(16),
    span_id=ids(8),
    parent_span_id=st.just("") | ids(8),
    name=texts,
    kind=st.integers(0, 5),
    start_ns=times,
    end_ns=times,
    attributes=mappings,
    status=st.integers(0, 2),
    status_message=texts,
    events=st.lists(events, max_size=2),
    trace_state=texts,
    links=st.just([]),
    dropped_attributes=st.just(0),
    dropped_events=st.just(0),
    dropped_links=st.just(0),
)
groups = st.builds(SpanGroup, mappings, texts, texts, st.lists(spans, max_size=2), st.just({}))

counts = st.integers(0, (1 << 32) - 1)
foreign_spans = st.builds(
    lambda span, links, *dropped: span._replace(
        links=links,
        dropped_attributes=dropped[0],
        dropped_events=dropped[1],
        dropped_links=dropped[2],
        events=[event._replace(dropped_attributes=dropped[3]) for event in span.events],
    ),
    spans,
    st.lists(st.builds(SpanLink, ids(16), ids(8), mappings, texts, counts), max_size=2),
    *[counts] * 4,
)
"""Spans with the parts that this SDK does not send."""
foreign_groups = st.builds(SpanGroup, mappings, texts, texts, st.lists(foreign_spans, max_size=2), mappings)


def span(**fields: Any) -> Span:
    """A span with default values, except for the given fields."""
    plain = Span(
        TRACE_ID,
        SPAN_ID,
        "",
        "a span",
        1,
        1_700_000_000_000_000_000,
        1_700_000_001_000_000_000,
        {},
        events=[],
        links=[],
    )
    return plain._replace(**fields)


def read_request(form: Any, body: bytes) -> list[SpanGroup]:
    """The spans of a request, as the receiver reads them."""
    return [group._replace(spans=[*group.spans]) for group in DECODERS[form.CONTENT_TYPE](body)]


def field(number: int, data: bytes) -> bytes:
    """A field of bytes, a text or a message in protobuf."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def request_of(*spans: bytes) -> bytes:
    """A request in protobuf around spans that are given as bytes."""
    return field(1, field(2, b"".join(field(2, message) for message in spans)))


def attempt(decode: Callable[[bytes], list[SpanGroup]], body: bytes) -> list[SpanGroup] | int:
    """The decoded spans of a body, or the status of its refusal."""
    try:
        return decode(body)
    except DecodeError as problem:
        return problem.status


def message_of(found: Sequence[SpanGroup]) -> ExportTraceServiceRequest:
    """The message of opentelemetry-proto for these groups."""
    request = ExportTraceServiceRequest()
    for group in found:
        outer = request.resource_spans.add()
        outer.resource.SetInParent()
        _put(outer.resource.attributes, group.resource)
        inner = outer.scope_spans.add()
        inner.scope.SetInParent()
        inner.scope.name, inner.scope.version = group.scope_name, group.scope_version
        _put(inner.scope.attributes, group.scope_attributes)
        for each in group.spans:
            assert isinstance(each, Span)
            message = inner.spans.add(
                trace_id=bytes.fromhex(each.trace_id),
                span_id=bytes.fromhex(each.span_id),
                parent_span_id=bytes.fromhex(each.parent_span_id),
                trace_state=each.trace_state,
                name=each.name,
                kind=each.kind,
                start_time_unix_nano=each.start_ns,
                end_time_unix_nano=each.end_ns,
            )
            message.dropped_attributes_count, message.dropped_events_count = (
                each.dropped_attributes,
                each.dropped_events,
            )
            message.dropped_links_count = each.dropped_links
            _put(message.attributes, each.attributes)
            for event in each.events:
                added = message.events.add(name=event.name, time_unix_nano=event.time_ns)
                added.dropped_attributes_count = event.dropped_attributes
                _put(added.attributes, event.attributes)
            for link in each.links:
                linked = message.links.add(trace_id=bytes.fromhex(link.trace_id), span_id=bytes.fromhex(link.span_id))
                linked.trace_state, linked.dropped_attributes_count = link.trace_state, link.dropped_attributes
                _put(linked.attributes, link.attributes)
            if each.status or each.status_message:
                message.status.code, message.status.message = each.status, each.status_message
    return request


def groups_of(request: Any) -> list[SpanGroup]:
    """The groups of a message of opentelemetry-proto."""
    return [
        SpanGroup(
            _taken(outer.resource.attributes),
            inner.scope.name,
            inner.scope.version,
            [
                Span(
                    each.trace_id.hex(),
                    each.span_id.hex(),
                    each.parent_span_id.hex(),
                    each.name,
                    each.kind,
                    each.start_time_unix_nano,
                    each.end_time_unix_nano,
                    _taken(each.attributes),
                    each.status.code,
                    each.status.message,
                    [
                        SpanEvent(e.name, e.time_unix_nano, _taken(e.attributes), e.dropped_attributes_count)
                        for e in each.events
                    ],
                    each.trace_state,
                    [
                        SpanLink(
                            link.trace_id.hex(),
                            link.span_id.hex(),
                            _taken(link.attributes),
                            link.trace_state,
                            link.dropped_attributes_count,
                        )
                        for link in each.links
                    ],
                    each.dropped_attributes_count,
                    each.dropped_events_count,
                    each.dropped_links_count,
                )
                for each in inner.spans
            ],
            _taken(inner.scope.attributes),
        )
        for outer in request.resource_spans
        for inner in outer.scope_spans
    ]


def with_ids_as(document: Any, convert: Any) -> Any:
    """The JSON of a request with its ids converted: protobuf's JSON mapping has base64, and OTLP hexadecimal digits."""
    if isinstance(document, dict):
        return {
            name: convert(value) if name in _ID_NAMES and isinstance(value, str) else with_ids_as(value, convert)
            for name, value in document.items()
        }
    return [with_ids_as(item, convert) for item in document] if isinstance(document, list) else document


def hex_of(text: str) -> str:
    return base64.b64decode(text).hex()


def base64_of(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()


def _put(attributes: Any, values: Any) -> None:
    for name, value in values.items():
        _set(attributes.add(key=name).value, value)


def _set(message: Any, value: Value) -> None:
    if isinstance(value, str):
        message.string_value = value
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int):
        message.int_value = value
    elif isinstance(value, float):
        message.double_value = value
    elif isinstance(value, bytes):
        message.bytes_value = value
    elif isinstance(value, dict):
        message.kvlist_value.SetInParent()
        _put(message.kvlist_value.values, value)
    elif value is None:
        message.SetInParent()
    else:
        message.array_value.SetInParent()
        for item in value:
            _set(message.array_value.values.add(), item)


def _taken(attributes: Any) -> dict[str, Value]:
    return {item.key: _value(item.value) for item in attributes}


def _value(message: AnyValue) -> Value:
    member = message.WhichOneof("value")
    if member == "array_value":
        return [_value(item) for item in message.array_value.values]
    if member == "kvlist_value":
        return _taken(message.kvlist_value.values)
    found: Value = None if member is None or member.endswith("strindex") else getattr(message, member)
    return found
