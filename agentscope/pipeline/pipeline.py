"""The pipeline: from a call to a verdict for its event.

    call ─ snapshot ─ queue ─┤ worker ├─ redact ─ batch ─ exporter ─ verdict ─ ledger

`Pipeline` is what a face holds. It outlives forks: the child goes on with a worker, a session and an exporter of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from agentscope.config import Config
from agentscope.events import (
    RUN_UPDATE,
    STEP_START,
    DeferredEvent,
    DeferredFields,
    Event,
    FieldValue,
    PlainFields,
    PlainStep,
    QueuedEvent,
    in_full,
    united,
)
from agentscope.protocols.base import Exporter
from agentscope.protocols.drop_reasons import SHUTDOWN
from agentscope.protocols.ids import new_id, sampled
from agentscope.types import FlushResult, Stats

from .flushing import Deliveries, Part
from .ledger import Left
from .open_items import OpenItems, StepStart
from .process import clock, lifecycle, threads
from .queue import CROWDED
from .redaction.redactor import preview
from .reporting import say
from .stats import Meter
from .worker import Worker

if TYPE_CHECKING:
    from agentscope.pipeline.spool.spool import Place

__all__ = ["Pipeline"]

OVERHEAD, STEP_OVERHEAD = 850, 600
"""The approximate memory of an `Event` and of a `PlainStep` without payloads, in bytes."""
MOST_SEALED = 512
"""Payloads are sealed while fewer events are queued. The bound limits the time in which the worker encodes them."""
PACE, PACE_NS = 61, 15_000_000
"""Payloads are also sealed while `PACE` calls take longer than `PACE_NS`: the queue is long, but the load is low."""

FIRST_STEP = 100_000_000_000
"""The first number of a step: numbers from here on have twelve digits without formatting."""

_new = tuple.__new__


class Pipeline(Deliveries):
    """Takes events from any thread at any moment, and delivers them in the background."""

    def __init__(
        self,
        config: Config,
        exporter: Callable[[], Exporter],
        redact: Callable[[Event], Event],
        place: Place | None = None,
        open_items: OpenItems | None = None,
    ) -> None:
        super().__init__((self,))
        self._config = config
        self.open_items = OpenItems() if open_items is None else open_items
        self._exporter = exporter
        self._redact = redact
        self._place = place
        self._sample_rate = config.sample_rate
        self._selective = config.sample_rate < 1.0
        """True if `_admits` must be asked: the sample rate is below 1, or the pipeline is closed."""
        self._mark = lifecycle.mark
        self._closed = False
        self._before_stop: list[Callable[[], object]] = []
        self._said: set[str] = set()
        self._inherited: list[Worker] = []
        """The workers of the parent process. They are kept, since a finalizer would close connections that the parent uses."""
        self.meter = Meter()
        self.sealing = True
        """True while payloads are to be sealed, for the worker to encode: few events are queued, or they come slowly."""
        self._slow = True
        self._paced_at = 0
        self._begin()
        lifecycle.know(self)

    def _begin(self) -> None:
        self._worker = Worker(
            self._config,
            self._exporter(),
            self._redact,
            lambda: lifecycle.ended(self),
            self._place,
            open_items=self.open_items,
            announce=self.announce,
        )
        self.meter.reset()
        self._time = clock.SessionTime()
        self._next = count(1).__next__  # one C call: every caller gets a number of its own
        self._step_prefix, self._next_step = new_id()[:24], count(FIRST_STEP).__next__
        self._dropped_at_flush = 0

    def _own_worker(self) -> Worker:
        """Return the worker of this process."""
        if not self._mark[0]:
            lifecycle.look_for_fork()
        return self._worker

    def preview(self, value: object) -> Any:
        """Return `value` as it would be sent as the input of a step; None if it would not be."""
        return preview(value, self._config.max_payload_bytes, self._redact)

    @property
    def closed(self) -> bool:
        return self._closed

    def new_step_id(self) -> str:
        """Return a UUID: a random prefix and a number, which costs a tenth of a random one."""
        if not self._mark[0]:
            lifecycle.look_for_fork()
        return f"{self._step_prefix}{self._next_step()}"

    def put(
        self,
        type_: str,
        run_id: str,
        step_id: str | None,
        parent_id: str | None,
        fields: dict[str, FieldValue] | PlainFields | DeferredFields,
        size: int,
        urgent: bool,
    ) -> bool:
        """Enqueue one event, whose payloads take `size` bytes, unless its run is sampled out. True if it was accepted.

        Never blocks, never raises, takes no lock. `urgent` events may use the room that is kept for them.
        """
        if not self._mark[0]:
            lifecycle.look_for_fork()
        worker = self._worker
        if (self._selective or threads.callbacks) and not self._admits(run_id):
            return False
        queue = worker.queue
        event: QueuedEvent
        seq = self._next()
        if type(fields) is tuple:
            event = _new(PlainStep, (seq, run_id, step_id, parent_id, size + STEP_OVERHEAD, *fields))
            if self._time.offset and event.started_at + event.elapsed <= time.time_ns():
                event = event._replace(started_at=event.started_at + self._time.offset)
        else:
            size += OVERHEAD
            now, session = time.time_ns(), self._time
            if now >= session.least:
                session.least = now
            else:
                now = session.now()
                if session.offset and type(fields) is dict:
                    session.correct(fields)
            if type(fields) is DeferredFields:
                event = DeferredEvent(type_, seq, now, run_id, step_id, parent_id, fields.make, size)
            else:
                event = _new(Event, (type_, seq, now, run_id, step_id, parent_id, fields, size))
        refusal = queue.put(event, urgent, True)
        if refusal is not None:
            if refusal == CROWDED:
                event, shed = _without_payloads(event)
                refusal = queue.put(event, urgent)
                if shed and refusal is None:
                    worker.ledger.shed.add()
            if refusal is not None:
                worker.ledger.refused.add(refusal)
                return False
        if not seq % PACE:
            self._time.now()
            moment = time.perf_counter_ns()
            self._slow = moment - self._paced_at > PACE_NS
            self._paced_at = moment
        self.sealing = self._slow or len(queue.events) < MOST_SEALED
        if not worker.running:
            lifecycle.started(self)
            worker.start()
            if worker.finished:
                worker.states.abandon()  # it ended between the check above and the append
        return True

    def _admits(self, run_id: str) -> bool:
        """Return False, and count the event, if it is sampled out, recorded by a hook for events, or after the end."""
        ledger = self._worker.ledger
        if self._sample_rate < 1.0 and not sampled(run_id, self._sample_rate):
            ledger.sampled_out.add()
        elif threads.callbacks and threads.in_callback():
            ledger.invalid_calls.add("inside_callback")
        elif self._closed:
            ledger.refused.add(SHUTDOWN)
        else:
            return True
        return False

    def watch(self) -> None:
        """Have the worker look at the open steps from now on. Called after a step was added while nothing was watched."""
        self.open_items.watched = True
        if not self._closed:
            if not self._worker.running:
                lifecycle.started(self)
            self._worker.look_soon()

    def announce(self, start: StepStart) -> int | None:
        """Enqueue the start of an open step as an event, and return its number; 0 if its run is sampled out.

        None if there is no room now. It is not counted as dropped then, since the event of the step's end tells everything.
        """
        if self._sample_rate < 1.0 and not sampled(start.run_id, self._sample_rate):
            return 0
        run_id, step_id, parent_id, fields, size, started_at = start
        # In the order of events it stands at the start of the step, before the end that may come at any moment.
        seq = self._next()
        type_ = RUN_UPDATE if step_id is None else STEP_START
        event = Event(type_, seq, started_at, run_id, step_id, parent_id, fields, size + OVERHEAD)
        return seq if self._worker.queue.put(event, False, True) is None else None

    def holds(self, type_: str, run_id: str, step_id: str | None) -> bool:
        """Return whether an event is queued. After the host's exception interrupts `put`, nothing else shows it."""
        return self._worker.queue.holds(type_, run_id, step_id)

    def flush(self, timeout: float) -> FlushResult:
        """Wait until every event accepted before is settled, for `timeout` seconds at most."""
        return self.begin_flush()(timeout)

    def begin_flush(self) -> Callable[[float], FlushResult]:
        """Begin to send every event accepted before, and return a function that waits for it as `flush` does."""
        before, wait = self._dropped_at_flush, self.hurry()
        return lambda timeout: self._result(wait(timeout), before)

    def hurry(self) -> Callable[[float], Left]:
        """Do the work of `begin_flush`, but leave the drops to the result of the next flush."""
        worker, gate = self._own_worker(), Lock()
        gate.acquire()
        flush = worker.begin_flush(self._next(), gate)

        def wait(timeout: float) -> Left:
            try:
                if worker.help_flush(flush, timeout):
                    gate.acquire(timeout=max(timeout, 0.0))
            finally:
                left = worker.end_flush(flush)
            return left

        return wait

    def part(self, until: float, released: Callable[[], None]) -> Part:
        """Begin the part of this pipeline in a `Flushing`."""
        before = self._dropped_at_flush
        return Part(self._own_worker(), self._next(), until, released, lambda left: self._result(left, before))

    def shutdown(self, timeout: float) -> FlushResult:
        """Deliver the pending events while acknowledgements come in, for `timeout` seconds at most; then stop."""
        worker, before = self._own_worker(), self._dropped_at_flush
        self._close()
        worker.ask_to_stop(timeout)
        worker.wait_until_stopped()
        worker.wait_for_thread(clock.monotonic() + lifecycle.LAST_GRACE)
        counts = worker.states.counts()
        return self._result(Left(counts.pending, counts.spooled), before)

    def call_before_stop(self, hook: Callable[[], object]) -> None:
        """Call a hook before events are refused for good. It may put events, and must neither wait nor raise."""
        self._before_stop.append(hook)

    def retire(self) -> None:
        """Deliver the pending events, then end the thread. Called when the tracker is garbage-collected, so it takes no lock."""
        self.ask_to_stop()
        if len(self._worker.queue):
            self._worker.start()  # an exception of the host interrupted the call that would have started it

    def ask_to_stop(self, timeout: float | None = None) -> None:
        """Request a shutdown within `timeout` seconds (default `shutdown_timeout`), and return at once."""
        self._close()
        if len(self._worker.queue):
            lifecycle.started(self)
        self._worker.ask_to_stop(self._config.shutdown_timeout if timeout is None else timeout)

    def _close(self) -> None:
        for hook in list(self._before_stop):
            try:
                self._before_stop.remove(hook)
            except ValueError:
                continue  # another thread ends it, too
            hook()
        self._closed = self._selective = True

    def wait_until_stopped(self) -> None:
        self._worker.wait_until_stopped()

    def wait_for_thread(self, until: float) -> None:
        self._worker.wait_for_thread(until)

    def after_fork_in_child(self) -> None:
        """Begin with an empty queue: the queued events and the open steps belong to the parent."""
        self._inherited.append(self._worker)
        self.open_items.clear()
        self._begin()

    def after_restore(self) -> None:
        """Begin a new session in a clone of this process, and wait until the session of its image has ended."""
        before = self._worker
        self._begin()
        before.ask_to_stop(self._config.shutdown_timeout)
        before.wait_until_stopped()

    def invalid_call(self, kind: str, message: str) -> None:
        """Count an invalid call, and log the first of its kind."""
        self._worker.ledger.invalid_calls.add(kind)
        self.say_once(kind, message)

    def say_once(self, kind: str, message: str) -> None:
        """Log the first message of its kind."""
        if kind not in self._said:
            self._said.add(kind)
            say(message)

    def stats(self) -> Stats:
        worker = self._own_worker()
        ledger = worker.ledger
        figures = worker.delivery.figures
        accepted, delivered, pending, dropped, spooled = worker.states.counts()
        return Stats(
            accepted=accepted,
            delivered=delivered,
            dropped=MappingProxyType(dropped),
            pending=pending,
            spooled=spooled,
            recovered=worker.spooling.recovery.recovered if worker.spooling is not None else 0,
            unfinished=len(worker.states.incomplete),
            queued_bytes=worker.queue.bytes,
            duplicates=ledger.duplicates,
            possibly_duplicated=ledger.possibly_duplicated,
            payloads_shed=ledger.shed.value,
            sampled_out=ledger.sampled_out.value,
            invalid_calls=MappingProxyType(ledger.invalid_calls.values()),
            attempts=ledger.attempts,
            retries=figures.retries,
            requests=figures.requests,
            sent_bytes=figures.sent_bytes,
            worker_seconds=figures.cpu_seconds,
            calls=accepted + ledger.sampled_out.value,
            call_seconds=self.meter.seconds,
            protocol=worker.exporter.protocol,
            problem=worker.problem or (worker.spooling.problem if worker.spooling is not None else None),
        )

    def _result(self, left: Left, before: int) -> FlushResult:
        """Make a result. `before`: the number of drops at the flush before. Concurrent flushes all report a drop."""
        dropped = sum(self._worker.ledger.dropped().values())
        since, self._dropped_at_flush = dropped - before, max(dropped, self._dropped_at_flush)
        wrong = left.pending or left.spooled or since
        return FlushResult(
            pending=left.pending, dropped=since, spooled=left.spooled, problem=self._worker.problem if wrong else None
        )


def _without_payloads(event: QueuedEvent) -> tuple[QueuedEvent, bool]:
    """Return the event without payload fields, and True if it had any."""
    if isinstance(event, DeferredEvent):
        return event, False
    full = in_full(event)
    shed = [name for name, value in full.fields.items() if isinstance(value, bytes)]
    if not shed:
        return event, False
    kept: dict[str, FieldValue] = {name: value for name, value in full.fields.items() if name not in shed}
    kept["truncated"] = united(full.fields.get("truncated"), shed)
    size = OVERHEAD + sum(len(value) for value in kept.values() if isinstance(value, str))
    return full._replace(fields=kept, size=size), True
