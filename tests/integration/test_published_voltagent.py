"""The published VoltAgent SDK 0.1.1 with the receiver: the examples of its documentation, as far as they run.

The printed examples do not run unchanged: in the SDK `add_agent` is a coroutine and no context manager, `usage` must be a
`TokenUsage`, and exceptions cannot be written as JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import voltagent
from voltagent import TokenUsage

from agentscope.server.receiver import Receiver
from tests.support.read_api import get, only_run, outline

Example = Callable[[Any], Awaitable[Any]]


@pytest.fixture(autouse=True)
def _is_the_published_one() -> None:
    assert voltagent.__version__ == "0.1.1"


def run_example(receiver: Receiver, example: Example) -> dict[str, Any]:
    """Run an example with an SDK that sends to the receiver. Returns the stored run."""

    async def main() -> None:
        async with voltagent.VoltAgentSDK(
            base_url=receiver.url, public_key="pk", secret_key="sk", auto_flush=False
        ) as sdk:
            await example(sdk)

    asyncio.run(main())
    return only_run(receiver.url)


async def quick_start(sdk: Any) -> None:
    async with sdk.trace(
        agentId="customer-support-v1",
        input={"query": "How to reset my password?"},
        userId="user-123",
        conversationId="conv-456",
        tags=["support", "password-reset"],
    ) as trace:
        agent = await trace.add_agent(
            {
                "name": "Support Agent",
                "input": {"task": "Handle password reset request"},
                "instructions": "You are a helpful customer support agent.",
                "metadata": {"model_parameters": {"model": "gpt-4"}},
            }
        )
        tool = await agent.add_tool({"name": "knowledge-base-search", "input": {"query": "password reset procedure"}})
        await tool.success(output={"results": ["Reset via email", "Reset via SMS"], "relevance_score": 0.89})
        await agent.success(
            output={"response": "Password reset link sent!"},
            usage=TokenUsage(prompt_tokens=150, completion_tokens=85, total_tokens=235),
        )


async def weather(sdk: Any) -> None:
    async with sdk.trace(
        agentId="weather-agent-v1", input={"query": "Weather in Istanbul?"}, tags=["weather", "query"]
    ) as trace:
        agent = await trace.add_agent(
            {
                "name": "Weather Agent",
                "instructions": "You provide accurate weather information.",
                "metadata": {"model_parameters": {"model": "gpt-4"}},
            }
        )
        weather_tool = await agent.add_tool({"name": "weather_api", "input": {"city": "Istanbul"}})
        await weather_tool.success(output={"temperature": 22, "condition": "sunny", "humidity": 65})
        memory = await agent.add_memory(
            {
                "name": "cache_weather",
                "input": {"key": "istanbul_weather", "value": {"temp": 22, "condition": "sunny"}},
            }
        )
        await memory.success(output={"cached": True, "expires_in": 3600})
        await agent.success(
            output={"response": "It's 22°C and sunny in Istanbul!"},
            usage=TokenUsage(prompt_tokens=50, completion_tokens=25, total_tokens=75),
        )


async def research(sdk: Any) -> None:
    async with sdk.trace(
        agentId="research-orchestrator", input={"topic": "AI trends 2024"}, tags=["research", "ai-trends"]
    ) as trace:
        researcher = await trace.add_agent(
            {
                "name": "Research Agent",
                "instructions": "You research and gather information on given topics.",
                "metadata": {"model_parameters": {"model": "gpt-4"}},
            }
        )
        search = await researcher.add_retriever(
            {"name": "web_search", "input": {"query": "AI trends 2024", "max_results": 10}}
        )
        await search.success(
            output={
                "documents": ["AI trend doc 1", "AI trend doc 2"],
                "relevance_scores": [0.9, 0.8],
                "total_results": 10,
            }
        )
        await researcher.success(
            output={"research_complete": True, "documents_found": 10},
            usage=TokenUsage(prompt_tokens=200, completion_tokens=150, total_tokens=350),
        )
        summarizer = await trace.add_agent(
            {
                "name": "Summary Agent",
                "instructions": "You create comprehensive summaries from research data.",
                "metadata": {"model_parameters": {"model": "gpt-4"}},
            }
        )
        translator = await summarizer.add_agent(
            {
                "name": "Translation Agent",
                "instructions": "You translate content to different languages.",
                "metadata": {"model_parameters": {"model": "gpt-3.5-turbo"}},
            }
        )
        translate_tool = await translator.add_tool(
            {"name": "translate_api", "input": {"text": "AI trends summary", "target_language": "tr"}}
        )
        await translate_tool.success(output={"translated_text": "AI eğilimleri özeti..."})
        await translator.success(
            output={"translation": "Turkish translation completed"},
            usage=TokenUsage(prompt_tokens=100, completion_tokens=80, total_tokens=180),
        )
        await summarizer.success(
            output={"summary": "Comprehensive AI trends summary with translation"},
            usage=TokenUsage(prompt_tokens=300, completion_tokens=200, total_tokens=500),
        )


async def error_handling(sdk: Any) -> None:
    async with sdk.trace(agentId="test-agent", input={"task": "risky operation"}) as trace:
        agent = await trace.add_agent({"name": "Risky Agent", "instructions": "You handle operations that might fail."})
        risky_tool = await agent.add_tool({"name": "external_api", "input": {"endpoint": "https://unreliable-api.com"}})
        try:
            raise TimeoutError("no answer")
        except TimeoutError as error:
            await risky_tool.error(
                status_message=error.with_traceback(None), metadata={"error_code": "API_TIMEOUT", "retry_attempts": 3}
            )
            await agent.error(
                status_message="Agent failed due to tool error",
                metadata={"failed_tool": "external_api", "error_type": "TIMEOUT"},
            )


def test_the_quick_start_gives_the_right_tree(receiver: Receiver) -> None:
    run = run_example(receiver, quick_start)
    assert outline(run) == ["agent Support Agent", ["tool_call knowledge-base-search"]]
    assert (run["agent_name"], run["status"], run["tokens_used"]) == ("customer-support-v1", "completed", 235)
    assert (run["user_id"], run["conversation_id"]) == ("user-123", "conv-456")
    assert (run["tags"], run["input"]) == (["support", "password-reset"], {"query": "How to reset my password?"})
    assert run["meta_data"] == {"agentId": "customer-support-v1"}
    agent, tool = run["steps"]
    assert agent["input"] == {"task": "Handle password reset request"}
    assert agent["output"] == {"response": "Password reset link sent!"}
    assert agent["usage"] == {"input_tokens": 150, "output_tokens": 85, "total_tokens": 235}
    assert agent["meta_data"] == {
        "agentId": "customer-support-v1",
        "instructions": "You are a helpful customer support agent.",
        "modelParameters": {"model": "gpt-4"},
    }
    assert tool["meta_data"] == {"agentId": "Support Agent"}
    assert tool["output"] == {"results": ["Reset via email", "Reset via SMS"], "relevance_score": 0.89}
    assert tool["ended_at"] is not None


def test_the_weather_example_gives_the_right_tree(receiver: Receiver) -> None:
    run = run_example(receiver, weather)
    assert outline(run) == ["agent Weather Agent", ["tool_call weather_api", "memory cache_weather"]]
    assert (run["status"], run["tokens_used"]) == ("completed", 75)
    assert run["steps"][0]["output"] == {"response": "It's 22°C and sunny in Istanbul!"}
    assert {step["status"] for step in run["steps"]} == {"completed"}


def test_the_research_workflow_gives_the_right_tree(receiver: Receiver) -> None:
    run = run_example(receiver, research)
    assert outline(run) == [
        "agent Research Agent",
        ["retrieval web_search"],
        "agent Summary Agent",
        ["agent Translation Agent", ["tool_call translate_api"]],
    ]
    assert (run["status"], run["tokens_used"]) == ("completed", 1030)
    assert [step["tokens_used"] for step in run["steps"]] == [350, None, 500, 180, None]


def test_the_error_example_gives_the_right_tree(receiver: Receiver) -> None:
    run = run_example(receiver, error_handling)
    assert outline(run) == ["agent Risky Agent!", ["tool_call external_api!"]]
    assert (run["status"], run["error_count"]) == ("completed", 2)
    agent, tool = run["steps"]
    assert agent["error"] == {"message": "Agent failed due to tool error"}
    assert tool["error"] == {"message": "no answer", "type": "TimeoutError", "stack": None}
    assert tool["meta_data"] == {"agentId": "Risky Agent", "error_code": "API_TIMEOUT", "retry_attempts": 3}


def test_a_trace_that_an_exception_leaves_has_failed(receiver: Receiver) -> None:
    async def failing(sdk: Any) -> None:
        with pytest.raises(ValueError, match="out of fuel"):
            async with sdk.trace(agentId="a", metadata={"team": "x"}):
                raise ValueError("out of fuel")

    run = run_example(receiver, failing)
    assert (run["status"], run["error"]) == ("failed", {"message": "out of fuel"})
    assert run["meta_data"] == {"agentId": "a", "team": "x"}


def test_updates_and_custom_events_and_usage_of_a_trace_arrive(receiver: Receiver) -> None:
    async def example(sdk: Any) -> None:
        trace = await sdk.create_trace(agent_id="a", version="1", level="DEBUG")
        await trace.update(metadata={"phase": "two"})
        tool = await (await trace.add_agent({"name": "worker"})).add_tool({"name": "search"})
        await tool.update(output={"so": "far"}, metadata={"note": 1})
        await tool.update(status="completed")
        event = await trace.add_event({"name": "cache warmed", "type": "custom"})
        await event.success(output={"n": 1})
        await trace.add_event({"name": "noted", "type": "custom", "status": "completed", "metadata": {"k": [1]}})
        await trace.end(output={"done": True}, usage=TokenUsage(total_tokens=7))

    run = run_example(receiver, example)
    assert outline(run) == ["agent worker", ["tool_call search"], "other cache warmed", "other noted"]
    assert (run["status"], run["output"]) == ("completed", {"done": True})
    assert run["meta_data"] == {"agentId": "a", "version": "1", "level": "DEBUG", "phase": "two"}
    worker, search, warmed, noted = run["steps"]
    assert (worker["status"], search["status"], search["output"]) == ("running", "completed", {"so": "far"})
    assert (warmed["status"], warmed["output"]) == ("completed", {"n": 1})
    assert (noted["status"], noted["meta_data"]) == ("completed", {"k": [1], "eventType": "custom"})
    last = get(receiver.url, f"/api/runs/{run['id']}/events")["events"][-1]
    assert (last["type"], last["usage"]) == ("run.end", {"total_tokens": 7})


def test_answers_say_what_was_stored(receiver: Receiver) -> None:
    async def example(sdk: Any) -> None:
        client = sdk.client
        made = await client.add_history_async(
            voltagent.CreateHistoryRequest(id="mine", agent_id="a", userId="u", input={"q": 1}, tags=["t"])
        )
        assert (made.id, made.agent_id, made.user_id, made.status) == ("mine", "a", "u", voltagent.TraceStatus.WORKING)
        assert (made.input, made.tags) == ({"q": 1}, ["t"])
        event = await client.add_event_async(
            voltagent.AddEventRequest(
                history_id="mine", event=voltagent.TimelineEvent(name="tool:start", type="tool", metadata={"id": "x"})
            )
        )
        assert (event.history_id, event.event_type, event.event_name) == ("mine", "tool", "tool:start")
        assert (event.status, event.metadata) == (voltagent.EventStatus.RUNNING, {"id": "x"})
        changed = await client.update_event_async(
            voltagent.UpdateEventRequest(id=event.id, status="error", status_message={"code": 1}, level="ERROR")
        )
        assert (changed.id, changed.status) == (event.id, voltagent.EventStatus.ERROR)
        assert changed.status_message == {"code": 1}
        done = await client.update_history_async(
            voltagent.UpdateHistoryRequest(id="mine", status="completed", usage=TokenUsage(total_tokens=1))
        )
        assert (done.status, done.end_time is not None) == (voltagent.TraceStatus.COMPLETED, True)

    run_example(receiver, example)


def test_its_synchronous_client_is_understood_too(receiver: Receiver) -> None:
    config = {"base_url": f"{receiver.url}/", "public_key": "pk", "secret_key": "sk"}
    with voltagent.VoltAgentCoreAPI(config) as client:
        client.add_history(voltagent.CreateHistoryRequest(agent_id="a"))
    assert only_run(receiver.url)["agent_name"] == "a"


def test_a_refusal_reaches_the_user_in_words(receiver: Receiver) -> None:
    config = {"base_url": receiver.url, "public_key": "pk", "secret_key": ""}
    with voltagent.VoltAgentCoreAPI(config) as client, pytest.raises(voltagent.APIError, match="x-secret-key") as told:
        client.add_history(voltagent.CreateHistoryRequest(agent_id="a"))
    assert told.value.status_code == 401
    with (
        voltagent.VoltAgentCoreAPI({**config, "secret_key": "sk"}) as client,
        pytest.raises(voltagent.APIError, match="There is no history with this id"),
    ):
        client.update_history(voltagent.UpdateHistoryRequest(id="unknown", status="completed"))
