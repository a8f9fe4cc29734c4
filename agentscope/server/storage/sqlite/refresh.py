"""The refresh of the rows of runs from the rows of their steps: before a read, and when the writer is idle."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from .append import FoldCache
from .run_rows import LARGE, write_run

_GROWTH = 4  # the row of a large run is due when the run has grown by one part in 4
_PAUSE = 0.5  # seconds between two times at which rows are made anew without being read
_IDLE_SECONDS = 0.02  # for which a batch may have to wait meanwhile
_SHARE = 20  # an idle refresh of a large run takes at most one part in 20 of the time
_SHARE_OF_READS = 5  # a read refreshes rows that are not due in at most one part in 5 of the time
_BEHIND = "SELECT key FROM runs WHERE unsummed > 0"
_IS_SMALL = f"coalesce(summed, 0) + unsummed <= {LARGE}"
_SMALL = f"{_BEHIND} AND {_IS_SMALL} ORDER BY touched_at DESC"
_DUE = f"{_BEHIND} AND ({_IS_SMALL} OR unsummed * {_GROWTH} >= coalesce(summed, 0)) ORDER BY touched_at DESC"
_NEWEST = f"{_BEHIND} ORDER BY touched_at DESC"
_OLDEST = f"{_BEHIND} ORDER BY touched_at LIMIT 1"


def is_behind(db: sqlite3.Connection) -> bool:
    """Return whether the row of any run is behind."""
    return db.execute(f"{_BEHIND} LIMIT 1").fetchone() is not None


def is_due(db: sqlite3.Connection) -> bool:
    """Return whether the row of any run has to be made anew before it is read."""
    return db.execute(f"{_DUE} LIMIT 1").fetchone() is not None


class Refresher:
    """Makes rows of runs anew. For the writer thread only. `cache` has the folds that were written last."""

    def __init__(self, cache: FoldCache, steady: Callable[[], float] = time.monotonic) -> None:
        self._cache = cache
        self._steady = steady
        self._next = self._next_large = self._next_read = steady()

    def __call__(self, db: sqlite3.Connection) -> bool:
        """Make some rows anew in a transaction, and that of one large run, if it is time to."""
        began = self._steady()
        if began < self._next:
            return False
        self._next = began + _PAUSE
        oldest = db.execute(_OLDEST).fetchone()
        if oldest is None:
            return False
        db.execute("BEGIN IMMEDIATE")
        try:
            self._cache.begin(db)
            self._refresh(db, _SMALL, _IDLE_SECONDS)
            if began >= self._next_large:
                self._refresh(db, _OLDEST, _IDLE_SECONDS)
                self._next_large = self._steady() + _SHARE * (self._steady() - began)
            self._cache.end()
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return False

    def refresh(self, db: sqlite3.Connection, seconds: float) -> None:
        """Make rows anew before they are read, those of runs that received something last first, for this time at most."""
        self._cache.begin(db)
        self._refresh(db, _DUE, seconds)
        began = self._steady()
        if began >= self._next_read:
            self._refresh(db, _NEWEST, seconds)
            self._next_read = self._steady() + _SHARE_OF_READS * (self._steady() - began)
        self._cache.end()

    def _refresh(self, db: sqlite3.Connection, selection: str, seconds: float) -> None:
        end = self._steady() + seconds
        for (key,) in db.execute(selection).fetchall():
            self._write(db, key)
            if self._steady() >= end:
                return

    def _write(self, db: sqlite3.Connection, key: int) -> None:
        try:
            write_run(db, key, self._cache.folded(key, None, ()), self._cache.rows)
        except sqlite3.Error:
            raise
        except Exception:  # a damaged event leaves the row as it was
            db.execute("UPDATE runs SET unsummed=0 WHERE key=?", (key,))
