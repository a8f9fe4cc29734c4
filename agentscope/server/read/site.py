"""The routes of the viewer. `pages` writes the HTML."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from agentscope.server.http.body import Bodies
from agentscope.server.http.limits import Refused
from agentscope.server.http.security import Keys
from agentscope.server.storage.base import Store

from . import pages
from .api import cursor_text, number, run_query
from .runs import RunReader

_MAX_PAGE = 1_000_000


class Site:
    """The routes that answer with a page."""

    def __init__(self, store: Store, keys: Keys, reader: RunReader, bodies: Bodies, css: bytes) -> None:
        self._store = store
        self._keys = keys
        self._reader = reader
        self._bodies = bodies
        self._css = css

    async def index(self, request: Request) -> Response:
        """`GET /`: the list of runs."""
        if not self._keys.may_read(request.scope):
            return RedirectResponse("/login", 303)
        query = run_query(request)
        runs, after = await self._reader.read(self._store.list_runs, query)
        address = f"http://{request.headers['host']}"
        page = pages.run_list(runs, query, None if after is None else cursor_text(after), address, self._keys.required)
        return HTMLResponse(page)

    async def run(self, request: Request) -> Response:
        """`GET /runs/{id}?page`: one run."""
        if not self._keys.may_read(request.scope):
            return RedirectResponse("/login", 303)
        try:
            page = number(request, "page", 1, _MAX_PAGE)
            draw = partial(_drawn, page=page)
            return await self._reader.run(request.path_params["run_id"], draw, "text/html")
        except Refused as problem:
            title = "Not found" if problem.status == 404 else "Not shown"
            return HTMLResponse(pages.message(title, str(problem)), problem.status, headers=problem.headers)

    async def login_form(self, request: Request) -> Response:
        """`GET /login`."""
        return HTMLResponse(pages.login())

    async def login(self, request: Request) -> Response:
        """`POST /login`: the key as a form field, answered with a session cookie."""
        async with self._bodies.hold(request, "application/x-www-form-urlencoded") as body:
            given = _field(body, "key")
        if not self._keys.accepts_text(given):
            return HTMLResponse(pages.login("That is not the key of this receiver."), 401)
        cookie = {"Set-Cookie": self._keys.login_cookie(request.scope)}
        return RedirectResponse("/", 303, headers=cookie)

    async def style(self, request: Request) -> Response:
        """`GET /static/style.css`."""
        return Response(self._css, media_type="text/css", headers={"Cache-Control": "max-age=300"})


def _drawn(run: dict[str, Any], page: int) -> bytes:
    return pages.run_page(run, page).encode()


def _field(form: bytes, name: str) -> str:
    """Return the first value of a field of a form; empty if it is missing, or the form has too many fields."""
    try:
        return dict(reversed(parse_qsl(form.decode("ascii", "replace"), max_num_fields=4))).get(name, "")
    except ValueError:
        return ""
