"""Spans of Pydantic AI, sent by OpenTelemetry's own exporter, become complete runs.

It runs offline, with the framework's own test models. Last seen to pass with pydantic-ai-slim 2.68.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from agentscope.server.receiver import Receiver
from tests.support.read_api import only_run, outline

pydantic_ai = pytest.importorskip("pydantic_ai", reason="pydantic-ai-slim is not installed")

from pydantic_ai.capabilities import Instrumentation  # noqa: E402 - only where it is installed
from pydantic_ai.models.instrumented import InstrumentationSettings  # noqa: E402 - only where it is installed
from pydantic_ai.models.test import TestModel  # noqa: E402 - only where it is installed


@pytest.fixture
def provider(receiver: Receiver) -> Iterator[TracerProvider]:
    made = TracerProvider(resource=Resource({"service.name": "weather-service"}))
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{receiver.url}/v1/traces", timeout=60)))
    yield made
    made.shutdown()


@pytest.fixture
def agent(provider: TracerProvider) -> Any:
    settings = InstrumentationSettings(tracer_provider=provider)
    return pydantic_ai.Agent(
        TestModel(), name="forecaster", instructions="Be brief.", capabilities=[Instrumentation(settings=settings)]
    )


def test_an_agent_with_a_tool_is_a_run_with_its_calls(agent: Any, provider: TracerProvider, receiver: Receiver) -> None:
    @agent.tool_plain
    def get_weather(city: str) -> dict[str, Any]:
        return {"city": city, "degrees": 21}

    result = agent.run_sync("How is the weather?")
    assert provider.force_flush()
    run = only_run(receiver.url)
    assert (run["agent_name"], run["status"], run["source"]) == ("forecaster", "completed", "pydantic-ai")
    assert outline(run) == ["llm_call chat test", "tool_call get_weather", "llm_call chat test"]
    assert all("unattached_parent_id" not in step for step in run["steps"])
    assert run["input"] == [{"role": "user", "parts": [{"type": "text", "content": "How is the weather?"}]}]
    assert run["output"] == {"get_weather": {"city": "a", "degrees": 21}}
    assert run["meta_data"]["resource"]["service.name"] == "weather-service"
    assert run["conversation_id"]
    first, tool, last = run["steps"]
    assert (tool["input"], tool["output"]) == ({"city": "a"}, {"city": "a", "degrees": 21})
    assert first["input"] == run["input"]
    assert first["output"][0]["parts"][0]["name"] == "get_weather"
    assert last["model"] == "test"
    assert run["tokens_used"] == result.usage.input_tokens + result.usage.output_tokens > 0


def test_a_tool_that_raises_is_a_failure_of_the_tool_and_the_run(
    agent: Any, provider: TracerProvider, receiver: Receiver
) -> None:
    @agent.tool_plain
    def broken(number: int) -> str:
        raise ValueError(f"no {number}")

    with pytest.raises(ValueError, match="no 0"):
        agent.run_sync("Try it.")
    assert provider.force_flush()
    run = only_run(receiver.url)
    assert outline(run) == ["llm_call chat test", "tool_call broken!"]
    assert run["status"] == "failed"
    for failed in (run, run["steps"][1]):
        assert (failed["error"]["type"], failed["error"]["message"]) == ("ValueError", "no 0")
        assert "in broken" in failed["error"]["traceback"]


def test_an_agent_that_calls_another_is_a_tree(agent: Any, provider: TracerProvider, receiver: Receiver) -> None:
    settings = InstrumentationSettings(tracer_provider=provider)
    helper = pydantic_ai.Agent(TestModel(), name="helper", capabilities=[Instrumentation(settings=settings)])

    @agent.tool_plain
    async def ask_helper(question: str) -> str:
        answer = await helper.run(question)
        return str(answer.output)

    agent.run_sync("Ask for help.")
    assert provider.force_flush()
    run = only_run(receiver.url)
    inner = ["agent helper", ["llm_call chat test"]]
    assert outline(run) == ["llm_call chat test", "tool_call ask_helper", inner, "llm_call chat test"]
    assert run["agent_name"] == "forecaster"
    (agent_step,) = (step for step in run["steps"] if step["step_type"] == "agent")
    calls = sum(step["tokens_used"] for step in run["steps"] if step["step_type"] == "llm_call")
    assert agent_step["tokens_used"], "the agent repeats what its calls used"
    assert run["tokens_used"] == calls
