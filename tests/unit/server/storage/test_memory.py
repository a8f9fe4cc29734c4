"""The store in memory passes the conformance suite, and the receiver works over it: no other code knows the engine."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from agentscope.server.app import create_app
from agentscope.server.storage.base import RunPage, RunQuery, Store, Unsupported
from tests.support.receiver import JSON_HEADERS, envelope, run_start, step

from .conformance import Conformance, OpenStore
from .memory_store import MemoryStore


class TestMemoryStore(Conformance):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        return MemoryStore

    def let_pass(self, store: MemoryStore, seconds: float) -> None:
        store.now += seconds


class Client:
    """Requests to the receiver's application, without a socket."""

    def __init__(self, store: Store) -> None:
        self._app = create_app(store, allowed_hosts=["testserver"])

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())


def test_the_receiver_stores_and_reads_over_any_store() -> None:
    ask = Client(MemoryStore())
    sent: list[Any] = [run_start(agent_name="planner"), step(step_id="s", input="x" * 300_000)]
    answer = ask("POST", "/api/ingest/batch", json=envelope(*sent), headers=JSON_HEADERS)
    assert answer.json() == {"accepted": 2, "duplicates": 0, "rejected": []}
    assert ask("POST", "/api/ingest/run/run-1/step", json={"name": "late"}, headers=JSON_HEADERS).status_code == 200
    assert [run["step_count"] for run in ask("GET", "/api/runs").json()["runs"]] == [2]
    assert [each["name"] for each in ask("GET", "/api/runs/run-1").json()["steps"]] == ["search", "late"]
    events = ask("GET", "/api/runs/run-1/events").json()["events"]
    assert [event["session_id"] for event in events] == ["session-1", "session-1", "classic"]
    assert "planner" in ask("GET", "/").text
    assert ask("GET", "/health").json()["events"] == 3


def test_a_filter_that_the_engine_does_not_have_is_answered_with_501() -> None:
    class NoSearch(MemoryStore):
        def list_runs(self, query: RunQuery) -> RunPage:
            if query.q is not None:
                raise Unsupported("this store cannot search")
            return super().list_runs(query)

    ask = Client(NoSearch())
    assert ask("GET", "/api/runs").status_code == 200
    answer = ask("GET", "/api/runs?q=x")
    assert (answer.status_code, answer.json()) == (501, {"detail": "this store cannot search."})
