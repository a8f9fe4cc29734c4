"""The receiver as a Starlette application: its routes and error answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as problem:
    from agentscope.server.extra import missing_extra

    raise missing_extra(problem) from problem

from agentscope.server.http.body import ENCODINGS
from agentscope.server.http.limits import Limits
from agentscope.server.http.security import Guard, Keys, loopback_hosts
from agentscope.server.ingest.agentscope import Ingest
from agentscope.server.ingest.intake import REFUSALS, Intake, refusal
from agentscope.server.ingest.otlp import OTLP
from agentscope.server.ingest.voltagent import History
from agentscope.server.read.routes import Routes
from agentscope.server.read.runs import RunReader
from agentscope.server.storage.base import Store, Unsupported

STATIC = Path(__file__).with_name("viewer")


def create_app(
    store: Store,
    *,
    api_key: str | None = None,
    allowed_hosts: Iterable[str] | None = None,
    limits: Limits | None = None,
) -> Starlette:
    """Build the receiver over a store.

    With an `api_key`, ingest and reading need it. Without one, ingest takes any key and OTLP none, and everything may be
    read: such a receiver must listen on loopback only. `allowed_hosts` are exact Host values, by default those of loopback
    at port 8000.
    """
    keys = Keys(api_key)
    limits = limits or Limits()
    intake = Intake(store, limits)
    ingest, otlp, history = Ingest(intake, keys), OTLP(intake, keys), History(intake, store, keys)
    reader = RunReader(store, limits, intake.large)
    read = Routes(store, keys, reader, intake.bodies, (STATIC / "style.css").read_bytes())
    hosts = loopback_hosts(8000) if allowed_hosts is None else allowed_hosts
    return Starlette(
        routes=[
            Route("/api/ingest/batch", ingest.batch, methods=["POST"]),
            Route("/api/ingest/run", ingest.run, methods=["POST"]),
            Route("/api/ingest/run/{run_id:path}/step", ingest.step, methods=["POST"]),
            Route("/api/ingest/run/{run_id:path}", ingest.run_update, methods=["PATCH"]),
            Route("/v1/traces", otlp.traces, methods=["POST"]),
            Route("/api/public/otel/v1/traces", otlp.traces, methods=["POST"]),
            Route("/history", history.create, methods=["POST"]),
            Route("/history/{run_id:path}", history.update, methods=["PATCH"]),
            Route("/history-events", history.add_event, methods=["POST"]),
            Route("/history-events/{event_id:path}", history.update_event, methods=["PATCH"]),
            Route("/health", read.health),
            Route("/api/runs", read.runs),
            Route("/api/runs/{run_id:path}/events", read.events),
            Route("/api/runs/{run_id:path}", read.run),
            Route("/", read.runs_page),
            Route("/runs", read.runs_page),
            Route("/runs/{run_id:path}", read.run_page),
            Route("/login", read.login_form),
            Route("/login", read.login, methods=["POST"]),
            Route("/static/style.css", read.style),
        ],
        middleware=[Middleware(Guard, allowed_hosts=hosts, encodings=ENCODINGS)],
        exception_handlers=dict.fromkeys((*REFUSALS, HTTPException, Unsupported, Exception), _problem),
    )


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
