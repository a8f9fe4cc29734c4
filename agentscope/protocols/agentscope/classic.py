"""The classic calls: one record a request, and ids made by the server. What every deployed platform has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from agentscope.events import RUN_END, RUN_START, RUN_UPDATE, STEP, Event
from agentscope.protocols.base import Batch
from agentscope.protocols.sequential_lane import Call, Remembered, SingleLane, SingleState

from .records import run_record, step_record, update_record

MOST_RUNS = 10_000
"""Server ids that are remembered; the run that was used longest ago is forgotten first."""


class ClassicState(SingleState):
    """What is learnt of a platform, for as long as the process lives."""

    def __init__(self) -> None:
        super().__init__()
        self._run_ids: Remembered[str, str] = Remembered(MOST_RUNS)

    def server_id(self, run_id: str) -> str:
        """The platform's id of a run. One that was not started here is taken to be the platform's own."""
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
        extra: dict[str, object] = {}
        truncated = event.fields.get("truncated")
        if truncated:
            extra["agentscope_truncated"] = truncated
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
        # An update can be repeated; a run or a step that was created twice is there twice.
        return event.type in (RUN_START, STEP)
