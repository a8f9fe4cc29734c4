"""Bounds on connections that uvicorn does not have: a deadline for heads and for unread answers, and a number of connections."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from .body import GRPC
from .limits import Limits

logger = logging.getLogger("agentscope.server")

TLS = "A client speaks TLS to this port. It takes plain HTTP: use http:// in the client, or put a proxy that ends TLS in front."
# The first bytes of a connection in another protocol (RFC 9113 section 3.4, RFC 8446 section 5.1), and what the log says of it.
_FOREIGN = ((b"PRI * HTTP/2", GRPC), (b"\x16\x03", TLS))


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP protocol, which also ends slow connections and, when there are too many, the oldest one that waits.

    A connection is slow if the client takes too long to send the head of a request or to read an answer. It is aborted, and
    not closed, since a closed one stays open until the client has read the answer. uvicorn itself bounds the time between
    requests, and `Bodies` the time of a body.
    """

    limits = Limits()
    told: ClassVar[set[str]] = set()
    """The sentences about foreign protocols that were logged. Each is logged once by a receiver."""
    _since = 0.0
    _deadline: asyncio.TimerHandle
    _stalled: asyncio.TimerHandle | None = None

    @classmethod
    def bounded_by(cls, limits: Limits) -> type[BoundedProtocol]:
        """Return a subclass with these bounds: uvicorn makes the instances and has no arguments for them."""
        return type("BoundedProtocol", (cls,), {"limits": limits, "told": set()})

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._since = self.loop.time()
        self._arm()
        if len(self.connections) > self.limits.connections:
            others = [other for other in self.connections if isinstance(other, BoundedProtocol) and other is not self]
            open_ends = [other for other in others if other._waits() or other._receives()]
            given_up = min(open_ends, key=lambda other: other._since, default=self)
            given_up.transport.abort()
            # At once: `connection_lost` comes later, perhaps after the next connection.
            self.connections.discard(given_up)

    def data_received(self, data: bytes) -> None:
        if self._waits():
            self._since = self.loop.time()
            for beginning, sentence in _FOREIGN:
                if data.startswith(beginning) and sentence not in self.told:
                    self.told.add(sentence)
                    logger.warning(sentence)
        super().data_received(data)
        if not self._waits():
            self._deadline.cancel()
        elif self._deadline.cancelled():
            self._arm()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _waits(self) -> bool:
        """Return True while no request is being answered: the head of the next one, or the rest of a refused body, is awaited."""
        return self.cycle is None or self.cycle.response_complete

    def _receives(self) -> bool:
        """Return True while a part of the body of a request is still to come."""
        return self.cycle is not None and self.cycle.more_body

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self.limits.head_seconds, self.transport.abort)
