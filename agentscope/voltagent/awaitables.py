"""Results of the VoltAgent face, which may be awaited: the published package's calls are coroutines.

They implement the coroutine interface, since `asyncio.run` and `asyncio.create_task` take nothing else. Unlike a coroutine
they may be awaited any number of times, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from agentscope.tracker.handles import InProcess
from agentscope.types import FlushResult, Stats

if TYPE_CHECKING:
    from agentscope.pipeline.process.awaiting import Ongoing

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

    In asyncio and trio, delivery goes on and does not block the loop. The result is false until it has ended.
    """

    def __init__(
        self,
        ongoing: Ongoing[FlushResult],
        check: Callable[[FlushResult], FlushResult],
        so_far: Callable[[], Stats],
    ) -> None:
        """check: returns the result, or raises for one that is false if that was asked for."""
        self._ongoing, self._check, self._so_far = ongoing, check, so_far
        self._inner: Any = None
        """The coroutine that waits, once the result has been awaited."""

    def result(self, timeout: float | None = None) -> FlushResult:
        """Return the result. Blocks this thread, for at most `timeout` seconds, until it is known.

        Raises `concurrent.futures.TimeoutError`, and with `fail_silently=False` the delivery's own exception.
        """
        return self._check(self._ongoing.result(timeout))

    @property
    def _now(self) -> FlushResult:
        if self._ongoing.done():
            return self._ongoing.result()
        stats = self._so_far()
        return FlushResult(max(stats.pending, 1), problem=stats.problem)

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
        return self._check(await self._ongoing.wait())

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
