"""What a write transaction does to the tables. Everything here runs in the writer thread, between BEGIN and COMMIT."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from agentscope.events import STEP
from agentscope.protocols.agentscope.decode import Batch, Patch
from agentscope.server.storage.rows import LLM_STEP, row_fields, run_row, step_row

from .fold_cache import HotFolds

_INSERT_RUN = """
INSERT INTO runs (agent_name, status, external_id, user_id, conversation_id, source, failed, started_at, ended_at,
  tokens, key, id, first_at, began, touched_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_UPDATE_RUN = """
UPDATE runs SET agent_name=?, status=?, external_id=?, user_id=?, conversation_id=?, source=?, failed=?, started_at=?,
  ended_at=?, tokens=?, began=coalesce(?, first_at) WHERE key=?
"""
_TOUCH_RUN = """
UPDATE runs SET first_at=min(first_at, :first_at), began=coalesce(started_at, min(first_at, :first_at)), touched_at=:now
WHERE key=:key
"""
# Names travel as one JSON list: a statement may be allowed as few as 999 variables.
_EVENTS_OF = "SELECT id, key FROM events WHERE id IN (SELECT value FROM json_each(?))"
_BODY_OF = "SELECT body FROM events WHERE key=?"
_RUNS_OF = "SELECT id, key FROM runs WHERE id IN (SELECT value FROM json_each(?))"
_STEPS_OF = "SELECT id FROM steps WHERE run=? AND id IN (SELECT value FROM json_each(?))"


class Counts(NamedTuple):
    """What one batch came to: `accepted + duplicates` is the number of its patches."""

    accepted: int
    duplicates: int
    conflicts: int
    """Those duplicates whose body differs from the one that came first, which is kept."""
    new_runs: int


def write_batch(db: sqlite3.Connection, batch: Batch, now: float, hot: HotFolds | None = None) -> Counts:
    """Append what is new of a batch and bring the folds up to date. `now` is the receiver's clock in epoch seconds.

    `hot` remembers folds from one batch to the next.
    """
    hot = HotFolds() if hot is None else hot
    hot.begin(db)
    fresh, duplicates, conflicts = _sift(db, batch.patches)
    new_runs = _append(db, fresh, now, hot) if fresh else 0
    seen = db.execute("SELECT 1 FROM batches WHERE id=?", (batch.batch_id,)).fetchone()
    if seen is None:
        db.execute("INSERT INTO batches VALUES (?,?,?,?)", (batch.batch_id, now, duplicates, conflicts))
        rows = [(batch.batch_id, reason, count) for reason, count in batch.dropped.items()]
        db.executemany("INSERT INTO dropped VALUES (?,?,?)", rows)
    elif duplicates:
        change = "UPDATE batches SET duplicates=duplicates+?, conflicts=conflicts+? WHERE id=?"
        db.execute(change, (duplicates, conflicts, batch.batch_id))
    hot.end()
    return Counts(len(fresh), duplicates, conflicts, new_runs)


def patches_of(rows: Iterable[tuple[str, str]]) -> Iterator[Patch]:
    """Patches from rows of (session_id, body)."""
    for session_id, body in rows:
        event = json.loads(body)
        head = (event["id"], event["type"], event["run_id"], event.get("step_id"), event["time"])
        yield Patch(*head, session_id, event["seq"], event, body)


def _sift(db: sqlite3.Connection, patches: Sequence[Patch]) -> tuple[list[Patch], int, int]:
    """The patches whose id is new, and how many are not, and how many of those differ from the first."""
    fresh: dict[str, Patch] = {}
    again = conflicts = 0
    stored: dict[str, int] = dict(db.execute(_EVENTS_OF, (json.dumps([patch.id for patch in patches]),)))
    for patch in patches:
        if patch.id in stored:  # read one by one, since they may be large
            first = db.execute(_BODY_OF, (stored[patch.id],)).fetchone()[0]
        elif patch.id in fresh:
            first = fresh[patch.id].body
        else:
            fresh[patch.id] = patch
            continue
        again += 1
        conflicts += patch.body != first and json.loads(patch.body) != json.loads(first)
    return list(fresh.values()), again, conflicts


def _append(db: sqlite3.Connection, patches: Sequence[Patch], now: float, hot: HotFolds) -> int:
    by_run: dict[str, dict[str | None, list[Patch]]] = {}
    for patch in patches:
        by_run.setdefault(patch.run_id, {}).setdefault(patch.step_id, []).append(patch)
    keys: dict[str, int] = dict(db.execute(_RUNS_OF, (json.dumps(list(by_run)),)))
    next_key = db.execute("SELECT coalesce(max(key), 0) FROM runs").fetchone()[0]
    new_runs: list[tuple[Any, ...]] = []
    steps: list[tuple[Any, ...]] = []
    for run_id, groups in by_run.items():
        first_at = min(patch.time for group in groups.values() for patch in group)
        of_run = groups.pop(None, ())
        key = keys.get(run_id)
        if key is None:
            next_key += 1
            key = keys[run_id] = next_key
            row = run_row(hot.folded(key, None, of_run, None) if of_run else {})
            new_runs.append((*row, key, run_id, first_at, row.started_at or first_at, now))
            known: Container[str] = ()
        else:
            _update_run(db, key, of_run, first_at, now, hot)
            known = {step_id for (step_id,) in db.execute(_STEPS_OF, (key, json.dumps(list(groups))))}
        for step_id, group in groups.items():
            steps.append((key, step_id, *_step(db, key, step_id, group, step_id in known, hot)))
    db.executemany(_INSERT_RUN, new_runs)
    db.executemany("INSERT OR REPLACE INTO steps VALUES (?,?,?,?,?)", steps)
    db.executemany(
        "INSERT INTO events (id, run, step_id, session_id, received_at, body) VALUES (?,?,?,?,?,?)",
        [(patch.id, keys[patch.run_id], patch.step_id, patch.session_id, now, patch.body) for patch in patches],
    )
    return len(new_runs)


def _update_run(
    db: sqlite3.Connection, key: int, patches: Sequence[Patch], first_at: str, now: float, hot: HotFolds
) -> None:
    db.execute(_TOUCH_RUN, {"first_at": first_at, "now": now, "key": key})
    if patches:
        row = run_row(hot.folded(key, None, patches, lambda: _stored(db, key, None)))
        db.execute(_UPDATE_RUN, (*row, row.started_at, key))


def _step(
    db: sqlite3.Connection, run: int, step_id: str | None, patches: Sequence[Patch], known: bool, hot: HotFolds
) -> tuple[bool, bool, int | None]:
    """What the table keeps of a step: whether it is one of an LLM, whether it failed, and its tokens."""
    if not known and len(patches) == 1 and patches[0].type == STEP:
        row = step_row(patches[0].fields)  # most steps come whole, and nothing ever follows
    else:
        row = step_row(hot.folded(run, step_id, patches, (lambda: _stored(db, run, step_id)) if known else None))
    return row.step_type == LLM_STEP, row.failed, row.tokens


def _stored(db: sqlite3.Connection, run: int, step_id: str | None) -> Iterator[Patch]:
    sql = "SELECT session_id, body FROM events WHERE run=? AND step_id IS ?"
    for patch in patches_of(db.execute(sql, (run, step_id))):
        yield patch._replace(fields=row_fields(patch.fields), body="")  # many may have come, each with a large payload
