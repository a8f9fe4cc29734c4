"""The store: events, and the runs and steps they fold to, in one SQLite file with one writer and short readers."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from agentscope.protocols.agentscope.decode import Batch, Patch

from . import queries
from .append import Counts, write_batch
from .fold_cache import HotFolds
from .retention import Sweeper
from .schema import is_corrupt, open_reader, verify
from .writer import Unavailable, Writer

__all__ = ["Store", "Unavailable"]

T = TypeVar("T")

READ_SECONDS = 5.0
"""A read is interrupted after this long, so that it never holds the write-ahead log back for longer."""


class Store:
    """Every method may be called from any thread; those that read raise `Unavailable` when that does not work.

    `path` is the file, made if need be; None uses a temporary one that `close()` removes. With `retention_days`, runs
    that nothing was received for in that many days are deleted. Raises `ConfigurationError` for a database of another
    application.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, retention_days: float | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="agentscope-") if path is None else None
        self.path = Path(self._temporary.name, "runs.db") if self._temporary is not None else Path(path or "")
        # Wall time once, then steady time: a clock that jumps must not make every run old at once.
        self._offset = time.time() - time.monotonic()
        sweeper = None if retention_days is None else Sweeper(retention_days * 86400, self.now)
        self._hot = HotFolds()
        try:
            self._writer = Writer(self.path, idle=sweeper)
        except BaseException:
            self._remove_temporary()
            raise

    def now(self) -> float:
        """The store's clock: seconds since the epoch, never going back while the process lives."""
        return self._offset + time.monotonic()

    def ingest(self, batch: Batch) -> Future[Counts]:
        """Store a batch. The future is done after the commit; it raises `Unavailable` when nothing was stored."""
        now = self.now()
        return self._writer.submit(lambda db: write_batch(db, batch, now, self._hot))

    def health(self) -> dict[str, Any]:
        """Counts of what is stored: events, runs, batches, duplicates, conflicts, and `dropped` by reason."""
        return self._read(queries.health)

    def list_runs(self, query: queries.RunQuery) -> tuple[list[dict[str, Any]], queries.Mark | None]:
        """Runs, newest first, and where the next page begins, or None."""
        return self._read(lambda db: queries.list_runs(db, query))

    def run(self, run_id: str) -> dict[str, Any] | None:
        """One run with its steps, as the read API shows it, or None."""
        patches = self._read(lambda db: queries.run_patches(db, run_id))
        return None if patches is None else queries.view(run_id, patches)

    def run_size(self, run_id: str) -> int | None:
        """Characters of a run's events as JSON, or None for an unknown run."""
        return self._read(lambda db: queries.run_size(db, run_id))

    def has_run(self, run_id: str) -> bool:
        """Whether anything of this run is stored."""
        return self._read(lambda db: queries.run_key(db, run_id)) is not None

    def event_keys(self, run_id: str) -> list[int] | None:
        """What to ask `events` for, in the order they came, or None for an unknown run."""
        return self._read(lambda db: queries.event_keys(db, run_id))

    def events(self, keys: Sequence[int]) -> list[tuple[str, str]]:
        """(session_id, body) of these events, but for those that are no longer there."""
        return self._read(lambda db: queries.events(db, keys))

    def event(self, event_id: str) -> dict[str, Any] | None:
        """One event as it came, or None."""
        return self._read(lambda db: queries.event(db, event_id))

    def patches(self, run_id: str, step_id: str | None = None) -> list[Patch]:
        """What is stored of one step, or without one of the run itself, in the order it came; empty if nothing is."""
        return self._read(lambda db: queries.patches(db, run_id, step_id))

    def close(self) -> None:
        """Finish what was handed in, checkpoint, and close the file. Again does nothing."""
        self._writer.close()
        self._remove_temporary()

    def _remove_temporary(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        end = time.monotonic() + READ_SECONDS
        try:
            db = open_reader(self.path)
            try:
                db.set_progress_handler(lambda: time.monotonic() > end, 20_000)
                db.execute("BEGIN")
                return work(db)
            finally:
                db.close()
        except sqlite3.DatabaseError as problem:
            if is_corrupt(problem):
                self._writer.submit(verify)  # the writer puts the file aside if it is broken indeed
            raise Unavailable(f"the database cannot be read: {problem}") from problem
