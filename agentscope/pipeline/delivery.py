"""The batch in hand: taken from the queue, redacted, exported, and every event settled exactly once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

from agentscope.config import Config
from agentscope.events import Event, QueuedEvent, ReadyEvent, Session, in_full
from agentscope.pipeline.process.gil import Turns
from agentscope.pipeline.redaction.redactor import redacted_all
from agentscope.protocols.base import BUSY, PATIENCE, Batch, Dropped, Exporter, Outcome, Part
from agentscope.protocols.drop_reasons import ENCODE_ERROR, SHUTDOWN
from agentscope.protocols.ids import new_id

from .batcher import Batcher
from .incomplete import Parking
from .ledger import Ledger, Moves, Verdicts
from .queue import EventQueue
from .stats import Counts

if TYPE_CHECKING:
    from agentscope.pipeline.spool.buffer import Stage

MOST_CRASHES = 3
"""A batch whose export has raised so often is given up."""
MOST_PARKED = 20_000
"""Events that may wait for the end of their run or step; beyond that the oldest are sent as they are."""
ENOUGH = 500
"""Events that are worth a request of their own."""
MOST_AT_ONCE = 64
"""Events that are taken from the queue before it is asked again whether the batch is full."""
_SEQ = attrgetter("seq")


class Shipper:
    """Moves events from the queue to their verdict. Only the thread that delivers calls it, but for `abandon`."""

    def __init__(
        self,
        config: Config,
        session: Session,
        ledger: Ledger,
        exporter: Exporter,
        redact: Callable[[Event], Event],
    ) -> None:
        self.queue = EventQueue(config.max_queue_bytes, config.max_batch_bytes)
        self.batcher = Batcher(config.batch_size, config.max_batch_bytes, config.flush_interval, ENOUGH)
        self.ledger = ledger
        self._moves = Moves(self._mend)
        self.move = self._moves.move
        """Events change places inside this. It gives False when nothing may be moved any more."""
        self.through = 0
        """How many of the events taken from the queue are settled, counted in the queue's order."""
        self.stage: Stage | None = None
        """Where events go to disk first, if there is a spool."""
        self.on_settled: Callable[[list[QueuedEvent]], None] | None = None
        """Told of events that have their verdict, inside a move."""
        self.session = session
        self._exporter = exporter
        self._redact = redact
        self._pause = Turns()
        self._batch_size = config.batch_size
        self._held: dict[int, QueuedEvent] = {}
        self._parking = Parking()
        self._most_parked_bytes = config.max_queue_bytes // 2
        self._closing: set[Part] = set()
        self._redacted_before: set[int] = set()
        self._batch: Batch | None = None
        self._verdicts: Verdicts | None = None
        """What is being settled."""
        self._crashes = 0
        self._abandoned = False

    @property
    def moves(self) -> int:
        """Odd while events are between two places."""
        return self._moves.number

    @property
    def unsettled(self) -> int:
        """Events taken from the queue that have no verdict yet."""
        staged = 0 if self.stage is None else self.stage.waiting
        return staged + len(self.batcher) + len(self._held) + len(self._parking)

    @property
    def spooled(self) -> int:
        """Those of them that are on disk."""
        return 0 if self.stage is None else self.stage.spooled

    @property
    def parked(self) -> int:
        """Those of them that wait for the end of their run or step."""
        return len(self._parking)

    @property
    def in_hand(self) -> bool:
        return bool(self._held)

    @property
    def busy(self) -> bool:
        """Whether there is anything to be sent now."""
        staged = self.stage is not None and self.stage.waiting > 0
        return staged or bool(self._held) or len(self.batcher) > 0 or len(self.queue) > 0

    def counts(self) -> Counts:
        """What became of all events so far."""
        ledger = self.ledger
        for look in range(2_000):
            moves, refused = self.moves, ledger.refused.total()
            queued, unsettled, spooled = len(self.queue), self.unsettled, self.spooled
            accepted = ledger.taken + queued + refused
            delivered, dropped = ledger.delivered, ledger.dropped()
            if not moves & 1 and moves == self.moves and refused == ledger.refused.total():
                break
            # The thread that moves them needs its turn. It may be this one, within a signal: a second is the most that is waited.
            time.sleep(0 if look < 1_000 else 0.001)
        return Counts(accepted, delivered, queued + unsettled - spooled, dropped, spooled)

    def in_batches(self) -> Iterator[QueuedEvent]:
        """Events that are batched, in hand or parked."""
        yield from self.batcher
        yield from self._held.values()
        yield from self._parking

    def has_before(self, seq: int) -> bool:
        """Whether an event that came before this one has no verdict and is not parked. Only where there is a spool."""
        assert self.stage is not None
        with self.move():
            return (
                (bool(self.queue.events) and self.queue.events[0].seq < seq)
                or self.stage.has_before(seq)
                or any(event.seq < seq for event in (*self.batcher, *self._held.values()))
            )

    def collect(self, now: float) -> None:
        """Take what fits into the next batch out of the queue."""
        events, batcher = self.queue.events, self.batcher
        if self.stage is not None:
            if batcher.room():
                self.stage.refill()
            with self.move() as allowed:
                while allowed and batcher.room() and (event := self.stage.next()) is not None:
                    batcher.add(event, now)
            return
        with self.move() as allowed:
            while allowed and (number := min(len(events), batcher.room(), MOST_AT_ONCE)):
                batcher.take(events.popleft, number, now)
                self.ledger.taken += number

    def load(self, now: float) -> None:
        """Take the next batch in hand, unless there is one."""
        if self._held:
            return
        self._batch, self._crashes = None, 0
        self._hold(now)

    def attempt(self, timeout: float, now: float) -> Outcome:
        """Export the batch in hand once and settle what has a verdict."""
        self._pause.begin()
        batch = self._batch
        if batch is None:
            events = self._redacted(list(self._held.values()))
            told = self.ledger.unreported()
            batch = Batch(new_id(), self.session, events, told, parked=self._parking.events, closing=self._closing)
            batch.pause = self._pause
            self._batch = batch
        elif batch.server_errors >= PATIENCE:
            self._top_up(now)
        if len(batch.events) != len(self._held):
            self._fill(batch)
        if not batch.events:
            return Outcome()
        self.ledger.attempts += 1
        try:
            outcome = self._exporter.export(batch, timeout)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            outcome = self._crashed(error, batch)
        self._take_in(batch, outcome, now)
        self._relieve(now)
        return outcome

    def give_up(self, reason: str) -> None:
        """Drop what is in hand."""
        self._settle([], [(seq, reason) for seq in list(self._held)])

    def abandon(self, reason: str = SHUTDOWN) -> int:
        """Drop all that is left, for good, and say how much that was. What is on disk stays there.

        May be called from any thread.
        """
        with self.move():
            self._moves.over = True
            left = self.unsettled
            if self.stage is not None:
                left -= self.stage.forget()
                if self.stage.spool.problem is not None and reason == SHUTDOWN:
                    reason = self.stage.spool.reason
            while self.queue.events:
                self.queue.events.popleft()
                self.ledger.taken += 1
                left += 1
            self.batcher.clear()
            self._held.clear()
            self._parking.clear()
            if left:
                self.ledger.drop(reason, left)
            self.through = self.ledger.taken
        return left

    def finish(self, now: float) -> None:
        """The end: once all else is settled, what is parked is sent as it is."""
        if self._parking and not self.busy:
            self._close(list(self._parking.events), now)

    def _close(self, parts: Iterable[Part], now: float) -> None:
        """Have these parts sent as they are. Their last event goes ahead, and takes the others along."""
        with self.move() as allowed:
            for part in parts if allowed else ():
                last = self._parking.last(part)
                self._closing.add(part)
                self._note_redacted((last,))
                self.batcher.add(last, now)
                self._parking.remove(last)

    def _relieve(self, now: float) -> None:
        """What never ends must not fill the queue: the oldest of it is sent as it is."""
        if len(self._parking) > MOST_PARKED or self._parking.bytes > self._most_parked_bytes:
            # What is on its way takes its parked events along: sent before it or after it, they would be torn apart.
            moving = {(event.run_id, event.step_id) for event in (*self._held.values(), *self.batcher)}
            oldest = self._parking.parts(without=moving)
            self._close(oldest[: len(self._parking.events) // 10 + 1], now)

    def _release(self, now: float) -> None:
        """Have everything that is parked sent event by event, before what came after it."""
        events = sorted(self._parking, key=lambda event: event.seq)
        self._note_redacted(events)
        self.batcher.put_back(events, now)
        self._parking.clear()
        self.through = self.ledger.taken - len(self.batcher)

    def _park(self, batch: Batch, seqs: set[int]) -> None:
        """Keep events for the end of their run or step."""
        for event in batch.events if seqs else ():
            if event.seq in seqs and event.seq in self._held:
                self._parking.add(event)
                del self._held[event.seq]

    def _hold(self, now: float) -> None:
        with self.move() as allowed:
            events = self.batcher.next() if allowed else []
            self._held.update(zip(map(_SEQ, events), events, strict=True))
            self.batcher.remove(events, now)

    def _note_redacted(self, events: Iterable[QueuedEvent]) -> None:
        if self.stage is None:
            self._redacted_before.update(event.seq for event in events)

    def _redacted(self, events: list[QueuedEvent]) -> list[ReadyEvent]:
        """The events as they may be sent. One whose redaction fails is dropped, never sent as it is."""
        if self.stage is not None:
            return [in_full(event) for event in events]  # that was done before they went to disk
        kept: list[ReadyEvent] = []
        for event, cleaned in redacted_all(events, self._redact, self._redacted_before, self._pause):
            if isinstance(cleaned, str):
                self._settle([], [(event.seq, cleaned)])
            else:
                kept.append(cleaned)
        return kept

    def _crashed(self, error: BaseException, batch: Batch) -> Outcome:
        self._crashes += 1
        if self._crashes < MOST_CRASHES:
            return Outcome(problem=f"the exporter raised {type(error).__name__}", kind=BUSY)
        return Outcome(dropped=[Dropped(event.seq, ENCODE_ERROR, type(error).__name__) for event in batch.events])

    def _take_in(self, batch: Batch, outcome: Outcome, now: float) -> None:
        with self.move() as allowed:
            if not allowed:
                return
            if outcome.reported:
                self.ledger.reported(batch.dropped)
                batch.dropped = {}
            self._park(batch, set(outcome.parked))
            self.ledger.duplicates += outcome.duplicates
            self.ledger.possibly_duplicated += outcome.possibly_duplicated
            self._settle(outcome.delivered, [(seq, reason) for seq, reason, _ in outcome.dropped])
            # What is still in hand goes first: it may be of the same runs, and takes what is parked along.
            if outcome.released and not self._held:
                self._release(now)
        batch.events = [event for event in batch.events if event.seq in self._held] if self._held else []

    def _settle(self, delivered: Iterable[int], dropped: Iterable[tuple[int, str]]) -> None:
        with self.move() as allowed:
            if not allowed:
                return
            reasons = dict(reversed(list(dropped)))  # of several, the first one counts
            find = self._find if self._parking else self._held.get
            gone = {event.seq: event for event in map(find, delivered) if event is not None}
            refused = [event for event in map(self._find, reasons) if event is not None and event.seq not in gone]
            told = [(event, reasons[event.seq]) for event in refused]
            # From here on all is known: what a thread does not live to carry out is left to `_mend`.
            self._verdicts = Verdicts.of([*gone.values()], told, self.ledger, self.queue)
            self._carry_out(self._verdicts)

    def _find(self, seq: int) -> QueuedEvent | None:
        """An event that has no verdict yet."""
        return self._held.get(seq) or self._parking.get(seq)

    def _carry_out(self, verdicts: Verdicts) -> None:
        """Settle these. To do so twice changes nothing."""
        others = [event for event in verdicts.events if self._held.pop(event.seq, None) is None]
        for event in others if self._parking else ():
            if self._parking.get(event.seq) is not None:
                self._parking.remove(event)
        if self._closing:
            self._closing.difference_update((event.run_id, event.step_id) for event in verdicts.events)
        if self._redacted_before:
            self._redacted_before.difference_update(map(_SEQ, verdicts.events))
        verdicts.enter(self.ledger, self.queue)
        if self.on_settled is not None:
            self.on_settled(verdicts.events)
        if not self._held:
            self.through = self.ledger.taken - len(self.batcher)
        self._verdicts = None

    def _mend(self) -> None:
        """A move was left by an exception: no event may be nowhere or in two places, and the sums must be right."""
        self._parking.recount()
        if self._verdicts is not None:
            self._carry_out(self._verdicts)
        # Every move puts an event into its new place first. Which of two places counts makes no difference.
        for event in self._parking:
            self._held.pop(event.seq, None)
        elsewhere = {event.seq for event in (*self._parking, *self._held.values())}
        self.batcher.keep(event for event in self.batcher if event.seq not in elsewhere)
        if not self._moves.over:  # it may lag behind by what was just taken, and is never ahead
            self.ledger.taken = max(self.ledger.taken, self.ledger.settled() + self.unsettled)
        if not self._held:
            self.through = self.ledger.taken - len(self.batcher)

    def _top_up(self, now: float) -> None:
        """A batch that the backend stumbles over needs healthy company to tell the culprit, and must not hold up the rest."""
        if len(self._held) < 2 * self._batch_size:
            self.collect(now)
            self._hold(now)

    def _fill(self, batch: Batch) -> None:
        """Have all that is in hand in this batch: it got company, or a thread died before it could say so."""
        there = {event.seq for event in batch.events}
        added = self._redacted([event for event in self._held.values() if event.seq not in there])
        batch.events = [*(event for event in batch.events if event.seq in self._held), *added]
