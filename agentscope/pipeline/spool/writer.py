"""The thread that brings events to disk, beside the one that delivers: a backend that hangs must not delay it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from agentscope.events import Event
from agentscope.pipeline.process import threads
from agentscope.pipeline.process.clock import monotonic
from agentscope.pipeline.queue import EventQueue
from agentscope.pipeline.redaction.redactor import redacted
from agentscope.protocols.drop_reasons import ENCODE_ERROR
from agentscope.protocols.json_encode import UNENCODABLE

from .buffer import MOST_EVENTS, Stage, Taken
from .codec import pack
from .spool import Saved, Spool

WINDOW = 0.1
"""Seconds that events wait for company before they are written: the promise is 0.25."""


class Storer:
    """Redacts what is queued, writes it, and hands it over to the stage; deletes what is settled."""

    def __init__(self, stage: Stage, spool: Spool, queue: EventQueue, redact: Callable[[Event], Event]) -> None:
        self.running = False
        """A thread is at it."""
        self._stage = stage
        self._spool = spool
        self._queue = queue
        self._redact = redact
        self._busy = Lock()

    def watch(
        self, stopping: Callable[[], bool], over: Callable[[], bool], crashed: Callable[[BaseException], None]
    ) -> None:
        """While the worker is `stopping` nothing waits for company, and the thread ends when that is `over`."""
        self._stopping, self._over, self._crashed = stopping, over, crashed

    def start(self) -> None:
        """See that a thread is at it, if one can be had."""
        if not self.running:
            self.running = True
            if not threads.start(self._run, "agentscope-spool"):
                self.running = False

    def _run(self) -> None:
        try:
            while not self._over():
                now = monotonic()
                if not self.store(now) and not self._over():
                    self._queue.sleep(self._spool.wait(now) + WINDOW if self._stage.owes else None, wake_at=1)
                    if not self._stopping():
                        self._queue.sleep(WINDOW, wake_at=MOST_EVENTS)
        except BaseException as error:
            # The thread that delivers starts another; what was taken is still in the stage.
            self._crashed(error)
        finally:
            self.running = False
            self._stage.ring()  # the one that delivers sees to it that there is another

    def store(self, now: float, timeout: float = -1.0) -> bool:
        """One transaction of what waits for it. True if there is more.

        Without a thread of its own, the one that delivers calls this; and at the end any thread, for which it waits `timeout`
        seconds if another is at it.
        """
        if not self._busy.acquire(timeout=timeout):
            return False
        try:
            return self._store(now, timeout)
        finally:
            self._busy.release()

    def _store(self, now: float, timeout: float) -> bool:
        stage, spool = self._stage, self._spool
        events, missing, gone = stage.take(not spool.wait(now))
        taken = Taken([], [], missing, gone)
        rows = [(event.seq, pack(event)) for event in missing]
        for event in events:
            cleaned = redacted(event, self._redact)
            if isinstance(cleaned, str):
                taken.dropped.append((event, cleaned))
                continue
            try:
                rows.append((cleaned.seq, pack(cleaned)))
                taken.kept.append(cleaned)
            except UNENCODABLE:
                taken.dropped.append((event, ENCODE_ERROR))
        saved = Saved()
        if rows or gone or stage.spooled:  # with nothing to write, too, it is seen whether the file is still there
            with threads.disk(timeout) as free:
                saved = spool.save(rows, gone, now) if free else saved
        stage.put(taken, saved)
        if stage.idle:
            with threads.disk(timeout) as free:
                if free:
                    spool.tidy()
        return len(self._queue) > 0 or (stage.owes and (saved.rows or saved.gone or saved.lost))
