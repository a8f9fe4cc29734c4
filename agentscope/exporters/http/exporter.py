"""Delivers batches over HTTP: runs a wire protocol's lanes, each in its own thread where there are several."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Protocol as Interface

from agentscope.protocols.base import Batch, Failure, Lane, Outcome, Request, Response, WireProtocol

SLICE = 0.5
"""Seconds after which an attempt begins no further request, so that the ledger gets the verdicts before the next attempt."""


class Sender(Interface):
    """The interface of `Transport`."""

    def send(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout: float
    ) -> Response | Failure: ...

    def warm_up(self) -> None: ...

    def close(self) -> None: ...


class _Cost:
    """The requests of one export. Several threads append to it, which is one C call."""

    def __init__(self) -> None:
        self.bodies: list[int] = []
        self.cpu_seconds: list[float] = []


class HTTPExporter:
    """`export` tries a batch once: every request within `timeout` seconds, and no new one after half a second."""

    def __init__(
        self,
        protocol: WireProtocol,
        sender: Sender,
        *,
        max_connections: int,
        clock: Callable[[], float],
        start_thread: Callable[[Callable[[], object], str], bool],
    ) -> None:
        self._protocol = protocol
        self._sender = sender
        self._max_connections = max_connections
        self._clock = clock
        self._start_thread = start_thread

    @property
    def protocol(self) -> str | None:
        return self._protocol.name

    def warm_up(self) -> None:
        self._protocol.warm_up()
        self._sender.warm_up()

    def close(self) -> None:
        self._sender.close()

    def export(self, batch: Batch, timeout: float) -> Outcome:
        delivery = self._protocol.begin(batch)
        cost = _Cost()
        while lanes := delivery.lanes():
            self._converse(lanes, timeout, self._clock() + SLICE, cost)
        outcome = delivery.outcome
        outcome.requests, outcome.sent_bytes = len(cost.bodies), sum(cost.bodies)
        outcome.cpu_seconds = sum(cost.cpu_seconds)
        return outcome

    def _converse(self, lanes: Sequence[Lane], timeout: float, end: float, cost: _Cost) -> None:
        """Go through all lanes, up to `max_connections` at once."""
        waiting = iter(lanes)  # one step of it is one C call, so every lane is taken once
        errors: list[BaseException] = []
        finished: list[Lock] = []

        def work() -> None:
            try:
                for lane in waiting:
                    self._follow(lane, timeout, end, cost)
            except Exception as error:
                errors.append(error)

        for _ in range(min(self._max_connections, len(lanes)) - 1):
            done = Lock()
            done.acquire()

            def work_and_tell(done: Lock = done) -> None:
                try:
                    work()
                finally:
                    cost.cpu_seconds.append(time.thread_time())
                    done.release()

            if not self._start_thread(work_and_tell, "agentscope-lane"):
                break
            finished.append(done)
        work()
        for done in finished:
            done.acquire()
        if errors:
            raise errors[0]

    def _follow(self, lane: Lane, timeout: float, end: float, cost: _Cost) -> None:
        while self._clock() < end and (request := lane.next()) is not None:
            cost.bodies.append(len(request.body))
            lane.answer(self._send(request, timeout))

    def _send(self, request: Request, timeout: float) -> Response | Failure:
        return self._sender.send(request.method, request.path, request.body, request.headers, timeout)
