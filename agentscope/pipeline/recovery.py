"""What processes that do not live any more have left in the spool: found, sent under their own names, deleted.

One file after the other, one batch at a time beside the events of this process, by its exporter. A file is this process's as long
as its lock is; if this process dies too, the next one goes on where the acknowledgements ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..config import Config
from ..events import Event
from ..protocols import UNAUTHORIZED, Exporter, Outcome
from . import spooldir, threads
from .ledger import SPOOL_ERROR, Ledger
from .notices import logger
from .shipping import Shipper
from .spool import Place
from .spooldir import Claim
from .spoolfile import Corrupt, SpoolFile, Unusable

SCAN = 5.0
"""Seconds between two looks into the directory."""
MOST_RATE = 10_000
"""Events a second that may be sent beside new ones."""

NEVER_SEQ = (1 << 63) - 1


class Recovery:
    """Belongs to the thread that delivers. `step` makes one attempt; `wait` says when the next one is due."""

    def __init__(self, config: Config, place: Place, exporter: Exporter, *, any_key: bool = False) -> None:
        self.ledger = Ledger()
        """Of all files together."""
        self._config = config
        self._place = place
        self._exporter = exporter
        self._any_key = any_key
        self._next = 0.0
        self._skipped: set[str] = set()
        self._orphan: Orphan | None = None

    @property
    def recovered(self) -> int:
        """Events of others that were delivered."""
        return self.ledger.delivered

    @property
    def busy(self) -> bool:
        """Whether a file is being sent."""
        return self._orphan is not None

    def wait(self, now: float) -> float:
        """Seconds until there may be something to do."""
        return max(self._next - now, 0.0)

    def put_off(self, until: float) -> None:
        """Not before this moment."""
        self._next = max(self._next, until)

    def step(self, limit: float, now: float, clock: Callable[[], float]) -> Outcome | None:
        """Send one batch, within `limit` seconds; None if there is nothing to send."""
        if self._orphan is None:
            self._orphan = self._adopt(now)
        orphan = self._orphan
        if orphan is None:
            self._next = now + SCAN
            return None
        outcome = orphan.step(limit, now)
        if orphan.done:
            orphan.finish()
            self._orphan = None
            logger.info("sent %d events that an earlier process had left in the spool", orphan.delivered)
        # Half of the time, and so many a second, are the most that old events may take from new ones.
        taken = clock() - now
        self._next = clock() + max(taken, len(outcome.delivered) / MOST_RATE)
        return outcome

    def close(self, timeout: float) -> None:
        """Let others have the file that is being sent."""
        orphan, self._orphan = self._orphan, None
        if orphan is not None:
            with threads.disk(timeout) as free:
                if free:
                    orphan.leave()

    def _adopt(self, now: float) -> Orphan | None:
        with threads.disk() as free:
            for claim in self._claims() if free else ():
                file = self._openable(claim)
                if file is not None:
                    return Orphan(self._config, claim, file, self.ledger, self._exporter)
        return None

    def _claims(self) -> Iterator[Claim]:
        try:
            yield from spooldir.orphans(self._place.directory, self._place.prefix, self._skipped)
        except (OSError, spooldir.Denied):
            return  # the session's own spool tells of it

    def _openable(self, claim: Claim) -> SpoolFile | None:
        """The file, if it is for this destination and can be read. Any other is left, removed or put aside."""
        try:
            file = open_orphan(claim)
        except Exception as error:
            # Not now; perhaps never, and it is not to be tried for ever.
            self._skipped.add(claim.path)
            claim.release()
            logger.warning("a file in the spool cannot be read (%s) and is left as it is", type(error).__name__)
            return None
        if file is None:
            if claim.held:  # of another version
                self._skipped.add(claim.path)
                claim.release()
            return None
        origin = file.origin
        mine = self._any_key or origin.key_mark == self._place.key_mark or origin.refused
        if origin.destination != self._place.destination or not mine:
            file.close()
            claim.release()
            return None
        if not file.count():
            file.close()
            claim.remove()
            return None
        return file


def open_orphan(claim: Claim) -> SpoolFile | None:
    """The file behind a claim. None if there is none to read: one that was never finished is removed, one that is broken put
    aside, and one of another version left alone, its claim still held."""
    try:
        return SpoolFile.open(claim.database)
    except Unusable as error:
        if error.foreign:
            logger.warning("a file in the spool is left as it is: %s", error)
        else:
            claim.remove()
    except Corrupt:
        logger.warning("a file in the spool was damaged and is now %s", claim.quarantine())
    return None


class Orphan:
    """One file that somebody has left, and a shipper for it."""

    def __init__(self, config: Config, claim: Claim, file: SpoolFile, ledger: Ledger, exporter: Exporter) -> None:
        self.count = file.count()
        self.done = False
        self._claim = claim
        self._file = file
        self._ledger = ledger
        self._before = ledger.delivered
        self._limits = (config.batch_size, config.max_batch_bytes)
        self._shipper = Shipper(config, file.origin.session, ledger, exporter, lambda event: event)
        self._shipper.on_settled = self._settled
        self._gone: list[int] = []
        self._cursor = 0
        self._end = NEVER_SEQ
        self._broken = False

    @property
    def delivered(self) -> int:
        return self._ledger.delivered - self._before

    @property
    def session_id(self) -> str:
        return self._file.origin.session.id

    def step(self, limit: float, now: float) -> Outcome:
        """One attempt at the batch in hand, or at the next one."""
        shipper = self._shipper
        with threads.disk() as free:
            if not free:
                return Outcome()
            self._fill()
        shipper.collect(now)
        if not shipper.in_hand:
            if not shipper.busy:
                shipper.finish(now)
            shipper.load(now)
        outcome = shipper.attempt(limit, now) if shipper.in_hand else Outcome()
        with threads.disk() as free:
            if free:
                self._delete(outcome)
        self.done = self._cursor == self._end and not shipper.unsettled and not shipper.queue.events
        return outcome

    def _fill(self) -> None:
        """Have a batch's worth of events in the queue."""
        queue = self._shipper.queue
        if self._cursor == self._end or len(queue) >= self._limits[0]:
            return
        before = self._file.damaged
        try:
            events = self._file.read(self._cursor, self._end, *self._limits)
        except Exception:
            # What is left cannot be read. It is put aside at the end.
            events, self._file.damaged = [], self._file.damaged + 1
            self._broken = True
        self._ledger.drop(SPOOL_ERROR, self._file.damaged - before)
        for event in events:
            if queue.put(event, True) is not None:
                break  # no room, with all that waits for its end; it is read again
            self._cursor = event.seq
        if not events:
            self._cursor = self._end

    def _settled(self, events: list[Event]) -> None:
        self._gone += [event.seq for event in events]

    def _delete(self, outcome: Outcome) -> None:
        gone, self._gone = self._gone, []
        try:
            self._file.write((), gone)
            if outcome.kind == UNAUTHORIZED:
                self._file.note_refused()
        except Exception:
            # They are sent once more by whoever finds them; a backend that knows event ids stores them once.
            self._gone += gone

    def finish(self) -> None:
        """All is settled."""
        with threads.disk() as free:
            if free:
                self._file.close()
                if self._broken:
                    logger.warning("a file in the spool was damaged and is now %s", self._claim.quarantine())
                else:
                    self._claim.remove()

    def leave(self) -> None:
        """Let others have it, as it is now."""
        self._file.close()
        self._claim.release()
