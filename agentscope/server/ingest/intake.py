"""What all calls that take data in have in common: a body held within bounds, decoded in a thread, answered after commit."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timezone
from typing import Any, TypeVar, cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from agentscope.protocols.agentscope.decode import Batch, DecodeError
from agentscope.protocols.agentscope.fields import time_text
from agentscope.protocols.json_decode import weight_of
from agentscope.server.clock import Clock
from agentscope.server.http.body import JSON, Bodies, inflate, told_size
from agentscope.server.http.limits import Limits, Refused
from agentscope.server.storage.base import IngestCounts, Store

T = TypeVar("T")

_PATIENCE = 5.0  # seconds that a body waits for others of its size
# Bytes and weight of a body at most, and how many such are taken apart and stored at once. The second is for what the
# SDK sends by itself: while one such batch is being stored, the next is taken apart.
_LANES = ((512 << 10, 20_000, 4), (2 << 20, 80_000, 2), (sys.maxsize, sys.maxsize, 1))
_WIDEST = 4  # bytes of a character
# How the escapes begin that stand for a character beyond the 65 536 first.
_PAIRS = [
    b"\\u" + digits for digits in (b"d8", b"d9", b"da", b"db", b"D8", b"D9", b"DA", b"DB", b"dA", b"dB", b"Da", b"Db")
]


class Held:
    """A body as it came over the wire, and what is to be given back when its request has been answered."""

    __slots__ = ("raw", "room")

    def __init__(self, raw: bytes, room: AsyncExitStack) -> None:
        self.raw = raw
        self.room = room


class Intake:
    """The way into the store. There is one for all calls of an application, since its bounds are on all of them together.

    Who may call is for each call to decide, before it holds a body.
    """

    def __init__(self, store: Store, limits: Limits) -> None:
        self.bodies = Bodies(limits)
        self._store = store
        self._inflated_bytes = limits.inflated_bytes
        self._lanes = [(size, weight, asyncio.Semaphore(at_once)) for size, weight, at_once in _LANES]
        self.large = self._lanes[-1][2]
        """Held by what takes much memory, whether it comes in or goes out."""
        self._seq = itertools.count()
        self._clock = Clock()

    @asynccontextmanager
    async def hold(self, request: Request, *content_types: str) -> AsyncIterator[Held]:
        """The body as it came over the wire, for the length of a block; JSON unless told otherwise. Raises `Refused`."""
        async with self.bodies.hold(request, *(content_types or (JSON,))) as raw, AsyncExitStack() as room:
            yield Held(raw, room)

    async def decoded(
        self,
        request: Request,
        body: Held,
        decode: Callable[[bytes], T],
        *,
        growth: int = 1,
        most_weight: int = sys.maxsize,
    ) -> T:
        """What `decode` makes of the body without its content encoding. It runs in a thread.

        A body may cost many times its size while it is taken apart and until it is stored: of the large ones there is
        one at a time, for which the small ones need not wait. `growth` says how many times more than JSON of its size a
        body may come to, and `most_weight` what is refused, as `weight_of` counts. Raises `Refused` as `inflate` does,
        and what `decode` raises; `DecodeError` has an answer of its own.
        """
        encoding = request.headers.get("content-encoding", "")
        told = told_size(body.raw, encoding)
        for size, weight, lane in self._lanes:
            if told > size // growth:
                continue
            release = await _entered(lane)
            try:
                fits, found = await run_in_threadpool(
                    self._decoded_within, body.raw, encoding, size // growth, min(weight, most_weight), decode
                )
            except BaseException:
                release()
                raise
            if fits:
                body.room.callback(release)  # what was found lives until it is stored, and so does its place
                return cast("T", found)
            release()
        raise DecodeError(
            413, "The body holds too many values; send it in parts."
        )  # since the last lane takes any size

    def _decoded_within(
        self, raw: bytes, encoding: str, size: int, weight: int, decode: Callable[[bytes], T]
    ) -> tuple[bool, Any]:
        """Whether the body is of this size and weight, and if so what `decode` makes of it."""
        try:
            return self._tried(raw, encoding, size, weight, decode)
        except (Refused, DecodeError) as problem:
            # Its frames hold all that was made of the body, and they go round in a circle with it.
            problem.__context__ = None
            raise problem.with_traceback(None) from None

    def _tried(
        self, raw: bytes, encoding: str, size: int, weight: int, decode: Callable[[bytes], T]
    ) -> tuple[bool, Any]:
        most = self._inflated_bytes
        try:
            body = inflate(raw, encoding, min(size, most))
        except Refused as problem:
            if problem.status == 413 and size < most:
                return False, None
            raise
        if len(body) > size or (weight < sys.maxsize and weight_of(body) > weight):
            return False, None
        if len(body) * _WIDEST > most and len(body) * _width(body) > most:
            raise Refused(413, "The body is too large with the characters it holds; send it in parts.")
        held = [body]
        del body
        return True, decode(held.pop())  # which may let go of it as soon as it has been read

    async def commit(self, batch: Batch) -> IngestCounts:
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
        return time_text(datetime.fromtimestamp(self._clock(), timezone.utc))

    def next_seq(self) -> int:
        """The next number for an event that came without one: the order of arrival."""
        return next(self._seq)


def _width(body: bytes) -> int:
    """Bytes that Python takes for a character of a text if it is one that holds the widest of the body's."""
    escaped = b"\\u" in body
    if any(byte in body for byte in range(0xF0, 0xF5)) or (escaped and any(pair in body for pair in _PAIRS)):
        return _WIDEST
    return 1 if body.isascii() and not escaped else 2


async def _entered(lane: asyncio.Semaphore) -> Callable[[], None]:
    try:
        await asyncio.wait_for(lane.acquire(), _PATIENCE)
    except asyncio.TimeoutError:
        raise Refused(503, "Too many large bodies are being stored at the moment.", retry_after=1) from None
    return lane.release
