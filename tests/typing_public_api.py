"""The types of the public API. mypy checks this module in strict mode; it never runs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from typing_extensions import assert_type

from agentscope import (
    AgentScopeClient,
    AgentScopeExporter,
    APIError,
    ConsoleExporter,
    CustomExporter,
    EventExporter,
    EventRecord,
    ExportResult,
    FlushResult,
    InMemoryExporter,
    OTLPExporter,
    RunConfig,
    RunTracker,
    Stats,
    StepConfig,
    StepType,
    Tracker,
    VoltAgentExporter,
    create_tracker,
)
from agentscope.voltagent import Agent as AgentHandle
from agentscope.voltagent import (
    AgentDict,
    EventDict,
    History,
    StepDict,
    TokenUsage,
    Tool,
    ToolOptions,
    Trace,
    TraceDict,
    VoltAgentCoreAPI,
    VoltAgentSDK,
)

tracker = create_tracker("ask_key", "http://localhost:8000")
assert_type(tracker, Tracker)
create_tracker()
create_tracker(api_key="ask_key", batch_size=200, flush_interval=1.0, timeout=5, sample_rate=0.5, enabled=True)
create_tracker("ask_key", redact=["secret-[0-9]+", re.compile("x")], on_drop=lambda reason, count: print(reason, count))
create_tracker("ask_key", redact=False, fail_silently=False, max_queue_bytes=1 << 20, shutdown_timeout=2.5)

create_tracker(protocol="otlp", endpoint="http://localhost:4318", headers={"x": "1"}, service_name="shop")
create_tracker(protocol="grpc")  # type: ignore[arg-type]  # no protocol
OTLPExporter(encoding="xml")  # type: ignore[arg-type]  # no encoding
OTLPExporter(compression="br")  # type: ignore[arg-type]  # no compression
create_tracker(exporters=[AgentScopeExporter(api_key="k"), OTLPExporter(encoding="json"), VoltAgentExporter()])


class Quiet:
    def export(self, events: Sequence[EventRecord], timeout: float) -> None:
        assert_type(events[0].step_id, str | None)


class Telling:
    def export(self, batch: Sequence[EventRecord], seconds: float) -> bool | ExportResult:
        return ExportResult(delivered=[event.id for event in batch])


own: EventExporter = Quiet()
create_tracker(exporters=[ConsoleExporter(), InMemoryExporter(), Quiet(), Telling(), own, AgentScopeExporter()])
create_tracker(exporters=[CustomExporter(target=Quiet(), batch_size=5)])
create_tracker(exporters=[5])  # type: ignore[list-item]  # not an exporter
assert_type(tracker.inject({"accept": "*/*"}), dict[str, str])
with tracker.extract({"traceparent": "…"}) as remote:
    assert_type(remote.run_id, str | None)

run_id = tracker.start_run("agent", {"query": "?"}, external_id="mine", meta_data={"a": 1})
assert_type(run_id, str)
assert_type(tracker.track_step("search", "tool_call", {"q": 1}, {"a": 2}, None, 50, 120, None, run_id), bool)
assert_type(tracker.end_run("completed", output={"a": 1}, run_id=run_id), bool)

kind: StepType = "retrieval"
tracker.track_step("find", kind, parent_id="a step's id")
started = tracker.start_step(
    "ask", "llm_call", {"q": 1}, run_id=run_id, parent_id="a step's id", step_id="mine", model="m"
)
assert_type(started.end({"a": 1}, error=None, tokens_used=3, usage={"total_tokens": 3}), bool)
tracker.start_step("ask", colour="red")  # type: ignore[call-arg]  # no field
# Payloads may be any value at all.
tracker.track_step("find", input_data=["list"], output_data=object())


def blocks() -> None:
    with tracker.track_run("agent", input_data={"query": "?"}) as run:
        text: str = run
        run.output = {"answer": text}
        with tracker.track_step_context("plan", step_type="llm_call", input_data={"a": 1}) as step:
            step.output = {"a": 1}
            step.tokens_used = 42
            step.usage = {"input_tokens": 1}
            step.meta_data = {"model": "m"}
            assert_type(step.id, str)


async def async_blocks() -> None:
    async with tracker.track_run("agent") as run:
        run.output = "any value"
        async with tracker.track_step_context("plan") as step:
            step.output = 1
    assert_type(await tracker.aflush(timeout=5), FlushResult)
    assert_type(await tracker.ashutdown(timeout=5), FlushResult)


@tracker.observe(step_type="tool_call")
def search(query: str, limit: int = 3) -> list[str]:
    return [query] * limit


@tracker.observe
def bare(query: str) -> int:
    return len(query)


@tracker.observe(capture_input=["query"], capture_usage=lambda result: {"total_tokens": 1})
def chosen(query: str, client: object = None) -> str:
    return query


@tracker.observe(capture_input=lambda arguments: {**arguments, "client": None}, capture_usage=False)
def edited(query: str, client: object = None) -> Iterator[str]:
    return iter(query)


@tracker.observe(name="other name")
async def fetch(url: str) -> bytes:
    return url.encode()


@tracker.observe()
def stream(text: str) -> Iterator[str]:
    yield text


@tracker.observe()
async def astream(text: str) -> AsyncIterator[str]:
    yield text


@tracker.lambda_handler
def function(event: dict[str, str], context: object) -> int:
    return len(event)


@tracker.lambda_handler(margin=1.0, timeout=3)
async def async_function(event: dict[str, str], context: object) -> int:
    return len(event)


class Agent:
    @tracker.observe(step_type="agent")
    def act(self, goal: str) -> bool:
        return bool(goal)


async def observed() -> None:
    """Check that the decorator keeps parameters and results."""
    assert_type(search("a", limit=2), list[str])
    assert_type(bare("a"), int)
    assert_type(chosen("a", client=None), str)
    assert_type(edited("a"), Iterator[str])
    assert_type(function({}, None), int)
    assert_type(await async_function({}, None), int)
    assert_type(await fetch("a"), bytes)
    assert_type(stream("a"), Iterator[str])
    assert_type(astream("a"), AsyncIterator[str])
    assert_type(Agent().act("a"), bool)


def work(number: int, text: str = "") -> float:
    return float(number)


carried: Callable[..., float] = tracker.propagate(work)
assert_type(tracker.propagate(work)(1, text="a"), float)
assert_type(tracker.instrument("threads"), Callable[[], None])

assert_type(tracker.flush(), FlushResult)
assert_type(tracker.shutdown(timeout=1.5), FlushResult)
stats = tracker.stats()
assert_type(stats, Stats)
assert_type(stats.accepted, int)
assert_type(stats.dropped["queue_full"], int)
assert_type(stats.problem, "str | None")
older: RunTracker = tracker

client = AgentScopeClient("ask_key", base_url="http://localhost:8000", timeout=30, fail_silently=False)
assert_type(client.create_run(RunConfig(agent_name="agent", input={"a": 1})), "str | None")
assert_type(client.add_step("run", StepConfig(step_type="tool_call", name="find", latency_ms=12)), bool)
assert_type(client.complete_run("run", "failed", error={"message": "no"}), bool)
client.close()
assert_type(APIError("no", 500).status_code, "int | None")


def wrong() -> None:
    """Calls that a checker must refuse: an unneeded `ignore` is an error in strict mode."""
    anything: Any = None
    search(1)  # type: ignore[arg-type]  # a str is expected
    tracker.flush("soon")  # type: ignore[arg-type]  # a number is expected
    create_tracker("ask_key", batchsize=anything)  # type: ignore[call-arg]  # misspelt


def voltagent() -> None:
    sdk = VoltAgentSDK(
        base_url="http://localhost:8000", public_key="a", secret_key="b", auto_flush=True, flush_interval=5
    )
    with sdk.trace({"agentId": "x"}) as trace:
        agent = trace.add_agent("A")
        assert_type(agent, AgentHandle)
        assert_type(agent.add_tool(ToolOptions(name="t")), Tool)
        agent.success(usage=TokenUsage(total_tokens=1))
    result: FlushResult = sdk.flush()
    assert not result
    assert_type(sdk.tracker, Tracker)
    assert_type(sdk.client, VoltAgentCoreAPI)


trace_options: TraceDict = {"agentId": "a", "level": "INFO", "startTime": "2026-01-31T12:00:00Z"}
agent_options: AgentDict = {"name": "A", "instructions": "be brief"}
step_options: StepDict = {"name": "search", "input": {"q": 1}, "metadata": {"a": 1}}
event_options: EventDict = {"name": "done", "type": "tool", "status": "finished"}  # type: ignore[typeddict-item]  # no status
misspelt: AgentDict = {"nane": "A"}  # type: ignore[typeddict-unknown-key]  # misspelt


def voltagent_options(sdk: VoltAgentSDK, loaded: dict[str, object]) -> None:
    trace = sdk.trace(trace_options)
    agent = trace.add_agent(agent_options)
    agent.add_tool(step_options)
    agent.add_event(event_options)
    # Names of one's own become metadata.
    trace.add_agent({"name": "A", "team": "search"})
    trace.add_tool(loaded)


async def voltagent_async(sdk: VoltAgentSDK) -> None:
    async with sdk.trace(agentId="a", input={"q": 1}) as trace:
        assert_type(trace, Trace)
        async with trace.add_agent({"name": "A", "metadata": {"a": {"b": 1}}}) as agent:
            tool = await agent.add_tool({"name": "t"})
            # pyright takes the result of any `Coroutine` from its parameters, and not from its `__await__`
            assert_type(tool, Tool)  # pyright: ignore[reportAssertTypeFailure]
            assert_type(await tool.success(output={"a": 1}), bool)  # pyright: ignore[reportAssertTypeFailure]
            await agent.success(output={}, usage={"total_tokens": 1})
    assert_type(await sdk.flush(), FlushResult)
    assert_type(await sdk.get_trace("x"), History | None)
