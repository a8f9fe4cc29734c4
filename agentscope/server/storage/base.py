"""The store interface. An engine is one package beside this module, and passes `tests/unit/server/storage/conformance.py`.

It keeps a log of events for each project, and may keep rows beside it to list runs. The rows equal the fold of the log: an
entry of `list_runs` has the values that `fold.run_view` gives for the events of that run. An engine raises
`ConfigurationError` or `Incompatible` when it is opened, `Unavailable` or `Unsupported` afterwards, and no other error.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from agentscope.errors import ConfigurationError
from agentscope.protocols.agentscope.decode import MOST_REASONS, OTHER_REASON, Batch, Patch
from agentscope.protocols.agentscope.fields import readable, time_text_of
from agentscope.protocols.json_decode import dump_plain

DEFAULT_PROJECT = "default"
"""The project of a receiver without projects."""
RUN_DELETED = "run_deleted"
"""The reason in `health` for events that came after their run had been deleted."""
MOST_MISSED = 4
"""Heartbeats that a session misses before it counts as silent."""
CLOCK_ERROR = 3600.0
"""Seconds by which a sender's clock may be ahead."""
SETTLING = 30.0
"""Seconds after the start of a store in which no session counts as silent: it could not send while the receiver was away."""


QUIET = 300.0
"""Seconds after the end of its last step in which a run whose root is not there counts as running."""


def quiet_since(now: float) -> str:
    """Return the moment `QUIET` seconds ago, in the form of `Patch.time`."""
    return time_text_of(now - QUIET)


class Unavailable(Exception):
    """The store cannot be written or read at the moment. A write that raises it promises nothing, and may be repeated."""


class Unsupported(Exception):
    """A query that this engine does not answer. The text is one sentence without its full stop."""


class Incompatible(ConfigurationError):
    """The stored data was written by a newer version, and would be damaged by this one."""


class IngestCounts(NamedTuple):
    """The result of one batch: `accepted + duplicates` is the number of its patches."""

    accepted: int
    duplicates: int
    """Events that were stored before, or whose run was deleted."""
    conflicts: int
    """Duplicates with another body than the event that came first. The first one is kept."""
    new_runs: int


def placed(batch: Batch, now: float) -> Batch:
    """Return a batch whose events are ordered no later than they came, at `now` in epoch seconds.

    An event from more than `CLOCK_ERROR` ahead would otherwise outrank every later one. Its own time is kept as `sent_time`.
    """
    latest = time_text_of(now + CLOCK_ERROR)
    if all(patch.time <= latest for patch in batch.patches):
        return batch
    received = time_text_of(now)
    patches = [patch if patch.time <= latest else _received(patch, received) for patch in batch.patches]
    return batch._replace(patches=patches)


def _received(patch: Patch, received: str) -> Patch:
    event = {**json.loads(patch.body), "time": received, "sent_time": patch.time}
    return patch._replace(time=received, fields={**patch.fields, "time": received}, body=dump_plain(event))


def is_same(body: str, other: str) -> bool:
    """Return whether two bodies, as `placed` leaves them, are the same event as it was sent."""
    return body == other or _sent(body) == _sent(other)


def _sent(body: str) -> Any:
    event = json.loads(body)
    if "sent_time" in event:
        event["time"] = event.pop("sent_time")
    return event


class StoredEvent(NamedTuple):
    """One event of the log."""

    session_id: str
    body: str
    """The event as JSON text."""

    def patch(self) -> Patch:
        """The event as a patch with an empty `body`, to save memory."""
        event = readable(json.loads(self.body))
        head = (event["id"], event["type"], event["run_id"], event.get("step_id"), event["time"])
        return Patch(*head, self.session_id, event["seq"], event, "")


class EventPage(NamedTuple):
    """A part of a run's events, in the order in which they were received."""

    events: list[StoredEvent]
    next: str | None
    """The cursor of the following page, which only the engine can read; None on the last one."""


class RunCursor(NamedTuple):
    """The last run of a page. The next page begins after it, whatever was stored meanwhile."""

    began: str
    """`started_at` of the run, or the time of its earliest event while that is unknown; at most the time of its latest event."""
    run_id: str


class RunQuery(NamedTuple):
    """The runs to list. A filter that is None matches every run."""

    limit: int = 50
    after: RunCursor | None = None
    status: str | None = None
    agent: str | None = None
    """The whole name of the run or of an agent inside it."""
    q: str | None = None
    """A part of the name of the run or of an agent inside it, or of one of the run's ids. Case does not count in ASCII letters.

    A run is found by a part of its trace id, too, as `trace_digits` tells.
    """
    user_id: str | None = None
    conversation_id: str | None = None
    tag: str | None = None
    """One of the run's tags."""
    environment: str | None = None
    release: str | None = None
    model: str | None = None
    """The model of any step of the run."""
    step_status: str | None = None
    """`failed` for runs in which any step failed. No other status of a step is looked for."""
    run_id: str | None = None
    """The whole id of the run."""

    def selects(self) -> bool:
        """Return whether there is any filter."""
        return any(value is not None for value in self[2:])


_TRACE_DIGITS = re.compile("[0-9a-fA-F]{12,32}")


def trace_digits(q: str | None) -> str | None:
    """Return a text to search for if it may be a part of a trace id, as a part of a run id without its dashes; else None."""
    return q.lower() if q is not None and _TRACE_DIGITS.fullmatch(q) else None


class RunPage(NamedTuple):
    """Runs by `RunCursor.began`, newest first. The order of runs that began at the same moment is the engine's."""

    runs: list[dict[str, Any]]
    """Each run with the fields in `rows.RUN_COLUMNS`, `failed`, `started_at`, `ended_at`, `id`, `duration_ms`, `step_count`,
    `error_count`, `tokens_used`, `total_usage`, `cost_usd`, `agents` and `is_root_missing`."""
    next: RunCursor | None
    """None on the last page."""


class StepCursor(NamedTuple):
    """The last step of a page. The next page begins after it."""

    began: str
    step_id: str
    position: int
    """Its place in the order of the steps."""


class StepQuery(NamedTuple):
    """A page of the steps of a run, ordered by start."""

    limit: int = 1000
    after: StepCursor | None = None
    skip: int = 0
    """Steps that are left out at the beginning."""
    failed: bool = False
    """Only the failed steps."""
    size: int = 16 << 20
    """Characters of the events of a page, after which it ends."""
    is_whole: bool = False
    """Steps beyond `size` come without payloads instead of on the next page."""


class StepPage(NamedTuple):
    """A part of the steps of a run."""

    steps: list[dict[str, Any]]
    """Steps as `fold.run_view` shows them; without `step_index` if only the failed ones were asked for."""
    next: StepCursor | None
    """None on the last page."""


def bounded_reasons(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the first `MOST_REASONS` counts by reason. The sum of the others is added to that of `OTHER_REASON`."""
    shown: dict[str, int] = {}
    for reason, count in counts:
        if reason not in shown and len(shown) >= MOST_REASONS:
            reason = OTHER_REASON
        shown[reason] = shown.get(reason, 0) + count
    return shown


class Store(Protocol):
    """An engine. Methods may be called from any thread, and block; only `ingest` returns at once.

    The project is the first part of every key. Runs, steps, events, sessions and batches of another project are not seen, and
    their ids may be the same.
    """

    def ingest(self, batch: Batch, *, project: str = DEFAULT_PROJECT) -> Future[IngestCounts]:
        """Store a batch. The future ends when the batch is durable, or with `Unavailable`.

        An event whose id is stored already in its session is counted and ignored. The order and the number of deliveries do
        not change the fold. Events are `placed` first. A future that is cancelled before its batch was begun stores nothing.
        """
        ...

    def event(
        self, event_id: str, session_id: str | None = None, *, project: str = DEFAULT_PROJECT
    ) -> dict[str, Any] | None:
        """Return one event of a session as it was sent, or None. Without a session, the first that any sent with this id."""
        ...

    def events(self, run_id: str, *, after: str | None = None, size: int, project: str = DEFAULT_PROJECT) -> EventPage:
        """Return the next events of a run, at least one and at most `size` characters of them if there are any.

        `after` is the `next` of an earlier page. An unknown run has no events.
        """
        ...

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
        """Return the events of one step, or of the run itself for a `step_id` of None, in the order received.

        session_id: None for the events of all sessions. holding: a text that the body of each event has. most: the characters
        of all bodies, after which further events are left out. The event that passes this bound is the last one.
        """
        ...

    def has_run(self, run_id: str, *, project: str = DEFAULT_PROJECT) -> bool:
        """Return whether any event of this run is stored. Every ingest that is done is taken into account."""
        ...

    def silence(self, run_id: str, *, project: str = DEFAULT_PROJECT) -> Mapping[str, bool]:
        """Return the sessions with events of this run that promised heartbeats, and whether each has missed `MOST_MISSED`.

        `list_runs` shows, and selects by, the status that `run_view` derives from it.
        """
        ...

    def run_size(self, run_id: str, *, project: str = DEFAULT_PROJECT) -> int | None:
        """Return the characters of all events of a run, or None for an unknown run."""
        ...

    def run(self, run_id: str, *, project: str = DEFAULT_PROJECT) -> dict[str, Any] | None:
        """Return a run as `fold.run_view` does, without its steps; None for an unknown run.

        The memory does not depend on the number of its steps and events.
        """
        ...

    def steps(self, run_id: str, query: StepQuery, *, project: str = DEFAULT_PROJECT) -> StepPage | None:
        """Return a page of the steps of a run as `fold.run_view` shows them, or None for an unknown run.

        In a run of very many steps a parent that is named by its span id may be told as unattached.
        """
        ...

    def list_runs(self, query: RunQuery, *, project: str = DEFAULT_PROJECT) -> RunPage:
        """Return one page of the runs that match. Raises `Unsupported` for a filter that the engine does not have."""
        ...

    def delete_runs(self, query: RunQuery, *, project: str = DEFAULT_PROJECT) -> int:
        """Delete the runs that match, with all their events, and return their number. `limit` and `after` do not count.

        A deleted run is gone at once and as a whole. Events of it that come later are not stored, for as long as a sender may
        repeat them: they count as duplicates, and in `health` as dropped for `RUN_DELETED`. Runs that are first stored
        meanwhile stay. Raises `ValueError` for a query without a filter.
        """
        ...

    def health(self, *, project: str = DEFAULT_PROJECT) -> dict[str, Any]:
        """Return the number of `events`, `runs`, `batches`, `duplicates` and `conflicts`, and `dropped` by reason.

        `bounded_reasons` bounds the number of reasons.
        """
        ...

    def close(self) -> None:
        """Finish every batch that was handed in, and release what the engine holds. A second call does nothing."""
        ...
