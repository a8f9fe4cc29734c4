"""Spans of other emitters: each convention is decoded, and unknown attributes are kept.

The attributes were sent by the packages that each test names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.protocols.agentscope.decode import Patch, decode_batch
from agentscope.protocols.agentscope.fields import MAX_ID
from agentscope.protocols.ids import run_id_of, span_id_of
from agentscope.protocols.otlp.inbound.attribute_names import ALIASES, INPUTS, OF_RUN, OUTPUTS
from agentscope.protocols.otlp.inbound.attributes import MOST_KEPT
from agentscope.protocols.otlp.inbound.patches import MOST_EVENTS, patches_of, without_repeats
from agentscope.protocols.otlp.wire import json_form
from agentscope.protocols.otlp.wire import protobuf_form as protobuf
from agentscope.protocols.otlp.wire.model import (
    CLIENT,
    ERROR,
    INTERNAL,
    OK,
    SERVER,
    UNSET,
    Span,
    SpanEvent,
    SpanGroup,
    SpanLink,
    Value,
)
from agentscope.server.storage.fold import run_view
from tests.support.events import NOON
from tests.support.otlp import read_request

TRACE = "5b8efff798038103d269b633813fc60c"
RUN = run_id_of(TRACE)
ROOT, CHILD = "eee19b7ec3c1b174", "eee19b7ec3c1b175"
SECOND = 1_000_000_000
GROUP = SpanGroup({"service.name": "shop"}, "some.instrumentation", "1.0", [])

Attributes = Mapping[str, Value]


def span(name: str = "work", attributes: Attributes | None = None, parent: str = ROOT, **fields: Any) -> Span:
    """A finished span. It is a root if `parent` is empty."""
    own = CHILD if parent else ROOT
    made = Span(TRACE, own, parent, name, INTERNAL, NOON, NOON + SECOND, attributes or {}, UNSET)
    return made._replace(**fields)


def event(name: str, **attributes: Value) -> SpanEvent:
    return SpanEvent(name, NOON, {key.replace("__", "."): value for key, value in attributes.items()})


COMMON = {
    "kind": "INTERNAL",
    "scope": {"name": "some.instrumentation", "version": "1.0"},
    "resource": {"service.name": "shop"},
}
"""The `meta_data` of each span of `GROUP`."""


def step(name: str = "work", attributes: Attributes | None = None, **fields: Any) -> Mapping[str, Any]:
    """The step that a child span becomes, without the `meta_data` that all spans have."""
    patch = patches_of(span(name, attributes, **fields), GROUP)[-1]
    assert patch.step_id == CHILD
    return without_common(patch.fields)


def run(name: str = "work", attributes: Attributes | None = None, **fields: Any) -> Mapping[str, Any]:
    """The run that a root span becomes, without the `meta_data` that all spans have."""
    patch = patches_of(span(name, attributes, parent="", **fields), GROUP)[0]
    assert (patch.run_id, patch.step_id) == (RUN, None)
    return without_common(patch.fields)


def without_common(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = {name: part for name, part in fields["meta_data"].items() if name not in COMMON or COMMON[name] != part}
    others = {name: value for name, value in fields.items() if name != "meta_data"}
    return {**others, "meta_data": meta} if meta else others


# ---- kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"gen_ai.operation.name": "chat"}, "llm_call"),
        ({"gen_ai.operation.name": "text_completion"}, "llm_call"),
        ({"gen_ai.operation.name": "generate_content"}, "llm_call"),
        ({"gen_ai.operation.name": "embeddings"}, "llm_call"),
        ({"gen_ai.operation.name": "execute_tool"}, "tool_call"),
        ({"gen_ai.operation.name": "invoke_agent"}, "agent"),
        ({"gen_ai.operation.name": "invoke_workflow"}, "agent"),
        ({"gen_ai.operation.name": "invoke_swarm"}, "agent"),
        ({"gen_ai.operation.name": "retrieval"}, "retrieval"),
        ({"gen_ai.operation.name": "search_memory"}, "memory"),
        ({"gen_ai.operation.name": "delete_memory_store"}, "memory"),
        ({"gen_ai.operation.name": "plan"}, "reasoning"),
        ({"openinference.span.kind": "LLM"}, "llm_call"),
        ({"openinference.span.kind": "EMBEDDING"}, "llm_call"),
        ({"openinference.span.kind": "TOOL"}, "tool_call"),
        ({"openinference.span.kind": "AGENT"}, "agent"),
        ({"openinference.span.kind": "RETRIEVER"}, "retrieval"),
        ({"openinference.span.kind": "RERANKER"}, "retrieval"),
        ({"openinference.span.kind": "CHAIN"}, "other"),
        ({"openinference.span.kind": "GUARDRAIL"}, "other"),
        ({"openinference.span.kind": "EVALUATOR"}, "other"),
        ({"openinference.span.kind": "PROMPT"}, "other"),
        ({"openinference.span.kind": "UNKNOWN"}, "other"),
        ({"openinference.span.kind": "CHAIN", "llm.model_name": "m"}, "other"),
        ({"openinference.span.kind": "CHAIN", "gen_ai.operation.name": "execute_tool"}, "tool_call"),
        ({"span.type": "llm", "entity.type": "agent"}, "llm_call"),
        ({"span.type": "tool", "entity.type": "agent"}, "tool_call"),
        ({"span.type": "memory", "entity.type": "agent"}, "memory"),
        ({"span.type": "retriever", "entity.type": "agent"}, "retrieval"),
        ({"span.type": "summary"}, "other"),
        ({"span.type": "workflow-step"}, "other"),
        ({"span.type": "web"}, "other"),
        ({"span.type": "web", "gen_ai.tool.name": "search"}, "tool_call"),
        ({"entity.type": "agent"}, "agent"),
        ({"entity.type": "workflow"}, "other"),
        ({"traceloop.span.kind": "tool"}, "tool_call"),
        ({"traceloop.span.kind": "agent"}, "agent"),
        ({"traceloop.span.kind": "workflow"}, "other"),
        ({"traceloop.span.kind": "task"}, "other"),
        ({"llm.request.type": "chat"}, "llm_call"),
        ({"llm.request.type": "rerank"}, "retrieval"),
        ({"langfuse.observation.type": "generation"}, "llm_call"),
        ({"langfuse.observation.type": "tool"}, "tool_call"),
        ({"langfuse.observation.type": "retriever"}, "retrieval"),
        ({"langfuse.observation.type": "agent"}, "agent"),
        ({"langfuse.observation.type": "span", "gen_ai.operation.name": "invoke_agent"}, "agent"),
        ({"mlflow.spanType": '"CHAT_MODEL"'}, "llm_call"),
        ({"mlflow.spanType": "TOOL"}, "tool_call"),
        ({"langsmith.span.kind": "retriever"}, "retrieval"),
        ({"ai.operationId": "ai.generateText"}, "agent"),
        ({"ai.operationId": "ai.streamText.doStream"}, "llm_call"),
        ({"ai.operationId": "ai.toolCall"}, "tool_call"),
        ({"mcp.method.name": "tools/call"}, "tool_call"),
        ({"mcp.method.name": "resources/list"}, "other"),
        ({"gen_ai.tool.name": "search"}, "tool_call"),
        ({"gen_ai.system": "openai", "gen_ai.request.model": "gpt-4"}, "llm_call"),
        ({"http.request.method": "GET"}, "other"),
        ({"gen_ai.operation.name": 5}, "other"),
        ({}, "other"),
    ],
)
def test_the_type_of_a_step_is_read_from_any_convention(attributes: Attributes, kind: str) -> None:
    assert step(attributes=attributes)["step_type"] == kind


@pytest.mark.parametrize(
    ("name", "attributes", "told"),
    [
        ("execute_tool search", {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}, "search"),
        ("execute_tool search", {"gen_ai.operation.name": "execute_tool"}, "search"),
        ("running tool", {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}, "search"),
        ("tool.execution:search", {"span.type": "tool", "entity.name": "Support"}, "search"),
        ("tools/call add", {"mcp.method.name": "tools/call"}, "add"),
        ("MCP send tools/call add", {}, "add"),
        ("agent run", {"gen_ai.operation.name": "invoke_agent", "agent_name": "Writer"}, "Writer"),
        ("invoke_agent Writer", {"gen_ai.operation.name": "invoke_agent"}, "Writer"),
        ("subagent:Writer", {"entity.type": "agent", "entity.name": "Boss", "subagent.name": "Writer"}, "Writer"),
        ("Boss", {"entity.type": "agent", "entity.name": "Boss"}, "Boss"),
        ("llm:stream", {"span.type": "llm", "entity.type": "agent", "entity.name": "Boss"}, "llm:stream"),
        ("chat gpt-4", {"gen_ai.operation.name": "chat", "gen_ai.agent.name": "Boss"}, "chat gpt-4"),
        ("plan.task", {"traceloop.span.kind": "task", "traceloop.entity.name": "plan"}, "plan"),
        ("retrieval docs", {"gen_ai.operation.name": "retrieval"}, "docs"),
        ("query", {"openinference.span.kind": "RETRIEVER", "retriever.name": "docs"}, "docs"),
        ("GET /", {}, "GET /"),
        ("", {"gen_ai.operation.name": "chat"}, "llm_call"),
    ],
)
def test_a_step_is_named_after_its_tool_agent_or_source(name: str, attributes: Attributes, told: str) -> None:
    assert step(name, attributes)["name"] == told


# ---- content ---------------------------------------------------------------------------------------------------------


CONTENT: dict[str, dict[str, tuple[str, ...]]] = {
    "the conventions": {
        "input": ("gen_ai.input.messages", "gen_ai.tool.call.arguments", "gen_ai.retrieval.query.text"),
        "output": ("gen_ai.output.messages", "gen_ai.tool.call.result", "gen_ai.retrieval.documents"),
    },
    "the conventions before 1.28": {"input": ("gen_ai.prompt",), "output": ("gen_ai.completion",)},
    "memory": {"input": ("gen_ai.memory.query.text",), "output": ("gen_ai.memory.records",)},
    "OpenInference": {"input": ("input.value", "reranker.query"), "output": ("output.value",)},
    "VoltAgent": {"input": ("input", "llm.messages", "agent.messages"), "output": ("output",)},
    "OpenLLMetry": {
        "input": ("traceloop.entity.input", "mcp.request.argument", "gen_ai.task.input"),
        "output": ("traceloop.entity.output", "mcp.response.value", "gen_ai.task.output"),
    },
    "Langfuse": {
        "input": ("langfuse.observation.input", "langfuse.trace.input"),
        "output": ("langfuse.observation.output", "langfuse.trace.output"),
    },
    "MLflow": {"input": ("mlflow.spanInputs",), "output": ("mlflow.spanOutputs",)},
    "Pydantic AI": {"input": ("tool_arguments", "prompt"), "output": ("tool_response", "final_result")},
    "Google ADK": {
        "input": ("gcp.vertex.agent.llm_request", "gcp.vertex.agent.tool_call_args"),
        "output": ("gcp.vertex.agent.llm_response", "gcp.vertex.agent.tool_response"),
    },
    "Vercel AI SDK": {
        "input": ("ai.prompt", "ai.prompt.messages", "ai.toolCall.args", "ai.value"),
        "output": (
            *("ai.response.text", "ai.response.object", "ai.response.toolCalls", "ai.toolCall.result"),
            *("ai.result.text", "ai.result.object"),
        ),
    },
}


@pytest.mark.parametrize("emitter", list(CONTENT))
def test_content_is_found_under_the_names_of_each_emitter(emitter: str) -> None:
    for field, names in CONTENT[emitter].items():
        for name in names:
            told = step(attributes={name: '{"a": 1}'})
            assert told[field] == {"a": 1}, name
            assert name not in told.get("meta_data", {}), name


def test_every_name_of_content_is_some_emitters() -> None:
    tried = {name for names in CONTENT.values() for each in names.values() for name in each}
    assert tried == {*INPUTS, *OUTPUTS}


@pytest.mark.parametrize(
    ("attributes", "content"),
    [
        ({"input.value": "hi", "input.mime_type": "text/plain"}, "hi"),
        ({"input.value": '{"a": 1}', "input.mime_type": "text/plain"}, '{"a": 1}'),
        ({"input.value": '"hi"', "input.mime_type": "application/json"}, "hi"),
        ({"input.value": "21", "input.mime_type": "application/json"}, 21),
        ({"input.value": "21"}, "21"),
        ({"input.value": "not JSON", "input.mime_type": "application/json"}, "not JSON"),
        ({"input.value": "{broken"}, "{broken"),
        ({"input.value": '{"a": NaN, "b": 1e999}'}, {"a": "NaN", "b": "1e999"}),
        ({"input.value": '["\\ud800"]'}, '["\\ud800"]'),
        ({"input.value": "[" * 100 + "]" * 100}, "[" * 100 + "]" * 100),
        ({"mlflow.spanInputs": '"hi"'}, "hi"),
        ({"gen_ai.input.messages": [{"role": "user", "parts": []}]}, [{"role": "user", "parts": []}]),
        ({"input.value": "", "input": "hi"}, "hi"),
        ({"gcp.vertex.agent.tool_call_args": '{"a": 1}', "gcp.vertex.agent.llm_request": "{}"}, {"a": 1}),
        ({"gcp.vertex.agent.tool_call_args": "{}", "gcp.vertex.agent.llm_request": '{"b": 1}'}, {"b": 1}),
        ({"input": "{}"}, {}),
    ],
)
def test_content_that_is_json_is_parsed(attributes: Attributes, content: Any) -> None:
    assert step(attributes=attributes)["input"] == content


def test_openinference_messages_are_put_together_again() -> None:
    """openinference-instrumentation-openai 0.1.66, shortened."""
    told = step(
        "ChatCompletion",
        {
            "openinference.span.kind": "LLM",
            "llm.system": "openai",
            "llm.model_name": "gpt-4o-2026",
            "llm.invocation_parameters": '{"model": "gpt-4o", "temperature": 0.5}',
            "input.value": '{"messages": ["as the library has them"]}',
            "input.mime_type": "application/json",
            "output.value": '{"choices": []}',
            "output.mime_type": "application/json",
            "llm.input_messages.0.message.role": "system",
            "llm.input_messages.0.message.content": "Be brief.",
            "llm.input_messages.1.message.role": "user",
            "llm.input_messages.1.message.contents.0.message_content.type": "text",
            "llm.input_messages.1.message.contents.0.message_content.text": "hi",
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.tool_calls.0.tool_call.id": "call_2",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "get_weather",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"city": "Paris"}',
            "llm.tools.0.tool.json_schema": '{"type": "function"}',
            "llm.token_count.prompt": 11,
            "llm.token_count.completion": 7,
            "llm.token_count.total": 18,
            "llm.token_count.prompt_details.cache_read": 3,
            "llm.finish_reason": "tool_calls",
        },
    )
    assert told["input"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "contents": [{"type": "text", "text": "hi"}]},
    ]
    call = {"id": "call_2", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    assert told["output"] == [{"role": "assistant", "tool_calls": [call]}]
    assert told["usage"] == {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18, "cache_read_tokens": 3}
    assert told["meta_data"] == {
        "llm.invocation_parameters": {"model": "gpt-4o", "temperature": 0.5},
        "finish_reasons": ["tool_calls"],
        "tools": [{"json_schema": {"type": "function"}}],
    }


def test_openinference_documents_are_put_together_again() -> None:
    """openinference-instrumentation-langchain and -llama-index."""
    told = step(
        "VectorStoreRetriever",
        {
            "openinference.span.kind": "RETRIEVER",
            "input.value": "what",
            "output.value": '{"documents": ["as the library has them"]}',
            "retrieval.documents.0.document.content": "one",
            "retrieval.documents.0.document.metadata": '{"document": "a.md"}',
            "retrieval.documents.0.document.score": 0.5,
            "retrieval.documents.10.document.content": "eleven",
            "retrieval.documents.2.document.content": "three",
        },
    )
    assert told["input"] == "what"
    assert told["output"] == [
        {"content": "one", "metadata": {"document": "a.md"}, "score": 0.5},
        {"content": "three"},
        {"content": "eleven"},
    ]
    assert "meta_data" not in told


def test_openinference_embeddings_are_kept_without_their_vectors() -> None:
    attributes: Attributes = {
        "openinference.span.kind": "EMBEDDING",
        "embedding.model_name": "small",
        "embedding.embeddings.0.embedding.text": "a",
        "embedding.embeddings.0.embedding.vector": [0.1] * 2000,
    }
    told = step("CreateEmbeddings", attributes)
    assert (told["step_type"], told["input"], told["model"]) == ("llm_call", [{"text": "a"}], "small")


def test_openinference_rerankers_are_retrievals() -> None:
    told = step(
        "rerank",
        {
            "openinference.span.kind": "RERANKER",
            "reranker.query": "q",
            "reranker.model_name": "m",
            "reranker.input_documents.0.document.id": "1",
            "reranker.output_documents.0.document.id": "1",
            "reranker.output_documents.0.document.score": 0.9,
        },
    )
    assert (told["input"], told["output"]) == ("q", [{"id": "1", "score": 0.9}])


def test_prompts_of_openllmetry_before_it_had_messages() -> None:
    """opentelemetry-instrumentation-openai before 0.50."""
    told = step(
        "openai.chat",
        {
            "llm.request.type": "chat",
            "gen_ai.system": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.response.model": "gpt-4o-2026",
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": "hi",
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.finish_reason": "tool_calls",
            "gen_ai.completion.0.tool_calls.0.id": "c1",
            "gen_ai.completion.0.tool_calls.0.name": "get_weather",
            "gen_ai.completion.0.tool_calls.0.arguments": '{"city": "Paris"}',
            "gen_ai.usage.prompt_tokens": 11,
            "gen_ai.usage.completion_tokens": 7,
            "llm.usage.total_tokens": 18,
            "gen_ai.prompt.name": "greeting",
        },
    )
    assert told["input"] == [{"role": "user", "content": "hi"}]
    calls = [{"id": "c1", "name": "get_weather", "arguments": {"city": "Paris"}}]
    assert told["output"] == [{"role": "assistant", "finish_reason": "tool_calls", "tool_calls": calls}]
    assert told["usage"] == {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
    assert told["meta_data"] == {"gen_ai.prompt.name": "greeting", "gen_ai.request.model": "gpt-4o"}
    assert (told["model"], told["provider"]) == ("gpt-4o-2026", "openai")


def test_entities_of_traceloop_tell_name_and_content() -> None:
    attributes = {
        "traceloop.span.kind": "tool",
        "traceloop.entity.name": "search",
        "traceloop.entity.input": '{"args": ["q"], "kwargs": {}}',
        "traceloop.entity.output": '"found"',
        "traceloop.workflow.name": "joke_creation",
        "traceloop.association.properties.user_id": "u1",
        "traceloop.association.properties.plan": "free",
    }
    told = step("search.tool", attributes)
    assert (told["name"], told["input"], told["output"]) == ("search", {"args": ["q"], "kwargs": {}}, "found")
    assert told["meta_data"] == {"plan": "free"}
    assert patches_of(span("search.tool", attributes), GROUP)[0].fields["user_id"] == "u1"


def test_message_events_of_the_conventions_before_1_37() -> None:
    """strands-agents and opentelemetry-instrumentation-openai-v2: an event for each message, content as JSON."""
    told = step(
        "chat",
        {"gen_ai.operation.name": "chat", "gen_ai.system": "strands-agents", "gen_ai.request.model": "m"},
        events=(
            event("gen_ai.system.message", content="Be brief.", gen_ai__system="aws.bedrock"),
            event("gen_ai.user.message", content='[{"text": "hi"}]'),
            event("gen_ai.assistant.message", content="", tool_calls='[{"id": "c1"}]'),
            event("gen_ai.tool.message", content='[{"toolResult": 1}]'),
            event("gen_ai.choice", finish_reason="end_turn", message='[{"text": "hello"}]'),
        ),
    )
    assert told["input"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"text": "hi"}]},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1"}]},
        {"role": "tool", "content": [{"toolResult": 1}]},
    ]
    assert told["output"] == {"role": "assistant", "content": [{"text": "hello"}], "finish_reason": "end_turn"}
    assert "meta_data" not in told


def test_a_choice_may_hold_its_message_as_an_object_or_beside_it() -> None:
    for choice in (
        event("gen_ai.choice", index=0, message='{"role": "assistant", "content": "x"}', finish_reason="stop"),
        event("gen_ai.choice", index=0, content="x", finish_reason="stop"),
    ):
        told = step("chat", {"gen_ai.operation.name": "chat"}, events=(choice,))
        assert told["output"] == {"role": "assistant", "content": "x", "finish_reason": "stop"}


def test_several_choices_are_a_list() -> None:
    choices = tuple(event("gen_ai.choice", index=at, content=text) for at, text in enumerate("ab"))
    told = step("chat", {"gen_ai.operation.name": "chat"}, events=choices)
    assert [choice["content"] for choice in told["output"]] == ["a", "b"]


def test_one_event_may_hold_all_messages() -> None:
    """strands-agents with OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental."""
    asked = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "hi"}]}])
    said = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "yo"}], "finish_reason": "stop"}])
    details = "gen_ai.client.inference.operation.details"
    told = step(
        "chat",
        {"gen_ai.operation.name": "chat"},
        events=(event(details, gen_ai__input__messages=asked), event(details, gen_ai__output__messages=said)),
    )
    assert (told["input"], told["output"]) == (json.loads(asked), json.loads(said)[0])


def test_the_call_of_a_tool_is_unwrapped_from_its_messages() -> None:
    """strands-agents, in the old and in the new form."""
    old = (
        event("gen_ai.tool.message", role="tool", content='{"city": "Paris"}', id="c1"),
        event("gen_ai.choice", message='[{"text": "21"}]', id="c1"),
    )
    call = [{"role": "tool", "parts": [{"type": "tool_call", "name": "w", "id": "c1", "arguments": {"city": "Paris"}}]}]
    result = [{"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": [{"text": "21"}]}]}]
    details = "gen_ai.client.inference.operation.details"
    new = (
        event(details, gen_ai__input__messages=json.dumps(call)),
        event(details, gen_ai__output__messages=json.dumps(result)),
    )
    for events in (old, new):
        told = step("execute_tool w", {"gen_ai.operation.name": "execute_tool"}, events=events)
        assert (told["input"], told["output"]) == ({"city": "Paris"}, [{"text": "21"}])


def test_prompt_and_completion_events_of_semantic_kernel_and_azure() -> None:
    told = step(
        "chat",
        {"gen_ai.operation.name": "chat"},
        events=(
            event("gen_ai.content.prompt", gen_ai__prompt='[{"role": "user", "content": "hi"}]'),
            event("gen_ai.content.completion", gen_ai__completion='[{"role": "assistant", "content": "yo"}]'),
        ),
    )
    assert told["input"] == [{"role": "user", "content": "hi"}]
    assert told["output"] == {"role": "assistant", "content": "yo"}
    told = step(
        "chat",
        {"gen_ai.operation.name": "chat"},
        events=(event("gen_ai.prompt", role="user", content="hi"), event("gen_ai.completion", content="yo")),
    )
    assert (told["input"], told["output"]) == ([{"role": "user", "content": "hi"}], "yo")


def test_pydantic_ai_tells_the_conversation_of_an_agent_as_one_list() -> None:
    """pydantic-ai-slim 2.68, formats 2 to 5: what was asked is the input, and the final result the output."""
    messages = [
        {"role": "user", "parts": [{"type": "text", "content": "before"}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "earlier answer"}]},
        {"role": "user", "parts": [{"type": "text", "content": "now"}]},
        {"role": "assistant", "parts": [{"type": "tool_call"}]},
        {"role": "user", "parts": [{"type": "tool_call_response"}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "done"}]},
    ]
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": "invoke_agent",
        "model_name": "test",
        "agent_name": "weather agent",
        "gen_ai.agent.name": "weather agent",
        "pydantic_ai.all_messages": json.dumps(messages),
        "pydantic_ai.new_message_index": 2,
        "gen_ai.aggregated_usage.input_tokens": 114,
        "gen_ai.aggregated_usage.output_tokens": 28,
        "logfire.json_schema": '{"type":"object"}',
    }
    told = run("agent run", attributes)
    assert told["input"] == messages[:3]
    assert told["output"] == messages[-1]
    assert told["usage"] == {"input_tokens": 114, "output_tokens": 28}
    assert told["agent_name"] == "weather agent"
    assert (told["model"], "meta_data" in told) == ("test", False)
    assert run("agent run", {**attributes, "final_result": '{"answer": 5}'})["output"] == {"answer": 5}


def test_events_in_one_attribute_of_older_pydantic_ai_are_read() -> None:
    """pydantic-ai 0.x and 1.x, format 1."""
    asked = {"content": "hi", "role": "user", "gen_ai.message.index": 0, "event.name": "gen_ai.user.message"}
    choice = {"index": 0, "message": {"role": "assistant", "content": "yo"}, "event.name": "gen_ai.choice"}
    told = step("chat m", {"gen_ai.operation.name": "chat", "events": json.dumps([asked, choice])})
    assert told["input"] == [{"role": "user", "content": "hi"}]
    assert told["output"] == {"role": "assistant", "content": "yo"}
    assert "meta_data" not in told
    answer = {"role": "assistant", "content": "yo", "event.name": "gen_ai.assistant.message"}
    told = step("agent run", {"agent_name": "a", "all_messages_events": json.dumps([asked, answer])})
    assert (told["input"], told["output"]) == ([asked], answer)


def test_pydantic_ai_called_arguments_and_response_of_tools_differently_before() -> None:
    attributes = {
        "gen_ai.tool.name": "f",
        "tool_arguments": '{"x":0}',
        "tool_response": "x",
        "gen_ai.tool.call.id": "c",
    }
    told = step("running tool", attributes)
    assert (told["step_type"], told["name"], told["input"], told["output"]) == ("tool_call", "f", {"x": 0}, "x")


def test_voltagent_tells_usage_and_content_under_its_own_names() -> None:
    """@voltagent/core: children inherit the entity of their agent."""
    common: Attributes = {"entity.type": "agent", "entity.id": "a1", "entity.name": "Support", "operation.id": "o"}
    told = step(
        "llm:streamText",
        {
            **common,
            "span.type": "llm",
            "llm.model": "gpt-4o",
            "llm.messages": '[{"role": "user", "content": "hi"}]',
            "output": "yo",
            "llm.usage.prompt_tokens": 150,
            "llm.usage.completion_tokens": 85,
            "llm.usage.total_tokens": 235,
            "llm.usage.cached_tokens": 5,
            "llm.usage.reasoning_tokens": 4,
        },
        status=OK,
    )
    assert (told["step_type"], told["name"], told["status"]) == ("llm_call", "llm:streamText", "completed")
    assert (told["input"], told["output"]) == ([{"role": "user", "content": "hi"}], "yo")
    assert told["usage"] == {
        "input_tokens": 150,
        "output_tokens": 85,
        "total_tokens": 235,
        "cache_read_tokens": 5,
        "reasoning_tokens": 4,
    }
    told = run(
        "Support",
        {
            **common,
            "user.id": "u",
            "conversation.id": "c",
            "input": "hi",
            "usage.total_tokens": 235,
            "agent.state": "completed",
        },
    )
    assert (told["agent_name"], told["user_id"], told["conversation_id"]) == ("Support", "u", "c")
    assert (told["input"], told["usage"]) == ("hi", {"total_tokens": 235})


def test_langfuse_tells_observations_and_traces() -> None:
    """langfuse 5.0: metadata values are JSON, strings included; before, they were bare."""
    common: Attributes = {
        "user.id": "u1",
        "session.id": "s1",
        "langfuse.trace.name": "chat-trace",
        "langfuse.trace.tags": ["t"],
        "langfuse.trace.metadata.plan": '"free"',
    }
    generation: Attributes = {
        "langfuse.observation.type": "generation",
        "langfuse.observation.model.name": "gpt-4o",
        "langfuse.observation.input": '[{"role": "user", "content": "hi"}]',
        "langfuse.observation.output": "hello",
        "langfuse.observation.usage_details": '{"input": 3, "output": 4, "total": 7, "input_cached_tokens": 1}',
        "langfuse.observation.metadata.x": "bare",
    }
    told = step("gen", {**common, **generation})
    assert (told["input"], told["output"]) == ([{"role": "user", "content": "hi"}], "hello")
    assert told["usage"] == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "cache_read_tokens": 1}
    assert (told["meta_data"], told["model"]) == ({"x": "bare"}, "gpt-4o")
    told = run("handle", {**common, "langfuse.observation.type": "agent", "langfuse.observation.output": '{"r": 2}'})
    assert (told["agent_name"], told["tags"], told["output"]) == ("chat-trace", ["t"], {"r": 2})
    assert told["meta_data"] == {"plan": "free", "span_name": "handle"}


def test_langfuse_levels_tell_of_failure() -> None:
    attributes = {"langfuse.observation.level": "ERROR", "langfuse.observation.status_message": "bad"}
    told = step("search", attributes)
    assert (told["status"], told["error"]) == ("failed", {"message": "bad"})


def test_mlflow_tells_everything_as_json() -> None:
    told = step(
        "predict",
        {
            "mlflow.spanType": '"TOOL"',
            "mlflow.spanInputs": '{"x": 1}',
            "mlflow.spanOutputs": "2",
            "mlflow.chat.tokenUsage": '{"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}',
            "mlflow.traceRequestId": '"tr-1"',
        },
    )
    assert (told["step_type"], told["input"], told["output"]) == ("tool_call", {"x": 1}, 2)
    assert told["usage"] == {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    assert "meta_data" not in told


def test_scalars_that_mlflow_wrote_as_json_have_no_quotes() -> None:
    attributes = {
        "mlflow.spanType": '"CHAT_MODEL"',
        "mlflow.spanFunctionName": '"predict"',
        "mlflow.llm.model": '"gpt-4o"',
        "session.id": '"s1"',
        "mine": '"a \\"quoted\\" word"',
        "top_k": "3",
        "flag": "true",
        "none": "null",
        "list": "[1]",
        "broken": '"a" or "b"',
    }
    told = step("predict", attributes)
    assert told["model"] == "gpt-4o"
    assert patches_of(span("predict", attributes), GROUP)[0].fields["conversation_id"] == "s1"
    assert told["meta_data"] == {
        "mlflow.spanFunctionName": "predict",
        "mine": 'a "quoted" word',
        "top_k": 3,
        "flag": True,
        "none": None,
        "list": [1],
        "broken": '"a" or "b"',
    }


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("traceloop.entity.output", "output"),
        ("ai.toolCall.args", "input"),
        ("ai.toolCall.result", "output"),
        ("gen_ai.tool.call.result", "output"),
        ("langfuse.observation.output", "output"),
        ("mlflow.spanOutputs", "output"),
    ],
)
def test_a_text_that_its_sender_wrote_as_json_has_no_quotes(name: str, field: str) -> None:
    assert step(attributes={name: '"sunny"'})[field] == "sunny"


def test_quotes_that_belong_to_a_text_are_left() -> None:
    assert step(attributes={"output.value": '"Hi", she said', "quote": '"Hi"'})["meta_data"] == {"quote": '"Hi"'}
    assert step(attributes={"ai.response.text": '"Hi"'})["output"] == '"Hi"'
    assert step(attributes={"gen_ai.tool.call.result": "5"})["output"] == "5"


def test_mcp_calls_of_server_and_client() -> None:
    """mcp 2.3."""
    attributes = {"mcp.method.name": "tools/call", "gen_ai.tool.name": "add", "error.type": "tool_error"}
    told = step("tools/call add", attributes, kind=CLIENT)
    assert (told["step_type"], told["name"], told["status"]) == ("tool_call", "add", "failed")
    assert told["error"] == {"type": "tool_error"}
    assert step("MCP send tools/call add")["step_type"] == "tool_call"


def test_memory_of_the_new_conventions() -> None:
    told = step(
        "search_memory",
        {
            "gen_ai.operation.name": "search_memory",
            "gen_ai.memory.store.id": "prefs",
            "gen_ai.memory.query.text": "food",
            "gen_ai.memory.records": '[{"content": "vegetarian", "id": "m1"}]',
        },
    )
    assert (told["input"], told["output"]) == ("food", [{"content": "vegetarian", "id": "m1"}])
    assert told["meta_data"] == {"gen_ai.memory.store.id": "prefs"}


# ---- tokens ----------------------------------------------------------------------------------------------------------


COUNTS = {
    "the conventions": {
        "input": "gen_ai.usage.input_tokens",
        "output": "gen_ai.usage.output_tokens",
        "cache_read": "gen_ai.usage.cache_read.input_tokens",
        "cache_write": "gen_ai.usage.cache_write.input_tokens",
        "reasoning": "gen_ai.usage.reasoning.output_tokens",
    },
    "the conventions before 1.28": {"input": "gen_ai.usage.prompt_tokens", "output": "gen_ai.usage.completion_tokens"},
    "the conventions from 1.40 to 1.42": {"cache_write": "gen_ai.usage.cache_creation.input_tokens"},
    "strands-agents": {
        "total": "gen_ai.usage.total_tokens",
        "cache_read": "gen_ai.usage.cache_read_input_tokens",
        "cache_write": "gen_ai.usage.cache_write_input_tokens",
    },
    "OpenLLMetry": {
        "total": "llm.usage.total_tokens",
        "cache_write": "gen_ai.usage.cache_creation_input_tokens",
        "reasoning": "gen_ai.usage.reasoning_tokens",
    },
    "OpenInference": {
        "input": "llm.token_count.prompt",
        "output": "llm.token_count.completion",
        "total": "llm.token_count.total",
        "cache_read": "llm.token_count.prompt_details.cache_read",
        "cache_write": "llm.token_count.prompt_details.cache_write",
        "reasoning": "llm.token_count.completion_details.reasoning",
    },
    "VoltAgent's calls of models": {
        "input": "llm.usage.prompt_tokens",
        "output": "llm.usage.completion_tokens",
        "cache_read": "llm.usage.cached_tokens",
        "reasoning": "llm.usage.reasoning_tokens",
    },
    "VoltAgent's agents": {
        "input": "usage.prompt_tokens",
        "output": "usage.completion_tokens",
        "total": "usage.total_tokens",
        "cache_read": "usage.cached_tokens",
        "reasoning": "usage.reasoning_tokens",
    },
    "Pydantic AI's agents": {
        "input": "gen_ai.aggregated_usage.input_tokens",
        "output": "gen_ai.aggregated_usage.output_tokens",
        "cache_read": "gen_ai.aggregated_usage.cache_read.input_tokens",
    },
    "Pydantic AI's details": {
        "cache_read": "gen_ai.usage.details.cached_tokens",
        "cache_write": "gen_ai.usage.details.cache_creation_input_tokens",
        "reasoning": "gen_ai.usage.details.reasoning_tokens",
    },
    "Vercel AI SDK": {
        "input": "ai.usage.inputTokens",
        "output": "ai.usage.outputTokens",
        "total": "ai.usage.totalTokens",
        "cache_read": "ai.usage.cachedInputTokens",
        "reasoning": "ai.usage.reasoningTokens",
    },
    "Vercel AI SDK before 5": {
        "input": "ai.usage.promptTokens",
        "output": "ai.usage.completionTokens",
        "total": "ai.usage.tokens",
    },
}


@pytest.mark.parametrize("emitter", list(COUNTS))
def test_tokens_are_counted_under_the_names_of_each_emitter(emitter: str) -> None:
    for field, name in COUNTS[emitter].items():
        told = step("chat", {"gen_ai.operation.name": "chat", name: 5})
        assert told["usage"] == {f"{field}_tokens": 5}, name
        assert "meta_data" not in told, name


TOKENS = {
    "input": (
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.prompt_tokens",
        "llm.token_count.prompt",
        "llm.usage.prompt_tokens",
        "llm.usage.input_tokens",
        "usage.prompt_tokens",
        "usage.input_tokens",
        "ai.usage.inputTokens",
        "ai.usage.promptTokens",
        "gen_ai.aggregated_usage.input_tokens",
    ),
    "output": (
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.token_count.completion",
        "llm.usage.completion_tokens",
        "llm.usage.output_tokens",
        "usage.completion_tokens",
        "usage.output_tokens",
        "ai.usage.outputTokens",
        "ai.usage.completionTokens",
        "gen_ai.aggregated_usage.output_tokens",
    ),
    "total": (
        "gen_ai.usage.total_tokens",
        "llm.token_count.total",
        "llm.usage.total_tokens",
        "usage.total_tokens",
        "ai.usage.totalTokens",
        "ai.usage.tokens",
        "gen_ai.aggregated_usage.total_tokens",
    ),
    "cache_read": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.cache_read_tokens",
        "gen_ai.usage.cached_input_tokens",
        "gen_ai.usage.cached_tokens",
        "llm.token_count.prompt_details.cache_read",
        "llm.usage.cached_tokens",
        "llm.usage.cache_read_input_tokens",
        "usage.cached_tokens",
        "ai.usage.cachedInputTokens",
        "gen_ai.aggregated_usage.cache_read.input_tokens",
        "gen_ai.usage.details.cache_read_input_tokens",
        "gen_ai.usage.details.cache_read_tokens",
        "gen_ai.usage.details.cached_tokens",
    ),
    "cache_write": (
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_write_input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.cache_write_tokens",
        "gen_ai.usage.cache_creation_tokens",
        "llm.token_count.prompt_details.cache_write",
        "llm.usage.cache_creation_input_tokens",
        "gen_ai.aggregated_usage.cache_write.input_tokens",
        "gen_ai.aggregated_usage.cache_creation.input_tokens",
        "gen_ai.usage.details.cache_creation_input_tokens",
        "gen_ai.usage.details.cache_write_tokens",
    ),
    "reasoning": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
        "llm.usage.reasoning_tokens",
        "usage.reasoning_tokens",
        "ai.usage.reasoningTokens",
        "gen_ai.aggregated_usage.reasoning.output_tokens",
        "gen_ai.usage.details.reasoning_tokens",
    ),
}


@pytest.mark.parametrize("field", list(TOKENS))
def test_tokens_are_counted_under_every_other_name(field: str) -> None:
    for name in TOKENS[field]:
        assert step("chat", {name: 5})["usage"] == {f"{field}_tokens": 5}, name


@pytest.mark.parametrize(
    ("value", "told"), [(5.0, 5), ("5", 5), (0, 0), ("five", None), (-1, None), (True, None), (0.5, None)]
)
def test_counts_come_as_numbers_of_any_kind(value: Value, told: int | None) -> None:
    usage = step("chat", {"gen_ai.usage.input_tokens": value}).get("usage")
    assert usage == (None if told is None else {"input_tokens": told})


def test_the_older_name_of_a_count_gives_way_to_the_newer() -> None:
    attributes = {"gen_ai.usage.prompt_tokens": 1, "gen_ai.usage.input_tokens": 2}
    told = step("chat", attributes)
    assert told["usage"] == {"input_tokens": 2}
    assert "meta_data" not in told


@pytest.mark.parametrize("field", list(TOKENS))
def test_the_count_of_one_name_is_taken_whatever_the_order_of_the_attributes(field: str) -> None:
    given = {name: place + 1 for place, name in enumerate(TOKENS[field])}
    expected = step("chat", given)["usage"]
    assert step("chat", dict(reversed(given.items())))["usage"] == expected


@pytest.mark.parametrize("name", ["gen_ai.usage.cost", "usage.tokens_per_second", "gen_ai.usage.details.input_tokens"])
def test_a_number_beside_the_counts_stays_in_meta_data_or_has_a_field_of_its_own(name: str) -> None:
    assert "usage" not in step("chat", {name: 5})


# ---- outcome ---------------------------------------------------------------------------------------------------------


def test_an_exception_event_is_the_error() -> None:
    exception = event(
        "exception", exception__type="ValueError", exception__message="nope", exception__stacktrace="Traceback …"
    )
    told = step(status=ERROR, status_message="ValueError: nope", events=(exception,))
    assert told["status"] == "failed"
    assert told["error"] == {"type": "ValueError", "message": "nope", "traceback": "Traceback …"}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"status": ERROR, "status_message": "no"}, {"message": "no"}),
        (
            {"status": ERROR, "attributes": {"error.type": "timeout"}, "status_message": "late"},
            {"type": "timeout", "message": "late"},
        ),
        (
            {"status": ERROR, "attributes": {"error.type": "E", "error.message": "m", "error.stack": "at …"}},
            {"type": "E", "message": "m", "traceback": "at …"},
        ),
        ({"status": ERROR}, None),
    ],
)
def test_a_failure_is_read_from_status_and_attributes(fields: dict[str, Any], error: Any) -> None:
    told = step(**fields)
    assert (told["status"], told.get("error")) == ("failed", error)


def test_an_exception_that_was_handled_is_no_failure() -> None:
    told = step(status=UNSET, events=(event("exception", exception__type="KeyError"),))
    assert told["status"] == "completed"
    assert "error" not in told
    assert told["meta_data"] == {"exception": {"type": "KeyError"}}


def test_a_span_that_has_not_ended_is_a_start() -> None:
    unfinished = span(end_ns=0)
    (patch,) = patches_of(unfinished, GROUP)
    assert (patch.type, patch.fields["status"], patch.time) == ("step.start", "running", "2026-01-31T12:00:00.000000Z")
    assert "ended_at" not in patch.fields
    assert patches_of(span(parent="", end_ns=0), GROUP)[0].type == "run.start"


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_root_that_is_an_agent_is_the_run() -> None:
    (patch,) = patches_of(span("invoke_agent A", {"gen_ai.operation.name": "invoke_agent"}, parent=""), GROUP)
    assert (patch.type, patch.run_id, patch.step_id) == ("run.end", RUN, None)
    assert patch.fields["agent_name"] == "A"
    assert patch.fields["source"] == "some.instrumentation"
    assert patch.fields["started_at"] == "2026-01-31T12:00:00.000000Z"
    assert patch.fields["ended_at"] == patch.time == "2026-01-31T12:00:01.000000Z"
    assert patch.fields["meta_data"] == COMMON


def test_steps_below_a_root_that_is_the_run_hang_directly_in_it() -> None:
    inner = span("execute_tool t", {"gen_ai.tool.name": "t"}, parent=CHILD, span_id="eee19b7ec3c1b176")
    spans = [inner, span("chat", {"gen_ai.operation.name": "chat"}), span("root", parent="")]
    view = run_view(RUN, [patch for each in spans for patch in patches_of(each, GROUP)])
    shown = {each["name"]: (each["parent_id"], "unattached_parent_id" in each) for each in view["steps"]}
    assert shown == {"chat": (None, False), "t": (CHILD, False)}
    assert (view["agent_name"], view["status"]) == ("root", "completed")


def test_a_root_that_is_a_call_of_a_model_is_a_run_and_its_step() -> None:
    """anthropic 2.11 with nothing around it."""
    attributes: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.cache_write.input_tokens": 0,
        "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"hi"}]}]',
    }
    root = span("anthropic.messages.create", attributes, parent="")
    view = run_view(RUN, patches_of(root, GROUP))
    assert (view["agent_name"], view["tokens_used"], view["step_count"]) == ("anthropic.messages.create", 18, 1)
    (only,) = view["steps"]
    assert (only["id"], only["parent_id"], only["step_type"]) == (ROOT, None, "llm_call")
    assert only["input"] == view["input"] == [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]
    assert view["usage"] is None, "the usage of the step would be that of the run as well"


def test_agents_that_repeat_the_usage_of_their_calls_do_not_count_twice() -> None:
    """strands-agents and agent-framework."""
    agent: Attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 5}
    spans = [
        span("invoke_agent A", agent, parent=""),
        span("chat", {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 5}),
        span("invoke_agent B", agent, span_id="eee19b7ec3c1b177"),
    ]
    view = run_view(RUN, [patch for each in spans for patch in patches_of(each, GROUP)])
    assert view["tokens_used"] == 5


NAMED = {
    "user_id": [
        *("user.id", "enduser.id", "langfuse.user.id", "gen_ai.user", "llm.user"),
        *("traceloop.association.properties.user_id", "ai.telemetry.metadata.userId", "langsmith.metadata.user_id"),
    ],
    "conversation_id": [
        *("gen_ai.conversation.id", "conversation.id", "session.id", "langfuse.session.id"),
        *("traceloop.association.properties.session_id", "traceloop.association.properties.conversation_id"),
        *("voltagent.conversation_id", "gcp.vertex.agent.session_id", "ai.telemetry.metadata.sessionId"),
        *("langsmith.metadata.thread_id", "langsmith.metadata.session_id", "langsmith.metadata.conversation_id"),
    ],
}


def test_every_name_of_users_and_conversations_is_tried() -> None:
    for field, names in NAMED.items():
        assert set(ALIASES[field]) < set(names) < set(OF_RUN)


@pytest.mark.parametrize(("field", "names"), NAMED.items())
def test_a_step_that_names_user_and_conversation_tells_them_to_the_run(field: str, names: Sequence[str]) -> None:
    for name in names:
        update, patch = patches_of(span(attributes={name: "x"}), GROUP)
        assert (update.type, update.step_id, update.fields[field]) == ("run.update", None, "x"), name
        assert update.time == "2026-01-31T12:00:00.000000Z", "what the root says has to count over it"
        assert patch.step_id == CHILD
        assert run(attributes={name: "x"})[field] == "x"


@pytest.mark.parametrize("value", [["a", "b"], '["a", "b"]', "a, b"])
def test_tags_come_in_any_form(value: Value) -> None:
    for name in ("tag.tags", "langfuse.trace.tags"):
        assert run(attributes={name: value})["tags"] == ["a", "b"]


def test_a_user_repeated_on_many_spans_is_stored_once() -> None:
    spans = [span(attributes={"user.id": "u"}, span_id=f"{at:016x}", start_ns=NOON + at) for at in (1, 2000, 3000)]
    other = span(attributes={"user.id": "v"})
    patches = [patch for each in (*spans, other) for patch in patches_of(each, GROUP)]
    kept = without_repeats(patches)
    assert [patch.fields["user_id"] for patch in kept if patch.type == "run.update"] == ["u", "v"]
    assert [patch for patch in kept if patch.type == "step"] == [patch for patch in patches if patch.type == "step"]


def test_a_parent_that_is_the_run_itself_is_none() -> None:
    assert step(parent=span_id_of(RUN))["parent_id"] is None
    assert step(parent=ROOT)["parent_id"] == ROOT
    assert run(parent_span_id="0" * 16)["parent_id"] is None


# ---- unknown attributes ----------------------------------------------------------------------------------------------


def test_unknown_attributes_are_kept_under_their_own_names() -> None:
    odd: Attributes = {
        "http.route": "/v1",
        "numbers": [1, 2.5, float("nan"), float("inf")],
        "raw": b"\x00\xff",
        "nested": {"a": [True, None, {"b": 1}]},
        "empty": None,
        "json": '{"a": 1}',
    }
    assert step(attributes=odd)["meta_data"] == {
        "http.route": "/v1",
        "numbers": [1, 2.5, "nan", "inf"],
        "raw": "AP8=",
        "nested": {"a": [True, None, {"b": 1}]},
        "empty": None,
        "json": {"a": 1},
    }


def test_openinference_metadata_is_meta_data() -> None:
    assert step(attributes={"metadata": '{"a": 1}', "b": 2})["meta_data"] == {"a": 1, "b": 2}
    assert step(attributes={"metadata": "no object"})["meta_data"] == {"metadata": "no object"}


def test_only_so_many_attributes_and_events_are_kept() -> None:
    attributes = {f"key.{number}": number for number in range(MOST_KEPT + 5)}
    events = tuple(event(f"event {number}", n=number) for number in range(MOST_EVENTS + 5))
    meta = step(attributes=attributes, events=events)["meta_data"]
    assert (meta["agentscope.attributes_left_out"], meta["events_left_out"]) == (5, 5)
    assert len(meta) == MOST_KEPT + 3
    assert len(meta["events"]) == MOST_EVENTS
    assert meta["events"][3] == {"name": "event 3", "time": "2026-01-31T12:00:00.000000Z", "attributes": {"n": 3}}


# ---- the parts of a span that are no attributes -----------------------------------------------------------------------


def test_resource_scope_kind_trace_state_links_and_counts_of_every_span_are_kept() -> None:
    group = SpanGroup({"service.name": "rag"}, "be", "1.2", [], {"team": "search"})
    link = SpanLink("a" * 32, "b" * 16, {"why": "batch"}, "x=y", 7)
    parts: dict[str, Any] = {
        "kind": SERVER,
        "trace_state": "a=b",
        "links": (link,),
        "dropped_attributes": 5,
        "dropped_events": 6,
        "dropped_links": 8,
    }
    kept = {
        "resource": {"service.name": "rag"},
        "scope": {"name": "be", "version": "1.2", "attributes": {"team": "search"}},
        "kind": "SERVER",
        "trace_state": "a=b",
        "links": [
            {
                "trace_id": "a" * 32,
                "span_id": "b" * 16,
                "trace_state": "x=y",
                "attributes": {"why": "batch"},
                "dropped_attributes_count": 7,
            }
        ],
        "dropped_attributes_count": 5,
        "dropped_events_count": 6,
        "dropped_links_count": 8,
    }
    for parent in (ROOT, ""):
        (patch,) = patches_of(span(parent=parent, **parts), group)
        assert patch.fields["meta_data"] == kept
    both: Attributes = {"gen_ai.operation.name": "chat"}  # a root that is a run and a step
    run_patch, step_patch = patches_of(span(attributes=both, parent="", **parts), group)
    assert run_patch.fields["meta_data"] == {"resource": kept["resource"]}
    assert step_patch.fields["meta_data"] == kept


def test_an_attribute_with_the_name_of_a_part_is_kept_beside_it() -> None:
    meta = step(attributes={"kind": "mine", "metadata": '{"links": 3}'}, links=(SpanLink("a", "b", {}),))["meta_data"]
    assert (meta["kind"], meta["otlp.kind"]) == ("mine", "INTERNAL")
    assert (meta["links"], meta["otlp.links"]) == (3, [{"trace_id": "a", "span_id": "b"}])


def test_links_beyond_the_bound_are_counted() -> None:
    meta = step(links=[SpanLink("a", f"{number}", {}) for number in range(MOST_EVENTS + 3)])["meta_data"]
    assert (len(meta["links"]), meta["links_left_out"]) == (MOST_EVENTS, 3)


@pytest.mark.parametrize("status", [ERROR, UNSET, OK])
def test_every_exception_of_a_span_is_kept(status: int) -> None:
    """cases/otlp/two_exceptions.json: a call that was repeated after an error."""
    first = event("exception", exception__type="RateLimit", exception__message="first 429", retry=1)
    second = event("exception", exception__type="Timeout", exception__message="second")._replace(dropped_attributes=2)
    told = step(status=status, events=(first, event("log"), second))
    last = {"type": "Timeout", "message": "second"}
    assert (told.get("error"), told["meta_data"].get("exception")) == (
        (last, None) if status == ERROR else (None, last)
    )
    assert [each["name"] for each in told["meta_data"]["events"]] == ["exception", "log", "exception"]
    assert told["meta_data"]["events"][0]["attributes"] == {
        "exception.type": "RateLimit",
        "exception.message": "first 429",
        "retry": 1,
    }
    assert told["meta_data"]["events"][2]["dropped_attributes_count"] == 2


def test_an_exception_keeps_the_attributes_that_no_convention_has() -> None:
    told = step(status=ERROR, events=(event("exception", exception__type="E", exception__escaped="False", code=7),))
    assert told["error"] == {"type": "E", "code": 7}
    assert "meta_data" not in told


# ---- spans of this SDK -----------------------------------------------------------------------------------------------


def test_a_foreign_span_may_name_our_run_and_is_a_step_in_it() -> None:
    for parent in (ROOT, ""):
        (patch,) = patches_of(span(attributes={"agentscope.run.id": "my run"}, parent=parent, span_id=CHILD), GROUP)
        assert (patch.run_id, patch.step_id, patch.fields["parent_id"]) == ("my run", CHILD, parent or None)


@pytest.mark.parametrize(
    "attributes",
    [
        {"agentscope.run.id": ""},
        {"agentscope.run.id": 5},
        {"agentscope.run.id": "x" * (MAX_ID + 1)},
        {"agentscope.run.id": "r", "agentscope.step.id": "a\0b"},
        {"agentscope.run.id": "r", "agentscope.step.id": "s", "agentscope.parent.id": ""},
        {"agentscope.run.id": "r", "agentscope.step.id": "s", "agentscope.status": 5},
        {"agentscope.run.id": "r", "agentscope.step.id": "s", "agentscope.tokens_used": "5"},
        {"agentscope.run.id": "r", "agentscope.step.id": "s", "agentscope.latency_ms": float("nan")},
        {"agentscope.run.id": "r", "agentscope.step.id": "s", "agentscope.truncated": "input"},
        {"agentscope.run.id": "r", "agentscope.step.id": "s", "tag.tags": [1]},
        {"agentscope.run.id": "r", "agentscope.step.id": "s", "agentscope.name": b"bytes"},
        {"agentscope.run.id": "r", "agentscope.step.id": "s", "user.id": float("nan")},
        {"agentscope.run.id": "r", "agentscope.step.id": "s", "agentscope.cost_usd": float("inf")},
        {"agentscope.run.id": "r", "agentscope.step.id": "s", "agentscope.started_at": "yesterday"},
        {"agentscope.run.id": "r", "agentscope.step.id": "s", "agentscope.ended_at": 1.5},
        {"agentscope.run.id": "r", "agentscope.step.id": "s", "input.value": "\ud800"},
    ],
)
def test_a_span_of_ours_that_cannot_be_stored_is_refused_with_a_reason(attributes: Attributes) -> None:
    with pytest.raises(ValueError, match=r"^[a-z][\w. ]+( must | is )"):
        patches_of(span(attributes=attributes), GROUP)


def test_an_empty_time_attribute_of_ours_means_the_time_of_the_span() -> None:
    own = {"agentscope.run.id": "r", "agentscope.step.id": "s", "agentscope.ended_at": None}
    assert patches_of(span(attributes=own), GROUP)[0].fields["ended_at"] == "2026-01-31T12:00:01.000000Z"


def test_a_payload_of_ours_that_was_cut_on_its_way_is_the_text_that_is_left() -> None:
    """A collector may have a bound on the length of attributes."""
    own = {"agentscope.run.id": "r", "agentscope.step.id": "s", "input.value": '{"a": [1, ', "metadata": '{"b'}
    told = patches_of(span(attributes=own), GROUP)[0].fields
    assert (told["input"], told["meta_data"]) == ('{"a": [1, ', '{"b')


# ---- arbitrary spans -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [{"start_ns": 0, "end_ns": 0}, {"end_ns": 10**21}, {"start_ns": 10**21, "end_ns": 0}])
def test_a_span_whose_times_are_none_is_refused(times: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="times must be in nanoseconds"):
        patches_of(span(**times), GROUP)


def test_a_span_that_is_nested_too_deep_is_refused() -> None:
    deep: Value = 1
    for _ in range(70):
        deep = [deep]
    with pytest.raises(ValueError, match="nested deeper than"):
        patches_of(span(attributes={"a": deep}), GROUP)


def test_one_time_is_enough() -> None:
    told = step(start_ns=0)
    assert "started_at" not in told
    assert told["ended_at"] == "2026-01-31T12:00:01.000000Z"


def test_another_content_is_another_event_and_the_same_one_is_not() -> None:
    first, again, other = span(attributes={"a": 1}), span(attributes={"a": 1}), span(attributes={"a": 2})
    ids = [patches_of(each, GROUP)[0].id for each in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]


texts = st.text(max_size=10)
plain = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats() | texts | st.binary(max_size=4)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
KNOWN = [
    *INPUTS,
    *OUTPUTS,
    *OF_RUN,
    *(name for names in TOKENS.values() for name in names),
    *(
        "metadata",
        "tag.tags",
        "events",
        "pydantic_ai.all_messages",
        "all_messages_events",
        "error.type",
        "gen_ai.tool.name",
    ),
    *(
        "gen_ai.operation.name",
        "openinference.span.kind",
        "span.type",
        "langfuse.observation.usage_details",
        "llm.tools.0",
    ),
    *(
        "llm.input_messages.0.message.role",
        "llm.input_messages.0",
        "llm.input_messages.1.message",
        "retrieval.documents.x",
    ),
    *(
        "agentscope.run.id",
        "agentscope.step.id",
        "agentscope.usage",
        "agentscope.error",
        "exception.type",
        "content",
        "message",
    ),
]
keys = st.sampled_from(KNOWN) | texts
shapes = st.sampled_from(
    [
        "[]",
        "[1]",
        '[{"role": 1}]',
        '{"role": "assistant"}',
        '[{"event.name": "gen_ai.choice"}]',
        "null",
        "llm",
        "LLM",
        "chat",
        "tool",
    ]
)
attributes = st.dictionaries(keys, values | shapes, max_size=8)
event_names = st.sampled_from(
    [
        "exception",
        "gen_ai.choice",
        "gen_ai.user.message",
        "gen_ai.client.inference.operation.details",
        "gen_ai.prompt",
        "log",
    ]
)
events = st.lists(st.builds(SpanEvent, event_names, st.integers(0, 1 << 62), attributes, st.just(0)), max_size=3)
spans = st.builds(
    Span,
    trace_id=st.just(TRACE),
    span_id=st.just(CHILD),
    parent_span_id=st.sampled_from(["", ROOT]),
    name=texts,
    kind=st.integers(0, 5),
    start_ns=st.integers(0, 1 << 62),
    end_ns=st.integers(0, 1 << 62),
    attributes=attributes,
    status=st.integers(0, 2),
    status_message=texts,
    events=events,
    trace_state=texts,
    links=st.just([]),
    dropped_attributes=st.just(0),
    dropped_events=st.just(0),
    dropped_links=st.just(0),
)


def stored_or_refused(given_span: Span) -> tuple[list[Patch], str | None]:
    try:
        return patches_of(given_span, GROUP), None
    except ValueError as refused:
        return [], str(refused)


def as_batch(patches: Sequence[Patch]) -> bytes:
    return b'{"batch_id":"b","session_id":"s","events":[%b]}' % b",".join(patch.body.encode() for patch in patches)


@given(spans)
def test_whatever_a_span_holds_it_is_stored_or_refused_with_a_reason(given_span: Span) -> None:
    patches, refusal = stored_or_refused(given_span)
    if refusal is not None:
        assert " must be " in refusal or "out of range" in refusal or "nested deeper" in refusal
        return
    assert 1 <= len(patches) <= 2
    for patch in patches:
        assert json.loads(patch.body) == patch.fields
        assert len({patch.id, *(other.id for other in patches)}) == len(patches)
    # The batch call accepts the same events, so that OTLP stores nothing that the batch call would refuse.
    decoded = decode_batch(as_batch(patches))
    assert not decoded.rejected
    assert [(patch.id, patch.type, patch.time) for patch in decoded.patches] == [
        (patch.id, patch.type, patch.time) for patch in patches
    ]
    run_view(patches[0].run_id, patches)


@given(spans)
def test_either_encoding_gives_the_same_events(given_span: Span) -> None:
    found = []
    for form in (protobuf, json_form):
        body = form.encode_request([form.encode_span(given_span)], {"service.name": "x"}, "scope", "1")
        told = []
        for group in read_request(form, body):
            for each in group.spans:
                try:
                    told.append([patch.id for patch in patches_of(each, group)])
                except ValueError as refused:
                    told.append([str(refused)])
        found.append(told)
    assert found[0] == found[1]


# ---- the fields of the table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "field", "value"),
    [
        ({"gen_ai.request.model": "m"}, "model", "m"),
        ({"gen_ai.request.model": "asked", "gen_ai.response.model": "answered"}, "model", "answered"),
        ({"llm.model_name": "m"}, "model", "m"),
        ({"gen_ai.provider.name": "openai", "gen_ai.system": "openai"}, "provider", "openai"),
        ({"gen_ai.usage.cost": 0.25}, "cost_usd", 0.25),
        ({"llm.cost.total": 1}, "cost_usd", 1),
        ({"ai.response.msToFirstChunk": 12.5}, "first_token_ms", 12.5),
        ({"gen_ai.response.time_to_first_chunk": 0.0125}, "first_token_ms", 12.5),
    ],
)
def test_the_fields_of_a_step_are_read_under_any_convention(attributes: Attributes, field: str, value: object) -> None:
    told = step("chat", {"gen_ai.operation.name": "chat", **attributes})
    assert told[field] == value


@pytest.mark.parametrize("value", ["0.5", True, float("nan"), [1.0]])
def test_a_cost_that_is_no_number_stays_in_the_meta_data(value: Any) -> None:
    told = step("chat", {"gen_ai.operation.name": "chat", "gen_ai.usage.cost": value})
    assert "cost_usd" not in told
    assert "gen_ai.usage.cost" in told["meta_data"]


def test_a_root_that_is_the_run_keeps_its_model_in_the_meta_data() -> None:
    root = span("agent", {"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": "m"}, parent="")
    told = run_view(RUN, patches_of(root, GROUP))
    assert "model" not in told
    assert told["meta_data"]["model"] == "m"


@pytest.mark.parametrize(
    ("resource", "environment", "release"),
    [
        ({"deployment.environment.name": "production", "service.version": "1.2"}, "production", "1.2"),
        ({"deployment.environment": "staging"}, "staging", None),
        ({}, None, None),
    ],
)
def test_environment_and_release_of_a_run_are_those_of_its_resource(
    resource: Attributes, environment: str | None, release: str | None
) -> None:
    (patch,) = patches_of(span("agent", {}, parent=""), SpanGroup(resource, "", "", []))
    assert (patch.fields.get("environment"), patch.fields.get("release")) == (environment, release)


def test_a_span_says_more_of_its_environment_than_the_resource() -> None:
    group = SpanGroup({"deployment.environment.name": "production"}, "", "", [])
    (patch,) = patches_of(span("agent", {"deployment.environment.name": "test"}, parent=""), group)
    assert patch.fields["environment"] == "test"
