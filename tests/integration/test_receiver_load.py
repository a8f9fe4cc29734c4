"""The receiver under load: many at once, slow and greedy ones among them, and a healthy client is served all the while."""

from __future__ import annotations

import http.client
import random
import resource
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agentscope.protocols.otlp.wire import protobuf_form as protobuf
from agentscope.server.http.limits import Limits
from agentscope.server.receiver import Receiver
from agentscope.server.storage.sqlite import retention
from tests.support import hostile_clients, patient
from tests.support.hostile_clients import ATTACKERS, LARGE, head, memory, prepare, unread
from tests.support.otlp import span
from tests.support.receiver import Client, connect, read_all, receiver_process, run_start, step
from tests.support.wait import until

pytestmark = pytest.mark.long


@contextmanager
def crowd(work: Callable[[int], None], count: int) -> Iterator[None]:
    """`work` in many threads for the length of the block, which it is to notice by itself; its errors are raised."""
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(work, number) for number in range(count)]
        yield
        for future in futures:
            future.result()


def test_32_writers_and_4_viewers_at_once_are_all_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient.here(monkeypatch)  # who waits for the others for long is told to come again
    with Receiver(db=tmp_path / "runs.db", limits=Limits(send_seconds=60)) as receiver:
        client = Client(receiver.url)
        client.batch(run_start("run-0"))
        over = threading.Event()

        def view(_: int) -> None:
            while not over.is_set():
                for path in ("/", "/runs/run-0", "/api/runs?q=run", "/api/runs/run-0/events", "/health"):
                    answer = client.get(path)
                    assert answer.status == 200, answer

        def write(writer: int) -> int:
            accepted = 0
            for _ in range(6):
                answer = client.batch(*(step(f"run-{writer % 4}", input="x" * 200) for _ in range(10)))
                assert answer.status == 200, answer
                accepted += answer.json["accepted"]
            return accepted

        with crowd(view, 4):
            try:
                with ThreadPoolExecutor(32) as pool:
                    assert sum(pool.map(write, range(32))) == 1920
            finally:
                over.set()
        assert client.events() == 1921
        assert sum(run["step_count"] for run in client.get("/api/runs").json["runs"]) == 1920


def test_a_thousand_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(1000, hard - 200)
    with ExitStack() as ends:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 200), hard))
        ends.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        process, url = ends.enter_context(receiver_process(tmp_path / "runs.db"))
        for number in range(count):
            ends.enter_context(connect(url))
            if number % 200 == 0:
                assert Client(url).batch(step()).status == 200
        assert memory(process.pid) < 200


@pytest.mark.parametrize("kind", ["heads", "bodies"])
def test_half_requests_on_every_connection_keep_nobody_out(tmp_path: Path, kind: str) -> None:
    with Receiver(db=tmp_path / "runs.db", limits=Limits(connections=16)) as receiver, ExitStack() as ends:
        begun = head(receiver.url, "POST", "/api/ingest/batch", "Content-Length: 100")
        for _ in range(40):
            ends.enter_context(connect(receiver.url)).sendall(begun + (b"\r\n{" if kind == "bodies" else b""))
        assert Client(receiver.url).batch(step()).status == 200


def test_an_answer_that_nobody_takes_is_given_up_and_its_connection_ended(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "runs.db", limits=Limits(send_seconds=0.3)) as receiver:
        prepare(receiver.url)
        with ExitStack() as ends:
            paths = [f"/api/runs/{LARGE}", f"/api/runs/{LARGE}/events"]
            stuck = [ends.enter_context(unread(receiver.url, path)) for path in paths]
            client = Client(receiver.url)
            assert client.get("/health").status == 200  # this connection comes after the others
            assert receiver._server is not None
            connections = receiver._server.server_state.connections
            until(lambda: not connections, 60)
            for connection in stuck:
                assert len(read_all(connection)) < 6_000_000

        def told() -> int:
            try:
                count: int = client.get(f"/api/runs/{LARGE}").json["step_count"]
            except (OSError, http.client.HTTPException):
                return 0  # whoever is late with reading is given up, too
            return count

        until(lambda: told() == 6, 60)


def test_an_answer_that_is_taken_drop_by_drop_is_given_up_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentscope.server.read.runs._SLOWEST", 1e9)
    with Receiver(db=tmp_path / "runs.db", limits=Limits(send_seconds=0.3)) as receiver:
        prepare(receiver.url)
        with unread(receiver.url, f"/api/runs/{LARGE}") as slow:
            size = 0
            while data := _some(slow):
                size += len(data)
        assert size < 6_000_000


def _some(connection: object) -> bytes:
    time.sleep(0.005)  # a slow reader
    try:
        return connection.recv(20_000)
    except ConnectionError:
        return b""


def test_a_large_run_waits_for_another_and_small_ones_for_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentscope.server.read.runs._PATIENCE", 0.1)
    with Receiver(db=tmp_path / "runs.db", limits=Limits(send_seconds=60)) as receiver:
        prepare(receiver.url)
        client = Client(receiver.url)
        client.batch(run_start("small"))
        with unread(receiver.url, f"/api/runs/{LARGE}") as slow:
            slow.settimeout(60)
            assert slow.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"  # it is being sent, which takes until it is read
            assert client.get(f"/runs/{LARGE}").status == 503
            assert int(client.get(f"/api/runs/{LARGE}").headers["retry-after"]) >= 1
            assert client.get("/runs/small").status == 200
            assert client.get(f"/api/runs/{LARGE}/events").status == 200
        until(lambda: client.get(f"/runs/{LARGE}").status == 200, 60)


def test_a_run_too_large_to_be_shown_as_a_whole_is_shown_in_parts(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "runs.db", limits=Limits(view_bytes=1_000_000)) as receiver:
        prepare(receiver.url)
        client = Client(receiver.url)
        page = client.get(f"/api/runs/{LARGE}").json
        count, cursor = len(page["steps"]), page["steps_next"]
        assert cursor is not None
        while cursor is not None:
            page = client.get(f"/api/runs/{LARGE}/steps?cursor={cursor}").json
            count, cursor = count + len(page["steps"]), page["next"]
        assert count == client.get(f"/api/runs/{LARGE}").json["step_count"]
        assert client.get(f"/runs/{LARGE}").status == 200
        assert len(client.get(f"/api/runs/{LARGE}/events").json["events"]) == 12


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    with receiver_process(tmp_path_factory.mktemp("bombs") / "runs.db", body_seconds=60) as (running, url):
        prepare(url)
        yield running.pid, url


@pytest.mark.parametrize(
    ("bomb", "path", "status"),
    [
        (lambda: hostile_clients.text_bomb(wide=True), "/api/ingest/batch", 413),
        (hostile_clients.keys_bomb, "/api/ingest/batch", 413),
        (hostile_clients.rejects_bomb, "/api/ingest/batch", 413),
        (hostile_clients.zero_bomb, "/api/ingest/batch", 413),
        (hostile_clients.zero_bomb, "/history", 413),
        (hostile_clients.zero_bomb, "/v1/traces", 413),
        (hostile_clients.otlp_bomb, "/v1/traces", 413),
        (lambda: hostile_clients.text_bomb(size=15_000_000), "/api/ingest/batch", 200),
    ],
    ids=["wide text", "keys", "rejects", "zeros", "zeros-history", "zeros-otlp", "resources", "text"],
)
def test_bombs_cost_little_memory_though_many_come_at_once(
    process: tuple[int, str], bomb: Callable[[], bytes], path: str, status: int
) -> None:
    pid, url = process
    body = bomb()
    headers = {"content_encoding": "gzip", "x_public_key": "p", "x_secret_key": "s"}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: Client(url).send("POST", path, body, **headers).status, range(6)))
    assert set(answers) <= {status, 503}
    assert status in answers
    assert memory(pid) < 250


def test_the_largest_body_of_spans_takes_bounded_memory(tmp_path: Path) -> None:
    text = "a payload of a step. " * 200 + "😀"  # each text of protobuf takes the memory of its own widest character
    spans = [
        protobuf.encode_span(span(span_id=f"{number:016x}", attributes={"input.value": text, "output.value": text}))
        for number in range(1, 7501)
    ]
    body = protobuf.encode_request(spans, {"service.name": "large"}, "scope", "1")
    assert 60 << 20 < len(body) < 64 << 20
    with receiver_process(tmp_path / "runs.db", body_seconds=60) as (running, url):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=300)
        connection.request("POST", "/v1/traces", body, {"content-type": protobuf.CONTENT_TYPE})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
        connection.close()
        assert Client(url).get("/health").json["events"] == 7500
        assert memory(running.pid) < 500


def test_a_healthy_client_is_served_among_hostile_ones(tmp_path: Path) -> None:
    with receiver_process(tmp_path / "runs.db") as (running, url):
        prepare(url)
        over = threading.Event()
        attacked = []

        def attack(seed: int) -> None:
            chance = random.Random(seed)
            while not over.is_set():
                try:
                    chance.choice(ATTACKERS)(url)
                except (OSError, http.client.HTTPException):
                    pass  # refused or cut off, as it should be
                attacked.append(seed)

        acknowledged = 0
        with crowd(attack, 12):
            try:
                end = time.monotonic() + 2
                while time.monotonic() < end or len(attacked) < 12:
                    answer = Client(url).batch(*(step("healthy") for _ in range(20)))
                    assert answer.status == 200, answer
                    acknowledged += 20
                assert memory(running.pid) < 600
            finally:
                over.set()
        # Whoever has left amid a large answer may still be in the way.
        until(lambda: Client(url).get("/api/runs/healthy").status == 200, 60)
        assert Client(url).get("/api/runs/healthy").json["step_count"] == acknowledged
        running.terminate()
        assert running.wait(60) == 0


def test_old_runs_are_deleted_while_new_ones_come_in_and_none_of_these_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = tmp_path / "runs.db"
    with Receiver(db=db) as receiver:
        for number in range(20):
            Client(receiver.url).batch(
                run_start(f"old-{number}"), *(step(f"old-{number}", input="x" * 3000) for _ in range(100))
            )
    size = db.stat().st_size
    with sqlite3.connect(db) as aged:
        aged.execute("UPDATE runs SET touched_at=0")
    aged.close()
    monkeypatch.setattr(retention, "_STEPS", 20)
    with Receiver(db=db, retention_days=1) as receiver:
        client = Client(receiver.url)

        def write(writer: int) -> int:
            for number in range(15):
                assert client.batch(run_start(f"new-{writer}-{number}"), step(f"new-{writer}-{number}")).status == 200
            return 30

        with ThreadPoolExecutor(4) as pool:
            sent = sum(pool.map(write, range(4)))
        until(lambda: client.get("/api/runs?q=old-").json["runs"] == [], 60)
        assert client.events() == sent
        assert client.batch(step("old-1")).status == 200
    assert db.stat().st_size < size


def test_a_reader_that_idles_delays_the_cutting_of_the_log_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = tmp_path / "runs.db"
    wal = db.with_name("runs.db-wal")
    with Receiver(db=db) as receiver:
        receiver.store._writer._wal_limit = receiver.store._writer._truncate_at = 500_000
        client = Client(receiver.url)
        client.batch(run_start())
        idle = sqlite3.connect(db, isolation_level=None)
        idle.execute("BEGIN")
        idle.execute("SELECT count(*) FROM events").fetchone()
        for _ in range(100):
            assert client.batch(step(input="x" * 5000)).status == 200
        assert wal.stat().st_size > 500_000
        idle.close()
        until(lambda: client.batch(step(input="x" * 60_000)).status == 200 and wal.stat().st_size < 500_000, 60)
        assert client.get("/api/runs/run-1").status == 200
