"""When a batch goes: by count, by bytes, or by age. Pure: every decision takes `now`, in monotonic seconds.

Its size follows the backend: a batch goes as soon as enough wait, and takes along all that do. While an answer takes long, or the
bytes are slow to send, more come to wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter

from agentscope.events import QueuedEvent

_SIZE = attrgetter("size")


class Batcher:
    """Events that wait for company: until `enough` wait, or a batch is full, or the first one is `max_age` seconds old."""

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
        """Add so many events, which `next_event` gives. Each is given and added in one go: no exception gets between."""
        before = len(self._events)
        if not before:
            self._since = now
        self._events.extend(islice(iter(next_event, None), number))
        self._bytes += sum(map(_SIZE, islice(self._events, before, None)))

    def put_back(self, events: Sequence[QueuedEvent], now: float) -> None:
        """Add events that came before all others."""
        if not self._events:
            self._since = now
        self._events.extendleft(reversed(events))
        self._bytes += sum(event.size for event in events)

    def room(self) -> int:
        """How many more events fit by count; none if the bytes are full."""
        return 0 if self._bytes >= self._max_bytes else max(self._max_events - len(self._events), 0)

    def missing(self) -> int:
        """How many more events have to come for the batch to go; none if the bytes are full."""
        return 0 if self._bytes >= self._max_bytes else max(self._enough - len(self._events), 0)

    def wait(self, now: float) -> float | None:
        """Seconds until the batch has to go; 0 if it has to go now, None if there is nothing to wait for."""
        if not self._events:
            return None
        if not self.missing():
            return 0.0
        return max(self._since + self._max_age - now, 0.0)

    def next(self) -> list[QueuedEvent]:
        """The next batch: never more than the limits, unless one event alone is larger. It stays here until it is removed."""
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
        """What `next` gave is elsewhere now. The rest waits anew."""
        if len(batch) == len(self._events):
            self.clear()
        for _ in batch if self._events else ():
            self._bytes -= self._events.popleft().size
        self._since = now

    def keep(self, events: Iterable[QueuedEvent]) -> None:
        """Have these and no others: a change was broken off."""
        self._events = deque(events)
        self._bytes = sum(event.size for event in self._events)

    def clear(self) -> None:
        self._events.clear()
        self._bytes = 0
