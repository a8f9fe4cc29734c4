"""Recovery of the events that dead processes left in the spool: they are found, sent with their own ids, and deleted.

One file after the other, one batch at a time, by the exporter of this process. This process owns a file while it holds the lock.
If it dies too, the next process goes on after the last acknowledgement.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from math import inf

from agentscope.config import Config
from agentscope.events import QueuedEvent
from agentscope.pipeline.delivery import Attempts
from agentscope.pipeline.ledger import Ledger
from agentscope.pipeline.process import threads
from agentscope.pipeline.queue import units
from agentscope.pipeline.reporting import counted, logger
from agentscope.pipeline.states import EventStates
from agentscope.protocols.base import BUSY, UNAUTHORIZED, Exporter, Outcome
from agentscope.protocols.drop_reasons import SPOOL_ERROR
from agentscope.protocols.responses import clean

from . import directory as spooldir
from .database import Corrupt, Origin, SpoolFile, Unusable, parts
from .directory import Claim
from .gone import GoneFiles
from .spool import Place

SCAN = 5.0
"""Seconds between two looks into the directory."""
MOST_RATE = 10_000
"""Events a second that may be sent beside new ones."""
UNREADABLE = 60.0
"""Seconds before a file that could not be read is tried again."""

FIRST_SEQ, LAST_SEQ = -(1 << 63), (1 << 63) - 1
"""The greatest integer of SQLite. A damaged number is not greater."""


class Recovery:
    """The recovery of a destination, for the thread that delivers. `step` makes one attempt."""

    def __init__(self, config: Config, place: Place, exporter: Exporter) -> None:
        self.ledger = Ledger()
        """The counts of all files together."""
        self.gone = GoneFiles(place.directory, place.max_bytes, place.prefix)
        self._config = config
        self._place = place
        self._exporter = exporter
        self._next = 0.0
        self._put_off = False
        self._skipped: dict[str, tuple[float, float]] = {}
        """Files to be skipped: the change stamp of each, and until when."""
        self._orphan: Orphan | None = None

    @property
    def recovered(self) -> int:
        """Events of earlier processes that were delivered."""
        return self.ledger.delivered

    def wait(self, now: float) -> float:
        """Return the seconds until the next `step` is due."""
        return max(self._next - now, 0.0)

    def put_off(self, until: float) -> None:
        """Wait until this moment after a failure, unless the backend works before."""
        self._next, self._put_off = max(self._next, until), True

    def go_on(self, now: float) -> None:
        """Record that the backend works."""
        if self._put_off:
            self._next, self._put_off = now, False

    def step(self, limit: float, now: float, clock: Callable[[], float]) -> Outcome | None:
        """Send one batch, within `limit` seconds; None if there is nothing to send."""
        if self._orphan is None:
            self._orphan = self._adopt(now)
        orphan = self._orphan
        if orphan is None:
            self._next = now + SCAN
            with threads.disk() as free:
                if free:
                    self.gone.limit(now, [path for path, (_, until) in self._skipped.items() if until == inf])
            return None
        outcome = orphan.step(limit, now)
        if orphan.done:
            orphan.finish()
            self._orphan = None
            logger.info("sent %s that an earlier process had left in the spool", counted(orphan.delivered))
            if orphan.given_up:
                given_up = counted(orphan.given_up)
                logger.warning("gave up %s that an earlier process had left in the spool", given_up)
            if os.path.lexists(orphan.path):
                self._skip(orphan.path, inf)  # it cannot be deleted, and must not be sent again and again
        elif orphan.stuck:
            orphan.leave()
            self._orphan = None
            self._skip(orphan.path, now + UNREADABLE)
        # Old events take at most half of the time, and `MOST_RATE` events a second.
        taken = clock() - now
        self._next = clock() + max(taken, len(outcome.delivered) / MOST_RATE)
        return outcome

    def close(self, timeout: float) -> None:
        """Release the file in use to other processes."""
        orphan, self._orphan = self._orphan, None
        if orphan is not None:
            with threads.disk(timeout) as free:
                if free:
                    orphan.leave()

    def _adopt(self, now: float) -> Orphan | None:
        with threads.disk() as free:
            for claim in self._claims(now) if free else ():
                file = self._openable(claim, now)
                if file is not None:
                    return Orphan(self._config, claim, file, self.ledger, self._exporter)
        return None

    def _skip(self, database: str, until: float) -> None:
        self._skipped[database] = (_looks(database), until)

    def _claims(self, now: float) -> Iterator[Claim]:
        self._skipped = {
            path: (looks, until)
            for path, (looks, until) in self._skipped.items()
            if looks == _looks(path) and now < until
        }
        try:
            yield from spooldir.orphans(self._place.directory, self._place.prefix, self._skipped)
        except (OSError, spooldir.Denied):
            return  # the session's own spool logs it

    def _openable(self, claim: Claim, now: float) -> SpoolFile | None:
        """Return the open file if it is for this destination and can be read; else None, as `open_orphan` does."""
        file, until = None, inf
        try:
            file = open_orphan(claim, self._is_mine)
            if file is not None and not file.count():
                file.close()
                claim.remove()
                file = None
        except Exception as error:
            if file is not None:
                file.close()
            file, until = None, now + UNREADABLE
            logger.warning("a file in the spool cannot be read (%s) and is left as it is", clean(_told(error)))
        if file is None:
            claim.release()
            if os.path.lexists(claim.database):
                self._skip(claim.database, until)
        return file

    def _is_mine(self, origin: Origin) -> bool:
        mine = origin.key_mark == self._place.key_mark or origin.refused
        return mine and origin.destination == self._place.destination


def open_orphan(claim: Claim, wanted: Callable[[Origin], bool] = lambda origin: True) -> SpoolFile | None:
    """Open the file of a claim. Returns None for a file of another version, or one that is not `wanted`. The claim stays held.

    Also returns None after a file that was never finished is removed, or a broken one is quarantined.
    """
    try:
        file = SpoolFile.open(claim.database)
        try:
            if wanted(file.origin):
                file.check()
                return file
        except BaseException:
            file.close()
            raise
        file.close()
    except Unusable as error:
        if error.foreign:
            logger.warning("a file in the spool is left as it is: %s", error)
        else:
            claim.remove()
    except Corrupt:
        logger.warning("a file in the spool was damaged and is now %s", claim.quarantine())
    return None


def _looks(database: str) -> float:
    """A change stamp: differs after every change of the file."""
    return sum(os.path.getmtime(path) for path in parts(database)[:2] if os.path.exists(path))


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if type(error).__module__ == "sqlite3" else type(error).__name__


class Orphan:
    """One file that an earlier process has left, and the states of its events."""

    def __init__(self, config: Config, claim: Claim, file: SpoolFile, ledger: Ledger, exporter: Exporter) -> None:
        self.count = file.count()
        self.done = False
        self.stuck = False
        """The file cannot be read at the moment, and all events sent from it are deleted."""
        self.path = claim.database
        self._claim = claim
        self._file = file
        self._ledger = ledger
        self._before = ledger.delivered, sum(ledger.dropped().values())
        self._limits = (config.batch_size, config.max_batch_bytes)
        self._states = EventStates(config, ledger, self._settled)
        self._attempts = Attempts(config, file.origin.session, self._states, exporter, lambda event: event)
        self._gone: list[int] = []
        self._cursor = FIRST_SEQ
        self._end = LAST_SEQ
        self._broken = False

    @property
    def delivered(self) -> int:
        return self._ledger.delivered - self._before[0]

    @property
    def given_up(self) -> int:
        return sum(self._ledger.dropped().values()) - self._before[1]

    def step(self, limit: float, now: float) -> Outcome:
        """Make one attempt at the batch in flight, or at the next one."""
        states = self._states
        with threads.disk() as free:
            problem = self._fill() if free else "the spool is not free"
        self._attempts.collect(now)
        if not states.in_flight:
            if not states.busy and problem is None:
                states.close_all(now)
            self._attempts.load(now)
        outcome = Outcome(problem=problem, kind=BUSY if problem else None)
        if states.in_flight:
            outcome = self._attempts.attempt(limit, now)
        with threads.disk() as free:
            if free:
                self._delete(outcome)
        self.stuck = problem is not None and not self._gone and not states.busy
        self.done = self._cursor == self._end and not states.unsettled and not states.queue.events
        return outcome

    def _fill(self) -> str | None:
        """Read events for one batch into the queue. Returns the reason if that fails, or None."""
        queue = self._states.queue
        if self._cursor == self._end or len(queue) >= self._limits[0]:
            return None
        before = self._file.damaged
        try:
            events = self._file.read(self._cursor, self._end, *self._limits)
        except Corrupt:
            # The remaining records cannot be read. `finish` quarantines the file.
            events, self._file.damaged = [], before
            self._broken = True
        except Exception as error:
            self._file.damaged = before  # they are there still
            return f"a file in the spool cannot be read ({clean(_told(error))})"
        damaged = self._file.damaged - before
        self._ledger.drop(SPOOL_ERROR, damaged)
        for event in events:
            if queue.put(event, True) is not None:
                if self._states.busy or self._states.incomplete:
                    break  # no room, with all that waits for its end; it is read again
                queue.released -= units([event])  # larger than this process takes: it was taken by another
                queue.events.append(event)
            self._cursor = event.seq
        if not events and not damaged:
            self._cursor = self._end
        return None

    def _settled(self, events: Sequence[QueuedEvent]) -> None:
        self._gone += [event.seq for event in events]

    def _delete(self, outcome: Outcome) -> None:
        gone, self._gone = self._gone, []
        try:
            self._file.write((), gone)
            if outcome.kind == UNAUTHORIZED:
                self._file.note_refused()
        except Exception:
            # The process that finds them sends them again; a backend that knows event ids stores them once.
            self._gone += gone

    def finish(self) -> None:
        """End the file, after all events that can be read are settled: delete it, or quarantine a damaged one."""
        if self._broken:
            self._ledger.drop(SPOOL_ERROR, max(self.count - self.delivered - self.given_up, 0))
        with threads.disk() as free:
            if free:
                self._file.close()
                if not self._broken:
                    self._claim.remove()
                    return
                try:
                    logger.warning("a file in the spool was damaged and is now %s", self._claim.quarantine())
                except OSError:
                    self._claim.release()

    def leave(self) -> None:
        """Release the file to other processes, unchanged."""
        self._file.close()
        self._claim.release()
