"""Helpers for tests of the receiver: events, an HTTP client, raw sockets, and a receiver in its own process."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
JSON_HEADERS = {"X-Agentscope-Key": "any", "Content-Type": "application/json"}
TIME = "2026-01-31T12:00:00.000000Z"


def at(second: float) -> str:
    """An ISO time on the day of the tests."""
    return f"2026-01-31T12:{int(second) // 60:02d}:{second % 60:09.6f}Z"


def step(run_id: str = "run-1", **fields: Any) -> dict[str, Any]:
    """A finished step of a run, with new ids."""
    event = {"id": str(uuid.uuid4()), "seq": 0, "time": TIME, "type": "step", "run_id": run_id}
    defaults = {"step_id": str(uuid.uuid4()), "parent_id": None, "name": "search", "step_type": "tool_call"}
    return {**event, **defaults, **fields}


def run_start(run_id: str = "run-1", **fields: Any) -> dict[str, Any]:
    """The start of a run."""
    event = {"id": str(uuid.uuid4()), "seq": 0, "time": TIME, "type": "run.start", "run_id": run_id, "step_id": None}
    defaults = {"parent_id": None, "agent_name": "tester", "status": "running", "started_at": fields.get("time", TIME)}
    return {**event, **defaults, **fields}


def run_end(run_id: str = "run-1", **fields: Any) -> dict[str, Any]:
    """The end of a run, a minute after its start."""
    event = {"id": str(uuid.uuid4()), "seq": 9, "time": at(60), "type": "run.end", "run_id": run_id, "step_id": None}
    return {**event, "parent_id": None, "status": "completed", "ended_at": at(60), **fields}


def envelope(*events: Any, **fields: Any) -> dict[str, Any]:
    """The body of a batch call."""
    head = {"batch_id": str(uuid.uuid4()), "sdk": {"name": "test", "version": "0"}, "session_id": "session-1"}
    return {**head, "events": list(events), "dropped": [], **fields}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _Whole(http.client.HTTPConnection):
    """A connection that sends a request in one piece, because after a refused head it may be closed before the body."""

    def __init__(self, host: str) -> None:
        super().__init__(host, timeout=30)
        self._pieces: list[Any] = []

    def send(self, data: Any) -> None:
        self._pieces.append(data)

    def getresponse(self) -> http.client.HTTPResponse:
        super().send(b"".join(self._pieces))
        return super().getresponse()


class Client:
    """A client with one connection for each request."""

    def __init__(self, url: str, key: str = "any") -> None:
        self.host = urlsplit(url).netloc
        self.key = key

    def send(self, method: str, path: str, body: Any = None, **headers: str | None) -> Answer:
        """Send a request. Header names are given with underscores; None leaves one out. A str or bytes body is raw."""
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        given = {**JSON_HEADERS, "X-Agentscope-Key": self.key}
        given.update({name.replace("_", "-").title(): value for name, value in headers.items()})
        connection = _Whole(self.host)
        try:
            sent = {name: value for name, value in given.items() if value is not None}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str | None) -> Answer:
        return self.send("GET", path, None, **{"content_type": None, **headers})

    def batch(self, *events: Any, **fields: Any) -> Answer:
        return self.send("POST", "/api/ingest/batch", envelope(*events, **fields))

    def zipped(self, body: bytes) -> Answer:
        return self.send("POST", "/api/ingest/batch", gzip.compress(body), content_encoding="gzip")

    def events(self) -> int:
        count: int = self.get("/health").json["events"]
        return count


def connect(url: str) -> socket.socket:
    """A plain connection to a receiver."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def read_all(connection: socket.socket) -> bytes:
    """Read until the other side closes."""
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def raw(url: str, request: bytes) -> bytes:
    """Send these bytes, and return the answer until the receiver closes the connection."""
    with connect(url) as connection:
        connection.sendall(request.replace(b"{host}", urlsplit(url).netloc.encode()))
        return read_all(connection)


_PROGRAM = """
import functools, json, sys
from agentscope.server import receiver as serve
limits, options = map(json.loads, sys.argv[2:] or ("{}", "{}"))
serve.Limits = functools.partial(serve.Limits, **limits)
serve.serve_forever(port=0, db=sys.argv[1], on_start=lambda url: print(url, flush=True), **options)
"""


@contextmanager
def receiver_process(
    db: Path, options: dict[str, Any] | None = None, **limits: float
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A receiver in its own process with these options and `Limits`, and its URL. It is killed at the end if it still runs."""
    command = [sys.executable, "-c", _PROGRAM, str(db), json.dumps(limits), json.dumps(options or {})]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()
