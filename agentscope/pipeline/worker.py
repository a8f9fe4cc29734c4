"""The worker: the one thread that delivers a session's events, and what other threads ask of it.

All of its state is on objects, not in the thread: a thread that dies is followed by another with the same batch in hand, and
where no thread can be had, `flush` and `shutdown` do the work in the caller's.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ..config import Config
from ..context import new_id
from ..events import Event, Session
from ..protocols import NEEDS_PERSON, UNAUTHORIZED, Exporter, Outcome
from . import retry, threads
from .clock import monotonic
from .ledger import RETRY_LIMIT, SHUTDOWN, Ledger
from .notices import Notices
from .queue import NEVER
from .retry import Attempts, backoff, persist
from .shipping import Shipper
from .stopping import PATIENCE, Stop


class Flush(NamedTuple):
    """Somebody waits until so many of the events that came through the queue are settled."""

    target: int
    waiter: threading.Lock


class Worker:
    """One session: its queue, ledger, batch in hand, exporter, and the thread that works on them."""

    def __init__(
        self, config: Config, exporter: Exporter, redact: Callable[[Event], Event], on_end: Callable[[], None]
    ) -> None:
        prefix = new_id()[:24]
        self.session = Session(new_id(), f"{prefix[:14]}8{prefix[15:]}")  # version 8: a UUID of our own making
        self.ledger = Ledger()
        self.shipper = Shipper(config, self.session, self.ledger, exporter, redact)
        self.queue = self.shipper.queue
        self.exporter = exporter
        self.running = False
        self.finished = False
        """Nothing more will be delivered."""
        self.problem: str | None = None
        self._kind: str | None = None
        self._config = config
        self._on_end = on_end
        self._flushes: deque[Flush] = deque()
        self._stop: Stop | None = None
        self._warm = False
        """What delivery needs has been imported."""
        self._progress = monotonic()
        self._starting = threading.Lock()
        self._done = threading.Lock()
        self._done.acquire()
        self._notices = Notices(config.on_drop)
        self._random = random.Random(self.session.id)  # noqa: S311 - jitter, and never the user's own sequence

    # ---- asked by any thread ---------------------------------------------------------------------------------------

    def start(self) -> bool:
        """See that a thread works on this. May be called by a signal handler. False if no thread can be had."""
        if self.running or self.finished:
            return True
        if not self._starting.acquire(blocking=False):
            return True  # somebody else is at it
        self.running = True
        if threads.start(self._main, "agentscope-worker"):
            return True
        self.running = False
        self._starting.release()
        return False

    def counts(self) -> tuple[int, int, int, dict[str, int]]:
        """(accepted, delivered, pending, dropped by reason), all of one moment."""
        ledger, shipper = self.ledger, self.shipper
        for _ in range(10_000):
            moves, refused = shipper.moves, ledger.refused.total()
            queued, unsettled = len(self.queue), shipper.unsettled
            accepted = ledger.taken + queued + refused
            delivered, dropped = ledger.delivered, ledger.dropped()
            if not moves & 1 and moves == shipper.moves and refused == ledger.refused.total():
                break
            time.sleep(0)
        return accepted, delivered, queued + unsettled, dropped

    def flush(self, timeout: float) -> int:
        """Wait until everything accepted so far is settled, for `timeout` seconds at most; gives how much is not.

        Returns early when the backend needs a person first: waiting would not help.
        """
        return self.wait_for_flush(self.begin_flush(), timeout)

    def begin_flush(self) -> Flush | None:
        """Have everything accepted so far sent now, and return at once; None if there is nothing to wait for."""
        accepted, _, pending, _ = self.counts()
        if not pending or self.finished or threads.is_ours():
            return None
        flush = Flush(accepted - self.ledger.refused.total(), threading.Lock())
        flush.waiter.acquire()
        self._flushes.append(flush)
        self.queue.ring()
        return flush

    def wait_for_flush(self, flush: Flush | None, timeout: float) -> int:
        """Wait for what `begin_flush` gave, for `timeout` seconds at most; gives how much of it is not settled."""
        if flush is None:
            # What came in since it was begun is no part of it.
            return self.counts()[2] - self.shipper.parked if threads.is_ours() else 0
        try:
            if self.start():
                flush.waiter.acquire(timeout=max(timeout, 0.0))
            else:
                self._inline(Stop(monotonic(), monotonic() + timeout))
        finally:
            self._flushes.remove(flush)
        return min(max(flush.target - self.shipper.through, 0), self.counts()[2])

    def ask_to_stop(self, limit: float) -> None:
        """Deliver what there is within `limit` seconds, and end. Returns at once and takes no lock."""
        if self._stop is None:
            now = monotonic()
            self._stop = Stop(now, now + max(limit, 0.0))
        self.queue.ring()

    def wait_until_stopped(self) -> None:
        """Wait as long as acknowledgements come in, up to the limit; then give up what is left."""
        stop = self._stop
        if stop is None or threads.is_ours():
            return
        try:
            if not self._empty() and not self.start():
                self._inline(stop)
            while self.running and not self.finished:
                # On a machine with much else to do the imports alone may take seconds: that is not the backend's fault.
                left = stop.deadline(self._progress if self._warm else monotonic()) - monotonic()
                if left <= 0:
                    break
                if self._done.acquire(timeout=left + 0.01):
                    self._done.release()
                    break
        finally:
            self._end()

    def wait_for_thread(self, until: float) -> None:
        """Wait for the thread itself, after the end and until this moment of the monotonic clock.

        A thread that is inside the TLS library while the process takes it down can crash it. Its connection has been cut by
        the end, so it comes back soon; if it doesn't, it isn't waited for.
        """
        left = until - monotonic()
        if self.running and left > 0 and not threads.is_ours() and self._done.acquire(timeout=left):
            self._done.release()

    # ---- done by the thread that delivers --------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            with threads.warm_up():
                retry.warm_up()
                self.exporter.warm_up()
            threads.hush()
            self._warmed_up()
            while self._cycle():
                pass
        except BaseException as error:
            # A thread of ours prints no traceback. What is in hand stays in hand: the next event, flush or shutdown
            # starts another thread.
            self._crash(error)
        finally:
            self.running = False
            self._starting.release()
            if self.finished:
                self._done.release()
            self._answer_flushes(everyone=True)

    def _warmed_up(self) -> None:
        if not self._warm:
            self._warm = True
            self._progress = max(self._progress, monotonic() - PATIENCE / 2)

    def _crash(self, error: BaseException) -> None:
        self.problem = f"the worker stopped on {type(error).__name__}"
        self._notices.crash(error, monotonic())

    def _inline(self, stop: Stop) -> None:
        """The same work in the caller's thread, for want of one of our own."""
        if not self._starting.acquire(blocking=False):
            return
        before, self._stop = self._stop, stop

        def work() -> None:
            self.exporter.warm_up()
            while not self._given_up():
                if before is stop:
                    self.shipper.finish(monotonic())
                if not self.shipper.busy:
                    break
                self._round()

        try:
            threads.own(work)()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._crash(error)
        finally:
            self._stop = before
            self._starting.release()

    def _cycle(self) -> bool:
        """One batch, or one sleep. False when it is time to end."""
        self.shipper.collect(monotonic())
        self._notices.drops(self.ledger.dropped(), monotonic())
        self._answer_flushes()
        if self._stop is not None:
            self.shipper.finish(monotonic())
        if self._stop is not None and (self._empty() or self._given_up()):
            self._end()
            return False
        wait = self.shipper.batcher.wait(monotonic())
        if self.shipper.in_hand or (wait is not None and (wait == 0 or self._stop is not None or self._flushes)):
            self._round()
        elif wait is None:
            self.queue.sleep(None, wake_at=1)
        else:
            self.queue.sleep(wait, wake_at=max(self.shipper.batcher.room(), 1))
        return True

    def _round(self) -> None:
        """Take a batch in hand and keep at it until it is settled, or until the end."""
        self.shipper.collect(monotonic())
        self.shipper.load(monotonic())
        attempts = Attempts()

        def attempt() -> Outcome:
            limit = self._config.timeout
            if self._stop is not None:
                limit = min(limit, PATIENCE, max(self._stop.deadline(self._progress) - monotonic(), 0.05))
            outcome = self.shipper.attempt(limit, monotonic())
            attempts.note(outcome)
            self._note(outcome, attempts.failures)
            return outcome

        def wait(outcome: Outcome) -> float:
            jitter, first = self._random.random(), self._config.retry_delay
            asked = backoff(outcome, attempts.failures, jitter, time.time(), first)
            if self._stop is not None:
                asked = self._stop.wait(outcome, asked, monotonic(), self._progress)
            return asked

        def given_up() -> bool:
            most = self._config.max_retries
            if most is not None and attempts.failures > most:
                self.shipper.give_up(RETRY_LIMIT)
                return True
            return self._given_up()

        persist(
            attempt,
            unfinished=lambda outcome: self.shipper.in_hand,
            wait=wait,
            sleep=self._nap,
            stop=given_up,
        )

    def _note(self, outcome: Outcome, failures: int) -> None:
        if self.finished:
            return  # the attempt was cut off by the end: that is not what was wrong
        if outcome.delivered or outcome.dropped:
            self._progress = monotonic()
        if self._stop is not None:
            self._stop.note(outcome)
        self.problem, self._kind = outcome.problem, outcome.kind
        if outcome.problem is None:
            self._notices.relief()
        elif self._stop is None:
            self._notices.trouble(outcome.problem, outcome.kind, failures, self.counts()[2], monotonic())
        self._notices.drops(self.ledger.dropped(), monotonic())

    def _nap(self, seconds: float) -> None:
        """Wait for the next attempt. A flush or a stop ends it, but a backend that needs a person is not asked more often."""
        end = monotonic() + seconds
        stopping = self._stop is not None
        while (left := end - monotonic()) > 0:
            if self._kind in NEEDS_PERSON:
                self._answer_flushes(everyone=True)
            self.queue.sleep(left, wake_at=NEVER)
            if (self._stop is not None) != stopping:
                return
            if self._flushes and self._kind not in NEEDS_PERSON and not stopping:
                return

    def _answer_flushes(self, everyone: bool = False) -> None:
        for target, waiter in list(self._flushes):
            if (everyone or target <= self.shipper.through) and waiter.locked():
                waiter.release()

    def _empty(self) -> bool:
        return not len(self.queue) and not self.shipper.unsettled

    def _given_up(self) -> bool:
        return self._stop is not None and self._stop.over(monotonic(), self._progress)

    def _end(self) -> None:
        if not self.finished:
            self.finished = True
            left = self.shipper.abandon(UNAUTHORIZED if self._kind == UNAUTHORIZED else SHUTDOWN)
            try:
                self._notices.farewell(left, self.ledger.dropped(), self.problem)
                self.exporter.close()
            finally:
                self._on_end()
