"""The worker: the one thread that delivers a session's events, and the calls by which other threads use it.

All of its state is on objects, not in the thread. A thread that dies is followed by another with the same batch in flight. Where
no thread can be started, `flush` and `shutdown` do the work in the caller's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from threading import Lock, RLock
from typing import TYPE_CHECKING

from agentscope.config import Config
from agentscope.events import Event, Session
from agentscope.pipeline.process.clock import monotonic
from agentscope.protocols.agentscope.batch import HEARTBEAT
from agentscope.protocols.base import UNAUTHORIZED, Exporter
from agentscope.protocols.drop_reasons import SHUTDOWN
from agentscope.protocols.ids import new_id

from .delivery import END_PATIENCE, Attempts, Delivery, Flush, Flushes, Stop
from .ledger import Ledger, Left
from .open_items import OpenItems, StepStart, Watch
from .process import threads
from .process.awaiting import Waiter
from .reporting import Notices
from .states import EventStates

if TYPE_CHECKING:
    from agentscope.pipeline.spool.manager import Spooling
    from agentscope.pipeline.spool.spool import Place

SPOOLED_PATIENCE = 0.8
"""`END_PATIENCE` where all events are on disk already: another process can deliver them."""
HEAD_START = 1.5
"""Seconds that the first delivery waits at most, while events are written to disk."""
LAST_WRITE = 1.0
"""Seconds that a shutdown waits for a disk that does not answer."""


class Worker:
    """One session: its event states, ledger and exporter, and the thread that works on them."""

    def __init__(
        self,
        config: Config,
        exporter: Exporter,
        redact: Callable[[Event], Event],
        on_end: Callable[[], None],
        place: Place | None = None,
        *,
        open_items: OpenItems,
        announce: Callable[[StepStart], int | None],
    ) -> None:
        prefix = new_id()[:24]
        self.session = Session(new_id(), f"{prefix[:14]}8{prefix[15:]}")  # version 8: a UUID of our own making
        self.ledger = Ledger()
        self.states = EventStates(config, self.ledger)
        self.queue = self.states.queue
        self.exporter = exporter
        self.running = False
        """True while a thread delivers or starts. A hint that saves the start of a thread for each event; `_works` decides."""
        self._works: dict[str, object] = {}
        """The token of the delivering thread, under one key. `setdefault` is one C call, so that it cannot be interrupted."""
        self._config = config
        self._on_end = on_end
        self._flushes = Flushes(self.states)
        self._warm = False
        """The modules that delivery needs have been imported."""
        self._closing = RLock()
        self._ending = False
        self._done = Lock()
        self._done.acquire()
        self._notices = Notices(config.on_drop)
        attempts = Attempts(config, self.session, self.states, exporter, redact)
        self._collect = attempts.collect
        self.spooling: Spooling | None = None
        if place is not None:
            from agentscope.pipeline.spool.manager import Spooling

            self.spooling = Spooling(config, place, self.session, self.states, exporter, redact)
            attempts.refill = self.spooling.refill
            self.spooling.watch(
                stopping=lambda: self.delivery.stop is not None, over=lambda: self.finished, crashed=self._crash
            )
        self._attempts = attempts
        self.watch = Watch(open_items, announce)
        self._hurried: int | None = None
        """The number of the first event that is sent without waiting for company."""
        self._alive_at = monotonic()
        self._was_told: bool | None = None
        self.delivery = Delivery(config, attempts, self._flushes, self._notices, self.spooling)

    @property
    def finished(self) -> bool:
        """True if nothing more will be delivered."""
        return self.delivery.finished

    @property
    def problem(self) -> str | None:
        """The reason why delivery fails, in one sentence; None if it works."""
        return self._attempts.overdue(monotonic()) or self.delivery.problem

    # ---- asked by any thread ---------------------------------------------------------------------------------------

    def start(self) -> bool:
        """Start the thread if it is not running. A signal handler may call this. False if no thread can be started.

        An exception of the host may interrupt it anywhere: the next call starts a thread. One too many ends at once.
        """
        if self.finished or self.running:
            return True
        try:
            self.running = True  # directly after the check, so that no other thread runs in between
            if threads.start(self._main, "agentscope-worker"):
                return True
        except BaseException:
            self.running = False
            raise
        self.running = False
        return False

    def look_soon(self) -> None:
        """Have the thread look at the open steps now. Any thread or signal handler may call this."""
        self.watch.next = 0.0
        (self.queue if self.spooling is None else self.spooling).ring()
        self.start()

    def begin_flush(self, seq: int, waiter: Waiter, until: float = inf) -> Flush | None:
        """Begin to send everything accepted before the number `seq`, and return at once. None if there is nothing to send.

        waiter: released when all of it is settled, and after the moment `until`. `end_flush` has to be called in any case.
        """
        counts = self.states.counts()
        if not counts.pending + counts.spooled or self.finished or threads.is_ours():
            return None
        flush = self._flushes.add(counts, seq, waiter, until)
        self._ring()
        return flush

    def help_flush(self, flush: Flush | None, timeout: float) -> bool:
        """Start the thread; if that fails, deliver in this one for `timeout` seconds. True if the caller should wait."""
        if flush is None:
            return False
        if self.start():
            return True
        self._inline(Stop(monotonic(), monotonic() + timeout))
        return False

    def end_flush(self, flush: Flush | None) -> Left:
        """Forget a flush, and return its events that are not settled.

        The waiter is released early while the backend refuses the key or the address, since waiting would not help.
        """
        if flush is None:
            # There was nothing to send when it began; later events are no part of it.
            return self._flushes.left(self.states.counts()) if threads.is_ours() or self.finished else Left()
        self._flushes.remove(flush)
        return self._flushes.left_of(flush, self.states.counts())

    def ask_to_stop(self, limit: float) -> None:
        """Request a shutdown within `limit` seconds, with delivery of the pending events. Returns at once and takes no lock."""
        if self.delivery.stop is None:
            now = monotonic()
            patience = END_PATIENCE if self.spooling is None else SPOOLED_PATIENCE
            self.delivery.stop = Stop(now, now + max(limit, 0.0), patience)
        self._ring()

    def wait_until_stopped(self) -> None:
        """Wait while acknowledgements come in, up to the limit; then drop or keep the rest."""
        stop = self.delivery.stop
        if stop is None or threads.is_ours():
            return
        try:
            if not self._empty() and not self.start():
                self._inline(stop)
            while self.running and not self.finished:
                # On a busy machine the imports alone may take seconds, whatever the backend does. With a spool
                # the events are safe, and the imports are not waited for.
                fair = self._warm or self.spooling is not None
                left = stop.deadline(self.delivery.progress if fair else monotonic()) - monotonic()
                if left <= 0:
                    break
                if self._done.acquire(timeout=left + 0.01):
                    self._done.release()
                    break
        finally:
            self._end()

    def _ring(self) -> None:
        """Wake both threads."""
        self.queue.ring()
        if self.spooling is not None:
            self.spooling.ring()

    def wait_for_thread(self, until: float) -> None:
        """Wait for the end of the thread, until this moment of the monotonic clock. Called after the shutdown.

        A thread inside the TLS library can crash a process that exits. The shutdown has closed its connection, so that it
        returns soon.
        """
        left = until - monotonic()
        if self.running and left > 0 and not threads.is_ours() and self._done.acquire(timeout=left):
            self._done.release()

    # ---- done by the thread that delivers --------------------------------------------------------------------------

    def _main(self) -> None:
        token = object()
        try:
            if self.finished or not self._takes_over(token):
                return
            self.delivery.figures.begin()
            self._see_to_storing()
            self._let_store()
            with threads.warm_up():
                self.delivery.warm_up()
                self.exporter.warm_up()
            threads.hush()
            if not self._warm:
                self._warm = True
                self.delivery.progress = max(self.delivery.progress, monotonic() - END_PATIENCE / 2)
            while self._cycle():
                pass
        except BaseException as error:
            # A thread of ours prints no traceback. The batch stays in flight: the next event, flush or shutdown starts
            # another thread.
            self._crash(error)
        finally:
            self.delivery.figures.count_cpu()
            worked = self._works.get("thread") is token
            if self._leaves(token):
                if worked and self.finished:
                    self._done.release()
                self._flushes.answer(everyone=True)

    def _takes_over(self, token: object) -> bool:
        """Become the only one that delivers. False if another thread does."""
        return self._works.setdefault("thread", token) is token

    def _leaves(self, token: object) -> bool:
        """Make room for another thread. False if another one delivers."""
        if self._works.get("thread", token) is not token:
            return False
        self._works.pop("thread", None)
        self.running = False  # last: a thread that found the place taken was counted as running until now
        return True

    def _crash(self, error: BaseException) -> None:
        self.delivery.problem = f"the worker stopped on {type(error).__name__}"
        self._notices.crash(error, monotonic())

    def _inline(self, stop: Stop) -> None:
        """Do the worker's work in the caller's thread, where no thread can be started."""
        token, before = object(), self.delivery.stop

        def work() -> None:
            self.delivery.figures.begin()
            self.exporter.warm_up()
            while not self.delivery.over():
                if self.spooling is not None:
                    self.spooling.store_all(monotonic() + LAST_WRITE)
                if before is stop:
                    self.states.close_all(monotonic())
                if not self.states.busy:
                    break
                self.delivery.round()

        try:
            if self._takes_over(token):
                self.delivery.stop = stop
                threads.own(work)()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._crash(error)
        finally:
            if self._works.get("thread") is token:
                self.delivery.figures.count_cpu()
                self.delivery.stop = before
            self._leaves(token)

    def _cycle(self) -> bool:
        """Deliver one batch, or sleep once. False when it is time to end."""
        self.delivery.figures.count_cpu()
        self._see_to_storing()
        self._look()
        self._collect(monotonic())
        self.delivery.tell_drops()
        self._flushes.answer()
        if self.delivery.stop is not None:
            self.states.close_all(monotonic())
        if self.delivery.stop is not None and (self._empty() or self.delivery.over()):
            self._end()
            return False
        wait = self.states.batched.wait(monotonic())
        if self.states.in_flight or (
            wait is not None and (wait == 0 or self.delivery.stop is not None or self._flushes or self._hurries())
        ):
            self.delivery.round()
            self._recover()
        elif not self._recover():
            self._sleep(wait, wake_at=1 if wait is None else max(self.states.batched.missing(), 1))
        return True

    def _look(self) -> None:
        """Announce the steps that take long, and say that this session lives while anything is open and nothing is sent."""
        now, is_told = monotonic(), self._attempts.is_told
        if self.delivery.stop is not None:
            return
        if now >= self.watch.next or (is_told and not self._was_told):
            self._was_told = is_told
            first = self.watch.look(now, is_told)
            if first == 0 and not self.states.busy:
                if is_told is None and self.states.incomplete:
                    self.delivery.figures.note(self._attempts.ask(now), retried=False)
                first = 0 if self.states.busy else None
            self._hurried = first if self._hurried is None else self._hurried
        if now >= self._heartbeat_at():
            self._alive_at = now
            if is_told and self.watch.is_open():
                self.delivery.figures.note(self._attempts.heartbeat(), retried=False)

    def _heartbeat_at(self) -> float:
        return max(self.delivery.progress, self._alive_at) + HEARTBEAT

    def _hurries(self) -> bool:
        """Return whether an announcement is among the batched events, which then are sent at once."""
        hurried = self._hurried
        if hurried is None or all(event.seq < hurried for event in self.states.batched):
            return False
        if not hurried:  # what was sent may tell what the destination takes
            self.watch.next = 0.0
        self._hurried = None
        return True

    def _see_to_storing(self) -> None:
        if self.spooling is not None:
            self.spooling.see_to_storing()

    def _let_store(self) -> None:
        """Wait until the first events are on disk: the imports of delivery would take the interpreter from their thread."""
        states, until = self.states, monotonic() + HEAD_START
        while self.spooling is not None and self.spooling.writing and not self._flushes and self.delivery.stop is None:
            waiting, left = len(self.queue) + states.stored - states.ready - states.disk_only, until - monotonic()
            if not waiting or left <= 0:
                return
            self.spooling.sleep(left, states.ready + waiting)

    def _recover(self) -> bool:
        return self.spooling is not None and self.spooling.recover(self.delivery)

    def _sleep(self, seconds: float | None, wake_at: int) -> None:
        look = self.watch.wait(monotonic(), self._heartbeat_at()) if self.delivery.stop is None else None
        if look is not None:
            seconds = look if seconds is None else min(seconds, look)
        wake_at = 1 if self._hurried is not None else wake_at
        if self.spooling is None:
            self.queue.sleep(seconds, wake_at)
        else:
            soon = self.spooling.recovery.wait(monotonic())
            self.spooling.sleep(soon if seconds is None else min(seconds, soon), wake_at)

    def _empty(self) -> bool:
        return not len(self.queue) and not self.states.unsettled

    def _end(self) -> None:
        # Two threads may come here, and a signal handler in the middle of it.
        if self._closing.acquire(timeout=2 * LAST_WRITE):
            try:
                if not self._ending:
                    self._ending = True
                    self._finish()
            finally:
                self._closing.release()

    def _finish(self) -> None:
        if self.spooling is not None:
            self.spooling.store_all(monotonic() + LAST_WRITE)
        self.delivery.finished = True
        left = self.states.abandon(UNAUTHORIZED if self.delivery.kind == UNAUTHORIZED else SHUTDOWN)
        try:
            self._notices.end(left, self.ledger.dropped(), self.problem, self.states.spooled)
            self.exporter.close()
            if self.spooling is not None:
                self._ring()
                self.spooling.close()
        finally:
            self._on_end()
