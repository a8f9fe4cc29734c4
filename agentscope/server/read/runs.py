"""Reading runs for requests: a few at a time, only one large run at a time, and events page by page."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentscope.protocols.ids import run_id_of
from agentscope.server.clock import Clock
from agentscope.server.http.limits import Limits, Refused
from agentscope.server.storage.base import (
    EventPage,
    RunQuery,
    StepPage,
    StepQuery,
    Store,
    StoredEvent,
    Unavailable,
    quiet_since,
)
from agentscope.server.storage.fold import run_view

T = TypeVar("T")
Draw = Callable[[dict[str, Any], "StepPage | None"], str]
"""Writes a run. The second argument is a page of its steps, if the run does not hold them all."""
_TRACE_ID = re.compile("[0-9a-fA-F]{32}")

_READS = 8  # at once; the other threads of the pool are for ingest
_LARGE = 128 << 10  # characters of events; a run that has more is read alone
_PATIENCE = 5.0  # seconds that one large run waits for another
_PAGE = 256 << 10  # characters of events that are read at a time
_CHUNK = 64 << 10  # bytes of an answer that are sent at a time
_SLOWEST = 1e6  # bytes a second, below which a client is given up in the long run


class RunReader:
    """Reads the store for the read API and the pages. They share one, since its bounds are for both together.

    `large` is held while a large run is read, and by large bodies that come in.
    """

    def __init__(self, store: Store, limits: Limits, large: asyncio.Semaphore) -> None:
        self._store = store
        self._limits = limits
        self._reads = asyncio.Semaphore(_READS)
        self._memory = large
        self._large_runs = asyncio.Semaphore(1)
        self._now = Clock()

    async def read(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call a method of the store in a thread."""
        async with self._reads:
            return await run_in_threadpool(work, *arguments, **options)

    async def run(self, run_id: str, draw: Draw, media_type: str, query: StepQuery) -> PacedResponse:
        """Answer with a run as `draw` puts it. A run that is too large to be shown as a whole has the steps of `query`.

        Raises `Refused`: 404 for an unknown run, 503 while another large one is read.
        """
        run_id = await self.known(run_id)
        size = await self.read(self._size, run_id)
        return await self._answer(size, partial(self._drawn, run_id, size, draw, query), media_type)

    async def steps(self, run_id: str, query: StepQuery, draw: Callable[[StepPage], str]) -> PacedResponse:
        """Answer with a page of the steps of a run. Raises as `run` does."""
        run_id = await self.known(run_id)
        size = await self.read(self._size, run_id)

        def drawn() -> bytes:
            page = self._store.steps(run_id, query._replace(size=self._limits.view_bytes))
            if page is None:
                raise _unknown_run()
            return draw(page).encode()

        return await self._answer(size, drawn, "application/json")

    def _size(self, run_id: str) -> int:
        """Return the characters of the events of a run, or a number beyond the limit for one of too many steps."""
        listed = self._store.list_runs(RunQuery(1, run_id=run_id)).runs
        if listed and listed[0]["step_count"] > self._limits.view_steps:
            return self._limits.view_bytes + 1  # without a look at its events
        size = self._store.run_size(run_id)
        if size is None:
            raise _unknown_run()
        return size

    async def _answer(self, size: int, drawn: Callable[[], bytes], media_type: str) -> PacedResponse:
        if size <= _LARGE:
            body = await self.read(drawn)
            return PacedResponse(body, media_type=media_type, seconds=self._limits.send_seconds)
        try:
            await asyncio.wait_for(self._large_runs.acquire(), _PATIENCE)
        except asyncio.TimeoutError:
            raise Refused(503, "Another large run is being read at the moment.", retry_after=1) from None
        done = self._large_runs.release
        try:
            async with self._memory:  # given back before the answer is sent, which may take long
                body = await self.read(drawn)
        except BaseException:
            done()
            raise
        return PacedResponse(body, media_type=media_type, seconds=self._limits.send_seconds, done=done)

    async def events(self, run_id: str) -> PacedResponse:
        """Answer with the events of a run of any size as a JSON object. Raises `Refused` (404) for an unknown run."""
        run_id = await self.known(run_id)
        first = await self.read(self._store.events, run_id, size=_PAGE)
        if not first.events:
            raise _unknown_run()
        content = self._events_as_json(run_id, first)
        return PacedResponse(content, media_type="application/json", seconds=self._limits.send_seconds)

    async def known(self, run_id: str) -> str:
        """Return the id of the run that was asked for: by its id, or by its trace id in 32 hexadecimal digits."""
        if _TRACE_ID.fullmatch(run_id) and not await self.read(self._store.has_run, run_id):
            return run_id_of(run_id)
        return run_id

    def _drawn(self, run_id: str, size: int, draw: Draw, query: StepQuery) -> bytes:
        if size > self._limits.view_bytes or query.failed:
            run = self._store.run(run_id)
            page = self._store.steps(run_id, query._replace(size=self._limits.view_bytes))
            if run is None or page is None:
                raise _unknown_run()
            return draw({**run, "steps": page.steps}, page).encode()
        patches = [event.patch() for event in self._all_events(run_id)]
        if not patches:  # deleted meanwhile
            raise _unknown_run()
        return draw(run_view(run_id, patches, self._store.silence(run_id), quiet_since(self._now())), None).encode()

    def _all_events(self, run_id: str) -> Iterator[StoredEvent]:
        after = None
        while True:
            events, after = self._store.events(run_id, after=after, size=_PAGE)
            yield from events
            if after is None:
                return

    async def _events_as_json(self, run_id: str, page: EventPage) -> AsyncIterator[bytes]:
        between = '{"events":['
        while True:
            for session_id, body in page.events:
                yield f'{between}{{"session_id":{json.dumps(session_id)},{body[1:]}'.encode()
                between = ","
            if page.next is None:
                break
            try:
                page = await self.read(self._store.events, run_id, after=page.next, size=_PAGE)
            except Unavailable as problem:
                raise AnswerCut from problem
        yield b"]}"


class AnswerCut(Exception):
    """The rest of an answer cannot be read, after its beginning has been sent."""


class PacedResponse(Response):
    """An answer that is sent in chunks, of which one at most waits for the client.

    The client has to read it within `seconds` and a second more for each megabyte; otherwise the rest is not sent, and
    uvicorn closes the connection. `done` is called when the answer has ended in any way.
    """

    def __init__(
        self,
        content: bytes | AsyncIterator[bytes],
        status_code: int = 200,
        *,
        media_type: str,
        seconds: float,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(content if isinstance(content, bytes) else None, status_code, media_type=media_type)
        self._contents = _single(content) if isinstance(content, bytes) else content
        self._seconds = seconds
        self._done = done
        if not isinstance(content, bytes):
            del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        end = asyncio.get_running_loop().time() + self._seconds
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for content in self._contents:
                for start in range(0, len(content), _CHUNK):
                    chunk = content[start : start + _CHUNK]
                    end += len(chunk) / _SLOWEST
                    await _until(end, send({"type": "http.response.body", "body": chunk, "more_body": True}))
            await _until(end, send({"type": "http.response.body", "body": b"", "more_body": False}))
        except (asyncio.TimeoutError, AnswerCut):
            pass  # uvicorn closes the connection of an answer that has not ended
        finally:
            self._done()


async def _until(end: float, sending: Awaitable[None]) -> None:
    await asyncio.wait_for(sending, max(0.0, end - asyncio.get_running_loop().time()))


async def _single(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _unknown_run() -> Refused:
    return Refused(404, "There is no run with this id.")
