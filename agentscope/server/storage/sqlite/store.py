"""The SQLite store: events, and the rows of their runs and steps, in one file with one writer and short readers."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from agentscope.protocols.agentscope.decode import Batch
from agentscope.server.clock import Clock
from agentscope.server.storage.base import EventPage, IngestCounts, RunPage, RunQuery, StoredEvent, Unavailable

from . import queries
from .append import FoldCache, write_batch
from .retention import Sweeper
from .schema import is_corrupt, open_reader, upgrade_rows, verify
from .writer import Writer

T = TypeVar("T")

READ_SECONDS = 5.0
"""The longest read in seconds. A reader holds the write-ahead log back, so that a longer one is interrupted."""


class SQLiteStore:
    """A `Store` in the file `path`, which is made where there is none; None uses a temporary file that `close` removes.

    With `retention_days`, runs that have received nothing for that many days are deleted. Raises `ConfigurationError` for a
    database of another application, `Incompatible` for one of a newer version.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, retention_days: float | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="agentscope-") if path is None else None
        self.path = Path(self._temporary.name, "runs.db") if self._temporary is not None else Path(path or "")
        self._now = Clock()
        sweep = (lambda db: False) if retention_days is None else Sweeper(retention_days * 86400, self._now)
        self._cache = FoldCache()
        try:
            self._writer = Writer(self.path, idle=lambda db: upgrade_rows(db) or sweep(db))
        except BaseException:
            self._remove_temporary()
            raise

    def ingest(self, batch: Batch) -> Future[IngestCounts]:
        now = self._now()
        return self._writer.submit(lambda db: write_batch(db, batch, now, self._cache))

    def event(self, event_id: str) -> dict[str, Any] | None:
        return self._read(lambda db: queries.event(db, event_id))

    def events(self, run_id: str, *, after: str | None = None, size: int) -> EventPage:
        return self._read(lambda db: queries.events(db, run_id, after, size))

    def item_events(self, run_id: str, step_id: str | None) -> list[StoredEvent]:
        return self._read(lambda db: queries.item_events(db, run_id, step_id))

    def has_run(self, run_id: str) -> bool:
        return self._read(lambda db: queries.run_key(db, run_id)) is not None

    def run_size(self, run_id: str) -> int | None:
        return self._read(lambda db: queries.run_size(db, run_id))

    def list_runs(self, query: RunQuery) -> RunPage:
        return self._read(lambda db: queries.list_runs(db, query))

    def health(self) -> dict[str, Any]:
        return self._read(lambda db: queries.health(db))

    def close(self) -> None:
        self._writer.close()
        self._remove_temporary()

    def _remove_temporary(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a read transaction of its own. Raises `Unavailable`."""
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
                self._writer.submit(verify)  # the writer puts a file aside that is broken indeed
            raise Unavailable(f"the database cannot be read: {problem}") from problem
