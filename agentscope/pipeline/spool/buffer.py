"""Between the queue and the batches where there is a spool: where each event is, in memory, on disk, or both.

What has been written goes on in memory while there is room; beyond that it is on disk only, and read back in its turn. What
could not be written goes on in memory, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from itertools import islice
from typing import NamedTuple

from agentscope.config import Config
from agentscope.events import QueuedEvent
from agentscope.pipeline.ledger import Ledger
from agentscope.pipeline.process import threads
from agentscope.pipeline.process.clock import monotonic
from agentscope.pipeline.queue import NEVER, Bell, EventQueue
from agentscope.protocols.base import UNAUTHORIZED, Outcome
from agentscope.protocols.drop_reasons import QUEUE_FULL, SPOOL_ERROR

from .spool import Saved, Spool

MOST_EVENTS = 2_000
MOST_BYTES = 1 << 20
"""What one transaction takes, about."""
MEMORY_SHARE = 4
"""One part in so many of `max_queue_bytes` may be taken by what is on disk as well."""


class Taken(NamedTuple):
    """What one transaction is about."""

    kept: list[QueuedEvent]
    dropped: list[tuple[QueuedEvent, str]]
    """With their reasons."""
    missing: list[QueuedEvent]
    gone: list[int]


Move = Callable[[], AbstractContextManager[bool]]


class Stage:
    """All that is between queue and batches. Every change of place happens inside `move`."""

    def __init__(
        self,
        config: Config,
        spool: Spool,
        queue: EventQueue,
        ledger: Ledger,
        move: Move,
        batched: Callable[[], Iterable[QueuedEvent]],
    ) -> None:
        self.spool = spool
        self.order_free = False
        """The backend takes events in any order: new ones need not wait for what is on disk."""
        self.wake_at = NEVER
        self._queue = queue
        self._ledger = ledger
        self._move = move
        self._batched = batched
        self._bell = Bell()
        self._storing: list[QueuedEvent] = []
        self._fresh: deque[QueuedEvent] = deque()
        self._old: deque[QueuedEvent] = deque()
        """Read back."""
        self._fresh_bytes = 0
        self._most_at_once = min(MOST_BYTES, config.spool_max_bytes // 32)
        self._most_bytes = config.max_queue_bytes // MEMORY_SHARE
        self._read_events, self._read_bytes = config.batch_size, config.max_batch_bytes
        self._disk_only = 0
        self._on_disk: set[int] = set()
        """What is in memory and on disk."""
        self._unsaved: dict[int, QueuedEvent] = {}
        """What is in memory, and could not be written."""
        self._deleting: set[int] = set()
        """What is settled, and perhaps on disk still."""
        self._doubtful: set[int] = set()
        """What may be on disk although its write failed."""
        self._fresh_next = False
        self._cursor = 0
        """What is on disk only has a greater number."""
        self._last = 0
        """And none greater than this."""

    # ---- counts ----------------------------------------------------------------------------------------------------

    @property
    def spooled(self) -> int:
        """Events on disk that are not settled."""
        return len(self._on_disk) + self._disk_only

    @property
    def waiting(self) -> int:
        """Events between the queue and the batches."""
        return len(self._storing) + len(self._fresh) + len(self._old) + self._disk_only

    @property
    def _here(self) -> int:
        return len(self._fresh) + len(self._old)

    def has_before(self, seq: int) -> bool:
        """Whether any event that came before this one is still here."""
        return (self._disk_only > 0 and self._cursor < seq) or any(
            event.seq < seq for part in (self._storing, self._fresh, self._old) for event in part
        )

    # ---- to disk: what the storer calls ----------------------------------------------------------------------------

    def take(self, ready: bool) -> tuple[list[QueuedEvent], list[QueuedEvent], list[int]]:
        """(from the queue, what could not be written before, what is to be deleted); the second only if the disk is `ready`."""
        events = self._queue.events
        with self._move() as allowed:
            # A thread that died in between has left its events here.
            size = 0
            while allowed and events and len(self._storing) < MOST_EVENTS and size < self._most_at_once:
                self._storing.append(events.popleft())
                size += self._storing[-1].size
                self._ledger.taken += 1
            missing: list[QueuedEvent] = []
            for event in self._unsaved.values() if ready else ():
                if size >= self._most_at_once or len(missing) >= MOST_EVENTS:
                    break
                missing.append(event)
                size += event.size
            return list(self._storing), missing, list(islice(self._deleting, 10 * MOST_EVENTS))

    def put(self, taken: Taken, saved: Saved) -> None:
        """What was taken has been written, or not."""
        with self._move() as allowed:
            if not allowed:
                return
            self._storing = []
            for _, reason in taken.dropped:
                self._ledger.drop(reason)
            self._queue.release([event for event, _ in taken.dropped])
            if saved.lost:
                self._lose()
            if saved.gone:
                self._deleting.difference_update(taken.gone)
            if saved.rows:
                self._now_saved(taken.missing)
            else:
                self._unsaved.update((event.seq, event) for event in taken.kept)
                if saved.doubtful:
                    self._doubtful.update(event.seq for event in (*taken.kept, *taken.missing))
            self._hand_over(taken.kept, saved.rows)
            self._queue.full_reason = self.spool.reason if self.spool.problem else QUEUE_FULL
        if self._here >= self.wake_at or self._disk_only:
            self.ring()

    @property
    def owes(self) -> bool:
        """Whether the disk is not as it should be: something is missing there, or has to be deleted."""
        return bool(self._unsaved or self._deleting)

    @property
    def idle(self) -> bool:
        """Nothing is on disk, and nothing has to be deleted."""
        return not self.spooled and not self._deleting

    def _now_saved(self, missing: list[QueuedEvent]) -> None:
        for event in missing:
            self._doubtful.discard(event.seq)
            if self._unsaved.pop(event.seq, None) is not None:
                self._on_disk.add(event.seq)
            else:
                self._deleting.add(event.seq)  # it has been settled meanwhile

    def _hand_over(self, events: list[QueuedEvent], saved: bool) -> None:
        spilled = []
        for event in events:
            in_turn = self.order_free or not self._disk_only
            if not saved or (in_turn and self._fresh_bytes + event.size <= self._most_bytes):
                self._fresh.append(event)
                self._fresh_bytes += event.size
                if saved:
                    self._on_disk.add(event.seq)
                continue
            if not self._disk_only:
                self._cursor = event.seq - 1
                if not self.order_free:  # what is in memory was there before
                    self._old.extend(self._fresh)
                    self._fresh.clear()
                    self._fresh_bytes = 0
            # Two threads' events may come in another order than they were numbered in.
            self._cursor = min(self._cursor, event.seq - 1)
            self._last = max(self._last, event.seq)
            self._disk_only += 1
            spilled.append(event)
        self._queue.release(spilled)

    def _lose(self) -> None:
        """The file is gone. What is in memory is written into the next one."""
        self._ledger.drop(SPOOL_ERROR, self._disk_only)
        self._disk_only = 0
        self._deleting.clear()
        for event in (*self._batched(), *self._old, *self._fresh):
            if event.seq in self._on_disk:
                self._unsaved[event.seq] = event
        self._on_disk.clear()

    # ---- to the batches --------------------------------------------------------------------------------------------

    def refill(self) -> None:
        """Read back what is on disk only, if it is its turn. Only the thread that delivers calls this."""
        while self._disk_only and len(self._old) < self._read_events:
            with threads.disk() as free:
                if not free or not self._read():
                    return

    def _read(self) -> bool:
        """One portion. False if nothing more can be had now."""
        cursor, last = self._cursor, self._last
        found = self.spool.read(cursor, last, self._read_events, self._read_bytes, monotonic())
        with self._move() as allowed:
            if not allowed:
                return False
            if found is None:
                self._lose()
                return False
            events, damaged = found
            self._disk_only -= damaged
            self._ledger.drop(SPOOL_ERROR, damaged)
            here = {event.seq for event in self._storing}
            new = [
                event
                for event in events
                if not any(event.seq in known for known in (self._on_disk, self._deleting, self._unsaved, here))
            ]
            self._old.extend(new)
            self._queue.take_back(new)
            self._on_disk.update(event.seq for event in new)
            self._disk_only -= len(new)
            if self._cursor == cursor:
                if events:
                    self._cursor = events[-1].seq
                elif not damaged:  # which is removed: behind it there may be more
                    self._cursor = last
                    # They should have been there: they are lost, and it must not be looked for them for ever.
                    if self.spool.problem is None and not here:
                        self._ledger.drop(SPOOL_ERROR, self._disk_only)
                        self._disk_only = 0
                    else:
                        self._cursor = cursor
                    return False
            return bool(new) or bool(events)

    def next(self) -> QueuedEvent | None:
        """The next event for a batch; old and new ones in turns, if their order does not matter."""
        if self._old and not (self.order_free and self._fresh and self._fresh_next):
            self._fresh_next = True
            return self._old.popleft()
        self._fresh_next = False
        if self._fresh and (self.order_free or not self._disk_only or self.spool.unreadable):
            event = self._fresh.popleft()
            self._fresh_bytes -= event.size
            return event
        return None

    def note(self, outcome: Outcome, order_free: bool) -> None:
        """What an attempt has told of the backend."""
        self.order_free = order_free
        if outcome.kind == UNAUTHORIZED:
            with threads.disk() as free:
                if free:
                    self.spool.refused()

    def settled(self, events: Iterable[QueuedEvent]) -> None:
        """These have their verdict: they need not be on disk any more."""
        for event in events:
            self._unsaved.pop(event.seq, None)
            if event.seq in self._on_disk or event.seq in self._doubtful:
                self._on_disk.discard(event.seq)
                self._doubtful.discard(event.seq)
                self._deleting.add(event.seq)
        if self._deleting:
            self._queue.ring()

    # ---- the end, and the other thread -----------------------------------------------------------------------------

    def ring(self) -> None:
        """Wake the thread that delivers, if it sleeps."""
        self.wake_at = NEVER
        self._bell.ring()

    def sleep(self, seconds: float | None, wake_at: int) -> None:
        """Wait until so many events are here, or somebody rings, or `seconds` are over. Only the thread that delivers does."""
        self.wake_at = wake_at
        if self._here < wake_at:
            self._bell.wait(seconds)
        self.wake_at = NEVER
        self._bell.hush()

    def forget(self) -> int:
        """The end: what is on disk stays there; how much that is."""
        self._disk_only = self.spooled
        self._on_disk.clear()
        self._unsaved.clear()
        self._storing = []
        self._fresh.clear()
        self._old.clear()
        return self._disk_only

    def close_spool(self, now: float, timeout: float) -> None:
        """After the end: delete what is settled, and let others have the rest; a disk that hangs is waited for `timeout` s."""
        with threads.disk(timeout) as free:
            if free:
                self.spool.save((), list(self._deleting), now)
                self.spool.close(self._disk_only)
