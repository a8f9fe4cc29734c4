"""The database under the receiver: durable, private, and honest about what goes wrong with it."""

from __future__ import annotations

import json
import logging
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentscope.errors import ConfigurationError
from agentscope.protocols.agentscope.decode import Batch, decode_batch
from agentscope.server.receiver import Receiver
from agentscope.server.storage.base import Incompatible, RunQuery, Unavailable
from agentscope.server.storage.sqlite import store as stores
from agentscope.server.storage.sqlite.append import write_batch
from agentscope.server.storage.sqlite.retention import Sweeper
from agentscope.server.storage.sqlite.schema import SCHEMA_VERSION, is_corrupt, open_reader, open_writer
from agentscope.server.storage.sqlite.store import SQLiteStore
from agentscope.server.storage.sqlite.writer import Writer
from tests.support.receiver import Client, at, envelope, run_end, run_start, step
from tests.support.wait import until

DAY = 86400.0


def batch(*events: Any, **fields: Any) -> Batch:
    return decode_batch(json.dumps(envelope(*events, **fields)).encode())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "runs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    opened = SQLiteStore(path)
    yield opened
    opened.close()


def run_ids(store: SQLiteStore) -> list[str]:
    return [run["id"] for run in store.list_runs(RunQuery())[0]]


def test_stored_events_survive_a_restart(path: Path) -> None:
    first = SQLiteStore(path)
    first.ingest(batch(run_start("a"), step("a"))).result()
    first.close()
    assert not path.with_name("runs.db-wal").exists()
    second = SQLiteStore(path)
    assert run_ids(second) == ["a"]
    assert second.ingest(batch(run_start("b"))).result().new_runs == 1
    second.close()


def test_the_files_are_for_their_owner_only(path: Path, store: SQLiteStore) -> None:
    store.ingest(batch(step())).result()
    files = list(path.parent.iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_files_that_others_could_read_are_for_their_owner_only_after_the_start(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = SQLiteStore(path)
    first.ingest(batch(step())).result()
    for file in path.parent.iterdir():
        file.chmod(0o666)
    second = SQLiteStore(path)
    second.ingest(batch(step())).result()
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert [record.getMessage().rpartition(" was open to other users")[0] for record in caplog.records] == [
        f"{path}{suffix}" for suffix in ("", "-wal", "-shm")
    ]
    second.close()
    first.close()


def test_an_empty_file_that_others_could_write_is_for_its_owner_only_after_the_start(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    path.chmod(0o666)
    with closing(SQLiteStore(path)) as store:
        store.ingest(batch(step())).result()
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_a_database_whose_mode_cannot_be_changed_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SQLiteStore(path).close()
    path.chmod(0o644)

    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(1, "not the owner")

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(ConfigurationError, match="open to other users"):
        SQLiteStore(path)


def test_a_temporary_store_is_gone_after_its_end() -> None:
    store = SQLiteStore()
    assert store.ingest(batch(step())).result().accepted == 1
    assert store.path.exists()
    store.close()
    store.close()
    assert not store.path.parent.exists()
    with pytest.raises(Unavailable, match="stopping"):
        store.ingest(batch(step())).result()


def test_a_full_disk_is_answered_with_503_and_stores_nothing_while_reading_goes_on(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "runs.db") as receiver:
        client = Client(receiver.url)
        assert client.batch(run_start()).status == 200
        writer = receiver.store._writer

        def limit(db: sqlite3.Connection) -> None:
            pages = db.execute("PRAGMA page_count").fetchone()[0]
            db.execute(f"PRAGMA max_page_count={pages + 1}")

        writer.submit(limit).result()
        answer = client.batch(*(step(input="x" * 20_000) for _ in range(20)))
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "detail" in answer.json
        assert client.events() == 1
        assert client.get("/api/runs/run-1").json["step_count"] == 0
        writer.submit(lambda db: db.execute("PRAGMA max_page_count=1000000").fetchone()).result()
        assert client.batch(step()).status == 200


def test_a_database_that_another_process_holds_is_answered_with_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentscope.server.storage.sqlite.schema.BUSY_TIMEOUT_MS", 50)
    with Receiver(db=tmp_path / "runs.db") as receiver:
        client = Client(receiver.url)
        other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert client.batch(step()).status == 503
        assert client.get("/api/runs").status == 200
        other.close()
        assert client.batch(step()).status == 200


def test_a_broken_file_is_put_aside_at_the_start_and_said_loudly(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SQLiteStore(path).close()
    path.write_bytes(bytes(16) + b"this was a database " * 1000)
    path.with_name("runs.db.corrupt-1").write_bytes(b"from before")
    store = SQLiteStore(path)
    assert store.ingest(batch(step())).result().accepted == 1
    store.close()
    assert path.with_name("runs.db.corrupt-2").read_bytes()[16:].startswith(b"this was a database")
    assert "is broken" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("broken", [slice(0, 16), slice(0, 68), slice(16, 100), slice(0, 100), slice(90, None)])
def test_a_database_is_known_by_what_is_left_of_its_header(path: Path, broken: slice) -> None:
    SQLiteStore(path).close()
    damaged = bytearray(path.read_bytes())
    fill = b"\0" if broken.stop == 100 else b"\xa5"
    damaged[broken] = fill * len(damaged[broken])
    path.write_bytes(damaged)
    SQLiteStore(path).close()
    assert path.with_name("runs.db.corrupt-1").read_bytes() == damaged


def test_a_log_that_was_not_written_back_tells_a_database_too(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"\xa5" * 16384)
    path.with_name("runs.db-wal").write_bytes(b"")
    SQLiteStore(path).close()
    assert path.with_name("runs.db.corrupt-1").exists()


@pytest.mark.parametrize("content", [b"print('hello')\n" * 1000, b"x", b"\xa5" * 16384], ids=["text", "short", "bytes"])
def test_a_file_that_is_no_database_is_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is not a database"):
        SQLiteStore(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == content


def test_flipped_bytes_are_found_at_the_start(path: Path) -> None:
    store = SQLiteStore(path)
    store.ingest(batch(*(step(input="x" * 5000) for _ in range(100)))).result()
    store.close()
    damaged = bytearray(path.read_bytes())
    damaged[16384 : 16384 * 30] = b"\xa5" * (16384 * 29)
    path.write_bytes(damaged)
    store = SQLiteStore(path)
    assert store.health()["events"] == 0
    store.close()
    assert path.with_name("runs.db.corrupt-1").exists()


def test_damage_that_shows_while_running_is_put_aside_and_a_fresh_file_used(path: Path, store: SQLiteStore) -> None:
    store.ingest(batch(*(step(input="x" * 5000) for _ in range(100)))).result()

    def damage(db: sqlite3.Connection) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    with pytest.raises(Unavailable):
        store._writer.submit(damage).result()
    assert path.with_name("runs.db.corrupt-1").exists()
    assert store.ingest(batch(run_start("fresh"))).result().accepted == 1
    assert run_ids(store) == ["fresh"]


def test_damage_that_a_reader_meets_makes_the_writer_look(path: Path, store: SQLiteStore) -> None:
    store.ingest(batch(*(step(input="x" * 5000) for _ in range(100)))).result()
    other = sqlite3.connect(path)
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    with path.open("r+b") as file:
        file.seek(16384)
        file.write(b"\xa5" * 16384 * 30)

    def read() -> bool:
        try:
            return store.health()["events"] == 0
        except Unavailable:
            return False

    until(read, 60)
    assert path.with_name("runs.db.corrupt-1").exists()


def test_the_database_of_another_application_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(ConfigurationError, match="another application"):
        SQLiteStore(path)
    with pytest.raises(ConfigurationError):
        Receiver(db=path).start()


def test_a_database_of_a_newer_version_is_left_alone(path: Path) -> None:
    SQLiteStore(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version=99")
    newer.close()
    with pytest.raises(Incompatible, match="newer version"):
        SQLiteStore(path)


def test_a_place_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        SQLiteStore(tmp_path)


def test_corruption_is_told_from_other_problems() -> None:
    for problem, expected in (
        (sqlite3.DatabaseError("database disk image is malformed"), True),
        (sqlite3.DatabaseError("file is not a database"), True),
        (sqlite3.OperationalError("database is locked"), False),
        (sqlite3.IntegrityError("malformed"), False),
        (ValueError("malformed"), False),
    ):
        assert is_corrupt(problem) is expected


def test_a_job_that_fails_does_not_take_its_neighbours_with_it(store: SQLiteStore) -> None:
    def fail(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM events")
        raise KeyError("a bug")

    until_release = _hold(store)
    futures = [store.ingest(batch(run_start("a"))), store._writer.submit(fail), store.ingest(batch(run_start("b")))]
    until_release()
    assert futures[0].result().accepted == futures[2].result().accepted == 1
    with pytest.raises(KeyError):
        futures[1].result()
    assert sorted(run_ids(store)) == ["a", "b"]


def test_a_job_that_was_cancelled_while_it_waited_is_left_out(store: SQLiteStore) -> None:
    release = _hold(store)
    cancelled = store.ingest(batch(run_start("a")))
    kept = store.ingest(batch(run_start("b")))
    assert cancelled.cancel()
    release()
    assert kept.result().accepted == 1
    assert run_ids(store) == ["b"]


def _hold(store: SQLiteStore) -> Callable[[], None]:
    """Keep the writer busy until the answer is called, so that jobs wait and are joined."""
    started, gate = threading.Event(), threading.Event()

    def wait(db: sqlite3.Connection) -> None:
        started.set()
        assert gate.wait(60)

    store._writer.submit(wait)
    assert started.wait(60)
    return gate.set


def test_a_read_that_takes_too_long_is_interrupted(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    monkeypatch.setattr(stores, "READ_SECONDS", 0.05)
    with pytest.raises(Unavailable, match="interrupted"), store._reading() as db:
        db.execute(endless).fetchone()


def test_a_reader_can_write_nothing(path: Path, store: SQLiteStore) -> None:
    reader = open_reader(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM events")
    reader.close()


def test_health_is_unavailable_when_the_database_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(path: Path) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(stores, "open_reader", locked)
    with Receiver(db=tmp_path / "runs.db") as receiver:
        answer = Client(receiver.url).get("/health")
    assert (answer.status, answer.json["status"]) == (503, "unavailable")


def test_a_bug_is_answered_with_500_and_no_detail_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(store: SQLiteStore, query: RunQuery) -> None:
        raise KeyError("secret detail")

    monkeypatch.setattr(SQLiteStore, "list_runs", broken)
    with Receiver(db=tmp_path / "runs.db") as receiver:
        answer = Client(receiver.url).get("/api/runs")
    assert answer.status == 500
    assert b"secret detail" not in answer.body


def test_a_long_write_ahead_log_is_cut_and_a_reader_only_delays_that(path: Path) -> None:
    writer = Writer(path, wal_limit=200_000)
    wal = path.with_name("runs.db-wal")

    def fill() -> None:
        writer.submit(lambda db: write_batch(db, batch(*(step(input="x" * 9000) for _ in range(60))), 0.0)).result()

    fill()
    until(lambda: wal.stat().st_size == 0, 60)
    reader = open_reader(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM events").fetchone()
    fill()
    assert wal.stat().st_size > 200_000
    reader.close()
    fill()
    fill()
    until(lambda: wal.stat().st_size == 0, 60)
    writer.close()


def test_a_connection_that_cannot_roll_back_is_replaced(path: Path, store: SQLiteStore) -> None:
    store.ingest(batch(run_start("a"))).result()

    def lose(db: sqlite3.Connection) -> None:
        store._writer._db = connection = _Stubborn(path, isolation_level=None)
        db.close()
        connection.execute("BEGIN")
        connection.stubborn = True
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(Unavailable):
        store._writer.submit(lose).result()
    assert store.ingest(batch(run_start("b"))).result().accepted == 1
    assert sorted(run_ids(store)) == ["a", "b"]


class _Stubborn(sqlite3.Connection):
    stubborn = False

    def execute(self, *given: Any) -> sqlite3.Cursor:
        if self.stubborn:
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(*given)


def test_without_a_place_for_a_fresh_file_the_next_job_tries_again(
    path: Path, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damage(db: sqlite3.Connection) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", _refuse)
        with pytest.raises(Unavailable):
            store._writer.submit(damage).result()
    assert "no fresh database" in caplog.text
    assert store.ingest(batch(step())).result().accepted == 1


def _refuse(*_: Any) -> None:
    raise OSError("no space left")


def test_a_checkpoint_that_fails_is_logged_and_the_end_is_in_order(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(path)
    stubborn = _Stubborn(path, isolation_level=None, check_same_thread=False)
    stubborn.stubborn = True
    writer.submit(lambda db: db.close() or setattr(writer, "_db", stubborn))
    writer.close()
    assert "could not be checkpointed" in caplog.text


def test_upkeep_that_fails_is_logged_and_the_writer_lives_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def idle(db: sqlite3.Connection) -> bool:
        raise sqlite3.OperationalError("database is locked")

    writer = Writer(path, idle=idle)
    for _ in range(2):
        writer.submit(lambda db: None).result()
    until(lambda: "upkeep" in caplog.text, 60)
    assert writer.submit(lambda db: 5).result() == 5
    writer.close()


def test_no_error_of_the_upkeep_ends_the_writer_or_is_logged_with_a_payload(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def idle(db: sqlite3.Connection) -> bool:
        raise LookupError("payload canary")

    writer = Writer(path, idle=idle)
    for number in range(3):
        assert writer.submit(lambda db, number=number: number).result(60) == number  # type: ignore[misc]  # a default
    until(lambda: "upkeep" in caplog.text, 60)
    writer.close()
    assert "LookupError" in caplog.text
    assert "canary" not in caplog.text


def test_a_fresh_file_that_cannot_be_opened_in_any_way_fails_the_job_and_not_the_writer(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damage(db: sqlite3.Connection) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    def refuse(*_: Any) -> None:
        raise LookupError("payload canary")

    with monkeypatch.context() as patch:
        patch.setattr("agentscope.server.storage.sqlite.writer.quarantine", refuse)
        with pytest.raises(Unavailable):
            store._writer.submit(damage).result(60)
    assert "no fresh database could be made: LookupError" in caplog.text
    assert "canary" not in caplog.text
    assert store.ingest(batch(step())).result(60).accepted == 1


class Clock:
    def __init__(self) -> None:
        self.now = 100 * DAY

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    opened = open_writer(path)
    yield opened
    opened.close()


def write(db: sqlite3.Connection, now: float, *events: Any, **fields: Any) -> None:
    db.execute("BEGIN IMMEDIATE")
    write_batch(db, batch(*events, **fields), now)
    db.execute("COMMIT")


def test_runs_that_nothing_came_for_in_the_retention_are_deleted_in_portions(
    path: Path, db: sqlite3.Connection
) -> None:
    clock = Clock()
    drops = [{"reason": "queue_full", "count": 1}]
    write(db, 10 * DAY, run_start("old"), *(step("old") for _ in range(450)), run_end("old"), dropped=drops)
    write(db, 10 * DAY, run_start("revived"))
    write(db, 99 * DAY, step("revived"))
    write(db, 99 * DAY, run_start("young"))
    sweep = Sweeper(7 * DAY, clock, steady=clock)
    portions = 0
    while sweep(db):
        portions += 1
        assert db.execute("SELECT count(*) FROM events WHERE step_id IS NOT NULL").fetchone()[0] % 200 in (51, 1)
    assert portions == 3
    with closing(SQLiteStore(path)) as store:
        assert set(run_ids(store)) == {"revived", "young"}
        health = store.health()
    assert (health["events"], health["runs"], health["batches"], health["dropped"]) == (3, 2, 2, {})


def _runs(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM runs").fetchone()[0])


def test_the_sweeper_rests_when_there_is_nothing_to_do_and_never_takes_what_just_came(db: sqlite3.Connection) -> None:
    clock = Clock()
    sweep = Sweeper(0.001, clock, steady=clock)
    write(db, clock.now - 300, run_start("just now"))
    assert sweep(db) is False
    clock.now += 30
    assert sweep(db) is False
    assert _runs(db) == 1
    clock.now += 600
    assert sweep(db) is True
    assert _runs(db) == 0


def test_a_sweep_that_fails_leaves_no_transaction_open(db: sqlite3.Connection) -> None:
    clock = Clock()
    db.execute("ALTER TABLE batches RENAME TO gone")
    with pytest.raises(sqlite3.OperationalError):
        Sweeper(DAY, clock, steady=clock)(db)
    assert not db.in_transaction


def test_a_store_with_retention_deletes_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SQLiteStore(path)
    store.ingest(batch(run_start("old"))).result()
    store._writer.submit(lambda db: db.execute("UPDATE runs SET touched_at=0").rowcount).result()
    store.close()
    store = SQLiteStore(path, retention_days=1)
    store.ingest(batch(run_start("new"))).result()
    until(lambda: run_ids(store) == ["new"], 60)
    store.close()


def _version_1(path: Path) -> sqlite3.Connection:
    """A file as version 1 made it, but for what both versions have alike."""
    open_writer(path).close()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("DROP INDEX steps_by_model")
    for table, *columns in (("runs", "tokens", "tags", "environment", "release"), ("steps", "model")):
        for column in columns:
            db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    db.execute("PRAGMA user_version=1")
    return db


def _schema(path: Path) -> tuple[int, list[str]]:
    with closing(open_reader(path)) as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(runs)")]
        return db.execute("PRAGMA user_version").fetchone()[0], columns


def test_a_database_of_version_1_is_brought_to_the_next_with_what_is_in_it(path: Path) -> None:
    db = _version_1(path)
    db.execute(
        "INSERT INTO runs (id, agent_name, status, failed, first_at, began, touched_at) VALUES ('r', 'a', 'running', 0, ?, ?, 1)",
        (at(1), at(1)),
    )
    db.close()
    store = SQLiteStore(path)
    assert [run["id"] for run in store.list_runs(RunQuery())[0]] == ["r"]
    store.ingest(batch(step("r", tokens_used=3, model="m"), run_start("r", tags=["a"]))).result()
    (run,) = store.list_runs(RunQuery(model="m", tag="a")).runs
    assert (run["tokens_used"], run["tags"], run["environment"]) == (3, ["a"], None)
    store.close()
    version, columns = _schema(path)
    assert (version, columns.count("tokens"), columns.count("tags")) == (SCHEMA_VERSION, 1, 1)


def test_rows_that_the_start_leaves_are_upgraded_while_the_receiver_runs(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SQLiteStore(path)) as store:
        store.ingest(batch(*(run_start(f"r{number}", tags=["a"]) for number in range(250)))).result()
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE runs DROP COLUMN tags")
        db.commit()
    monkeypatch.setattr("agentscope.server.storage.sqlite.schema._UPGRADE_SECONDS", -1.0)
    with closing(SQLiteStore(path)) as store:
        until(lambda: len(store.list_runs(RunQuery(limit=500, tag="a")).runs) == 250, 60)


def test_a_database_that_was_never_finished_is_finished(path: Path) -> None:
    db = _version_1(path)
    for table in ("runs", "steps", "events", "batches", "dropped"):
        db.execute(f"DROP TABLE {table}")
    db.close()
    open_writer(path).close()
    assert _schema(path)[1].count("tokens") == 1


def test_two_that_open_a_database_of_version_1_at_once_both_succeed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "agentscope.server.storage.sqlite.schema.BUSY_TIMEOUT_MS", 60_000
    )  # one of them may be put to sleep amid it
    _version_1(path).close()
    with ThreadPoolExecutor(4) as pool:
        for opened in [pool.submit(lambda: open_writer(path).close()) for _ in range(4)]:
            opened.result()
    assert _schema(path)[1].count("tokens") == 1
