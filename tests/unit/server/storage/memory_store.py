"""A store in memory, the smallest engine that passes the conformance suite: it folds all events at every question."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import Future
from typing import Any

from agentscope.events import FIELDS
from agentscope.protocols.agentscope.decode import Batch, Patch
from agentscope.server.storage.base import (
    DEFAULT_PROJECT,
    MOST_MISSED,
    RUN_DELETED,
    SETTLING,
    EventPage,
    IngestCounts,
    RunCursor,
    RunPage,
    RunQuery,
    StepCursor,
    StepPage,
    StepQuery,
    StoredEvent,
    Unavailable,
    bounded_reasons,
    is_same,
    placed,
    quiet_since,
    trace_digits,
)
from agentscope.server.storage.fold import run_view
from agentscope.server.storage.rows import MOST_TEXTS, RUN_COLUMNS, is_failed

_COLUMNS = (
    *("id", *RUN_COLUMNS, "failed", "started_at", "ended_at"),
    *(
        "duration_ms",
        "step_count",
        "error_count",
        "tokens_used",
        "total_usage",
        "cost_usd",
        "agents",
        "is_root_missing",
    ),
)
_SEARCHED = ("agent_name", "id", "external_id", "user_id", "conversation_id")


class _Project:
    """The log of one project: a dictionary by session and event id, in the order received."""

    def __init__(self) -> None:
        self.log: dict[tuple[str, str], Patch] = {}
        self.batches: set[tuple[str, str]] = set()
        self.totals: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.silent_at: dict[str, float] = {}
        self.deleted: set[str] = set()


class MemoryStore:
    """A `Store` that keeps a log for each project."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._projects: defaultdict[str, _Project] = defaultdict(_Project)
        self.now = self._opened = time.time()
        self._closed = False

    def ingest(self, batch: Batch, *, project: str = DEFAULT_PROJECT) -> Future[IngestCounts]:
        future: Future[IngestCounts] = Future()
        with self._lock:
            if self._closed:
                future.set_exception(Unavailable("the store is closed"))
                return future
            future.set_result(self._ingest(batch, self._projects[project]))
        return future

    def _ingest(self, batch: Batch, of: _Project) -> IngestCounts:
        batch = placed(batch, self.now)
        if batch.heartbeat is not None:
            of.silent_at[batch.session_id] = self.now + MOST_MISSED * batch.heartbeat
        runs = {patch.run_id for patch in of.log.values()}
        again = conflicts = 0
        patches = [patch for patch in batch.patches if patch.run_id not in of.deleted]
        late = len(batch.patches) - len(patches)
        for patch in patches:
            name = patch.session_id, patch.id
            if name in of.log:
                again += 1
                conflicts += not is_same(of.log[name].body, patch.body)
            else:
                of.log[name] = patch
        if (batch.patches or batch.dropped) and (batch.session_id, batch.batch_id) not in of.batches:
            of.batches.add((batch.session_id, batch.batch_id))
            of.dropped.update(batch.dropped)
            of.dropped.update({RUN_DELETED: late} if late else {})
        of.totals.update(duplicates=again + late, conflicts=conflicts)
        new_runs = len({patch.run_id for patch in patches} - runs)
        return IngestCounts(len(patches) - again, again + late, conflicts, new_runs)

    def event(
        self, event_id: str, session_id: str | None = None, *, project: str = DEFAULT_PROJECT
    ) -> dict[str, Any] | None:
        for patch in self._patches(project):
            if patch.id == event_id and session_id in (None, patch.session_id):
                return dict(json.loads(patch.body))
        return None

    def events(self, run_id: str, *, after: str | None = None, size: int, project: str = DEFAULT_PROJECT) -> EventPage:
        start = int(after or 0)
        found: list[StoredEvent] = []
        for patch in self._patches(project, run_id)[start:]:
            size -= len(patch.body)
            if found and size < 0:
                return EventPage(found, str(start + len(found)))
            found.append(StoredEvent(patch.session_id, patch.body))
        return EventPage(found, None)

    def item_events(
        self,
        run_id: str,
        step_id: str | None,
        *,
        session_id: str | None = None,
        holding: str = "",
        most: int = sys.maxsize,
        project: str = DEFAULT_PROJECT,
    ) -> list[StoredEvent]:
        found: list[StoredEvent] = []
        for patch in self._patches(project, run_id):
            if (
                patch.step_id == step_id
                and session_id in (None, patch.session_id)
                and holding in patch.body
                and most >= 0
            ):
                found.append(StoredEvent(patch.session_id, patch.body))
                most -= len(patch.body)
        return found

    def has_run(self, run_id: str, *, project: str = DEFAULT_PROJECT) -> bool:
        return bool(self._patches(project, run_id))

    def silence(self, run_id: str, *, project: str = DEFAULT_PROJECT) -> dict[str, bool]:
        silent_at = self._projects[project].silent_at
        sessions = {patch.session_id for patch in self._patches(project, run_id)} & silent_at.keys()
        return {session: self.now >= self._opened + SETTLING and silent_at[session] <= self.now for session in sessions}

    def run_size(self, run_id: str, *, project: str = DEFAULT_PROJECT) -> int | None:
        return sum(len(patch.body) for patch in self._patches(project, run_id)) or None

    def run(self, run_id: str, *, project: str = DEFAULT_PROJECT) -> dict[str, Any] | None:
        return (
            {name: value for name, value in run.items() if name != "steps"}
            if (run := self._view(run_id, project))
            else None
        )

    def steps(self, run_id: str, query: StepQuery, *, project: str = DEFAULT_PROJECT) -> StepPage | None:
        run = self._view(run_id, project)
        if run is None:
            return None
        first = query.skip if query.after is None else query.after.position + 1
        steps = [step for step in run["steps"] if is_failed(step)] if query.failed else run["steps"]
        end, left = first, query.size
        while end < min(len(steps), first + query.limit) and (left > 0 or query.is_whole):
            left -= sum(len(event.body) for event in self.item_events(run_id, steps[end]["id"], project=project))
            end += 1
        cursor = StepCursor("", steps[end - 1]["id"], end - 1) if end < len(steps) else None
        found = [{**step, "step_index": None} for step in steps] if query.failed else steps
        return StepPage(found[first:end], cursor)

    def _view(self, run_id: str, project: str) -> dict[str, Any] | None:
        patches = self._patches(project, run_id)
        return (
            run_view(run_id, patches, self.silence(run_id, project=project), quiet_since(self.now)) if patches else None
        )

    def list_runs(self, query: RunQuery, *, project: str = DEFAULT_PROJECT) -> RunPage:
        found = []
        for run_id in {patch.run_id for patch in self._patches(project)}:
            patches = self._patches(project, run_id)
            run = run_view(run_id, patches, self.silence(run_id, project=project), quiet_since(self.now))
            times = [patch.time for patch in patches]
            cursor = RunCursor(min(run["started_at"] or min(times), max(times)), run_id)
            if _matches(run, query) and (query.after is None or cursor < query.after):
                found.append((cursor, {**{name: run[name] for name in _COLUMNS}, "tags": run["tags"][:MOST_TEXTS]}))
        found.sort(key=lambda item: item[0], reverse=True)
        page = found[: query.limit]
        return RunPage([run for _, run in page], page[-1][0] if len(found) > len(page) else None)

    def delete_runs(self, query: RunQuery, *, project: str = DEFAULT_PROJECT) -> int:
        if not query.selects():
            raise ValueError("a deletion needs a filter")
        found = {run["id"] for run in self.list_runs(query._replace(limit=10**9, after=None), project=project).runs}
        with self._lock:
            of = self._projects[project]
            of.deleted |= found
            of.log = {name: patch for name, patch in of.log.items() if patch.run_id not in found}
        return len(found)

    def health(self, *, project: str = DEFAULT_PROJECT) -> dict[str, Any]:
        with self._lock:
            of = self._projects[project]
            counts = {"events": len(of.log), "runs": len({patch.run_id for patch in of.log.values()})}
            totals = {name: of.totals[name] for name in ("duplicates", "conflicts")}
            return {
                **counts,
                "batches": len(of.batches),
                **totals,
                "dropped": bounded_reasons(of.dropped.most_common()),
            }

    def close(self) -> None:
        with self._lock:
            self._closed = True

    def _patches(self, project: str, run_id: str | None = None) -> list[Patch]:
        with self._lock:
            return [patch for patch in self._projects[project].log.values() if run_id in (None, patch.run_id)]


def _matches(run: dict[str, Any], query: RunQuery) -> bool:
    agents = [step["name"] for step in run["steps"] if step["step_type"] == "agent"]
    texts = [text.casefold() for text in (*(run[name] for name in _SEARCHED), *agents) if text]
    wanted = {field: getattr(query, field.filter) for field in FIELDS.values() if field.filter}
    digits = trace_digits(query.q)
    return (
        query.run_id in (None, run["id"])
        and all(
            value is None or value in [*_values(run, field.name), *(agents if field.name == "agent_name" else ())]
            for field, value in wanted.items()
        )
        and (query.step_status is None or (query.step_status == "failed" and any(map(is_failed, run["steps"]))))
        and (
            query.q is None
            or any(query.q.casefold() in text for text in texts)
            or (digits is not None and digits in run["id"].replace("-", "").casefold())
        )
    )


def _values(run: dict[str, Any], name: str) -> list[Any]:
    """The values of a field of a run: one, or each of a list, or that of each step."""
    value = run[name] if name in run else [step[name] for step in run["steps"]]
    return value if isinstance(value, list) else [value]
