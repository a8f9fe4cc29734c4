"""Events that a protocol keeps for the end of their run or step: redacted, sent once, and with no verdict yet."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from agentscope.events import QueuedEvent, ReadyEvent
from agentscope.protocols.base import Part


class Parking:
    """Parked events by run or step, each in the order it came in."""

    def __init__(self) -> None:
        self.events: dict[Part, list[ReadyEvent]] = {}
        self.bytes = 0
        self._parts: dict[int, Part] = {}
        """Where each event is, by its `seq`."""

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[ReadyEvent]:
        for events in self.events.values():
            yield from events

    def add(self, event: ReadyEvent) -> None:
        part = (event.run_id, event.step_id)
        self.events.setdefault(part, []).append(event)
        self._parts[event.seq] = part
        self.bytes += event.size

    def get(self, seq: int) -> ReadyEvent | None:
        """The event with this number, if it is here."""
        part = self._parts.get(seq)
        return None if part is None else next(event for event in self.events[part] if event.seq == seq)

    def last(self, part: Part) -> ReadyEvent:
        """The event of this run or step that came last."""
        return self.events[part][-1]

    def remove(self, event: QueuedEvent) -> None:
        part = self._parts.pop(event.seq)
        self.bytes -= event.size
        self.events[part] = [other for other in self.events[part] if other.seq != event.seq]
        if not self.events[part]:
            del self.events[part]

    def parts(self, without: Collection[Part]) -> list[Part]:
        """Whose events are here, the oldest first, but for these."""
        return [part for part in self.events if part not in without]

    def clear(self) -> None:
        self.events.clear()
        self._parts.clear()
        self.bytes = 0

    def recount(self) -> None:
        """What came of a change that was broken off: all else follows from the lists of events."""
        for part in [part for part, events in self.events.items() if not events]:
            del self.events[part]
        self._parts = {event.seq: part for part, events in self.events.items() for event in events}
        self.bytes = sum(event.size for event in self)
