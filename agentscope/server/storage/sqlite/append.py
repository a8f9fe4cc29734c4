"""The write transaction: new events are appended, and the rows of their runs and steps brought up to date.

Everything here runs in the writer thread between BEGIN and COMMIT. A row is made of the fold of all events of its run or
step. `FoldCache` remembers the registers of the folds that were written last. Those of a run or step with many events are
in the table `folds` too, so that the time of an update does not depend on how many came before it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Any

from agentscope.events import STEP
from agentscope.protocols.agentscope.decode import Batch, Patch
from agentscope.server.storage.base import DEFAULT_PROJECT, MOST_MISSED, RUN_DELETED, IngestCounts, StoredEvent, is_same
from agentscope.server.storage.fold import root_of
from agentscope.server.storage.registers import Registers
from agentscope.server.storage.rows import StepRow, row_fields, step_row
from agentscope.server.storage.summary import root_rows

from .run_rows import Received, StepRows, insert_run, put_steps, touch_run, write_run

_MOST_FOLDS = 4096  # in the cache, with those of roots; the one that was used longest ago is forgotten first
_SAVED_EVERY = 64  # events of a run or step
_LONGEST_TEXT = 200  # characters of a text, or of all texts of a list, in a fold that is kept in the cache

# Ids are passed as one JSON list, since a statement may be limited to 999 variables.
_EVENTS_OF = "SELECT id, key FROM events WHERE project=? AND session_id=? AND id IN (SELECT value FROM json_each(?))"
_BODY_OF = "SELECT body FROM events WHERE key=?"
_RUNS_OF = "SELECT id, key FROM runs WHERE project=? AND id IN (SELECT value FROM json_each(?))"
_DELETED_OF = "SELECT run_id FROM tombstones WHERE project=? AND run_id IN (SELECT value FROM json_each(?))"
# A key is never given twice, since a reader or a deletion may still use it when its run is gone.
_LAST_KEY = """
SELECT max(coalesce(max(key), 0), (SELECT coalesce(max(run), 0) FROM deleted), (SELECT coalesce(max(run), 0) FROM last_removed))
FROM runs
"""
_STEPS_OF = "SELECT id FROM steps WHERE run=? AND id IN (SELECT value FROM json_each(?))"
_SEE_SESSION = """
INSERT INTO sessions VALUES (?,?,?) ON CONFLICT (project, id) DO UPDATE SET silent_at=excluded.silent_at
"""
_ADD_SESSION = """
INSERT INTO run_sessions VALUES (?,?,?) ON CONFLICT (run, session) DO UPDATE SET own=1 WHERE excluded.own > own
"""
_CALLS_OF = "SELECT id FROM steps WHERE run=? AND NOT root AND id IN (SELECT value FROM json_each(?))"
_ITEM_EVENTS = "SELECT session_id, body FROM events WHERE run=? AND step_id IS ? AND key>?"
# Later events of the same run have larger keys. Those of this transaction are added again when the registers are read.
_SAVE = """
INSERT OR REPLACE INTO folds
SELECT :run, :step, coalesce(max(key), 0), :registers FROM events WHERE run=:run AND step_id IS :step_id
"""


class FoldCache:
    """The folds of runs and steps that were written last, reduced to the fields of a row. For the writer thread only."""

    def __init__(self, most: int = _MOST_FOLDS) -> None:
        self._most = most
        self._folds: dict[tuple[int, str | None], Registers] = {}
        self._count = 0
        self.rows = StepRows()
        self._db: sqlite3.Connection | None = None
        self._seen: tuple[int, ...] | None = None

    def begin(self, db: sqlite3.Connection) -> None:
        """Start a transaction. The cache is cleared unless the tables are as `end` left them.

        They differ after a rollback, after another write through this or any connection, and in another file.
        """
        if self._db is not db or self._seen != _table_state(db):
            self._folds.clear()
            self._count = 0
            self.rows.clear()
            self._db = db
        self._seen = None  # an error before `end` leaves folds of events that were not written

    def end(self) -> None:
        """Remember the state of the tables. Call it after the last write of a transaction, before the commit."""
        assert self._db is not None
        self._seen = _table_state(self._db)

    def folded(
        self,
        run: int,
        step_id: str | None,
        patches: Iterable[Patch],
        is_new: bool = False,
        roots: Collection[str] | None = None,
    ) -> dict[str, Any]:
        """Return the fold of a run or one of its steps with these new patches; empty without any.

        is_new: no event of it is stored. roots: the roots of a trace that are asked for; None for all.
        """
        assert self._db is not None
        name = run, step_id
        registers = self._folds.pop(name, None)
        if registers is not None:
            self._count -= registers.size
        else:
            registers = Registers() if is_new else stored_registers(self._db, run, step_id)
        for patch in patches:
            registers.add(patch._replace(fields=row_fields(patch.fields), body=""))
        if registers.added >= _SAVED_EVERY:
            values = {"run": run, "step_id": step_id, "step": step_id or "", "registers": registers.dump()}
            self._db.execute(_SAVE, values)
            registers.added = 0
        fields = registers.fields(roots)
        is_short = all(_length(value) <= _LONGEST_TEXT for field, value in fields.items() if field != "roots")
        if fields and is_short and registers.size <= self._most:
            self._folds[name] = registers
            self._count += registers.size
            while self._count > self._most:
                self._count -= self._folds.pop(next(iter(self._folds))).size
        return fields


def stored_registers(db: sqlite3.Connection, run: int, step_id: str | None) -> Registers:
    """Return the registers of the stored events of a run or step, without payloads."""
    saved = db.execute("SELECT upto, registers FROM folds WHERE run=? AND step=?", (run, step_id or "")).fetchone()
    upto, text = saved or (0, None)
    registers = Registers() if text is None else Registers.load(text)
    for session_id, body in db.execute(_ITEM_EVENTS, (run, step_id, upto)):
        patch = StoredEvent(session_id, body).patch()
        registers.add(patch._replace(fields=row_fields(patch.fields)))
    return registers


def _length(value: Any) -> int:
    if type(value) is dict:
        return len(value)
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
    new_runs = 0
    written: dict[int, dict[str, StepRow]] = {}
    for run_id, groups in by_run.items():
        times = [patch.time for group in groups.values() for patch in group]
        first_at, last_at = min(times), max(times)
        of_run = groups.pop(None, ())
        is_new = run_id not in keys
        if is_new:
            new_runs += 1
            keys[run_id] = next_key + new_runs
        key = keys[run_id]
        known: Container[str] = ()
        received = Received(first_at, last_at, max(1, len(groups)), now)
        if is_new:
            insert_run(db, key, project, run_id, received)
        else:
            touch_run(db, key, received)
            known = {step_id for (step_id,) in db.execute(_STEPS_OF, (key, json.dumps(list(groups))))}
        rows = {
            step_id: _step_row(db, key, step_id, group, step_id in known, cache)
            for step_id, group in groups.items()
            if step_id is not None
        }
        if of_run:
            roots = {root for patch in of_run if (root := root_of(patch)) is not None}
            rows |= _root_rows(db, key, cache.folded(key, None, of_run, is_new, roots), rows)
        written[key] = rows
        cache.rows.add(key, rows, is_new)
    put_steps(db, written)
    db.executemany(_ADD_SESSION, {(keys[patch.run_id], patch.session_id, patch.step_id is None) for patch in patches})
    db.executemany(
        "INSERT INTO events (project, id, run, step_id, session_id, received_at, body) VALUES (?,?,?,?,?,?,?)",
        [
            (project, patch.id, keys[patch.run_id], patch.step_id, patch.session_id, now, patch.body)
            for patch in patches
        ],
    )
    return new_runs


def _root_rows(
    db: sqlite3.Connection, key: int, run: Mapping[str, Any], known: Container[str]
) -> Mapping[str, StepRow]:
    """Return the rows of the roots of a trace, without those that have a step of their own."""
    roots = root_rows(run)
    if not roots:
        return {}
    steps = {step for (step,) in db.execute(_CALLS_OF, (key, json.dumps(list(roots))))}
    return {span: row for span, row in roots.items() if span not in steps and span not in known}


def _step_row(
    db: sqlite3.Connection, run: int, step_id: str | None, patches: Sequence[Patch], known: bool, cache: FoldCache
) -> StepRow:
    if not known and len(patches) == 1 and patches[0].type == STEP:
        # Most steps are one event, which no other follows: not worth a place in the cache.
        return step_row(patches[0].fields)
    return step_row(cache.folded(run, step_id, patches, not known))


def write_row(db: sqlite3.Connection, run: int, step_id: str | None) -> None:
    """Make the row of a stored step or run anew; that of a run after those of its steps."""
    fields = stored_registers(db, run, step_id).fields()
    if step_id is None:
        put_steps(db, {run: _root_rows(db, run, fields, ())})
        write_run(db, run, fields, StepRows())
    elif fields:
        put_steps(db, {run: {step_id: step_row(fields)}})
