"""Connections that cannot be held open for nothing: uvicorn's HTTP protocol with two more bounds."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from agentscope.server.limits import Limits


class BoundedProtocol(H11Protocol):
    """Closes a connection whose next request head takes too long, and the oldest waiting one when there are too many.

    uvicorn itself bounds only the time between two requests, and the application the time of a body.
    """

    limits = Limits()
    _opened = 0.0
    _deadline: asyncio.TimerHandle | None = None

    @classmethod
    def bounded_by(cls, limits: Limits) -> type[BoundedProtocol]:
        """This class with other bounds; uvicorn makes the instances, so that they can't be arguments."""
        return type("BoundedProtocol", (cls,), {"limits": limits})

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._opened = self.loop.time()
        self._arm()
        if len(self.connections) > self.limits.connections:
            waiting = [other for other in self.connections if isinstance(other, BoundedProtocol) and other._waits()]
            min(waiting, key=lambda other: other._opened, default=self).transport.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._waits():
            if self._deadline is None:
                self._arm()
        else:
            self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _waits(self) -> bool:
        """Whether no request is being answered: what is awaited is the head of one, or the rest of a refused body."""
        return self.cycle is None or self.cycle.response_complete

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self.limits.head_seconds, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        self.transport.close()
