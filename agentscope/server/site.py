"""The pages: what a browser asks for, checked and answered. `pages` draws them."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from agentscope.server import pages
from agentscope.server.api import cursor_of, run_query
from agentscope.server.body import Bodies
from agentscope.server.security import Keys
from agentscope.server.store import Store


class Site:
    """The routes that answer with a page."""

    def __init__(self, store: Store, keys: Keys, bodies: Bodies, css: bytes) -> None:
        self._store = store
        self._keys = keys
        self._bodies = bodies
        self._css = css

    async def index(self, request: Request) -> Response:
        """`GET /`: the list of runs."""
        if not self._keys.may_read(request.scope):
            return RedirectResponse("/login", 303)
        query = run_query(request)
        runs, after = await run_in_threadpool(self._store.list_runs, query)
        address = f"http://{request.headers['host']}"
        page = pages.run_list(runs, query, None if after is None else cursor_of(after), address, self._keys.required)
        return HTMLResponse(page)

    async def run(self, request: Request) -> Response:
        """`GET /runs/{id}`: one run."""
        if not self._keys.may_read(request.scope):
            return RedirectResponse("/login", 303)
        run_id = request.path_params["run_id"]
        run = await run_in_threadpool(self._store.run, run_id)
        if run is None:
            return HTMLResponse(pages.message("Not found", "There is no run with this id."), 404)
        return HTMLResponse(await run_in_threadpool(pages.run_page, run))

    async def login_form(self, request: Request) -> Response:
        """`GET /login`."""
        return HTMLResponse(pages.login())

    async def login(self, request: Request) -> Response:
        """`POST /login`: the key as a form field, answered with a session cookie."""
        async with self._bodies.hold(request, "application/x-www-form-urlencoded") as body:
            given = parse_qs(body.decode("ascii", "replace"), max_num_fields=4).get("key", [""])[0]
        if not self._keys.accepts_text(given):
            return HTMLResponse(pages.login("That is not the key of this receiver."), 401)
        cookie = {"Set-Cookie": self._keys.login_cookie(request.scope)}
        return RedirectResponse("/", 303, headers=cookie)

    async def style(self, request: Request) -> Response:
        """`GET /static/style.css`."""
        return Response(self._css, media_type="text/css", headers={"Cache-Control": "max-age=300"})
