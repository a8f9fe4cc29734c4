"""What calls of this face give: awaitable, for code that awaits it, though hardly anything waits.

All of it passes for a coroutine, since `asyncio.run` and `asyncio.create_task` take nothing else; unlike one it may be awaited
any number of times, or never.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from agentscope.types import FlushResult, Stats

if TYPE_CHECKING:
    from concurrent.futures import Future

T_co = TypeVar("T_co", covariant=True)


class Ready(Coroutine[Any, Any, T_co]):
    """Is there already: awaiting it gives it at once."""

    def _given(self) -> T_co:
        raise NotImplementedError

    def __await__(self) -> Generator[Any, Any, T_co]:
        return self._given()
        yield  # what makes it a generator, which an awaitable has to give

    def send(self, value: Any, /) -> NoReturn:
        """One step of a coroutine, which ends there."""
        raise StopIteration(self._given())

    def throw(self, kind: Any, value: Any = None, trace: Any = None, /) -> NoReturn:
        """As a coroutine does that has not begun: a task that is cancelled ends so."""
        raise kind if value is None else value

    def close(self) -> None:
        """There is nothing to be closed."""


class Settled(Ready[T_co], Generic[T_co]):
    """What a call gave: `value`, which awaiting it gives as well. It is as true as its value."""

    __slots__ = ("value",)

    def __init__(self, value: T_co) -> None:
        self.value = value

    def _given(self) -> T_co:
        return self.value

    def __bool__(self) -> bool:
        return bool(self.value)

    def __repr__(self) -> str:
        return f"<settled, {bool(self.value)}>"


ACCEPTED, REFUSED = Settled(True), Settled(False)
"""Whether a call was recorded, or at least is on its way."""


class Delivery(FlushResult, Coroutine[Any, Any, FlushResult]):
    """What `flush()` and `shutdown()` give: a `FlushResult`, and awaiting it gives one."""

    def result(self, timeout: float | None = None) -> FlushResult:
        """The result; where it is not there yet, that waits for it, and blocks whatever runs in this thread."""
        raise NotImplementedError


class Delivered(Ready[FlushResult], Delivery):
    """A delivery that was waited for."""

    def __init__(self, result: FlushResult) -> None:
        super().__init__(result.pending, result.dropped, result.problem)

    def _given(self) -> FlushResult:
        return FlushResult(self.pending, self.dropped, self.problem)

    def result(self, timeout: float | None = None) -> FlushResult:
        """The result."""
        return self._given()


class Delivering(Delivery):
    """A delivery that goes on in the background. It is not true before it is over: nobody knows until then."""

    def __init__(self, call: Callable[[], FlushResult], so_far: Callable[[], Stats]) -> None:
        from concurrent.futures import Future

        from agentscope.pipeline.process import threads

        self._so_far = so_far
        self._inner: Coroutine[Any, Any, FlushResult] | None = None
        self._future: Future[FlushResult] = Future()
        self._future.set_running_or_notify_cancel()  # who awaits it may be cancelled; the delivery is not

        def work() -> None:
            try:
                self._future.set_result(call())
            except Exception as error:
                self._future.set_exception(error)

        if not threads.start(work, "agentscope-flush", ours=False):
            work()

    def result(self, timeout: float | None = None) -> FlushResult:
        """Wait for the result, for `timeout` seconds at most, and block whatever runs in this thread.

        Raises what the delivery raised, with `fail_silently=False`, and `concurrent.futures.TimeoutError`.
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
        """Events that wait still; 1 at least as long as it is not over."""
        return self._now.pending

    @property
    def dropped(self) -> int:
        """Events that were given up; 0 as long as it is not over."""
        return self._now.dropped

    @property
    def problem(self) -> str | None:
        """Why delivery does not get on."""
        return self._now.problem

    def __await__(self) -> Generator[Any, Any, FlushResult]:
        return self._wait().__await__()

    async def _wait(self) -> FlushResult:
        import asyncio

        return await asyncio.wrap_future(self._future)

    def send(self, value: Any, /) -> Any:
        """One step of a coroutine that waits for the result."""
        if self._inner is None:
            self._inner = self._wait()
        return self._inner.send(value)

    def throw(self, kind: Any, value: Any = None, trace: Any = None, /) -> Any:
        """As a coroutine does that waits for the result."""
        if self._inner is None:
            raise kind if value is None else value
        return self._inner.throw(kind if value is None else value)

    def close(self) -> None:
        """End the waiting; the delivery goes on."""
        if self._inner is not None:
            self._inner.close()


def deliver(call: Callable[[], FlushResult], so_far: Callable[[], Stats]) -> Delivery:
    """Wait for `call`; inside a running event loop, which must not be blocked, have it done in a thread."""
    return Delivering(call, so_far) if _in_event_loop() else Delivered(call())


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False  # where nobody has imported it, no loop is running
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
