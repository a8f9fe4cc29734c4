"""Handles of traces, agents, tools, memories and retrievers: the recorded steps, for each way of use."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agentscope.voltagent.registry as registry_module
from agentscope import AgentScopeError
from agentscope.exporters.voltagent import VoltAgentExporter
from agentscope.voltagent import (
    Agent,
    AgentOptions,
    EventContext,
    Memory,
    Operation,
    Retriever,
    TimelineEvent,
    TokenUsage,
    Tool,
    ToolOptions,
    Trace,
    TraceOptions,
    TraceStatus,
    VoltAgentSDK,
)
from tests.support.hostile_objects import HOSTILE
from tests.support.recording import current_scope
from tests.support.recording import make as make_tracker
from tests.support.voltagent import ENDS, STARTS, Traced, make, traced

KINDS = {
    "agent": (Agent, "agent"),
    "tool": (Tool, "tool_call"),
    "memory": (Memory, "memory"),
    "retriever": (Retriever, "retrieval"),
    "event": (Operation, "other"),
}
USAGE = {"prompt_tokens": 150, "completion_tokens": 85, "total_tokens": 235}
SECRET = "hunter2 in a payload"


@pytest.fixture
def volt() -> Iterator[Traced]:
    with traced() as found:
        yield found


@pytest.fixture
def sdk(volt: Traced) -> VoltAgentSDK:
    return volt.sdk


def add(above: Any, kind: str, *options: Any, **more: Any) -> Any:
    return getattr(above, f"add_{kind}")(*(options or ({"name": kind},)), **more)


def types(volt: Traced) -> list[str]:
    return [event["type"] for event in volt.events()]


# ---- the four ways of use --------------------------------------------------------------------------------------------


def plainly(begin: Callable[[], Any], inside: Callable[[Any], Any]) -> None:
    inside(begin())


def in_a_block(begin: Callable[[], Any], inside: Callable[[Any], Any]) -> None:
    with begin() as handle:
        inside(handle)


def awaited(begin: Callable[[], Any], inside: Callable[[Any], Any]) -> None:
    async def main() -> None:
        handle = await begin()
        await inside(handle)

    asyncio.run(main())


def in_an_async_block(begin: Callable[[], Any], inside: Callable[[Any], Any]) -> None:
    async def main() -> None:
        async with begin() as handle:
            await inside(handle)

    asyncio.run(main())


USES = [plainly, in_a_block, awaited, in_an_async_block]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_handle_works_in_four_ways_with_one_start_and_one_end(volt: Traced, kind: str, use: Any) -> None:
    seen = []
    with volt.sdk.trace(agentId="a") as trace:
        use(lambda: add(trace, kind), lambda handle: (seen.append(handle), handle.success({"y": 1}))[1])
    (handle,) = seen
    assert type(handle) is KINDS[kind][0]
    assert types(volt) == ["run.start", "step.start", "step.end", "run.end"]
    step = volt.whole(kind)
    assert (step["step_id"], step["run_id"], step["parent_id"]) == (handle.id, trace.id, None)
    assert (step["step_type"], step["status"], step["output"]) == (KINDS[kind][1], "completed", {"y": 1})
    assert step["started_at"] <= step["ended_at"]
    assert volt.invalid_calls == {}


@pytest.mark.parametrize("use", USES)
def test_a_trace_works_in_four_ways_with_one_start_and_one_end(volt: Traced, use: Any) -> None:
    use(lambda: volt.sdk.trace(agentId="a"), lambda trace: trace.end({"y": 1}))
    assert types(volt) == ["run.start", "run.end"]
    assert volt.whole("a")["output"] == {"y": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_with_the_call_and_not_with_the_block(volt: Traced, kind: str) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        handle = add(trace, kind)
        assert types(volt) == ["run.start", "step.start"]
        with handle:
            assert types(volt) == ["run.start", "step.start"]
    assert types(volt) == ["run.start", "step.start", "step.end", "run.end"]


def test_a_call_and_its_await_are_the_same_call(volt: Traced) -> None:
    async def main() -> None:
        trace = await volt.sdk.trace(agentId="a")
        tool = await trace.add_tool("t")
        assert await tool is tool
        told = tool.success()
        assert told
        assert await told is True
        assert await told is True
        assert await tool.success() is False

    asyncio.run(main())
    assert types(volt).count("step.end") == 1


def test_a_handle_that_is_never_awaited_causes_no_warning(volt: Traced) -> None:
    async def main() -> None:
        trace = volt.sdk.trace(agentId="a")
        trace.add_agent("A").success()
        trace.end()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())
        gc.collect()
    assert volt.outcomes() == {"a": "completed", "A": "completed"}


def test_calls_can_be_tasks_and_be_gathered(volt: Traced) -> None:
    async def main() -> None:
        async with volt.sdk.trace(agentId="a") as trace:
            tools = await asyncio.gather(*(trace.add_tool({"name": f"t{number}"}) for number in range(3)))
            tools.append(await asyncio.create_task(trace.add_tool("t3")))
            assert [type(tool) for tool in tools] == [Tool] * 4
            assert await asyncio.gather(*(tool.success() for tool in tools)) == [True] * 4
            task = asyncio.create_task(trace.update(metadata={"a": 1}))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert set(volt.outcomes().values()) == {"completed"}


# ---- what is recorded ------------------------------------------------------------------------------------------------


def test_a_trace_records_its_options(volt: Traced) -> None:
    volt.sdk.trace(
        agentId="support",
        input={"snake_case": 1},
        userId="u",
        conversationId="c",
        tags=["a", "b"],
        metadata={"my_key": {"in_ner": [{"left_alone": 1}]}},
        version="1.0",
        level="debug",
        completionStartTime="2026-01-31T12:00:05Z",
        favourite_colour="blue",
    ).end()
    run = volt.events("run.start")[0]
    assert run.pop("run_id")
    assert run.pop("started_at")
    assert run == {
        "type": "run.start",
        "step_id": None,
        "parent_id": None,
        "status": "running",
        "source": "voltagent",
        "agent_name": "support",
        "user_id": "u",
        "conversation_id": "c",
        "tags": ["a", "b"],
        "input": {"snake_case": 1},
        "meta_data": {
            "agentId": "support",
            "version": "1.0",
            "level": "DEBUG",
            "completionStartTime": "2026-01-31T12:00:05Z",
            "favouriteColour": "blue",
            "myKey": {"inNer": [{"left_alone": 1}]},
        },
    }


OPTIONS = {"agentId": "a", "userId": "u", "conversationId": "c", "input": {"x": 1}, "startTime": "2026-01-31T12:00:00Z"}


@pytest.mark.parametrize(
    "begin",
    [
        lambda sdk: sdk.trace(**OPTIONS),
        lambda sdk: sdk.trace(OPTIONS),
        lambda sdk: sdk.trace(TraceOptions(**OPTIONS)),
        lambda sdk: sdk.create_trace(**OPTIONS),
        lambda sdk: sdk.trace(
            agent_id="a", user_id="u", conversation_id="c", input={"x": 1}, start_time=datetime(2026, 1, 31, 12)
        ),
        lambda sdk: sdk.trace(SimpleNamespace(**OPTIONS)),
    ],
)
def test_the_options_of_a_trace_may_be_given_in_any_form(volt: Traced, begin: Any) -> None:
    begin(volt.sdk).end()
    run = volt.events("run.start")[0]
    assert (run["agent_name"], run["user_id"], run["conversation_id"], run["input"]) == ("a", "u", "c", {"x": 1})
    assert run["started_at"] == 1_769_860_800_000_000_000
    assert volt.invalid_calls == {}


def test_a_trace_has_the_id_it_is_given_and_knows_its_agent(volt: Traced) -> None:
    trace = volt.sdk.trace(id="mine", agentId="a")
    agent = trace.add_agent("A")
    tool = agent.add_tool("t")
    assert (trace.id, trace.trace_id, trace.agent_id) == ("mine", "mine", "a")
    assert (agent.trace_id, agent.parent_id, tool.trace_id, tool.parent_id) == ("mine", None, "mine", agent.id)
    assert {event["run_id"] for event in volt.events()} == {"mine"}
    assert repr(tool) == f"<Tool {tool.id}>"


class Counted:
    """A usage object that has attributes only."""

    input_tokens = 3
    output_tokens = None


@dataclass
class Spec:
    name: str
    input: Any = None
    metadata: Any = None
    instructions: str = "be brief"


@pytest.mark.parametrize(
    "options",
    [
        {
            "name": "A",
            "input": {"x": 1},
            "instructions": "be brief",
            "metadata": {"model_parameters": {"max_tokens": 5}},
        },
        AgentOptions(
            name="A", input={"x": 1}, instructions="be brief", metadata={"model_parameters": {"max_tokens": 5}}
        ),
        Spec("A", {"x": 1}, {"model_parameters": {"max_tokens": 5}}),
    ],
)
def test_the_options_of_an_agent_may_be_given_in_any_form(volt: Traced, options: Any) -> None:
    volt.sdk.trace(agentId="a").add_agent(options).success()
    step = volt.whole("A")
    assert (step["input"], step["step_type"]) == ({"x": 1}, "agent")
    assert step["meta_data"] == {"instructions": "be brief", "modelParameters": {"maxTokens": 5}}
    assert volt.invalid_calls == {}


@pytest.mark.parametrize("given", [("t",), ({"name": "t"},), (ToolOptions(name="t"),)])
def test_options_may_be_a_name_alone_or_keywords(volt: Traced, given: Any) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        trace.add_tool(*given, input=[1], display_name="The tool").success()
        trace.add_tool(name="u").success()
    assert volt.whole("t")["input"] == [1]
    assert volt.whole("t")["meta_data"] == {"displayName": "The tool"}
    assert "meta_data" not in volt.whole("u")


def test_objects_of_other_packages_are_read_by_their_fields(volt: Traced) -> None:
    options = pydantic.create_model("Options", name=(str, ...), input=(Any, None), display_name=(str, "T"))
    usage = pydantic.create_model("Usage", prompt_tokens=(int, 1), total_tokens=(int, 3), details=(Any, None))
    volt.sdk.trace(agentId="a").add_tool(options(name="t", input=[1])).success(usage=usage())
    step = volt.whole("t")
    assert (step["input"], step["meta_data"]) == ([1], {"displayName": "T"})
    assert step["usage"] == {"prompt_tokens": 1, "total_tokens": 3, "details": None}
    assert volt.invalid_calls == {}


def test_what_is_changed_after_the_call_does_not_change_what_is_recorded(volt: Traced) -> None:
    options = {"name": "t", "input": {"list": [1]}, "metadata": {"a_b": {"c": 1}}}
    before = copy.deepcopy(options)
    with volt.sdk.trace(agentId="a") as trace:
        tool = trace.add_tool(options)
        assert options == before
        options["input"]["list"].append(2)
        options["metadata"]["a_b"]["c"] = 2
        tool.success()
    assert volt.whole("t")["input"] == {"list": [1]}
    assert volt.whole("t")["meta_data"] == {"aB": {"c": 1}}


def test_a_step_without_a_name_gets_that_of_its_type_with_a_log_line(volt: Traced) -> None:
    volt.sdk.trace(agentId="a").add_tool({"input": 1}).success()
    assert volt.whole("tool_call")["input"] == 1
    assert volt.invalid_calls == {"wrong_type": 1}


def test_metadata_that_is_no_dict_is_recorded_all_the_same(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a", metadata=5) as trace:
        trace.add_tool("t", metadata=Spec("n")).success(metadata="text")
    assert volt.whole("a")["meta_data"] == {"agentId": "a", "value": 5}
    assert volt.whole("t")["meta_data"] == {"name": "n", "instructions": "be brief", "value": "text"}
    assert volt.invalid_calls == {"wrong_type": 2}


def test_metadata_of_an_end_goes_over_that_of_the_start(volt: Traced) -> None:
    tool = volt.sdk.trace(agentId="a").add_tool({"name": "t", "metadata": {"index_used": "v1", "kept": 1}})
    tool.success(metadata={"index_used": "v2"})
    assert volt.whole("t")["meta_data"] == {"indexUsed": "v2", "kept": 1}


# ---- outcomes --------------------------------------------------------------------------------------------------------


def told_of(error: Any) -> Any:
    with traced() as volt:
        volt.sdk.trace(agentId="a").add_tool("t").error(status_message=error, metadata={"error_code": 7})
        step = volt.whole("t")
        assert (step["status"], step["meta_data"]) == ("failed", {"errorCode": 7})
        return step.get("error")


def test_an_error_may_be_an_exception_a_text_a_dict_or_anything() -> None:
    try:
        raise ValueError("no such index")
    except ValueError as caught:
        error = told_of(caught)
    assert (error["type"], error["message"]) == ("ValueError", "no such index")
    assert 'raise ValueError("no such index")' in error["traceback"]
    assert told_of("too late") == {"message": "too late"}
    assert told_of({"code": 5, "snake_case": 1}) == {"code": 5, "snake_case": 1}
    assert told_of([1, 2]) == [1, 2]
    assert told_of(None) is None


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (USAGE, USAGE),
        ({"input_tokens": 1, "cache_read": 2}, {"input_tokens": 1, "cache_read": 2}),
        (TokenUsage(prompt_tokens=150, completion_tokens=85, total_tokens=235), USAGE),
        (TokenUsage(total_tokens=5, cached=1), {"total_tokens": 5, "cached": 1}),
        (SimpleNamespace(**USAGE, details={"cached": 3}), {**USAGE, "details": {"cached": 3}}),
        (MappingProxyType(USAGE), USAGE),
        (Counted(), {"input_tokens": 3}),
        (7, {"total_tokens": 7}),
    ],
)
def test_usage_may_be_a_dict_an_object_or_a_number(volt: Traced, usage: Any, expected: Any) -> None:
    trace = volt.sdk.trace(agentId="a")
    trace.add_agent("A").success({"done": True}, usage)
    trace.add_tool("t").success(usage=usage)
    trace.end(usage=usage)
    for name in ("A", "t", "a"):
        assert volt.whole(name)["usage"] == expected
        assert "tokens_used" not in volt.whole(name)


def test_the_second_argument_of_success_is_an_agents_usage_and_a_tools_metadata(volt: Traced) -> None:
    trace = volt.sdk.trace(agentId="a")
    trace.add_agent("A").success(1, USAGE, {"a_b": 1})
    trace.add_tool("t").success(1, {"a_b": 1}, USAGE)
    for name in ("A", "t"):
        step = volt.whole(name)
        assert (step["output"], step["usage"], step["meta_data"]) == (1, USAGE, {"aB": 1})


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (None, None, "completed"),
        ("completed", None, "completed"),
        ("error", None, "failed"),
        (TraceStatus.ERROR, None, "failed"),
        ("cancelled", None, "cancelled"),
        (None, "oh", "failed"),
    ],
)
def test_a_trace_ends_with_the_given_status(volt: Traced, status: Any, error: Any, expected: str) -> None:
    assert volt.sdk.trace(agentId="a").end({"x": 1}, status, USAGE, {"a_b": 1}, error)
    run = volt.whole("a")
    assert (run["status"], run["output"], run["usage"]) == (expected, {"x": 1}, USAGE)
    assert run["meta_data"] == {"agentId": "a", "aB": 1}
    assert run.get("error") == (None if error is None else {"message": error})
    assert volt.invalid_calls == {}


@pytest.mark.parametrize("status", ["done", 5, "working"])
def test_a_trace_that_ends_with_an_odd_status_is_completed(volt: Traced, status: Any) -> None:
    volt.sdk.trace(agentId="a").end(status=status)
    assert volt.outcomes() == {"a": "completed"}
    assert volt.invalid_calls == ({} if status == "working" else {"unknown_status": 1})


def test_the_end_repeats_what_a_reader_needs_if_the_start_was_lost(volt: Traced) -> None:
    volt.sdk.trace(agentId="a").add_memory("m").success()
    start, end = volt.events("step.start")[0], volt.events("step.end")[0]
    for name in ("name", "step_type", "started_at", "run_id", "step_id", "parent_id"):
        assert start[name] == end[name]


# ---- updates ---------------------------------------------------------------------------------------------------------


def test_an_update_changes_a_step_that_goes_on(volt: Traced) -> None:
    tool = volt.sdk.trace(agentId="a").add_tool("t")
    assert tool.update(
        input={"x": 1},
        output={"so_far": 2},
        level="warning",
        tags=["a"],
        version="2",
        metadata={"a_b": 1},
        half_way=True,
    )
    assert tool.update(name="t2", status_message="slow")
    tool.success()
    step = volt.whole("t2")
    assert (step["input"], step["output"], step["level"], step["error"]) == (
        {"x": 1},
        {"so_far": 2},
        "WARNING",
        {"message": "slow"},
    )
    assert step["meta_data"] == {"version": "2", "tags": ["a"], "halfWay": True, "aB": 1}
    assert (step["status"], types(volt)[-3:]) == ("completed", ["step.update", "step.update", "step.end"])


def test_an_update_changes_a_trace_that_goes_on(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        assert trace.update(status="working", metadata={"priority_now": "high"}, tags=["b"], level="INFO", version="2")
        assert trace.update(completionStartTime="2026-01-31T12:00:05Z", usage=USAGE)
    run = volt.whole("a")
    assert (run["status"], run["tags"], run["usage"]) == ("completed", ["b"], USAGE)
    assert run["meta_data"] == {
        "agentId": "a",
        "priorityNow": "high",
        "level": "INFO",
        "version": "2",
        "completionStartTime": "2026-01-31T12:00:05Z",
    }


def test_an_update_of_nothing_is_not_sent(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        assert not trace.update()
    assert types(volt) == ["run.start", "run.end"]


@pytest.mark.parametrize(
    ("said", "expected"), [("error", "failed"), ("cancelled", "cancelled"), ("completed", "completed")]
)
def test_a_status_that_an_update_says_is_the_one_a_block_ends_with(volt: Traced, said: str, expected: str) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        with trace.add_agent("A") as agent:
            assert agent.update(status=said)
            assert agent.add_tool("t").success()  # the step goes on
        trace.update(status=said)
        trace.update(status="working")
    assert volt.outcomes() == {"a": "completed", "A": expected, "t": "completed"}
    assert volt.invalid_calls == {}


def test_an_outcome_goes_over_the_status_of_an_update(volt: Traced) -> None:
    tool = volt.sdk.trace(agentId="a").add_tool("t")
    tool.update(status="error")
    tool.success()
    assert volt.outcomes()["t"] == "completed"


def test_an_unknown_status_or_level_is_left_out_with_a_log_line(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a", level="loud", tags=5, startTime="noon") as trace:
        trace.update(status="half done", level=5, end_time=5)
    assert volt.invalid_calls == {"unknown_level": 2, "unknown_status": 1, "wrong_type": 3}
    assert "tags" not in volt.whole("a")
    assert types(volt) == ["run.start", "run.end"]


# ---- custom events ---------------------------------------------------------------------------------------------------


def test_an_event_with_a_final_status_is_over_at_once(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        event = trace.add_event(
            {
                "id": "mine",
                "name": "clicked",
                "type": "user-action",
                "input": {"x": 1},
                "output": {"y": 2},
                "status": "error",
                "statusMessage": "no such page",
                "level": "ERROR",
                "tags": ["ui"],
                "version": "2",
                "metadata": {"page_name": "start"},
                "startTime": "2026-01-31T12:00:00Z",
                "endTime": "2026-01-31T12:00:01Z",
            }
        )
    assert type(event) is EventContext
    assert event.id == "mine"
    step = volt.whole("clicked")
    assert (step["step_type"], step["status"], step["level"], step["error"]) == (
        "other",
        "failed",
        "ERROR",
        {"message": "no such page"},
    )
    assert (step["input"], step["output"]) == ({"x": 1}, {"y": 2})
    assert step["meta_data"] == {"eventType": "user-action", "version": "2", "tags": ["ui"], "pageName": "start"}
    assert step["ended_at"] - step["started_at"] == 1_000_000_000
    assert volt.invalid_calls == {}


@pytest.mark.parametrize(
    ("type_", "step_type"),
    [
        ("agent", "agent"),
        ("tool", "tool_call"),
        ("retriever", "retrieval"),
        ("memory", "memory"),
        ("llm_call", "llm_call"),
    ],
)
def test_the_type_of_an_event_is_that_of_its_step(volt: Traced, type_: str, step_type: str) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        agent = trace.add_agent("A")
        trace.add_event(TimelineEvent(name="e", type=type_, parentEventId=agent.id)).success()
        agent.success()
    step = volt.whole("e")
    assert (step["step_type"], step["parent_id"], step["status"]) == (step_type, agent.id, "completed")
    assert "eventType" not in step.get("meta_data", {})


# ---- invalid calls ---------------------------------------------------------------------------------------------------


def twice(trace: Any) -> str:
    tool = trace.add_tool("t")
    assert tool.success({"first": True})
    assert not tool.success({"first": False})
    assert not tool.error("late")
    return "t"


def error_then_success(trace: Any) -> str:
    agent = trace.add_agent("A")
    assert agent.error("first")
    assert not agent.success({"late": True}, USAGE)
    return "A"


def updated(trace: Any) -> str:
    tool = trace.add_tool("t")
    tool.success()
    assert not tool.update(output={"late": True}, status="error")
    return "t"


def trace_twice(trace: Any) -> str:
    assert trace.end({"first": True})
    assert not trace.end({"first": False}, "error")
    return "a"


@pytest.mark.parametrize(
    ("misuse", "kinds", "expected"),
    [
        (twice, {"ended_twice": 2}, {"status": "completed", "output": {"first": True}}),
        (error_then_success, {"ended_twice": 1}, {"status": "failed", "error": {"message": "first"}}),
        (updated, {"updated_after_end": 1}, {"status": "completed"}),
        (trace_twice, {"ended_twice": 1}, {"status": "completed", "output": {"first": True}}),
    ],
)
def test_the_first_outcome_stands_and_a_second_one_is_logged_once(
    volt: Traced, misuse: Callable[[Any], str], kinds: dict[str, int], expected: dict[str, Any]
) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        name = misuse(trace)
    found = volt.whole(name)
    shown = {key: found.get(key) for key in ("status", "output", "error", "usage") if found.get(key) is not None}
    assert shown == expected
    assert volt.invalid_calls == kinds
    assert len(volt.said) == 1


def test_a_child_added_after_the_end_is_recorded_and_logged_once(volt: Traced) -> None:
    trace = volt.sdk.trace(agentId="a")
    agent = trace.add_agent("A")
    agent.success()
    agent.add_tool("late").success({"x": 1})
    trace.end()
    trace.add_event("later").success()
    assert volt.tree() == {"A": "a", "late": "A", "later": "a"}
    assert volt.outcomes() == {"a": "completed", "A": "completed", "late": "completed", "later": "completed"}
    assert volt.invalid_calls == {"added_after_end": 2}
    assert len(volt.said) == 1


def test_calls_that_do_not_fit_give_handles_that_record_nothing(volt: Traced) -> None:
    sdk: Any = volt.sdk
    trace = sdk.trace(1, 2, 3)
    agent = sdk.trace(agentId="a").add_agent(1, 2, 3)
    with trace, agent, trace.add_tool("t"):
        pass
    assert not agent.success(1, 2, 3, 4)
    assert type(agent) is Agent
    assert volt.invalid_calls == {"wrong_call": 2}
    assert types(volt) == ["run.start"]


def test_no_log_line_holds_a_payload(volt: Traced) -> None:
    trace: Any = volt.sdk.trace(agentId="a", input=SECRET, level=SECRET, tags=object(), startTime=SECRET)
    tool = trace.add_tool({"name": "t", "input": SECRET})
    tool.success(SECRET)
    tool.success(SECRET, SECRET, SECRET, SECRET)
    tool.error(SECRET)
    tool.update(output=SECRET, status=SECRET)
    trace.end(status=SECRET, error=SECRET)
    trace.add_tool(SECRET)
    assert len(volt.said) >= 6
    assert SECRET not in "".join(volt.said) + repr(trace) + repr(tool) + repr(tool.success())


@pytest.mark.parametrize(
    "misuse",
    [
        lambda trace: trace.add_tool("t").success(1, 2, 3, 4),
        lambda trace: (trace.end(), trace.end()),
        lambda trace: (trace.end(), trace.update(metadata={"a": 1})),
        lambda trace: (trace.end(), trace.add_tool("t")),
        lambda trace: trace.update(level="loud"),
        lambda trace: trace.add_tool({}),
    ],
)
def test_with_fail_silently_off_invalid_calls_raise(misuse: Any) -> None:
    with traced(fail_silently=False) as volt:
        trace = volt.sdk.trace(agentId="a")
        with pytest.raises((AgentScopeError, TypeError)):
            misuse(trace)


# ---- blocks ----------------------------------------------------------------------------------------------------------


class Problem(Exception):
    pass


def leave_sync(handle: Any, error: BaseException) -> None:
    with handle:
        raise error


def leave_async(handle: Any, error: BaseException) -> None:
    async def main() -> None:
        async with handle:
            raise error

    coroutine = main()
    coroutine.send(None)


@pytest.mark.parametrize("leave", [leave_sync, leave_async])
@pytest.mark.parametrize("kind", [*KINDS, "trace"])
def test_an_exception_that_leaves_a_block_is_its_error_and_goes_on_unchanged(
    volt: Traced, kind: str, leave: Any
) -> None:
    trace = volt.sdk.trace(agentId="a")
    handle = trace if kind == "trace" else add(trace, kind)
    error = Problem("went wrong")
    with pytest.raises(Problem) as caught:
        leave(handle, error)
    assert caught.value is error
    found = volt.whole("a" if kind == "trace" else kind)
    assert (found["status"], found["error"]["message"]) == ("failed", "went wrong")
    assert "Problem: went wrong" in found["error"]["traceback"]
    assert found["error"]["type"].endswith("Problem")
    assert not handle.success() if kind != "trace" else not handle.end()


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(1)])
def test_a_block_that_is_cancelled_or_interrupted_says_so(volt: Traced, error: BaseException) -> None:
    with pytest.raises(type(error)):
        leave_sync(volt.sdk.trace(agentId="a"), error)
    assert volt.outcomes() == {"a": "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"}
    assert volt.whole("a")["error"]["type"].endswith(type(error).__name__)


def test_a_generator_that_is_closed_early_did_not_fail(volt: Traced) -> None:
    def numbers() -> Iterator[int]:
        with volt.sdk.trace(agentId="a"):
            yield 1
            yield 2

    generator = numbers()
    next(generator)
    generator.close()
    assert volt.outcomes() == {"a": "completed"}


def test_an_outcome_before_an_exception_stands_without_a_log_line(volt: Traced) -> None:
    with pytest.raises(Problem), volt.sdk.trace(agentId="a") as trace, trace.add_agent("A") as agent:
        agent.success({"x": 1})
        raise Problem
    assert volt.outcomes() == {"a": "failed", "A": "completed"}
    assert volt.invalid_calls == {}


def test_a_block_that_was_ended_inside_it_is_left_alone(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a") as trace, trace.add_agent("A") as agent:
        agent.error("no")
        trace.end(status="cancelled")
    assert volt.outcomes() == {"a": "cancelled", "A": "failed"}
    assert volt.invalid_calls == {}


def test_a_second_entry_of_a_block_is_logged(volt: Traced) -> None:
    trace = volt.sdk.trace(agentId="a")
    with trace:
        pass
    with trace:
        pass
    assert volt.invalid_calls == {"block_reused": 1}
    assert types(volt) == ["run.start", "run.end"]


def test_the_context_is_as_before_when_blocks_are_left_in_any_order(volt: Traced) -> None:
    before = current_scope()
    trace = volt.sdk.trace(agentId="a")
    agent = trace.add_agent("A")
    trace.__enter__()
    agent.__enter__()
    trace.__exit__(None, None, None)
    agent.__exit__(None, None, None)
    assert current_scope() is before
    assert volt.outcomes() == {"a": "completed", "A": "completed"}


def test_a_block_with_fail_silently_off_raises_unless_an_exception_leaves_it() -> None:
    with traced(fail_silently=False) as volt:
        trace = volt.sdk.trace(agentId="a")
        with patch.object(volt.sdk._registry, "end", side_effect=AgentScopeError("oh")):
            with pytest.raises(AgentScopeError):
                trace.__enter__().__exit__(None, None, None)
            with pytest.raises(Problem):
                leave_sync(volt.sdk.trace(agentId="b"), Problem())


# ---- nesting ---------------------------------------------------------------------------------------------------------


def test_handles_nest_as_they_are_added_whatever_block_is_current(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        with trace.add_agent("A") as agent, agent.add_agent("B") as inner:
            agent.add_tool("of A").success()
            inner.add_memory("of B").success()
            trace.add_retriever("of the trace").success()
        trace.add_agent("C").add_tool("of C").success()
    assert volt.tree() == {"A": "a", "B": "A", "of A": "A", "of B": "B", "of the trace": "a", "C": "a", "of C": "C"}


def test_steps_of_the_other_face_hang_below_the_handle_that_is_current(volt: Traced) -> None:
    tracker = volt.sdk.tracker
    with volt.sdk.trace(agentId="a") as trace:
        tracker.track_step("in the trace")
        with trace.add_agent("A") as agent:
            with tracker.track_step_context("block") as block:
                tracker.track_step("in the block")
                agent.add_tool("of A, in the block").success()
                trace.add_tool("of the trace").success()
                with agent.add_agent("B") as inner:
                    tracker.track_step("in B")
                    inner.add_tool("of B").success()
            assert block.run_id == trace.id
            agent.add_tool("of A").success()
    assert volt.tree() == {
        "in the trace": "a",
        "A": "a",
        "block": "A",
        "in the block": "block",
        "of A, in the block": "block",
        "of the trace": "a",
        "B": "block",
        "in B": "B",
        "of B": "B",
        "of A": "A",
    }
    assert volt.invalid_calls == {}


def test_a_trace_in_a_run_of_the_other_face_is_a_step_of_it(volt: Traced) -> None:
    tracker = volt.sdk.tracker
    options: dict[str, Any] = {"userId": "u", "tags": ["x"], "metadata": {"k_k": 1}, "input": {"q": 1}}
    with tracker.track_run("outer") as run:
        with tracker.track_step_context("block"), volt.sdk.trace(options, agentId="a") as trace:
            trace.add_agent("A").success(usage=USAGE)
            tracker.track_step("inside")
            trace.update(metadata={"more_of_it": 1}, tags=["y"])
        assert tracker.current_run_id == run
    step = volt.whole("a")
    assert (step["run_id"], step["step_id"], step["step_type"]) == (run.id, trace.id, "agent")
    assert (step["status"], step["input"]) == ("completed", {"q": 1})
    about = {"agentId": "a", "userId": "u", "kK": 1, "moreOfIt": 1, "tags": ["y"]}
    assert step["meta_data"] == about
    assert volt.tree() == {"block": "outer", "a": "block", "A": "a", "inside": "a"}
    assert types(volt).count("run.start") == types(volt).count("run.end") == 1
    assert volt.invalid_calls == {}


def test_a_trace_after_start_run_is_a_step_of_that_run(volt: Traced) -> None:
    tracker = volt.sdk.tracker
    run_id = tracker.start_run("outer")
    volt.sdk.trace(agentId="a").end()
    tracker.end_run()
    volt.sdk.trace(agentId="b").end()
    assert volt.tree() == {"a": "outer"}
    assert volt.whole("a")["run_id"] == run_id
    assert volt.whole("b")["step_id"] is None


def test_a_trace_in_a_trace_is_a_run_of_its_own(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a") as outer, volt.sdk.trace(agentId="b") as inner:
        volt.sdk.tracker.track_step("inside")
    assert inner.id != outer.id
    assert volt.tree() == {"inside": "b"}


def test_a_trace_belongs_where_the_headers_of_a_request_say(volt: Traced) -> None:
    tracker = volt.sdk.tracker
    with volt.sdk.trace(agentId="sender") as sender, sender.add_tool("call"):
        headers = tracker.inject({})
    with tracker.extract(headers), volt.sdk.trace(agentId="receiver") as trace:
        trace.add_tool("t").success()
    assert volt.tree() == {"call": "sender", "receiver": "call", "t": "receiver"}


def test_a_trace_and_the_steps_of_another_tracker_of_the_same_address_are_one_run(volt: Traced) -> None:
    kept: list[Any] = []
    other = make_tracker(kept)
    with volt.sdk.trace(agentId="a") as trace, trace.add_agent("A") as agent, other.track_step_context("block"):
        agent.add_tool("in the block").success()
    with other.track_run("outer") as run:
        volt.sdk.trace(agentId="inner").end()
    other.flush()
    block = next(event for event in kept if event.fields.get("name") == "block")
    assert (block.run_id, block.parent_id) == (trace.id, agent.id)
    assert volt.whole("in the block")["parent_id"] == block.step_id
    assert (volt.whole("inner")["run_id"], volt.whole("inner")["parent_id"]) == (run.id, None)
    other.shutdown()


def test_two_sdks_of_different_keys_do_not_mix(volt: Traced) -> None:
    with traced() as other, volt.sdk.trace(agentId="a"):
        other.sdk.tracker.track_step("lost")
        assert other.invalid_calls == {"no_run": 1}
        assert other.events() == []


def test_the_other_face_may_end_the_run_of_a_trace(volt: Traced) -> None:
    tracker = volt.sdk.tracker
    with volt.sdk.trace(agentId="a") as trace:
        assert tracker.end_run("failed", error="no more")
    assert not trace.end()
    assert not trace.update(metadata={"a": 1})
    assert volt.outcomes() == {"a": "failed"}
    assert types(volt) == ["run.start", "run.end"]
    assert volt.invalid_calls == {"ended_twice": 1, "updated_after_end": 1}


def test_end_run_inside_a_trace_ends_the_trace_and_not_the_run_around_it(volt: Traced) -> None:
    tracker = volt.sdk.tracker
    with tracker.track_run("outer"):
        with volt.sdk.trace(agentId="a") as trace, trace.add_agent("A"):
            assert tracker.end_run("failed")
        tracker.track_step("after")
    assert volt.outcomes() == {"outer": "completed", "a": "failed", "A": "completed", "after": "completed"}
    assert volt.invalid_calls == {}


def test_tasks_do_not_mix(volt: Traced) -> None:
    tracker = volt.sdk.tracker

    async def work(name: str) -> None:
        async with volt.sdk.trace(agentId=name) as trace, trace.add_agent(f"agent {name}"):
            await asyncio.sleep(0)  # let the other tasks run
            tracker.track_step(f"step {name}")
            await asyncio.sleep(0)  # let them run again

    async def main() -> None:
        await asyncio.gather(*(work(name) for name in "abc"))

    asyncio.run(main())
    assert volt.tree() == {
        **{f"agent {name}": name for name in "abc"},
        **{f"step {name}": f"agent {name}" for name in "abc"},
    }


def test_a_thread_adds_to_a_handle_without_any_context(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a") as trace, trace.add_agent("A") as agent, ThreadPoolExecutor(4) as pool:
        for number in range(20):
            pool.submit(lambda number=number: agent.add_tool(f"t{number}").success())
    assert set(volt.tree().values()) == {"a", "A"}
    assert set(volt.outcomes().values()) == {"completed"}


def test_a_thread_with_the_context_adds_below_what_is_current_there(volt: Traced) -> None:
    with (
        volt.sdk.trace(agentId="a") as trace,
        trace.add_agent("A") as agent,
        volt.sdk.tracker.track_step_context("block"),
    ):
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(lambda: agent.add_tool("t").success(),))
        thread.start()
        thread.join()
    assert volt.tree() == {"A": "a", "block": "A", "t": "block"}


# ---- the end of handles ----------------------------------------------------------------------------------------------


def test_a_handle_without_references_is_closed_as_unfinished(volt: Traced) -> None:
    trace = volt.sdk.trace(agentId="a")
    trace.add_tool("dropped")
    kept = trace.add_tool("kept")
    gc.collect()
    assert volt.outcomes() == {"a": "running", "dropped": "unfinished", "kept": "running"}
    del trace
    gc.collect()
    assert volt.outcomes()["a"] == "running"  # the trace goes on as long as a step below it does
    kept.success()
    del kept
    gc.collect()
    assert volt.outcomes() == {"a": "unfinished", "dropped": "unfinished", "kept": "completed"}
    assert volt.invalid_calls == {}


def test_a_handle_is_closed_when_it_is_collected_as_part_of_a_cycle(volt: Traced) -> None:
    holder: dict[str, Any] = {"trace": volt.sdk.trace(agentId="a")}
    holder["itself"] = holder
    del holder
    gc.collect()
    assert volt.outcomes() == {"a": "unfinished"}


def test_what_is_known_of_handles_that_never_end_stays_bounded() -> None:
    with traced() as volt, patch.object(registry_module, "MOST_OPEN_RUNS", 10):
        trace = volt.sdk.trace(agentId="a")
        tools = [trace.add_tool(f"t{number}") for number in range(50)]
        events = [volt.sdk.add_event_to_trace(trace.id, f"e{number}").id for number in range(50)]
        assert len(volt.sdk._registry.entries) <= 11
        assert len(volt.sdk._kept) <= 11
        assert tools[0].success()  # a handle without an owner ends normally
        volt.sdk.shutdown()
        assert volt.outcomes()["t0"] == "completed"
        assert len(events) == 50


def test_a_handle_that_has_ended_is_forgotten(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        for _ in range(5):
            trace.add_tool("t").success()
        volt.sdk.add_event_to_trace(trace.id, "e").success()
        assert list(volt.sdk._registry.entries) == [trace.id]
    assert (volt.sdk._registry.entries, volt.sdk._kept) == ({}, {})


def test_a_handle_is_its_own_copy_and_an_id_in_another_process(volt: Traced) -> None:
    trace = volt.sdk.trace(agentId="a")
    tool = trace.add_tool("t")
    assert copy.copy(tool) is tool
    assert copy.deepcopy({"tool": tool})["tool"] is tool
    agent = trace.add_agent("b")
    before = len(volt.events())
    for handle in (trace, tool, agent):
        there = pickle.loads(pickle.dumps(handle))
        assert type(there) is type(handle)
        assert (there.id, there.trace_id) == (handle.id, handle.trace_id)
        there.update(output=1)
        with there:
            pass
        del there
        assert not handle._entry.ended
    assert pickle.loads(pickle.dumps(tool)).parent_id == tool.parent_id
    assert len(volt.events()) == before


def test_a_handle_that_an_observed_function_returns_is_the_same_object(volt: Traced) -> None:
    tracker = volt.sdk.tracker
    with volt.sdk.trace(agentId="a") as trace:
        tool = trace.add_tool("t")
        assert tracker.observe(lambda: tool, name="call")() is tool
        settled = tool.success()
        assert tracker.observe(lambda: settled, name="call")() is settled
    assert [whole["status"] for whole in volt.wholes() if whole.get("name") == "call"] == ["completed"] * 2


def test_of_many_threads_that_end_it_one_succeeds(volt: Traced) -> None:
    tools = [volt.sdk.trace(agentId="a").add_tool(f"t{number}") for number in range(20)]
    barrier = threading.Barrier(4)

    def work() -> int:
        barrier.wait()
        return sum(bool(tool.success()) for tool in tools)

    with ThreadPoolExecutor(4) as pool:
        ended = sum(future.result() for future in [pool.submit(work) for _ in range(4)])
    assert ended == 20
    assert types(volt).count("step.end") == 20


# ---- hostile arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_value", HOSTILE)
def test_no_argument_whatever_raises_into_the_agent(volt: Traced, make_value: Any) -> None:
    sdk: Any = volt.sdk
    value = make_value
    names = (
        "id",
        "input",
        "userId",
        "conversationId",
        "metadata",
        "tags",
        "version",
        "level",
        "startTime",
        "completionStartTime",
        "odd",
    )
    for name in names:
        sdk.trace(agentId=value(), **{name: value()}).end()
    sdk.trace(value())
    with sdk.trace(agentId="a") as trace:
        for kind in KINDS:
            add(trace, kind, value())
            handle = add(trace, kind, {"name": value(), "input": value(), "metadata": value(), "odd": value()})
            add(
                trace,
                kind,
                {"name": "n", "metadata": {"k": value()}, "type": value(), "status": value(), "id": value()},
            )
            handle.update(status=value(), output=value(), metadata=value(), level=value(), tags=value(), usage=value())
            handle.success(value(), value(), value())
            add(trace, kind, "n").error(value(), value())
        trace.update(**dict.fromkeys(names, value()))
        assert trace.end(value(), value(), value(), value(), value())
    for call in (sdk.get_trace, sdk.update_trace, sdk.update_event, sdk.flush):
        call(value())
    sdk.add_event_to_trace(value(), value()).success()
    for events in volt.parts().values():
        kinds = [event["type"] for event in events]
        assert sum(kind in STARTS for kind in kinds) == 1 or events[0]["type"] == "run.update"


class Interrupted:
    """An object whose inspection raises KeyboardInterrupt."""

    def __getattribute__(self, name: str) -> Any:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "call",
    [
        lambda trace: trace.add_tool(Interrupted()),
        lambda trace: trace.update(metadata=Interrupted()),
        lambda trace: trace.end(usage=Interrupted()),
    ],
)
def test_an_interrupt_while_something_is_looked_at_gets_through_and_nothing_is_half_done(
    volt: Traced, call: Any
) -> None:
    with pytest.raises(KeyboardInterrupt):
        call(trace := volt.sdk.trace(agentId="a"))
    assert types(volt) == ["run.start"]
    assert trace.end()


@pytest.mark.parametrize("make_value", HOSTILE)
def test_a_hostile_exception_leaves_a_block_unchanged(volt: Traced, make_value: Any) -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise ValueError("str")

        @property
        def __traceback__(self) -> Any:
            raise RuntimeError("traceback")

    error = Hostile(make_value())
    with pytest.raises(Hostile) as caught:
        leave_sync(volt.sdk.trace(agentId="a"), error)
    assert caught.value is error
    assert volt.outcomes() == {"a": "failed"}


CALLS = ["agent", "tool", "memory", "event", "success", "error", "update", "enter", "leave", "drop", "end", "step"]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(CALLS), st.integers(0, 20)), max_size=40))
def test_whatever_is_called_in_whatever_order_each_has_one_start_and_one_end(calls: list[tuple[str, int]]) -> None:
    with traced() as volt:
        handles: list[Any] = [volt.sdk.trace(agentId="a")]
        entered: list[Any] = []
        for call, number in calls:
            handle = handles[number % len(handles)] if handles else None
            if call == "step":
                with volt.sdk.tracker.track_step_context("block"):
                    pass
            elif handle is None:
                handles.append(volt.sdk.trace(agentId="more"))
            elif call in KINDS:
                above = handle if hasattr(handle, "add_tool") else handles[0]
                if hasattr(above, "add_tool"):
                    handles.append(add(above, call))
            elif call == "enter":
                entered.append(handle.__enter__())
            elif call == "leave" and entered:
                error = Problem("left") if number % 2 else None
                entered.pop(number % len(entered)).__exit__(type(error) if error else None, error, None)
            elif call == "drop":
                handles.remove(handle)
            elif call == "end" and isinstance(handle, Trace):
                handle.end(status="error" if number % 2 else None)
            elif call in ("success", "error", "update"):
                told = getattr(handle, call, None)
                if told is not None:
                    told(**({"status": "error"} if call == "update" else {}))
        handles.clear()
        entered.clear()
        volt.sdk.shutdown()
        for events in volt.parts().values():
            kinds = [event["type"] for event in events]
            assert sum(kind in STARTS for kind in kinds) == 1
            assert sum(kind in ENDS for kind in kinds) == 1
            assert kinds[0] in STARTS
            assert kinds[-1] in ENDS
        assert volt.sdk.stats().dropped == {}


def test_nothing_ends_before_it_began(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a", startTime="2126-01-31T12:00:00Z") as trace:
        trace.add_event({"name": "e", "type": "t", "status": "completed", "endTime": "2026-01-31T12:00:00Z"})
    for name in ("a", "e"):
        assert volt.whole(name)["ended_at"] == volt.whole(name)["started_at"]


def test_times_may_be_given_as_datetimes_of_any_zone(volt: Traced) -> None:
    zone = timezone(timedelta(hours=2))
    volt.sdk.trace(agentId="a", startTime=datetime(2026, 1, 31, 14, 0, 0, 250_000, tzinfo=zone)).end()
    assert volt.events("run.start")[0]["started_at"] == 1_769_860_800_250_000_000


def test_an_sdk_made_for_one_destination_shares_runs_with_another_of_the_same() -> None:
    with traced(secret_key="sk_shared") as volt:
        kept: list[Any] = []
        other = make(kept, secret_key="sk_shared")
        with volt.sdk.trace(agentId="a") as trace:
            other.tracker.track_step("elsewhere")
        other.shutdown()
        assert [event.run_id for event in kept] == [trace.id]
        assert isinstance(other._config.exporters[0], VoltAgentExporter)


# ---- the fields of the table -----------------------------------------------------------------------------------------


def test_options_that_name_fields_become_fields(volt: Traced) -> None:
    with volt.sdk.trace(
        agentId="a", userId="u", conversation_id="c", tags=["t"], environment="test", release="1"
    ) as trace:
        with trace.add_agent("A", model="gpt-5", provider="openai", costUsd=0.5, first_token_ms=3) as agent:
            agent.update(cost_usd=0.75)
        trace.update(userId="other")
    run, step = volt.whole("a"), volt.whole("A")
    assert [run[name] for name in ("user_id", "conversation_id", "tags", "environment", "release")] == [
        "other",
        "c",
        ["t"],
        "test",
        "1",
    ]
    assert [step[name] for name in ("model", "provider", "cost_usd", "first_token_ms")] == ["gpt-5", "openai", 0.75, 3]
    assert "meta_data" not in step
    assert volt.invalid_calls == {}


@pytest.mark.parametrize("name", ["modelParameters", "model_parameters"])
def test_the_model_is_known_from_the_model_parameters_which_stay_as_they_are(volt: Traced, name: str) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        trace.add_agent("A", metadata={name: {"model": "gpt-5", "temperature": 0}}).success()
        trace.add_agent("B", model="mine", metadata={name: {"model": "gpt-5"}}).success()
        trace.add_agent("C").success(metadata={name: {"model": "late"}})
    assert [volt.whole(step)["model"] for step in "ABC"] == ["gpt-5", "mine", "late"]
    assert volt.whole("A")["meta_data"] == {"modelParameters": {"model": "gpt-5", "temperature": 0}}


def test_an_attribute_that_is_set_on_a_handle_is_counted_and_logged(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        tool: Any = trace.add_tool("t")
        tool.output = "hunter2"
        tool.success("told")
    assert volt.whole("t")["output"] == "told"
    assert volt.invalid_calls == {"unknown_field": 1}


# ---- after the end -------------------------------------------------------------------------------------------------


def test_a_late_task_of_a_trace_writes_nothing_into_another(volt: Traced) -> None:
    tracker = volt.sdk.tracker

    async def main() -> None:
        go = asyncio.Event()

        async def late() -> bool:
            await go.wait()
            return tracker.track_step("late")

        async with volt.sdk.trace(agentId="a") as trace, trace.add_agent("agent"):
            task = asyncio.create_task(late())
        async with volt.sdk.trace(agentId="b"):
            go.set()
            assert await task is False

    asyncio.run(main())
    assert volt.tree() == {"agent": "a"}
    assert volt.invalid_calls == {"run_ended": 1}


def test_a_trace_that_is_a_step_of_a_run_counts_no_longer_than_the_run(volt: Traced) -> None:
    tracker = volt.sdk.tracker
    with tracker.track_run("run"):
        trace = volt.sdk.trace(agentId="a")
        trace.__enter__()
    assert tracker.track_step("late") is False
    assert trace.end()
    assert volt.invalid_calls == {"run_ended": 1}


def test_a_handle_names_its_run_though_it_has_ended_and_another_is_current(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        agent = trace.add_agent("agent")
        agent.success()
    with volt.sdk.trace(agentId="b"), agent:
        volt.sdk.tracker.track_step("late")
    assert volt.tree() == {"agent": "a", "late": "agent"}


def test_blocks_of_handles_that_are_left_in_another_thread_do_not_pile_up(volt: Traced) -> None:
    with volt.sdk.trace(agentId="a") as trace:
        for _ in range(20):
            tool = trace.add_tool("tool")
            tool.__enter__()
            contextvars.Context().run(tool.__exit__, None, None, None)
            number, scope = 0, current_scope()
            while scope is not None:
                number, scope = number + 1, scope.outer  # type: ignore[attr-defined]
            assert number <= 2
    assert current_scope() is None
