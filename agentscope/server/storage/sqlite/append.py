"""The write transaction: new events are appended, and the rows of their runs and steps brought up to date.

Everything here runs in the writer thread between BEGIN and COMMIT. A row is made of the fold of all events of its run or
step. `FoldCache` remembers the folds that were written last, because most events come after all others of their step: the
fold is then extended, and nothing has to be read back.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from agentscope.events import STEP
from agentscope.protocols.agentscope.decode import Batch, Patch
from agentscope.server.storage.base import DEFAULT_PROJECT, MOST_MISSED, RUN_DELETED, IngestCounts, StoredEvent, is_same
from agentscope.server.storage.fold import extend, fold, place
from agentscope.server.storage.rows import (
    LLM_STEP,
    MOST_TEXTS,
    RUN_COLUMNS,
    StepRow,
    row_fields,
    run_row,
    step_row,
)

_MOST_FOLDS = 4096  # in the cache; the one that was used longest ago is forgotten first
_LONGEST_TEXT = 200  # characters of a text, or of all texts of a list, in a fold that is kept in the cache

_OF_ROW = (*RUN_COLUMNS, "failed", "started_at", "ended_at", "tokens", "more_tags")
_OF_RUN = (*_OF_ROW, "key", "project", "id", "first_at", "last_at", "began", "touched_at")
_INSERT_RUN = f"INSERT INTO runs ({', '.join(_OF_RUN)}) VALUES ({', '.join('?' * len(_OF_RUN))})"  # noqa: S608 - constants
_UPDATE_RUN = f"UPDATE runs SET {'=?, '.join(_OF_ROW)}=?, began=min(coalesce(?, first_at), last_at) WHERE key=?"  # noqa: S608 - constants
_OF_STEP = ("llm", "failed", "tokens", "model", "cost")
_PUT_STEP = f"INSERT OR REPLACE INTO steps (run, id, {', '.join(_OF_STEP)}) VALUES (?,?,?,?,?,?,?)"  # noqa: S608 - constants
_UPDATE_STEP = f"UPDATE steps SET {'=?, '.join(_OF_STEP)}=? WHERE run=? AND id=?"  # noqa: S608 - constants
_TOUCH_RUN = """
UPDATE runs SET first_at=min(first_at, :first_at), last_at=max(last_at, :last_at),
  began=min(coalesce(started_at, min(first_at, :first_at)), max(last_at, :last_at)), touched_at=:now
WHERE key=:key
"""
# Ids are passed as one JSON list, since a statement may be limited to 999 variables.
_EVENTS_OF = "SELECT id, key FROM events WHERE project=? AND session_id=? AND id IN (SELECT value FROM json_each(?))"
_BODY_OF = "SELECT body FROM events WHERE key=?"
_RUNS_OF = "SELECT id, key FROM runs WHERE project=? AND id IN (SELECT value FROM json_each(?))"
_DELETED_OF = "SELECT run_id FROM tombstones WHERE project=? AND run_id IN (SELECT value FROM json_each(?))"
_LAST_KEY = "SELECT max(coalesce(max(key), 0), (SELECT coalesce(max(run), 0) FROM deleted)) FROM runs"
_STEPS_OF = "SELECT id FROM steps WHERE run=? AND id IN (SELECT value FROM json_each(?))"
_SEE_SESSION = """
INSERT INTO sessions VALUES (?,?,?) ON CONFLICT (project, id) DO UPDATE SET silent_at=excluded.silent_at
"""
_ADD_SESSION = """
INSERT INTO run_sessions VALUES (?,?,?) ON CONFLICT (run, session) DO UPDATE SET own=1 WHERE excluded.own > own
"""
_ITEM_EVENTS = "SELECT session_id, body FROM events WHERE run=? AND step_id IS ?"


class _CachedFold(NamedTuple):
    last: tuple[str, str, int, str]
    """The place of the last patch in the fold."""
    fields: dict[str, Any]


class FoldCache:
    """The folds of runs and steps that were written last, reduced to the fields of a row. For the writer thread only."""

    def __init__(self, most: int = _MOST_FOLDS) -> None:
        self._most = most
        self._folds: dict[tuple[int, str | None], _CachedFold] = {}
        self._db: sqlite3.Connection | None = None
        self._seen: tuple[int, ...] | None = None

    def begin(self, db: sqlite3.Connection) -> None:
        """Start a transaction. The cache is cleared unless the tables are as `end` left them.

        They differ after a rollback, after another write through this or any connection, and in another file.
        """
        if self._db is not db or self._seen != _table_state(db):
            self._folds.clear()
            self._db = db
        self._seen = None  # an error before `end` leaves folds of events that were not written

    def end(self) -> None:
        """Remember the state of the tables. Call it after the last write of a transaction, before the commit."""
        assert self._db is not None
        self._seen = _table_state(self._db)

    def folded(
        self, run: int, step_id: str | None, patches: Iterable[Patch], stored: Callable[[], Iterable[Patch]] | None
    ) -> dict[str, Any]:
        """Return the fold of a run or one of its steps with these new patches.

        `stored` reads the earlier patches where the cache does not suffice; None means that there are none.
        """
        name = run, step_id
        cached = self._folds.pop(name, None)
        fresh = sorted((patch._replace(fields=row_fields(patch.fields), body="") for patch in patches), key=place)
        if cached is not None and place(fresh[0]) > cached.last:
            fields, last = cached.fields, place(fresh[-1])
            extend(fields, fresh)
        else:
            together = [*stored(), *fresh] if stored is not None else fresh
            fields, last = fold(together), max(map(place, together))
        if all(_length(value) <= _LONGEST_TEXT for value in fields.values()):
            if len(self._folds) >= self._most:
                del self._folds[next(iter(self._folds))]
            self._folds[name] = _CachedFold(last, fields)
        return fields


def _length(value: Any) -> int:
    return len(value) if type(value) is str else sum(map(len, value)) if type(value) is list else 0


def _table_state(db: sqlite3.Connection) -> tuple[int, ...]:
    """Return a value that changes with each commit of another connection, each change through this one, and each rollback."""
    version = db.execute("PRAGMA data_version").fetchone()[0]
    newest = db.execute("SELECT coalesce(max(key), 0) FROM events").fetchone()[0]
    return version, db.total_changes, newest


def write_batch(
    db: sqlite3.Connection, batch: Batch, now: float, cache: FoldCache | None = None, *, project: str = DEFAULT_PROJECT
) -> IngestCounts:
    """Append the new events of a batch and update their rows. `now` is when it was received, in epoch seconds."""
    cache = FoldCache() if cache is None else cache
    cache.begin(db)
    if batch.heartbeat is not None:
        db.execute(_SEE_SESSION, (project, batch.session_id, now + MOST_MISSED * batch.heartbeat))
    if not (batch.patches or batch.dropped):  # a heartbeat
        cache.end()
        return IngestCounts(0, 0, 0, 0)
    patches = _without_deleted_runs(db, project, batch.patches)
    late = len(batch.patches) - len(patches)
    fresh, duplicates, conflicts = _new_patches(db, project, patches)
    duplicates += late
    new_runs = _append(db, project, fresh, now, cache) if fresh else 0
    name = project, batch.session_id, batch.batch_id
    seen = db.execute("SELECT key FROM batches WHERE project=? AND session_id=? AND id=?", name).fetchone()
    if seen is None:
        added = "INSERT INTO batches (project, session_id, id, received_at, duplicates, conflicts) VALUES (?,?,?,?,?,?)"
        key = db.execute(added, (*name, now, duplicates, conflicts)).lastrowid
        dropped = {**batch.dropped, **({RUN_DELETED: batch.dropped.get(RUN_DELETED, 0) + late} if late else {})}
        rows = [(key, reason, count) for reason, count in dropped.items()]
        db.executemany("INSERT INTO dropped VALUES (?,?,?)", rows)
    elif duplicates:
        change = "UPDATE batches SET duplicates=duplicates+?, conflicts=conflicts+? WHERE key=?"
        db.execute(change, (duplicates, conflicts, *seen))
    cache.end()
    return IngestCounts(len(fresh), duplicates, conflicts, new_runs)


def _without_deleted_runs(db: sqlite3.Connection, project: str, patches: list[Patch]) -> list[Patch]:
    runs = json.dumps([*{patch.run_id for patch in patches}])
    deleted = {run_id for (run_id,) in db.execute(_DELETED_OF, (project, runs))}
    return [patch for patch in patches if patch.run_id not in deleted] if deleted else patches


def _new_patches(db: sqlite3.Connection, project: str, patches: Sequence[Patch]) -> tuple[list[Patch], int, int]:
    """Return the patches with a new id, the number of the others, and how many of those differ from the first."""
    fresh: dict[tuple[str, str], Patch] = {}
    again = conflicts = 0
    ids: dict[str, list[str]] = {}
    for patch in patches:
        ids.setdefault(patch.session_id, []).append(patch.id)
    stored = {
        (session, id_): key
        for session, of_session in ids.items()
        for id_, key in db.execute(_EVENTS_OF, (project, session, json.dumps(of_session)))
    }
    for patch in patches:
        name = patch.session_id, patch.id
        if name in stored:  # bodies are read one by one, since they may be large
            first = db.execute(_BODY_OF, (stored[name],)).fetchone()[0]
        elif name in fresh:
            first = fresh[name].body
        else:
            fresh[name] = patch
            continue
        again += 1
        conflicts += not is_same(patch.body, first)
    return list(fresh.values()), again, conflicts


def _append(db: sqlite3.Connection, project: str, patches: Sequence[Patch], now: float, cache: FoldCache) -> int:
    """Insert events and bring the rows of their runs and steps up to date. Returns the number of new runs."""
    by_run: dict[str, dict[str | None, list[Patch]]] = {}
    for patch in patches:
        by_run.setdefault(patch.run_id, {}).setdefault(patch.step_id, []).append(patch)
    keys: dict[str, int] = dict(db.execute(_RUNS_OF, (project, json.dumps(list(by_run)))))
    next_key = db.execute(_LAST_KEY).fetchone()[0]
    new_runs: list[tuple[Any, ...]] = []
    steps: list[tuple[Any, ...]] = []
    for run_id, groups in by_run.items():
        times = [patch.time for group in groups.values() for patch in group]
        first_at, last_at = min(times), max(times)
        of_run = groups.pop(None, ())
        key = keys.get(run_id)
        if key is None:
            next_key += 1
            key = keys[run_id] = next_key
            row = run_row(cache.folded(key, None, of_run, None) if of_run else {})
            new_runs.append(
                (
                    *_values(row),
                    key,
                    project,
                    run_id,
                    first_at,
                    last_at,
                    min(row["started_at"] or first_at, last_at),
                    now,
                )
            )
            known: Container[str] = ()
        else:
            _update_run(db, key, of_run, first_at, last_at, now, cache)
            known = {step_id for (step_id,) in db.execute(_STEPS_OF, (key, json.dumps(list(groups))))}
        for step_id, group in groups.items():
            steps.append((key, step_id, *_columns(_step_row(db, key, step_id, group, step_id in known, cache))))
    db.executemany(_INSERT_RUN, new_runs)
    db.executemany(_PUT_STEP, steps)
    db.executemany(_ADD_SESSION, {(keys[patch.run_id], patch.session_id, patch.step_id is None) for patch in patches})
    db.executemany(
        "INSERT INTO events (project, id, run, step_id, session_id, received_at, body) VALUES (?,?,?,?,?,?,?)",
        [
            (project, patch.id, keys[patch.run_id], patch.step_id, patch.session_id, now, patch.body)
            for patch in patches
        ],
    )
    return len(new_runs)


def _update_run(
    db: sqlite3.Connection,
    key: int,
    patches: Sequence[Patch],
    first_at: str,
    last_at: str,
    now: float,
    cache: FoldCache,
) -> None:
    db.execute(_TOUCH_RUN, {"first_at": first_at, "last_at": last_at, "now": now, "key": key})
    if patches:
        row = run_row(cache.folded(key, None, patches, lambda: _stored(db, key, None)))
        db.execute(_UPDATE_RUN, (*_values(row), row["started_at"], key))


def _step_row(
    db: sqlite3.Connection, run: int, step_id: str | None, patches: Sequence[Patch], known: bool, cache: FoldCache
) -> StepRow:
    if not known and len(patches) == 1 and patches[0].type == STEP:
        # Most steps are one event, which no other follows: not worth a place in the cache.
        return step_row(patches[0].fields)
    return step_row(cache.folded(run, step_id, patches, (lambda: _stored(db, run, step_id)) if known else None))


def _columns(row: StepRow) -> tuple[Any, ...]:
    """Return the values of `_OF_STEP`."""
    return row.step_type == LLM_STEP, row.failed, row.tokens, row.model, row.cost


def _values(row: dict[str, Any]) -> Iterator[Any]:
    """Yield the values of `_OF_ROW`. A list is stored as JSON, an empty one as NULL."""
    tags = row["tags"]
    for value in {**row, "tags": tags[:MOST_TEXTS], "more_tags": tags[MOST_TEXTS:]}.values():
        yield (json.dumps(value) if value else None) if isinstance(value, list) else value


def _stored(db: sqlite3.Connection, run: int, step_id: str | None) -> Iterator[Patch]:
    """Yield the stored patches of a run or step without their payloads, which together may be large."""
    for row in db.execute(_ITEM_EVENTS, (run, step_id)):
        patch = StoredEvent(*row).patch()
        yield patch._replace(fields=row_fields(patch.fields))


def write_row(db: sqlite3.Connection, run: int, step_id: str | None) -> None:
    """Make the row of a stored run or step anew."""
    patches = list(_stored(db, run, step_id))
    if not patches:  # a run of which only steps have come
        return
    if step_id is None:
        row = run_row(fold(patches))
        db.execute(_UPDATE_RUN, (*_values(row), row["started_at"], run))
    else:
        db.execute(_UPDATE_STEP, (*_columns(step_row(fold(patches))), run, step_id))
