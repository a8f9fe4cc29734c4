"""The batch in hand: taken from the queue, redacted, exported, and every event settled exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ..config import Config
from ..context import new_id
from ..events import Event, Session
from ..protocols import BUSY, PATIENCE, Batch, Dropped, Exporter, Outcome
from .batcher import Batcher
from .ledger import ENCODE_ERROR, REDACTION_ERROR, SHUTDOWN, Ledger
from .queue import EventQueue

MOST_CRASHES = 3
"""A batch whose export has raised so often is given up."""


class Shipper:
    """Moves events from the queue to their verdict. Only the thread that delivers calls it, but for `abandon`."""

    def __init__(
        self, config: Config, session: Session, ledger: Ledger, exporter: Exporter, redact: Callable[[Event], Event]
    ) -> None:
        self.queue = EventQueue(config.max_queue_bytes, config.max_batch_bytes)
        self.batcher = Batcher(config.batch_size, config.max_batch_bytes, config.flush_interval)
        self.ledger = ledger
        self.moves = 0
        """Odd while events are between two places: whoever counts then looks again."""
        self.through = 0
        """How many of the events taken from the queue are settled, counted in the queue's order."""
        self._session = session
        self._exporter = exporter
        self._redact = redact
        self._batch_size = config.batch_size
        self._held: dict[int, Event] = {}
        self._batch: Batch | None = None
        self._crashes = 0
        self._abandoned = False
        self._depth = 0
        self._settling = threading.RLock()

    @property
    def unsettled(self) -> int:
        """Events taken from the queue that have no verdict yet."""
        return len(self.batcher) + len(self._held)

    @property
    def in_hand(self) -> bool:
        return bool(self._held)

    @contextmanager
    def _move(self) -> Iterator[bool]:
        """Events change places here; gives False when everything has been abandoned and nothing may be moved any more."""
        with self._settling:
            self._depth += 1
            self.moves += self._depth == 1
            try:
                yield not self._abandoned
            finally:
                self.moves += self._depth == 1
                self._depth -= 1

    def collect(self, now: float) -> None:
        """Take what fits into the next batch out of the queue."""
        events, batcher = self.queue.events, self.batcher
        with self._move() as allowed:
            while allowed and events and batcher.room():
                batcher.add(events.popleft(), now)
                self.ledger.taken += 1

    def load(self, now: float) -> None:
        """Take the next batch in hand, unless there is one."""
        if self._held:
            return
        self._hold(now)
        self._batch, self._crashes = None, 0

    def attempt(self, timeout: float, now: float) -> Outcome:
        """Export the batch in hand once and settle what has a verdict."""
        batch = self._batch
        if batch is None:
            events = self._redacted(list(self._held.values()))
            batch = self._batch = Batch(new_id(), self._session, events, self.ledger.unreported())
        elif batch.server_errors >= PATIENCE:
            self._top_up(batch, now)
        if not batch.events:
            return Outcome()
        self.ledger.attempts += 1
        try:
            outcome = self._exporter.export(batch, timeout)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            outcome = self._crashed(error, batch)
        self._take_in(batch, outcome)
        return outcome

    def abandon(self, reason: str = SHUTDOWN) -> int:
        """Drop all that is left, for good, and say how much that was. May be called from any thread."""
        with self._move():
            self._abandoned = True
            left = self.unsettled
            while self.queue.events:
                self.queue.events.popleft()
                self.ledger.taken += 1
                left += 1
            self.batcher.clear()
            self._held.clear()
            if left:
                self.ledger.drop(reason, left)
            self.through = self.ledger.taken
        return left

    def _hold(self, now: float) -> list[Event]:
        with self._move() as allowed:
            events = self.batcher.take(now) if allowed else []
            self._held.update((event.seq, event) for event in events)
        return events

    def _redacted(self, events: list[Event]) -> list[Event]:
        """The events as they may be sent. One whose redaction fails is dropped, never sent as it is."""
        kept = []
        for event in events:
            try:
                kept.append(self._redact(event))
            except KeyboardInterrupt:
                raise
            except BaseException:  # a hook may call sys.exit, and extension modules have panics that are no Exception
                self._settle([], [(event.seq, REDACTION_ERROR)])
        return kept

    def _crashed(self, error: BaseException, batch: Batch) -> Outcome:
        self._crashes += 1
        if self._crashes < MOST_CRASHES:
            return Outcome(problem=f"the exporter raised {type(error).__name__}", kind=BUSY)
        return Outcome(dropped=[Dropped(event.seq, ENCODE_ERROR, type(error).__name__) for event in batch.events])

    def _take_in(self, batch: Batch, outcome: Outcome) -> None:
        with self._move() as allowed:
            if not allowed:
                return
            if outcome.reported:
                self.ledger.reported(batch.dropped)
                batch.dropped = {}
            self.ledger.duplicates += outcome.duplicates
            self.ledger.possibly_duplicated += outcome.possibly_duplicated
            self._settle(outcome.delivered, [(seq, reason) for seq, reason, _ in outcome.dropped])
        batch.events = [event for event in batch.events if event.seq in self._held]

    def _settle(self, delivered: Iterable[int], dropped: Iterable[tuple[int, str]]) -> None:
        with self._move() as allowed:
            if not allowed:
                return
            gone = [event for seq in delivered if (event := self._held.pop(seq, None)) is not None]
            self.ledger.delivered += len(gone)
            for seq, reason in dropped:
                event = self._held.pop(seq, None)
                if event is not None:
                    gone.append(event)
                    self.ledger.drop(reason)
            self.queue.release(gone)
            if not self._held:
                self.through = self.ledger.taken - len(self.batcher)

    def _top_up(self, batch: Batch, now: float) -> None:
        """A batch that the backend stumbles over needs healthy company to tell the culprit, and must not hold up the rest."""
        if len(self._held) < 2 * self._batch_size:
            self.collect(now)
            batch.events = [*batch.events, *self._redacted(self._hold(now))]
