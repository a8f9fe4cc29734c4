"""The read API: what is stored, as JSON."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agentscope.server.limits import Refused
from agentscope.server.reading import Mark, RunQuery
from agentscope.server.security import Keys
from agentscope.server.store import Store, Unavailable
from agentscope.version import __version__

MAX_LIMIT = 500
"""Runs of one page at most."""
_MAX_TEXT = 255


class ReadAPI:
    """The routes that read."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys

    async def health(self, request: Request) -> Response:
        """`GET /health`. Counts are shown to those who may read."""
        answer: dict[str, Any] = {"status": "ok", "version": __version__}
        try:
            counts = await run_in_threadpool(self._store.health)
        except Unavailable as problem:
            return JSONResponse({**answer, "status": "unavailable", "detail": str(problem)}, 503)
        return JSONResponse({**answer, **counts} if self._keys.may_read(request.scope) else answer)

    async def runs(self, request: Request) -> Response:
        """`GET /api/runs?limit&cursor&status&agent&q`."""
        self._authorise(request)
        runs, after = await run_in_threadpool(self._store.list_runs, run_query(request))
        return JSONResponse({"runs": runs, "next": None if after is None else cursor_of(after)})

    async def run(self, request: Request) -> Response:
        """`GET /api/runs/{id}`."""
        self._authorise(request)
        body = await run_in_threadpool(self._run_body, request.path_params["run_id"])
        return Response(body, media_type="application/json")

    async def events(self, request: Request) -> Response:
        """`GET /api/runs/{id}/events`: the patches as they came, each with the session that sent it."""
        self._authorise(request)
        body = await run_in_threadpool(self._events_body, request.path_params["run_id"])
        return Response(body, media_type="application/json")

    def _run_body(self, run_id: str) -> bytes:
        run = self._store.run(run_id)
        if run is None:
            raise Refused(404, "There is no run with this id.")
        return json.dumps(run, ensure_ascii=False, separators=(",", ":")).encode()

    def _events_body(self, run_id: str) -> bytes:
        rows = self._store.run_events(run_id)
        if rows is None:
            raise Refused(404, "There is no run with this id.")
        events = (f'{{"session_id":{json.dumps(session)},{body[1:]}' for session, body in rows)
        return f'{{"events":[{",".join(events)}]}}'.encode()

    def _authorise(self, request: Request) -> None:
        if not self._keys.may_read(request.scope):
            raise Refused(401, "Send the receiver's key in the header X-Agentscope-Key, or log in at /login.")


def run_query(request: Request) -> RunQuery:
    """The query of a list of runs. Raises `Refused` (422) for a parameter that cannot be."""
    parameters = request.query_params
    limit = parameters.get("limit", "50")
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 9 and 1 <= int(limit) <= MAX_LIMIT):
        raise Refused(422, f"limit must be a whole number from 1 to {MAX_LIMIT}.")
    texts: dict[str, str | None] = {}
    for name in ("status", "agent", "q"):
        text = parameters.get(name) or None
        if text is not None and (len(text) > _MAX_TEXT or "\0" in text):
            raise Refused(422, f"{name} must have at most {_MAX_TEXT} characters and no NUL.")
        texts[name] = text
    cursor = parameters.get("cursor")
    return RunQuery(int(limit), mark_of(cursor) if cursor else None, **texts)


def cursor_of(mark: Mark) -> str:
    """A mark as text that is opaque to clients."""
    return base64.urlsafe_b64encode(f"{mark.key}.{mark.began}".encode()).decode().rstrip("=")


def mark_of(cursor: str) -> Mark:
    """The mark that a cursor was made of. Raises `Refused` (422) for any other text."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        key, _, began = text.partition(".")
        mark = Mark(began, int(key))
    except (ValueError, binascii.Error):
        mark = None
    if mark is None or cursor_of(mark) != cursor or not 0 <= mark.key < 1 << 63:
        raise Refused(422, "cursor must be the next of an earlier answer.")
    return mark
