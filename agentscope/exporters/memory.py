"""The memory destination, for tests and notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from agentscope.protocols.assemble import merge_fields, merge_objects

from .custom import EventRecord, LocalExporter


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


def runs_of(records: Iterable[EventRecord]) -> list[dict[str, Any]]:
    """Join records to runs in the order of their first event; each has `steps`, in order of their start.

    Beside the fields of their events, runs have `id`, `status` and `duration_ms`, steps `id`, `run_id`, `parent_id` and `status`.
    The values of a field are joined as in the receiver.
    """
    parts: dict[tuple[str, str | None], list[EventRecord]] = {}
    for record in sorted(records, key=lambda record: (record.time, record.session, record.seq)):
        parts.setdefault((record.run_id, record.step_id), []).append(record)
    runs: dict[str, dict[str, Any]] = {}
    for (run_id, step_id), events in parts.items():
        run = runs.setdefault(run_id, {"id": run_id, "status": "running", "duration_ms": None, "steps": []})
        fields = merge_fields((event.fields for event in events), merge_objects)
        if step_id is None:
            run.update(fields, duration_ms=_milliseconds(fields))
        else:
            parent = next((event.parent_id for event in reversed(events) if event.parent_id is not None), None)
            first = {"id": step_id, "run_id": run_id, "parent_id": parent, "status": "running"}
            run["steps"].append({**first, "started_at": events[0].time, **fields})
    for run in runs.values():
        run["steps"].sort(key=lambda step: step["started_at"])
    return list(runs.values())


def _milliseconds(fields: Mapping[str, Any]) -> float | None:
    begin, end = fields.get("started_at"), fields.get("ended_at")
    if not (isinstance(begin, str) and isinstance(end, str)):
        return None
    try:
        return (datetime.fromisoformat(end[:-1]) - datetime.fromisoformat(begin[:-1])).total_seconds() * 1000
    except ValueError:  # a redaction hook has changed them
        return None
