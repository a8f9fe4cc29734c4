"""Deletion: a run disappears at once, and its events are removed in short transactions between those of the ingest."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection

from .schema import transaction

TOMBSTONES_KEPT = 30 * 86400.0
"""Seconds for which events of a deleted run are refused. A spool may hold events for as long."""
_RUNS = 500  # of one transaction
_EVENTS = 200  # of one transaction
_STEPS = 2000  # of one transaction
_PAGES = 256  # given back to the file system at a time
_PAUSE = 60.0  # seconds between looks, while there is nothing to do
_YOUNGEST = 600.0  # seconds; a run that received something since is never deleted by its age
_BATCHES_KEPT = 30 * 86400.0  # seconds that batch ids are remembered, at the least

_KEYS = "(SELECT value FROM json_each(:keys))"
# The constants of this module are no input.
_ADD_TOMBSTONES = f"INSERT OR REPLACE INTO tombstones SELECT project, id, :now FROM runs WHERE key IN {_KEYS}"  # noqa: S608 - a constant
_QUEUE_REMOVAL = f"INSERT INTO deleted SELECT key, project FROM runs WHERE key IN {_KEYS}"  # noqa: S608 - a constant
_DELETE_RUNS = f"DELETE FROM runs WHERE key IN {_KEYS}"  # noqa: S608 - a constant
_OLD_RUNS = "SELECT key FROM runs WHERE touched_at<? ORDER BY touched_at LIMIT ?"
_KEEP_KEY = (
    "INSERT INTO last_removed VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET run=max(last_removed.run, excluded.run)"
)
_REMOVE_STEP_EVENTS = (
    "DELETE FROM events WHERE key IN (SELECT key FROM events WHERE run=:run AND step_id>'' LIMIT :most)"
)
_REMOVE_EVENTS = "DELETE FROM events WHERE key IN (SELECT key FROM events WHERE run=:run LIMIT :most)"
_REMOVE_STEPS = "DELETE FROM steps WHERE run=:run AND id IN (SELECT id FROM steps WHERE run=:run LIMIT :most)"


def delete_runs(db: sqlite3.Connection, keys: Collection[int], now: float) -> int:
    """Delete the runs with these keys, as far as they are there. Returns their number.

    They are gone with this transaction. The `Sweeper` removes their events later.
    """
    values = {"keys": json.dumps([*keys]), "now": now}
    db.execute(_ADD_TOMBSTONES, values)
    db.execute(_QUEUE_REMOVAL, values)
    return db.execute(_DELETE_RUNS, values).rowcount


class Sweeper:
    """Removes what is deleted, and deletes runs that have received nothing for `age` seconds, a portion at each call.

    `now` is the clock of the store. No run is too old if `age` is None.
    """

    def __init__(
        self,
        age: float | None,
        now: Callable[[], float],
        *,
        youngest: float = _YOUNGEST,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._age = None if age is None else max(age, youngest)
        self._now = now
        self._steady = steady
        self._next = steady()

    def hasten(self) -> None:
        """Look at the next call, since something was deleted."""
        self._next = self._steady()

    def __call__(self, db: sqlite3.Connection) -> bool:
        """Delete one portion if it is time to. Returns True if more is waiting."""
        if self._steady() < self._next:
            return False
        now = self._now()
        with transaction(db):
            old = [] if self._age is None else db.execute(_OLD_RUNS, (now - self._age, _RUNS)).fetchall()
            delete_runs(db, [key for (key,) in old], now)
            more = _remove_portion(db)
            if not more:
                db.execute("DELETE FROM tombstones WHERE deleted_at<?", (now - TOMBSTONES_KEPT,))
                if self._age is not None:
                    _forget_batches(db, now - max(self._age, _BATCHES_KEPT))
        if not more:
            self._next = self._steady() + _PAUSE
        db.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
        return more


def _remove_portion(db: sqlite3.Connection) -> bool:
    """Remove some events or steps of one deleted run, and with the last of them its key. Returns False if there is none."""
    row = db.execute("SELECT run FROM deleted LIMIT 1").fetchone()
    if row is None:
        return False
    run = row[0]
    for statement, most in ((_REMOVE_STEP_EVENTS, _EVENTS), (_REMOVE_EVENTS, _EVENTS), (_REMOVE_STEPS, _STEPS)):
        if db.execute(statement, {"run": run, "most": most}).rowcount == most:
            return True
    db.execute("DELETE FROM run_sessions WHERE run=?", (run,))
    db.execute("DELETE FROM folds WHERE run=?", (run,))
    db.execute(_KEEP_KEY, (run,))
    db.execute("DELETE FROM deleted WHERE run=?", (run,))
    return True


def _forget_batches(db: sqlite3.Connection, before: float) -> None:
    db.execute("DELETE FROM dropped WHERE batch IN (SELECT key FROM batches WHERE received_at<?)", (before,))
    db.execute("DELETE FROM batches WHERE received_at<?", (before,))
    db.execute("DELETE FROM sessions WHERE silent_at<?", (before,))
