"""Access control: the Host allow-list, the Origin check, the API key, and the security headers of every answer."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import secrets
from collections.abc import Iterable
from hmac import compare_digest

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentscope.protocols.headers import AGENTSCOPE_KEY, VOLTAGENT_SECRET_KEY

KEY_HEADER = AGENTSCOPE_KEY.lower()

_OTLP_HEADERS = (KEY_HEADER, "x-api-key", VOLTAGENT_SECRET_KEY.lower())

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Keys:
    """Checks API keys and browser sessions. Without a key any non-empty one is accepted, and everything may be read."""

    def __init__(self, api_key: str | None) -> None:
        self._key = None if api_key is None else api_key.encode()
        self._session = secrets.token_urlsafe(32)

    def __repr__(self) -> str:
        return f"Keys(required={self.required})"

    @property
    def required(self) -> bool:
        """True if the receiver has a key."""
        return self._key is not None

    def accepts(self, given: str) -> bool:
        """Check the value of a key header. Starlette reads the bytes of headers as Latin-1."""
        return given != "" if self._key is None else compare_digest(given.encode("latin-1"), self._key)

    def accepts_text(self, given: str) -> bool:
        """Check a key that was typed into the login form."""
        return given != "" if self._key is None else compare_digest(given.encode("utf-8", "replace"), self._key)

    def accepts_pair(self, public: str, secret: str) -> bool:
        """Check VoltAgent's two key headers: the secret one is the key, the public one any name."""
        return public != "" and self.accepts(secret)

    def accepts_otlp(self, headers: Headers) -> bool:
        """Check a sender of OTLP, which may send the key in any header that OTLP backends use.

        `Authorization: Bearer <key>`, or `Basic` with the key as password (Langfuse), `X-Agentscope-Key`, `x-api-key`
        (LangSmith) or `X-Secret-Key` (VoltAgent). Without a key no header is needed: exporters send none by themselves.
        """
        if self._key is None:
            return True
        given = [headers.get(name, "").encode("latin-1") for name in _OTLP_HEADERS]
        given += [_password(value) for value in headers.getlist("authorization")]
        return any(compare_digest(value, self._key) for value in given)

    def may_read(self, scope: Scope) -> bool:
        """Check a reader, by the key header or the cookie of a login."""
        if self._key is None:
            return True
        headers = Headers(scope=scope)
        given = headers.get(KEY_HEADER)
        if given is not None:
            return self.accepts(given)
        for part in headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == cookie_name(scope):
                return compare_digest(value.encode(), self._session.encode())
        return False

    def login_cookie(self, scope: Scope) -> str:
        """Return the Set-Cookie value of a login. It holds a random session token of this process, never the key."""
        return f"{cookie_name(scope)}={self._session}; Path=/; HttpOnly; SameSite=Strict"


def _password(authorization: str) -> bytes:
    """Return the secret in an `Authorization` header; empty for an unknown scheme."""
    scheme, _, rest = authorization.strip().partition(" ")
    value = rest.strip().encode("latin-1")
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def cookie_name(scope: Scope) -> str:
    """Return the name of the session cookie. It holds the port, since browsers share cookies between the ports of a host."""
    server = scope.get("server")
    return f"agentscope_{server[1] if server else 0}"


class Guard:
    """ASGI middleware: refuses foreign hosts (421) and origins (403), and puts the security headers on every answer.

    `allowed_hosts` are exact values of the Host header, port included. The address at which the connection arrived is
    always allowed: a rebound DNS name cannot look like it.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str], encodings: str) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in allowed_hosts)
        self._headers = {**_HEADERS, "Accept-Encoding": encodings}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0], scope):
            return JSONResponse({"detail": "This host name is not one of the receiver's."}, 421)
        origin = headers.get("origin")
        scheme, _, origin_host = (origin or "").partition("://")
        if origin is not None and (scheme != "http" or not self._is_ours(origin_host, scope)):
            return JSONResponse({"detail": "Requests from pages of another origin are refused."}, 403)
        # A link from another site is allowed: only the person who follows it sees the page.
        link = scope["method"] in ("GET", "HEAD") and headers.get("sec-fetch-mode", "").lower() == "navigate"
        if headers.get("sec-fetch-site", "").lower() == "cross-site" and not link:
            return JSONResponse({"detail": "Requests from pages of another site are refused."}, 403)
        return None

    def _is_ours(self, host: str, scope: Scope) -> bool:
        return host.lower() in self._hosts or host == _address(scope)


def _address(scope: Scope) -> str | None:
    server = scope.get("server")
    if not server or server[1] is None:
        return None
    try:
        address = ipaddress.ip_address(server[0])
    except ValueError:
        return None
    return f"{bracketed(str(address))}:{server[1]}"


def bracketed(host: str) -> str:
    """Put an IPv6 address into the brackets that it has in a URL."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def loopback_hosts(port: int) -> list[str]:
    """Return the Host values of a receiver on loopback."""
    hosts = [f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")]
    return [*hosts, "127.0.0.1", "localhost", "[::1]"] if port == 80 else hosts
