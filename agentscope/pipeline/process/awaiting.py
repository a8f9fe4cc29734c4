"""Waiting in an event loop for another thread: in asyncio and in trio, without a thread for each wait."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from . import threads
from .clock import monotonic

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

R = TypeVar("R")

LONGEST = 1e6
"""A wait without an end, in seconds."""


class Waiter(Protocol):
    """The object that a flush releases when it is over, such as a lock that is held."""

    def locked(self) -> bool: ...

    def release(self) -> None: ...


class LoopWaiter:
    """A `Waiter` that a task of asyncio waits for. Any thread may release it."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._told = loop.create_future()
        self._locked = True

    def locked(self) -> bool:
        return self._locked

    def release(self) -> None:
        self._locked = False
        try:
            self._loop.call_soon_threadsafe(self._tell)
        except RuntimeError:
            return  # the loop has been closed, and the task is gone

    def _tell(self) -> None:
        if not self._told.done():
            self._told.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Wait for the release, for `seconds` at most."""
        import asyncio

        await asyncio.wait([self._told], timeout=seconds)


class TrioWaiter(LoopWaiter):
    """A `Waiter` that a task of trio waits for."""

    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._event, self._token = trio.Event(), trio.lowlevel.current_trio_token()
        self._locked = True

    def release(self) -> None:
        self._locked = False
        try:
            self._token.run_sync_soon(self._event.set)
        except self._trio.RunFinishedError:
            return

    async def wait(self, seconds: float) -> None:
        with self._trio.move_on_after(seconds):
            await self._event.wait()


def waiter() -> LoopWaiter | None:
    """Make a waiter for this task; None outside of asyncio and trio."""
    trio = _trio()
    if trio is not None:
        return TrioWaiter(trio)
    loop = _loop()
    return None if loop is None else LoopWaiter(loop)


def in_loop() -> bool:
    """Return whether this code runs in an event loop of asyncio or trio."""
    return _trio() is not None or _loop() is not None


class Ongoing(Generic[R]):
    """Work that goes on elsewhere, and its result. Any number of threads and tasks may wait for it, and none need to.

    until: the monotonic time at which the work is over in any case. Each wait ends then, so that no timer thread is needed.
    """

    def __init__(self, until: float | None = None) -> None:
        from concurrent.futures import Future  # few programs need it

        self._future: Future[R] = Future()
        self._until = monotonic() + LONGEST if until is None else until

    def end(self) -> None:
        """End the work early, with a result. The default does nothing: the work ends by itself."""

    def settle(self, call: Callable[[], R]) -> None:
        """Make the result of `call` the result of this. An exception is kept for those who wait, and raised here as well."""
        try:
            self._future.set_result(call())
        except BaseException as error:
            self._future.set_exception(error)
            raise

    def done(self) -> bool:
        if not self._future.done() and monotonic() >= self._until:
            self.end()
        return self._future.done()

    def result(self, timeout: float | None = None) -> R:
        """Return the result. Blocks this thread, for at most `timeout` seconds, until it is known.

        Raises `concurrent.futures.TimeoutError`, and the exception of the work.
        """
        from concurrent.futures import wait

        left = self._left()
        if timeout is None or timeout >= left:
            wait([self._future], left)
            self.end()
        return self._future.result(timeout)

    async def wait(self) -> R:
        """Return the result, without blocking the event loop. Outside of asyncio and trio it blocks."""
        told = None if self.done() else waiter()
        if told is not None:
            self._future.add_done_callback(lambda _: told.release())
            await told.wait(self._left())
        return self.result()

    def _left(self) -> float:
        return max(self._until - monotonic(), 0.0)


def finished(result: R) -> Ongoing[R]:
    """Return work that is over, with this result."""
    ongoing: Ongoing[R] = Ongoing()
    ongoing.settle(lambda: result)
    return ongoing


def in_thread(call: Callable[[], R], name: str) -> Ongoing[R]:
    """Begin `call` in a daemon thread; where none can be had, do it here.

    The executor of the event loop is not used: the agent's work may fill it, and closing the loop waits for it.
    """
    ongoing: Ongoing[R] = Ongoing()

    def work() -> None:
        with suppress(BaseException):  # a thread of ours prints no traceback
            ongoing.settle(call)

    return ongoing if threads.start(work, name, ours=False) else finished(call())


class SharedCall(Generic[R]):
    """A blocking call in a daemon thread. All that ask for it while it goes on share the thread and the result."""

    def __init__(self) -> None:
        self._last: tuple[int, Ongoing[R]] | None = None

    def begin(self, call: Callable[[], R], name: str) -> Ongoing[R]:
        last = self._last
        if last is None or last[0] != os.getpid() or last[1].done():
            self._last = last = os.getpid(), in_thread(call, name)  # a forked child does not have the parent's thread
        return last[1]


async def awaited(call: Callable[[], R], name: str) -> R:
    """Await the result of `call`, which runs in a daemon thread. Outside of asyncio and trio it runs here, and blocks."""
    return await in_thread(call, name).wait() if in_loop() else call()


def _trio() -> Any:
    """Return the module if this code runs in a task of trio, also where trio runs as a guest of asyncio."""
    trio = sys.modules.get("trio")
    try:
        return trio if trio is not None and trio.lowlevel.current_task() else None
    except (RuntimeError, AttributeError):
        return None


def _loop() -> AbstractEventLoop | None:
    asyncio = sys.modules.get("asyncio")
    try:
        loop: AbstractEventLoop | None = None if asyncio is None else asyncio.get_running_loop()
    except (RuntimeError, AttributeError):
        return None
    return loop
