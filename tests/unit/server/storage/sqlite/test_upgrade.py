"""A file of an earlier version gets the columns it lacks, and its rows are made anew from their events."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentscope.protocols.agentscope.decode import decode_batch
from agentscope.server.storage.base import RunQuery
from agentscope.server.storage.sqlite import schema
from agentscope.server.storage.sqlite.append import write_batch
from agentscope.server.storage.sqlite.schema import SCHEMA_VERSION, open_writer, upgrade_rows
from agentscope.server.storage.sqlite.store import SQLiteStore
from tests.support.receiver import envelope, run_end, run_start, step

ADDED = (("runs", "tags", "more_tags", "environment", "release"), ("steps", "model", "cost"))
TAGS = [f"tag {number}" for number in range(60)]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bound portions by their rows and not by the speed of the machine."""
    monkeypatch.setattr(schema, "_REMADE_SECONDS", 60.0)
    monkeypatch.setattr(schema, "_UPGRADE_SECONDS", 60.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def version_2(path: Path, *events: dict[str, Any]) -> None:
    """Make a file as version 2 made it."""
    with closing(open_writer(path)) as db:
        db.execute("BEGIN")
        write_batch(db, decode_batch(json.dumps(envelope(*events)).encode()), 0.0)
        db.execute("COMMIT")
        db.execute("DROP INDEX steps_by_model")
        for table, *columns in ADDED:
            for column in columns:
                db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        db.execute("DROP TABLE upgrade")
        db.execute("PRAGMA user_version=2")


# The tables of version 3, whose keys have no project.
VERSION_3 = """
CREATE TABLE runs (
  key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, agent_name TEXT NOT NULL, status TEXT NOT NULL, external_id TEXT,
  user_id TEXT, conversation_id TEXT, source TEXT, failed INTEGER NOT NULL, started_at TEXT, ended_at TEXT,
  first_at TEXT NOT NULL, began TEXT NOT NULL, touched_at REAL NOT NULL, tokens INTEGER, tags TEXT, more_tags TEXT,
  environment TEXT, release TEXT
);
CREATE INDEX runs_by_time ON runs (began DESC, key DESC);
CREATE INDEX runs_by_touch ON runs (touched_at);
CREATE TABLE steps (
  run INTEGER NOT NULL, id TEXT NOT NULL, llm INTEGER NOT NULL, failed INTEGER NOT NULL, tokens INTEGER,
  model TEXT, cost REAL, PRIMARY KEY (run, id)
) WITHOUT ROWID;
CREATE INDEX steps_by_model ON steps (model, run) WHERE model IS NOT NULL;
CREATE TABLE events (
  key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, run INTEGER NOT NULL, step_id TEXT, session_id TEXT NOT NULL,
  received_at REAL NOT NULL, body TEXT NOT NULL
);
CREATE INDEX events_by_step ON events (run, step_id);
CREATE TABLE sessions (id TEXT PRIMARY KEY, silent_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE run_sessions (
  run INTEGER NOT NULL, session TEXT NOT NULL, own INTEGER NOT NULL, PRIMARY KEY (run, session)
) WITHOUT ROWID;
CREATE TABLE batches (
  id TEXT PRIMARY KEY, received_at REAL NOT NULL, duplicates INTEGER NOT NULL, conflicts INTEGER NOT NULL
);
CREATE INDEX batches_by_time ON batches (received_at);
CREATE TABLE dropped (batch_id TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL);
CREATE TABLE upgrade (run INTEGER NOT NULL, step TEXT);
PRAGMA application_id=1097290595;
PRAGMA user_version=3;
"""


def version_3(path: Path, *events: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Make a file as version 3 made it, of the rows that this version makes. Returns what is in `events`."""
    with closing(open_writer(path.with_name("rows.db"))) as db:
        db.execute("BEGIN")
        drops = [{"reason": "queue_full", "count": 2}]
        body = envelope(*events, batch_id="b", dropped=drops, heartbeat_seconds=15)
        write_batch(db, decode_batch(json.dumps(body).encode()), 0.0)
        db.execute("COMMIT")
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_3)
        db.execute("ATTACH ? AS made", (str(path.with_name("rows.db")),))
        of_step = "run, id, failed, tokens, model, cost"
        db.execute(f"INSERT INTO steps ({of_step}, llm) SELECT {of_step}, type = 'llm_call' FROM made.steps")
        for table in ("runs", "events", "sessions", "run_sessions"):
            names = ", ".join(row[1] for row in db.execute(f"PRAGMA main.table_info({table})"))
            db.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM made.{table}")
        db.execute("INSERT INTO batches VALUES ('b', 0, 1, 0)")
        db.execute("INSERT INTO dropped VALUES ('b', 'queue_full', 2)")
        db.commit()
        return db.execute("SELECT * FROM events ORDER BY key").fetchall()


def test_what_version_3_stored_is_in_the_default_project(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_MOVED_EVENTS", 2)
    events = [event for number in range(3) for event in told(number)]
    before = version_3(path, *events)
    with closing(SQLiteStore(path)) as store:
        assert found(store) == [{"r0", "r1", "r2"}] * 4
        assert store.silence("r0") == {"session-1": False}
        again = store.ingest(decode_batch(json.dumps(envelope(*events)).encode())).result()
        assert again == (0, 9, 0, 0)
        assert store.health()["dropped"] == {"queue_full": 2}
        assert store.list_runs(RunQuery(), project="other").runs == []
        assert store.ingest(decode_batch(json.dumps(envelope(*events)).encode()), project="other").result()[0] == 9
    with closing(sqlite3.connect(path)) as db:
        names = "key, id, run, step_id, session_id, received_at, body"
        assert db.execute(f"SELECT {names} FROM events WHERE project='default' ORDER BY key").fetchall() == before
        assert db.execute("SELECT name FROM sqlite_master WHERE name LIKE 'old%'").fetchall() == []
        fresh = sqlite3.connect(":memory:")
        fresh.executescript(schema._TABLES)
        tables = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
        assert db.execute(tables).fetchall() == fresh.execute(tables).fetchall()


def test_a_move_of_the_events_of_version_3_that_was_interrupted_goes_on_at_the_next_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = version_3(path, *(event for number in range(3) for event in told(number)))
    monkeypatch.setattr(schema, "_MOVED_EVENTS", 2)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        schema._upgrade_tables(db)
        statements: list[str] = []
        db.set_trace_callback(statements.append)
        db.set_progress_handler(lambda: sum("DELETE FROM old_events" in each for each in statements) > 1, 1)
        with pytest.raises(sqlite3.OperationalError):
            schema._move_events(db, path)
        db.set_progress_handler(None, 0)
        assert 0 < db.execute("SELECT count(*) FROM old_events").fetchone()[0] < 9
    with closing(SQLiteStore(path)) as store:
        assert store.health()["events"] == len(before)


def told(number: int) -> list[dict[str, Any]]:
    run = f"r{number}"
    return [
        run_start(run, tags=TAGS, environment="prod"),
        step(run, step_id="s", model="small", cost_usd=0.5, tokens_used=3),
        run_end(run, release="2.0"),
    ]


def found(store: SQLiteStore) -> list[set[str]]:
    """The runs that each of the new filters finds."""
    queries = [RunQuery(limit=500, **{name: value}) for name, value in NEW_FILTERS.items()]
    return [{run["id"] for run in store.list_runs(query).runs} for query in queries]


NEW_FILTERS: dict[str, Any] = {"tag": "tag 59", "environment": "prod", "release": "2.0", "model": "small"}


def test_the_runs_of_version_2_are_found_by_the_filters_of_version_3(path: Path) -> None:
    version_2(path, *told(1), *told(2), step("only steps", step_id="s"))
    with closing(SQLiteStore(path)) as store:
        assert found(store) == [{"r1", "r2"}] * 4
        costs = {run["id"]: (run["cost_usd"], run["tokens_used"]) for run in store.list_runs(RunQuery()).runs}
    assert costs == {"r1": (0.5, 3), "r2": (0.5, 3), "only steps": (None, None)}
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
        assert db.execute("SELECT count(*) FROM upgrade").fetchone()[0] == 0


def test_rows_are_made_anew_a_bounded_number_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_UPGRADE_SECONDS", -1.0)
    monkeypatch.setattr(schema, "_REMADE_ROWS", 2)
    version_2(path, *(event for number in range(5) for event in told(number)))
    with closing(open_writer(path)) as db:
        counts = []
        more = True
        while more:
            counts.append(db.execute("SELECT count(tags) + (SELECT count(model) FROM steps) FROM runs").fetchone()[0])
            more = upgrade_rows(db)
    assert counts == [2, 4, 5, 5, 7, 9, 10]


def test_a_row_of_many_events_ends_a_portion(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_UPGRADE_SECONDS", -1.0)
    monkeypatch.setattr(schema, "_REMADE_SECONDS", -1.0)
    version_2(path, *told(1), *told(2))
    with closing(open_writer(path)) as db:
        assert db.execute("SELECT count(model) FROM steps").fetchone()[0] == 1
        assert [upgrade_rows(db) for _ in range(6)] == [True] * 4 + [False] * 2


def test_an_upgrade_that_was_interrupted_goes_on_at_the_next_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_UPGRADE_SECONDS", -1.0)
    monkeypatch.setattr(schema, "_REMADE_ROWS", 2)
    version_2(path, *(event for number in range(5) for event in told(number)))
    open_writer(path).close()
    monkeypatch.setattr(schema, "_UPGRADE_SECONDS", 60.0)
    with closing(SQLiteStore(path)) as store:
        assert found(store) == [{f"r{number}" for number in range(5)}] * 4


def test_events_that_come_during_an_upgrade_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_UPGRADE_SECONDS", -1.0)
    monkeypatch.setattr(schema, "_REMADE_ROWS", 1)
    version_2(path, *told(1), *told(2))
    with closing(open_writer(path)) as db:
        for number in (2, 3):
            db.execute("BEGIN")
            update = {**run_end(f"r{number}", environment="test"), "time": "2027-01-01T00:00:00.000000Z"}
            write_batch(db, decode_batch(json.dumps(envelope(update)).encode()), 0.0)
            db.execute("COMMIT")
            upgrade_rows(db)
        while upgrade_rows(db):
            pass
        environments = dict(db.execute("SELECT id, environment FROM runs"))
    assert environments == {"r1": "prod", "r2": "test", "r3": "test"}


def test_a_row_that_cannot_be_made_anew_does_not_stop_the_upgrade(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    version_2(path, *told(1), *told(2))
    original, failed = schema.write_row, []

    def write_row(db: sqlite3.Connection, run: int, step_id: str | None) -> None:
        if run == 1 and step_id is None:
            failed.append(run)
            raise AttributeError("payload canary")
        original(db, run, step_id)

    monkeypatch.setattr(schema, "write_row", write_row)
    with closing(SQLiteStore(path)) as store:
        assert "r2" in found(store)[0]
    assert failed == [1]
    assert "canary" not in caplog.text


def test_a_damaged_event_of_an_earlier_version_does_not_stop_the_upgrade(path: Path) -> None:
    version_2(path, *told(1), *told(2))
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE events SET body='{}' WHERE key=1")
        db.commit()
    with closing(SQLiteStore(path)) as store:
        assert found(store)[0] == {"r2"}
