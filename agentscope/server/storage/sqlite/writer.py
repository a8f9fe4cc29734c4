"""The writer thread: waiting jobs are joined into one transaction, and their futures end after the commit."""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from agentscope.errors import ConfigurationError
from agentscope.server.storage.base import Unavailable

from .schema import BUSY_TIMEOUT_MS, PAGE_SIZE, WAL_LIMIT, Corrupt, is_corrupt, open_writer, quarantine

logger = logging.getLogger("agentscope.server")

T = TypeVar("T")
_Job = tuple[Callable[[sqlite3.Connection], Any], "Future[Any]"]
_CHECKPOINT_MS = 50  # for which a checkpoint waits for readers, while clients wait for the writer
_MOST_JOBS = 64  # of one transaction


class Writer:
    """The owner of the writing connection to the database at `path`. The constructor raises the errors of `open_writer`.

    `idle` is called with the connection in the writer thread, after each transaction and every `idle_seconds`. It returns
    True to be called again at once.
    """

    def __init__(
        self,
        path: Path,
        *,
        idle: Callable[[sqlite3.Connection], bool] | None = None,
        idle_seconds: float = 60.0,
        wal_limit: int = WAL_LIMIT,
    ) -> None:
        self._path = path
        self._idle = idle
        self._idle_seconds = idle_seconds if idle is not None else None
        self._wal = path.with_name(path.name + "-wal")
        self._wal_limit = wal_limit
        self._truncate_at = wal_limit
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._parts = (path, self._wal, path.with_name(path.name + "-shm"))
        self._opened: list[tuple[int, int] | None] = []
        self._trouble = ""
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="agentscope-store", daemon=True)
        self._thread.start()
        opened.result()

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Run `work` inside a transaction of the writer. The future ends after the commit, or with `Unavailable`."""
        future: Future[T] = Future()
        with self._closing:
            if self._closed:
                future.set_exception(Unavailable("the receiver is stopping"))
            else:
                self._jobs.put((work, future))
        return future

    def close(self) -> None:
        """Finish the waiting jobs, move the write-ahead log into the file, and close it. A second call does nothing."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self, opened: Future[None]) -> None:
        try:
            self._open()
        except BaseException as problem:
            opened.set_exception(problem)
            return
        opened.set_result(None)
        stop, again = False, True  # an upgrade may be unfinished
        while not stop:
            jobs, stop = self._next_jobs(0.0 if again else self._idle_seconds)
            if jobs:
                self._commit(jobs)
            jobs.clear()  # each holds a batch in memory, and the next job may come late
            again = not stop and self._upkeep()
        if self._db is not None:
            self._truncate(self._db)
            self._db.close()

    def _open(self) -> None:
        self._db = open_writer(self._path)
        self._opened = [_identity(part) for part in self._parts]

    def _leave_lost_file(self) -> None:
        """Give up the connection to a file that was removed or replaced, since no reader would see what is written to it."""
        assert self._db is not None
        logger.error(
            "The database %s was removed or replaced; going on with what is there, or a fresh one.", self._path
        )
        self._db.close()
        self._db = None
        for part, before in zip(self._parts[1:], self._opened[1:], strict=True):
            if before is not None and _identity(part) == before:
                part.unlink()  # the log of the old file, which SQLite would read as the log of the new one

    def _next_jobs(self, wait: float | None) -> tuple[list[_Job], bool]:
        """Return the waiting jobs of the next transaction, and whether the writer stops after it."""
        jobs: list[_Job] = []
        while len(jobs) < _MOST_JOBS:
            try:
                job = self._jobs.get_nowait() if jobs or wait == 0 else self._jobs.get(timeout=wait)
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            if job[1].set_running_or_notify_cancel():
                jobs.append(job)
        return jobs, False

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            if self._db is not None and _identity(self._path) != self._opened[0]:
                self._leave_lost_file()
            if self._db is None:
                self._open()
            assert self._db is not None
            self._db.execute("BEGIN IMMEDIATE")
            results = [work(self._db) for work, _ in jobs]
            self._db.execute("COMMIT")
        except Exception as problem:
            self._give_up(jobs, problem)
            return
        if self._trouble:
            self._trouble = ""
            logger.warning("what comes in can be stored again")
        for (_, future), result in zip(jobs, results, strict=True):
            future.set_result(result)

    def _give_up(self, jobs: list[_Job], problem: Exception) -> None:
        self._roll_back()
        if "readonly" in str(problem) and self._db is not None:
            self._db.close()  # the connection may stay read-only when the file no longer is; the next job opens another
            self._db = None
        if is_corrupt(problem) or isinstance(problem, Corrupt):
            self._start_afresh(problem)
        elif len(jobs) > 1 and not isinstance(problem, (sqlite3.OperationalError, OSError)):
            for job in jobs:  # one of them failed by itself; the others are committed
                self._commit([job])
            return
        if isinstance(problem, (sqlite3.Error, OSError, Corrupt)):
            if str(problem) != self._trouble:  # logged once, not with every batch
                self._trouble = str(problem)
                logger.error("nothing can be stored: %s", problem)
            problem = Unavailable(f"the database cannot be written: {problem}")
        for _, future in jobs:
            future.set_exception(problem)

    def _roll_back(self) -> None:
        """Leave the transaction. A connection that cannot is closed, and the next job opens another."""
        if self._db is None or not self._db.in_transaction:
            return
        try:
            self._db.execute("ROLLBACK")
        except sqlite3.Error:
            self._db.close()
            self._db = None

    def _start_afresh(self, problem: Exception) -> None:
        """Quarantine the broken file and open a new one at once, since readers need one too."""
        if self._db is not None:
            self._db.close()
            self._db = None
        try:
            quarantine(self._path, str(problem))
            self._open()
        except Exception as another:
            logger.error("no fresh database could be made: %s", _told(another))

    def _upkeep(self) -> bool:
        if self._db is None:
            return False
        try:
            if self._wal.stat().st_size > self._truncate_at:
                self._db.execute(f"PRAGMA busy_timeout={_CHECKPOINT_MS}")
                self._truncate(self._db)
                self._db.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            return self._idle is not None and self._idle(self._db)
        except Exception as problem:
            logger.warning("the upkeep of the database did not work: %s", _told(problem))
            return False

    def _truncate(self, db: sqlite3.Connection) -> None:
        """Checkpoint and empty the write-ahead log. While a reader needs the log, the next attempt is when it has grown."""
        try:
            busy, frames, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as problem:
            logger.warning("the write-ahead log could not be checkpointed: %s", problem)
            busy, frames = 1, 0
        self._truncate_at = self._wal_limit + (frames * PAGE_SIZE if busy else 0)


def _told(problem: Exception) -> str:
    """Return the text of an exception for the log. The text of an unforeseen one may hold a payload, so that it is left out."""
    return str(problem) if isinstance(problem, (OSError, sqlite3.Error, ConfigurationError)) else type(problem).__name__


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file at a path, or None while there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
