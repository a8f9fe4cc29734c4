"""The history API in memory: a backend that makes its own ids, and one that decodes and folds like the receiver."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from agentscope.events import RUN_START, Event
from agentscope.exporters.otlp import VOLTAGENT_TRACES_PATH
from agentscope.protocols.agentscope.decode import Arrival, Patch
from agentscope.protocols.base import Request, Response
from agentscope.protocols.json_decode import DecodeError
from agentscope.protocols.otlp.protocol import OTLPState
from agentscope.protocols.voltagent.decode import event_added, event_changed, read, run_changed, run_started
from agentscope.protocols.voltagent.protocol import HISTORY, VoltAgentProtocol
from agentscope.protocols.voltagent.responses import added_view, changed_view, history_view
from agentscope.server.storage.fold import fold, run_view
from tests.support.events import SESSION, answer, event, strict
from tests.support.receiver import at

_PATH = re.compile(r"/(history|history-events)(?:/([^/]+))?")


class HistoryProtocol(VoltAgentProtocol):
    """The protocol of a backend that is known to have the history calls only."""

    def __init__(self) -> None:
        super().__init__(
            OTLPState(path=VOLTAGENT_TRACES_PATH, encoding="json", compress=False, largest_body=1 << 20, resource={})
        )
        self.name = HISTORY


def seq_of(request: Request) -> int:
    """The `seq` of the event in a request, from its idempotency key."""
    return int(request.headers["Idempotency-Key"].removeprefix(SESSION.event_prefix).removesuffix("-start"), 16)


def call_of(request: Request) -> tuple[str, str, str | None]:
    """The method, the resource (history or history-events) and the id or None of a request; AssertionError for others."""
    match = _PATH.fullmatch(request.path)
    assert match is not None, request.path
    assert (request.method == "PATCH") == (match[2] is not None), (request.method, request.path)
    assert request.headers["Content-Type"] == "application/json"
    return request.method, match[1], None if match[2] is None else unquote(match[2])


@dataclass
class HistoryBackend:
    """A backend that makes all ids, and has no idempotency. Its sets hold the `seq` of events."""

    unacceptable: set[int] = field(default_factory=set)
    """Events that are answered 422."""
    crashing: set[int] = field(default_factory=set)
    """Events that are answered 500."""
    limit: int = 1 << 62
    """The most bytes of a body; a larger one is answered 413."""
    runs: dict[str, list[int]] = field(default_factory=dict)
    """The `seq` of the stored events by the server id of their run, in order of arrival."""
    names: dict[str, str] = field(default_factory=dict)
    """The client id of each run by its server id."""
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The record of each event by its server id."""
    asked: list[int] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        method, kind, own_id = call_of(request)
        seq, body = seq_of(request), strict(request.body)
        self.asked.append(seq)
        if len(request.body) > self.limit:
            return answer(413)
        if seq in self.unacceptable:
            return answer(422, {"message": "no"})
        if seq in self.crashing:
            return answer(500, {"message": "oops"})
        if (method, kind) == ("POST", "history"):
            own_id = f"srv/{len(self.runs)}"
            self.runs[own_id] = [seq]
            self.names[own_id] = body["id"]
            return answer(200, {"id": own_id, "agent_id": body["agent_id"], "status": body["status"]})
        if kind == "history":
            if own_id not in self.runs:
                return answer(404, {"message": "History not found"})
            self.runs[own_id].append(seq)
            return answer(200, {"id": own_id, "agent_id": "a", "status": body.get("status", "working")})
        if method == "PATCH":
            if own_id not in self.events:
                return answer(404, {"message": "Event not found"})
            self.runs[self.events[own_id]["history_id"]].append(seq)
            return answer(200, {"id": own_id, **self.events[own_id]})
        if body["history_id"] not in self.runs:
            return answer(404, {"message": "History not found"})
        assert body.get("parent_event_id") is None or body["parent_event_id"] in self.events
        own_id = f"event/{len(self.events)}"
        self.events[own_id] = body
        self.runs[body["history_id"]].append(seq)
        return answer(200, {"id": own_id, **body})


@dataclass
class MemoryReceiver:
    """A backend that decodes and folds the calls like the receiver, without a server or a store."""

    patches: dict[str, Patch] = field(default_factory=dict)
    """The patches by event id, in order of arrival."""

    def __call__(self, request: Request) -> Response:
        method, kind, own_id = call_of(request)
        try:
            record = read(request.body)
            if kind == "history":
                return answer(200, self._history(record, own_id, request.headers["Idempotency-Key"]))
            key = f"event {request.headers['Idempotency-Key']}"
            if method == "POST":
                parent = self.patches.get(record.get("parent_event_id", ""))
                patch = event_added(record, parent and parent.fields, self._arrival(key))
                return answer(200, added_view(key, record, self._keep(patch).time))
            if own_id not in self.patches:
                return answer(404, {"message": "There is no event with this id."})
            target = self.patches[own_id].fields
            patch = self._keep(event_changed(record, target, self._arrival(f"change {key}")))
            return answer(200, changed_view(target, fold(self.of(patch.run_id, patch.step_id)), patch.time))
        except DecodeError as problem:
            return answer(problem.status, {"message": str(problem)})

    def view(self, run_id: str) -> dict[str, Any]:
        return run_view(run_id, [patch for patch in self.patches.values() if patch.run_id == run_id])

    def of(self, run_id: str, step_id: str | None) -> list[Patch]:
        return [patch for patch in self.patches.values() if (patch.run_id, patch.step_id) == (run_id, step_id)]

    def _history(self, record: dict[str, Any], own_id: str | None, key: str) -> dict[str, Any]:
        run_id: str = own_id or record["id"]
        if own_id is not None:
            self._keep(run_changed(record, run_id, self._arrival(f"update {key}")))
        elif not any(patch.type == RUN_START for patch in self.of(run_id, None)):
            self._keep(run_started(record, run_id, self._arrival(f"start {run_id}")))
        return history_view(run_id, fold(self.of(run_id, None)), at(0))

    def _keep(self, patch: Patch) -> Patch:
        return self.patches.setdefault(patch.id, patch)

    def _arrival(self, event_id: str) -> Arrival:
        number = len(self.patches)
        return Arrival(event_id, at(3000 + number / 1000), number)


def started(seq: int, step_id: str, run_id: str = "run-1", parent_id: str | None = None, **fields: Any) -> Event:
    """A `step.start` event."""
    given = {"name": step_id, "step_type": "tool_call", "status": "running", **fields}
    return event(seq, "step.start", run_id, **given)._replace(step_id=step_id, parent_id=parent_id)


def ended(seq: int, step_id: str, run_id: str = "run-1", parent_id: str | None = None, **fields: Any) -> Event:
    """A `step.end` event."""
    given = {"name": step_id, "step_type": "tool_call", "status": "completed", **fields}
    return event(seq, "step.end", run_id, **given)._replace(step_id=step_id, parent_id=parent_id)
