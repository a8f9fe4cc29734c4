"""The receiver as an application: its routes, what surrounds them, and its error answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp
except ImportError as problem:
    from agentscope.server.extra import missing_extra

    raise missing_extra(problem) from problem

from agentscope.server.http.addressing import Addressing
from agentscope.server.http.body import ENCODINGS
from agentscope.server.http.gate import READY, Gate, State
from agentscope.server.http.guard import Guard
from agentscope.server.http.guesses import Guesses
from agentscope.server.http.keys import ADMIN, Keys
from agentscope.server.http.limits import Limits, Refused
from agentscope.server.http.paths import WholeParts
from agentscope.server.ingest.agentscope import Ingest
from agentscope.server.ingest.intake import REFUSALS, Intake, refusal
from agentscope.server.ingest.otlp import OTLP, OTLP_BASES
from agentscope.server.ingest.voltagent import History
from agentscope.server.metrics import CONTENT_TYPE, Metrics
from agentscope.server.read.login import Login
from agentscope.server.read.routes import Routes, refusal_to_read
from agentscope.server.read.runs import RunReader
from agentscope.server.storage.base import Store, Unsupported
from agentscope.server.storage.project import of_request

STATIC = Path(__file__).with_name("viewer")

_BURST, _PERIOD = 10, 5.0  # wrong keys of an address that are answered at once, and seconds for each one beyond


def create_app(
    store: Store,
    *,
    api_key: str | None = None,
    allowed_hosts: Iterable[str] = (),
    limits: Limits | None = None,
) -> ASGIApp:
    """Build the receiver over a store.

    With an `api_key`, ingest and reading need it. Without one, ingest takes any key and OTLP none, and everything may be
    read: such a receiver must listen on loopback only. `allowed_hosts` are as in `Addressing`.
    """
    front = Front(Keys(api_key), Addressing(allowed_hosts, has_key=api_key is not None))
    front.open(store, limits or Limits())
    return front.app


class Front:
    """The application before and after its store is open. `app` answers probes always, and other requests after `open`."""

    def __init__(self, keys: Keys, addressing: Addressing) -> None:
        self._keys = keys
        self.metrics = Metrics()
        self.state = State()
        self._gate = Gate(None, self.state)
        self._ingest: list[Route] = []
        guesses = Guesses(_BURST, _PERIOD, self.metrics.wrong_key)
        guard = Guard(self._gate, addressing, ENCODINGS, self._ingest, guesses)
        self.app = self.metrics.measured(guard)

    def open(self, store: Store, limits: Limits) -> None:
        """Let requests through to the routes over a store."""
        keys = self._keys
        store = of_request(store)
        intake = Intake(store, limits, self.metrics.came)
        ingest, otlp, history = Ingest(intake, keys), OTLP(intake, keys), History(intake, store, keys)
        login = Login(keys, limits, self.metrics.wrong_key)
        reader, css = RunReader(store, limits, intake.large), (STATIC / "style.css").read_bytes()
        read = Routes(store, keys, reader, css, otlp.not_kept)
        self._ingest += [
            Route("/api/ingest/batch", ingest.batch, methods=["POST"]),
            Route("/api/ingest/run", ingest.run, methods=["POST"]),
            Route("/api/ingest/run/{run_id:id}/step", ingest.step, methods=["POST"]),
            Route("/api/ingest/run/{run_id:id}", ingest.run_update, methods=["PATCH"]),
            *(
                Route(f"{base}/v1/{signal}", endpoint, methods=["POST"])
                for base in OTLP_BASES
                for signal, endpoint in (("traces", otlp.traces), ("logs", otlp.logs), ("metrics", otlp.metrics))
            ),
            Route("/opentelemetry.proto.collector.{service:path}", otlp.traces, methods=["POST"]),  # gRPC is refused
            Route("/history", history.create, methods=["POST"]),
            Route("/history/{run_id:id}", history.update, methods=["PATCH"]),
            Route("/history-events", history.add_event, methods=["POST"]),
            Route("/history-events/{event_id:id}", history.update_event, methods=["PATCH"]),
        ]
        reading = [
            Route("/health", read.health),
            Route("/metrics", self._metrics),
            Route("/api/runs", read.runs),
            Route("/api/runs", read.delete_runs, methods=["DELETE"]),
            Route("/api/runs/{run_id:id}", read.delete_run, methods=["DELETE"]),
            Route("/api/runs/{run_id:id}/events", read.events),
            Route("/api/runs/{run_id:id}/steps", read.steps),
            Route("/api/runs/{run_id:id}", read.run),
            Route("/", read.runs_page),
            Route("/runs", read.runs_page),
            Route("/runs/{run_id:id}", read.run_page),
            Route("/login", login.form),
            Route("/login", login.login, methods=["POST"]),
            Route("/logout", login.logout, methods=["POST"]),
            Route("/static/style.css", read.style),
        ]
        self.metrics.name_routes([*self._ingest, *reading])
        self.metrics.gauge(
            "held_bytes", "Size of the bodies that are being received or stored.", lambda: intake.bodies.held
        )
        self.metrics.gauge("queue_batches", "Batches that wait to be stored.", lambda: intake.waiting)
        routes = Starlette(
            routes=[*self._ingest, *reading],
            exception_handlers=dict.fromkeys((*REFUSALS, HTTPException, Unsupported, Exception), _problem),
        )
        routes.router.redirect_slashes = (
            False  # it writes an absolute address, without the prefix and scheme of the proxy
        )
        self._gate.app = WholeParts(routes)
        self.state.phase = READY

    async def _metrics(self, request: Request) -> Response:
        """`GET /metrics`: the numbers of all projects together."""
        key = self._keys.reader(request.scope)
        if key is None:
            raise refusal_to_read(self._keys, request)
        if self._keys.of_projects and not key.may(ADMIN):
            raise Refused(403, f"The metrics are those of all projects: a key with the role {ADMIN} may read them.")
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)


async def _problem(request: Request, problem: Exception) -> Response:
    """Answer an exception with its status and one sentence."""
    if isinstance(problem, HTTPException):
        return JSONResponse({"detail": f"{problem.detail}."}, problem.status_code, headers=problem.headers)
    if isinstance(problem, REFUSALS):
        status, sentence, headers = refusal(problem)
        return JSONResponse({"detail": sentence}, status, headers=headers)
    if isinstance(problem, Unsupported):
        return JSONResponse({"detail": f"{problem}."}, 501)
    return JSONResponse({"detail": "The receiver failed on this request; its log says why."}, 500)
