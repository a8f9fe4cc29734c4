"""Checks before every route: the Host allow-list, the Origin check, CORS for senders, and the security headers of answers."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .addressing import FRAME, Addressing, Frame
from .guesses import Guesses
from .keys import carries_key, session_token

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # With "no-referrer" browsers send forms with the origin "null", which is that of any hidden page.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_CORS_SECONDS = 600  # for which a browser remembers the answer to a preflight
_UNKNOWN_HOST = (
    "This host name is not one of the receiver's. If it should be, start the receiver with --allow-host and this name, "
    "or put the name into AGENTSCOPE_ALLOWED_HOSTS."
)
_UNKNOWN_ORIGIN = (
    "Requests from pages of another origin are refused. If the page is the receiver's own, behind a proxy, name its host "
    "with --allow-host. Pages that may send events are named with --allow-origin."
)


class Guard:
    """ASGI middleware: refuses foreign hosts (421) and origins (403), and puts the security headers on every answer.

    Pages of allowed origins may call the `ingest` routes, and no others. The answer to a wrong key waits as `guesses` says.
    """

    def __init__(
        self,
        app: ASGIApp,
        addressing: Addressing,
        encodings: str,
        ingest: Sequence[BaseRoute] = (),
        guesses: Guesses | None = None,
    ) -> None:
        self._app = app
        self._addressing = addressing
        self._headers = {**_HEADERS, "Accept-Encoding": encodings}
        self._ingest = ingest
        self._guesses = guesses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        prefix = self._addressing.resolve(scope)
        FRAME.set(Frame(prefix, bool(session_token(scope))))
        origin = self._sending_origin(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
                if origin is not None:
                    headers["Access-Control-Allow-Origin"] = origin
                    headers["Access-Control-Expose-Headers"] = "Retry-After"
                    headers.add_vary_header("Origin")
                if prefix and headers.get("location", "").startswith("/"):
                    headers["Location"] = prefix + headers["location"]
                if message["status"] == 401:
                    headers["WWW-Authenticate"] = "Bearer"
                    await self._slow_down(scope)
            await send(message)

        answer = self._refusal(scope, origin) or self._preflight(scope, origin)
        await (answer or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, sending_origin: str | None) -> Response | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._addressing.serves(hosts[0], scope):
            return JSONResponse({"detail": _UNKNOWN_HOST}, 421)
        if sending_origin is not None:
            return None
        origin = headers.get("origin")
        if origin is not None and not self._addressing.is_own_origin(origin, hosts[0], scope):
            return JSONResponse({"detail": _UNKNOWN_ORIGIN}, 403)
        # A link from another site is allowed: only the person who follows it sees the page.
        link = scope["method"] in ("GET", "HEAD") and headers.get("sec-fetch-mode", "").lower() == "navigate"
        if headers.get("sec-fetch-site", "").lower() == "cross-site" and not link:
            return JSONResponse({"detail": "Requests from pages of another site are refused."}, 403)
        return None

    def _sending_origin(self, scope: Scope) -> str | None:
        """Return the origin of a page that may send events, if the request is to a route for events."""
        origin = Headers(scope=scope).get("origin")
        if origin is None or not self._addressing.may_send(origin):
            return None
        return origin if any(route.matches(scope)[0] is not Match.NONE for route in self._ingest) else None

    def _preflight(self, scope: Scope, origin: str | None) -> Response | None:
        """Answer the question of a browser whether a page may send. https://fetch.spec.whatwg.org/#cors-preflight-fetch"""
        headers = Headers(scope=scope)
        if origin is None or scope["method"] != "OPTIONS" or "access-control-request-method" not in headers:
            return None
        allowed = {
            "Access-Control-Allow-Methods": "POST, PATCH",
            "Access-Control-Allow-Headers": headers.get("access-control-request-headers", ""),
            "Access-Control-Max-Age": str(_CORS_SECONDS),
        }
        return Response(status_code=204, headers=allowed)

    async def _slow_down(self, scope: Scope) -> None:
        """Count the key of a request that was answered with 401, if it carried one."""
        headers = Headers(scope=scope)
        if self._guesses is not None and carries_key(headers):
            await self._guesses.slow_down((scope.get("client") or ("", 0))[0])
