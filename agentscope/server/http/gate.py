"""The gate in front of the routes: probes, and the refusal of requests while the receiver starts or drains."""

from __future__ import annotations

import queue
from contextlib import suppress

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

STARTING, READY, DRAINING = "starting", "ready", "draining"

PROBES = ("/livez", "/readyz")

_RETRY = {"Retry-After": "1"}


class State:
    """The phase of a receiver (`STARTING`, `READY`, `DRAINING`), and the number of requests under way."""

    def __init__(self) -> None:
        self.phase = STARTING
        self.requests = 0
        self.idle: queue.SimpleQueue[None] = queue.SimpleQueue()
        """Gets an item when the last request ends during the drain. A second signal puts one too, to end the drain early."""

    def drain(self, seconds: float) -> None:
        """Refuse new requests, and wait for those under way, for this time at most. Called from another thread."""
        self.phase = DRAINING
        if self.requests:
            with suppress(queue.Empty):
                self.idle.get(timeout=seconds)


class Gate:
    """ASGI application: answers `/livez` and `/readyz`, and hands other requests to `app` while the receiver is ready.

    A request that began before the receiver drains is finished. Others are answered with 503 then, and while `app` is None.
    """

    def __init__(self, app: ASGIApp | None, state: State) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path in PROBES and scope["method"] in ("GET", "HEAD"):
            scope["endpoint"] = path
            await self._probe(path)(scope, receive, send)
        elif self.app is None or self.state.phase != READY:
            refusal = {"detail": f"The receiver is {self.state.phase}; try again later."}
            headers = {**_RETRY, "Connection": "close"} if self.state.phase == DRAINING else _RETRY
            await JSONResponse(refusal, 503, headers=headers)(scope, receive, send)
        else:
            self.state.requests += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self.state.requests -= 1
                if self.state.phase == DRAINING and not self.state.requests:
                    self.state.idle.put(None)

    def _probe(self, path: str) -> JSONResponse:
        if path == "/livez":
            return JSONResponse({"status": "alive"})
        is_ready = self.state.phase == READY
        return JSONResponse(
            {"status": self.state.phase}, 200 if is_ready else 503, headers=None if is_ready else _RETRY
        )
