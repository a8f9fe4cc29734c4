"""The export of OTLP, and several destinations at once, with the real receiver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import requests

from agentscope import Tracker, create_tracker
from agentscope.exporters.agentscope import AgentScopeExporter
from agentscope.exporters.base import Destination
from agentscope.exporters.otlp import OTLPExporter
from agentscope.exporters.voltagent import VoltAgentExporter
from agentscope.server.ingest import otlp
from agentscope.server.receiver import Receiver
from tests.support import patient
from tests.support.proxy import FaultProxy
from tests.support.read_api import get
from tests.support.recording import balanced
from tests.support.wait import until


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    patient.here(monkeypatch)


def agent(tracker: Tracker) -> str:
    """Record a run with nested steps, a failure and tokens. Returns its id."""
    with tracker.track_run("researcher", input_data={"q": "why?"}, meta_data={"team": "red"}) as run:
        with tracker.track_step_context("plan", step_type="llm_call", input_data=["list"]) as plan:
            plan.output, plan.tokens_used = "a plan", 30
            plan.usage = {"input_tokens": 10, "output_tokens": 20}
            tracker.track_step("search", "tool_call", {"q": 1}, {"hits": [1, 2]}, latency_ms=12, tokens_used=5)
        try:
            with tracker.track_step_context("broken", step_type="tool_call"):
                raise ValueError("no such page")
        except ValueError:
            pass
        run.output = {"answer": 42}
    return run.id


def shape(run: dict[str, Any]) -> Any:
    """The content of a run, without times and ids."""
    names = {step["id"]: step["name"] for step in run["steps"]}
    steps = [
        (
            step["name"],
            names.get(step["parent_id"]),
            *(step[name] for name in ("step_type", "status", "input", "output")),
        )
        for step in run["steps"]
    ]
    head = ("agent_name", "status", "input", "output", "tokens_used", "step_count", "error_count")
    return [run[name] for name in head], sorted(steps, key=str)


EXPECTED = (
    ["researcher", "completed", {"q": "why?"}, {"answer": 42}, 30, 3, 1],
    sorted(
        [
            ("plan", None, "llm_call", "completed", ["list"], "a plan"),
            ("search", "plan", "tool_call", "completed", {"q": 1}, {"hits": [1, 2]}),
            ("broken", None, "tool_call", "failed", None, None),
        ],
        key=str,
    ),
)


def stored(receiver: Receiver, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = get(f"{receiver.url}/api/runs/{run_id}")
    return found


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_runs_arrive_over_otlp_as_they_would_by_our_own_protocol(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, encoding: str, compression: str
) -> None:
    monkeypatch.setattr(otlp, "_ANNOUNCED", {})  # other backends announce no batch call
    exporter = OTLPExporter(endpoint=receiver.url, encoding=encoding, compression=compression)
    with create_tracker(exporters=[exporter]) as tracker:
        run_id = agent(tracker)
        assert tracker.flush()
        assert tracker.stats().protocol == "otlp"
    assert balanced(tracker.stats())
    run = stored(receiver, run_id)
    assert shape(run) == EXPECTED
    assert run["meta_data"]["team"] == "red"
    (broken,) = [step for step in run["steps"] if step["name"] == "broken"]
    assert (broken["error"]["type"], broken["error"]["message"]) == ("ValueError", "no such page")
    assert "Traceback" in broken["error"]["traceback"]


def test_protocol_otlp_is_all_it_takes(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    with create_tracker(protocol="otlp", service_name="shop") as tracker:
        run_id = agent(tracker)
    assert shape(stored(receiver, run_id)) == EXPECTED


def test_the_keys_of_an_otlp_backend_go_in_headers(tmp_path: Any) -> None:
    with Receiver(port=0, db=f"{tmp_path}/a.db", api_key="ask_secret") as receiver:
        for header in ({"Authorization": "Bearer ask_secret"}, {"X-Agentscope-Key": "ask_secret"}):
            with create_tracker(protocol="otlp", endpoint=receiver.url, headers=header) as tracker:
                agent(tracker)
                assert tracker.flush()
        with create_tracker(protocol="otlp", endpoint=receiver.url, headers={"Authorization": "Bearer no"}) as tracker:
            agent(tracker)
            result = tracker.flush(60)
            assert result.pending
            assert "HTTP 401" in (result.problem or "")


@pytest.mark.parametrize("name", ["Authorization", "X-Agentscope-Key", "x-api-key"])
def test_the_batch_call_takes_the_key_where_otlp_has_it_once_it_was_announced(tmp_path: Any, name: str) -> None:
    with Receiver(port=0, db=f"{tmp_path}/a.db", api_key="ask_secret") as receiver:
        key = "Bearer ask_secret" if name == "Authorization" else "ask_secret"
        with create_tracker(protocol="otlp", endpoint=receiver.url, headers={name: key}) as tracker:
            for _ in range(2):
                agent(tracker)
                assert tracker.flush()
            assert tracker.stats().protocol == "agentscope-batch"
        wrong = {"Authorization": "Bearer no", "X-Agentscope-Batch": "/api/ingest/batch"}
        for headers in (wrong, {**wrong, "X-Agentscope-Key": "no"}):
            answer = requests.post(f"{receiver.url}/api/ingest/batch", json={"events": []}, headers=headers, timeout=60)
            assert answer.status_code == 401


def test_a_backend_that_has_no_otlp_says_where_to_look(receiver: Receiver) -> None:
    exporter = OTLPExporter(endpoint=f"{receiver.url}/nowhere/v1/traces")
    with create_tracker(exporters=[exporter], shutdown_timeout=0.1) as tracker:
        agent(tracker)
        result = tracker.flush(60)
        assert "no OTLP endpoint" in (result.problem or "")


def test_a_voltagent_backend_is_spoken_to_in_otlp_where_it_takes_it(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "_ANNOUNCED", {})  # other backends announce no batch call
    exporter = VoltAgentExporter(base_url=receiver.url, public_key="pk", secret_key="sk")
    with create_tracker(exporters=[exporter]) as tracker:
        run_id = agent(tracker)
        assert tracker.flush()
        assert tracker.stats().protocol == "otlp"
    assert shape(stored(receiver, run_id)) == EXPECTED


@pytest.mark.parametrize(
    "make",
    [
        lambda url: VoltAgentExporter(base_url=url, public_key="pk", secret_key="sk"),
        lambda url: OTLPExporter(endpoint=url),
        lambda url: OTLPExporter(endpoint=f"{url}/v1/traces", encoding="json"),
        lambda url: OTLPExporter(endpoint=f"{url}/api/public/otel"),
    ],
)
def test_a_receiver_is_spoken_to_in_batches_by_whatever_exporter_names_it(
    receiver: Receiver, make: Callable[[str], Destination]
) -> None:
    with create_tracker(exporters=[make(receiver.url)]) as tracker:
        for _ in range(2):  # by spans first, then in batches
            run_id = agent(tracker)
            assert tracker.flush()
            assert shape(stored(receiver, run_id)) == EXPECTED
        assert tracker.stats().protocol == "agentscope-batch"
        assert balanced(tracker.stats())


@pytest.mark.parametrize("status", [404, 405])
def test_a_voltagent_backend_without_otlp_gets_the_history_calls(receiver: Receiver, status: int) -> None:
    with FaultProxy(receiver.url) as proxy:
        proxy.plan([("status", {"code": status})])
        exporter = VoltAgentExporter(base_url=proxy.url, public_key="pk", secret_key="sk")
        with create_tracker(exporters=[exporter]) as tracker:
            run_id = agent(tracker)
            assert tracker.flush()
            assert tracker.stats().protocol == "voltagent-history"
        assert balanced(tracker.stats())
    assert shape(stored(receiver, run_id)) == EXPECTED


def test_several_destinations_get_everything_and_one_that_is_down_holds_up_none(receiver: Receiver) -> None:
    exporters = [
        AgentScopeExporter(api_key="ask_test", base_url=receiver.url),
        OTLPExporter(endpoint="http://127.0.0.1:9", timeout=0.5),
    ]
    with create_tracker(exporters=exporters, shutdown_timeout=0.5) as tracker:
        run_id = agent(tracker)
        until(lambda: tracker.stats().exporters[0].delivered == 5, 60)
        result = tracker.flush(0.1)
        first, second = tracker.stats().exporters
        assert (first.pending, first.delivered) == (0, 5)
        assert second.pending == 5
        assert (result.pending, bool(result)) == (5, False)
        assert shape(stored(receiver, run_id)) == EXPECTED
    assert balanced(tracker.stats())


def test_a_run_that_is_never_ended_is_sent_at_shutdown(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_ANNOUNCED", {})  # other backends announce no batch call
    tracker = create_tracker(protocol="otlp", endpoint=receiver.url)
    run_id = tracker.start_run("forgetful", input_data=1)
    tracker.track_step("only")
    assert tracker.flush()
    assert tracker.stats().unfinished == 1
    assert tracker.shutdown()
    assert balanced(tracker.stats())
    run = stored(receiver, run_id)
    assert (run["agent_name"], run["status"], run["step_count"]) == ("forgetful", "running", 1)


def test_agents_in_different_processes_form_one_run(receiver: Receiver) -> None:
    caller = create_tracker("ask_a", receiver.url)
    callee = create_tracker("ask_b", receiver.url)  # another key: only the trace context in the headers is shared
    with caller.track_run("planner") as run, caller.track_step_context("delegate", step_type="agent") as delegate:
        headers = caller.inject({"accept": "*/*"})
    assert set(headers) == {"accept", "traceparent", "tracestate"}

    async def serve() -> None:
        async with callee.extract(headers) as remote:
            assert (bool(remote), remote.run_id, remote.step_id) == (True, run.id, delegate.id)
            assert callee.track_step("receive")
            async with callee.track_run("worker", input_data={"task": 1}) as inner:
                async with callee.track_step_context("think", step_type="llm_call"):
                    assert callee.track_step("use", "tool_call")
                assert callee.track_step("named", run_id=inner)
                inner.output = {"done": True}
        assert not callee.track_step("outside")

    asyncio.run(serve())
    assert caller.shutdown()
    assert callee.shutdown()
    assert balanced(callee.stats())
    told = stored(receiver, run.id)
    names = {step["id"]: step["name"] for step in told["steps"]}
    assert {step["name"]: names.get(step["parent_id"]) for step in told["steps"]} == {
        "delegate": None,
        "receive": "delegate",
        "worker": "delegate",
        "think": "worker",
        "use": "think",
        "named": "worker",
    }
    (worker,) = [step for step in told["steps"] if step["name"] == "worker"]
    assert (worker["step_type"], worker["status"], worker["output"]) == ("agent", "completed", {"done": True})
    assert len(get(f"{receiver.url}/api/runs")["runs"]) == 1


def test_start_run_and_end_run_within_another_process_run_are_a_step_there(receiver: Receiver) -> None:
    tracker = create_tracker("ask_a", receiver.url)
    with tracker.track_run("planner") as run:
        headers = tracker.inject({})
    with tracker.extract(headers):
        inner = tracker.start_run("worker")
        assert inner != run.id
        assert tracker.current_run_id == run.id
        assert tracker.track_step("inside")
        assert tracker.end_run(output="over")
        assert tracker.track_step("beside")
    assert tracker.shutdown()
    told = stored(receiver, run.id)
    names = {step["id"]: step["name"] for step in told["steps"]}
    assert {step["name"]: names.get(step["parent_id"]) for step in told["steps"]} == {
        "worker": None,
        "inside": "worker",
        "beside": None,
    }
    assert {step["name"]: step["status"] for step in told["steps"]}["worker"] == "completed"
    assert told["status"] == "completed"


def test_headers_that_name_nothing_change_nothing(receiver: Receiver) -> None:
    tracker = create_tracker("ask_a", receiver.url)
    assert tracker.inject({"a": "1"}) == {"a": "1"}
    with tracker.track_run("agent") as run, tracker.extract({"traceparent": "nonsense"}) as remote:
        assert (bool(remote), remote.run_id) == (False, None)
        assert tracker.current_run_id == run.id
        assert tracker.track_step("here")
    for strange in (None, 5, object(), [1], {"traceparent": object()}):
        with tracker.extract(strange):
            pass
        tracker.inject(strange)
    assert tracker.shutdown()
    assert [step["name"] for step in stored(receiver, run.id)["steps"]] == ["here"]
