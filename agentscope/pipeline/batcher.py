"""When a batch is complete: by count, by bytes, or by age. Pure: every decision takes `now`, in monotonic seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from ..events import Event


class Batcher:
    """Events that wait for company."""

    def __init__(self, max_events: int, max_bytes: int, max_age: float) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def add(self, event: Event, now: float) -> None:
        if not self._events:
            self._since = now
        self._events.append(event)
        self._bytes += event.size

    def put_back(self, events: Sequence[Event], now: float) -> None:
        """Add events that came before all others."""
        if not self._events:
            self._since = now
        self._events.extendleft(reversed(events))
        self._bytes += sum(event.size for event in events)

    def room(self) -> int:
        """How many more events fit by count; none if the bytes are full."""
        return 0 if self._bytes >= self._max_bytes else max(self._max_events - len(self._events), 0)

    def wait(self, now: float) -> float | None:
        """Seconds until the batch has to go; 0 if it has to go now, None if there is nothing to wait for."""
        if not self._events:
            return None
        if not self.room():
            return 0.0
        return max(self._since + self._max_age - now, 0.0)

    def next(self) -> list[Event]:
        """The next batch: never more than the limits, unless one event alone is larger. It stays here until it is removed."""
        batch: list[Event] = []
        size = 0
        for event in self._events:
            size += event.size
            if len(batch) == self._max_events or (batch and size > self._max_bytes):
                break
            batch.append(event)
        return batch

    def remove(self, batch: Sequence[Event], now: float) -> None:
        """What `next` gave is elsewhere now. The rest waits anew."""
        for _ in batch:
            self._bytes -= self._events.popleft().size
        self._since = now

    def keep(self, events: Iterable[Event]) -> None:
        """Have these and no others: a change was broken off."""
        self._events = deque(events)
        self._bytes = sum(event.size for event in self._events)

    def clear(self) -> None:
        self._events.clear()
        self._bytes = 0
