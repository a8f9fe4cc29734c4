"""A run disappears in one transaction, its events in many, and it stays away for as long as a sender may repeat them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentscope.protocols.agentscope.decode import decode_batch
from agentscope.server.storage.base import RunQuery
from agentscope.server.storage.sqlite.append import write_batch
from agentscope.server.storage.sqlite.retention import TOMBSTONES_KEPT, Sweeper, delete_runs
from agentscope.server.storage.sqlite.schema import open_writer, transaction
from agentscope.server.storage.sqlite.store import SQLiteStore
from tests.support.receiver import envelope, run_end, run_start, step
from tests.support.wait import until

DAY = 86400.0


class Clock:
    now = 100 * DAY

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_writer(path)) as opened:
        yield opened


def write(db: sqlite3.Connection, now: float, *events: Any) -> int:
    with transaction(db):
        return write_batch(db, decode_batch(json.dumps(envelope(*events)).encode()), now).accepted


def count(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_retention_never_leaves_a_part_of_a_run(path: Path, db: sqlite3.Connection) -> None:
    clock = Clock()
    write(db, 10 * DAY, run_start("old"), *(step("old") for _ in range(1000)), run_end("old"))
    sweep = Sweeper(7 * DAY, clock, steady=clock)
    with closing(SQLiteStore(path)) as store:
        found = []
        for _ in range(3):
            sweep(db)
            found.append(
                (
                    store.run_size("old"),
                    len(store.events("old", size=1 << 30).events),
                    len(store.list_runs(RunQuery()).runs),
                )
            )
            assert store.health()["events"] == 0
        assert found == [(None, 0, 0)] * 3


def test_everything_of_a_deleted_run_is_removed_in_portions(db: sqlite3.Connection) -> None:
    clock = Clock()
    write(db, clock.now, run_start("a"), *(step("a", step_id=f"s{number % 450}") for number in range(900)))
    write(db, clock.now, run_start("b"), step("b"))
    with transaction(db):
        assert delete_runs(db, [1], clock.now) == 1
        assert delete_runs(db, [1, 7], clock.now) == 0
    sweep = Sweeper(None, clock, steady=clock)
    left = []
    while sweep(db):
        left.append(count(db, "events"))
    assert all(before - after <= 200 for before, after in zip([903, *left], left, strict=False))
    assert [count(db, table) for table in ("events", "steps", "runs", "run_sessions", "deleted", "tombstones")] == [
        2,
        1,
        1,
        1,
        0,
        1,
    ]


def test_a_new_run_never_takes_the_key_of_one_whose_events_are_still_to_be_removed(db: sqlite3.Connection) -> None:
    clock = Clock()
    write(db, clock.now, run_start("a"), step("a"))
    with transaction(db):
        delete_runs(db, [1], clock.now)
    write(db, clock.now, run_start("b"))
    assert db.execute("SELECT key FROM runs").fetchall() == [(2,)]
    sweep = Sweeper(None, clock, steady=clock)
    while sweep(db):
        pass
    assert count(db, "events") == 1


def test_a_key_is_never_given_again_not_even_after_the_removal_and_a_restart(path: Path) -> None:
    clock = Clock()
    for number, run_id in enumerate("abc", start=1):
        with closing(open_writer(path)) as db:
            write(db, clock.now, run_start(run_id))
            assert db.execute("SELECT key FROM runs").fetchall() == [(number,)]
            with transaction(db):
                delete_runs(db, [number], clock.now)
            sweep = Sweeper(None, clock, steady=clock)
            while sweep(db):
                pass
            assert count(db, "deleted") == 0


def test_the_highest_key_is_kept_when_runs_are_removed_in_another_order(db: sqlite3.Connection) -> None:
    clock = Clock()
    write(db, clock.now, *map(run_start, "ab"))
    for keys in ([2], [1]):
        with transaction(db):
            delete_runs(db, keys, clock.now)
        sweep = Sweeper(None, clock, steady=clock)
        while sweep(db):
            pass
    write(db, clock.now, run_start("c"))
    assert db.execute("SELECT key FROM runs").fetchall() == [(3,)]


def test_a_deletion_that_is_late_leaves_the_runs_of_other_projects_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SQLiteStore(path)) as store:
        store.ingest(decode_batch(json.dumps(envelope(run_start("mine"))).encode()), project="a").result()
        submit = store._writer.submit

        def late(work: Any) -> Any:
            monkeypatch.undo()
            assert store.delete_runs(RunQuery(run_id="mine"), project="a") == 1
            until(lambda: submit(lambda db: count(db, "deleted")).result() == 0, 60)
            store.ingest(decode_batch(json.dumps(envelope(run_start("theirs"))).encode()), project="b").result()
            return submit(work)

        store._refresh()
        monkeypatch.setattr(store, "_refresh", lambda: None)
        monkeypatch.setattr(store._writer, "submit", late)
        assert store.delete_runs(RunQuery(run_id="mine"), project="a") == 0
        assert store.has_run("theirs", project="b")
        assert submit(lambda db: store._delete("a", ["theirs"], db)).result() == 0
        assert store.has_run("theirs", project="b")


def test_a_deleted_run_may_come_again_when_no_sender_repeats_events_of_it_any_more(db: sqlite3.Connection) -> None:
    clock = Clock()
    write(db, clock.now, run_start("a"))
    with transaction(db):
        delete_runs(db, [1], clock.now)
    sweep = Sweeper(None, clock, steady=clock)
    accepted = []
    for days in (0, 20, 11):
        clock.now += days * DAY
        while sweep(db):
            pass
        accepted.append(write(db, clock.now, run_start("a")))
    assert TOMBSTONES_KEPT == 30 * DAY
    assert accepted == [0, 0, 1]


def test_a_store_removes_the_events_by_itself_without_a_retention(path: Path) -> None:
    with closing(SQLiteStore(path)) as store:
        store.ingest(
            decode_batch(json.dumps(envelope(run_start("a"), *(step("a") for _ in range(500)))).encode())
        ).result()
        assert store.delete_runs(RunQuery(run_id="a")) == 1
        while store._writer.submit(lambda db: count(db, "events")).result(60):
            pass
