"""The routes of a login: a form that takes the key, and the end of the session that it begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from agentscope.server.http.addressing import FRAME
from agentscope.server.http.body import Bodies
from agentscope.server.http.guesses import Guesses
from agentscope.server.http.keys import READ, Keys, session_cookie
from agentscope.server.http.limits import Limits

from . import pages

_FORM = "application/x-www-form-urlencoded"
_BODY_BYTES = 8 << 10  # of a form; a key is much shorter
_FORMS = 16  # whose bodies are held at once
_BURST, _PERIOD = 5, 5.0  # wrong keys of an address that are free, and seconds for each one beyond


class Login:
    """The routes. Their bodies have a small budget of their own, since anybody may send them.

    `counted` is called for each wrong key.
    """

    def __init__(self, keys: Keys, limits: Limits, counted: Callable[[], None] = lambda: None) -> None:
        self._keys = keys
        self._bodies = Bodies(replace(limits, body_bytes=_BODY_BYTES, held_bytes=_FORMS * _BODY_BYTES))
        self._guesses = Guesses(_BURST, _PERIOD, counted)

    async def form(self, request: Request) -> Response:
        """`GET /login`."""
        return HTMLResponse(pages.login())

    async def login(self, request: Request) -> Response:
        """`POST /login`: the key as a form field, answered with a session cookie. After wrong keys an address has to wait."""
        address = request.client.host if request.client else ""
        wait = math.ceil(self._guesses.seconds_to_wait(address))
        if wait:
            told = f"Too many wrong keys came from your address. Try again in {wait} s."
            headers = {"Retry-After": str(wait), "Connection": "close"}
            return HTMLResponse(pages.login(told), 429, headers=headers)
        async with self._bodies.hold(request, _FORM) as body:
            given = _field(body, "key")
        key = self._keys.find(given.encode("utf-8", "replace"))
        if key is None:
            self._guesses.wrong(address)
            return HTMLResponse(pages.login("That is not the key of this receiver."), 401)
        if not key.may(READ):
            return HTMLResponse(pages.login(f"This key may not read: its role is {key.role}."), 403)
        cookie = session_cookie(self._keys.open_session(key), request.scope, FRAME.get().prefix)
        return RedirectResponse("/", 303, headers={"Set-Cookie": cookie})

    async def logout(self, request: Request) -> Response:
        """`POST /logout`: end the session."""
        self._keys.end_session(request.scope)
        cookie = session_cookie("", request.scope, FRAME.get().prefix)
        return RedirectResponse("/login", 303, headers={"Set-Cookie": cookie})


def _field(form: bytes, name: str) -> str:
    """Return the first value of a field of a form; empty if it is missing, or the form has too many fields."""
    try:
        return dict(reversed(parse_qsl(form.decode("ascii", "replace"), max_num_fields=4))).get(name, "")
    except ValueError:
        return ""
