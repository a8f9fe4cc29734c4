"""Retention: old runs are deleted in short transactions between those of the ingest."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from .schema import transaction

_STEPS = 200  # of one transaction
_PAGES = 256  # given back to the file system at a time
_PAUSE = 60.0  # seconds between looks, while there is nothing to do
_YOUNGEST = 600.0  # seconds; a run that received something since is never deleted
_BATCHES_KEPT = 30 * 86400.0  # seconds that batch ids are remembered, at the least


class Sweeper:
    """Deletes runs that have received nothing for `age` seconds, a portion at each call. `now` is the clock of the store."""

    def __init__(
        self,
        age: float,
        now: Callable[[], float],
        *,
        youngest: float = _YOUNGEST,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._age = max(age, youngest)
        self._now = now
        self._steady = steady
        self._next = steady()

    def __call__(self, db: sqlite3.Connection) -> bool:
        """Delete one portion if it is time to. Returns True if more is waiting."""
        if self._steady() < self._next:
            return False
        now = self._now()
        with transaction(db):
            more = _delete_portion(db, now - self._age)
            if not more:
                kept = now - max(self._age, _BATCHES_KEPT)
                old = "SELECT key FROM batches WHERE received_at<?"
                db.execute(f"DELETE FROM dropped WHERE batch IN ({old})", (kept,))  # noqa: S608 - a constant
                db.execute("DELETE FROM batches WHERE received_at<?", (kept,))
                db.execute("DELETE FROM sessions WHERE silent_at<?", (kept,))
        if not more:
            self._next = self._steady() + _PAUSE
        db.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
        return more


def _delete_portion(db: sqlite3.Connection, before: float) -> bool:
    """Delete some steps of the oldest run, and with its last steps the run. Returns False when no run is that old."""
    row = db.execute("SELECT key FROM runs WHERE touched_at<? ORDER BY touched_at LIMIT 1", (before,)).fetchone()
    if row is None:
        return False
    run = row[0]
    steps = db.execute("SELECT run, id FROM steps WHERE run=? LIMIT ?", (run, _STEPS)).fetchall()
    db.executemany("DELETE FROM events WHERE run=? AND step_id=?", steps)
    db.executemany("DELETE FROM steps WHERE run=? AND id=?", steps)
    if len(steps) < _STEPS:
        db.execute("DELETE FROM events WHERE run=?", (run,))
        db.execute("DELETE FROM run_sessions WHERE run=?", (run,))
        db.execute("DELETE FROM runs WHERE key=?", (run,))
    return True
