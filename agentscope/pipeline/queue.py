"""The queue between the agent's threads and the worker: bounded in bytes, and free of locks on the side that puts.

A signal handler, a finalizer or a logging handler may put at any moment, even in the middle of another put: every step below
is one C call on a deque, a sum or a `SimpleQueue`, each of them re-entrant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from io import SEEK_CUR, BytesIO
from queue import Empty, SimpleQueue

from agentscope.events import QueuedEvent
from agentscope.protocols.drop_reasons import QUEUE_FULL

UNIT = 256
"""Bytes are counted in these units: to add them up costs a little for each."""
SHED_AT = 0.88
"""From this share of the bound on, ordinary steps lose their payload."""
REFUSE_AT = 0.95
"""From this share on they are refused; the rest is kept for the start and end of runs, and for errors."""

CROWDED = "crowded"
"""Why an event is refused that might do without its payloads."""

NEVER = 1 << 62


class Bell:
    """One thread waits, any other may ring: in a signal handler, too."""

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        self._rings.put(None)

    def wait(self, seconds: float | None) -> None:
        """Until somebody rings, or `seconds` are over. Rings do not add up."""
        try:
            self._rings.get(timeout=seconds)
        except Empty:
            pass

    def hush(self) -> None:
        """Forget that somebody rang."""
        try:
            while True:
                self._rings.get_nowait()
        except Empty:
            return


class EventQueue:
    """Events in the order of their calls, and what they are charged against the bound until they are settled."""

    def __init__(self, max_bytes: int, batch_bytes: int) -> None:
        self.events: deque[QueuedEvent] = deque()
        self.wake_at = NEVER
        """Wake the worker when so many events wait. It says so itself before it goes to sleep, so a busy one costs nothing."""
        self._max_units = max(max_bytes // UNIT, 1)
        self._shed_units = int(self._max_units * SHED_AT)
        self._batch_units = batch_bytes // UNIT
        self._refuse_units = int(self._max_units * REFUSE_AT)
        self._add = BytesIO().seek
        """A sum that any thread may add to at any moment, in one C call that gives the new one: a place in an empty file."""
        self._reserved = 0
        self._released = 0
        self._bell = Bell()
        self.full_reason = QUEUE_FULL
        """Why what is refused for want of room is refused."""

    def __len__(self) -> int:
        return len(self.events)

    @property
    def bytes(self) -> int:
        """What the events that are not settled are charged."""
        return max(self._reserved - self._released, 0) * UNIT

    def put(self, event: QueuedEvent, urgent: bool, whole: bool = False) -> str | None:
        """Append, or give the reason why not. `urgent` events may use the room that is kept for them.

        A `whole` event leaves the last of the room to those without payloads: where it is the one thing in its way, that
        reason is `CROWDED`.
        """
        units = event.size // UNIT + 1
        # Two threads may both read an old sum here; the bound is missed by an event a thread at most, and never drifts.
        charged = self._reserved - self._released + units
        if charged > (self._max_units if urgent else self._shed_units if whole else self._refuse_units):
            if whole and not urgent:
                return CROWDED
            if charged - units > 1 and self.wake_at != NEVER:
                self.ring()
            return self.full_reason
        self._reserved = self._add(units, SEEK_CUR)
        self.events.append(event)
        # The worker waits for company, and there is enough of it, by number or by bytes.
        wake_at = self.wake_at
        if len(self.events) >= wake_at or (charged > self._batch_units and wake_at != NEVER):
            self.ring()
        return None

    def release(self, events: Sequence[QueuedEvent]) -> None:
        """These are settled, or on disk only. Called by one thread at a time."""
        self._released += sum(event.size // UNIT + 1 for event in events)

    def take_back(self, events: Sequence[QueuedEvent]) -> None:
        """These are charged again: they have been read back from disk. Called as `release` is."""
        self._released -= sum(event.size // UNIT + 1 for event in events)

    def ring(self) -> None:
        """Wake the worker, if it sleeps."""
        self.wake_at = NEVER
        self._bell.ring()

    def sleep(self, seconds: float | None, wake_at: int) -> None:
        """Wait until `wake_at` events are queued, or somebody rings, or `seconds` are over. Only the worker calls this."""
        self.wake_at = wake_at
        if len(self.events) < wake_at:
            self._bell.wait(seconds)
        self.wake_at = NEVER
        self._bell.hush()
