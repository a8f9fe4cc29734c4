"""The receiver as a process: killed, asked to stop, and started where it cannot be."""

from __future__ import annotations

import http.client
import os
import re
import runpy
import signal
import socket
import sqlite3
import sys
import threading
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from agentscope.errors import ConfigurationError
from agentscope.protocols import json_decode as strict_json
from agentscope.server import app, metrics
from agentscope.server import receiver as serve
from agentscope.server.http import body
from agentscope.server.ingest import otlp_protobuf
from agentscope.server.receiver import Receiver, serve_forever
from tests.support.receiver import Client, receiver_process, run_start, step
from tests.support.wait import until


def write(client: Client, acknowledged: list[str]) -> None:
    """Send batches until the receiver is gone, and note what was acknowledged."""
    while True:
        events = [step(input="x" * 500) for _ in range(20)]
        try:
            answer = client.batch(*events)
        except (OSError, http.client.HTTPException):
            return
        assert answer.json["accepted"] == 20
        acknowledged.extend(event["id"] for event in events)


# Were an end to wait for a connection that is left open, it would be for ten minutes.
LIMITS = {"body_seconds": 600, "head_seconds": 600}


def _reached(found: list[str], goal: int) -> bool:
    return len(found) >= goal


def test_everything_acknowledged_before_a_kill_is_there_afterwards(tmp_path: Path) -> None:
    db = tmp_path / "runs.db"
    acknowledged: list[str] = []
    for _ in range(3):
        with receiver_process(db) as (process, url):
            writers = [threading.Thread(target=write, args=(Client(url), acknowledged)) for _ in range(3)]
            for writer in writers:
                writer.start()
            goal = len(acknowledged) + 200
            until(partial(_reached, acknowledged, goal), 60)
            process.kill()
            for writer in writers:
                writer.join()
    stored = sqlite3.connect(db)
    assert stored.execute("PRAGMA quick_check").fetchone() == ("ok",)
    found = {event for (event,) in stored.execute("SELECT id FROM events")}
    folded = stored.execute("SELECT count(*) FROM steps").fetchone()[0]
    stored.close()
    assert set(acknowledged) <= found
    assert folded == len(found)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_and_in_time(tmp_path: Path, number: signal.Signals) -> None:
    db = tmp_path / "runs.db"
    with receiver_process(db, **LIMITS) as (process, url):
        assert Client(url).batch(run_start()).status == 200
        idle = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
        process.send_signal(number)
        assert process.wait(30) == 0
        idle.close()
    assert [file.name for file in tmp_path.iterdir()] == ["runs.db"]


def test_a_request_that_never_ends_does_not_hold_the_stop_for_long(tmp_path: Path) -> None:
    with receiver_process(tmp_path / "runs.db", **LIMITS) as (process, url):
        client = Client(url)
        assert client.batch(run_start()).status == 200
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as stuck:
            head = f"POST /api/ingest/batch HTTP/1.1\r\nHost: {client.host}\r\nX-Agentscope-Key: k\r\n"
            stuck.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n".encode())
            assert client.get("/health").status == 200
            process.terminate()
            assert process.wait(30) == 0


def test_in_the_foreground_it_tells_its_address_and_gives_signals_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    addresses: list[str] = []

    def on_start(url: str) -> None:
        addresses.append(url)
        assert Client(url).get("/health").status == 200
        os.kill(os.getpid(), signal.SIGTERM)

    serve_forever(port=0, db=tmp_path / "runs.db", on_start=on_start)
    assert addresses[0].startswith("http://127.0.0.1:")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_taken_port_is_an_error_at_once(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "a.db") as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(OSError):
            Receiver(port=port, db=tmp_path / "b.db").start()
        with pytest.raises(OSError):
            serve_forever(port=port, db=tmp_path / "b.db")


def test_a_receiver_that_was_not_started_has_no_store_and_stops_at_once() -> None:
    receiver = Receiver()
    receiver.stop()
    with pytest.raises(RuntimeError, match="not started"):
        receiver.store.health()


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        (app, "starlette.applications"),
        (serve, "uvicorn"),
        (otlp_protobuf, "opentelemetry.proto.trace.v1"),
        (metrics, "prometheus_client"),
    ],
)
def test_a_missing_extra_is_named_in_the_error(
    module: ModuleType, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(ConfigurationError, match=re.escape("pip install -e '.[server]'")):
        runpy.run_module(module.__name__)


@pytest.mark.parametrize(("module", "missing"), [(strict_json, "orjson"), (body, "zstandard")])
def test_the_quick_libraries_may_be_missing(module: ModuleType, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, module.__name__)
    assert runpy.run_module(module.__name__)[missing] is None


def test_a_server_that_fails_is_logged_and_ends_the_foreground(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: object, sockets: object) -> None:
        raise RuntimeError("no event loop")

    monkeypatch.setattr("uvicorn.Server.run", fail)
    serve_forever(port=0, db=tmp_path / "runs.db", on_start=lambda url: None)
    assert "the receiver ended by an error" in caplog.text
