"""OTLP requests in protobuf, read by the messages of opentelemetry-proto.

A request is parsed in two steps: first down to the bytes of each span, then span by span, as they are iterated over. Memory
holds the values of one span. A span that the library cannot read is refused alone, and its neighbours are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
    from google.protobuf.message import DecodeError as ParseError
    from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
    from opentelemetry.proto.trace.v1 import trace_pb2
except ImportError as problem:
    from agentscope.server.extra import missing_extra

    raise missing_extra(problem) from problem

from agentscope.protocols.json_decode import LIGHT_BODY, MAX_WEIGHT, DecodeError, Rejected, too_many, weight_of
from agentscope.protocols.otlp.wire.limits import DEEPEST_READ, LONGEST_SHOWN_ID, check_ids
from agentscope.protocols.otlp.wire.model import (
    LogRecord,
    Span,
    SpanEvent,
    SpanGroup,
    SpanLink,
    Unparsed,
    Unreadable,
    Value,
)
from agentscope.protocols.otlp.wire.protobuf_form import read_varint

# Weights are about those of JSON with the same content; see `json_decode.MAX_WEIGHT`.
_FIELD, _MESSAGE, _ITEM, _ATTRIBUTE = 1, 3, 5, 10
_LONGEST_NAME = 1000  # characters of a text that is no payload
_LARGE_SPAN = 64 << 10  # bytes
_PARSE_ERRORS = (ParseError, RecursionError)  # the second by the library's implementation in Python
_PLAIN = frozenset({"bool_value", "int_value", "double_value", "bytes_value"})


def decode_request(body: bytes) -> list[SpanGroup]:
    """Decode an `ExportTraceServiceRequest`, to one group for each `ScopeSpans`. The spans of a group can be iterated over once.

    A span that cannot be read becomes `Unreadable`. Raises `DecodeError`: 400 for a body that is no such message, 413
    for too many values.
    """
    if len(body) > LIGHT_BODY:
        _check_weight(body, _REQUEST)
    try:
        request = _Request.FromString(body)
    except _PARSE_ERRORS:
        why = "The body is not OTLP in protobuf, or a text that its spans share is not UTF-8."
        raise DecodeError(400, why) from None
    del body
    reader = _Reader()  # of the resources and scopes, which are in memory together
    try:
        return [
            SpanGroup(
                resource,
                inner.scope.name,
                inner.scope.version,
                map(_span, inner.spans),
                reader.attributes(inner.scope.attributes),
            )
            for outer in request.resource_spans
            for resource in [reader.attributes(outer.resource.attributes)]
            for inner in outer.scope_spans
        ]
    except Rejected as wrong:  # in a resource, which all its spans share
        raise DecodeError(400, f"The body is not OTLP: {wrong}.") from None


def decode_logs(body: bytes) -> list[LogRecord | None]:
    """Decode an `ExportLogsServiceRequest`, to None for a record that cannot be read. Raises as `decode_request` does."""
    if len(body) > LIGHT_BODY:
        _check_weight(body, _LOGS)
    try:
        request = LogsData.FromString(body)
    except _PARSE_ERRORS:
        raise DecodeError(400, "The body is not OTLP in protobuf, or a text in it is not UTF-8.") from None
    reader = _Reader()
    found: list[LogRecord | None] = []
    for outer in request.resource_logs:
        for inner in outer.scope_logs:
            for record in inner.log_records:
                try:
                    found.append(reader.log_record(record))
                except Rejected:
                    found.append(None)
    return found


def count_points(body: bytes) -> int:
    """Count the data points of an `ExportMetricsServiceRequest`. Raises as `decode_request` does."""
    count = 0
    room = MAX_WEIGHT
    messages: list[tuple[int, int, dict[int, Any]]] = [(0, len(body), _METRICS)]
    try:
        while messages:
            position, end, inner = messages.pop()
            while position < end:
                room -= _FIELD
                if room < 0:
                    raise too_many()
                tag, position = read_varint(body, position)
                size = {1: 8, 5: 4}.get(tag & 7, 0)
                if tag & 7 == 0:
                    position = read_varint(body, position)[1]
                elif tag & 7 == 2:
                    size, position = read_varint(body, position)
                    if inner.get(tag) is _POINT:
                        count += 1
                    elif tag in inner:
                        room -= _MESSAGE
                        messages.append((position, position + size, inner[tag]))
                elif not size:
                    raise IndexError
                position += size
                if position > end:
                    raise IndexError
    except IndexError:
        raise DecodeError(400, "The body is not OTLP in protobuf.") from None
    return count


def _span(data: bytes) -> Span | Unreadable:
    try:
        # Texts may hold JSON, which is parsed later, each by itself.
        is_heavy = len(data) > LIGHT_BODY and weight_of(data) > MAX_WEIGHT
        return _Reader(longest_parsed=_LONGEST_NAME if is_heavy else sys.maxsize).span(data)
    except _PARSE_ERRORS:
        return Unreadable(_shown_id(data), "it is not protobuf, has a text that is not UTF-8, or is nested too deep")
    except Rejected as wrong:
        return Unreadable(_shown_id(data), str(wrong))
    except DecodeError:
        return Unreadable(_shown_id(data), "it holds too many values")


class _Reader:
    """Values as they are taken out of the library's messages, up to `MAX_WEIGHT`."""

    def __init__(self, longest_parsed: int = sys.maxsize) -> None:
        self._room = MAX_WEIGHT
        self._longest_parsed = longest_parsed

    def span(self, data: bytes) -> Span:
        span = trace_pb2.Span.FromString(data)
        return Span(
            *check_ids(span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()),
            span.name,
            span.kind,
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            self.attributes(span.attributes),
            span.status.code,
            span.status.message,
            [self._event(each) for each in span.events],
            span.trace_state,
            [self._link(each) for each in span.links],
            span.dropped_attributes_count,
            span.dropped_events_count,
            span.dropped_links_count,
        )

    def log_record(self, record: Any) -> LogRecord:
        self._spend(_ATTRIBUTE)
        ids = record.trace_id.hex(), record.span_id.hex()
        time_ns = record.time_unix_nano or record.observed_time_unix_nano
        body, attributes = self._value(record.body, 1), self.attributes(record.attributes)
        return LogRecord(*ids, time_ns, record.event_name, body, attributes)

    def attributes(self, items: Sequence[Any], depth: int = 1) -> dict[str, Value]:
        self._spend(_ATTRIBUTE * len(items))
        return {item.key: self._value(item.value, depth) for item in items}

    def _event(self, event: Any) -> SpanEvent:
        self._spend(_ATTRIBUTE)
        attributes = self.attributes(event.attributes)
        return SpanEvent(event.name, event.time_unix_nano, attributes, event.dropped_attributes_count)

    def _link(self, link: Any) -> SpanLink:
        self._spend(_ATTRIBUTE)
        ids = link.trace_id.hex(), link.span_id.hex()
        return SpanLink(*ids, self.attributes(link.attributes), link.trace_state, link.dropped_attributes_count)

    def _value(self, value: Any, depth: int) -> Value:
        """Read an `AnyValue`. `depth` is its level if it is a list or a mapping."""
        member = value.WhichOneof("value")
        if member == "string_value":
            text: str = value.string_value
            return text if len(text) <= self._longest_parsed else Unparsed(text)
        if member == "array_value" or member == "kvlist_value":
            if depth > DEEPEST_READ:
                raise Rejected(f"a value is nested deeper than {DEEPEST_READ} levels")
            items = getattr(value, member).values
            if member == "kvlist_value":
                return self.attributes(items, depth + 1)
            self._spend(_ITEM * len(items))
            return [self._value(item, depth + 1) for item in items]
        if member not in _PLAIN:
            return None  # empty, or an index into the texts of a profile, which a span does not have
        found: Value = getattr(value, member)
        return found

    def _spend(self, weight: int) -> None:
        self._room -= weight
        if self._room < 0:
            raise too_many()


def _shown_id(data: bytes) -> str:
    """Return the id of a refused span, of bounded length; empty if it cannot be read."""
    try:
        span_id: bytes = _SpanId.FromString(data).span_id
    except _PARSE_ERRORS:
        return ""
    return span_id[: LONGEST_SHOWN_ID // 2].hex()


# The messages that a request consists of, as far as this module tells them apart: those in the field with a certain tag.
_ANY: dict[int, Any] = {}
_KEY_VALUE = {0x12: _ANY}
_KEY_VALUES = {0x0A: _KEY_VALUE}
_ANY.update({0x2A: {0x0A: _ANY}, 0x32: _KEY_VALUES})
_EVENT = {0x1A: _KEY_VALUE}
_SPAN = {0x4A: _KEY_VALUE, 0x5A: _EVENT, 0x6A: {0x22: _KEY_VALUE}, 0x7A: {}}
_SCOPE_SPANS = {0x0A: {0x1A: _KEY_VALUE}, 0x12: _SPAN}
_REQUEST = {0x0A: {0x0A: _KEY_VALUES, 0x12: _SCOPE_SPANS}}
_LOG_RECORD = {0x2A: _ANY, 0x32: _KEY_VALUE}
_LOGS = {0x0A: {0x0A: _KEY_VALUES, 0x12: {0x0A: {0x1A: _KEY_VALUE}, 0x12: _LOG_RECORD}}}
_POINT: dict[int, Any] = {}
_METRIC = {tag: {0x0A: _POINT} for tag in (0x2A, 0x3A, 0x4A, 0x52, 0x5A)}  # of each kind
_METRICS = {0x0A: {0x12: {0x12: _METRIC}}}


def _check_weight(body: bytes, outline: dict[int, Any]) -> None:
    """Raise `DecodeError` for a body with too many fields and messages before the library makes objects of them.

    An empty message of two bytes takes more than fifty in the library. The content of small spans is not counted, since spans are
    parsed one at a time.
    """
    room = MAX_WEIGHT
    messages: list[tuple[int, int, dict[int, Any]]] = [(0, len(body), outline)]
    while messages:
        position, end, inner = messages.pop()
        room -= _MESSAGE
        try:
            while position < end:
                room -= _FIELD
                if room < 0:
                    raise too_many()
                tag, position = read_varint(body, position)
                kind = tag & 7
                if kind == 0:
                    position = read_varint(body, position)[1]
                elif kind == 2:
                    size, position = read_varint(body, position)
                    found = inner.get(tag)
                    room -= _MESSAGE if found is _SPAN else 0
                    if found is not None and (found is not _SPAN or size > _LARGE_SPAN):
                        messages.append((position, min(position + size, end), found))
                    position += size
                elif kind in (1, 5):
                    position += 8 if kind == 1 else 4
                elif kind > 5:
                    break  # the library refuses it; the fields of a group, which it skips, count as those around it
        except IndexError:
            pass  # the library refuses a message that ends early


# The messages around a span as the library has them, but with each span as the bytes that it was sent as.
_MESSAGES = """
    name: "agentscope/spans.proto" package: "agentscope" syntax: "proto3"
    dependency: "opentelemetry/proto/common/v1/common.proto" dependency: "opentelemetry/proto/resource/v1/resource.proto"
    message_type { name: "Request"
        field { number: 1 name: "resource_spans" label: LABEL_REPEATED
                type: TYPE_MESSAGE type_name: ".agentscope.ResourceSpans" } }
    message_type { name: "ResourceSpans"
        field { number: 1 name: "resource" label: LABEL_OPTIONAL
                type: TYPE_MESSAGE type_name: ".opentelemetry.proto.resource.v1.Resource" }
        field { number: 2 name: "scope_spans" label: LABEL_REPEATED
                type: TYPE_MESSAGE type_name: ".agentscope.ScopeSpans" } }
    message_type { name: "ScopeSpans"
        field { number: 1 name: "scope" label: LABEL_OPTIONAL
                type: TYPE_MESSAGE type_name: ".opentelemetry.proto.common.v1.InstrumentationScope" }
        field { number: 2 name: "spans" label: LABEL_REPEATED type: TYPE_BYTES } }
    message_type { name: "SpanId"
        field { number: 2 name: "span_id" label: LABEL_OPTIONAL type: TYPE_BYTES } }
"""
_POOL = descriptor_pool.Default()
_POOL.AddSerializedFile(text_format.Parse(_MESSAGES, descriptor_pb2.FileDescriptorProto()).SerializeToString())
_Request, _SpanId = (
    message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"agentscope.{name}")) for name in ("Request", "SpanId")
)
