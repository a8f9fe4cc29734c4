"""The SQLite store: events, and the rows of their runs and steps, in one file with one writer and short readers."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from agentscope.events import RUN_FIELDS, STEP_FIELDS, TEXTS, Field
from agentscope.protocols.agentscope.decode import Batch
from agentscope.server.clock import Clock
from agentscope.server.storage.base import (
    DEFAULT_PROJECT,
    SETTLING,
    EventPage,
    IngestCounts,
    RunCursor,
    RunPage,
    RunQuery,
    StepPage,
    StepQuery,
    StoredEvent,
    Unavailable,
    bounded_reasons,
    placed,
    quiet_since,
    trace_digits,
)
from agentscope.server.storage.rows import INTERRUPTED, RUN_COLUMNS, duration_ms

from .append import FoldCache, write_batch
from .refresh import Refresher, is_behind, is_due
from .retention import Sweeper, delete_runs
from .schema import is_corrupt, open_reader, upgrade_rows, verify
from .views import run_head, steps_page
from .writer import Writer

READ_SECONDS = 5.0
"""The longest read in seconds. A reader holds the write-ahead log back, so that a longer one is interrupted."""

_REFRESH_SECONDS = 0.1  # for which a batch waits for rows that are made anew
_MOST_EVENTS = 2048  # of one page
_MOST_DELETED = 1000  # runs of one transaction
_COLUMNS = ("id", *RUN_COLUMNS, "failed", "started_at", "ended_at")
_TOLD = ("step_count", "failed_steps", "tokens", "usage", "cost", "agents", "rootless")
_TEXT_LISTS = tuple(name for name in RUN_COLUMNS if RUN_FIELDS[name].type == TEXTS)


def _condition(field: Field, of_step: bool) -> str:
    """Write the SQL condition of a filter. It is void while its parameter is null."""
    if of_step:
        test = f"EXISTS (SELECT 1 FROM steps WHERE run = runs.key AND {field.name} = :{field.filter})"  # noqa: S608 - constants
    elif field.type == TEXTS:
        # The names are those of the table of fields.
        both = f"SELECT value FROM json_each({field.name}) UNION ALL SELECT value FROM json_each(more_{field.name})"  # noqa: S608
        test = f":{field.filter} IN ({both})"
    else:
        test = f"{field.name} = :{field.filter}"
    return f"(:{field.filter} IS NULL OR {test})"


_FILTERS = {
    field.filter: _condition(field, of_step)
    for of_step, fields in ((False, RUN_FIELDS), (True, STEP_FIELDS))
    for field in fields.values()
    if field.filter and (not of_step or field.name not in RUN_FIELDS)
}
# A session without a row in `sessions` has promised no heartbeats.
_SILENCE = """
SELECT session, silent_at <= :now FROM run_sessions JOIN sessions ON project = :project AND id = session
WHERE run = (SELECT key FROM runs WHERE project = :project AND id = :run_id)
"""
_IS_ALIVE = """
SELECT 1 FROM run_sessions LEFT JOIN sessions ON sessions.project = runs.project AND sessions.id = session
WHERE run = runs.key AND (silent_at > :now OR (own AND silent_at IS NULL))
"""
_STATUS = f"""
CASE WHEN settles > :quiet THEN 'running'
WHEN status = 'running' AND EXISTS (SELECT 1 FROM run_sessions WHERE run = runs.key AND own) AND NOT EXISTS ({_IS_ALIVE})
THEN '{INTERRUPTED}' ELSE status END
"""  # noqa: S608 - constants of this module
_FILTERS["status"] = f"(:status IS NULL OR {_STATUS} = :status)"
_FILTERS["step_status"] = "(:step_status IS NULL OR (:step_status = 'failed' AND failed_steps > 0))"
_AGENTS = "SELECT 1 FROM steps WHERE run = runs.key AND type = 'agent' AND name"
_FILTERS["agent"] = f"(:agent IS NULL OR agent_name = :agent OR EXISTS ({_AGENTS} = :agent))"
_MATCHES = f"""
project = :project AND (:id IS NULL OR id = :id) AND {" AND ".join(_FILTERS.values())}
  AND (:q IS NULL OR agent_name LIKE :q ESCAPE '\\' OR id LIKE :q ESCAPE '\\' OR external_id LIKE :q ESCAPE '\\'
       OR user_id LIKE :q ESCAPE '\\' OR conversation_id LIKE :q ESCAPE '\\' OR replace(id, '-', '') LIKE :digits
       OR EXISTS ({_AGENTS} LIKE :q ESCAPE '\\'))
"""
# Of runs that began together the one received last comes first.
_LIST = f"""
SELECT key, began, {", ".join(_TOLD)}, {", ".join(_STATUS if name == "status" else name for name in _COLUMNS)}
FROM runs
WHERE {_MATCHES}
  AND (:began IS NULL OR (began, key) < (:began, coalesce((SELECT key FROM runs WHERE project=:project AND id=:run_id), 0)))
ORDER BY began DESC, key DESC LIMIT :limit
"""  # noqa: S608 - a constant of this module
_IDS = (
    f"SELECT key, id FROM runs WHERE {_MATCHES} AND key > :last AND key <= :newest ORDER BY key LIMIT {_MOST_DELETED}"  # noqa: S608 - constants
)
_KEYS = "SELECT key FROM runs WHERE project=? AND id IN (SELECT value FROM json_each(?))"
_OF_RUN = "run=(SELECT key FROM runs WHERE project=? AND id=?)"
_SIZE = f"SELECT sum(length(body)) FROM events WHERE {_OF_RUN}"  # noqa: S608 - a constant of this module
_ITEM_EVENTS = """
SELECT session_id, body FROM events
WHERE run=(SELECT key FROM runs WHERE project=:project AND id=:run_id) AND step_id IS :step_id
  AND (:session IS NULL OR session_id=:session) AND (:holding='' OR instr(body, :holding)) ORDER BY key
"""
_EVENT = """
SELECT body FROM events WHERE project=:project AND id=:id AND (:session IS NULL OR session_id=:session) ORDER BY key LIMIT 1
"""
_COUNTS = """
SELECT (SELECT count(*) FROM events WHERE project=:project)
    - (SELECT count(*) FROM events WHERE run IN (SELECT run FROM deleted WHERE project=:project)),
  (SELECT count(*) FROM runs WHERE project=:project),
  count(*), coalesce(sum(duplicates), 0), coalesce(sum(conflicts), 0) FROM batches WHERE project=:project
"""
# total() is a float and never overflows, whatever was stored.
_DROPPED = """
SELECT reason, CAST(min(total(count), 9e15) AS INTEGER) AS events FROM dropped JOIN batches ON batches.key = batch
WHERE project=:project GROUP BY reason ORDER BY events DESC, reason
"""
# The inner query reads an index only, so that the bodies of the events that follow the page stay unread.
_EVENTS = f"""
SELECT key, session_id, body FROM events
WHERE key IN (SELECT key FROM events WHERE {_OF_RUN} AND key>? ORDER BY key LIMIT ?) ORDER BY key
"""  # noqa: S608 - a constant of this module


class SQLiteStore:
    """A `Store` in the file `path`, which is made where there is none; None uses a temporary file that `close` removes.

    With `retention_days`, runs that have received nothing for that many days are deleted. Raises `ConfigurationError` for a
    database of another application, `Incompatible` for one of a newer version.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, retention_days: float | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="agentscope-") if path is None else None
        self.path = Path(self._temporary.name, "runs.db") if self._temporary is not None else Path(path or "")
        self._now: Callable[[], float] = Clock()
        self._sweep = Sweeper(None if retention_days is None else retention_days * 86400, self._now)
        self._cache = FoldCache()
        self._opened_at = self._now()
        try:
            self._refresher = Refresher(self._cache)
            self._writer = Writer(self.path, idle=lambda db: upgrade_rows(db) or self._refresher(db) or self._sweep(db))
        except BaseException:
            self._remove_temporary()
            raise

    def ingest(self, batch: Batch, *, project: str = DEFAULT_PROJECT) -> Future[IngestCounts]:
        now = self._now()
        batch = placed(batch, now)
        return self._writer.submit(lambda db: write_batch(db, batch, now, self._cache, project=project))

    def event(
        self, event_id: str, session_id: str | None = None, *, project: str = DEFAULT_PROJECT
    ) -> dict[str, Any] | None:
        with self._reading() as db:
            row = db.execute(_EVENT, {"project": project, "session": session_id, "id": event_id}).fetchone()
        return None if row is None else json.loads(row[0])

    def events(self, run_id: str, *, after: str | None = None, size: int, project: str = DEFAULT_PROJECT) -> EventPage:
        found: list[StoredEvent] = []
        last = int(after or 0)
        with self._reading() as db:
            for key, session_id, body in db.execute(_EVENTS, (project, run_id, last, _MOST_EVENTS)):
                size -= len(body)
                if found and size < 0:
                    return EventPage(found, str(last))
                found.append(StoredEvent(session_id, body))
                last = key
        return EventPage(found, str(last) if len(found) == _MOST_EVENTS else None)

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
        values = {"project": project, "run_id": run_id, "step_id": step_id, "session": session_id, "holding": holding}
        with self._reading() as db:
            for row in db.execute(_ITEM_EVENTS, values):
                found.append(StoredEvent(*row))
                most -= len(found[-1].body)
                if most < 0:
                    break
        return found

    def has_run(self, run_id: str, *, project: str = DEFAULT_PROJECT) -> bool:
        with self._reading() as db:
            known = db.execute("SELECT 1 FROM runs WHERE project=? AND id=?", (project, run_id)).fetchone()
        return known is not None

    def _silent_until(self) -> float:
        """Return the moment up to which `silent_at` means silence: now, or the beginning of time soon after the start."""
        now = self._now()
        return now if now >= self._opened_at + SETTLING else 0.0

    def silence(self, run_id: str, *, project: str = DEFAULT_PROJECT) -> dict[str, bool]:
        values = {"now": self._silent_until(), "project": project, "run_id": run_id}
        with self._reading() as db:
            return {session: bool(silent) for session, silent in db.execute(_SILENCE, values)}

    def run_size(self, run_id: str, *, project: str = DEFAULT_PROJECT) -> int | None:
        with self._reading() as db:
            size: int | None = db.execute(_SIZE, (project, run_id)).fetchone()[0]
        return size

    def run(self, run_id: str, *, project: str = DEFAULT_PROJECT) -> dict[str, Any] | None:
        found = self.list_runs(RunQuery(1, run_id=run_id), project=project).runs
        return run_head(self._reading, project, found[0]) if found else None

    def steps(self, run_id: str, query: StepQuery, *, project: str = DEFAULT_PROJECT) -> StepPage | None:
        return steps_page(self._reading, project, run_id, query, self.silence(run_id, project=project))

    def list_runs(self, query: RunQuery, *, project: str = DEFAULT_PROJECT) -> RunPage:
        self._refresh()
        values = self._values(query, project)
        with self._reading() as db:
            rows = db.execute(_LIST, values).fetchall()
            more = len(rows) > query.limit
            rows = rows[: query.limit]
        runs = [_listed(row[2:]) for row in rows]
        return RunPage(runs, RunCursor(rows[-1][1], runs[-1]["id"]) if more else None)

    def _refresh(self) -> None:
        """Have the rows of runs made anew that are due, before runs are selected by them. Batches are stored in between."""
        end = time.monotonic() + READ_SECONDS
        is_wanted = is_behind
        with suppress(Unavailable, FutureTimeout):  # a full disk, or a busy writer: the rows are as they were
            while (left := end - time.monotonic()) > 0:
                with self._reading() as db:
                    if not is_wanted(db):
                        return
                self._writer.submit(partial(self._refresher.refresh, seconds=_REFRESH_SECONDS)).result(left)
                is_wanted = is_due

    def _values(self, query: RunQuery, project: str) -> dict[str, Any]:
        """Return the parameters of `_LIST`."""
        began, run_id = query.after or (None, None)
        values = {name: getattr(query, name) for name in _FILTERS}
        values.update(began=began, run_id=run_id, q=_pattern(query.q), digits=_pattern(trace_digits(query.q)))
        values.update(id=query.run_id, limit=query.limit + 1, now=self._silent_until(), project=project)
        return {**values, "quiet": quiet_since(self._now())}

    def delete_runs(self, query: RunQuery, *, project: str = DEFAULT_PROJECT) -> int:
        if not query.selects():
            raise ValueError("a deletion needs a filter")
        self._refresh()
        values = self._values(query, project)
        with self._reading() as db:
            values["newest"] = db.execute("SELECT coalesce(max(key), 0) FROM runs").fetchone()[0]
        values["last"] = deleted = 0
        while True:
            with self._reading() as db:
                found = db.execute(_IDS, values).fetchall()
            if not found:
                return deleted
            values["last"] = found[-1][0]
            deleted += self._writer.submit(partial(self._delete, project, [run_id for _, run_id in found])).result()

    def _delete(self, project: str, run_ids: Sequence[str], db: sqlite3.Connection) -> int:
        self._sweep.hasten()
        # By their ids: the file may be another than the one in which they were found.
        keys = [key for (key,) in db.execute(_KEYS, (project, json.dumps(run_ids)))]
        return delete_runs(db, keys, self._now())

    def health(self, *, project: str = DEFAULT_PROJECT) -> dict[str, Any]:
        with self._reading() as db:
            counts = db.execute(_COUNTS, {"project": project}).fetchone()
            dropped = bounded_reasons(db.execute(_DROPPED, {"project": project}))
        names = ("events", "runs", "batches", "duplicates", "conflicts")
        return {**dict(zip(names, counts, strict=True)), "dropped": dropped}

    def close(self) -> None:
        self._writer.close()
        self._remove_temporary()

    def _remove_temporary(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Open a read transaction of its own for a block. Raises `Unavailable`."""
        end = time.monotonic() + READ_SECONDS
        try:
            db = open_reader(self.path)
            try:
                db.set_progress_handler(lambda: time.monotonic() > end, 20_000)
                db.execute("BEGIN")
                yield db
            finally:
                db.close()
        except sqlite3.DatabaseError as problem:
            if is_corrupt(problem):
                self._writer.submit(verify)  # the writer puts a file aside that is broken indeed
            raise Unavailable(f"the database cannot be read: {problem}") from problem


def _listed(row: Sequence[Any]) -> dict[str, Any]:
    """Make an entry of `list_runs` of a row."""
    told = dict(zip(_TOLD, row, strict=False))
    run = dict(zip(_COLUMNS, row[len(_TOLD) :], strict=True))
    return {
        **run,
        **{name: json.loads(run[name] or "[]") for name in _TEXT_LISTS},
        "failed": bool(run["failed"]),
        "duration_ms": duration_ms(run["started_at"], run["ended_at"]),
        "step_count": told["step_count"] or 0,
        "error_count": told["failed_steps"] or run["failed"],
        "tokens_used": told["tokens"],
        "total_usage": told["usage"] and json.loads(told["usage"]),
        "cost_usd": told["cost"],
        "agents": json.loads(told["agents"] or "[]"),
        "is_root_missing": bool(told["rootless"]),
    }


def _pattern(text: str | None) -> str | None:
    """Write the LIKE pattern for a part of a text."""
    return None if text is None else "%" + re.sub(r"([\\%_])", r"\\\1", text) + "%"
