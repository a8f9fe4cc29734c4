"""Rows of runs that are behind the rows of their steps are made anew, before they are read or when there is time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from .append import FoldCache
from .run_rows import LARGE, write_run

_GROWTH = 4  # the row of a large run is due when it has grown by this part of its steps
_PAUSE = 0.5  # seconds between two times at which rows are made anew without being read
_IDLE_SECONDS = 0.02  # for which a batch may have to wait meanwhile
_SHARE = 20  # of this part of the time a large run is made anew that has grown a little
_BEHIND = "SELECT key FROM runs WHERE unsummed > 0"
_DUE = f"""
{_BEHIND} AND (coalesce(summed, 0) + unsummed <= {LARGE} OR unsummed * {_GROWTH} >= coalesce(summed, 0))
ORDER BY touched_at DESC
"""
_OLDEST = f"{_BEHIND} ORDER BY touched_at LIMIT 1"


def is_due(db: sqlite3.Connection) -> bool:
    """Return whether the row of any run has to be made anew before it is read."""
    return db.execute(f"{_DUE} LIMIT 1").fetchone() is not None


class Refresher:
    """Makes rows of runs anew. For the writer thread only. `cache` has the folds that were written last."""

    def __init__(self, cache: FoldCache, steady: Callable[[], float] = time.monotonic) -> None:
        self._cache = cache
        self._steady = steady
        self._next = self._next_large = steady()

    def __call__(self, db: sqlite3.Connection) -> bool:
        """Make some rows anew in a transaction, if it is time to, and one of a large run that has grown a little."""
        began = self._steady()
        if began < self._next:
            return False
        self._next = began + _PAUSE
        oldest = db.execute(_OLDEST).fetchone()
        if oldest is None:
            return False
        db.execute("BEGIN IMMEDIATE")
        try:
            self.refresh(db, _IDLE_SECONDS)
            if began >= self._next_large and not is_due(db):
                self._cache.begin(db)
                for (key,) in db.execute(_OLDEST).fetchall():
                    self._write(db, key)
                self._cache.end()
                self._next_large = self._steady() + _SHARE * (self._steady() - began)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return False

    def refresh(self, db: sqlite3.Connection, seconds: float) -> None:
        """Make the rows of runs anew that are due, those that received something last first, for this time at most."""
        end = self._steady() + seconds
        self._cache.begin(db)
        for (key,) in db.execute(_DUE).fetchall():
            self._write(db, key)
            if self._steady() >= end:
                break
        self._cache.end()

    def _write(self, db: sqlite3.Connection, key: int) -> None:
        try:
            write_run(db, key, self._cache.folded(key, None, ()), self._cache.rows)
        except (KeyError, TypeError, ValueError):  # a damaged event leaves the row as it was
            db.execute("UPDATE runs SET unsummed=0 WHERE key=?", (key,))
