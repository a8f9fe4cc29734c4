"""An event that no backend accepts, or that can hardly be encoded: the other events arrive, and every event is counted."""

from __future__ import annotations

import dataclasses
import gzip
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import numpy
import pydantic
import pytest

from agentscope import create_tracker
from agentscope.server.receiver import Receiver
from tests.support.recording import balanced
from tests.support.stored import stored_steps

KEY = "ask_test"


@contextmanager
def picky(behind: str, status: int) -> Iterator[tuple[str, list[bytes]]]:
    """A gateway before a receiver that answers `answer` to bodies with the word poison. Gives its URL, and all bodies."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            plain = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            bodies.append(plain)
            if b"poison" in plain:
                self._answer(status, b'{"error": "no"}')
                return
            target = http.client.HTTPConnection(urlsplit(behind).netloc, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            target.request("POST", self.path, body, headers)
            answer = target.getresponse()
            self._answer(answer.status, answer.read())
            target.close()

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print no log line."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("status", [400, 413, 422])
def test_only_the_culprits_of_a_refused_batch_are_dropped(receiver: Receiver, status: int) -> None:
    names = [f"poison {number}" if number in (0, 7, 19) else f"step {number:02d}" for number in range(20)]
    with picky(receiver.url, status) as (url, _):
        tracker = create_tracker(KEY, url, retry_delay=0.01, timeout=60)
        with tracker.track_run("agent"):
            for name in names:
                tracker.track_step(name)
        tracker.flush(60)
        stats = tracker.stats()
        tracker.shutdown(5)
    assert balanced(stats)
    assert (stats.delivered, stats.pending, sum(stats.dropped.values())) == (19, 0, 3), stats
    assert len(stats.dropped) == 1
    assert sorted(stored_steps(receiver.url)) == [name for name in names if "poison" not in name]


def test_a_host_that_no_name_server_knows_loses_nothing() -> None:
    tracker = create_tracker(KEY, "http://nowhere.invalid:8080", retry_delay=0.01, shutdown_timeout=0.1)
    with tracker.track_run("agent"):
        tracker.track_step("step")
    result = tracker.flush(0.5)
    stats = tracker.stats()
    assert balanced(stats)
    assert (stats.accepted, stats.pending, result.pending, dict(stats.dropped)) == (3, 3, 3, {})
    tracker.shutdown(0.1)
    stats = tracker.stats()
    assert balanced(stats)
    assert (stats.delivered, dict(stats.dropped)) == (0, {"shutdown": 3})


class Bad:
    def __repr__(self) -> str:
        raise RuntimeError("repr")


class TimedOut:
    def __repr__(self) -> str:
        raise TimeoutError("repr")


class Slow:
    def __repr__(self) -> str:
        time.sleep(0.2)  # a hook that blocks for a while is what is tested
        return "slow"


@dataclasses.dataclass
class Point:
    x: int


def _cycle() -> Any:
    around: list[Any] = []
    around.append(around)
    return around


def _deep() -> Any:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    return deep


HOSTILE: dict[str, Callable[[], Any]] = {
    "nan": lambda: [float("nan"), float("inf")],
    "surrogate": lambda: "\ud800",
    "surrogate key": lambda: {"\ud800": 1},
    "cycle": _cycle,
    "deep": _deep,
    "huge integer": lambda: 10**5000,
    "bad repr": Bad,
    "repr that times out": TimedOut,
    "slow repr": Slow,
    "bytes": lambda: b"\xff\x00",
    "set": lambda: {1, "a", (2,)},
    "tuple keys": lambda: {(1, 2): 3},
    "colliding keys": lambda: {1: "a", "1": "b"},
    "dataclass": lambda: Point(1),
    "model": pydantic.create_model("Model", x=(int, 1)),
    "array": lambda: numpy.arange(3),
    "lock": threading.Lock,
    "large text": lambda: "x" * 100_000_000,
}


def strict(body: bytes) -> Any:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), "a key twice"
        return dict(pairs)

    return json.loads(body.decode(), parse_constant=refuse, object_pairs_hook=unique)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_value_arrives_as_well_as_it_can_and_so_do_its_neighbours(receiver: Receiver, name: str) -> None:
    value = HOSTILE[name]()
    names = []
    with picky(receiver.url, 400) as (url, bodies):
        tracker = create_tracker(KEY, url, timeout=60)
        for position in range(3):
            with tracker.track_run(f"agent {position}"):
                for number in range(3):
                    names.append(f"step {position} {number}")
                    tracker.track_step(names[-1], "tool_call", {"value": value if number == position else "fine"})
        assert tracker.flush(60), tracker.stats()
        stats = tracker.stats()
        tracker.shutdown(5)
    assert balanced(stats)
    assert (stats.delivered, stats.pending, dict(stats.dropped)) == (15, 0, {})
    assert sorted(stored_steps(receiver.url)) == names
    for body in bodies:
        strict(body)


def test_a_dict_that_a_thread_changes_all_the_time_arrives(receiver: Receiver) -> None:
    changing: dict[str, int] = {}
    over = threading.Event()

    def change() -> None:
        number = 0
        while not over.is_set():
            changing[str(number % 500)] = number
            changing.pop(str((number * 7) % 500), None)
            number += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        with create_tracker(KEY, receiver.url) as tracker, tracker.track_run("agent"):
            for number in range(50):
                tracker.track_step(f"step {number:02d}", "tool_call", changing)
            assert tracker.flush(60)
    finally:
        over.set()
        thread.join()
    assert balanced(tracker.stats())
    assert sorted(stored_steps(receiver.url)) == [f"step {number:02d}" for number in range(50)]
