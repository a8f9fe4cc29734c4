"""The run that a trace of any emitter becomes is the same in each order and split of its spans, in the list and by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentscope.protocols.agentscope.decode import Batch, decode_batch
from agentscope.protocols.ids import run_id_of, trace_id_of
from agentscope.protocols.otlp.wire import json_form, protobuf_form
from agentscope.server.app import create_app
from agentscope.server.storage.base import RunQuery
from agentscope.server.storage.fold import run_view
from agentscope.server.storage.sqlite.store import SQLiteStore
from tests.support.receiver import envelope, run_end, run_start, step

NOON = 1_769_860_800_000_000_000  # 2026-01-31T12:00:00Z
SECOND = 10**9
AGENT = {"openinference.span.kind": "AGENT"}
LLM = {"openinference.span.kind": "LLM"}
NUMBERS = count(1)

Span = dict[str, Any]


def span(name: str, parent: str | None = None, seconds: tuple[float, float | None] = (0, 10), **more: Any) -> Span:
    """A span in the JSON form of OTLP, with an id made of its name, and without a trace id. No end: it is not over."""
    attributes, began, ended = more.pop("attributes", {}), *seconds
    kinds: list[tuple[type, str]] = [
        (bool, "boolValue"),
        (str, "stringValue"),
        (int, "intValue"),
        (float, "doubleValue"),
    ]
    return {
        "spanId": name.encode().hex().ljust(16, "0")[:16],
        **({"parentSpanId": parent.encode().hex().ljust(16, "0")[:16]} if parent else {}),
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(NOON + int(began * SECOND)),
        **({"endTimeUnixNano": str(NOON + int(ended * SECOND))} if ended is not None else {}),
        "attributes": [
            {"key": key, "value": {next(kind for type_, kind in kinds if isinstance(value, type_)): value}}
            for key, value in attributes.items()
        ],
        **more,
    }


def exception(type_: str, message: str = "no") -> dict[str, Any]:
    attributes = {"exception.type": type_, "exception.message": message}
    told = [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]
    return {"name": "exception", "timeUnixNano": str(NOON), "attributes": told}


def body_of(trace_id: str, spans: Sequence[Span]) -> bytes:
    """A request: each span in a group of its own, with the scope and the resource that `scope` and `resource` tell."""
    groups = []
    for each in spans:
        resource = {"service.name": "svc", **each.get("resource", {})}
        attributes = [{"key": key, "value": {"stringValue": value}} for key, value in resource.items()]
        plain = {name: value for name, value in each.items() if name not in ("scope", "resource")}
        scope = {"scope": {"name": each.get("scope", "t")}, "spans": [{"traceId": trace_id, **plain}]}
        groups.append({"resource": {"attributes": attributes}, "scopeSpans": [scope]})
    return json.dumps({"resourceSpans": groups}).encode()


def as_protobuf(body: bytes) -> bytes:
    groups = json_form.decode_request(body)
    parts = []
    for group in groups:
        spans = [protobuf_form.encode_span(each) for each in group.spans]  # type: ignore[arg-type]  # of the inbound model
        parts.append(protobuf_form.encode_request(spans, group.resource, group.scope_name, group.scope_version))
    return b"".join(parts)  # the fields of messages that follow each other are joined


class Told:
    """A store, and the runs that it tells of traces."""

    def __init__(self) -> None:
        self.store = SQLiteStore()
        self._app = create_app(self.store, allowed_hosts=["testserver"])

    async def _send(self, body: bytes, form: str) -> None:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            answer = await client.post("/v1/traces", content=body, headers={"content-type": form})
        assert (answer.status_code, b"ejected" in answer.content) == (200, False), answer.text

    def run(self, *requests: Sequence[Span], others: Sequence[Batch] = (), trace_id: str = "") -> dict[str, Any]:
        """Send the spans of one trace in these requests, and return the run. The list has to tell the same."""
        trace_id = trace_id or f"{next(NUMBERS):032x}"
        for number, spans in enumerate(requests):
            body, form = body_of(trace_id, spans), json_form.CONTENT_TYPE
            if number % 2:
                body, form = as_protobuf(body), protobuf_form.CONTENT_TYPE
            asyncio.run(self._send(body, form))
        run_id = run_id_of(trace_id)
        for batch in others:
            self.store.ingest(batch).result(60)
        events = self.store.events(run_id, size=1 << 30).events
        view = run_view(run_id, [event.patch() for event in events])
        (listed,) = self.store.list_runs(RunQuery(q=run_id)).runs
        assert {name: view[name] for name in listed} == listed
        return {**view, "id": ""}

    def list(self, **query: Any) -> list[str]:
        return [run["agent_name"] for run in self.store.list_runs(RunQuery(**query)).runs]


@pytest.fixture
def told() -> Iterator[Told]:
    opened = Told()
    yield opened
    opened.store.close()


REMOTE = [
    span(
        "agent run",
        "gateway",
        (1, 3),
        attributes={**AGENT, "input.value": "hello", "output.value": "bye", "session.id": "s1"},
        resource={"deployment.environment": "prod"},
    ),
    span(
        "chat",
        "agent run",
        (2, 2.5),
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "m",
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 4,
        },
    ),
]
TWO_ROOTS = [
    span(
        "agent A", None, (10, 60), attributes={**AGENT, "input.value": "qA", "output.value": "aA"}, status={"code": 2}
    ),
    span("toolA", "agent A", (20, 30)),
    span("memory", None, (58, 61), attributes={"note": "kept"}),
]
NESTED = [
    span("query", None, (1, 10)),
    span("chat", "query", (2, 9), attributes={**LLM, "llm.token_count.total": 15}),
    span("complete", "chat", (2, 9), attributes={**LLM, "llm.token_count.total": 15}),
]
SERVED = [
    span("POST /chat", None, (0, 10), kind=2, attributes={"http.request.method": "POST"}),
    span("planner", "POST /chat", (1, 9), attributes={**AGENT, "input.value": "hi", "output.value": "yo"}),
    span("writer", "planner", (2, 8), attributes={**AGENT, "input.value": "inner", "output.value": "inner"}),
    span("search", "writer", (3, 4), attributes={"openinference.span.kind": "TOOL"}, status={"code": 2}),
]
WORKFLOW = [
    span("Agent workflow", None, (0, 10), attributes=AGENT),
    span("Agent workflow", "Agent workflow", (0, 10), spanId="f" * 16, attributes={"openinference.span.kind": "CHAIN"}),
    span("triage", "Agent workflow", (1, 9), parentSpanId="f" * 16, attributes={**AGENT, "input.value": "hi"}),
    span("answer", "triage", (2, 3), attributes={**LLM, "llm.token_count.total": 5}),
]
TOGETHER = [
    span("chain", None, (0, 10), scope="langchain"),
    span("ChatOpenAI", "chain", (1, 9), scope="langchain", attributes={**LLM, "llm.token_count.total": 18}),
    span("ChatCompletion", None, (2, 8), scope="openai", attributes={**LLM, "llm.token_count.total": 18}),
]
TRACES = {
    "remote parent": REMOTE,
    "two roots": TWO_ROOTS,
    "nested": NESTED,
    "served": SERVED,
    "workflow": WORKFLOW,
    "together": TOGETHER,
    "pending": [*TWO_ROOTS, span("agent A", None, (10, None), attributes=AGENT)],
}


@pytest.mark.parametrize("name", list(TRACES))
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_order_and_split_of_the_spans_of_a_trace_tells_the_same_run(
    name: str, told: Told, data: st.DataObject
) -> None:
    spans = TRACES[name]
    order = data.draw(st.permutations([*spans, *spans[:1]]))
    cuts = sorted(data.draw(st.lists(st.integers(1, len(order)), max_size=3)))
    requests = [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    assert told.run(*(request for request in requests if request)) == told.run(spans)


def test_a_run_whose_root_is_elsewhere_is_told_from_its_topmost_step(told: Told) -> None:
    run = told.run(REMOTE)
    assert (run["agent_name"], run["status"], run["is_root_missing"]) == ("agent run", "completed", True)
    assert (run["input"], run["output"], run["conversation_id"], run["environment"]) == ("hello", "bye", "s1", "prod")
    assert (run["started_at"][17:19], run["ended_at"][17:19], run["duration_ms"]) == ("01", "03", 2000)
    assert (run["tokens_used"], run["total_usage"]["output_tokens"], run["step_count"]) == (7, 4, 2)
    assert run["meta_data"]["resource"]["service.name"] == "svc"
    assert [each["name"] for each in run["steps"]] == ["agent run", "chat"]
    assert told.list(status="completed") == ["agent run"]


def test_a_run_without_its_root_is_running_while_a_step_is_and_until_all_ended_long_ago(told: Told) -> None:
    trace_id = f"{next(NUMBERS):032x}"
    run = told.run([*REMOTE, span("late", "agent run", (5, None))], trace_id=trace_id)
    assert (run["status"], run["ended_at"], run["duration_ms"]) == ("running", None, None)
    run = told.run([span("late", "agent run", (5, 6))], trace_id=trace_id)
    assert (run["status"], run["duration_ms"]) == ("completed", 5000)
    events = told.store.events(run_id_of(trace_id), size=1 << 30).events
    patches = [event.patch() for event in events]
    assert run_view("r", patches, quiet="2026-01-31T12:00:05.000000Z")["status"] == "running"
    assert run_view("r", patches, quiet="2026-01-31T12:00:07.000000Z")["status"] == "completed"
    told.store._now = lambda: NOON / 1e9 + 60
    assert told.list(status="running") == ["agent run"]
    told.store._now = lambda: NOON / 1e9 + 6 + 301
    assert told.list(status="running") == []


def test_of_two_roots_the_one_of_an_agent_is_the_run_and_the_other_a_step(told: Told) -> None:
    run = told.run(TWO_ROOTS)
    assert (run["agent_name"], run["status"], run["failed"], run["error_count"]) == ("agent A", "failed", True, 1)
    assert (run["input"], run["output"], run["duration_ms"]) == ("qA", "aA", 50_000)
    assert [(each["name"], each["parent_id"], each["status"]) for each in run["steps"]] == [
        ("toolA", None, "completed"),
        ("memory", None, "completed"),
    ]
    assert run["steps"][1]["meta_data"]["note"] == "kept"
    assert run["steps"][1]["latency_ms"] == 3000


def test_of_two_roots_without_an_agent_the_earliest_is_the_run(told: Told) -> None:
    run = told.run([span("second", None, (5, 6)), span("first", None, (1, 9)), span("child", "second", (5, 6))])
    assert run["agent_name"] == "first"
    second = next(each for each in run["steps"] if each["name"] == "second")
    assert [(each["name"], each["parent_id"]) for each in run["steps"] if each["name"] == "child"] == [
        ("child", second["id"])
    ]


def test_a_root_beside_a_run_of_the_sdk_in_the_same_trace_is_a_step_of_it(told: Told) -> None:
    trace_id = f"{next(NUMBERS):032x}"
    run_id = run_id_of(trace_id)
    assert trace_id_of(run_id) == trace_id
    events = [run_start(run_id, agent_name="ours", input="ours"), step(run_id, name="own"), run_end(run_id)]
    batch = decode_batch(json.dumps(envelope(*events)).encode())
    before = told.run(TWO_ROOTS, others=[batch], trace_id=trace_id)
    assert (before["agent_name"], before["input"], before["status"]) == ("ours", "ours", "completed")
    assert sorted(each["name"] for each in before["steps"]) == ["agent A", "memory", "own", "toolA"]
    other = Told()
    other.store.ingest(batch).result(60)
    assert other.run(TWO_ROOTS, trace_id=trace_id) == before
    other.store.close()


def test_the_environment_of_a_run_is_that_of_its_root_and_not_of_another_service(told: Told) -> None:
    inner = span("retrieve", "root", kind=2, resource={"service.version": "2.0", "deployment.environment": "prod"})
    run = told.run([span("root", None, resource={"service.version": "1.0"}), inner])
    assert (run["release"], run["environment"]) == ("1.0", None)
    run = told.run([inner])
    assert (run["release"], run["environment"]) == ("2.0", "prod")


def test_an_agent_inside_a_run_of_a_web_framework_is_found_and_its_content_shown(told: Told) -> None:
    run = told.run(SERVED)
    assert (run["agent_name"], run["agents"]) == ("POST /chat", ["planner", "writer"])
    assert (run["input"], run["output"]) == ("hi", "yo")
    for query in ({"agent": "planner"}, {"agent": "writer"}, {"agent": "POST /chat"}, {"q": "LANN"}, {"q": "writer"}):
        assert told.list(**query) == ["POST /chat"], query
    assert told.list(agent="search") == told.list(q="nobody") == []


def test_runs_in_which_any_step_failed_are_found_beside_those_that_failed(told: Told) -> None:
    told.run(SERVED)
    told.run(TWO_ROOTS)
    assert told.list(step_status="failed") == ["POST /chat"]
    assert told.list(status="failed") == ["agent A"]


def test_a_failed_run_without_steps_counts_as_an_error(told: Told) -> None:
    run = told.run([span("agent", None, attributes=AGENT, status={"code": 2})])
    assert (run["step_count"], run["error_count"]) == (0, 1)


def test_a_workflow_has_no_copy_of_itself_as_its_first_step(told: Told) -> None:
    run = told.run(WORKFLOW)
    assert [(each["name"], each["parent_id"]) for each in run["steps"]] == [
        ("triage", None),
        ("answer", run["steps"][0]["id"]),
    ]
    assert (run["agent_name"], run["input"], run["tokens_used"], run["agents"]) == (
        "Agent workflow",
        "hi",
        5,
        ["triage"],
    )


def test_calls_that_two_spans_tell_are_counted_once(told: Told) -> None:
    assert told.run(NESTED)["tokens_used"] == 15
    assert told.run(TOGETHER)["tokens_used"] == 18


@pytest.mark.parametrize(
    ("attributes", "cost"),
    [
        ({"gen_ai.usage.cost": 0.25}, 0.25),
        ({"gen_ai.usage.total_cost": 0.25, "gen_ai.usage.input_cost": 0.2}, 0.25),
        ({"gen_ai.usage.input_cost": 0.125, "gen_ai.usage.output_cost": 0.125}, 0.25),
        ({"llm.cost.total": 0.25}, 0.25),
        ({"llm.cost.prompt": 0.125, "llm.cost.completion": 0.125}, 0.25),
        ({"operation.cost": 0.25}, 0.25),
        ({"langfuse.observation.cost_details": '{"input": 0.1, "output": 0.15, "total": 0.25}'}, 0.25),
        ({"langfuse.observation.cost_details": '{"input": 0.125, "output": 0.125}'}, 0.25),
        ({"mlflow.llm.cost": '{"input_cost": 0.1, "output_cost": 0.1, "total_cost": 0.25}'}, 0.25),
        ({"langsmith.usage_metadata": '{"input_tokens": 3, "total_cost": 0.25}'}, 0.25),
        ({"gen_ai.usage.cost": 0}, 0.0),
        ({"gen_ai.usage.cost": -1}, None),
        ({"langfuse.observation.cost_details": "{}"}, None),
        ({}, None),
    ],
)
def test_the_cost_is_read_under_the_names_of_each_convention(
    told: Told, attributes: Mapping[str, Any], cost: float | None
) -> None:
    call = span("chat", "root", attributes={**LLM, **attributes})
    assert told.run([span("root", None), call])["cost_usd"] == cost
    assert told.run([span("agent", None, attributes={**AGENT, **attributes})])["cost_usd"] == cost


@pytest.mark.parametrize(
    ("attributes", "fields", "status"),
    [
        (LLM, {"status": {"code": 1}, "events": [exception("RateLimitError")]}, "failed"),
        ({"langsmith.span.kind": "chain"}, {"status": {"code": 1}, "events": [exception("ValueError")]}, "failed"),
        ({**LLM, "output.value": "yo"}, {"status": {"code": 1}, "events": [exception("RateLimitError")]}, "completed"),
        ({}, {"status": {"code": 1}, "events": [exception("KeyError")]}, "completed"),
        (LLM, {"status": {"code": 2}, "events": [exception("asyncio.exceptions.CancelledError")]}, "cancelled"),
        (LLM, {"status": {"code": 2}, "events": [exception("CancelledError")]}, "cancelled"),
        ({"error.type": "AbortError"}, {"status": {"code": 2}}, "cancelled"),
        ({"agent.state": "cancelled"}, {}, "cancelled"),
        ({}, {"status": {"code": 2, "message": "CancelledError: "}}, "cancelled"),
        (LLM, {"status": {"code": 2}, "events": [exception("TimeoutError")]}, "failed"),
    ],
)
def test_an_exception_of_a_call_is_no_success_and_a_cancelled_call_is_cancelled(
    told: Told, attributes: Mapping[str, Any], fields: Mapping[str, Any], status: str
) -> None:
    run = told.run([span("root", None), span("call", "root", attributes=attributes, **fields)])
    (call,) = run["steps"]
    assert call["status"] == status
    assert run["error_count"] == (status == "failed")
    assert (call["error"] is not None) == (status != "completed" and attributes.get("agent.state") is None)


def test_names_are_those_that_people_know(told: Told) -> None:
    logfire = {"logfire.msg_template": "book {n} rooms", "logfire.msg": "book 3 rooms"}
    assert told.run([span("book {n} rooms", None, attributes=logfire)])["agent_name"] == "book 3 rooms"
    vercel = {"ai.operationId": "ai.generateText", "ai.telemetry.functionId": "travel-agent"}
    assert told.run([span("ai.generateText", None, attributes=vercel)])["agent_name"] == "travel-agent"
    langfuse = {"langfuse.trace.name": "support", "langfuse.trace.metadata.plan": "free"}
    run = told.run([span("handle", "elsewhere", attributes=langfuse)])
    assert (run["agent_name"], run["meta_data"]["plan"]) == ("support", "free")


def test_langsmith_tells_thread_user_tags_and_model(told: Told) -> None:
    root = {
        "langsmith.span.kind": "chain",
        "langsmith.metadata.thread_id": "thread-1",
        "langsmith.metadata.user_id": "ann",
        "langsmith.metadata.plan": "free",
        "langsmith.span.tags": "prod,beta",
    }
    call = {
        "langsmith.span.kind": "llm",
        "langsmith.metadata.ls_model_name": "gpt-4o",
        "langsmith.metadata.ls_provider": "openai",
        "langsmith.span.tags": "seq:step:1",
    }
    run = told.run(
        [span("RunnableSequence", None, attributes=root), span("ChatOpenAI", "RunnableSequence", attributes=call)]
    )
    assert (run["conversation_id"], run["user_id"], run["tags"]) == ("thread-1", "ann", ["prod", "beta"])
    assert run["meta_data"]["plan"] == "free"
    (step_,) = run["steps"]
    assert (step_["model"], step_["provider"], step_["meta_data"]["tags"]) == ("gpt-4o", "openai", ["seq:step:1"])
