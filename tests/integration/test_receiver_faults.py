"""The receiver when its disk, its file or its process fails: what it acknowledged is there, what it refused is not."""

from __future__ import annotations

import http.client
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentscope.server.http.limits import Limits
from agentscope.server.receiver import Receiver
from agentscope.server.storage.base import Unavailable
from agentscope.server.storage.sqlite.store import SQLiteStore
from tests.support.hostile_clients import LARGE, head, prepare, unread
from tests.support.receiver import _PROGRAM, ROOT, Client, connect, receiver_process, run_start, step
from tests.support.wait import until

pytestmark = pytest.mark.long

MOUNT = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -c "$3" "$1/runs.db"'


def may_mount() -> bool:
    unshare = shutil.which("unshare")
    return (
        bool(unshare)
        and subprocess.run([unshare, "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    )


@contextmanager
def started(*command: str, preexec: Callable[[], None] | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=preexec
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def fill(client: Client) -> tuple[set[str], set[str]]:
    """Send until three in a row are refused: the ids of the events that were acknowledged, and of those that were not."""
    acknowledged: set[str] = set()
    refused: set[str] = set()
    in_a_row = 0
    while in_a_row < 3:
        events = [step("filling", input="x" * 20_000) for _ in range(5)]
        answer = client.batch(*events)
        assert answer.status in (200, 503), answer
        if answer.status == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert "accepted" not in answer.json
        in_a_row = in_a_row + 1 if answer.status == 503 else 0
        (refused if answer.status == 503 else acknowledged).update(event["id"] for event in events)
        assert len(acknowledged) < 5000, "the disk never filled"
    return acknowledged, refused


def stored(client: Client, run_id: str = "filling") -> set[str]:
    return {event["id"] for event in client.get(f"/api/runs/{run_id}/events").json["events"]}


@pytest.mark.skipif(not may_mount(), reason="this user may not mount a small file system")
def test_on_a_disk_that_is_really_full_nothing_is_acknowledged_and_all_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    (tmp_path / "disk").mkdir()
    command = ("unshare", "-m", "sh", "-c", MOUNT, "sh", str(tmp_path / "disk"), sys.executable, _PROGRAM)
    with started(*command) as (process, url):
        client = Client(url)
        filler = Path(f"/proc/{process.pid}/root{tmp_path}/disk/filler")
        filler.write_bytes(bytes(500_000))
        acknowledged, refused = fill(client)
        assert acknowledged
        assert stored(client) == acknowledged
        assert client.get("/").status == 200
        filler.unlink()
        until(lambda: client.batch(run_start("after")).status == 200, 60)
        assert stored(client) == acknowledged
        assert not stored(client) & refused
        process.terminate()
        assert process.wait(60) == 0


def test_where_a_file_may_not_grow_nothing_is_acknowledged_and_reading_goes_on(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))

    with started(sys.executable, "-c", _PROGRAM, str(tmp_path / "runs.db"), preexec=limit) as (process, url):
        client = Client(url)
        acknowledged, _ = fill(client)
        assert stored(client) == acknowledged
        assert client.get("/runs/filling").status == 200
        process.terminate()
        assert process.wait(60) == 0
    store = SQLiteStore(tmp_path / "runs.db")  # with no such limit all of it is there
    assert store.health()["events"] == len(acknowledged)
    store.close()


def test_a_database_that_became_read_only_acknowledges_nothing_and_can_be_read(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "runs.db") as receiver:
        client = Client(receiver.url)
        assert client.batch(run_start()).status == 200
        receiver.store._writer.submit(lambda db: db.execute("PRAGMA query_only=1").fetchone()).result()
        answer = client.batch(step())
        assert (answer.status, "accepted" in answer.json) == (503, False)
        assert client.get("/api/runs/run-1").json["step_count"] == 0
        until(lambda: client.batch(step()).status == 200, 60)


def test_a_file_that_is_removed_under_the_receiver_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    db = tmp_path / "runs.db"
    with Receiver(db=db) as receiver:
        client = Client(receiver.url)
        client.batch(run_start("lost"))
        for file in tmp_path.iterdir():
            file.unlink()
        assert client.get("/api/runs").status == 503
        assert client.batch(run_start("kept")).status == 200
        assert [run["id"] for run in client.get("/api/runs").json["runs"]] == ["kept"]
    assert "removed or replaced" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["runs.db"]


def test_a_file_that_is_replaced_under_the_receiver_is_used(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "other.db") as receiver:
        Client(receiver.url).batch(run_start("restored"))
    with Receiver(db=tmp_path / "runs.db") as receiver:
        client = Client(receiver.url)
        client.batch(run_start("before"))
        os.replace(tmp_path / "other.db", tmp_path / "runs.db")
        until(lambda: client.batch(run_start("after")).status == 200, 60)
        assert {run["id"] for run in client.get("/api/runs").json["runs"]} == {"restored", "after"}


def test_damage_under_clients_is_put_aside_and_they_are_served_again(tmp_path: Path) -> None:
    db = tmp_path / "runs.db"
    with Receiver(db=db) as receiver:
        client = Client(receiver.url)
        for _ in range(10):
            client.batch(*(step(input="x" * 5000) for _ in range(30)))
        receiver.store._writer.submit(lambda _: None).result()
        other = sqlite3.connect(db)
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.close()
        with db.open("r+b") as file:
            file.seek(16384)
            file.write(b"\xa5" * 16384 * 60)
        statuses = set()

        def served() -> bool:
            for path in ("/", "/api/runs", "/health", "/api/runs/run-1"):
                statuses.add(client.get(path).status)
            answer = client.batch(run_start("fresh"))
            statuses.add(answer.status)
            return answer.status == 200 and client.get("/api/runs/fresh").status == 200

        until(served, 60)
        assert statuses <= {200, 404, 503}
    assert list(tmp_path.glob("runs.db.corrupt-1"))


@pytest.mark.parametrize("seed", range(24))
def test_no_damage_to_its_files_keeps_a_store_from_opening_and_storing(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    db = tmp_path / "runs.db"
    with Receiver(db=db) as receiver:
        Client(receiver.url).batch(*(step(input="x" * 500) for _ in range(60)))
        for file in list(tmp_path.iterdir()):  # as a kill would leave them
            shutil.copy(file, tmp_path / f"kept-{file.name}")
    for name in ("runs.db", "runs.db-wal", "runs.db-shm"):
        os.replace(tmp_path / f"kept-{name}", tmp_path / name)
    for name in chance.sample(["runs.db", "runs.db-wal", "runs.db-shm"], chance.randint(1, 3)):
        _damage(tmp_path / name, chance)
    with Receiver(db=db) as receiver:
        client = Client(receiver.url)
        until(lambda: client.batch(run_start("after"), step("after")).status == 200, 60)
        until(lambda: client.get("/api/runs/after").status == 200, 60)
        assert client.get("/api/runs/after").json["step_count"] >= 1
    with sqlite3.connect(db) as whole:
        assert whole.execute("PRAGMA quick_check").fetchone() == ("ok",)
    whole.close()


def _damage(file: Path, chance: random.Random) -> None:
    data = bytearray(file.read_bytes())
    kind = chance.choice(["flip", "zero", "cut", "empty", "foreign"])
    if kind == "flip":
        for _ in range(chance.choice([1, 20, 500])):
            data[chance.randrange(100 if file.suffix == ".db" else 0, len(data))] ^= chance.randrange(1, 256)
    elif kind == "zero":
        start = chance.randrange(len(data))
        data[start : start + 5000] = bytes(len(data[start : start + 5000]))
    elif kind == "cut":
        del data[chance.randrange(len(data)) :]
    else:
        data = bytearray(b"" if kind == "empty" else b"no database " * 3000)
    file.write_bytes(data)


def test_a_store_whose_folder_is_gone_says_so_and_can_be_closed(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    store = SQLiteStore(folder / "runs.db")
    shutil.rmtree(folder)
    folder.write_text("a file in its place")
    with pytest.raises(Unavailable):
        store.health()
    store.close()


@pytest.mark.parametrize("load", ["writers", "stalled"])
def test_sigterm_under_load_ends_it_in_time_with_everything_acknowledged_on_disk(tmp_path: Path, load: str) -> None:
    db = tmp_path / "runs.db"
    acknowledged: list[str] = []
    # Were it to wait for what is stalled, it would be for ten minutes.
    limits = {"body_seconds": 600, "head_seconds": 600, "send_seconds": 600}
    with receiver_process(db, **limits) as (process, url):
        prepare(url)
        client = Client(url)

        def write() -> None:
            while True:
                events = [step(input="x" * 300) for _ in range(20)]
                try:
                    answer = client.batch(*events)
                except (OSError, http.client.HTTPException):
                    return
                if answer.status == 200:
                    acknowledged.extend(event["id"] for event in events)

        stuck = []
        if load == "stalled":
            stuck = [unread(url, f"/api/runs/{LARGE}/events") for _ in range(10)] + [connect(url) for _ in range(10)]
            for connection in stuck[10:]:
                connection.sendall(head(url, "POST", "/api/ingest/batch", "Content-Length: 9") + b"\r\n{")
        writers = [threading.Thread(target=write) for _ in range(8)]
        for writer in writers:
            writer.start()
        until(lambda: len(acknowledged) > 400, 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        for writer in writers:
            writer.join()
        for connection in stuck:
            connection.close()
    assert not db.with_name("runs.db-wal").exists()
    found = sqlite3.connect(db)
    ids = {event for (event,) in found.execute("SELECT id FROM events")}
    assert found.execute("PRAGMA quick_check").fetchone() == ("ok",)
    found.close()
    assert set(acknowledged) <= ids


def test_kills_at_any_moment_lose_nothing_that_was_acknowledged_and_store_nothing_twice(tmp_path: Path) -> None:
    db = tmp_path / "runs.db"
    chance = random.Random(5)
    sent: dict[str, bool] = {}
    pending = [[step(f"run-{number % 3}", input="x" * 2000) for _ in range(10)] for number in range(60)]
    kills = 0
    while pending:
        with receiver_process(db) as (process, url):
            if kills < 6:
                killer = threading.Timer(chance.uniform(0.0, 0.15), process.kill)
                killer.start()
                kills += 1
            try:
                while pending:
                    answer = Client(url).batch(*pending[0])
                    assert answer.status == 200
                    assert answer.json["accepted"] + answer.json["duplicates"] == 10
                    sent.update((event["id"], True) for event in pending.pop(0))
            except (OSError, http.client.HTTPException):
                pass  # killed amid it: whether it was stored is open, so it is sent again
    with receiver_process(db) as (_, url):
        health = Client(url).get("/health").json
        assert health["events"] == len(sent) == 600
        assert health["conflicts"] == 0
    found = sqlite3.connect(db)
    assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert found.execute("SELECT count(*), count(DISTINCT id) FROM events").fetchone() == (600, 600)
    found.close()


def test_a_body_that_is_refused_for_others_leaves_nothing_held(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "runs.db", limits=Limits(body_seconds=0.3, held_bytes=50_000)) as receiver:
        for _ in range(5):
            with connect(receiver.url) as leaving:
                leaving.sendall(
                    head(receiver.url, "POST", "/api/ingest/batch", "Content-Length: 45000") + b"\r\n" + b"x" * 40_000
                )
        until(lambda: Client(receiver.url).batch(step(input="x" * 30_000)).status == 200, 60)
