"""Delivery: one batch after the other from *batched* to the verdict of its last event.

    Delivery.round ── tenacity: wait, stop ── Attempts.attempt ── redaction ── exporter.export ── EventStates.apply

All of it is called by the thread that delivers.
"""

from __future__ import annotations

import random
import time
from _thread import get_ident
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Protocol

from agentscope.config import Config
from agentscope.events import Event, QueuedEvent, ReadyEvent, Session, in_full
from agentscope.pipeline.redaction.redactor import redacted_all
from agentscope.protocols.base import BUSY, NEEDS_PERSON, PATIENCE, REFUSED, Batch, Dropped, Exporter, Outcome
from agentscope.protocols.drop_reasons import ENCODE_ERROR, RETRY_LIMIT, DropReason
from agentscope.protocols.ids import new_id

from .ledger import Counts, Left
from .process.awaiting import Waiter
from .process.clock import Turns, monotonic
from .queue import NEVER
from .reporting import Notices
from .states import EventStates

if TYPE_CHECKING:
    from .retry import Backoff, RetryCallState, Retrying, wait_for_backend

MOST_CRASHES = 3
"""Exceptions of the exporter in a row after which a batch is given up."""
FRESH = 4.0
"""Seconds that a wait takes at most while new events come in: they arrive soon after the end of an outage."""
LOOK = 1.0
"""Seconds between two looks for new events during a long wait."""
END_PATIENCE = 2.0
"""Seconds without an acknowledgement after which a shutdown gives up."""
LAST_WAIT = 0.05
"""Seconds between a refused connection and the last attempt of a shutdown."""
SHORTEST_WAIT = 0.1
HEARTBEAT_TIMEOUT = 5.0
"""Seconds that an answer to a heartbeat may take."""


@dataclass
class Stop:
    """A shutdown, requested at `since`, with the deadline `until`."""

    since: float
    until: float
    patience: float = END_PATIENCE
    refusals: int = 0
    hopeless: bool = False

    def note(self, outcome: Outcome) -> None:
        """Record an attempt. A refused connection is tried once more, a refused key is not."""
        self.refusals = self.refusals + 1 if outcome.kind == REFUSED and not outcome.delivered else 0
        self.hopeless = outcome.kind in NEEDS_PERSON or self.refusals > 1

    def deadline(self, progress: float) -> float:
        """Return the moment to give up, if the last acknowledgement came at `progress`."""
        return min(self.until, max(progress, self.since) + self.patience)

    def over(self, now: float, progress: float) -> bool:
        return self.hopeless or now >= self.deadline(progress)

    def wait(self, outcome: Outcome, asked: float, now: float, progress: float) -> float:
        """Return the seconds before the next attempt during a stop; `asked` is the wait without a stop."""
        if outcome.kind == REFUSED:
            return LAST_WAIT
        wait = max(min(asked, self.patience / 4), SHORTEST_WAIT) if outcome.kind == BUSY else 0.0
        return max(min(wait, self.deadline(progress) - now), 0.0)


class Figures:
    """The costs of delivery. Counted by the thread that delivers, read by any."""

    def __init__(self) -> None:
        self.requests = 0
        """Requests that were sent, answered or not."""
        self.sent_bytes = 0
        """Bytes of the request bodies, after compression."""
        self.retries = 0
        """Attempts that followed a failed one."""
        self.cpu_seconds = 0.0
        """CPU time of all threads that deliver."""
        self._thread = 0
        self._counted = 0.0

    def note(self, outcome: Outcome, retried: bool) -> None:
        self.requests += outcome.requests
        self.sent_bytes += outcome.sent_bytes
        self.retries += retried
        self.cpu_seconds += outcome.cpu_seconds
        self.count_cpu()

    def begin(self) -> None:
        """Count the CPU time of this thread from now on."""
        self._thread, self._counted = get_ident(), time.thread_time()

    def count_cpu(self) -> None:
        """Add this thread's CPU time since the last call."""
        now = time.thread_time()
        if self._thread == get_ident():
            self.cpu_seconds += now - self._counted
            self._counted = now


class Flush(NamedTuple):
    """A `flush()` that waits for the first `target` queued events; with a spool, for all before the number `seq`.

    until: the monotonic time at which it is released in any case.
    """

    target: int
    seq: int
    waiter: Waiter
    until: float


class Flushes:
    """All flushes that wait."""

    def __init__(self, states: EventStates) -> None:
        self._states = states
        self._waiting: deque[Flush] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, counts: Counts, seq: int, waiter: Waiter | None = None, until: float = inf) -> Flush:
        """Add a flush. `waiter` is released when its events are settled; the default is a lock."""
        if waiter is None:
            waiter = Lock()
            waiter.acquire()
        flush = Flush(counts.accepted - self._states.ledger.refused.total(), seq, waiter, until)
        self._waiting.append(flush)
        return flush

    def remove(self, flush: Flush) -> None:
        self._waiting.remove(flush)

    def answer(self, everyone: bool = False) -> None:
        """Release the flushes whose events are settled or whose time is over, or all of them."""
        for flush in list(self._waiting):
            if flush.waiter.locked() and (
                everyone or self._states.is_settled(flush.target, flush.seq) or monotonic() >= flush.until
            ):
                flush.waiter.release()

    def left_of(self, flush: Flush, counts: Counts) -> Left:
        """Count the events of this flush that are not settled."""
        if self._states.spool is not None:
            return Left() if self._states.is_settled(flush.target, flush.seq) else self.left(counts)
        return Left(min(max(flush.target - self._states.through, 0), counts.pending))

    def left(self, counts: Counts) -> Left:
        """Count all events that are not settled, except the incomplete ones."""
        incomplete = len(self._states.incomplete)
        spooled = max(counts.spooled - incomplete, 0)
        return Left(max(counts.pending + counts.spooled - incomplete - spooled, 0), spooled)


class Attempts:
    """Attempts at the batch in flight: redaction, one export, and its verdicts. `refill` reads events back from a spool."""

    def __init__(
        self,
        config: Config,
        session: Session,
        states: EventStates,
        exporter: Exporter,
        redact: Callable[[Event], Event],
    ) -> None:
        self.states = states
        self.refill: Callable[[], None] | None = None
        self.batch: Batch | None = None
        self._session = session
        self._exporter = exporter
        self._redact = redact
        self._pause = Turns()
        self._batch_size = config.batch_size
        self._crashes = 0
        self.is_told: bool | None = None
        """The backend takes the start of a step by itself, as the last attempt showed; None before the first answer."""
        self._latest: float | None = None
        """The time by which a running export should have returned."""

    def collect(self, now: float) -> None:
        """Move events to *batched* until the next batch is full."""
        if self.refill is not None and self.states.batched.room():
            self.refill()
        self.states.collect(now)

    def load(self, now: float) -> None:
        """Begin the next batch, unless one is in flight."""
        if not self.states.in_flight:
            self.batch, self._crashes = None, 0
            self.states.begin_batch(now)

    def attempt(self, timeout: float, now: float) -> Outcome:
        """Export the batch in flight once."""
        states, batch = self.states, self.batch
        self._pause.begin()
        if batch is None:
            events = self._redacted(list(states.in_flight.values()))
            incomplete, told = states.incomplete.events, states.ledger.unreported()
            batch = Batch(new_id(), self._session, events, told, parked=incomplete, closing=states.closing)
            batch.pause = self._pause
            self.batch = batch
        elif batch.server_errors >= PATIENCE and len(states.in_flight) < 2 * self._batch_size:
            # More events beside them show which one the backend fails on, and need not wait behind it.
            self.collect(now)
            states.begin_batch(now)
        if len(batch.events) != len(states.in_flight):
            # Events were added above, or by a thread that died before it had noted them.
            there = {event.seq for event in batch.events}
            added = self._redacted([event for event in states.in_flight.values() if event.seq not in there])
            batch.events = [*(event for event in batch.events if event.seq in states.in_flight), *added]
        if not batch.events:
            return Outcome()
        states.ledger.attempts += 1
        self._latest = monotonic() + timeout
        try:
            outcome = self._exporter.export(batch, timeout)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            outcome = self._crashed(error, batch)
        finally:
            self._latest = None
        if outcome.delivered or outcome.dropped:
            self.is_told = outcome.released
        states.apply(outcome, batch.events, batch.dropped, now)
        if outcome.reported:
            batch.dropped = {}
        batch.events = [event for event in batch.events if event.seq in states.in_flight] if states.in_flight else []
        states.close_oldest(now)
        return outcome

    def heartbeat(self) -> Outcome:
        """Say that the session lives, by a batch without events. A failure changes nothing."""
        try:
            return self._exporter.export(Batch(new_id(), self._session, (), is_heartbeat=True), HEARTBEAT_TIMEOUT)
        except KeyboardInterrupt:
            raise
        except BaseException:
            return Outcome()

    def ask(self, now: float) -> Outcome:
        """Ask a destination that has had nothing but starts whether it takes them by themselves."""
        outcome = self.heartbeat()
        self.is_told = outcome.released
        self.states.apply(Outcome(released=outcome.released), (), {}, now)
        return outcome

    def overdue(self, now: float) -> str | None:
        """Name an exporter that has not returned a second after its timeout."""
        latest = self._latest
        if latest is None or now < latest + 1:
            return None
        return f"{self._exporter.protocol} has not returned for {now - latest:.0f} s after its timeout"

    def give_up(self, reason: DropReason) -> None:
        """Drop all events in flight."""
        self.states.settle([], [(seq, reason) for seq in list(self.states.in_flight)])

    def _redacted(self, events: Sequence[QueuedEvent]) -> list[ReadyEvent]:
        """Return the events as redacted. An event whose redaction fails is dropped."""
        if self.states.spool is not None:
            return [in_full(event) for event in events]  # redacted before they went to disk
        kept: list[ReadyEvent] = []
        for event, cleaned in redacted_all(events, self._redact, self.states.redacted, self._pause):
            if isinstance(cleaned, str):
                self.states.settle([], [(event.seq, cleaned)])
            else:
                kept.append(cleaned)
        return kept

    def _crashed(self, error: BaseException, batch: Batch) -> Outcome:
        self._crashes += 1
        if self._crashes < MOST_CRASHES:
            return Outcome(problem=f"the exporter raised {type(error).__name__}", kind=BUSY)
        return Outcome(dropped=[Dropped(event.seq, ENCODE_ERROR, type(error).__name__) for event in batch.events])


class Durable(Protocol):
    """The spool, as delivery uses it: `spool.manager.Spooling`."""

    def note(self, outcome: Outcome) -> None: ...

    def see_to_storing(self) -> None: ...

    def sleep(self, seconds: float | None, wake_at: int) -> None: ...


class Delivery:
    """The delivery of batches: attempts, the waits between them, and the log lines about them.

    Another thread may set `stop` to request a shutdown, and `finished` to suppress further log lines.
    """

    def __init__(
        self, config: Config, attempts: Attempts, flushes: Flushes, notices: Notices, spooling: Durable | None
    ) -> None:
        self.stop: Stop | None = None
        self.finished = False
        """Nothing more will be delivered."""
        self.problem: str | None = None
        """The reason of the newest failure, in one sentence."""
        self.kind: str | None = None
        self.progress = monotonic()
        """The moment of the newest verdict."""
        self.figures = Figures()
        self._config = config
        self._attempts = attempts
        self._states = attempts.states
        self._flushes = flushes
        self._notices = notices
        self._spooling = spooling
        self._draw = random.Random(new_id()).random  # noqa: S311 - jitter, and never the user's own sequence
        self._retrying: Retrying | None = None
        self._wait: wait_for_backend | None = None
        self._recovery_backoff: Backoff | None = None
        self._number = 1
        """The number of this attempt since the last progress of its batch."""
        self._asked_to_wait = False
        """True if the wait comes from `Retry-After`."""

    def warm_up(self) -> None:
        """Import tenacity and put the policies together."""
        if self._retrying is not None:
            return
        from . import retry

        self._wait = retry.wait_for_backend(retry.wait_full_jitter(self._config.retry_delay, self._draw))
        self._recovery_backoff = retry.Backoff(self._wait)
        self._retrying = retry.Retrying(
            retry=retry.retry_if_result(lambda outcome: bool(self._states.in_flight)),
            wait=self._seconds,
            stop=retry.give_up_after(self._config.max_retries, self.over),
            sleep=self._sleep,
            before=self._begin,
            after=retry.count_anew_after_progress,
            retry_error_callback=self._stopped,
        )

    def round(self) -> None:
        """Begin a batch, unless one is in flight, and make attempts until it is settled or the shutdown is over."""
        self._attempts.collect(monotonic())
        self._attempts.load(monotonic())
        self.warm_up()
        assert self._retrying is not None
        self._retrying(self._attempt)

    def note_recovery(self, outcome: Outcome) -> float:
        """Record an attempt at events of an earlier process. Returns the seconds before the next attempt after a failure."""
        self.warm_up()
        assert self._recovery_backoff is not None
        self.figures.note(outcome, retried=self._recovery_backoff.failures > 0)
        seconds = self._recovery_backoff.after(outcome)
        self._note(outcome, self._recovery_backoff.failures)
        return seconds

    def over(self) -> bool:
        """Return whether the deadline of a shutdown is over."""
        return self.stop is not None and self.stop.over(monotonic(), self.progress)

    # ---- called by tenacity ----------------------------------------------------------------------------------------

    def _begin(self, state: RetryCallState) -> None:
        self._number = state.attempt_number

    def _attempt(self) -> Outcome:
        limit = self._config.timeout
        if self.stop is not None:
            limit = min(limit, self.stop.patience, max(self.stop.deadline(self.progress) - monotonic(), 0.05))
        outcome = self._attempts.attempt(limit, monotonic())
        self.figures.note(outcome, retried=self._number > 1)
        if self._spooling is not None:
            self._spooling.note(outcome)
        self._note(outcome, 0 if outcome.delivered or outcome.dropped else self._number)
        return outcome

    def _seconds(self, state: RetryCallState) -> float:
        from .retry import result, retry_after

        assert self._wait is not None
        outcome, seconds = result(state), self._wait(state)
        self._asked_to_wait = retry_after(outcome.retry_after, time.time()) is not None
        if self.stop is not None:
            return self.stop.wait(outcome, seconds, monotonic(), self.progress)
        return seconds

    def _sleep(self, seconds: float) -> None:
        """Wait for the next attempt. A flush or a stop ends the wait, unless the backend refuses the key or the address.

        New events end it within seconds, unless it comes from `Retry-After`.
        """
        now = monotonic()
        end, fresh = now + seconds, now + FRESH * (0.5 + self._draw() / 2)
        stopping = self.stop is not None
        patient, came = self._asked_to_wait or self.kind in NEEDS_PERSON, self._came()
        while (now := monotonic()) < end:
            if not patient and now >= fresh and self._came() > came:
                return
            self._flushes.answer(everyone=self.kind in NEEDS_PERSON)
            if self._spooling is not None:
                self._spooling.see_to_storing()
            until = end if patient else min(end, fresh if now < fresh else now + LOOK)
            (self._states.queue if self._spooling is None else self._spooling).sleep(until - now, NEVER)
            if (self.stop is not None) != stopping:
                return
            if self._flushes and self.kind not in NEEDS_PERSON and not stopping:
                return

    def _stopped(self, state: RetryCallState) -> None:
        if self._config.max_retries is not None and state.attempt_number > self._config.max_retries:
            self._attempts.give_up(RETRY_LIMIT)

    def _came(self) -> int:
        """Return the number of events that were put until now."""
        return self._states.ledger.taken + len(self._states.queue)

    def _note(self, outcome: Outcome, failures: int) -> None:
        if self.finished:
            return  # the shutdown interrupted the attempt: its failure is not the backend's
        if outcome.delivered or outcome.dropped:
            self.progress = monotonic()
        if self.stop is not None:
            self.stop.note(outcome)
        before, self.problem, self.kind = self.problem, outcome.problem, outcome.kind
        if outcome.problem is None:
            if before is not None:
                self._notices.recovery()
        elif self.stop is None:
            counts = self._states.counts()
            self._notices.failure(outcome.problem, outcome.kind, failures, counts.pending + counts.spooled, monotonic())
        self.tell_drops()

    def tell_drops(self) -> None:
        if dropped := self._states.ledger.dropped():
            self._notices.drops(dropped, monotonic())
