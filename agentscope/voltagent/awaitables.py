"""Results of the VoltAgent face, which may be awaited: the published package's calls are coroutines.

They implement the coroutine interface, since `asyncio.run` and `asyncio.create_task` take nothing else. Unlike a coroutine
they may be awaited any number of times, or never.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, NoReturn, TypeVar

from agentscope.tracker.handles import InProcess
from agentscope.types import FlushResult, Stats

T_co = TypeVar("T_co", covariant=True)


class Ready(InProcess, Coroutine[Any, Any, T_co]):
    """A coroutine with a result that is known already."""

    def _result(self) -> T_co:
        raise NotImplementedError

    def __await__(self) -> Generator[Any, Any, T_co]:
        return self._result()
        yield  # makes this a generator, as `__await__` requires

    def send(self, value: Any, /) -> NoReturn:
        """End the coroutine with the result."""
        raise StopIteration(self._result())

    def throw(self, kind: Any, value: Any = None, trace: Any = None, /) -> NoReturn:
        """Raise the exception, as a coroutine does that has not begun. A cancelled task ends this way."""
        raise kind if value is None else value

    def close(self) -> None:
        """Do nothing."""


class Settled(Ready[T_co], Generic[T_co]):
    """The result of a call as `value`, which `await` returns as well. Its truth is that of the value."""

    __slots__ = ("value",)

    def __init__(self, value: T_co) -> None:
        self.value = value

    def _result(self) -> T_co:
        return self.value

    def __bool__(self) -> bool:
        return bool(self.value)

    def __repr__(self) -> str:
        return f"<settled, {bool(self.value)}>"


ACCEPTED, REFUSED = Settled(True), Settled(False)
"""Results of a recording call: the event is in the queue, or was refused."""


class Delivery(FlushResult, Coroutine[Any, Any, FlushResult]):
    """The result of `flush()` and `shutdown()`: a `FlushResult` that may be awaited for one.

    Inside a running event loop, delivery goes on in a thread and does not block the loop. The result is false until it has ended.
    """

    def __init__(self, call: Callable[[], FlushResult], so_far: Callable[[], Stats]) -> None:
        from concurrent.futures import Future

        from agentscope.pipeline.process import threads

        self._so_far = so_far
        self._inner: Any = None
        """The coroutine that waits, once the result has been awaited."""
        self._future: Future[FlushResult] = Future()
        self._future.set_running_or_notify_cancel()  # a cancelled waiter must not cancel the delivery

        def work() -> None:
            try:
                self._future.set_result(call())
            except Exception as error:
                self._future.set_exception(error)

        if not _in_event_loop():
            self._future.set_result(call())
        elif not threads.start(work, "agentscope-flush", ours=False):
            work()

    def result(self, timeout: float | None = None) -> FlushResult:
        """Return the result. Blocks this thread, for at most `timeout` seconds, until it is known.

        Raises `concurrent.futures.TimeoutError`, and with `fail_silently=False` the delivery's own exception.
        """
        return self._future.result(timeout)

    @property
    def _now(self) -> FlushResult:
        if not self._future.done():
            stats = self._so_far()
            return FlushResult(max(stats.pending, 1), problem=stats.problem)
        error = self._future.exception()
        return self._future.result() if error is None else FlushResult(1, problem=str(error))

    @property
    def pending(self) -> int:
        """Pending events; at least 1 until the delivery has ended."""
        return self._now.pending

    @property
    def dropped(self) -> int:
        """Dropped events; 0 until the delivery has ended."""
        return self._now.dropped

    @property
    def spooled(self) -> int:
        """Events on disk that are not acknowledged; 0 until the delivery has ended."""
        return self._now.spooled

    @property
    def problem(self) -> str | None:
        """The reason why delivery fails, or None."""
        return self._now.problem

    def __await__(self) -> Generator[Any, Any, FlushResult]:
        return self._wait().__await__()

    async def _wait(self) -> FlushResult:
        if self._future.done() and not _in_event_loop():
            return self._future.result()
        import asyncio

        return await asyncio.wrap_future(self._future)

    def send(self, value: Any, /) -> Any:
        """Run the waiting coroutine to its next suspension."""
        if self._inner is None or self._inner.cr_frame is None:  # it has not begun, or has ended
            self._inner = self._wait()
        return self._inner.send(value)

    def throw(self, kind: Any, value: Any = None, trace: Any = None, /) -> Any:
        """Raise the exception inside the waiting coroutine."""
        if self._inner is None:
            raise kind if value is None else value
        return self._inner.throw(kind if value is None else value)

    def close(self) -> None:
        """End the waiting coroutine. The delivery continues."""
        if self._inner is not None:
            self._inner.close()


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False  # without asyncio no loop is running
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
