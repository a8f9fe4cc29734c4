"""The spool of one session: a file that is made when it is needed and kept within its bound. While the disk fails, there is none.

No error of the disk is raised. The caller holds `threads.disk()`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from agentscope.config import Config
from agentscope.events import Event, Session
from agentscope.pipeline.reporting import logger
from agentscope.protocols.drop_reasons import SPOOL_ERROR, SPOOL_FULL, DropReason
from agentscope.protocols.responses import clean

from . import directory as spooldir
from .database import MOST_WAL, PAGE, Corrupt, Origin, SpoolFile, Unusable, is_corrupt, is_full, parts
from .directory import Claim, Denied

RETRY = 5.0
"""Seconds before a disk that failed is tried again."""
RETRY_FULL = 1.0
LOOK = 1.0
"""Seconds between two measurements of the directory."""
QUIET = 60.0
"""Seconds before the same problem is logged again."""
WORTH_SHRINKING = 8 << 20


class Saved(NamedTuple):
    """The result of one call of `save`."""

    rows: bool = False
    gone: bool = False
    lost: bool = False
    """The file is lost with all its events. Another will be made."""
    doubtful: bool = False
    """The write failed, but its events may be on disk."""


@dataclass(frozen=True)
class Place:
    """The directory of undelivered events, and the destination that they are for."""

    directory: str
    max_bytes: int
    destination: str
    """Kind of exporter and URL."""
    key_mark: str
    ordered_by_backend: frozenset[str] = frozenset()
    """Protocols whose backend puts events into their order by itself."""

    @property
    def prefix(self) -> str:
        """The first part of the file names of this destination."""
        return blake2b(self.destination.encode(), digest_size=4).hexdigest()


def place_for(
    config: Config, kind: str, url: str, secrets: Sequence[str], ordered_by_backend: frozenset[str] = frozenset()
) -> Place | None:
    """Return the spool directory of this destination, and its options; None without a `spool_dir`."""
    if not config.spool_dir:
        return None
    mark = blake2b("\0".join(secrets).encode(), digest_size=4, person=b"agentscope key").hexdigest() if secrets else ""
    return Place(config.spool_dir, config.spool_max_bytes, f"{kind} {url}", mark, ordered_by_backend)


@dataclass
class Spool:
    """The spool file of this session."""

    place: Place
    session: Session
    problem: str | None = None
    """The reason why no event can be stored at the moment, in one sentence; None if the disk works."""
    reason: DropReason = SPOOL_ERROR
    """The reason that drops because of this problem are counted under."""
    _file: SpoolFile | None = None
    _claim: Claim | None = None
    _next_try: float = 0.0
    _next_look: float = 0.0
    _others: int = 0
    _refused: bool = False
    _said: dict[str, float] = field(default_factory=dict)
    """The time of the last log line of each kind of problem."""
    _complained: bool = False
    _tries: int = 0
    _made: bool = False
    """The claimed file existed before."""
    _closed: bool = False

    def wait(self, now: float) -> float:
        """Return the seconds until an event may be stored; 0 for now."""
        return max(self._next_try - now, 0.0)

    def save(self, rows: Sequence[tuple[int, bytes]], gone: Sequence[int], now: float) -> Saved:
        """Add events and remove others."""
        if self.wait(now) or self._closed:
            return Saved()
        if self._claim is not None and self._made and not os.path.exists(self._claim.database):
            self._lose()
            self._fail("its file has been deleted", now, "deleted")
            self._next_try = now
            return Saved(lost=True)
        if not rows and self._file is None and self._claim is None:
            return Saved(gone=True)
        try:
            file = self._opened()
        except Corrupt:
            return self._quarantined(now)
        except Exception as error:
            self._fail(_told(error), now, "open")
            return Saved()
        return self._write(file, rows, gone, now)

    def _write(self, file: SpoolFile, rows: Sequence[tuple[int, bytes]], gone: Sequence[int], now: float) -> Saved:
        try:
            full = self._bounded(file, now) and bool(rows)
            if not full:
                file.write(rows, gone)
                self._works(now)
                return Saved(rows=True, gone=True)
        except Exception as error:
            if is_corrupt(error):
                return self._quarantined(now)
            if not is_full(error):
                # The cache of this connection may be wrong from now on, so the file is opened anew.
                self._close_file()
                self._fail(_told(error), now, "write")
                return Saved(doubtful=True)
        return self._make_room(file, sum(len(data) for _, data in rows), gone, now)

    def _make_room(self, file: SpoolFile, wanted: int, gone: Sequence[int], now: float) -> Saved:
        """Record that `wanted` bytes do not fit, and delete the events in `gone`."""
        bound = self._would_pass(file, wanted)
        self.reason = SPOOL_FULL if bound else SPOOL_ERROR
        sentence = f"it has reached spool_max_bytes={self.place.max_bytes}" if bound else "the disk is full"
        self._fail(sentence, now, "full")
        self._next_try = now + RETRY_FULL
        try:
            file.write((), gone)
        except Exception:
            return Saved()
        return Saved(gone=True)

    def read(self, after: int, upto: int, most: int, most_bytes: int, now: float) -> tuple[list[Event], int] | None:
        """Return (events, number of damaged ones), read by `SpoolFile.read`; None if the file and its events are lost."""
        if self._closed or (self.unreadable and self.wait(now)):
            return [], 0
        try:
            file = self._opened()
            before = file.damaged
            return file.read(after, upto, most, most_bytes), file.damaged - before
        except Corrupt:
            self._quarantined(now)
            return None
        except Exception as error:
            self._close_file()
            self._fail(_told(error), now, "read")
            return [], 0

    @property
    def unreadable(self) -> bool:
        """Return whether the file cannot be read at the moment."""
        return self._file is None and self.problem is not None

    def refused(self) -> None:
        """Record that the backend refuses the key. A process with another key may deliver these events."""
        if self._file is not None and not self._refused:
            self._refused = True
            try:
                self._file.note_refused()
            except Exception:
                self._refused = False

    def tidy(self) -> None:
        """Return the file's free pages to the disk, after all events are delivered."""
        try:
            if self._file is not None and os.path.getsize(self._file.path) > WORTH_SHRINKING:
                self._file.shrink()
        except Exception:
            self._close_file()

    def close(self, left: int) -> None:
        """Release the file to other processes, or remove an empty one. Nothing is written afterwards."""
        self._closed = True
        self._close_file()
        claim, self._claim = self._claim, None
        try:
            if claim is not None and not left:
                claim.remove()
            elif claim is not None:
                claim.release()
        except OSError:
            return  # it is empty, and the next process that finds it removes it

    # ---- the file --------------------------------------------------------------------------------------------------

    def _opened(self) -> SpoolFile:
        if self._file is None:
            origin = Origin(self.session, self.place.destination, self.place.key_mark, self._refused)
            if self._claim is None:
                spooldir.prepare(self.place.directory)
                self._claim = self._claimed()
                self._file = SpoolFile.create(self._claim.database, origin)
            elif os.path.exists(self._claim.database):
                self._file = self._reopened(self._claim)
            else:
                self._file = SpoolFile.create(self._claim.database, origin)
            self._made = True
        return self._file

    def _reopened(self, claim: Claim) -> SpoolFile:
        try:
            file = SpoolFile.open(claim.database)
        except Unusable as error:
            raise Corrupt from error  # it is our own, so it was cut short while it was made
        try:
            file.check()
        except BaseException:
            file.close()
            raise
        return file

    def _claimed(self) -> Claim:
        self._made = False
        for _ in range(3):
            # The name of a lost file is not used again, since another process may use the file.
            self._tries += 1
            suffix = "" if self._tries == 1 else f"-{self._tries}"
            claim = spooldir.claim_new(self.place.directory, f"{self.place.prefix}-{self.session.id}{suffix}")
            if claim is not None:
                return claim
        raise Denied(f"others take each new file in {self.place.directory}")

    def _quarantined(self, now: float) -> Saved:
        self._close_file()
        claim, self._claim = self._claim, None
        try:
            where = claim.quarantine() if claim is not None else "gone"
            self._fail(f"its file was damaged and is now {where}", now, "corrupt")
        except OSError as error:
            self._fail(f"its file is damaged and cannot be renamed: {error.strerror}", now, "corrupt")
        self._next_try = now
        return Saved(lost=True)

    def _lose(self) -> None:
        self._close_file()
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.release()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except Exception:
                return  # nothing is written by this any more

    def _bounded(self, file: SpoolFile, now: float) -> bool:
        """Set the limit of the file in SQLite. Returns whether the limit is reached."""
        if now >= self._next_look:
            self._next_look = now + LOOK
            own = sum(os.path.getsize(path) for path in parts(file.path) if os.path.exists(path))
            self._others = max(spooldir.bytes_in(self.place.directory) - own, 0)
            return file.limit(self._pages(), self._log()) >= self._pages()
        return False

    def _log(self) -> int:
        """The bytes that the write-ahead log may take before it is moved into the file."""
        return min(MOST_WAL, (self.place.max_bytes - self._others) // 8)

    def _pages(self) -> int:
        """Return the bound on the pages of the file. Twice the log is reserved, since one transaction may exceed its bound."""
        return max(self.place.max_bytes - self._others - 2 * self._log(), 0) // PAGE

    def _would_pass(self, file: SpoolFile, wanted: int) -> bool:
        """Return whether the size limit refuses these bytes, and not a full disk."""
        try:
            return file.limit(self._pages(), self._log()) + 2 * wanted // PAGE + 1 >= self._pages()
        except Exception:
            return False

    def _works(self, now: float) -> None:
        if self._complained:
            logger.info("the spool works again")
        self.problem, self.reason, self._complained = None, SPOOL_ERROR, False
        # A problem that comes and goes, such as a bound that is reached, is logged once per QUIET.
        self._said = {kind: said for kind, said in self._said.items() if now - said < QUIET}

    def _fail(self, sentence: str, now: float, kind: str) -> None:
        self.problem = f"the spool does not work: {sentence}"
        self._next_try = now + RETRY
        if kind not in self._said:
            self._said[kind] = now
            self._complained = True
            logger.warning("the spool does not work, events are kept in memory: %s", clean(sentence))


def _told(error: BaseException) -> str:
    if isinstance(error, Denied):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or type(error).__name__}: {error.filename or ''}".rstrip(": ")
    return str(error) if type(error).__module__ == "sqlite3" else type(error).__name__
