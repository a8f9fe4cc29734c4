"""The spool of one worker: the thread that writes events to disk, reading them back, and the files of earlier processes.

A separate thread writes events, so that a hanging backend does not delay it. `states` moves the events, and `spool` owns the
file.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from agentscope.config import Config
from agentscope.events import Event, Session
from agentscope.pipeline.delivery import Delivery
from agentscope.pipeline.process import threads
from agentscope.pipeline.process.clock import monotonic
from agentscope.pipeline.queue import NEVER, Bell
from agentscope.pipeline.redaction.redactor import redacted
from agentscope.pipeline.states import MOST_WRITTEN, EventStates
from agentscope.protocols.base import UNAUTHORIZED, Exporter, Outcome
from agentscope.protocols.drop_reasons import ENCODE_ERROR, DropReason
from agentscope.protocols.json_encode import UNENCODABLE

from .codec import pack
from .recovery import Recovery
from .spool import Place, Saved, Spool

LAST_WRITE = 1.0
"""Seconds that a shutdown waits for a disk that does not answer."""
WINDOW = 0.1
"""Seconds that events wait for others before they are written. The documented bound is 0.25 s."""


class Spooling:
    """Called by the thread that delivers, except `store`."""

    def __init__(
        self,
        config: Config,
        place: Place,
        session: Session,
        states: EventStates,
        exporter: Exporter,
        redact: Callable[[Event], Event],
    ) -> None:
        self.spool = states.spool = Spool(place, session)
        self.recovery = Recovery(config, place, exporter)
        self.writing = False
        """The thread that writes is running."""
        self._states = states
        self._exporter = exporter
        self._ordered_by_backend = place.ordered_by_backend
        self._redact = redact
        self._read_events, self._read_bytes = config.batch_size, config.max_batch_bytes
        self._timeout = config.timeout
        self._busy = Lock()
        self._bell = Bell()
        self._wake_at = NEVER

    def watch(
        self, stopping: Callable[[], bool], over: Callable[[], bool], crashed: Callable[[BaseException], None]
    ) -> None:
        """Set the functions of the worker. Once `stopping`, events are written without delay; once `over`, the thread ends."""
        self._stopping, self._over, self._crashed = stopping, over, crashed

    @property
    def problem(self) -> str | None:
        """The reason why events cannot be stored, else why earlier ones are not sent; None if all is well."""
        return self.spool.problem or self.recovery.gone.problem

    # ---- to disk ---------------------------------------------------------------------------------------------------

    def see_to_storing(self) -> None:
        """Start the thread that writes. If no thread can be started, write in this one."""
        if not self.writing:
            self.writing = True
            if not threads.start(self._run, "agentscope-spool"):
                self.writing = False
                self.store_all(monotonic() + LAST_WRITE)

    def _run(self) -> None:
        queue = self._states.queue
        try:
            while not self._over():
                now = monotonic()
                if not self.store(now) and not self._over():
                    queue.sleep(self.spool.wait(now) + WINDOW if self._states.owes else None, wake_at=1)
                    if not self._stopping():
                        queue.sleep(WINDOW, wake_at=MOST_WRITTEN)
        except BaseException as error:
            # The thread that delivers starts another, which finds the events in state *writing*.
            self._crashed(error)
        finally:
            self.writing = False
            self.ring()

    def store_all(self, until: float) -> None:
        """Write queued events, all of them if the time until `until` allows."""
        while (now := monotonic()) < until and self.store(now, until - now):
            pass

    def store(self, now: float, timeout: float = -1.0) -> bool:
        """Make one transaction. True if there is more to write.

        Called by the thread that writes, and by any thread at a shutdown. timeout: seconds to wait for another call.
        """
        if not self._busy.acquire(timeout=timeout):
            return False
        try:
            return self._store(now, timeout)
        finally:
            self._busy.release()

    def _store(self, now: float, timeout: float) -> bool:
        states, spool = self._states, self.spool
        write = states.begin_write(not spool.wait(now))
        kept: list[Event] = []
        dropped: list[tuple[int, DropReason]] = []
        rows = [(event.seq, pack(event)) for event in write.unsaved]
        for event in write.new:
            cleaned = redacted(event, self._redact)
            if isinstance(cleaned, str):
                dropped.append((event.seq, cleaned))
                continue
            try:
                rows.append((cleaned.seq, pack(cleaned)))
                kept.append(cleaned)
            except UNENCODABLE:
                dropped.append((event.seq, ENCODE_ERROR))
        saved = Saved()
        if rows or write.gone or states.spooled:  # without anything to write, too: the file may have been deleted
            with threads.disk(timeout) as free:
                saved = spool.save(rows, write.gone, now) if free else saved
        states.end_write(write, kept, dropped, saved)
        if states.ready >= self._wake_at or states.disk_only:
            self.ring()
        if not states.spooled and not states.gone:
            with threads.disk(timeout) as free:
                if free:
                    spool.tidy()
        return len(states.queue) > 0 or (states.owes and (saved.rows or saved.gone or saved.lost))

    # ---- and back --------------------------------------------------------------------------------------------------

    def refill(self) -> None:
        """Read back events that are on disk only."""
        states = self._states
        while states.disk_only and len(states.old) < self._read_events:
            with threads.disk() as free:
                if not free:
                    return
                asked = states.unread
                found = self.spool.read(*asked, self._read_events, self._read_bytes, monotonic())
                if not states.end_read(found, asked):
                    return

    def note(self, outcome: Outcome) -> None:
        """Record from an attempt whether the backend needs the order of events, and whether it refuses the key."""
        self._states.order_free = self._exporter.protocol in self._ordered_by_backend
        if outcome.kind == UNAUTHORIZED:
            with threads.disk() as free:
                if free:
                    self.spool.refused()
        if outcome.delivered:
            self.recovery.go_on(monotonic())

    def recover(self, delivery: Delivery) -> bool:
        """Send a batch that an earlier process has left, if it is time to. False if there was nothing to do."""
        if delivery.stop is not None or self.recovery.wait(monotonic()):
            return False
        outcome = self.recovery.step(self._timeout, monotonic(), monotonic)
        if outcome is None:
            return False
        seconds = delivery.note_recovery(outcome)
        if outcome.problem is not None:
            self.recovery.put_off(monotonic() + seconds)
        return True

    # ---- waiting, and the end ----------------------------------------------------------------------------------------

    def ring(self) -> None:
        """Wake the thread that delivers, if it sleeps."""
        self._wake_at = NEVER
        self._bell.ring()

    def sleep(self, seconds: float | None, wake_at: int) -> None:
        """Wait until `wake_at` stored events are in memory, or for a ring, for `seconds` at most."""
        self._wake_at = wake_at
        if self._states.ready < wake_at:
            self._bell.wait(seconds)
        self._wake_at = NEVER
        self._bell.hush()

    def close(self) -> None:
        """Delete settled events, and release the other events to other processes."""
        with threads.disk(LAST_WRITE) as free:
            if free:
                self.spool.save((), list(self._states.gone), monotonic())
                self.spool.close(self._states.spooled)
        self.recovery.close(LAST_WRITE)
