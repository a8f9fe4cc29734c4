"""The sender of the history calls: one record per request, with ids that the backend assigns.

A run is sent as a history, a step as a start event and, below it, an end event. Children of a step are sent after the answer
to its start, which holds its id.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from agentscope.events import RUN_END, RUN_START, RUN_UPDATE, STEP, STEP_END, STEP_START, STEP_UPDATE, Event
from agentscope.protocols.base import Batch, Failure, Part, Request, Response
from agentscope.protocols.batched_lane import cut_largest_field
from agentscope.protocols.sequential_lane import Remembered, SingleLane, SingleState, record_request

from .records import Place, Record, event_update, history_record, history_update, start_record, verdict_record
from .vocabulary import text_or_none

MAX_RUNS = 10_000
"""Bound on the runs whose ids are remembered."""
MAX_STEPS = 50_000
"""Bound on the steps whose ids are remembered, of all runs together."""
MAX_OPEN = 1000
"""Bound on the runs and steps whose metadata is remembered until they end. Updates repeat it, as the API replaces metadata."""
MAX_METADATA_BYTES = 16_384
"""Metadata above this size is not remembered."""

_ENDS = frozenset({RUN_END, STEP_END})
# Fields of a whole step that go into the start record; the end record takes all others and those in both.
_IN_BOTH = frozenset({"name", "step_type", "started_at", "truncated"})
_IN_START = frozenset({"input", "meta_data"})


class BackendIds(NamedTuple):
    """The backend's id of a run or step, and the agent around its children."""

    id: str
    agent: str | None


class HistoryState(SingleState):
    """Ids and metadata of runs and steps that a backend has stored, kept for the life of the process."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: Remembered[str, BackendIds] = Remembered(MAX_RUNS)
        self.steps: Remembered[Part, BackendIds] = Remembered(MAX_STEPS)
        self._metadata: Remembered[Part, bytes] = Remembered(MAX_OPEN)

    def run(self, run_id: str) -> BackendIds:
        """Return the ids of a run. A run that was not started here is taken to exist in the backend under the same id."""
        return self.runs.get(run_id) or BackendIds(run_id, None)

    def step(self, run_id: str, step_id: str | None) -> BackendIds | None:
        """Return the ids of a step, or None if they are not known."""
        return None if step_id is None else self.steps.get((run_id, step_id))

    def metadata(self, part: Part) -> dict[str, Any]:
        """Return the current metadata of an open run or step; empty if it is not known."""
        found: dict[str, Any] = json.loads(self._metadata.get(part) or b"{}")
        return found

    def learn(self, event: Event, own_id: str, agent: str | None) -> None:
        """Store the backend's id of the run or step that this event has begun."""
        if event.step_id is None:
            self.runs.put(event.run_id, BackendIds(own_id, agent))
        else:
            self.steps.put((event.run_id, event.step_id), BackendIds(own_id, agent))

    def set_metadata(self, event: Event, metadata: bytes) -> None:
        """Store the metadata that the run or step has after this event."""
        part = (event.run_id, event.step_id)
        if event.type in _ENDS or len(metadata) > MAX_METADATA_BYTES:
            self._metadata.forget(part)
        else:
            self._metadata.put(part, metadata)


class HistoryLane(SingleLane):
    """The events of one run, sent in order. A whole step takes two requests and gets one verdict."""

    api = "VoltAgent API"

    def __init__(self, state: HistoryState, batch: Batch, events: Sequence[Event]) -> None:
        super().__init__(state, batch, list(_parents_first(events)))
        self._known = state
        self._part: Event
        """The event in the current request; of a whole step, its start or its end."""
        self._metadata = b""
        self._agent: str | None = None

    def answer(self, reply: Response | Failure) -> None:
        event = self._events[self._at]
        if isinstance(reply, Response) and reply.status == 409 and event.type == RUN_START:
            # Run ids are made here, so an earlier request was stored and its answer lost.
            self._learn(event, {"id": event.run_id})
            self.outcome.duplicates += 1
            self._state.uncertain.discard(self._id(event))
            self._stored(event)
        else:
            super().answer(reply)

    def _request(self, event: Event) -> Request | None:
        part = self._part = self._next_part(event)
        key = self._id(event)
        if event.type == STEP and part.type == STEP_START:
            key += "-start"
        run = self._known.run(event.run_id)
        method, path = "POST", "/history"
        if part.type == RUN_START:
            self._agent = text_or_none(event.fields.get("agent_name"))
            record = history_record(part)
        elif part.type in (RUN_UPDATE, RUN_END):
            method, path = "PATCH", f"/history/{quote(run.id, safe='')}"
            record = history_update(part, self._known.metadata((event.run_id, None)))
        elif part.type in (STEP_START, STEP_UPDATE, STEP_END):
            method, path, record = self._step_call(part, run)
        else:
            return None
        self._metadata = record.metadata
        return record_request(method, path, record.body, key)

    def _step_call(self, part: Event, run: BackendIds) -> tuple[str, str, Record]:
        own = self._known.step(part.run_id, part.step_id)
        above = self._known.step(part.run_id, part.parent_id)
        agent = (above or run).agent
        if part.type == STEP_START:
            # An unknown parent was dropped or comes later. The note in the record names it all the same.
            place = Place(run.id, above.id if above else None, agent)
            is_agent = part.fields.get("step_type") == "agent"
            self._agent = text_or_none(part.fields.get("name")) if is_agent else agent
            return "POST", "/history-events", start_record(part, place)
        base = self._known.metadata((part.run_id, part.step_id))
        if part.type == STEP_END:
            return "POST", "/history-events", verdict_record(part, Place(run.id, own.id if own else None, agent), base)
        own_id = own.id if own else str(part.step_id)
        return "PATCH", f"/history-events/{quote(own_id, safe='')}", event_update(part, agent, base)

    def _next_part(self, event: Event) -> Event:
        if event.type != STEP:
            return event
        if self._known.step(event.run_id, event.step_id) is None:
            fields = {name: value for name, value in event.fields.items() if name in _IN_START | _IN_BOTH}
            return event._replace(type=STEP_START, fields=fields)
        fields = {name: value for name, value in event.fields.items() if name not in _IN_START}
        return event._replace(type=STEP_END, fields=fields)

    def _learn(self, event: Event, answer: Mapping[str, Any]) -> bool:
        own_id = answer.get("id")
        if type(own_id) not in (str, int) or own_id == "":
            return False
        if self._part.type in (RUN_START, STEP_START):
            self._known.learn(event, str(own_id), self._agent)
        self._known.set_metadata(self._part, self._metadata)
        return True

    def _is_done(self, event: Event) -> bool:
        return event.type != STEP or self._part.type == STEP_END

    def _creates(self, event: Event) -> bool:
        return event.type not in (RUN_UPDATE, RUN_END, STEP_UPDATE)

    def _smaller(self, event: Event) -> Event | None:
        smaller = cut_largest_field(self._next_part(event))
        return None if smaller is None else event._replace(fields={**event.fields, **smaller.fields})


def _parents_first(events: Sequence[Event]) -> Iterator[Event]:
    """Yield the events in order, except that a whole step, which is recorded at its end, comes before its children."""
    wholes = {event.step_id: event for event in events if event.type == STEP}
    placed: set[int] = set()
    for event in events:
        line: list[Event] = []
        here: Event | None = event
        while here is not None and here.seq not in placed:
            placed.add(here.seq)
            line.append(here)
            here = wholes.get(here.parent_id)
        yield from reversed(line)
