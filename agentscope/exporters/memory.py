"""The memory destination, for tests and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .custom import EventRecord, LocalExporter
from .runs import runs_of


class InMemoryExporter(LocalExporter):
    """Keeps events in this process. After `tracker.flush()` everything that was recorded is here.

    max_events: the oldest events are forgotten beyond this number. Any thread may read. A forked child begins with a copy.
    """

    def __init__(self, max_events: int = 100_000) -> None:
        self._max_events = max_events
        # A dict, as each of its operations is one step: a lock could be held at the moment of a fork.
        self._events: dict[str, EventRecord] = {}

    def export(self, events: Sequence[EventRecord], timeout: float) -> None:
        """Keep these events. One that comes a second time is kept once."""
        self._events.update({event.id: event for event in events})
        while len(self._events) > self._max_events:
            try:
                self._events.pop(next(iter(self._events)), None)
            except (RuntimeError, StopIteration):  # another thread has cleared it
                break

    @property
    def events(self) -> list[EventRecord]:
        """The events, in the order in which they came."""
        return list(self._events.values())

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The runs as dicts with `id`, `status`, `duration_ms`, their fields, and `steps`."""
        return runs_of(self.events)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps of all runs as dicts with `id`, `run_id`, `parent_id`, `status` and their fields."""
        return [step for run in self.runs for step in run["steps"]]

    def clear(self) -> None:
        """Forget all events."""
        self._events.clear()

    def __repr__(self) -> str:
        return f"<InMemoryExporter with {len(self._events)} events>"
