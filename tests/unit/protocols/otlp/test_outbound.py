"""Outbound spans have the attributes that each backend reads, whatever the fields of the event hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import RUN, STEP, Event
from agentscope.protocols.json_encode import UNENCODABLE
from agentscope.protocols.otlp.outbound.payload import LARGEST_COPIED, LARGEST_PARSED
from agentscope.protocols.otlp.outbound.span import LATEST, LONGEST_STATUS, span_of
from agentscope.protocols.otlp.wire.model import CLIENT, ERROR, INTERNAL, OK, UNSET, Span
from tests.support.events import NOON

RUN_ID = "3b1fa0d2-5c1e-4d0c-8a5e-6d2f1c9b7a10"
SECOND = 1_000_000_000


def encoded(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, with their payloads encoded as at the call."""
    payloads = ("input", "output", "error", "meta_data", "usage")
    return {name: json.dumps(value).encode() if name in payloads else value for name, value in fields.items()}


def step(step_type: str = "other", *, parent: str | None = None, voltops: bool = False, **fields: Any) -> Span:
    times = {"started_at": NOON, "ended_at": NOON + SECOND}
    known = {"name": "thing", "step_type": step_type, "status": "completed", **times, **encoded(fields)}
    known = {name: value for name, value in known.items() if value is not None}
    return span_of(Event(STEP, 7, NOON + 2 * SECOND, RUN_ID, "step-1", parent, known, 0), voltops=voltops)


def run(**fields: Any) -> Span:
    times = {"started_at": NOON, "ended_at": NOON + SECOND}
    known = {"agent_name": "Support", "status": "completed", **times, **encoded(fields)}
    return span_of(Event(RUN, 7, NOON + 2 * SECOND, RUN_ID, None, None, known, 0))


def has(span: Span, **expected: Any) -> None:
    """Attributes from keywords, with `__` for a dot."""
    wanted = {name.replace("__", "."): value for name, value in expected.items()}
    found = {name: span.attributes.get(name) for name in wanted}
    assert found == wanted


# ---- kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step_type", "name", "kind", "operation", "openinference", "voltops"),
    [
        ("agent", "invoke_agent thing", INTERNAL, "invoke_agent", "AGENT", "agent"),
        ("llm_call", "chat", CLIENT, "chat", "LLM", "llm"),
        ("tool_call", "execute_tool thing", INTERNAL, "execute_tool", "TOOL", "tool"),
        ("memory", "upsert_memory", CLIENT, "upsert_memory", "CHAIN", "memory"),
        ("retrieval", "retrieval thing", CLIENT, "retrieval", "RETRIEVER", "retriever"),
        ("reasoning", "thing", INTERNAL, None, "CHAIN", "workflow-step"),
        ("other", "thing", INTERNAL, None, "CHAIN", "workflow-step"),
        ("never heard of", "thing", INTERNAL, None, "CHAIN", "workflow-step"),
    ],
)
def test_each_kind_of_step_is_called_as_the_conventions_call_it(
    step_type: str, name: str, kind: int, operation: str | None, openinference: str, voltops: str
) -> None:
    span = step(step_type)
    assert (span.name, span.kind) == (name, kind)
    has(span, gen_ai__operation__name=operation, openinference__span__kind=openinference, span__type=voltops)
    has(span, agentscope__step__type=step_type, agentscope__name="thing", agentscope__step__id="step-1")


def test_a_run_is_the_agent_at_the_root() -> None:
    span = run(
        user_id="u",
        conversation_id="c",
        tags=["a", "b"],
        external_id="e",
        source="voltagent",
        meta_data={"agentId": "support-1"},
    )
    assert (span.name, span.kind, span.parent_span_id) == ("invoke_agent Support", INTERNAL, "")
    has(span, gen_ai__operation__name="invoke_agent", openinference__span__kind="AGENT", span__type=None)
    has(span, gen_ai__agent__name="Support", agent__name="Support", entity__name="Support")
    has(span, entity__type="agent", entity__id="support-1", voltagent__is_subagent=None)
    has(span, user__id="u", session__id="c", gen_ai__conversation__id="c", conversation__id="c")
    has(span, tag__tags=["a", "b"], agentscope__external_id="e", agentscope__source="voltagent")
    has(span, agentscope__run__id=RUN_ID, agentscope__step__id=None)


def test_an_agent_below_another_step_is_a_subagent_of_voltops() -> None:
    has(step("agent", parent="other"), voltagent__is_subagent=True, subagent__name="thing", subagent__id="step-1")
    has(step("agent"), voltagent__is_subagent=None, entity__id="step-1", entity__name="thing")


def test_without_a_name_a_span_has_one_all_the_same() -> None:
    assert step("tool_call", name=None).name == "execute_tool"
    assert step("reasoning", name=None).name == "reasoning"
    assert span_of(Event(STEP, 1, NOON, RUN_ID, "s", None, {}, 0)).name == "step"
    has(step("tool_call", name=None), agentscope__name=None, gen_ai__tool__name=None)


# ---- content ---------------------------------------------------------------------------------------------------------


def test_a_payload_stands_under_the_name_that_the_destination_reads() -> None:
    for voltops, there, missing in ((False, "{}.value", "{}"), (True, "{}", "{}.value")):
        span = step(input={"q": 1}, output=[2], voltops=voltops)
        for name, text in (("input", '{"q": 1}'), ("output", "[2]")):
            assert span.attributes[there.format(name)] == text
            assert missing.format(name) not in span.attributes
            assert span.attributes[f"{name}.mime_type"] == "application/json"


def test_a_large_payload_is_there_once() -> None:
    large = "x" * (LARGEST_COPIED + 1)
    for voltops in (False, True):
        span = step("tool_call", input=large, voltops=voltops)
        assert [value for value in span.attributes.values() if large in str(value)] == [large]


@pytest.mark.parametrize("step_type", [None, "llm_call", "tool_call", "agent", "memory", "retrieval", "other"])
def test_no_attribute_lies_below_another_for_some_backends_make_a_tree_of_the_dots(step_type: str | None) -> None:
    message = {"role": "user", "content": "hi"}
    document = {"id": 1, "content": "c", "score": 0.5, "metadata": {"a": 1}}
    known = {"model": "m", "provider": "p", "temperature": 1, "operation": "search", "toolCallId": "c", "agentId": "a"}
    fields: dict[str, Any] = {
        "input": {"query": "q", "top_k": 1, "messages": [message]},
        "output": [document]
        if step_type == "retrieval"
        else {"id": "r", "model": "m", "choices": [{"message": message}]},
        "meta_data": {**known, "instructions": "i", "description": "d"},
        "error": {"type": "E", "message": "m", "traceback": "t", "more": 1},
        "usage": {"input": 1, "output": 2, "cached_tokens": 1, "cache_write": 1, "reasoning": 1},
        "status": "failed",
        "user_id": "u",
        "conversation_id": "c",
        "tags": ["t"],
        "tokens_used": 3,
        "latency_ms": 1,
        "truncated": ["input"],
    }
    span = run(**fields) if step_type is None else step(step_type, parent="other", **fields)
    parts = [name.split(".") for name in span.attributes]
    assert [(a, b) for a in parts for b in parts if a != b and b[: len(a)] == a] == []


def test_a_string_stands_there_without_quotes() -> None:
    has(step(input='say "hi"'), input__value='say "hi"', input__mime_type="text/plain")


def test_a_string_that_databases_refuse_stays_json() -> None:
    has(step(input="a\0b"), input__value='"a\\u0000b"', input__mime_type="application/json")
    has(step(input="\ud800"), input__value='"\\ud800"', input__mime_type="application/json")


def test_mlflow_gets_its_own_attributes_where_no_convention_has_them() -> None:
    has(run(), mlflow__traceTag__mlflow__traceName="Support", mlflow__spanType=None)
    has(step("memory"), mlflow__spanType="MEMORY")
    has(step("agent"), mlflow__traceTag__mlflow__traceName=None, mlflow__spanType=None)


def test_meta_data_is_openinference_metadata_if_it_is_an_object() -> None:
    has(step(meta_data={"a": 1}), metadata='{"a": 1}', agentscope__meta_data=None)
    has(step(meta_data=[1]), metadata=None, agentscope__meta_data="[1]")


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({"meta_data": {"model": "m"}}, "m"),
        ({"meta_data": {"model_parameters": {"model": "m"}}}, "m"),
        ({"meta_data": {"modelParameters": {"modelName": "m"}}}, "m"),
        ({"input": {"model": "m", "messages": []}}, "m"),
        ({"meta_data": {"model_parameters": {"model": "m"}}, "input": {"model": "other"}}, "m"),
        ({"output": {"id": "1", "model": "m-2026", "choices": []}}, "m-2026"),
    ],
)
def test_the_model_of_a_call_is_found_in_every_place(fields: dict[str, Any], model: str) -> None:
    span = step("llm_call", **fields)
    assert span.name == f"chat {model}"
    has(span, llm__model_name=model, llm__model=model)


def test_a_model_call_tells_its_parameters_and_its_response() -> None:
    asked = {"model": "gpt-4o", "temperature": 0.2, "max_tokens": 100, "stream": True, "tools": []}
    choices = [{"finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}]
    answered = {"id": "chatcmpl-1", "model": "gpt-4o-2026", "choices": choices}
    span = step("llm_call", input=asked, output=answered, meta_data={"provider": "openai"})
    has(span, gen_ai__request__model="gpt-4o", gen_ai__request__temperature=0.2, gen_ai__request__max_tokens=100)
    has(span, gen_ai__request__stream=True, gen_ai__response__id="chatcmpl-1", gen_ai__response__model="gpt-4o-2026")
    has(span, gen_ai__response__finish_reasons=["stop"], gen_ai__provider__name="openai", gen_ai__system="openai")
    has(span, llm__provider="openai", llm__model_name="gpt-4o")
    assert json.loads(str(span.attributes["llm.invocation_parameters"])) == {
        "temperature": 0.2,
        "max_tokens": 100,
        "stream": True,
    }


def messages(span: Span, side: str) -> Any:
    told = span.attributes.get(f"gen_ai.{side}.messages")
    return None if told is None else json.loads(str(told))


@pytest.mark.parametrize(
    ("payload", "parts"),
    [
        ([{"role": "user", "content": "hi"}], [{"type": "text", "content": "hi"}]),
        ({"messages": [{"role": "user", "content": "hi"}]}, [{"type": "text", "content": "hi"}]),
        ({"role": "user", "content": "hi"}, [{"type": "text", "content": "hi"}]),
        ({"choices": [{"message": {"role": "user", "content": "hi"}}]}, [{"type": "text", "content": "hi"}]),
        ([{"role": "user", "parts": [{"type": "text", "content": "hi"}]}], [{"type": "text", "content": "hi"}]),
        ([{"role": "user", "content": [{"type": "text", "text": "hi"}]}], [{"type": "text", "content": "hi"}]),
        (
            [{"role": "tool", "tool_call_id": "c1", "content": "21"}],
            [{"type": "tool_call_response", "id": "c1", "response": "21"}],
        ),
        (
            [{"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]}],
            [{"type": "tool_call", "id": "c1", "name": "f", "arguments": "{}"}],
        ),
    ],
)
def test_messages_are_written_in_the_form_of_the_genai_conventions(payload: Any, parts: list[Any]) -> None:
    for step_type in ("llm_call", "agent"):
        assert [each["parts"] for each in messages(step(step_type, input=payload), "input")] == [parts]
        assert [each["parts"] for each in messages(step(step_type, output=payload), "output")] == [parts]
    assert [each["parts"] for each in messages(run(input=payload), "input")] == [parts]


@pytest.mark.parametrize(
    ("item", "part"),
    [
        ({"text": "hi"}, {"type": "text", "content": "hi"}),  # Bedrock's
        ({"inlineData": 1}, {"type": "text", "content": '{"inlineData":1}'}),
        ({"type": 5}, {"type": "text", "content": '{"type":5}'}),
        ({"type": "image", "source": {}}, {"type": "image", "source": {}}),
        ("hi", {"type": "text", "content": "hi"}),
        (
            {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
            {"type": "tool_call", "id": "c1", "name": "f", "arguments": {"a": 1}},
        ),
    ],
)
def test_every_part_of_a_message_says_its_type(item: Any, part: Any) -> None:
    for name in ("content", "parts"):
        (message,) = messages(step("llm_call", input=[{"role": "user", name: [item]}]), "input")
        assert message["parts"] == [part]


@pytest.mark.parametrize(
    ("output", "reasons"),
    [
        ({"role": "assistant", "content": "hi", "stop_reason": "end_turn"}, ["end_turn"]),
        ([{"role": "assistant", "content": "hi"}], ["stop"]),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}], ["tool_call"]),
        (
            {
                "choices": [
                    {"message": {"role": "assistant", "content": "a"}, "finish_reason": "length"},
                    {"message": {"role": "assistant", "content": "b"}},
                ]
            },
            ["length", "stop"],
        ),
    ],
)
def test_every_message_of_an_answer_says_why_it_ended(output: Any, reasons: list[str]) -> None:
    span = step("llm_call", output=output, input=output)
    assert [message["finish_reason"] for message in messages(span, "output")] == reasons
    assert not any("finish_reason" in message for message in messages(span, "input"))


@pytest.mark.parametrize(
    "payload", ["hi", {"role": "admin"}, [{"role": 1}], [], [{"content": "x", "role": None}], ["role"]]
)
def test_a_payload_that_is_no_list_of_messages_is_not_written_as_messages(payload: Any) -> None:
    assert messages(step("llm_call", input=payload), "input") is None
    assert messages(step("tool_call", input=[{"role": "user", "content": "hi"}]), "input") is None


def test_the_instructions_of_an_agent_are_written() -> None:
    span = step("agent", meta_data={"instructions": "Be brief.", "modelParameters": {"model": "gpt-4"}})
    has(span, agent__instructions="Be brief.", gen_ai__request__model="gpt-4")
    assert json.loads(str(span.attributes["gen_ai.system_instructions"])) == [{"type": "text", "content": "Be brief."}]


def test_a_tool_tells_its_call() -> None:
    span = step("tool_call", input={"city": "a"}, output="x", meta_data={"toolCallId": "c1", "description": "d"})
    has(span, gen_ai__tool__name="thing", tool__name="thing", gen_ai__tool__type="function")
    has(span, gen_ai__tool__call__id="c1", tool__call__id="c1", gen_ai__tool__description="d")
    has(span, gen_ai__tool__call__arguments='{"city": "a"}', gen_ai__tool__call__result='"x"')


@pytest.mark.parametrize(
    ("output", "documents"),
    [
        (["one", "two"], [{"content": "one"}, {"content": "two"}]),
        ({"documents": ["one"], "relevance_scores": [0.5]}, [{"content": "one", "score": 0.5}]),
        ([{"id": 7, "page_content": "one", "score": 1}], [{"id": "7", "content": "one", "score": 1}]),
        ({"results": [{"text": "one", "metadata": {"a": 1}}]}, [{"content": "one", "metadata": '{"a":1}'}]),
    ],
)
def test_a_retrieval_tells_its_documents(output: Any, documents: list[dict[str, Any]]) -> None:
    span = step("retrieval", output=output)
    found = {name: value for name, value in span.attributes.items() if name.startswith("retrieval.documents.")}
    wanted = {
        f"retrieval.documents.{at}.document.{key}": v for at, each in enumerate(documents) for key, v in each.items()
    }
    assert found == wanted
    has(span, retriever__document_count=len(documents))


def test_a_retrieval_tells_where_it_searched_and_for_what() -> None:
    span = step("retrieval", input={"query": "q", "max_documents": 3}, output=[{"id": "d", "score": 0.5}])
    has(span, gen_ai__data_source__id="thing", retriever__name="thing", gen_ai__retrieval__query__text="q")
    has(span, gen_ai__retrieval__top_k=3, gen_ai__retrieval__documents='[{"id":"d","score":0.5}]')
    has(step("retrieval", input="q"), gen_ai__retrieval__query__text="q")


@pytest.mark.parametrize("output", ["text", {"answer": 1}, [1, 2], None, {"documents": "none"}])
def test_a_result_that_is_no_list_of_documents_is_not_written_as_documents(output: Any) -> None:
    has(step("retrieval", output=output), retriever__document_count=None)


@pytest.mark.parametrize(
    ("fields", "operation", "openinference"),
    [
        ({"name": "user-context-storage"}, "upsert_memory", "CHAIN"),
        ({"name": "searchMemory"}, "search_memory", "RETRIEVER"),
        ({"name": "recall_preferences"}, "search_memory", "RETRIEVER"),
        ({"name": "forget user"}, "delete_memory", "CHAIN"),
        ({"name": "address-book"}, "upsert_memory", "CHAIN"),
        ({"meta_data": {"operation": "update"}}, "update_memory", "CHAIN"),
        ({"input": {"operation": "create", "key": "k"}}, "create_memory", "CHAIN"),
    ],
)
def test_a_memory_step_tells_what_it_does(fields: dict[str, Any], operation: str, openinference: str) -> None:
    span = step("memory", **fields)
    assert span.name == operation
    has(span, gen_ai__operation__name=operation, memory__operation=operation.removesuffix("_memory"))
    has(span, openinference__span__kind=openinference)


def test_a_search_in_memory_tells_its_query() -> None:
    has(step("memory", name="search", input={"query": "q"}), gen_ai__memory__query__text="q")


# ---- tokens ----------------------------------------------------------------------------------------------------------

USAGES = [
    {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 2}},
    {"promptTokens": 5, "completionTokens": 3, "totalTokens": 8, "cachedTokens": 2},
    {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8, "input_tokens_details": {"cached_tokens": 2}},
    {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8, "cache_read_input_tokens": 2},
    {"inputTokens": 5, "outputTokens": 3, "totalTokens": 8, "cacheReadInputTokens": 2},
    {"input": 5, "output": 3, "total": 8, "cached_tokens": 2},
    {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8, "input_token_details": {"cache_read": 2}},
    {
        "prompt_token_count": 5,
        "candidates_token_count": 3,
        "total_token_count": 8,
        "cached_content_token_count": 2,
    },
]


@pytest.mark.parametrize("usage", USAGES)
def test_usage_is_understood_in_every_spelling(usage: dict[str, Any]) -> None:
    span = step("llm_call", usage=usage)
    has(span, gen_ai__usage__input_tokens=5, gen_ai__usage__output_tokens=3)
    has(span, gen_ai__usage__cache_read__input_tokens=2, llm__token_count__prompt_details__cache_read=2)
    has(span, llm__token_count__prompt=5, llm__token_count__completion=3, llm__token_count__total=8)
    has(span, llm__usage__prompt_tokens=5, llm__usage__completion_tokens=3, llm__usage__total_tokens=8)
    has(span, llm__usage__cached_tokens=2, usage__prompt_tokens=None)
    assert json.loads(str(span.attributes["agentscope.usage"])) == usage


def test_reasoning_and_written_cache_tokens_have_the_new_and_the_old_name() -> None:
    usage = {"output_tokens_details": {"reasoning_tokens": 4}, "cache_creation_input_tokens": 6}
    span = step("llm_call", usage=usage)
    has(span, gen_ai__usage__reasoning__output_tokens=4, llm__token_count__completion_details__reasoning=4)
    has(span, gen_ai__usage__cache_write__input_tokens=6, gen_ai__usage__cache_creation__input_tokens=6)
    has(span, llm__token_count__prompt_details__cache_write=6, llm__usage__reasoning_tokens=4)


def test_a_total_is_all_there_is_where_only_tokens_used_is_known() -> None:
    span = step("llm_call", tokens_used=50)
    has(span, llm__token_count__total=50, llm__usage__total_tokens=50, gen_ai__usage__input_tokens=None)
    has(span, agentscope__tokens_used=50)


def test_a_missing_total_is_that_of_input_and_output() -> None:
    has(step("llm_call", usage={"input_tokens": 5, "output_tokens": 3}), llm__token_count__total=8)


def test_an_agent_has_the_usage_of_voltops_agents() -> None:
    span = step("agent", usage={"prompt_tokens": 150, "completion_tokens": 85, "total_tokens": 235})
    has(span, usage__total_tokens=235, llm__usage__total_tokens=None, llm__token_count__total=235)
    has(span, gen_ai__usage__input_tokens=150)


def test_the_usage_of_a_run_has_no_name_that_backends_add_to_that_of_its_steps() -> None:
    span = run(usage={"input_tokens": 5, "output_tokens": 3})
    has(span, usage__total_tokens=8, gen_ai__usage__input_tokens=None, llm__token_count__total=None)


@pytest.mark.parametrize(
    "usage",
    [
        "many",
        [1],
        None,
        {"total_tokens": "5"},
        {"input": True},
        {"input_tokens_details": {"input": 5, "audio_tokens": 5}},
        {"input_tokens": -1},
        {"input": 0.5},
    ],
)
def test_an_invalid_count_is_not_written_as_tokens(usage: Any) -> None:
    told = [name for name in step("llm_call", usage=usage).attributes if "token" in name]
    assert told == []


# ---- outcome ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("completed", OK),
        ("failed", ERROR),
        ("error", ERROR),
        ("unfinished", UNSET),
        ("running", UNSET),
        ("cancelled", UNSET),
    ],
)
def test_the_status_of_a_span_follows_that_of_the_step(status: str, code: int) -> None:
    span = step(status=status)
    assert span.status == code
    has(span, agentscope__status=status)


def test_an_exception_is_an_event_that_carries_all_of_it() -> None:
    span = step(status="failed", error={"type": "ValueError", "message": "nope", "traceback": "Traceback …"})
    assert (span.status, span.status_message) == (ERROR, "nope")
    (event,) = span.events
    assert (event.name, event.time_ns) == ("exception", span.end_ns)
    assert event.attributes == {
        "exception.type": "ValueError",
        "exception.message": "nope",
        "exception.stacktrace": "Traceback …",
    }
    has(span, error__type="ValueError", agentscope__error=None)


@pytest.mark.parametrize(
    ("error", "type_", "message"),
    [
        ("disk full", "_OTHER", "disk full"),
        ({"code": 503, "detail": "busy"}, "503", "busy"),
        ({"name": "Timeout", "message": "late", "after": 5}, "Timeout", "late"),
        ({"reason": {"a": 1}}, "_OTHER", '{"a": 1}'),
        ([1, 2], "_OTHER", "[1, 2]"),
    ],
)
def test_an_error_of_another_form_is_described_and_kept_whole(error: Any, type_: str, message: str) -> None:
    span = step(status="failed", error=error)
    assert (span.status, span.status_message) == (ERROR, message)
    has(span, error__type=type_, agentscope__error=json.dumps(error))
    assert span.events[0].attributes["exception.message"] == message


def test_a_failure_without_an_error_is_one_all_the_same() -> None:
    span = step(status="failed")
    assert (span.status, span.status_message, span.events) == (ERROR, "", ())
    has(span, error__type="_OTHER")


@pytest.mark.parametrize("error", [None, "", {}, []])
def test_an_empty_error_is_none(error: Any) -> None:
    span = step(error=error)
    assert (span.status, span.events) == (OK, ())
    has(span, error__type=None)


def test_an_error_makes_a_completed_step_one_that_failed() -> None:
    assert step(status="completed", error="x").status == ERROR


def test_a_long_message_is_cut_in_the_status_only() -> None:
    span = step(status="failed", error={"type": "E", "message": "x" * 5000})
    assert len(span.status_message) == LONGEST_STATUS
    assert len(str(span.events[0].attributes["exception.message"])) == 5000


# ---- times -----------------------------------------------------------------------------------------------------------


def timed(**fields: Any) -> Span:
    return span_of(Event(STEP, 1, NOON, RUN_ID, "s", None, fields, 0))


def test_known_times_are_those_of_the_span() -> None:
    span = timed(started_at=NOON - 5, ended_at=NOON - 2)
    assert (span.start_ns, span.end_ns) == (NOON - 5, NOON - 2)
    has(span, agentscope__started_at=None, agentscope__ended_at=None)


@pytest.mark.parametrize(
    ("fields", "start", "end", "told"),
    [
        ({}, NOON, NOON, (0, 0)),
        ({"started_at": NOON - 9}, NOON - 9, NOON, (None, 0)),
        ({"ended_at": NOON - 9, "latency_ms": 1.5}, NOON - 1_500_009, NOON - 9, (0, None)),
        ({"ended_at": NOON - 9, "latency_ms": -1}, NOON - 9, NOON - 9, (0, None)),
        ({"ended_at": NOON - 9, "latency_ms": float("nan")}, NOON - 9, NOON - 9, (0, None)),
        ({"started_at": NOON, "ended_at": NOON - 9}, NOON, NOON, (None, NOON - 9)),
        ({"started_at": -5, "ended_at": NOON}, 1, NOON, (-5, None)),
        ({"started_at": NOON, "ended_at": 1 << 64}, NOON, LATEST, (None, 1 << 64)),
        ({"started_at": "2026-01-31T11:00:00Z", "ended_at": NOON}, NOON, NOON, ("2026-01-31T11:00:00Z", None)),
    ],
)
def test_a_span_has_both_times_in_order_and_says_which_it_made_up(
    fields: dict[str, Any], start: int, end: int, told: tuple[Any, Any]
) -> None:
    span = timed(**fields)
    assert (span.start_ns, span.end_ns) == (start, end)
    has(span, agentscope__started_at=told[0], agentscope__ended_at=told[1])


# ---- arbitrary fields ------------------------------------------------------------------------------------------------

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(max_size=20),
    st.lists(st.none() | st.integers() | st.text(), max_size=3),
    st.dictionaries(st.text(), st.integers(), max_size=2),
    st.builds(object),
    st.sampled_from([b"{", b"[" * 5000, b'"\\ud800"', b"\xff", b'{"role":' + b"[" * 300 + b"]" * 300 + b"}", b"1e999"]),
)
FIELDS = (
    *("agent_name", "name", "step_type", "status", "started_at", "ended_at", "latency_ms", "tokens_used", "tags"),
    *("input", "output", "error", "meta_data", "usage", "truncated", "external_id", "user_id", "level", "else"),
)
KINDS = [None, "llm_call", "tool_call", "agent", "memory", "retrieval", "other"]


@given(st.dictionaries(st.sampled_from(FIELDS), anything), st.sampled_from(KINDS))
def test_odd_values_raise_nothing_but_what_drops_the_event(fields: dict[str, Any], step_type: str | None) -> None:
    if step_type is not None:
        fields = {**fields, "step_type": step_type}
    try:
        span = span_of(Event(STEP if step_type else RUN, 1, NOON, RUN_ID, step_type and "s", None, fields, 0))
    except UNENCODABLE:
        return
    assert 0 < span.start_ns <= span.end_ns <= LATEST
    assert type(span.name) is str


def test_a_payload_that_is_large_is_not_parsed() -> None:
    large = {"messages": [{"role": "user", "content": "x" * LARGEST_PARSED}], "model": "m"}
    span = step("llm_call", input=large)
    assert span.name == "chat"
    assert messages(span, "input") is None
    has(span, input__value=json.dumps(large))


# ---- the fields of the table -----------------------------------------------------------------------------------------


def test_a_model_call_has_the_names_of_the_conventions() -> None:
    span = step(
        "llm_call",
        model="gpt-5",
        provider="openai",
        cost_usd=0.25,
        first_token_ms=120.0,
        usage={"input_tokens": 3, "output_tokens": 4, "cache_read_tokens": 2, "reasoning_tokens": 1},
    )
    assert span.name == "chat gpt-5"
    has(
        span,
        gen_ai__request__model="gpt-5",
        gen_ai__provider__name="openai",
        llm__model_name="gpt-5",
        gen_ai__usage__input_tokens=3,
        gen_ai__usage__output_tokens=4,
        gen_ai__usage__cache_read__input_tokens=2,
        gen_ai__usage__reasoning__output_tokens=1,
        gen_ai__usage__cost=0.25,
        gen_ai__response__time_to_first_chunk=0.12,
        agentscope__cost_usd=0.25,
    )


def test_the_model_that_was_named_counts_over_the_one_in_a_payload() -> None:
    has(step("llm_call", model="named", input={"model": "asked"}), gen_ai__request__model="named")


def test_a_run_has_its_user_conversation_tags_environment_and_release() -> None:
    has(
        run(user_id="u", conversation_id="c", tags=["a"], environment="production", release="1.2"),
        user__id="u",
        gen_ai__conversation__id="c",
        session__id="c",
        tag__tags=["a"],
        deployment__environment__name="production",
        service__version="1.2",
    )


def test_a_cancelled_run_has_no_outcome_in_the_words_of_otlp_and_says_its_own() -> None:
    span = run(status="cancelled")
    assert span.status == UNSET
    has(span, agentscope__status="cancelled")
