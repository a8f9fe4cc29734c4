"""What all calls that take data in have in common: a body held within bounds, decoded in a thread, answered after commit."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timezone
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from agentscope.protocols.agentscope.decode import Batch, time_text
from agentscope.server.body import JSON, Bodies, inflate
from agentscope.server.limits import Limits
from agentscope.server.store import Store
from agentscope.server.writing import Counts

T = TypeVar("T")

_DECODED_AT_ONCE = 2  # bodies; each may cost many times its size while it is taken apart


class Intake:
    """The way into the store. There is one for all calls of an application, since its bounds are on all of them together.

    Who may call is for each call to decide, before it holds a body.
    """

    def __init__(self, store: Store, limits: Limits) -> None:
        self.bodies = Bodies(limits)
        self._store = store
        self._inflated_bytes = limits.inflated_bytes
        self._decoding = asyncio.Semaphore(_DECODED_AT_ONCE)
        self._seq = itertools.count()

    def hold(self, request: Request, *content_types: str) -> AbstractAsyncContextManager[bytes]:
        """The body as it came over the wire, for the length of a block; JSON unless told otherwise. Raises `Refused`."""
        return self.bodies.hold(request, *(content_types or (JSON,)))

    async def decoded(self, request: Request, body: bytes, decode: Callable[[bytes], T]) -> T:
        """What `decode` makes of the body without its content encoding. It runs in a thread.

        Raises `Refused` as `inflate` does, and what `decode` raises; `DecodeError` has an answer of its own.
        """
        encoding = request.headers.get("content-encoding", "")

        def work() -> T:
            return decode(inflate(body, encoding, self._inflated_bytes))

        async with self._decoding:
            return await run_in_threadpool(work)

    async def commit(self, batch: Batch) -> Counts:
        """Store a batch, and come back when it is on disk. Raises `Unavailable` when nothing was stored."""
        return await asyncio.wrap_future(self._store.ingest(batch))

    async def event(self, event_id: str) -> dict[str, Any] | None:
        """One stored event as it came, or None."""
        return await run_in_threadpool(self._store.event, event_id)

    async def has_run(self, run_id: str) -> bool:
        """Whether anything of this run is stored."""
        return await run_in_threadpool(self._store.has_run, run_id)

    def now(self) -> str:
        """The receiver's clock in the form of `Patch.time`, for what came without a time of its own."""
        return time_text(datetime.fromtimestamp(self._store.now(), timezone.utc))

    def next_seq(self) -> int:
        """The next number for an event that came without one: the order of arrival."""
        return next(self._seq)
