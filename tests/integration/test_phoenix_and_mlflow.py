"""The exported OTLP in Phoenix and MLflow, read back by their own APIs.

These tests run by hand, because both are large: install `arize-phoenix` and `mlflow` into environments of their own, name their
interpreters by AGENTSCOPE_TEST_PHOENIX and AGENTSCOPE_TEST_MLFLOW, and run with `-m by_hand`. They passed last, with Python 3.11:
arize-phoenix 20.26.1 and mlflow 3.17.2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import requests

from agentscope import Tracker, create_tracker
from agentscope.exporters.otlp import OTLPExporter
from agentscope.protocols.ids import trace_id_of
from agentscope.voltagent import VoltAgentSDK
from tests.support import otlp_backends
from tests.support.otlp_backends import OTLPBackend
from tests.support.proxy import FaultProxy
from tests.support.recording import balanced
from tests.support.wait import until

# Read here, because the tests do not see AGENTSCOPE_ variables.
PHOENIX = os.environ.get("AGENTSCOPE_TEST_PHOENIX")
MLFLOW = os.environ.get("AGENTSCOPE_TEST_MLFLOW")

pytestmark = [pytest.mark.by_hand, pytest.mark.timeout(300)]

TYPES = {"protobuf": "application/x-protobuf", "json": "application/json"}
ZIPPED = {"gzip": "gzip", "none": None}

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where to? 🗼"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Tokyo"}'}}
ANSWER = {
    "id": "response-1",
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {
            "message": {"role": "assistant", "content": "To 東京", "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
    ],
}
USAGE = {
    "prompt_tokens": 120,
    "completion_tokens": 30,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 100},
}
GUIDES = [
    {"id": "d1", "content": "浅草寺", "score": 0.9, "metadata": {"page": 3}},
    {"id": "d2", "content": "Meiji", "score": 0.5},
]
LARGE = "schön " * 20_000


def travel(tracker: Tracker) -> str:
    """Record a run with a step of each type, a failure, and letters of many alphabets. Returns its id."""
    with tracker.track_run("Reisebüro 旅行", input_data={"question": "Where to?"}, meta_data={"team": "röt"}) as run:
        with tracker.track_step_context(
            "planner", "agent", "find a city", meta_data={"instructions": "Be kind."}
        ) as agent:
            with tracker.track_step_context("draft", "llm_call", MESSAGES) as draft:
                draft.output, draft.usage = ANSWER, USAGE
                draft.meta_data = {"model": "gpt-4o", "provider": "openai", "temperature": 0.2}
            tracker.track_step("weather", "tool_call", {"city": "Tokyo"}, {"celsius": 21}, latency_ms=1)
            tracker.track_step("guides", "retrieval", {"query": "temples"}, GUIDES)
            tracker.track_step("recall", "memory", {"query": "diet"}, ["vegan"])
            tracker.track_step("remember", "memory", {"diet": "vegan"})
            tracker.track_step("think", "reasoning", output_data=LARGE)
            agent.output = ["東京"]
        try:
            with tracker.track_step_context("book", "tool_call", {"flight": 7}):
                raise TimeoutError("no answer – ✈")
        except TimeoutError:
            pass
        with tracker.track_step_context("say", "llm_call", "Say it.") as say:
            say.output, say.usage, say.meta_data = (
                "Tōkyō!",
                {"input_tokens": 10, "output_tokens": 5},
                {"model": "other"},
            )
        run.output = {"answer": "Tōkyō!"}
    return run.id


class Shown(NamedTuple):
    """A span in the answer of a backend. tokens: of the prompt, of the completion, and all."""

    name: str
    parent: str | None
    kind: str
    status: str
    input: Any
    output: Any
    tokens: tuple[int, int, int] | None


def expected(**kinds: str) -> list[Shown]:
    """The expected spans of the run of `travel`. Each backend has its own kinds."""
    root, planner = "invoke_agent Reisebüro 旅行", "invoke_agent planner"
    spans = [
        Shown(root, None, kinds["agent"], "OK", {"question": "Where to?"}, {"answer": "Tōkyō!"}, None),
        Shown(planner, root, kinds["agent"], "OK", "find a city", ["東京"], None),
        Shown("chat gpt-4o", planner, kinds["llm"], "OK", MESSAGES, ANSWER, (120, 30, 150)),
        Shown("execute_tool weather", planner, kinds["tool"], "OK", {"city": "Tokyo"}, {"celsius": 21}, None),
        Shown("retrieval guides", planner, kinds["retrieval"], "OK", {"query": "temples"}, GUIDES, None),
        Shown("search_memory", planner, kinds["search"], "OK", {"query": "diet"}, ["vegan"], None),
        Shown("upsert_memory", planner, kinds["memory"], "OK", {"diet": "vegan"}, None, None),
        Shown("think", planner, kinds["other"], "OK", None, LARGE, None),
        Shown("execute_tool book", root, kinds["tool"], "ERROR", {"flight": 7}, None, None),
        Shown("chat other", root, kinds["llm"], "OK", "Say it.", "Tōkyō!", (10, 5, 15)),
    ]
    return sorted(spans, key=lambda span: span.name)


def record(receiver: OTLPBackend, encoding: str, compression: str, **headers: str) -> tuple[str, list[Any]]:
    """Send the run of `travel`. Returns its trace id, and the number of requests."""
    with FaultProxy(receiver.url) as proxy:
        exporter = OTLPExporter(endpoint=proxy.url, headers=headers, encoding=encoding, compression=compression)
        with create_tracker(exporters=[exporter]) as tracker:
            run_id = travel(tracker)
            assert tracker.flush(60)
        stats = tracker.stats()
        assert balanced(stats)
        assert (stats.pending, dict(stats.dropped)) == (0, {})
        sent = [(seen.header("content-type"), seen.header("content-encoding")) for seen in proxy.requests]
    return trace_id_of(run_id), sent


def in_parts(receiver: OTLPBackend, **headers: str) -> str:
    """Send a step, then its parent, then the run. Returns the trace id."""
    with create_tracker(exporters=[OTLPExporter(endpoint=receiver.url, headers=headers)]) as tracker:
        with tracker.track_run("slow") as run:
            with tracker.track_step_context("outer", "agent"):
                with tracker.track_step_context("inner", "llm_call") as inner:
                    inner.usage = {"input_tokens": 3, "output_tokens": 4}
                assert tracker.flush(60)
            assert tracker.flush(60)
        assert tracker.flush(60)
    return trace_id_of(run.id)


def never_ended(receiver: OTLPBackend, **headers: str) -> str:
    """Send a run that never ends. Returns its trace id."""
    with create_tracker(exporters=[OTLPExporter(endpoint=receiver.url, headers=headers)]) as tracker:
        run_id = tracker.start_run("forgetful", input_data="Hm?")
        tracker.track_step("only", "tool_call", run_id=run_id)
    assert balanced(tracker.stats())
    return trace_id_of(run_id)


def conversation(receiver: OTLPBackend, **headers: str) -> str:
    """Send a trace of the VoltAgent face with nested agents, a user and a conversation. Returns its trace id."""
    with VoltAgentSDK(exporters=[OTLPExporter(endpoint=receiver.url, headers=headers)]) as sdk:
        with (
            sdk.trace(agentId="support", userId="user-1", conversationId="talk-1", input={"q": "?"}) as trace,
            trace.add_agent({"name": "Manager"}) as manager,
            manager.add_agent({"name": "Writer"}) as writer,
            writer.add_tool({"name": "search", "input": {"q": 1}}) as search,
        ):
            search.success(output={"hits": 2})
        assert sdk.flush(60)
    return trace_id_of(trace.id)


CONVERSATION = [
    ("execute_tool search", "invoke_agent Writer"),
    ("invoke_agent Manager", "invoke_agent support"),
    ("invoke_agent Writer", "invoke_agent Manager"),
    ("invoke_agent support", None),
]

# ---- Phoenix -------------------------------------------------------------------------------------------------------

QUERY = """query ($id: String!) { getTraceByOtelId(traceId: $id) {
  numSpans userId session { sessionId }
  rootSpan { name cumulativeTokenCountPrompt cumulativeTokenCountCompletion } project { name }
  spans(first: 100) { edges { node {
    name spanId parentId spanKind statusCode statusMessage attributes metadata numDocuments
    input { value mimeType } output { value mimeType }
    tokenCountPrompt tokenCountCompletion tokenCountTotal
    events { name message } } } } } }"""


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OTLPBackend]:
    if PHOENIX is None:
        pytest.skip("AGENTSCOPE_TEST_PHOENIX does not name a Python that has arize-phoenix")
    with otlp_backends.phoenix(PHOENIX, tmp_path_factory.mktemp("phoenix")) as running:
        yield running


def in_phoenix(phoenix: OTLPBackend, trace_id: str, number: int) -> dict[str, Any]:
    """The trace as its pages get it, once it has so many spans: Phoenix stores them after it has answered."""
    found: dict[str, Any] = {}

    def ask() -> bool:
        body = {"query": QUERY, "variables": {"id": trace_id}}
        answer = requests.post(f"{phoenix.url}/graphql", json=body, timeout=30).json()
        assert "errors" not in answer, answer["errors"]
        found.update(answer["data"]["getTraceByOtelId"] or {})
        return found.get("numSpans") == number

    until(ask, 60, "the spans are in Phoenix")
    found["spans"] = [edge["node"] for edge in found["spans"]["edges"]]
    for span in found["spans"]:
        span["attributes"] = json.loads(span["attributes"])
    return found


def one(spans: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (span,) = [span for span in spans if span["name"] == name]
    return span


def of_phoenix(trace: dict[str, Any]) -> list[Shown]:
    names = {span["spanId"]: span["name"] for span in trace["spans"]}

    def value(payload: dict[str, Any] | None) -> Any:
        if payload is None:
            return None
        return json.loads(payload["value"]) if payload["mimeType"] == "json" else payload["value"]

    shown = [
        Shown(
            span["name"],
            None if span["parentId"] is None else names[span["parentId"]],
            span["spanKind"],
            span["statusCode"],
            value(span["input"]),
            value(span["output"]),
            (span["tokenCountPrompt"], span["tokenCountCompletion"], span["tokenCountTotal"])
            if span["spanKind"] == "llm"
            else None,
        )
        for span in trace["spans"]
    ]
    return sorted(shown, key=lambda span: span.name)


@pytest.mark.parametrize("compression", ["gzip", "none"])
@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_phoenix_shows_a_run_as_it_was_recorded(phoenix: OTLPBackend, encoding: str, compression: str) -> None:
    trace_id, sent = record(phoenix, encoding, compression)
    # Phoenix refuses JSON, so the exporter has to switch to protobuf.
    assert sent[-1][0] == TYPES["protobuf"]
    assert sent[0] == (TYPES[encoding], ZIPPED[compression])
    trace = in_phoenix(phoenix, trace_id, 10)
    assert of_phoenix(trace) == expected(
        agent="agent", llm="llm", tool="tool", retrieval="retriever", search="retriever", memory="chain", other="chain"
    )
    root = trace["rootSpan"]
    assert root["name"] == "invoke_agent Reisebüro 旅行"
    assert (root["cumulativeTokenCountPrompt"], root["cumulativeTokenCountCompletion"]) == (130, 35)
    assert json.loads(one(trace["spans"], root["name"])["metadata"]) == {"team": "röt"}


def test_phoenix_shows_messages_model_and_documents(phoenix: OTLPBackend) -> None:
    spans = in_phoenix(phoenix, record(phoenix, "protobuf", "gzip")[0], 10)["spans"]
    told = one(spans, "chat gpt-4o")["attributes"]["llm"]
    assert (told["model_name"], told["provider"]) == ("gpt-4o", "openai")
    assert json.loads(told["invocation_parameters"]) == {"temperature": 0.2}
    assert told["token_count"]["prompt_details"]["cache_read"] == 100
    assert [item["message"] for item in told["input_messages"]] == MESSAGES
    (answered,) = [item["message"] for item in told["output_messages"]]
    assert (answered["role"], answered["content"]) == ("assistant", "To 東京")
    (called,) = answered["tool_calls"]
    assert called["tool_call"]["function"] == {"name": "weather", "arguments": '{"city": "Tokyo"}'}
    guides = one(spans, "retrieval guides")
    assert guides["numDocuments"] == 2
    assert [item["document"] for item in guides["attributes"]["retrieval"]["documents"]] == GUIDES


def test_phoenix_shows_the_exception_of_a_failed_step(phoenix: OTLPBackend) -> None:
    spans = in_phoenix(phoenix, record(phoenix, "protobuf", "gzip")[0], 10)["spans"]
    book = one(spans, "execute_tool book")
    assert book["statusMessage"] == "no answer – ✈"
    assert [(event["name"], event["message"]) for event in book["events"]] == [("exception", "no answer – ✈")]


def test_phoenix_shows_what_came_before_its_run_in_the_right_place(phoenix: OTLPBackend) -> None:
    trace = in_phoenix(phoenix, in_parts(phoenix), 3)
    assert [(span.name, span.parent) for span in of_phoenix(trace)] == [
        ("chat", "invoke_agent outer"),
        ("invoke_agent outer", "invoke_agent slow"),
        ("invoke_agent slow", None),
    ]
    root = trace["rootSpan"]
    assert (root["cumulativeTokenCountPrompt"], root["cumulativeTokenCountCompletion"]) == (3, 4)


def test_phoenix_shows_a_run_that_was_never_ended_without_an_outcome(phoenix: OTLPBackend) -> None:
    trace = in_phoenix(phoenix, never_ended(phoenix), 2)
    assert trace["rootSpan"]["name"] == "invoke_agent forgetful"
    run, step = (one(trace["spans"], name) for name in ("invoke_agent forgetful", "execute_tool only"))
    assert (run["parentId"], run["statusCode"], run["input"]["value"]) == (None, "UNSET", "Hm?")
    assert (step["parentId"], step["statusCode"]) == (run["spanId"], "OK")


def test_phoenix_puts_a_run_where_its_header_says(phoenix: OTLPBackend) -> None:
    trace_id, _ = record(phoenix, "protobuf", "gzip", **{"x-project-name": "travel"})
    assert in_phoenix(phoenix, trace_id, 10)["project"]["name"] == "travel"


def test_phoenix_shows_agents_in_agents_and_whose_conversation_it_was(phoenix: OTLPBackend) -> None:
    trace = in_phoenix(phoenix, conversation(phoenix), 4)
    assert [(span.name, span.parent) for span in of_phoenix(trace)] == CONVERSATION
    assert (trace["userId"], trace["session"]) == ("user-1", {"sessionId": "talk-1"})


# ---- MLflow --------------------------------------------------------------------------------------------------------

READER = """
import json, sys
from mlflow import MlflowClient
trace = MlflowClient(sys.argv[1]).get_trace("tr-" + sys.argv[2])
spans = [
    {
        "name": span.name, "id": span.span_id, "parent": span.parent_id, "kind": span.span_type, "model": span.model_name,
        "status": span.status.status_code.value, "message": span.status.description,
        "input": span.inputs, "output": span.outputs, "usage": span.get_attribute("mlflow.chat.tokenUsage"),
        "events": [[event.name, dict(event.attributes)] for event in span.events],
    }
    for span in trace.data.spans
]
info = trace.info
print(json.dumps({
    "state": info.state.value, "usage": info.token_usage, "tags": info.tags, "spans": spans,
    "of": info.trace_metadata, "request": info.request_preview, "response": info.response_preview,
}))
"""
EXPERIMENT = {"x-mlflow-experiment-id": "0"}


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OTLPBackend]:
    if MLFLOW is None:
        pytest.skip("AGENTSCOPE_TEST_MLFLOW does not name a Python that has mlflow")
    with otlp_backends.mlflow(MLFLOW, tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
def in_mlflow(mlflow: OTLPBackend) -> Callable[[str], dict[str, Any]]:
    """The trace as MLflow's own client reads it."""
    return lambda trace_id: mlflow.run(READER, mlflow.url, trace_id)


def of_mlflow(trace: dict[str, Any]) -> list[Shown]:
    names = {span["id"]: span["name"] for span in trace["spans"]}
    shown = [
        Shown(
            span["name"],
            None if span["parent"] is None else names[span["parent"]],
            span["kind"],
            span["status"],
            span["input"],
            span["output"],
            span["usage"] and tuple(span["usage"][f"{name}_tokens"] for name in ("input", "output", "total")),
        )
        for span in trace["spans"]
    ]
    return sorted(shown, key=lambda span: span.name)


@pytest.mark.parametrize("compression", ["gzip", "none"])
@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_mlflow_shows_a_run_as_it_was_recorded(
    mlflow: OTLPBackend, in_mlflow: Callable[[str], dict[str, Any]], encoding: str, compression: str
) -> None:
    trace_id, sent = record(mlflow, encoding, compression, **EXPERIMENT)
    assert sent == [(TYPES[encoding], ZIPPED[compression])]
    trace = in_mlflow(trace_id)
    assert of_mlflow(trace) == expected(
        agent="AGENT", llm="LLM", tool="TOOL", retrieval="RETRIEVER", search="MEMORY", memory="MEMORY", other="CHAIN"
    )
    assert trace["state"] == "OK"
    assert trace["usage"] == {
        "input_tokens": 130,
        "output_tokens": 35,
        "total_tokens": 165,
        "cache_read_input_tokens": 100,
    }


def test_mlflow_lists_a_run_by_its_name_with_what_was_asked_and_answered(
    mlflow: OTLPBackend, in_mlflow: Callable[[str], dict[str, Any]]
) -> None:
    trace = in_mlflow(record(mlflow, "protobuf", "gzip", **EXPERIMENT)[0])
    assert trace["tags"]["mlflow.traceName"] == "Reisebüro 旅行"
    assert json.loads(trace["request"]) == {"question": "Where to?"}
    assert json.loads(trace["response"]) == {"answer": "Tōkyō!"}


def test_mlflow_shows_models_and_the_exception_of_a_failed_step(
    mlflow: OTLPBackend, in_mlflow: Callable[[str], dict[str, Any]]
) -> None:
    spans = in_mlflow(record(mlflow, "protobuf", "gzip", **EXPERIMENT)[0])["spans"]
    assert one(spans, "chat gpt-4o")["model"] == "gpt-4o"
    book = one(spans, "execute_tool book")
    assert book["message"] == "no answer – ✈"
    ((name, told),) = book["events"]
    assert name == "exception"
    assert (told["exception.type"], told["exception.message"]) == ("TimeoutError", "no answer – ✈")
    assert "Traceback" in told["exception.stacktrace"]


def test_mlflow_shows_what_came_before_its_run_in_the_right_place(
    mlflow: OTLPBackend, in_mlflow: Callable[[str], dict[str, Any]]
) -> None:
    trace = in_mlflow(in_parts(mlflow, **EXPERIMENT))
    assert [(span.name, span.parent) for span in of_mlflow(trace)] == [
        ("chat", "invoke_agent outer"),
        ("invoke_agent outer", "invoke_agent slow"),
        ("invoke_agent slow", None),
    ]
    assert trace["state"] == "OK"
    assert trace["usage"]["total_tokens"] == 7


def test_mlflow_shows_a_run_that_was_never_ended_without_an_outcome(
    mlflow: OTLPBackend, in_mlflow: Callable[[str], dict[str, Any]]
) -> None:
    spans = in_mlflow(never_ended(mlflow, **EXPERIMENT))["spans"]
    run, step = (one(spans, name) for name in ("invoke_agent forgetful", "execute_tool only"))
    assert (run["parent"], run["status"], run["input"]) == (None, "UNSET", "Hm?")
    assert (step["parent"], step["status"]) == (run["id"], "OK")


def test_mlflow_shows_agents_in_agents_and_whose_conversation_it_was(
    mlflow: OTLPBackend, in_mlflow: Callable[[str], dict[str, Any]]
) -> None:
    trace = in_mlflow(conversation(mlflow, **EXPERIMENT))
    assert [(span.name, span.parent) for span in of_mlflow(trace)] == CONVERSATION
    assert (trace["of"]["mlflow.trace.user"], trace["of"]["mlflow.trace.session"]) == ("user-1", "talk-1")
