"""Spans as values, between the events of this package and the two encodings of OTLP.

The format is opentelemetry-proto's `ExportTraceServiceRequest` (opentelemetry/proto/collector/trace/v1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Union

Value = Union[str, bool, int, float, bytes, None, Sequence["Value"], Mapping[str, "Value"]]  # noqa: UP007 - a name in quotes knows no `|
"""The value of an attribute (`AnyValue`). None is an empty one."""

INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = 1, 2, 3, 4, 5
"""Kinds of a span; 0 is unspecified."""
UNSET, OK, ERROR = 0, 1, 2
"""Codes of a span's status."""


class Unparsed(str):
    """A text that stays a text though it may be JSON: those of its span would take too much memory as values."""

    __slots__ = ()


class SpanEvent(NamedTuple):
    """An event of a span."""

    name: str
    time_ns: int
    attributes: Mapping[str, Value]
    dropped_attributes: int = 0


class SpanLink(NamedTuple):
    """A link to another span, perhaps of another trace."""

    trace_id: str
    """As it was sent, in lower case. Neither id is checked, so that a bad link does not cost its span."""
    span_id: str
    attributes: Mapping[str, Value]
    trace_state: str = ""
    dropped_attributes: int = 0


class Span(NamedTuple):
    """One span. Times are in nanoseconds since the epoch; `end_ns` 0 means that it has not ended."""

    trace_id: str
    """32 hexadecimal digits, lower case."""
    span_id: str
    """16 hexadecimal digits, lower case."""
    parent_span_id: str
    """As `span_id`; empty for a root."""
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value]
    status: int = UNSET
    status_message: str = ""
    events: Sequence[SpanEvent] = ()
    trace_state: str = ""
    links: Sequence[SpanLink] = ()
    dropped_attributes: int = 0
    """Attributes, events and links that the sender left out, as it counts them."""
    dropped_events: int = 0
    dropped_links: int = 0


class LogRecord(NamedTuple):
    """A log record. One without a name is no event, and one without a span id belongs to no span."""

    trace_id: str
    span_id: str
    time_ns: int
    event_name: str
    body: Value
    attributes: Mapping[str, Value]


class Unreadable(NamedTuple):
    """A span that cannot be stored. `span_id` is the id that was sent, or empty."""

    span_id: str
    reason: str


class SpanGroup(NamedTuple):
    """Spans of one resource and one instrumentation scope (`ResourceSpans` and `ScopeSpans`, flattened)."""

    resource: Mapping[str, Value]
    scope_name: str
    scope_version: str
    spans: Iterable[Span | Unreadable]
    scope_attributes: Mapping[str, Value] = MappingProxyType({})
