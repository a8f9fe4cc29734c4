"""Rows of runs are made anew before they are read, and the work for a large run grows with its steps and not with its batches."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from agentscope.protocols.agentscope.decode import decode_batch
from agentscope.server.storage.base import RunQuery
from agentscope.server.storage.sqlite import run_rows, store
from agentscope.server.storage.sqlite.append import FoldCache, write_batch
from agentscope.server.storage.sqlite.refresh import Refresher
from agentscope.server.storage.sqlite.run_rows import LARGE
from agentscope.server.storage.sqlite.schema import _TABLES
from agentscope.server.storage.sqlite.store import SQLiteStore
from tests.support.receiver import at, envelope, run_end, run_start, step


class Asked(Refresher):
    """Makes no row anew by itself."""

    def __call__(self, db: sqlite3.Connection) -> bool:
        return False


class Calm(SQLiteStore):
    """A store whose writer makes rows anew only when they are read."""

    told = 0

    def __init__(self) -> None:
        super().__init__()
        self._refresher = Asked(self._cache)

    def send(self, *events: dict[str, Any]) -> None:
        self.ingest(decode_batch(json.dumps(envelope(*events)).encode())).result(60)

    def run(self) -> dict[str, Any]:
        (run,) = self.list_runs(RunQuery()).runs
        return run


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calm]:
    original = run_rows.summary_of

    def counted(run_id: str, run: Any, rows: Any) -> Any:
        Calm.told += len(rows)
        return original(run_id, run, rows)

    monkeypatch.setattr(run_rows, "summary_of", counted)
    monkeypatch.setattr(Calm, "told", 0)
    monkeypatch.setattr(store, "_REFRESH_SECONDS", 60.0)
    opened = Calm()
    yield opened
    opened.close()


def test_a_run_of_many_batches_is_told_once_it_is_read_and_not_again(calm: Calm) -> None:
    for number in range(20):
        calm.send(step("r", step_id=f"s{number}", tokens_used=1))
    assert Calm.told == 0
    assert [calm.run()["tokens_used"] for _ in range(3)] == [20, 20, 20]
    assert Calm.told == 20


def test_a_row_that_cannot_be_told_stays_and_the_others_are_made_anew(
    calm: Calm, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run_rows.summary_of

    def summary_of(run_id: str, run: Any, rows: Any) -> Any:
        if run_id == "bad":
            raise AttributeError("a bug")
        return original(run_id, run, rows)

    monkeypatch.setattr(run_rows, "summary_of", summary_of)
    calm.send(step("bad"), step("r"), run_start("bad"))
    assert {run["id"]: run["step_count"] for run in calm.list_runs(RunQuery()).runs} == {"bad": 0, "r": 1}


def test_a_large_run_that_is_read_after_each_batch_is_told_when_it_has_grown_by_a_quarter(calm: Calm) -> None:
    calm._refresher._next_read = float("inf")
    size = 200
    for start in range(0, 5 * LARGE, size):
        calm.send(*(step("r", step_id=f"s{start + number}", tokens_used=1) for number in range(size)))
        assert calm.run()["step_count"] >= (start + size) * 4 // 5 - size
    assert Calm.told < LARGE * LARGE // size + 5 * 5 * LARGE
    calm._refresher._next_read = 0.0
    assert calm.run()["step_count"] == 5 * LARGE


def test_a_huge_run_is_told_from_its_first_steps_and_the_sums_of_all(
    calm: Calm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_rows, "MOST_READ", 50)
    monkeypatch.setattr(run_rows, "_FIRST", 10)
    agent = step("r", step_id="agent", name="planner", step_type="agent", tokens_used=100, started_at=at(59))
    calls = [
        step(
            "r",
            step_id=f"s{number}",
            step_type="llm_call",
            tokens_used=2,
            started_at=at(number / 10),
            ended_at=at(number),
        )
        for number in range(59)
    ]
    calm.send(agent, *calls)
    run = calm.run()
    assert (run["agent_name"], run["step_count"], run["tokens_used"], run["status"]) == (
        "planner",
        60,
        118,
        "completed",
    )
    assert (run["ended_at"], run["is_root_missing"]) == (at(58), True)
    assert Calm.told <= 20
    calm.send(run_start("r"), run_end("r"))
    assert (calm.run()["agent_name"], calm.run()["duration_ms"]) == ("tester", 60_000)


def test_the_writer_makes_rows_anew_by_itself_twice_a_second_at_most() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(_TABLES)
        now, cache = [0.0], FoldCache()
        refresher = Refresher(cache, lambda: now[0])
        behind = []
        for second in (0.0, 0.1, 0.6):
            now[0] = second
            write_batch(db, decode_batch(json.dumps(envelope(step("r"))).encode()), 0.0, cache)
            assert not refresher(db)
            behind.append(db.execute("SELECT unsummed FROM runs").fetchone()[0])
    assert behind == [0, 1, 0]
