"""Flushes that threads and tasks can wait for. They take no thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from agentscope.types import FlushResult

from .ledger import Left
from .process.awaiting import Ongoing, SharedCall, in_loop
from .process.clock import monotonic

if TYPE_CHECKING:
    from .worker import Worker


class Flushable(Protocol):
    """The pipeline as a flush uses it."""

    def part(self, until: float, released: Callable[[], None]) -> Part: ...

    def say_once(self, kind: str, message: str) -> None: ...


class Part:
    """The share of one pipeline in a `Flushing`: the `Waiter` that its worker releases."""

    def __init__(
        self,
        worker: Worker,
        seq: int,
        until: float,
        released: Callable[[], None],
        result: Callable[[Left], FlushResult],
    ) -> None:
        self._worker, self._released, self._result = worker, released, result
        self._locked = True
        self._flush = worker.begin_flush(seq, self, until)
        self._left = worker.end_flush(None) if self._flush is None else None

    def start(self, seconds: float) -> None:
        if not self._worker.help_flush(self._flush, seconds):
            self.release()

    def locked(self) -> bool:
        return self._locked

    def release(self) -> None:
        self._locked = False
        self._released()

    def result(self) -> FlushResult:
        return self._result(self._worker.end_flush(self._flush) if self._left is None else self._left)


class Flushing(Ongoing[FlushResult]):
    """A flush of some pipelines at the same time, for `timeout` seconds at most."""

    def __init__(self, pipelines: Sequence[Flushable], timeout: float) -> None:
        until = monotonic() + timeout
        super().__init__(until)
        self._first = Lock()
        self._parts: list[Part] = []
        self._begun = False
        try:
            for pipeline in pipelines:
                self._parts.append(pipeline.part(until, self._look))
            for part in self._parts:
                part.start(self._left())
            self._begun = True
            self._look()
        except BaseException:
            self.end()
            raise

    def _look(self) -> None:
        """End the flush if all of its parts are over."""
        if self._begun and not any(part.locked() for part in self._parts):
            self.end()

    def end(self) -> None:
        """Forget this flush. Its events that are not settled are counted in the result."""
        if self._first.acquire(blocking=False):  # workers and waiting threads call this; the first call counts
            self.settle(lambda: total([part.result() for part in self._parts]))


class Deliveries:
    """The deliveries of one or more pipelines, for tasks that wait for them. None of them blocks the event loop."""

    def __init__(self, pipelines: Sequence[Flushable]) -> None:
        self._pipelines = pipelines
        self._shutdown: SharedCall[FlushResult] = SharedCall()

    if TYPE_CHECKING:

        def flush(self, timeout: float) -> FlushResult: ...

        def shutdown(self, timeout: float) -> FlushResult: ...

    def flushing(self, timeout: float) -> Flushing:
        """Begin a flush, and return at once."""
        return Flushing(self._pipelines, timeout)

    async def aflush(self, timeout: float) -> FlushResult:
        """`flush` for a task of asyncio or trio. In another event loop it blocks."""
        if not in_loop():
            sentence = "aflush() knows asyncio and trio; in another event loop it blocks, as flush() does"
            self._pipelines[0].say_once("unknown_loop", sentence)
            return self.flush(timeout)
        flushing = self.flushing(timeout)
        try:
            return await flushing.wait()
        finally:
            flushing.end()  # also when the task is cancelled

    def shutting_down(self, timeout: float) -> Ongoing[FlushResult]:
        """Begin a shutdown, and return at once. All that ask for it while it goes on share one thread."""
        return self._shutdown.begin(lambda: self.shutdown(timeout), "agentscope-flush")


def total(results: Sequence[FlushResult]) -> FlushResult:
    """Add the results of several pipelines."""
    return FlushResult(
        pending=sum(result.pending for result in results),
        dropped=sum(result.dropped for result in results),
        spooled=sum(result.spooled for result in results),
        problem=next((result.problem for result in results if result.problem), None),
    )
