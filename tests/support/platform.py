"""A strict stand-in for a deployed AgentScope platform, with the three classic calls and no others.

It refuses what a deployed platform refuses, with the same status, so that a test which ends with an empty
`refusals` has shown that the client speaks the dialect.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

STEP_TYPES = frozenset({"llm_call", "tool_call", "retrieval", "custom", "error"})
_INT32 = range(-(2**31), 2**31)
_RUN = re.compile(r"/api/ingest/run/([^/?]+)(/step)?")


class Refused(Exception):
    """A refusal: the status and the sentence of the platform's answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Received(NamedTuple):
    """A received request, with header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class PlatformRun:
    """A stored run. `steps` are numbered in order of arrival; `updates` are in order of arrival."""

    id: str
    agent_name: str
    external_id: str | None
    input: Any
    meta_data: Any
    idempotency_key: str | None
    status: str = "running"
    output: Any = None
    error: Any = None
    ended_at: str | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)


class DeployedPlatform:
    """A context manager that serves on loopback while it is open; `url` is the base URL.

    `latency` (seconds) is waited before each answer. `on_request`, when set, is called with each request before it is
    judged. Leaving the block raises AssertionError if the stand-in itself broke.
    """

    def __init__(self, api_key: str = "ask_test", *, latency: float = 0.0) -> None:
        self.api_key = api_key
        self.latency = latency
        self.on_request: Callable[[Received], None] | None = None
        self.runs: dict[str, PlatformRun] = {}
        self.refusals: list[tuple[int, str, str]] = []
        """The status, path and sentence of every request that was not answered 200."""
        self.ignored: list[tuple[str, str]] = []
        """The path and name of every field that a deployed platform ignores silently."""
        self.received: list[Received] = []
        self.max_parallel = 0
        """The greatest number of connections open at one time."""
        self.connections = 0
        """The number of connections opened so far."""
        self._lock = threading.Lock()
        self._failures: list[tuple[int, dict[str, str]]] = []
        self._closing = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name="platform", daemon=True
        )
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> DeployedPlatform:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()
        if self._server.broken and exc[0] is None:
            raise AssertionError("the stand-in broke") from self._server.broken[0]

    @property
    def requests(self) -> int:
        """The number of requests, refused ones included."""
        return len(self.received)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps of all runs."""
        with self._lock:
            return [step for run in self.runs.values() for step in run.steps]

    def only_run(self) -> PlatformRun:
        """The only run; AssertionError if there are none or several."""
        assert len(self.runs) == 1, f"{len(self.runs)} runs"
        return next(iter(self.runs.values()))

    def fail_next(self, n: int = 1, status: int = 503, headers: Mapping[str, str] | None = None) -> None:
        """Answer the next `n` requests with `status` and `headers`, and store nothing of them."""
        with self._lock:
            self._failures += [(status, dict(headers or {}))] * n

    def answer(self, request: Received) -> tuple[int, dict[str, Any], dict[str, str]]:
        """The status, JSON body and headers of the answer to one request."""
        if self.on_request is not None:
            self.on_request(request)
        with self._lock:
            self.received.append(request)
            failure = self._failures.pop(0) if self._failures else None
        if self.latency:
            self._closing.wait(self.latency)
        headers: dict[str, str] = {}
        try:
            if failure is not None:
                headers = failure[1]
                raise Refused(failure[0], "told to fail")
            with self._lock:
                return 200, self._store(request), headers
        except Refused as refused:
            with self._lock:
                self.refusals.append((refused.status, request.path, str(refused)))
            return refused.status, {"detail": str(refused)}, headers

    def _store(self, request: Received) -> dict[str, Any]:
        path = request.path
        match = _RUN.fullmatch(path)
        if request.method == "POST" and path == "/api/ingest/run":
            return self._create(request, self._body(request))
        if match is None:
            raise Refused(404, "Not Found")
        run_id, step = match.groups()
        if request.method != ("POST" if step else "PATCH"):
            raise Refused(405, "Method Not Allowed")
        body = self._body(request)
        # A platform validates the whole request before it looks the run up.
        checked = self._step(path, body) if step else self._update(path, body)
        try:
            run = self.runs.get(str(uuid.UUID(run_id)))
        except ValueError:
            raise Refused(422, "path.run_id: Input should be a valid UUID") from None
        if run is None:
            raise Refused(404, "Run not found")
        _storable(checked)
        if step:
            key = request.headers.get("idempotency-key")
            run.steps.append({**checked, "step_index": len(run.steps), "idempotency_key": key})
            return {"message": "Step added"}
        run.updates.append(checked)
        for name, value in checked.items():
            setattr(run, name, value)
        return {"message": "Run updated"}

    def _body(self, request: Received) -> dict[str, Any]:
        headers = request.headers
        if headers.get("content-encoding", "identity") != "identity" or request.body[:2] == b"\x1f\x8b":
            raise Refused(400, "There was an error parsing the body")
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise Refused(422, "body: Input should be a valid dictionary")
        if "x-agentscope-key" not in headers:
            raise Refused(422, "header.x-agentscope-key: Field required")
        try:
            body = json.loads(request.body.decode("utf-8"))
        except (ValueError, RecursionError):
            raise Refused(422, "body: JSON decode error") from None
        if not isinstance(body, dict):
            raise Refused(422, "body: Input should be a valid dictionary")
        if headers["x-agentscope-key"] != self.api_key:
            raise Refused(401, "Invalid API key")
        return body

    def _create(self, request: Received, body: dict[str, Any]) -> dict[str, Any]:
        fields = _Fields(body)
        values = {
            "agent_name": fields.text("agent_name", required=True),
            "external_id": fields.text("external_id"),
            "input": fields.object("input"),
            "meta_data": fields.object("meta_data"),
        }
        self.ignored += [(request.path, name) for name in body.keys() - values.keys()]
        _storable(values, short=("agent_name", "external_id"))
        run = PlatformRun(id=str(uuid.uuid4()), idempotency_key=request.headers.get("idempotency-key"), **values)
        self.runs[run.id] = run
        now = datetime.now(timezone.utc).replace(tzinfo=None).isoformat()
        return {
            "id": run.id,
            "project_id": "00000000-0000-4000-8000-000000000001",
            **values,
            "status": "running",
            "started_at": now,
            "created_at": now,
        }

    def _step(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        fields = _Fields(body)
        values: dict[str, Any] = {
            "step_type": fields.text("step_type", required=True),
            "name": fields.text("name", required=True),
        }
        if values["step_type"] not in STEP_TYPES:
            raise Refused(422, f"body.step_type: Input should be one of {sorted(STEP_TYPES)}")
        values |= {name: fields.object(name) for name in ("input", "output", "meta_data", "error")}
        values |= {name: fields.integer(name) for name in ("tokens_used", "latency_ms")}
        values |= {name: fields.moment(name) for name in ("started_at", "ended_at")}
        self.ignored += [(path, name) for name in body.keys() - values.keys()]
        return values

    def _update(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        fields = _Fields(body)
        values: dict[str, Any] = {"status": fields.text("status"), "ended_at": fields.moment("ended_at")}
        values |= {name: fields.object(name) for name in ("output", "error")}
        self.ignored += [(path, name) for name in body.keys() - values.keys()]
        return {name: value for name, value in values.items() if value is not None}


class _Fields:
    """Typed look-ups in a body; each raises the 422 of its field."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body

    def text(self, name: str, *, required: bool = False) -> Any:
        if required and name not in self._body:
            raise Refused(422, f"body.{name}: Field required")
        if required and self._body[name] is None:
            raise Refused(422, f"body.{name}: Input should be a valid string")
        return self._typed(name, str, "string")

    def object(self, name: str) -> Any:
        return self._typed(name, dict, "dictionary")

    def integer(self, name: str) -> Any:
        if isinstance(self._body.get(name), bool):
            raise Refused(422, f"body.{name}: Input should be a valid integer")
        return self._typed(name, int, "integer")

    def moment(self, name: str) -> Any:
        value = self._typed(name, str, "datetime")
        if value is not None:
            try:
                moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
            except ValueError:
                raise Refused(422, f"body.{name}: Input should be a valid datetime") from None
            if moment.tzinfo is not None:
                raise Refused(500, f"{name} has a zone, its column has none")
        return value

    def _typed(self, name: str, kind: type, word: str) -> Any:
        value = self._body.get(name)
        if value is not None and not isinstance(value, kind):
            raise Refused(422, f"body.{name}: Input should be a valid {word}")
        return value


def _storable(values: dict[str, Any], short: tuple[str, ...] = ("name", "status")) -> None:
    """Raise the 500 of the platform for values that its database columns do not take."""
    for name in short:
        if values.get(name) is not None and len(values[name]) > 255:
            raise Refused(500, f"{name} is longer than 255 characters")
    for name in ("tokens_used", "latency_ms"):
        if values.get(name) is not None and values[name] not in _INT32:
            raise Refused(500, f"{name} does not fit 32 bits")
    text = json.dumps(values, ensure_ascii=False)
    if re.search(r"(?<!\\)(?:\\\\)*\\u0000", text):
        raise Refused(500, "a NUL character")
    if re.search("[\ud800-\udfff]", text):
        raise Refused(500, "a lone surrogate")
    try:
        json.dumps(values, allow_nan=False)
    except ValueError:
        raise Refused(500, "a number that JSON does not have") from None


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, platform: DeployedPlatform) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.platform = platform
        self.broken: list[BaseException] = []
        self._open: dict[socket.socket, threading.Thread] = {}
        self._open_lock = threading.Lock()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open[request] = threading.current_thread()
            self.platform.connections += 1
            self.platform.max_parallel = max(self.platform.max_parallel, len(self._open))
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._open_lock:
                del self._open[request]

    def hang_up(self) -> None:
        """End the keep-alive connections and wait for their threads."""
        with self._open_lock:
            connections = dict(self._open)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in connections.values():
            thread.join(5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.broken.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not re.fullmatch("[0-9]{1,12}", length):
            self.close_connection = True
            self._reply(411, {"detail": "Length Required"}, {})
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            return
        self._reply(*self.server.platform.answer(Received(self.command, self.path, headers, body)))

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _serve

    def _reply(self, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any, **kwargs: Any) -> None:
        """Print nothing to stderr, which tests read."""
