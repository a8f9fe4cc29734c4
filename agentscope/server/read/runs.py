"""Reading what is stored on behalf of requests: a few at a time, of large runs only one, and in portions where it can be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool

from agentscope.server.http.limits import Limits, Refused
from agentscope.server.http.responses import CutOff, PacedResponse
from agentscope.server.storage.sqlite.store import Store, Unavailable

T = TypeVar("T")

_AT_ONCE = 8  # reads; the other threads of the pool are for what comes in
_LARGE = 128 << 10  # bytes of events, from which on a run is read alone
_PATIENCE = 5.0  # seconds that one large run waits for another
_PORTION = 16  # events that are read at a time


class Views:
    """What the read API and the pages have in common. There is one for both, since the bounds are on them together."""

    def __init__(self, store: Store, limits: Limits, large: asyncio.Semaphore) -> None:
        self._store = store
        self._limits = limits
        self._reading = asyncio.Semaphore(_AT_ONCE)
        self._costly = large
        self._large = asyncio.Semaphore(1)

    async def read(self, work: Callable[..., T], *arguments: Any) -> T:
        """What a method of the store answers; it runs in a thread."""
        async with self._reading:
            return await run_in_threadpool(work, *arguments)

    async def run(self, run_id: str, draw: Callable[[dict[str, Any]], bytes], media_type: str) -> PacedResponse:
        """A run as a whole. Raises `Refused`: 404 for an unknown one, 413 for one too large, 503 while others are read."""
        size = await self._size(run_id)
        if size > self._limits.view_bytes:
            raise Refused(413, f"This run is larger than {self._limits.view_bytes} bytes; read its events instead.")
        done = await self._alone() if size > _LARGE else _nothing
        try:
            body = await self._body(run_id, draw, size)
        except BaseException:
            done()
            raise
        return PacedResponse(body, media_type=media_type, seconds=self._limits.send_seconds, done=done)

    async def events(self, run_id: str) -> PacedResponse:
        """The events of a run, of any size, as a JSON object. Raises `Refused` (404) for an unknown run."""
        keys = await self.read(self._store.event_keys, run_id)
        if keys is None:
            raise _unknown()
        portions = self._portions(keys)
        return PacedResponse(portions, media_type="application/json", seconds=self._limits.send_seconds)

    async def _size(self, run_id: str) -> int:
        size = await self.read(self._store.run_size, run_id)
        if size is None:
            raise _unknown()
        return size

    async def _alone(self) -> Callable[[], None]:
        try:
            await asyncio.wait_for(self._large.acquire(), _PATIENCE)
        except asyncio.TimeoutError:
            raise Refused(503, "Another large run is being read at the moment.", retry_after=1) from None
        return self._large.release

    async def _body(self, run_id: str, draw: Callable[[dict[str, Any]], bytes], size: int) -> bytes:
        if size <= _LARGE:
            return await self.read(self._drawn, run_id, draw)
        async with self._costly:  # but not while it is sent, which may take long
            return await self.read(self._drawn, run_id, draw)

    def _drawn(self, run_id: str, draw: Callable[[dict[str, Any]], bytes]) -> bytes:
        run = self._store.run(run_id)
        if run is None:  # retention was quicker
            raise _unknown()
        return draw(run)

    async def _portions(self, keys: list[int]) -> AsyncIterator[bytes]:
        yield b'{"events":['
        between = ""
        for start in range(0, len(keys), _PORTION):
            try:
                rows = await self.read(self._store.events, keys[start : start + _PORTION])
            except Unavailable as problem:
                raise CutOff from problem
            for session, body in rows:
                yield f'{between}{{"session_id":{json.dumps(session)},{body[1:]}'.encode()
                between = ","
        yield b"]}"


def _unknown() -> Refused:
    return Refused(404, "There is no run with this id.")


def _nothing() -> None:
    pass
