"""A store in memory, the smallest engine that passes the conformance suite: it folds all events at every question."""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import Future
from typing import Any

from agentscope.events import FIELDS
from agentscope.protocols.agentscope.decode import Batch, Patch
from agentscope.server.storage.base import (
    MOST_MISSED,
    SETTLING,
    EventPage,
    IngestCounts,
    RunCursor,
    RunPage,
    RunQuery,
    StoredEvent,
    Unavailable,
    trace_digits,
)
from agentscope.server.storage.fold import run_view
from agentscope.server.storage.rows import MOST_TEXTS, RUN_COLUMNS

_COLUMNS = (
    *("id", *RUN_COLUMNS, "failed", "started_at", "ended_at"),
    *("duration_ms", "step_count", "error_count", "tokens_used", "cost_usd"),
)
_SEARCHED = ("agent_name", "id", "external_id", "user_id", "conversation_id")


class MemoryStore:
    """A `Store` whose log is a dictionary by event id, in the order received."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._log: dict[str, Patch] = {}
        self._batches: set[str] = set()
        self._totals: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._silent_at: dict[str, float] = {}
        self.now = 0.0
        self._closed = False

    def ingest(self, batch: Batch) -> Future[IngestCounts]:
        future: Future[IngestCounts] = Future()
        with self._lock:
            if self._closed:
                future.set_exception(Unavailable("the store is closed"))
                return future
            if batch.heartbeat is not None:
                self._silent_at[batch.session_id] = self.now + MOST_MISSED * batch.heartbeat
            runs = {patch.run_id for patch in self._log.values()}
            again = conflicts = 0
            for patch in batch.patches:
                if patch.id in self._log:
                    again += 1
                    conflicts += json.loads(self._log[patch.id].body) != json.loads(patch.body)
                else:
                    self._log[patch.id] = patch
            if (batch.patches or batch.dropped) and batch.batch_id not in self._batches:
                self._batches.add(batch.batch_id)
                self._dropped.update(batch.dropped)
            self._totals.update(duplicates=again, conflicts=conflicts)
            new_runs = len({patch.run_id for patch in batch.patches} - runs)
        future.set_result(IngestCounts(len(batch.patches) - again, again, conflicts, new_runs))
        return future

    def event(self, event_id: str) -> dict[str, Any] | None:
        with self._lock:
            patch = self._log.get(event_id)
        return None if patch is None else json.loads(patch.body)

    def events(self, run_id: str, *, after: str | None = None, size: int) -> EventPage:
        start = int(after or 0)
        found: list[StoredEvent] = []
        for patch in self._patches(run_id)[start:]:
            size -= len(patch.body)
            if found and size < 0:
                return EventPage(found, str(start + len(found)))
            found.append(StoredEvent(patch.session_id, patch.body))
        return EventPage(found, None)

    def item_events(self, run_id: str, step_id: str | None) -> list[StoredEvent]:
        patches = self._patches(run_id)
        return [StoredEvent(patch.session_id, patch.body) for patch in patches if patch.step_id == step_id]

    def has_run(self, run_id: str) -> bool:
        return bool(self._patches(run_id))

    def silence(self, run_id: str) -> dict[str, bool]:
        sessions = {patch.session_id for patch in self._patches(run_id)} & self._silent_at.keys()
        return {session: self.now >= SETTLING and self._silent_at[session] <= self.now for session in sessions}

    def run_size(self, run_id: str) -> int | None:
        return sum(len(patch.body) for patch in self._patches(run_id)) or None

    def list_runs(self, query: RunQuery) -> RunPage:
        found = []
        for run_id in {patch.run_id for patch in self._patches()}:
            patches = self._patches(run_id)
            run = run_view(run_id, patches, self.silence(run_id))
            cursor = RunCursor(run["started_at"] or min(patch.time for patch in patches), run_id)
            if _matches(run, query) and (query.after is None or cursor < query.after):
                found.append((cursor, {**{name: run[name] for name in _COLUMNS}, "tags": run["tags"][:MOST_TEXTS]}))
        found.sort(key=lambda item: item[0], reverse=True)
        page = found[: query.limit]
        return RunPage([run for _, run in page], page[-1][0] if len(found) > len(page) else None)

    def health(self) -> dict[str, Any]:
        with self._lock:
            counts = {"events": len(self._log), "runs": len({patch.run_id for patch in self._log.values()})}
            totals = {name: self._totals[name] for name in ("duplicates", "conflicts")}
            return {**counts, "batches": len(self._batches), **totals, "dropped": dict(self._dropped)}

    def close(self) -> None:
        with self._lock:
            self._closed = True

    def _patches(self, run_id: str | None = None) -> list[Patch]:
        with self._lock:
            return [patch for patch in self._log.values() if run_id in (None, patch.run_id)]


def _matches(run: dict[str, Any], query: RunQuery) -> bool:
    texts = [run[name].casefold() for name in _SEARCHED if run[name]]
    wanted = {field: getattr(query, field.filter) for field in FIELDS.values() if field.filter}
    digits = trace_digits(query.q)
    return all(value is None or value in _values(run, field.name) for field, value in wanted.items()) and (
        query.q is None
        or any(query.q.casefold() in text for text in texts)
        or (digits is not None and digits in run["id"].replace("-", "").casefold())
    )


def _values(run: dict[str, Any], name: str) -> list[Any]:
    """The values of a field of a run: one, or each of a list, or that of each step."""
    value = run[name] if name in run else [step[name] for step in run["steps"]]
    return value if isinstance(value, list) else [value]
