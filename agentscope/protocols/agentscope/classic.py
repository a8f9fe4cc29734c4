"""The classic calls, which every deployed platform has: one record a request, and ids made by the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from agentscope.events import RUN_END, RUN_FIELDS, RUN_START, RUN_UPDATE, STEP, STEP_FIELDS, Event
from agentscope.protocols.base import Batch
from agentscope.protocols.json_encode import plain
from agentscope.protocols.sequential_lane import Call, Remembered, SingleLane, SingleState

from .decode import META_PREFIX
from .records import run_record, step_record, update_record

MOST_RUNS = 10_000
"""Server ids that are kept. The run that was used longest ago is forgotten first."""


class ClassicState(SingleState):
    """The ids that a platform gave to the runs of this process."""

    def __init__(self) -> None:
        super().__init__()
        self._run_ids: Remembered[str, str] = Remembered(MOST_RUNS)

    def server_id(self, run_id: str) -> str:
        """The platform's id of a run. The id of a run that was not started here is taken for the platform's own."""
        return self._run_ids.get(run_id) or run_id

    def learn(self, run_id: str, server_id: str) -> None:
        self._run_ids.put(run_id, server_id)


class ClassicLane(SingleLane):
    """The events of one run, in order, each in its own request."""

    api = "AgentScope API"

    def __init__(self, state: ClassicState, batch: Batch, events: list[Event]) -> None:
        super().__init__(state, batch, events)
        self._runs = state

    def _call(self, event: Event) -> Call | None:
        table = RUN_FIELDS if event.step_id is None else STEP_FIELDS
        extra: dict[str, object] = {
            META_PREFIX + name: plain(name, value)
            for name, value in event.fields.items()
            if name in table and not table[name].classic and value is not None
        }
        key, path = self._id(event), "/api/ingest/run"
        if event.type == RUN_START:
            extra["agentscope_run_id"] = event.run_id
            return Call("POST", path, run_record(event.fields, extra), key)
        path = f"{path}/{quote(self._runs.server_id(event.run_id), safe='')}"
        if event.type in (RUN_END, RUN_UPDATE):
            return Call("PATCH", path, update_record(event.fields), key)
        if event.type == STEP:
            extra["agentscope_step_id"] = event.step_id
            if event.parent_id is not None:
                extra["agentscope_parent_id"] = event.parent_id
            return Call("POST", f"{path}/step", step_record(event.fields, extra), key)
        return None

    def _learn(self, event: Event, answer: Mapping[str, Any]) -> bool:
        if event.type == RUN_START:
            server_id = answer.get("id")
            if type(server_id) not in (str, int) or server_id == "":
                return False
            self._runs.learn(event.run_id, str(server_id))
        return True

    def _creates(self, event: Event) -> bool:
        # A repeated update changes nothing; a repeated creation makes a second run or step.
        return event.type in (RUN_START, STEP)
