"""OpenTelemetry in: spans of an application's own TracerProvider, recorded as runs and steps.

    provider.add_span_processor(AgentScopeSpanProcessor(tracker))

Agent frameworks that emit spans by themselves (Pydantic AI, Google ADK, Strands, Semantic Kernel, the Agent Framework, MCP,
Anthropic's SDK, …) need nothing else. Neither the provider nor any global of OpenTelemetry is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from agentscope.errors import ConfigurationError
from agentscope.events import PAYLOAD_FIELDS, RUN_END, RUN_START, RUN_UPDATE, STEP, DeferredFields
from agentscope.protocols.agentscope.decode import Patch
from agentscope.protocols.ids import run_id_of
from agentscope.protocols.otlp.inbound.attribute_names import OF_RUN
from agentscope.protocols.otlp.inbound.patches import is_run, patches_of
from agentscope.protocols.otlp.wire.limits import sound
from agentscope.protocols.otlp.wire.model import ERROR, Span, SpanEvent, SpanGroup
from agentscope.tracker.context import Place, bounded
from agentscope.tracker.fields import Fields
from agentscope.tracker.never_raise import Guarded, safe

try:
    from opentelemetry.sdk.trace import SpanProcessor
except ImportError as missing:
    raise ConfigurationError("The span processor needs OpenTelemetry's SDK: pip install opentelemetry-sdk") from missing

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace import Span as LiveSpan

    from agentscope.tracker.tracker import Tracker

__all__ = ["AgentScopeSpanProcessor"]

MOST_OPEN_SPANS = 10_000
"""Spans that have begun and are remembered; beyond that the oldest is forgotten, and its children hang in its trace."""

_KINDS = {"INTERNAL": 1, "SERVER": 2, "CLIENT": 3, "PRODUCER": 4, "CONSUMER": 5}
_ON_THE_CALL = ("id", "seq", "time", "type", "run_id", "step_id", "parent_id")


class _Open(NamedTuple):
    """A span that goes on."""

    place: Place
    own: str | None
    """What its children name as their parent; None if it is the run."""


class AgentScopeSpanProcessor(SpanProcessor, Guarded):
    """Records each span that ends, by `tracker`: its trace is a run, or part of the run that is current where the trace begins.

    `only` says which spans to record, by default all. It is asked when a span ends, with the span.

    No method raises, and none waits for the network, but `force_flush` and `shutdown`. The tracker is not shut down with the
    provider: it may have other work.
    """

    def __init__(self, tracker: Tracker, only: Callable[[ReadableSpan], bool] | None = None) -> None:
        self._tracker = tracker
        self._recorder = tracker._recorder
        self._only = only
        self._places: dict[int, _Open] = {}
        """Spans that go on, by their ids."""
        self._told: dict[str, object] = {}
        """The user, conversation and tags that each run was said to have."""

    @safe(lambda *_: None)
    def on_start(self, span: LiveSpan, parent_context: Context | None = None) -> None:
        """Settle where the span belongs: in the thread that begins it, the current run is the right one."""
        context = span.get_span_context()
        if context is None or not self._recorder.enabled or not context.trace_flags.sampled:
            return
        parent = span.parent
        above = self._places.get(parent.span_id) if parent is not None else None
        own: str | None = _hex(context.span_id)
        if above is not None:
            place = Place(above.place.run_id, above.own)
        else:
            scope = self._recorder.runs.innermost()
            if scope is not None:
                place = Place(scope.run_id, scope.step_id)
            elif parent is not None:
                place = Place(run_id_of(f"{context.trace_id:032x}"), _hex(parent.span_id))
            else:
                place, own = self._begin_run(span, f"{context.trace_id:032x}"), None
        self._places[context.span_id] = _Open(place, own)
        bounded(self._places, MOST_OPEN_SPANS)

    @safe(lambda *_: None)
    def on_end(self, span: ReadableSpan) -> None:
        """Enqueue the span, which does not change any more; what it says is read by the worker."""
        context = span.get_span_context()
        if context is None:
            return
        known = self._places.pop(context.span_id, None)
        if known is None:
            return
        if not self._is_wanted(span):
            if known.own is None:  # the run has been begun, and other spans of the trace may be in it
                self._end_run(span, known.place.run_id)
            return
        reading = _Reading(span, known.place, self._recorder.limit)
        failed = span.status.status_code.value == ERROR
        if known.own is None:
            self._put(RUN_END, reading, None, urgent=True)
        elif self._is_news(span.attributes, known.place.run_id):
            self._put(RUN_UPDATE, reading, None, urgent=True)
        if known.own is not None or not is_run(reading.span):
            self._put(STEP, reading, _hex(context.span_id), urgent=failed)

    def shutdown(self) -> None:
        """Deliver what there is."""
        self._tracker._pipeline.flush(30.0)

    @safe(lambda *_: False)
    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Whether everything was delivered within this time."""
        return bool(self._tracker._pipeline.flush(timeout_millis / 1000))

    def _begin_run(self, span: LiveSpan, trace_id: str) -> Place:
        """The trace is a run of its own, which is seen from its start on."""
        run_id = run_id_of(trace_id)
        fields = Fields(self._recorder.limit, {"status": "running", "started_at": span.start_time or 0})
        fields.name("agent_name", span.name)
        self._recorder.put(RUN_START, run_id, None, None, fields, urgent=True)
        return Place(run_id, None)

    @safe(lambda *_: False)
    def _is_wanted(self, span: ReadableSpan) -> bool:
        return self._only is None or bool(self._only(span))

    def _end_run(self, span: ReadableSpan, run_id: str) -> None:
        """The end of a run whose span is not to be recorded: nothing but that."""
        failed = span.status.status_code.value == ERROR
        fields = Fields(
            self._recorder.limit, {"status": "failed" if failed else "completed", "ended_at": span.end_time}
        )
        self._recorder.put(RUN_END, run_id, None, None, fields, urgent=True)

    def _is_news(self, attributes: Mapping[str, Any] | None, run_id: str) -> bool:
        """Whether a span tells a user, a conversation or tags of its run: many emitters repeat them on every span."""
        told = tuple((name, attributes[name]) for name in OF_RUN if name in attributes) if attributes else ()
        if not told or self._told.get(run_id) == told:
            return False
        self._told[run_id] = told
        bounded(self._told, MOST_OPEN_SPANS)
        return True

    def _put(self, type_: str, reading: _Reading, step_id: str | None, urgent: bool) -> None:
        fields = DeferredFields(lambda: reading.fields(type_, step_id))
        (run_id, outer), recorder = reading.place, self._recorder
        if not recorder.pipeline.put(type_, run_id, step_id, outer if step_id else None, fields, reading.size, urgent):
            recorder.refused()

    def _failed(self, call: str, error: Exception) -> None:
        # Past `fail_silently=False`, which is for the tracker's own calls: this one is the application's.
        self._tracker._pipeline.invalid_call(
            "span_not_recorded", f"a span could not be recorded: {type(error).__name__}"
        )


class _Reading:
    """A span that has ended, and what it amounts to once the worker asks."""

    def __init__(self, span: ReadableSpan, place: Place, limit: int) -> None:
        self.place = place
        self.span = _value(span, place)
        told = (self.span.attributes, *(event.attributes for event in self.span.events))
        self.size = sum(len(value) for attributes in told for value in attributes.values() if type(value) is str)
        self._source = span
        self._limit = limit
        self._patches: list[Patch] | None = None

    def fields(self, type_: str, step_id: str | None) -> dict[str, Any]:
        """The fields of the event of this type. Raises `ValueError` for a span that cannot be recorded."""
        if self._patches is None:
            self._patches = patches_of(_sound(self.span), _sound(_group(self._source)))
        told: Mapping[str, Any] = next(
            (patch.fields for patch in self._patches if (patch.step_id is None) == (step_id is None)), {}
        )
        fields = Fields(self._limit, {name: value for name, value in told.items() if _is_plain(name)})
        for name, value in (("started_at", self.span.start_ns), ("ended_at", self.span.end_ns)):
            if name in fields.values and value:
                fields.values[name] = value
        for name in PAYLOAD_FIELDS:
            if name in told:
                fields.payload(name, told[name])
        return fields.values


def _sound(value: Any) -> Any:
    """The same without lone surrogates, which models do write and JSON cannot carry."""
    if isinstance(value, str):
        return value if value.isascii() else sound(value)
    if isinstance(value, Mapping):
        return {_sound(name): _sound(item) for name, item in value.items()}
    if isinstance(value, (Span, SpanEvent, SpanGroup)):
        return type(value)(*map(_sound, value))
    return [_sound(item) for item in value] if isinstance(value, (list, tuple)) else value


def _is_plain(name: str) -> bool:
    return name not in PAYLOAD_FIELDS and name not in _ON_THE_CALL


def _hex(span_id: int) -> str:
    return f"{span_id:016x}"


def _value(span: ReadableSpan, place: Place) -> Span:
    """The span as a value. Within a run that is not its own trace's it has a parent in any case, so that it becomes a step."""
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
        _attributes(span.attributes),
        span.status.status_code.value,
        span.status.description or "",
        [SpanEvent(event.name, event.timestamp, _attributes(event.attributes)) for event in span.events],
    )


def _group(span: ReadableSpan) -> SpanGroup:
    scope = span.instrumentation_scope
    name, version = ("", "") if scope is None else (scope.name, scope.version or "")
    return SpanGroup(_attributes(span.resource.attributes), name, version, ())


def _attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(attributes or {})
