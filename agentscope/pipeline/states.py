"""The states of an event, and all moves between them.

    put ──> queued ──> batched ──> in flight ──> settled: delivered, or dropped for a reason
              │         ^    ^        │
              v         │    └── incomplete
            writing ──> stored

queued      in `queue`, as its call left it
batched     in `batched`, waits until the batch is due
in flight   in `in_flight`, in the batch that is being exported
incomplete  in `incomplete`, redacted, waits for the end of its run or step: some protocols send those only as a whole
settled     counted in `ledger`, and nowhere else
With a spool only:
writing     in `_writing`, in the transaction that takes it to disk
stored      in `_fresh` or `old`, or on disk only and counted in `disk_only`

A stored, batched, in-flight or incomplete event is on disk, too, if `_on_disk` has its number. An event is *spooled* while it is
on disk, and *pending* while it is in memory only.

Move                                From -> to                                         Thread
`queue.put`                         -> queued                                          any; takes no lock
`collect`                           queued or stored -> batched                        the one that delivers
`begin_batch`                       batched -> in flight                               the one that delivers
`apply`, `settle`                   in flight or incomplete -> settled,                the one that delivers
                                    in flight -> incomplete, incomplete -> batched
`close_oldest`, `close_all`         incomplete -> batched                              the one that delivers
`begin_write`                       queued -> writing                                  the one that writes
`end_write`                         writing -> stored or settled                       the one that writes
`end_read`                          on disk only -> in memory as well, or settled      the one that delivers
`abandon`                           all in memory -> settled                           any

After each move, and seen from any thread through `counts`:

    accepted == delivered + dropped + spooled + pending

All moves but `put` take one lock, and `number` is odd while one goes on: `counts` looks again then. A thread may die at any line
of a move. Before the lock is released, `_mend` makes the move whole. It can, because each move keeps one of two rules: an event
is in its new place before it leaves the old one, or all new values are computed first and then assigned by `_plan`, which may run
twice.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from operator import attrgetter
from threading import RLock
from typing import TYPE_CHECKING, NamedTuple

from agentscope.config import Config
from agentscope.events import Event, QueuedEvent, ReadyEvent, in_full
from agentscope.protocols.base import Outcome, Part
from agentscope.protocols.drop_reasons import QUEUE_FULL, SHUTDOWN, SPOOL_ERROR, DropReason

from .ledger import Counts, Ledger
from .queue import Batched, EventQueue, units

if TYPE_CHECKING:
    from agentscope.pipeline.spool.spool import Saved, Spool

ENOUGH = 500
"""Waiting events that make a batch due."""
MOST_AT_ONCE = 64
"""Events that are taken from the queue before the batch is measured again."""
MOST_INCOMPLETE = 20_000
"""Events that may be incomplete; beyond that the oldest are sent as they are."""
MOST_WRITTEN, MOST_WRITTEN_BYTES = 2_000, 1 << 20
"""Events and bytes of one transaction, about."""
MEMORY_SHARE = 4
"""Events that are on disk too may take `max_queue_bytes / MEMORY_SHARE` of memory."""
_SEQ, _SIZE = attrgetter("seq"), attrgetter("size")


class Incomplete:
    """The incomplete events by run or step, each list in the order of the calls."""

    def __init__(self) -> None:
        self.events: dict[Part, list[ReadyEvent]] = {}
        self.by_seq: dict[int, ReadyEvent] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.by_seq)

    def __iter__(self) -> Iterator[ReadyEvent]:
        return chain.from_iterable(self.events.values())

    def add(self, event: ReadyEvent) -> None:
        self.events.setdefault((event.run_id, event.step_id), []).append(event)
        self.by_seq[event.seq] = event
        self.bytes += event.size

    def remove(self, event: ReadyEvent) -> None:
        del self.by_seq[event.seq]
        self.bytes -= event.size
        part = (event.run_id, event.step_id)
        self.events[part].remove(event)
        if not self.events[part]:
            del self.events[part]

    def clear(self) -> None:
        self.events.clear()
        self.recount()

    def recount(self) -> None:
        """Derive all else from the lists of events, after a change that was broken off."""
        for part in [part for part, events in self.events.items() if not events]:
            del self.events[part]
        self.by_seq = {event.seq: event for event in self}
        self.bytes = sum(map(_SIZE, self))


class Write(NamedTuple):
    """One transaction of the spool."""

    new: list[QueuedEvent]
    """Events in state *writing*."""
    unsaved: list[Event]
    """Events in memory that an earlier transaction could not write."""
    gone: list[int]
    """The `seq` of settled events, to be deleted."""


class EventStates:
    """The states of all events of one session. `on_settled` is called with settled events, inside the move."""

    def __init__(
        self, config: Config, ledger: Ledger, on_settled: Callable[[Sequence[QueuedEvent]], None] | None = None
    ) -> None:
        self.queue = EventQueue(config.max_queue_bytes, config.max_batch_bytes)
        self.batched = Batched(config.batch_size, config.max_batch_bytes, config.flush_interval, ENOUGH)
        self.in_flight: dict[int, QueuedEvent] = {}
        self.incomplete = Incomplete()
        self.ledger = ledger
        self.number = 0
        """Odd while a move goes on."""
        self.through = 0
        """How many of the events taken from the queue are settled or incomplete, counted in the queue's order."""
        self.closing: set[Part] = set()
        """Runs and steps that are to be sent as they are, ended or not."""
        self.redacted: set[int] = set()
        """The `seq` of events on their way back from *incomplete*. They are not redacted again."""
        self.spool: Spool | None = None
        """The session's file; None without a spool. Only its condition is read here."""
        self.order_free = False
        """The backend takes events in any order: new ones need not wait for those on disk."""
        self._on_settled = on_settled
        self._most_incomplete_bytes = config.max_queue_bytes // 2
        self._most_written = min(MOST_WRITTEN_BYTES, config.spool_max_bytes // 32)
        self._most_fresh = config.max_queue_bytes // MEMORY_SHARE
        self._writing: list[QueuedEvent] = []
        self._fresh: deque[Event] = deque()
        """Stored after all events that are on disk only, and in memory as well."""
        self.old: deque[Event] = deque()
        """Stored before the newest event that was on disk only: read back, or left in memory."""
        self._fresh_bytes = 0
        self._fresh_next = False
        self.disk_only = 0
        """The number of events that are on disk only."""
        self.unread = (0, 0)
        """Invariant: `unread[0] < seq <= unread[1]` for each of them."""
        self._on_disk: set[int] = set()
        """In memory and on disk."""
        self._unsaved: dict[int, Event] = {}
        """In memory, and could not be written."""
        self.gone: set[int] = set()
        """Settled, and perhaps still on disk."""
        self._doubtful: set[int] = set()
        """Perhaps on disk although its write failed."""
        self._plan: Callable[[], None] | None = None
        self._over = False
        self._depth = 0
        self._lock = RLock()

    # ---- counts, from any thread -----------------------------------------------------------------------------------

    @property
    def spooled(self) -> int:
        return len(self._on_disk) + self.disk_only

    @property
    def stored(self) -> int:
        """Events in the states *writing* and *stored*."""
        return len(self._writing) + len(self._fresh) + len(self.old) + self.disk_only

    @property
    def ready(self) -> int:
        """Stored events in memory."""
        return len(self._fresh) + len(self.old)

    @property
    def unsettled(self) -> int:
        """Events taken from the queue and not settled."""
        return self.stored + len(self.batched) + len(self.in_flight) + len(self.incomplete)

    @property
    def busy(self) -> bool:
        """True if an event is stored, queued, batched or in flight."""
        return self.stored > 0 or bool(self.in_flight) or len(self.batched) > 0 or len(self.queue) > 0

    def counts(self) -> Counts:
        """Return the terms of the identity at one moment."""
        ledger = self.ledger
        for look in range(2_000):
            number, refused = self.number, ledger.refused.total()
            queued, unsettled, spooled = len(self.queue), self.unsettled, self.spooled
            accepted = ledger.taken + queued + refused
            delivered, dropped = ledger.delivered, ledger.dropped()
            if not number & 1 and number == self.number and refused == ledger.refused.total():
                break
            # The moving thread needs the processor. It may be this very thread, interrupted by a signal: wait 1 s at most.
            time.sleep(0 if look < 1_000 else 0.001)
        return Counts(accepted, delivered, queued + unsettled - spooled, dropped, spooled)

    def is_settled(self, target: int, seq: int) -> bool:
        """Return whether the first `target` queued events are settled or incomplete.

        With a spool events overtake each other. Then the condition is for the events with a number below `seq`.
        """
        if self.spool is None:
            return target <= self.through
        with self.move():
            queued = self.queue.events
            return not (
                (bool(queued) and queued[0].seq < seq)
                or (self.disk_only > 0 and self.unread[0] < seq)
                or any(event.seq < seq for event in chain(self._writing, self._fresh, self.old, self.batched))
                or any(number < seq for number in self.in_flight)
            )

    # ---- the frame of every move -----------------------------------------------------------------------------------

    @contextmanager
    def move(self) -> Iterator[bool]:
        """Lock the states for a move. Gives False after `abandon`: then no event may move."""
        with self._lock, self._one() as allowed:
            yield allowed

    @contextmanager
    def _one(self) -> Iterator[bool]:
        # Apart from the lock: an exception at the very `try` would leave it locked.
        depth = self._depth
        try:
            self._depth = depth + 1
            self.number |= 1
            yield not self._over
            self._moved(depth)
        except BaseException:
            try:
                self._mend()
            finally:
                self._moved(depth)
            raise

    def _moved(self, depth: int) -> None:
        self._depth, self.number = depth, self.number if depth else (self.number | 1) + 1

    def _carry_out(self, plan: Callable[[], None]) -> None:
        self._plan = plan
        plan()
        self._plan = None

    def _mend(self) -> None:
        """Make a move whole that an exception has left: no event in no state or in two, and all sums right."""
        self.incomplete.recount()
        if self._plan is not None:
            self._carry_out(self._plan)
        for event in self.incomplete:
            self.in_flight.pop(event.seq, None)
        later = {*map(_SEQ, self.incomplete), *self.in_flight}
        self.batched.keep(event for event in self.batched if event.seq not in later)
        if self.spool is not None:
            later.update(map(_SEQ, self.batched))
            self._fresh = deque(event for event in self._fresh if event.seq not in later)
            self.old = deque(event for event in self.old if event.seq not in later)
            self._fresh_bytes = sum(map(_SIZE, self._fresh))
        if not self._over:  # it may lag behind the last events that were taken, and is never ahead
            self.ledger.taken = max(self.ledger.taken, self.ledger.settled() + self.unsettled)
        self._note_through()

    def _note_through(self) -> None:
        if not self.in_flight:
            self.through = self.ledger.taken - len(self.batched)

    # ---- queued or stored -> batched -> in flight --------------------------------------------------------------------

    def collect(self, now: float) -> None:
        """queued, or stored with a spool -> batched: as many as fit into the next batch."""
        events, batched = self.queue.events, self.batched
        with self.move() as allowed:
            if self.spool is not None:
                while allowed and batched.room() and (source := self._next_stored()) is not None:
                    batched.add(source[0], now)
                    event = source.popleft()
                    if source is self._fresh:
                        self._fresh_bytes -= event.size
                return
            while allowed and (number := min(len(events), batched.room(), MOST_AT_ONCE)):
                batched.take(events.popleft, number, now)
                self.ledger.taken += number

    def _next_stored(self) -> deque[Event] | None:
        """Return the list with the next stored event. Old and fresh events take turns if their order does not matter."""
        assert self.spool is not None
        if self.old and not (self.order_free and self._fresh and self._fresh_next):
            self._fresh_next = True
            return self.old
        self._fresh_next = False
        if self._fresh and (self.order_free or not self.disk_only or self.spool.unreadable):
            return self._fresh
        return None

    def begin_batch(self, now: float) -> None:
        """batched -> in flight: the next batch, beside the events that are in flight already."""
        with self.move() as allowed:
            events = self.batched.next() if allowed else []
            self.in_flight.update(zip(map(_SEQ, events), events, strict=True))
            self.batched.remove(events, now)

    # ---- in flight -> settled or incomplete --------------------------------------------------------------------------

    def apply(self, outcome: Outcome, events: Sequence[ReadyEvent], told: Mapping[str, int], now: float) -> None:
        """Make all moves that follow from the outcome of an attempt.

        events: those of the attempt, as they were sent. told: the dropped counts in the same request.
        """
        with self.move() as allowed:
            if not allowed:
                return
            if outcome.reported:
                self.ledger.reported(told)
            waiting = set(outcome.parked)
            for event in events if waiting else ():
                if event.seq in waiting and event.seq in self.in_flight:
                    self.incomplete.add(event)
                    del self.in_flight[event.seq]
            self.ledger.duplicates += outcome.duplicates
            self.ledger.possibly_duplicated += outcome.possibly_duplicated
            self.settle(outcome.delivered, [(seq, reason) for seq, reason, _ in outcome.dropped])
            # Events in flight go first: they may be of the same runs, and take the incomplete ones along.
            if outcome.released and not self.in_flight:
                self._reopen_all(now)

    def settle(self, delivered: Iterable[int], dropped: Iterable[tuple[int, DropReason]]) -> None:
        """in flight or incomplete -> settled. Of several verdicts the first counts; an unknown `seq` is passed over."""
        with self.move() as allowed:
            if not allowed:
                return
            reasons = dict(reversed(list(dropped)))
            find = self._find if self.incomplete else self.in_flight.get
            gone = {event.seq: event for event in map(find, delivered) if event is not None}
            refused = [event for event in map(self._find, reasons) if event is not None and event.seq not in gone]
            totals = self.ledger.with_verdicts(len(gone), [reasons[event.seq] for event in refused])
            events = [*gone.values(), *refused]
            released = self.queue.released + units(events)

            def carry_out() -> None:
                self._forget(events)
                self.ledger.settle(totals)
                self.queue.released = released
                if self._on_settled is not None:
                    self._on_settled(events)
                self._note_through()

            self._carry_out(carry_out)
        if self.gone:
            self.queue.ring()

    def _find(self, seq: int) -> QueuedEvent | None:
        return self.in_flight.get(seq) or self.incomplete.by_seq.get(seq)

    def _forget(self, events: Sequence[QueuedEvent]) -> None:
        """Remove settled events from all states."""
        others = [event.seq for event in events if self.in_flight.pop(event.seq, None) is None]
        for seq in others if self.incomplete else ():
            if (event := self.incomplete.by_seq.get(seq)) is not None:
                self.incomplete.remove(event)
        if self.closing:
            self.closing.difference_update((event.run_id, event.step_id) for event in events)
        if self.redacted:
            self.redacted.difference_update(map(_SEQ, events))
        for seq in map(_SEQ, events if self.spool is not None else ()):
            self._unsaved.pop(seq, None)
            if seq in self._on_disk or seq in self._doubtful:
                self.gone.add(seq)
                self._on_disk.discard(seq)
                self._doubtful.discard(seq)

    # ---- incomplete -> batched -------------------------------------------------------------------------------------

    def close_all(self, now: float) -> None:
        """Send all incomplete runs and steps as they are, once nothing else is left to send. Called at a shutdown."""
        if self.incomplete and not self.busy:
            self._close(list(self.incomplete.events), now)

    def close_oldest(self, now: float) -> None:
        """Send the oldest incomplete runs and steps as they are, if there are too many: they must not fill the queue."""
        if len(self.incomplete) > MOST_INCOMPLETE or self.incomplete.bytes > self._most_incomplete_bytes:
            # Parts on their way take their incomplete events along: sent before or after, they would be torn apart.
            moving = {(event.run_id, event.step_id) for event in (*self.in_flight.values(), *self.batched)}
            oldest = [part for part in self.incomplete.events if part not in moving]
            self._close(oldest[: len(self.incomplete.events) // 10 + 1], now)

    def _close(self, parts: Collection[Part], now: float) -> None:
        """Move the last event of each part to *batched*. The protocol sends the other events of the part with it."""
        with self.move() as allowed:
            for part in parts if allowed else ():
                last = self.incomplete.events[part][-1]
                self.closing.add(part)
                self._note_redacted((last,))
                self.batched.add(last, now)
                self.incomplete.remove(last)

    def _reopen_all(self, now: float) -> None:
        """Move all incomplete events to *batched*, before all later ones. The backend takes them one by one."""
        events = sorted(self.incomplete, key=_SEQ)
        self._note_redacted(events)
        self.batched.put_back(events, now)
        self.incomplete.clear()
        self._note_through()

    def _note_redacted(self, events: Iterable[QueuedEvent]) -> None:
        if self.spool is None:
            self.redacted.update(map(_SEQ, events))

    # ---- with a spool: queued -> writing -> stored, and back from disk -----------------------------------------------

    @property
    def owes(self) -> bool:
        """True if an event has yet to be written to disk or deleted there."""
        return bool(self._unsaved or self.gone)

    def begin_write(self, ready: bool) -> Write:
        """queued -> writing. Unsaved events are part of the transaction only if the disk is `ready`."""
        queued = self.queue.events
        with self.move() as allowed:
            # A thread that died has left its events in `_writing`.
            size = 0
            while allowed and queued and len(self._writing) < MOST_WRITTEN and size < self._most_written:
                self._writing.append(queued.popleft())
                size += self._writing[-1].size
                self.ledger.taken += 1
            unsaved: list[Event] = []
            for event in self._unsaved.values() if ready else ():
                if size >= self._most_written or len(unsaved) >= MOST_WRITTEN:
                    break
                unsaved.append(event)
                size += event.size
            return Write(list(self._writing), unsaved, list(islice(self.gone, 10 * MOST_WRITTEN)))

    def end_write(
        self, write: Write, kept: Sequence[Event], dropped: Sequence[tuple[int, DropReason]], saved: Saved
    ) -> None:
        """writing -> stored or settled.

        kept: the events of `write.new` after redaction. dropped: (seq, reason) of those that were not kept.
        """
        with self.move() as allowed:
            if not allowed:
                return
            assert self.spool is not None
            reasons = dict(dropped)
            losses = list(reasons.values())
            disk_only, (cursor, last) = self.disk_only, self.unread
            fresh, old, fresh_bytes = deque(self._fresh), deque(self.old), self._fresh_bytes
            on_disk, unsaved = set(self._on_disk), dict(self._unsaved)
            deleting, doubtful = set(self.gone), set(self._doubtful)
            if saved.lost:
                losses += [SPOOL_ERROR] * disk_only
                disk_only = 0
                unsaved.update(self._in_memory_and(on_disk))
                on_disk, deleting = set(), set()
            if saved.gone:
                deleting.difference_update(write.gone)
            if saved.rows:
                for event in write.unsaved:
                    doubtful.discard(event.seq)
                    # One that is no longer unsaved was settled meanwhile.
                    (on_disk if unsaved.pop(event.seq, None) is not None else deleting).add(event.seq)
            else:
                unsaved.update((event.seq, event) for event in kept)
                if saved.doubtful:
                    doubtful.update(event.seq for event in (*kept, *write.unsaved))
            spilled: list[QueuedEvent] = []
            for event in kept:
                in_turn = self.order_free or not disk_only
                if not saved.rows or (in_turn and fresh_bytes + event.size <= self._most_fresh):
                    fresh.append(event)
                    fresh_bytes += event.size
                    if saved.rows:
                        on_disk.add(event.seq)
                    continue
                if not disk_only:
                    cursor = event.seq - 1
                    if not self.order_free:  # events in memory were there before
                        old += fresh
                        fresh, fresh_bytes = deque(), 0
                cursor = min(cursor, event.seq - 1)  # two threads' events may be queued in another order than numbered
                last = max(last, event.seq)
                disk_only += 1
                spilled.append(event)
            totals = self.ledger.with_verdicts(0, losses)
            refused = [event for event in write.new if event.seq in reasons]
            released = self.queue.released + units(refused) + units(spilled)
            full_reason = self.spool.reason if self.spool.problem else QUEUE_FULL

            def carry_out() -> None:
                self._fresh, self.old, self._fresh_bytes = fresh, old, fresh_bytes
                self.disk_only, self.unread = disk_only, (cursor, last)
                self._on_disk, self._unsaved, self.gone, self._doubtful = on_disk, unsaved, deleting, doubtful
                self._writing = []
                self.ledger.settle(totals)
                self.queue.released, self.queue.full_reason = released, full_reason

            self._carry_out(carry_out)

    def _in_memory_and(self, on_disk: Collection[int]) -> dict[int, Event]:
        """Return the events that are in memory as well as on disk, by number."""
        here = chain(self.batched, self.in_flight.values(), self.incomplete, self.old, self._fresh)
        return {event.seq: in_full(event) for event in here if event.seq in on_disk}

    def end_read(self, found: tuple[list[Event], int] | None, asked: tuple[int, int]) -> bool:
        """on disk only -> in memory as well. Returns False if there is nothing more to be read now.

        found: (events, number of damaged ones); None if the file is lost. asked: the value of `unread` that was read.
        """
        with self.move() as allowed:
            if not allowed:
                return False
            assert self.spool is not None
            on_disk, unsaved, deleting = self._on_disk, self._unsaved, self.gone
            new: list[Event] = []
            more, disk_only, lost, (reached, newest) = False, self.disk_only, 0, self.unread
            if found is None:
                lost, unsaved = disk_only, {**unsaved, **self._in_memory_and(on_disk)}
                on_disk, deleting = set(), set()
            else:
                events, lost = found
                known = {*on_disk, *deleting, *unsaved, *map(_SEQ, self._writing)}
                new = [event for event in events if event.seq not in known]
                on_disk = on_disk.union(map(_SEQ, new))
                more = bool(events)
                if reached == asked[0] and events:
                    reached = events[-1].seq
                elif reached == asked[0] and not (lost or self.spool.problem or self._writing):
                    # Events that should be there are lost: they are not looked for again. (More may follow damaged ones.)
                    reached, lost = asked[1], disk_only
            disk_only -= lost + len(new)
            old = self.old + deque(new)
            totals = self.ledger.with_verdicts(0, [SPOOL_ERROR] * lost)
            released = self.queue.released - units(new)

            def carry_out() -> None:
                self.old, self.disk_only, self.unread = old, disk_only, (reached, newest)
                self._on_disk, self._unsaved, self.gone = on_disk, unsaved, deleting
                self.ledger.settle(totals)
                self.queue.released = released

            self._carry_out(carry_out)
            return more

    # ---- the end ---------------------------------------------------------------------------------------------------

    def abandon(self, reason: DropReason = SHUTDOWN) -> int:
        """Drop all events that are in memory only, and return their number. Nothing moves afterwards."""
        with self.move():
            if self.spool is not None and self.spool.problem is not None and reason == SHUTDOWN:
                reason = self.spool.reason
            waiting = self.queue.events.copy()  # a put that comes later abandons its event itself
            queued = set(map(_SEQ, waiting))
            spooled, taken = self.spooled, self.ledger.taken + len(queued)
            stored = chain(self._writing, self._fresh, self.old)
            here = chain(waiting, stored, self.batched, self.in_flight.values(), self.incomplete)
            released = self.queue.released + units(here)
            left = self.unsettled - spooled + len(queued)
            totals = self.ledger.with_verdicts(0, [reason] * left)

            def carry_out() -> None:
                self._over = True
                while self.queue.events and self.queue.events[0].seq in queued:
                    self.queue.events.popleft()
                for place in (self._on_disk, self._unsaved, self._fresh, self.old, self._writing):
                    place.clear()
                self.disk_only, self._fresh_bytes = spooled, 0
                self.batched.clear()
                self.in_flight.clear()
                self.incomplete.clear()
                self.ledger.taken = self.through = taken
                self.ledger.settle(totals)
                self.queue.released = released

            self._carry_out(carry_out)
        return left
