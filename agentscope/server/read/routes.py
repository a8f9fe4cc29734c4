"""The routes that read: the API in JSON, and the pages of the viewer, which `pages` writes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from agentscope._version import __version__
from agentscope.events import FIELDS
from agentscope.protocols.headers import AGENTSCOPE_KEY
from agentscope.protocols.json_decode import is_text
from agentscope.server.http.addressing import FRAME
from agentscope.server.http.keys import ADMIN, Keys
from agentscope.server.http.limits import Refused
from agentscope.server.storage.base import RunCursor, RunQuery, StepCursor, StepPage, StepQuery, Store, Unavailable
from agentscope.server.storage.project import PROJECT

from . import pages
from .runs import RunReader

MAX_LIMIT = 500
"""The most runs of one page."""
FILTERS = (*dict.fromkeys(field.filter for field in FIELDS.values() if field.filter), "step_status")
"""The parameters of a list of runs that select by a field."""
_MAX_TEXT = 255
_MAX_PAGE = 1_000_000
_MAX_POSITION = 1 << 53
C = TypeVar("C", RunCursor, StepCursor)


class Routes:
    """The routes of one application."""

    def __init__(
        self, store: Store, keys: Keys, reader: RunReader, css: bytes, not_kept: Mapping[str, Mapping[str, int]]
    ) -> None:
        self._store = store
        self._keys = keys
        self._reader = reader
        self._css = css
        self._not_kept = not_kept

    async def health(self, request: Request) -> Response:
        """`GET /health`. The counts need the key, since they read every event."""
        answer: dict[str, Any] = {"status": "ok", "version": __version__}
        counts: dict[str, Any] = {}
        try:
            if self._keys.may_read(request.scope):
                counts = {**await self._reader.read(self._store.health), "not_kept": self._not_kept[PROJECT.get()]}
            else:
                await self._reader.read(self._store.has_run, "")
        except Unavailable as problem:
            return JSONResponse({**answer, "status": "unavailable", "detail": str(problem)}, 503)
        return JSONResponse({**answer, **counts})

    async def runs(self, request: Request) -> Response:
        """`GET /api/runs?limit&cursor&q`, and the parameters in `FILTERS`."""
        self._authorise(request, "limit", "cursor", "q", *FILTERS)
        runs, after = await self._reader.read(self._store.list_runs, run_query(request))
        return JSONResponse({"runs": runs, "next": None if after is None else cursor_text(after)})

    async def run(self, request: Request) -> Response:
        """`GET /api/runs/{id}`."""
        run_id = self._named(request)
        return await self._reader.run(run_id, _json, "application/json", StepQuery())

    async def steps(self, request: Request) -> Response:
        """`GET /api/runs/{id}/steps?limit&cursor&status`: a page of the steps by their start."""
        run_id = self._named(request, "limit", "cursor", "status")
        cursor, status = request.query_params.get("cursor"), request.query_params.get("status")
        if status not in (None, "failed"):
            raise Refused(422, "status must be failed.")
        after = parsed_cursor(cursor, StepCursor) if cursor else None
        query = StepQuery(number(request, "limit", pages.MAX_STEPS, pages.MAX_STEPS), after, failed=status is not None)
        return await self._reader.steps(run_id, query, _steps_json)

    async def events(self, request: Request) -> Response:
        """`GET /api/runs/{id}/events`: the patches as they came, each with the session that sent it."""
        return await self._reader.events(self._named(request))

    async def delete_run(self, request: Request) -> Response:
        """`DELETE /api/runs/{id}`."""
        return await self._deleted(request, RunQuery(run_id=self._named(request)))

    async def delete_runs(self, request: Request) -> Response:
        """`DELETE /api/runs?user_id=…`, with any of the filters of a list of runs: all runs that match. There must be one."""
        parameters = [*request.query_params.multi_items()]
        names = [name for name, _ in parameters]
        if not names or len(names) > len({*names}) or not all(value for _, value in parameters):
            raise Refused(422, f"Name each filter once, with a value: {', '.join(('q', *FILTERS))}.")
        return await self._deleted(request, run_query(request), "q", *FILTERS)

    async def _deleted(self, request: Request, query: RunQuery, *known: str) -> Response:
        if query.run_id is None:
            self._authorise(request, *known)
        key = self._keys.reader(request.scope)
        if key is None or not key.may(ADMIN):
            raise Refused(403, f"Only a key with the role {ADMIN} may delete.")
        if query.run_id is not None:
            query = query._replace(run_id=await self._reader.known(query.run_id))
        count = await self._reader.read(self._store.delete_runs, query, project=key.project)
        if not count and query.run_id is not None:
            raise Refused(404, "There is no run with this id.")
        return JSONResponse({"deleted": count})

    async def runs_page(self, request: Request) -> Response:
        """`GET /` and `GET /runs`: the list of runs."""
        if not self._keys.may_read(request.scope):
            return RedirectResponse("/login", 303)
        query = run_query(request)
        runs, after = await self._reader.read(self._store.list_runs, query)
        scheme = request.scope.get("scheme", "http")
        address = f"{scheme}://{request.headers['host']}{FRAME.get().prefix}"
        page = pages.run_list(runs, query, None if after is None else cursor_text(after), address, self._keys.required)
        return HTMLResponse(page)

    async def run_page(self, request: Request) -> Response:
        """`GET /runs/{id}?page`: one run."""
        if not self._keys.may_read(request.scope):
            return RedirectResponse("/login", 303)
        try:
            page = number(request, "page", 1, _MAX_PAGE)
            failed = request.query_params.get("status") == "failed"
            query = StepQuery(pages.MAX_STEPS, skip=(page - 1) * pages.MAX_STEPS, failed=failed, is_whole=True)

            def draw(run: dict[str, Any], part: StepPage | None) -> str:
                return pages.run_page(run, page, part, failed=failed)

            return await self._reader.run(run_named(request), draw, "text/html", query)
        except Refused as problem:
            title = "Not found" if problem.status == 404 else "Not shown"
            return HTMLResponse(pages.message(title, str(problem)), problem.status, headers=problem.headers)

    async def style(self, request: Request) -> Response:
        """`GET /static/style.css`."""
        return Response(self._css, media_type="text/css", headers={"Cache-Control": "max-age=300"})

    def _named(self, request: Request, *known: str) -> str:
        """Return the id of the run that an address names. Raises as `_authorise` does."""
        self._authorise(request, *known, *(() if request.path_params["run_id"] else ("id",)))
        return run_named(request)

    def _authorise(self, request: Request, *known: str) -> None:
        """Raise `Refused` without a key for reading (401, 403), and for a parameter that is not `known` (400)."""
        if not self._keys.may_read(request.scope):
            raise refusal_to_read(self._keys, request)
        unknown = [name for name in request.query_params if name not in known]
        if unknown:
            there_are = f"; there are {', '.join(known)}" if known else "; this address takes none"
            raise Refused(400, f"{unknown[0][:_MAX_TEXT]!r} is no parameter of this address{there_are}.")


def run_named(request: Request) -> str:
    """Return the id of the run that an address names, as `address_of` writes it."""
    return request.path_params["run_id"] or request.query_params.get("id", "")


def refusal_to_read(keys: Keys, request: Request) -> Refused:
    """Return the refusal of a request that may not read: 403 for a key with another role, 401 for any other."""
    key = keys.given_by(request.headers)
    if key is not None:
        return Refused(403, f"The key {key.name!r} may not read: its role is {key.role}.")
    ways = f"as Authorization: Bearer KEY or {AGENTSCOPE_KEY}: KEY, or log in at /login"
    return Refused(401, f"Send the receiver's key, {ways}.")


def _json(run: dict[str, Any], page: StepPage | None = None) -> str:
    following = {} if page is None else {"steps_next": None if page.next is None else cursor_text(page.next)}
    return json.dumps({**run, **following}, ensure_ascii=False, separators=(",", ":"))


def _steps_json(page: StepPage) -> str:
    return _json({"steps": page.steps, "next": None if page.next is None else cursor_text(page.next)})


def run_query(request: Request) -> RunQuery:
    """Read the query of a list of runs. Raises `Refused` (422) for a parameter that cannot be."""
    parameters = request.query_params
    limit = number(request, "limit", 50, MAX_LIMIT)
    texts: dict[str, str | None] = {}
    for name in ("q", *FILTERS):
        text = parameters.get(name) or None
        if text is not None and (len(text) > _MAX_TEXT or "\0" in text):
            raise Refused(422, f"{name} must have at most {_MAX_TEXT} characters and no NUL.")
        if name == "step_status" and text not in (None, "failed"):
            raise Refused(422, "step_status must be failed.")
        texts[name] = text
    cursor = parameters.get("cursor")
    return RunQuery(limit, parsed_cursor(cursor, RunCursor) if cursor else None, **texts)


def number(request: Request, name: str, usual: int, highest: int) -> int:
    """Read a parameter that counts from 1. Raises `Refused` (422) for one that cannot be."""
    given = request.query_params.get(name, str(usual))
    if not (given.isascii() and given.isdigit() and len(given) <= 9 and 1 <= int(given) <= highest):
        raise Refused(422, f"{name} must be a whole number from 1 to {highest}.")
    return int(given)


def cursor_text(cursor: RunCursor | StepCursor) -> str:
    """Write a cursor as text that is opaque to clients."""
    return base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode().rstrip("=")


def parsed_cursor(text: str, kind: Callable[..., C]) -> C:
    """Decode the text of a cursor. Raises `Refused` (422) for a text that `cursor_text` has not made."""
    try:
        values = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        cursor = kind(*values)
        numbers = [value for value in cursor if type(value) is int and 0 <= value <= _MAX_POSITION]
        texts = [value for value in cursor if type(value) is str and is_text(value)]
        is_whole = len(texts) == 2 and len(numbers) == len(cursor) - 2 and type(cursor[-1]) is (int if numbers else str)
        if cursor_text(cursor) == text and is_whole:
            return cursor
    except (ValueError, TypeError):
        pass
    raise Refused(422, "cursor must be the next of an earlier answer.")
