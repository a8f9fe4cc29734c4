"""The path of a body into the store: it is held within bounds, decoded in a thread, and answered when it is durable."""

from __future__ import annotations

import asyncio
import itertools
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar, cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from agentscope.protocols.agentscope.decode import Arrival, Batch, Patch
from agentscope.protocols.agentscope.fields import time_text_of
from agentscope.protocols.json_decode import DecodeError, too_many, weight_of
from agentscope.server.clock import Clock
from agentscope.server.http.body import JSON, Bodies, declared_size, inflate
from agentscope.server.http.limits import Limits, Refused
from agentscope.server.storage.base import IngestCounts, Store, Unavailable

T = TypeVar("T")

_MAX_KEY = 255
_PATIENCE = 5.0  # seconds that a body waits for others of its size
# The lanes for bodies of different size: bytes and weight at most, and how many bodies are decoded and stored at once. The
# second is for the SDK's own batches: while one of them is being stored, the next is decoded.
_LANES = ((512 << 10, 20_000, 4), (2 << 20, 80_000, 2), (sys.maxsize, sys.maxsize, 1))
_WIDEST = 4  # bytes of a character
# The beginnings of JSON escapes for characters beyond U+FFFF.
_PAIRS = [
    b"\\u" + digits for digits in (b"d8", b"d9", b"da", b"db", b"D8", b"D9", b"DA", b"DB", b"dA", b"dB", b"Da", b"Db")
]


class Held:
    """A body before it is inflated, and the resources that are released when its request has been answered."""

    __slots__ = ("raw", "room")

    def __init__(self, raw: bytes, room: AsyncExitStack) -> None:
        self.raw = raw
        self.room = room


class Intake:
    """The path into the store. All calls of an application share one, since its bounds are for all of them together.

    Each call checks the key before it holds a body. `came` is called with the counts of each stored batch, and the number
    of its rejected events.
    """

    def __init__(
        self, store: Store, limits: Limits, came: Callable[[IngestCounts, int], None] = lambda counts, rejected: None
    ) -> None:
        self.bodies = Bodies(limits)
        self.waiting = 0
        """Batches that the store has not answered yet."""
        self._store = store
        self._came = came
        self._inflated_bytes = limits.inflated_bytes
        self._lanes = [(size, weight, asyncio.Semaphore(at_once)) for size, weight, at_once in _LANES]
        self.large = self._lanes[-1][2]
        """The semaphore that is held while a large body is decoded and stored, and while a large run is read."""
        self._seq = itertools.count()
        self._clock = Clock()

    @asynccontextmanager
    async def hold(self, request: Request, *content_types: str) -> AsyncIterator[Held]:
        """Hold a body for the length of a block. It has to be JSON unless other content types are given. Raises `Refused`."""
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
        is_text: bool = True,
    ) -> T:
        """Inflate a body and decode it in a thread.

        A decoded body takes many times its size in memory until it is stored. Only one large body at a time is decoded,
        and small ones do not wait for it. Raises `Refused` as `inflate` does, and the errors of
        `decode`.

        growth: the memory that the decoded body takes, in multiples of that of JSON of the same size. most_weight: bound on the
        weight of the body, as `weight_of` counts it. is_text: the body is decoded as one text, of which each character takes the
        memory of the widest one.
        """
        encoding = request.headers.get("content-encoding", "")
        declared = declared_size(body.raw, encoding)
        for size, weight, lane in self._lanes:
            if declared > size // growth:
                continue
            release = await _entered(lane)
            try:
                fits, found = await run_in_threadpool(
                    self._decoded_within, body.raw, encoding, size // growth, min(weight, most_weight), is_text, decode
                )
            except BaseException:
                release()
                raise
            if fits:
                body.room.callback(release)  # the lane is left when the decoded body has been stored
                return cast("T", found)
            release()
        # The last lane takes any size, so this body has too many values.
        raise too_many()

    def _decoded_within(
        self, raw: bytes, encoding: str, size: int, weight: int, is_text: bool, decode: Callable[[bytes], T]
    ) -> tuple[bool, Any]:
        """Decode a body of at most this size and weight. Returns (True, the decoded body), or (False, None) if it is larger."""
        try:
            return self._decode_if_fits(raw, encoding, size, weight, is_text, decode)
        except (Refused, DecodeError) as problem:
            # The frames of the traceback hold the decoded body, in a reference cycle.
            problem.__context__ = None
            raise problem.with_traceback(None) from None

    def _decode_if_fits(
        self, raw: bytes, encoding: str, size: int, weight: int, is_text: bool, decode: Callable[[bytes], T]
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
        if is_text and len(body) * _WIDEST > most and len(body) * _width(body) > most:
            raise Refused(413, "The body is too large with the characters it holds; send it in parts.")
        held = [body]
        del body
        return True, decode(held.pop())  # no reference is kept, so that `decode` may free the body early

    async def commit(self, batch: Batch) -> IngestCounts:
        """Store a batch, and return when it is durable. Raises `Unavailable`."""
        self.waiting += 1
        try:
            counts = await asyncio.wrap_future(self._store.ingest(batch))
        finally:
            self.waiting -= 1
        self._came(counts, len(batch.rejected))
        return counts

    async def store_one(self, request: Request, body: Held, decode: Callable[[bytes], Patch]) -> dict[str, Any]:
        """Decode a body of one event and `keep_one` it. Raises as `decoded` and `keep_one` do."""
        return await self.keep_one(await self.decoded(request, body, decode))

    async def keep_one(self, patch: Patch) -> dict[str, Any]:
        """Store a patch unless it is stored already, and return the event that is stored when it is durable.

        Raises `Refused` (422) if its id, which is made of an Idempotency-Key, was that of another body, and as `commit_one`
        does.
        """
        # A repeated call is not ingested: it carries another time, and would count as a conflict.
        stored = await self.event(patch.id, patch.session_id) or await self.commit_one(patch)
        if _sent_fields(stored) != _sent_fields(patch.fields):
            raise Refused(422, "This Idempotency-Key was sent before, with another body.")
        return stored

    async def commit_one(self, patch: Patch) -> dict[str, Any]:
        """Store a patch, and return the event that is stored when it is durable.

        Raises `Unavailable`, and `Refused` (410) if its run was deleted.
        """
        counts = await self.commit(Batch(str(uuid.uuid4()), patch.session_id, [patch], [], {}))
        if counts.accepted:
            return dict(patch.fields)
        stored = await self.event(patch.id, patch.session_id)
        if stored is None:
            raise Refused(410, "This run was deleted.")
        return stored

    async def event(self, event_id: str, session_id: str | None) -> dict[str, Any] | None:
        """Return a stored event as it was sent; None if there is none. `session_id` None: of any session."""
        return await run_in_threadpool(self._store.event, event_id, session_id)

    async def read(self, look: Callable[[Store], T]) -> T:
        """Call a function with the store in a thread."""
        return await run_in_threadpool(look, self._store)

    async def has_run(self, run_id: str) -> bool:
        """Return whether any event of this run is stored."""
        return await run_in_threadpool(self._store.has_run, run_id)

    def now(self) -> str:
        """Return the time in the form of `Patch.time`, for an event that was sent without one."""
        return time_text_of(self._clock())

    def arrival(self, event_id: str) -> Arrival:
        """Return the id, the time and the `seq` of an event that was sent without them, in the order of arrival."""
        return Arrival(event_id, self.now(), next(self._seq))


REFUSALS = (Refused, DecodeError, Unavailable)
"""The exceptions of a call that is refused."""


def refusal(problem: Refused | DecodeError | Unavailable) -> tuple[int, str, dict[str, str]]:
    """Return the status, the sentence and the headers of the answer to a refused call."""
    if isinstance(problem, Unavailable):
        return 503, f"Try again later: {problem}.", {"Retry-After": "1"}
    return problem.status, str(problem), problem.headers if isinstance(problem, Refused) else {}


def _sent_fields(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that the sender set, without those derived from the time of arrival."""
    return {name: value for name, value in event.items() if name != "seq" and value != event["time"]}


def made_id(request: Request, space: uuid.UUID, scope: str) -> str:
    """Make an id; the same `Idempotency-Key` in the same scope always gives the same one. Raises `Refused` for a bad key."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return str(uuid.uuid4())
    if not 0 < len(key) <= _MAX_KEY:
        raise Refused(400, f"Idempotency-Key must have 1 to {_MAX_KEY} characters.")
    return str(uuid.uuid5(space, f"{scope}:{key}"))


def _width(body: bytes) -> int:
    """Return the bytes that Python takes for each character of a text that holds the widest character of the body."""
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
