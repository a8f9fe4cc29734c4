"""Spans of an application's own TracerProvider become runs and steps, and nothing global is touched."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from agentscope import Tracker, create_tracker
from agentscope.exporters.otlp import OTLPExporter
from agentscope.integrations import otel
from agentscope.integrations.otel import AgentScopeSpanProcessor
from agentscope.protocols.ids import run_id_of
from agentscope.protocols.otlp.inbound.patches import patches_of
from agentscope.server.receiver import Receiver
from tests.support import patient
from tests.support.read_api import get, only_run
from tests.support.recording import balanced


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    patient.here(monkeypatch)


@pytest.fixture(params=["agentscope", "otlp"])
def tracker(request: pytest.FixtureRequest, receiver: Receiver) -> Iterator[Tracker]:
    """A processor that sends by the batch call, and one that sends by OTLP."""
    options: dict[str, Any] = {"api_key": "ask_test", "base_url": receiver.url}
    if request.param == "otlp":
        options = {"exporters": [OTLPExporter(endpoint=receiver.url)]}
    with create_tracker(**options) as made:
        yield made
    assert balanced(made.stats())


@pytest.fixture
def spans(tracker: Tracker) -> trace.Tracer:
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_span_processor(AgentScopeSpanProcessor(tracker))
    return provider.get_tracer("a.framework", "1.0")


def an_agent(spans: trace.Tracer) -> int:
    """Emit a trace like that of a framework. Returns its id."""
    with spans.start_as_current_span(
        "invoke_agent librarian",
        attributes={"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "librarian", "user.id": "u1"},
    ) as root:
        with spans.start_as_current_span(
            "chat gpt-4o", kind=SpanKind.CLIENT, attributes={"gen_ai.operation.name": "chat"}
        ) as chat:
            chat.set_attribute("gen_ai.usage.input_tokens", 11)
            chat.set_attribute("gen_ai.usage.output_tokens", 4)
            chat.set_attribute("gen_ai.request.model", "gpt-4o")
        with pytest.raises(OSError), spans.start_as_current_span("execute_tool search") as tool:
            tool.set_attribute("gen_ai.operation.name", "execute_tool")
            tool.set_attribute("gen_ai.tool.name", "search")
            with spans.start_as_current_span("GET /search", kind=SpanKind.CLIENT):
                pass
            raise OSError("no network")
    return root.get_span_context().trace_id


def outline(run: dict[str, Any]) -> dict[str, Any]:
    names = {step["id"]: step["name"] for step in run["steps"]}
    return {
        step["name"]: (names.get(step["parent_id"]), step["step_type"], step["status"], step["tokens_used"])
        for step in run["steps"]
    }


def test_a_trace_is_a_run_and_its_spans_are_steps(tracker: Tracker, spans: trace.Tracer, receiver: Receiver) -> None:
    trace_id = an_agent(spans)
    assert tracker.flush()
    run = only_run(receiver.url)
    assert run["id"] == run_id_of(f"{trace_id:032x}")
    assert (run["agent_name"], run["status"], run["tokens_used"]) == ("librarian", "completed", 15)
    assert run["user_id"] == "u1"
    assert run["meta_data"]["resource"]["service.name"] == "shop"
    assert outline(run) == {
        "chat gpt-4o": (None, "llm_call", "completed", 15),
        "search": (None, "tool_call", "failed", None),
        "GET /search": ("search", "other", "completed", None),
    }
    (search,) = [step for step in run["steps"] if step["name"] == "search"]
    assert search["error"]["message"] == "no network"


def test_links_and_trace_state_of_a_span_are_recorded(
    tracker: Tracker, spans: trace.Tracer, receiver: Receiver
) -> None:
    state = TraceState([("vendor", "x")])
    linked = SpanContext(0xABC, 0xDEF, True, TraceFlags(1), state)
    with spans.start_as_current_span("agent", links=[Link(linked, {"why": "batch"})]):
        pass
    assert tracker.flush()
    meta = only_run(receiver.url)["meta_data"]
    assert (meta["kind"], meta["scope"]["name"]) == ("INTERNAL", "a.framework")
    assert meta["links"] == [
        {
            "trace_id": f"{0xABC:032x}",
            "span_id": f"{0xDEF:016x}",
            "trace_state": "vendor=x",
            "attributes": {"why": "batch"},
        }
    ]


def test_spans_within_a_run_are_steps_of_that_run(tracker: Tracker, spans: trace.Tracer, receiver: Receiver) -> None:
    with tracker.track_run("outer"), tracker.track_step_context("delegate", step_type="agent"):
        an_agent(spans)
    assert tracker.flush()
    run = only_run(receiver.url)
    assert run["agent_name"] == "outer"
    told = outline(run)
    assert told["librarian"][:3] == ("delegate", "agent", "completed")
    assert told["chat gpt-4o"][0] == told["search"][0] == "librarian"


def test_a_span_whose_parent_is_in_another_process_belongs_to_its_trace(
    tracker: Tracker, spans: trace.Tracer, receiver: Receiver
) -> None:
    parent = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1))
    with spans.start_as_current_span("serve", context=set_span_in_context(NonRecordingSpan(parent))):
        pass
    assert tracker.flush()
    run = get(f"{receiver.url}/api/runs/{run_id_of(f'{0xABC:032x}')}")
    (step,) = run["steps"]
    assert (step["name"], step["unattached_parent_id"]) == ("serve", f"{0xDEF:016x}")


def test_threads_of_one_trace_end_their_spans_in_any_order(
    tracker: Tracker, spans: trace.Tracer, receiver: Receiver
) -> None:
    with spans.start_as_current_span("root") as root:
        context = set_span_in_context(root)

        def work(number: int) -> None:
            with spans.start_as_current_span(f"work {number}", context=context):
                pass

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert tracker.flush()
    assert sorted(outline(only_run(receiver.url))) == [f"work {i}" for i in range(8)]


def test_only_the_spans_that_are_wanted_are_recorded(tracker: Tracker, receiver: Receiver) -> None:
    provider = TracerProvider()
    wanted = AgentScopeSpanProcessor(tracker, only=lambda span: "gen_ai.operation.name" in (span.attributes or {}))
    provider.add_span_processor(wanted)
    an_agent(provider.get_tracer("a.framework"))
    assert wanted.force_flush()
    assert sorted(outline(only_run(receiver.url))) == ["chat gpt-4o", "search"]


def test_an_unsampled_trace_is_not_recorded(tracker: Tracker, receiver: Receiver) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(AgentScopeSpanProcessor(tracker))
    an_agent(provider.get_tracer("a.framework"))
    assert tracker.stats().accepted == 0


def test_the_provider_may_be_shut_down_and_the_tracker_goes_on(tracker: Tracker, receiver: Receiver) -> None:
    provider = TracerProvider()
    provider.add_span_processor(AgentScopeSpanProcessor(tracker))
    an_agent(provider.get_tracer("a.framework"))
    provider.shutdown()
    assert tracker.stats().pending == 0
    with tracker.track_run("after"):
        pass
    assert tracker.flush()


def test_nothing_global_is_touched(tracker: Tracker, spans: trace.Tracer) -> None:
    before = trace.get_tracer_provider()
    an_agent(spans)
    assert trace.get_tracer_provider() is before


def test_spans_that_never_end_are_forgotten_in_time(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel, "MAX_OPEN_SPANS", 20)
    processor = AgentScopeSpanProcessor(tracker)
    provider = TracerProvider()
    provider.add_span_processor(processor)
    kept = [provider.get_tracer("x").start_span(f"{i}") for i in range(50)]
    assert len(processor._open_spans) <= 20
    for span in kept:
        span.end()


def test_nothing_raises_into_the_application(tracker: Tracker) -> None:
    processor = AgentScopeSpanProcessor(tracker, only=lambda span: 1 / 0)
    provider = TracerProvider()
    provider.add_span_processor(processor)
    an_agent(provider.get_tracer("x"))
    assert tracker.stats().invalid_calls["span_not_recorded"] == 4


def test_a_model_call_without_an_agent_around_it_is_a_run_with_one_step(
    tracker: Tracker, spans: trace.Tracer, receiver: Receiver
) -> None:
    with spans.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}) as span:
        span.set_attribute("gen_ai.usage.input_tokens", 3)
    assert tracker.flush()
    run = only_run(receiver.url)
    assert (run["status"], run["tokens_used"]) == ("completed", 3)
    assert outline(run) == {"chat": (None, "llm_call", "completed", 3)}


def test_a_user_named_by_an_inner_span_only_becomes_the_user_of_the_run_once(
    tracker: Tracker, spans: trace.Tracer, receiver: Receiver
) -> None:
    with spans.start_as_current_span("root"):
        for number in range(3):
            with spans.start_as_current_span(f"inner {number}", attributes={"user.id": "u2", "session.id": "s1"}):
                pass
    assert tracker.flush()
    run = only_run(receiver.url)
    assert (run["user_id"], run["conversation_id"], run["step_count"]) == ("u2", "s1", 3)
    assert tracker.stats().accepted == 6  # the start of the run, the steps, the user, the end of the run


def test_a_span_that_cannot_be_read_is_dropped_and_its_neighbours_are_not(
    tracker: Tracker, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(span: Any, group: Any) -> Any:
        if span.name == "bad":
            raise ValueError("it is bad")
        return patches_of(span, group)

    monkeypatch.setattr(otel, "patches_of", broken)
    provider = TracerProvider()
    provider.add_span_processor(AgentScopeSpanProcessor(tracker))
    spans = provider.get_tracer("x")
    with spans.start_as_current_span("root"), spans.start_as_current_span("bad"):
        pass
    assert not tracker.flush()
    assert tracker.stats().dropped == {"encode_error": 1}
    assert only_run(receiver.url)["agent_name"] == "root"


def test_a_root_that_is_not_wanted_ends_its_run_all_the_same(tracker: Tracker, receiver: Receiver) -> None:
    provider = TracerProvider()
    provider.add_span_processor(AgentScopeSpanProcessor(tracker, only=lambda span: span.name.startswith("chat")))
    spans = provider.get_tracer("a.framework")
    with spans.start_as_current_span("GET /"), spans.start_as_current_span("chat"):
        pass
    tracker.flush()
    run = only_run(receiver.url)
    assert (run["status"], [step["name"] for step in run["steps"]]) == ("completed", ["chat"])


def test_text_that_is_no_unicode_costs_no_span(tracker: Tracker, receiver: Receiver, spans: trace.Tracer) -> None:
    with spans.start_as_current_span("half \ud83d", attributes={"notes": ["\ud83d", "whole"]}):
        pass
    assert tracker.flush()
    run = only_run(receiver.url)
    assert (run["agent_name"], run["status"]) == ("half \ufffd", "completed")
    assert run["meta_data"]["notes"] == ["\ufffd", "whole"]


def test_no_method_raises_even_where_the_calls_of_the_tracker_do() -> None:
    tracker = create_tracker(api_key="ask_test", base_url="http://127.0.0.1:9", fail_silently=False)
    provider = TracerProvider()
    provider.add_span_processor(AgentScopeSpanProcessor(tracker, only=lambda span: bool(1 / 0)))
    provider.get_tracer("a.framework").start_span("step").end()
    assert not provider.force_flush(50)
    assert tracker.stats().invalid_calls == {"span_not_recorded": 1}
    tracker._pipeline.shutdown(0.0)
