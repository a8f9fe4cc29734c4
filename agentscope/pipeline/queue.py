"""The two places where events wait to be sent: the queue, for the worker, and the batched events, until a batch is due.

The queue is bounded in bytes, and free of locks on the side that puts.
A signal handler, a finalizer or a logging handler may put at any moment, even in the middle of another put: every step below
is one operation on a deque, a sum or a `SimpleQueue`, each of them re-entrant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from queue import Empty, SimpleQueue

from agentscope.events import QueuedEvent
from agentscope.protocols.drop_reasons import QUEUE_FULL

UNIT = 256
"""Bytes are counted in units of this size."""
SHED_AT = 0.88
"""From this share of the bound on, ordinary steps lose their payload."""
REFUSE_AT = 0.95
"""From this share on they are refused; the rest is kept for the start and end of runs, and for errors."""

CROWDED = "crowded"
"""The refusal of an event that may be accepted without its payloads."""

NEVER = 1 << 62
_SIZE = attrgetter("size")


def units(events: Iterable[QueuedEvent]) -> int:
    """Return the units that these events are charged."""
    return sum(event.size // UNIT + 1 for event in events)


class Bell:
    """A bell: one thread waits, any other thread or signal handler may ring."""

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        self._rings.put(None)

    def wait(self, seconds: float | None) -> None:
        """Wait for a ring, for `seconds` at most. Rings do not add up."""
        try:
            self._rings.get(timeout=seconds)
        except Empty:
            pass

    def hush(self) -> None:
        """Discard earlier rings."""
        try:
            while True:
                self._rings.get_nowait()
        except Empty:
            return


class EventQueue:
    """Events in the order of their calls, and the bytes that they take of the bound until they are settled."""

    def __init__(self, max_bytes: int, batch_bytes: int) -> None:
        self.events: deque[QueuedEvent] = deque()
        self.wake_at = NEVER
        """The number of waiting events that wakes the worker. The worker sets it before it sleeps."""
        self._max_units = max(max_bytes // UNIT, 1)
        self._shed_units = int(self._max_units * SHED_AT)
        self._batch_units = batch_bytes // UNIT
        self._refuse_units = int(self._max_units * REFUSE_AT)
        self._reserved = 0
        self._newest: QueuedEvent | None = None
        self.released = 0
        """Units of the events that are settled, or on disk only. Set inside a move of `states`."""
        self._bell = Bell()
        self.full_reason = QUEUE_FULL
        """The reason of events that are refused because the queue is full."""

    def __len__(self) -> int:
        return len(self.events)

    @property
    def bytes(self) -> int:
        """The bytes charged for the events that are not settled."""
        return max(self._reserved - self.released, 0) * UNIT

    def put(self, event: QueuedEvent, urgent: bool, whole: bool = False) -> str | None:
        """Append an event, or return the reason of the refusal. `urgent` events may use the room that is kept for them.

        whole: the event has payloads that can be left out. It is refused with `CROWDED` from `SHED_AT` of the bound on.
        """
        units = event.size // UNIT + 1
        # Two threads may both read an old sum here; the bound is missed by an event a thread at most, and never drifts.
        charged = self._reserved - self.released + units
        if charged > (self._max_units if urgent else self._shed_units if whole else self._refuse_units):
            if whole and not urgent:
                return CROWDED
            if charged - units > 1 and self.wake_at != NEVER:
                self.ring()
            return self.full_reason
        # Neither another thread nor an exception of a signal handler can come in between: the interpreter looks for both only
        # after calls and at jumps, and a trace function at the beginning of a line.
        self._reserved += units; self._newest = event; self.events.append(event)  # noqa: E702  # fmt: skip
        # The worker sleeps until a batch is full, by number or by bytes.
        wake_at = self.wake_at
        if len(self.events) >= wake_at or (charged > self._batch_units and wake_at != NEVER):
            self.ring()
        return None

    def holds(self, type_: str, run_id: str, step_id: str | None) -> bool:
        """Return whether an event of this type for this run or step is queued, or was the last one to be queued."""
        found = (self._newest, *self.events.copy())
        return any(event and (event.type, event.run_id, event.step_id) == (type_, run_id, step_id) for event in found)

    def ring(self) -> None:
        """Wake the worker, if it sleeps."""
        self.wake_at = NEVER
        self._bell.ring()

    def sleep(self, seconds: float | None, wake_at: int) -> None:
        """Wait until `wake_at` events are queued, or a ring, for `seconds` at most. Only the worker calls this."""
        self.wake_at = wake_at
        if len(self.events) < wake_at:
            self._bell.wait(seconds)
        self.wake_at = NEVER
        self._bell.hush()


class Batched:
    """The batched events, and the decision when the next batch is due: by number, by bytes or by age.

    Every decision takes `now`, in monotonic seconds. A batch is due as soon as `enough` events wait, and takes all of them:
    a slow backend gets larger batches.
    """

    def __init__(self, max_events: int, max_bytes: int, max_age: float, enough: int | None = None) -> None:
        self._max_events = max_events
        self._enough = max_events if enough is None else min(enough, max_events)
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._events: deque[QueuedEvent] = deque()
        self._bytes = 0
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[QueuedEvent]:
        return iter(self._events)

    def add(self, event: QueuedEvent, now: float) -> None:
        if not self._events:
            self._since = now
        self._events.append(event)
        self._bytes += event.size

    def take(self, next_event: Callable[[], QueuedEvent], number: int, now: float) -> None:
        """Add the events of `number` calls of `next_event`. C code makes the calls, so no exception can lose an event."""
        before = len(self._events)
        if not before:
            self._since = now
        self._events.extend(islice(iter(next_event, None), number))
        self._bytes += sum(map(_SIZE, islice(self._events, before, None)))

    def put_back(self, events: Sequence[QueuedEvent], now: float) -> None:
        """Add events before all others."""
        if not self._events:
            self._since = now
        self._events.extendleft(reversed(events))
        self._bytes += sum(map(_SIZE, events))

    def room(self) -> int:
        """Return how many more events fit; 0 if the byte limit is reached."""
        return 0 if self._bytes >= self._max_bytes else max(self._max_events - len(self._events), 0)

    def missing(self) -> int:
        """Return how many more events make a batch due; 0 if the byte limit is reached."""
        return 0 if self._bytes >= self._max_bytes else max(self._enough - len(self._events), 0)

    def wait(self, now: float) -> float | None:
        """Return the seconds until the batch is due; None without events."""
        if not self._events:
            return None
        return max(self._since + self._max_age - now, 0.0) if self.missing() else 0.0

    def next(self) -> list[QueuedEvent]:
        """Return the next batch, within the limits unless one event alone is larger. `remove` removes it."""
        if len(self._events) <= self._max_events and self._bytes <= self._max_bytes:
            return list(self._events)
        batch: list[QueuedEvent] = []
        size = 0
        for event in self._events:
            size += event.size
            if len(batch) == self._max_events or (batch and size > self._max_bytes):
                break
            batch.append(event)
        return batch

    def remove(self, batch: Sequence[QueuedEvent], now: float) -> None:
        """Remove the events that `next` returned. The age of the others begins anew."""
        if len(batch) == len(self._events):
            self.clear()
        for _ in batch if self._events else ():
            self._bytes -= self._events.popleft().size
        self._since = now

    def keep(self, events: Iterable[QueuedEvent]) -> None:
        """Replace all events by these."""
        self._events = deque(events)
        self._bytes = sum(map(_SIZE, self._events))

    def clear(self) -> None:
        self._events.clear()
        self._bytes = 0
