"""Rows are the same whether folds are remembered from batch to batch or made anew from all that is stored."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.protocols.agentscope.decode import Patch, decode_batch
from agentscope.server.storage import registers
from agentscope.server.storage.base import StoredEvent
from agentscope.server.storage.fold import fold
from agentscope.server.storage.rows import step_row
from agentscope.server.storage.sqlite.append import FoldCache, write_batch
from agentscope.server.storage.sqlite.refresh import Refresher
from agentscope.server.storage.sqlite.schema import _TABLES
from agentscope.server.storage.summary import root_rows, summary_of
from tests.support.receiver import at, envelope, run_end, run_start

Event = dict[str, Any]


def database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(_TABLES)
    return db


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    opened = database()
    yield opened
    opened.close()


def write(db: sqlite3.Connection, cache: FoldCache | None, events: list[Event], *, keep: bool = True) -> None:
    batch = decode_batch(json.dumps(envelope(*events)).encode(), lean=True)
    assert not batch.rejected
    db.execute("BEGIN IMMEDIATE")
    write_batch(db, batch, 0.0, cache)
    db.execute("COMMIT" if keep else "ROLLBACK")


def tables(db: sqlite3.Connection) -> tuple[list[Any], list[Any]]:
    Refresher(FoldCache()).refresh(db, 60.0)
    columns = "agent_name, status, source, tags, failed, started_at, ended_at, tokens, cost, agents, step_count, first_at, began"
    runs = f"SELECT id, {columns} FROM runs ORDER BY id"
    columns = "r.id, s.id, s.name, s.type, s.failed, s.parent, s.tokens, s.cost, s.model, s.root"
    steps = f"SELECT {columns} FROM steps s JOIN runs r ON r.key=s.run ORDER BY r.id, s.id"
    return db.execute(runs).fetchall(), db.execute(steps).fetchall()


def expected(patches: list[Patch]) -> tuple[list[Any], list[Any]]:
    runs, steps = [], []
    for run_id in sorted({patch.run_id for patch in patches}):
        of_run = [patch for patch in patches if patch.run_id == run_id]
        own = [patch for patch in of_run if patch.step_id is None]
        run = fold(own) if own else {}
        step_ids = {patch.step_id for patch in of_run if patch.step_id is not None}
        rows = {step: step_row(fold(patch for patch in of_run if patch.step_id == step)) for step in step_ids}
        rows = {**root_rows(run), **rows}
        row = summary_of(run_id, run, rows).row
        first, last = (edge(patch.time for patch in of_run) for edge in (min, max))
        lists = {name: json.dumps(row[name]) if row[name] else None for name in ("tags", "agents")}
        row = {**row, **lists, "tokens": row["tokens_used"], "cost": row["cost_usd"], "first_at": first}
        names = (
            "agent_name",
            "status",
            "source",
            "tags",
            "failed",
            "started_at",
            "ended_at",
            "tokens",
            "cost",
            "agents",
        )
        columns = [row[name] for name in (*names, "step_count", "first_at")]
        runs.append((run_id, *columns, min(row["started_at"] or first, last)))
        for step, told in sorted(rows.items()):
            counts = told.account.tokens.total, told.account.cost
            steps.append(
                (
                    run_id,
                    step,
                    told.name,
                    told.step_type,
                    told.failed,
                    told.parent_id,
                    *counts,
                    told.model,
                    told.is_root,
                )
            )
    return runs, steps


usage = (
    st.none() | st.dictionaries(st.sampled_from(["total_tokens", "x"]), st.integers(0, 9), max_size=2) | st.just([1])
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "agent_name": st.sampled_from(["a", "b" * 1001, "b" * 1002, None]),
        "source": st.sampled_from(["x", None]),
        "tags": st.sampled_from([["a"], ["b" * 1001, "c"], [], None]),
        "model": st.sampled_from(["m", "n" * 1001, None]),
        "step_type": st.sampled_from(["llm_call", "agent", None]),
        "span_id": st.sampled_from(["f0", "s0"]),
        "parent_id": st.sampled_from(["f0", "s0", "s1", None]),
        "status": st.sampled_from(["running", "failed", None]),
        "started_at": st.sampled_from([at(1), at(2), None]),
        "error": st.sampled_from([None, {}, {"message": "no"}]),
        "usage": usage,
        "tokens_used": st.none() | st.integers(0, 9),
        "cost_usd": st.sampled_from([0.1, 3, None]),
    },
)
names = st.tuples(st.sampled_from(["r0", "r1"]), st.sampled_from([None, "s0", "s1"]))
kinds = st.sampled_from(["start", "update", "end"])
written = st.lists(st.tuples(names, kinds, st.integers(0, 6), fields), min_size=1, max_size=12)


@given(written, st.data(), st.integers(1, 4))
def test_any_order_split_repetition_and_rollback_of_events_ends_in_the_rows_of_their_fold(
    written: list[Any], data: st.DataObject, most: int
) -> None:
    events = []
    for number, ((run_id, step_id), kind, second, values) in enumerate(written):
        head = {"id": f"e{number}", "seq": number % 3, "time": at(second), "run_id": run_id, "step_id": step_id}
        events.append({**head, "type": f"{'run' if step_id is None else 'step'}.{kind}", "parent_id": None, **values})
    order = data.draw(st.permutations([*events, *events[:3]]))
    cache, db = FoldCache(most), database()
    while order:
        count = data.draw(st.integers(1, len(order)))
        if data.draw(st.booleans()):
            write(db, cache, order[-count:], keep=False)
        write(db, cache, order[:count])
        order = order[count:]
    patches = decode_batch(json.dumps(envelope(*events)).encode()).patches
    assert tables(db) == expected(patches)
    db.close()


def update(second: float, **values: Any) -> Event:
    head = {"id": f"u{second}", "seq": 0, "time": at(second), "type": "run.update", "run_id": "run-1", "step_id": None}
    return {**head, "parent_id": None, **values}


def reads(db: sqlite3.Connection, cache: FoldCache, event: Event) -> int:
    """Count the queries for stored bodies while an event is written."""
    asked: list[str] = []
    db.set_trace_callback(asked.append)
    write(db, cache, [event])
    db.set_trace_callback(None)
    return sum(statement.startswith("SELECT session_id, body") for statement in asked)


def test_a_later_event_is_folded_without_reading_the_stored_ones(db: sqlite3.Connection) -> None:
    cache = FoldCache()
    write(db, cache, [run_start(time=at(1))])
    assert [reads(db, cache, update(second, status=str(second))) for second in (2, 3, 4)] == [0, 0, 0]
    assert tables(db)[0][0][2] == "4"


def test_a_late_event_is_folded_without_reading_the_stored_ones(db: sqlite3.Connection) -> None:
    cache = FoldCache()
    write(db, cache, [run_start(time=at(5))])
    assert reads(db, cache, update(2, agent_name="early")) == 0
    assert reads(db, cache, update(6, agent_name="late")) == 0
    assert tables(db)[0][0][1] == "late"


class Counted(FoldCache):
    """A cache that forgets everything, and counts the events that are read back."""

    read = 0

    def begin(self, db: sqlite3.Connection) -> None:
        super().begin(db)
        self._folds.clear()


@pytest.mark.parametrize("order", ["forwards", "backwards", "long texts"])
def test_the_events_that_are_read_back_for_an_update_do_not_grow_with_their_number(
    db: sqlite3.Connection, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    patch_of = StoredEvent.patch

    def counted(event: StoredEvent) -> Patch:
        read[-1] += 1
        return patch_of(event)

    monkeypatch.setattr(StoredEvent, "patch", counted)
    cache = Counted()
    write(db, cache, [run_start(time=at(30))])
    seconds = [number / 100 for number in range(1000)]
    for second in seconds[::-1] if order == "backwards" else seconds:
        read.append(0)
        name = "n" * 900 if order == "long texts" else "n"
        write(db, cache, [{**update(second, agent_name=f"{name}{second:.2f}"), "id": f"u{second:.2f}"}])
    assert max(read) <= 2 * 64
    assert tables(db)[0][0][1] == "tester"
    (saved,) = db.execute("SELECT count(*) FROM folds").fetchone()
    assert saved == 1


@pytest.mark.parametrize("change", ["UPDATE events SET received_at=1", "DELETE FROM events"])
def test_a_change_by_others_makes_it_forget(db: sqlite3.Connection, change: str) -> None:
    cache = FoldCache()
    write(db, cache, [run_start(time=at(1))])
    db.execute(change)
    assert reads(db, cache, update(2)) == 1


@pytest.mark.parametrize("change", ["UPDATE events SET received_at=1", "DELETE FROM events"])
def test_a_change_through_another_connection_makes_it_forget(tmp_path: Path, change: str) -> None:
    cache = FoldCache()
    first, second = (sqlite3.connect(tmp_path / "runs.db", isolation_level=None) for _ in range(2))
    first.executescript(_TABLES)
    write(first, cache, [run_start(time=at(1))])
    second.execute(change)
    assert reads(first, cache, update(2)) == 1
    first.close()
    second.close()


def test_a_rolled_back_event_is_not_remembered(db: sqlite3.Connection) -> None:
    cache = FoldCache()
    write(db, cache, [run_start(time=at(1), agent_name="kept")])
    write(db, cache, [update(2, agent_name="lost")], keep=False)
    assert reads(db, cache, update(3, status="failed")) == 1
    assert tables(db)[0][0][1] == "kept"


def test_no_more_folds_are_kept_than_allowed_and_none_with_long_texts(db: sqlite3.Connection) -> None:
    cache = FoldCache(2)
    write(db, cache, [run_start(f"run-{number}") for number in range(5)])
    assert len(cache._folds) == 2
    write(db, cache, [run_start("long", agent_name="n" * 500), run_start("tagged", tags=["t" * 50] * 10)])
    assert {run for run, _ in cache._folds} == {4, 5}


def root(number: int) -> Event:
    """A root of a trace that has several."""
    values = {"span_id": f"{number:016x}", "step_type": "agent", "agent_name": "n", "started_at": at(number / 100)}
    return run_end(id=f"root-{number}", **values)


def test_one_more_root_of_a_trace_is_folded_and_written_without_the_others(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded: list[registers._Item] = []
    original = registers._Item.fields

    def counted(item: registers._Item) -> dict[str, Any]:
        folded.append(item)
        return original(item)

    monkeypatch.setattr(registers._Item, "fields", counted)
    cache = FoldCache()
    work = []
    for first, last in ((0, 10), (11, 1500)):
        write(db, cache, [root(number) for number in range(first, last)])
        folded.clear()
        before = db.total_changes
        assert reads(db, cache, root(last)) == 0
        work.append((len(folded), db.total_changes - before))
    assert work[0] == work[1]
    assert db.execute("SELECT count(*) FROM steps WHERE root").fetchone() == (1501,)


def test_the_roots_of_the_folds_that_are_kept_are_counted(db: sqlite3.Connection) -> None:
    cache = FoldCache(20)
    write(db, cache, [run_start("a"), *(root(number) for number in range(10))])
    assert [run for run, _ in cache._folds] == [1, 2]
    write(db, cache, [run_start(f"b{number}") for number in range(10)])
    assert [run for run, _ in cache._folds] == [*range(3, 13)]
    write(db, cache, [root(number) for number in range(10, 30)])
    assert 2 not in {run for run, _ in cache._folds}
    assert cache._count == len(cache._folds) == 10
