"""Waiting in an event loop for another thread: in asyncio and in trio, without a thread for each wait."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from . import threads

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


async def awaited(call: Callable[[], R], name: str) -> R:
    """Await the result of `call`, which runs in a daemon thread. Outside of asyncio and trio it runs here, and blocks.

    The executor of the event loop is not used: the agent's work may fill it, and closing the loop waits for it.
    """
    told = waiter()
    if told is None:
        return call()
    results: list[R] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:
            errors.append(error)
        told.release()

    if not threads.start(work, name, ours=False):
        return call()
    await told.wait(LONGEST)
    if errors:
        raise errors[0]
    return results[0]


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
