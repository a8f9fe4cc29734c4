"""Exceptions of the host at any line of a call of the VoltAgent face: each comes out, and leaves nothing wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from agentscope.voltagent import VoltAgentSDK
from tests.support.interruptions import KINDS, at_every_line, run
from tests.support.voltagent import Traced, traced

pytestmark = pytest.mark.timing(
    reason="the worker goes on beside the call, and may finish at the line that is interrupted"
)


@dataclass
class Value:
    """A payload that takes the careful way."""

    number: int = 1
    text: str = "x"


@pytest.fixture(scope="module")
def volt() -> Iterator[Traced]:
    with traced() as found:
        yield found


def blocks(sdk: VoltAgentSDK) -> None:
    with sdk.trace(agentId="a", input=Value(), userId="u", metadata={"a": Value()}) as trace:
        with trace.add_agent(name="g", input=Value(), modelParameters={"model": "m"}) as agent:
            with agent.add_tool("t", input={"x": 1}) as tool:
                tool.success(output=Value())
            agent.success({"a": 1}, usage={"total_tokens": 1})
        trace.end(output=Value())


def handles(sdk: VoltAgentSDK) -> None:
    trace = sdk.trace(agentId="a", tags=["a"], startTime="2026-01-01T00:00:00Z")
    retriever = trace.add_retriever({"name": "r", "input": Value()})
    retriever.update(output=1)
    retriever.success(metadata=Value())
    trace.add_memory(name="m").error(ValueError("x"))
    trace.add_event(name="e", type="x", status="completed", output=Value())
    trace.update(metadata={"x": 1}, status="error")
    trace.end(status="cancelled", error="y", usage=Value())


async def awaited(sdk: VoltAgentSDK) -> None:
    trace = await sdk.trace(agentId="a")
    async with trace.add_agent(name="g") as agent:
        await (await agent.add_tool(name="t")).success(1)
    await trace.end()


def by_id(sdk: VoltAgentSDK) -> None:
    trace = sdk.create_trace(agentId="a")
    try:
        event = sdk.add_event_to_trace(trace.id, name="e")
        try:
            sdk.get_trace(trace.id)
            sdk.update_event(event.id, metadata={"a": 1})
        finally:
            until_ended(sdk, event.id, sdk.update_event)
    finally:
        until_ended(sdk, trace.id, sdk.update_trace)


def until_ended(sdk: VoltAgentSDK, id_: str, update: Callable[..., object]) -> None:
    """End what the program knows by its id, once more after an exception."""
    try:
        if id_ in sdk._registry.entries:
            update(id_, status="completed")
    except BaseException:
        if id_ in sdk._registry.entries:
            update(id_, status="completed")
        raise


def inside_a_run(sdk: VoltAgentSDK) -> None:
    with sdk.tracker.track_run("run"), sdk.trace(agentId="a") as trace:
        trace.add_tool(name="t").success()


def delivery(sdk: VoltAgentSDK) -> None:
    sdk.trace(agentId="a").end()
    sdk.flush()
    sdk.stats()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "call",
    [blocks, handles, lambda sdk: run(awaited(sdk)), by_id, inside_a_run, delivery],
    ids=["blocks", "handles", "awaited", "by_id", "inside_a_run", "delivery"],
)
def test_an_exception_of_the_host_at_any_line_of_a_call_comes_out_and_leaves_nothing_open(
    volt: Traced, call: Callable[[VoltAgentSDK], object], kind: type[BaseException]
) -> None:
    assert at_every_line(volt, lambda: lambda: call(volt.sdk), kind) == []
    assert not volt.sdk._registry.entries
    assert not volt.sdk._registry._watches


def test_an_exception_of_the_host_while_an_ended_handle_is_collected_is_not_lost(volt: Traced) -> None:
    def call() -> None:
        trace = volt.sdk.trace(agentId="a")
        trace.end()
        del trace

    assert at_every_line(volt, lambda: call, TimeoutError) == []
