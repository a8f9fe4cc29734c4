"""The OpenTelemetry span processor: records the spans of an application's TracerProvider as runs and steps.

    provider.add_span_processor(AgentScopeSpanProcessor(tracker))

Agent frameworks that emit spans (Pydantic AI, Google ADK, Strands, Semantic Kernel, the Agent Framework, MCP, Anthropic's
SDK, …) need nothing else. Neither the provider nor any global of OpenTelemetry is changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import ref

from agentscope.errors import ConfigurationError
from agentscope.events import PAYLOAD_FIELDS, RUN_END, RUN_START, RUN_UPDATE, STEP, STEP_END, DeferredFields
from agentscope.pipeline.open_items import StepStart
from agentscope.pipeline.process import threads
from agentscope.protocols.agentscope.decode import Patch
from agentscope.protocols.ids import run_id_of
from agentscope.protocols.otlp.inbound.attribute_names import OF_RUN
from agentscope.protocols.otlp.inbound.patches import is_run, patches_of
from agentscope.protocols.otlp.wire.model import ERROR, Span, SpanEvent, SpanGroup, SpanLink
from agentscope.serialization.text import replace_surrogates
from agentscope.tracker.context import Place, bounded
from agentscope.tracker.fields import Fields
from agentscope.tracker.never_raise import Guarded, safe

try:
    from opentelemetry.sdk.trace import SpanProcessor
except ImportError as missing:
    raise ConfigurationError("The span processor needs OpenTelemetry's SDK: pip install opentelemetry-sdk") from missing

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.trace import Span as LiveSpan
    from opentelemetry.trace import Link

    from agentscope.tracker.tracker import Tracker

    Only = Callable[[ReadableSpan], bool]

__all__ = ["AgentScopeSpanProcessor"]

MAX_OPEN_SPANS = 10_000
"""Bound on the open spans that are remembered. Children of an older one are recorded below the run itself."""

_OF_ENDS = frozenset({"status", "ended_at", "latency_ms", "output", "error"})
_KINDS = {"INTERNAL": 1, "SERVER": 2, "CLIENT": 3, "PRODUCER": 4, "CONSUMER": 5}
_NOT_PLAIN = (*PAYLOAD_FIELDS, "id", "seq", "time", "type", "run_id", "step_id", "parent_id")


class _OpenSpan:
    """A span that has not ended: its place, and the parent of its children (None if the span is the run)."""

    def __init__(self, place: Place, step_id: str | None, span: LiveSpan, only: Only | None, limit: int) -> None:
        self.place = place
        self.step_id = step_id
        self.announced = False
        """True once its start was an event of its own, which its end has to follow."""
        self.ended = False
        self._span = span
        self._only = only
        self._limit = limit
        self._began = time.perf_counter_ns()

    def open_since(self) -> int:
        return self._began

    def start_event(self) -> StepStart | None:
        """Return the start of the step, or the fields of the run, as the span tells by now. The worker calls this.

        None for a span that is not wanted, as it is by now.
        """
        if self._only is not None:
            with threads.callback():
                if not self._only(self._span):
                    return None
        self.announced = True  # in this order: if the span ends between these lines, one of both threads sees it
        if self.ended:
            return None
        reading, (run_id, parent_id) = _Reading(self._span, self.place, self._limit), self.place
        found = reading.fields(RUN_UPDATE if self.step_id is None else STEP, self.step_id)
        fields = {name: value for name, value in found.items() if name not in _OF_ENDS}
        if self.step_id is not None:
            fields["status"] = "running"
        return StepStart(run_id, self.step_id, parent_id, fields, reading.size, self._span.start_time or 0)


class AgentScopeSpanProcessor(SpanProcessor, Guarded):
    """Records each ended span with `tracker`. A trace that begins inside a run is part of it, any other is a run of its own.

    only: called with each ended span; spans for which it returns False are not recorded. Default: all spans are. It is also
    called with a span that has been open for a second: if it returns True, the span is shown before its end.

    No method raises. Only `force_flush` and `shutdown` wait for the network. `shutdown` does not shut down the tracker, which
    may have other users.
    """

    def __init__(self, tracker: Tracker, only: Only | None = None) -> None:
        self._tracker = tracker
        self._recorder = tracker._recorder
        self._only = only
        self._open_spans: dict[int, _OpenSpan] = {}
        """Open spans by span id."""
        self._run_attributes: dict[str, object] = {}
        """The user, conversation and tags last recorded, by run id."""

    @safe(lambda *_: None)
    def on_start(self, span: LiveSpan, parent_context: Context | None = None) -> None:
        """Choose the run and the parent of the span, by the current run of the thread that begins the span."""
        context = span.get_span_context()
        if context is None or not self._recorder.enabled or not context.trace_flags.sampled or threads.is_ours():
            return  # a span of delivery would be delivered, and lead to another one
        parent = span.parent
        above = self._open_spans.get(parent.span_id) if parent is not None else None
        step_id: str | None = _hex(context.span_id)
        if above is not None:
            place = Place(above.place.run_id, above.step_id)
        else:
            scope = self._recorder.runs.innermost()
            if scope is not None:
                place = Place(scope.run_id, scope.step_id)
            elif parent is not None:
                place = Place(run_id_of(f"{context.trace_id:032x}"), _hex(parent.span_id))
            else:
                place, step_id = self._begin_run(span, f"{context.trace_id:032x}", _hex(context.span_id)), None
        opened = self._open_spans[context.span_id] = _OpenSpan(place, step_id, span, self._only, self._recorder.limit)
        items = self._recorder.open_items
        items.steps[_hex(context.span_id)] = ref(opened)
        if not items.watched:
            self._recorder.pipeline.watch()
        bounded(self._open_spans, MAX_OPEN_SPANS)

    @safe(lambda *_: None)
    def on_end(self, span: ReadableSpan) -> None:
        """Enqueue the span. It does not change any more, so that the worker reads its fields."""
        context = span.get_span_context()
        if context is None:
            return
        open_span = self._open_spans.pop(context.span_id, None)
        if open_span is None:
            return
        open_span.ended = True
        self._recorder.open_items.steps.pop(_hex(context.span_id), None)
        failed = span.status.status_code.value == ERROR
        if not self._is_wanted(span):
            # The run has begun, and other spans of the trace may be in it; or the step has been announced.
            if open_span.step_id is None or open_span.announced:
                values = {"status": "failed" if failed else "completed", "ended_at": span.end_time}
                (run_id, parent_id), type_ = open_span.place, STEP_END
                if open_span.step_id is None:
                    parent_id, type_ = None, RUN_END
                    values |= _root(_hex(context.span_id))
                fields = Fields(self._recorder.limit, values)
                self._recorder.put(type_, run_id, open_span.step_id, parent_id, fields, urgent=True)
            return
        reading = _Reading(span, open_span.place, self._recorder.limit)
        if open_span.step_id is None:
            self._put(RUN_END, reading, None, urgent=True)
        elif self._is_run_changed(span.attributes, open_span.place.run_id):
            self._put(RUN_UPDATE, reading, None, urgent=True)
        if open_span.step_id is not None or not is_run(reading.span):
            self._put(STEP, reading, _hex(context.span_id), urgent=failed)

    def shutdown(self) -> None:
        """Flush the tracker, for at most 30 s."""
        self._tracker._pipeline.flush(30.0)

    @safe(lambda *_: False)
    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the tracker. Returns True if everything was delivered in time."""
        return bool(self._tracker._pipeline.flush(timeout_millis / 1000))

    def _begin_run(self, span: LiveSpan, trace_id: str, span_id: str) -> Place:
        """Record the start of a run for this trace, so that it is visible before it ends."""
        run_id = run_id_of(trace_id)
        values = {"status": "running", "started_at": span.start_time or 0, **_root(span_id)}
        fields = Fields(self._recorder.limit, values)
        fields.name("agent_name", span.name)
        self._recorder.put(RUN_START, run_id, None, None, fields, urgent=True)
        return Place(run_id, None)

    @safe(lambda *_: False)
    def _is_wanted(self, span: ReadableSpan) -> bool:
        return self._only is None or bool(self._only(span))

    def _is_run_changed(self, attributes: Mapping[str, Any] | None, run_id: str) -> bool:
        """Return True if the span has a new user, conversation or tags of its run; many emitters repeat them on every span."""
        found = tuple((name, attributes[name]) for name in OF_RUN if name in attributes) if attributes else ()
        if not found or self._run_attributes.get(run_id) == found:
            return False
        self._run_attributes[run_id] = found
        bounded(self._run_attributes, MAX_OPEN_SPANS)
        return True

    def _put(self, type_: str, reading: _Reading, step_id: str | None, urgent: bool) -> None:
        fields = DeferredFields(lambda: reading.fields(type_, step_id))
        (run_id, outer), recorder = reading.place, self._recorder
        if not recorder.pipeline.put(type_, run_id, step_id, outer if step_id else None, fields, reading.size, urgent):
            recorder.refused()

    def _failed(self, call: str, error: Exception) -> None:
        # Never raised, even with `fail_silently=False`: this call is the application's and not the user's of the tracker.
        self._tracker._pipeline.invalid_call(
            "span_not_recorded", f"a span could not be recorded: {type(error).__name__}"
        )


class _Reading:
    """An ended span, which the worker converts to fields."""

    def __init__(self, span: ReadableSpan, place: Place, limit: int) -> None:
        self.place = place
        self.span = _value(span, place)
        parts: tuple[SpanEvent | SpanLink, ...] = (*self.span.events, *self.span.links)
        found = (self.span.attributes, *(part.attributes for part in parts))
        self.size = sum(len(value) for attributes in found for value in attributes.values() if type(value) is str)
        self._source = span
        self._limit = limit
        self._patches: list[Patch] | None = None

    def fields(self, type_: str, step_id: str | None) -> dict[str, Any]:
        """Return the fields of the event of this type. Raises `ValueError` for a span that cannot be recorded."""
        if self._patches is None:
            self._patches = patches_of(_utf8(self.span), _utf8(_group(self._source)))
        found: Mapping[str, Any] = next(
            (patch.fields for patch in self._patches if (patch.step_id is None) == (step_id is None)), {}
        )
        fields = Fields(self._limit, {name: value for name, value in found.items() if name not in _NOT_PLAIN})
        for name, value in (("started_at", self.span.start_ns), ("ended_at", self.span.end_ns)):
            if name in fields.values and value:
                fields.values[name] = value
        for name in PAYLOAD_FIELDS:
            if name in found:
                fields.payload(name, found[name])
        return fields.values


def _utf8(value: Any) -> Any:
    """Replace surrogates in all texts of a value: models write them, and UTF-8 cannot hold them."""
    if isinstance(value, str):
        return value if value.isascii() else replace_surrogates(value)
    if isinstance(value, Mapping):
        return {_utf8(name): _utf8(item) for name, item in value.items()}
    if isinstance(value, (Span, SpanEvent, SpanLink, SpanGroup)):
        return type(value)(*map(_utf8, value))
    return [_utf8(item) for item in value] if isinstance(value, (list, tuple)) else value


def _root(span_id: str) -> dict[str, Any]:
    """Return the fields by which a receiver tells the roots of a trace apart. The end of the span tells its type."""
    return {"span_id": span_id, "step_type": "other"}


def _hex(span_id: int) -> str:
    return f"{span_id:016x}"


def _value(span: ReadableSpan, place: Place) -> Span:
    """Copy the span. In the run of another trace it always gets a parent, so that it becomes a step."""
    context = span.get_span_context()
    assert context is not None
    trace_id = f"{context.trace_id:032x}"
    parent = place.parent_id or ("" if place.run_id == run_id_of(trace_id) else "0" * 15 + "1")
    if span.parent is not None:
        parent = _hex(span.parent.span_id)
    return Span(
        trace_id,
        _hex(context.span_id),
        parent,
        span.name,
        _KINDS.get(span.kind.name, 0),
        span.start_time or 0,
        span.end_time or 0,
        dict(span.attributes or {}),
        span.status.status_code.value,
        span.status.description or "",
        [_event(event) for event in span.events],
        context.trace_state.to_header(),
        [_link(link) for link in span.links],
        span.dropped_attributes,
        span.dropped_events,
        span.dropped_links,
    )


def _event(event: Event) -> SpanEvent:
    return SpanEvent(event.name, event.timestamp, dict(event.attributes or {}), event.dropped_attributes)


def _link(link: Link) -> SpanLink:
    linked = link.context
    ids = f"{linked.trace_id:032x}", _hex(linked.span_id)
    return SpanLink(*ids, dict(link.attributes or {}), linked.trace_state.to_header(), link.dropped_attributes)


def _group(span: ReadableSpan) -> SpanGroup:
    scope = span.instrumentation_scope
    resource = dict(span.resource.attributes)
    if scope is None:
        return SpanGroup(resource, "", "", ())
    return SpanGroup(resource, scope.name, scope.version or "", (), dict(scope.attributes or {}))
