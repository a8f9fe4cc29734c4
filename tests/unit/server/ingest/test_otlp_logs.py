"""The join of log records with their spans: taken together, by several projects, and beside strange events of others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from agentscope.protocols.agentscope.decode import Batch
from agentscope.protocols.ids import run_id_of
from agentscope.protocols.otlp.inbound.log_records import RECORDS, stored_records
from agentscope.server.app import Front
from agentscope.server.http.addressing import Addressing
from agentscope.server.http.keys import Key, Keys
from agentscope.server.http.limits import Limits
from agentscope.server.ingest.intake import Intake
from agentscope.server.storage.base import IngestCounts, StoredEvent
from agentscope.server.storage.sqlite.store import SQLiteStore

START = 1_700_000_000 * 10**9
ROOT, CHILD = "aa" * 8, "bb" * 8
TOLD = [{"role": "user", "content": "hi"}]


def attributes(values: dict[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]


def root(trace_id: str, operation: str = "invoke_agent", **fields: Any) -> dict[str, Any]:
    span = {
        "traceId": trace_id,
        "spanId": ROOT,
        "name": "agent",
        "startTimeUnixNano": str(START),
        "endTimeUnixNano": str(START + 10**9),
        "attributes": attributes({"gen_ai.operation.name": operation}),
        **fields,
    }
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


def record(trace_id: str, span_id: str = ROOT, text: str = "hi") -> dict[str, Any]:
    made = {
        "timeUnixNano": str(START + 5),
        "traceId": trace_id,
        "spanId": span_id,
        "eventName": "gen_ai.user.message",
        "attributes": attributes({"content": text}),
    }
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": [made]}]}]}


class Application:
    """A receiver of two projects, called in one event loop. It may be started again over the same store."""

    def __init__(self) -> None:
        self.store = SQLiteStore(None)
        self.start()

    def start(self) -> None:
        keys = Keys(None, [Key("a", "admin", "A", b"ka"), Key("b", "admin", "B", b"kb")])
        front = Front(keys, Addressing([], has_key=True))
        front.open(self.store, Limits())
        self._app = front.app

    async def post(self, path: str, body: Any, key: str = "ka") -> None:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            answer = await client.post(path, json=body, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200, answer.text
        assert "artial" not in answer.text

    async def run(self, trace_id: str, key: str = "ka") -> dict[str, Any]:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            answer = await client.get(f"/api/runs/{run_id_of(trace_id)}", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def disturb(self, trace_id: str, step_id: str, **fields: Any) -> None:
        event = {
            "id": "e",
            "type": "step.update",
            "run_id": run_id_of(trace_id),
            "step_id": step_id,
            "time": "2040-01-01T00:00:00Z",
            "seq": 1,
            **fields,
        }
        await self.post("/api/ingest/batch", {"batch_id": "1", "session_id": "s", "events": [event]})


@pytest.fixture
def application() -> Iterator[Application]:
    made = Application()
    yield made
    made.store.close()


def assert_told_by_the_root(run: dict[str, Any]) -> None:
    assert (run["agent_name"], run["input"], run["status"]) == ("agent", TOLD, "completed")
    assert {(step["name"], step["status"]) for step in run["steps"]} <= {("agent", "completed")}
    assert all(step["input"] == TOLD for step in run["steps"])


@pytest.mark.parametrize("operation", ["invoke_agent", "chat"])
@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("inner", ["/v1/traces", "/v1/logs"])
def test_a_root_has_its_log_records_if_both_are_taken_at_the_same_time(
    application: Application, monkeypatch: pytest.MonkeyPatch, inner: str, is_before: bool, operation: str
) -> None:
    """One request is taken as a whole just before or just after the first commit of the other one."""
    bodies = {"/v1/traces": root("11" * 16, operation), "/v1/logs": record("11" * 16)}
    (outer,) = bodies.keys() - {inner}
    commit, commits = Intake.commit, 0

    async def commit_meanwhile(self: Intake, batch: Batch) -> IngestCounts:
        nonlocal commits
        commits += 1
        if commits > 1:
            return await commit(self, batch)
        if is_before:
            await application.post(inner, bodies[inner])
            return await commit(self, batch)
        counts = await commit(self, batch)
        await application.post(inner, bodies[inner])
        return counts

    monkeypatch.setattr(Intake, "commit", commit_meanwhile)

    async def main() -> None:
        await application.post(outer, bodies[outer])
        assert_told_by_the_root(await application.run("11" * 16))

    asyncio.run(asyncio.wait_for(main(), 60))


def test_roots_have_their_log_records_if_many_requests_are_taken_together(application: Application) -> None:
    traces = [f"{number:032x}" for number in range(1, 13)]

    async def main() -> None:
        for trace_id in traces:
            await asyncio.gather(
                application.post("/v1/logs", record(trace_id)), application.post("/v1/traces", root(trace_id))
            )
            assert_told_by_the_root(await application.run(trace_id))

    asyncio.run(main())


def test_a_root_has_the_log_records_that_came_before_a_restart(application: Application) -> None:
    async def main() -> None:
        await application.post("/v1/logs", record("11" * 16))
        application.start()
        await application.post("/v1/traces", root("11" * 16))
        assert_told_by_the_root(await application.run("11" * 16))

    asyncio.run(main())


def test_a_root_that_ends_later_ends_its_step_too(application: Application) -> None:
    async def main() -> None:
        await application.post("/v1/logs", record("11" * 16))
        await application.post("/v1/traces", root("11" * 16, endTimeUnixNano="0"))
        assert [step["status"] for step in (await application.run("11" * 16))["steps"]] == ["running"]
        await application.post("/v1/traces", root("11" * 16))
        assert_told_by_the_root(await application.run("11" * 16))

    asyncio.run(main())


def test_log_records_of_one_project_make_no_step_in_the_run_of_another(application: Application) -> None:
    async def main() -> None:
        await application.post("/v1/logs", record("11" * 16), key="kb")
        await application.post("/v1/traces", root("11" * 16), key="ka")
        run = await application.run("11" * 16)
        assert (run["steps"], run["input"]) == ([], None)

    asyncio.run(main())


def test_log_records_are_taken_beside_a_strange_event_of_another_protocol(application: Application) -> None:
    async def main() -> None:
        await application.disturb("11" * 16, CHILD, **{RECORDS: {"x": 5}})
        await application.post("/v1/logs", record("11" * 16, CHILD))
        (step,) = (await application.run("11" * 16))["steps"]
        assert step["input"] == TOLD

    asyncio.run(main())


def test_an_event_of_another_protocol_is_no_log_record_of_a_root(application: Application) -> None:
    async def main() -> None:
        await application.post("/v1/logs", record("11" * 16))
        await application.disturb("11" * 16, ROOT, input="forged", **{RECORDS: {}})
        await application.post("/v1/traces", root("11" * 16))
        assert (await application.run("11" * 16))["input"] == TOLD

    asyncio.run(main())


@pytest.mark.parametrize(
    "told",
    [5, [], {"x": 5}, {"x": []}, {"x": [1, 2, "n", []]}, {"x": ["1", 2, "n", {}]}, {"x": [True, 2, "n", {}]}, None],
)
@pytest.mark.parametrize("session", ["otlp", "s"])
def test_records_of_another_shape_are_not_read(told: Any, session: str) -> None:
    event = {"id": "e", "type": "step.update", "run_id": "r", "step_id": "s", "time": "t", "seq": 0}
    good = {"y": [1, 2, "gen_ai.user.message", {"content": "hi"}]}
    events = [
        StoredEvent("otlp", json.dumps({**event, RECORDS: good})),
        StoredEvent(session, json.dumps({**event, RECORDS: told})),
        StoredEvent("s", json.dumps({**event, RECORDS: {"z": good["y"]}})),
    ]
    assert stored_records([each.patch() for each in events]) == good


def test_two_requests_about_the_same_runs_do_not_wait_for_each_other_for_ever(application: Application) -> None:
    def records(*traces: str) -> dict[str, Any]:
        return {"resourceLogs": [record(trace_id, text="hi")["resourceLogs"][0] for trace_id in traces]}

    async def main() -> None:
        one, other = "11" * 16, "22" * 16
        orders = [(one, other), (other, one)] * 4
        await asyncio.gather(*(application.post("/v1/logs", records(*order)) for order in orders))
        for trace_id in (one, other):
            assert [step["input"] for step in (await application.run(trace_id))["steps"]] == [TOLD]

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_large_run_of_others_does_not_bound_the_log_records_of_a_span(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentscope.server.ingest.otlp_logs._MOST_STORED", 10_000)

    async def main() -> None:
        await application.disturb("11" * 16, CHILD, input="x" * 20_000)
        await application.post("/v1/logs", record("11" * 16, CHILD, "hi"))
        await application.post("/v1/logs", record("11" * 16, CHILD, "x" * 20_000))
        with pytest.raises(AssertionError, match="artial"):
            await application.post("/v1/logs", record("11" * 16, CHILD, "more"))

    asyncio.run(main())


def test_a_root_has_no_log_records_of_another_root_that_mentions_its_id(application: Application) -> None:
    async def main() -> None:
        trace_id, other = "11" * 16, "cc" * 8
        await application.post("/v1/traces", root(trace_id))
        await application.post("/v1/traces", root(trace_id, spanId=other, name="other"))
        await application.post("/v1/logs", record(trace_id, other, f"about {ROOT}"))
        await application.post("/v1/logs", record(trace_id, ROOT, "hi"))
        bodies = [
            json.loads(event.body) for event in application.store.item_events(run_id_of(trace_id), None, project="A")
        ]
        told = {body["span_id"]: body["input"] for body in bodies if RECORDS in body}
        assert told == {ROOT: TOLD, other: [{"role": "user", "content": f"about {ROOT}"}]}

    asyncio.run(main())
