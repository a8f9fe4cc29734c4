"""The history API: one record a request, below ids that the backend makes. WIRE.md section 3 has the calls.

A run is a history. A step is an event that starts it and another that ends it, below the first. What hangs below a step waits
for the answer to its start, which tells its id.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from agentscope.events import RUN_END, RUN_START, RUN_UPDATE, STEP, STEP_END, STEP_START, STEP_UPDATE, Event
from agentscope.protocols.base import Batch, Failure, Part, Response
from agentscope.protocols.batched_lane import cut_largest_field
from agentscope.protocols.sequential_lane import Call, Remembered, SingleLane, SingleState

from .records import Place, Record, event_update, history_record, history_update, start_record, verdict_record

MOST_RUNS = 10_000
"""Runs whose ids are remembered."""
MOST_STEPS = 50_000
"""Steps whose ids are remembered, of all runs together."""
MOST_OPEN = 1000
"""Runs and steps whose metadata is remembered until they end, so that updates can repeat it, as the API's own client does."""
LARGEST_METADATA = 16_384
"""Bytes; larger ones are not remembered."""

_ENDS = frozenset({RUN_END, STEP_END})
# How the fields of a step in one event are shared out; what is in neither set goes with the end.
_IN_BOTH = frozenset({"name", "step_type", "started_at", "truncated"})
_IN_START = frozenset({"input", "meta_data"})


class Known(NamedTuple):
    """What the backend has told of a run or a step."""

    id: str
    agent: str | None
    """The agent that what hangs below it belongs to."""


class HistoryState(SingleState):
    """What is learnt of a backend, for as long as the process lives."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: Remembered[str, Known] = Remembered(MOST_RUNS)
        self.steps: Remembered[Part, Known] = Remembered(MOST_STEPS)
        self._metadata: Remembered[Part, bytes] = Remembered(MOST_OPEN)

    def run(self, run_id: str) -> Known:
        """A run that was not started here is taken to be the backend's own."""
        return self.runs.get(run_id) or Known(run_id, None)

    def step(self, run_id: str, step_id: str | None) -> Known | None:
        return None if step_id is None else self.steps.get((run_id, step_id))

    def metadata(self, part: Part) -> dict[str, Any]:
        """What the metadata of an open run or step holds by now, as far as it is known."""
        found: dict[str, Any] = json.loads(self._metadata.get(part) or b"{}")
        return found

    def learn(self, event: Event, own_id: str, agent: str | None) -> None:
        """The backend's id of the run or the step that this event has begun."""
        if event.step_id is None:
            self.runs.put(event.run_id, Known(own_id, agent))
        else:
            self.steps.put((event.run_id, event.step_id), Known(own_id, agent))

    def note(self, event: Event, metadata: bytes) -> None:
        """The metadata that the run or the step has after this event."""
        part = (event.run_id, event.step_id)
        if event.type in _ENDS or len(metadata) > LARGEST_METADATA:
            self._metadata.forget(part)
        else:
            self._metadata.put(part, metadata)


class HistoryLane(SingleLane):
    """The events of one run. A step in one event takes two requests and gets one verdict."""

    api = "VoltAgent API"

    def __init__(self, state: HistoryState, batch: Batch, events: Sequence[Event]) -> None:
        super().__init__(state, batch, list(_parents_first(events)))
        self._known = state
        self._part: Event
        """What the request that was given last carries: an event, or half of one."""
        self._metadata = b""
        self._agent: str | None = None

    def answer(self, reply: Response | Failure) -> None:
        event = self._events[self._at]
        if isinstance(reply, Response) and reply.status == 409 and event.type == RUN_START:
            # We make the ids of runs: the first attempt came through, and only its answer was lost.
            self._learn(event, {"id": event.run_id})
            self.outcome.duplicates += 1
            self._state.uncertain.discard(self._id(event))
            self._stored(event)
        else:
            super().answer(reply)

    def _call(self, event: Event) -> Call | None:
        part = self._part = self._next_part(event)
        key = self._id(event)
        if event.type == STEP and part.type == STEP_START:
            key += "-start"
        run = self._known.run(event.run_id)
        method, path = "POST", "/history"
        if part.type == RUN_START:
            self._agent = _name(event, "agent_name")
            record = history_record(part)
        elif part.type in (RUN_UPDATE, RUN_END):
            method, path = "PATCH", f"/history/{quote(run.id, safe='')}"
            record = history_update(part, self._known.metadata((event.run_id, None)))
        elif part.type in (STEP_START, STEP_UPDATE, STEP_END):
            method, path, record = self._step_call(part, run)
        else:
            return None
        self._metadata = record.metadata
        return Call(method, path, record.body, key)

    def _step_call(self, part: Event, run: Known) -> tuple[str, str, Record]:
        own = self._known.step(part.run_id, part.step_id)
        above = self._known.step(part.run_id, part.parent_id)
        agent = (above or run).agent
        if part.type == STEP_START:
            # A parent that is not known here was lost, or comes later: the note of the record still names it.
            place = Place(run.id, above.id if above else None, agent)
            self._agent = _name(part, "name") if part.fields.get("step_type") == "agent" else agent
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
        self._known.note(self._part, self._metadata)
        return True

    def _is_done(self, event: Event) -> bool:
        return event.type != STEP or self._part.type == STEP_END

    def _creates(self, event: Event) -> bool:
        return event.type not in (RUN_UPDATE, RUN_END, STEP_UPDATE)

    def _smaller(self, event: Event) -> Event | None:
        smaller = cut_largest_field(self._next_part(event))
        return None if smaller is None else event._replace(fields={**event.fields, **smaller.fields})


def _parents_first(events: Sequence[Event]) -> Iterator[Event]:
    """The events in order, but a whole step, which comes when it has ended, goes before what hangs below it."""
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


def _name(event: Event, field: str) -> str | None:
    value = event.fields.get(field)
    return value if isinstance(value, str) else None
