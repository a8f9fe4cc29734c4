"""Who waits for events to be settled, and for which."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import NamedTuple

from .delivery import Shipper
from .stats import Counts, Left


class Flush(NamedTuple):
    """Somebody waits until so many of the events that came through the queue are settled."""

    target: int
    seq: int
    """Where there is a spool, and events may overtake each other: all that came before this number."""
    waiter: Lock


class Flushes:
    """All who wait, and the thread that tells them."""

    def __init__(self, shipper: Shipper) -> None:
        self._shipper = shipper
        self._waiting: deque[Flush] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, counts: Counts, seq: int) -> Flush:
        """Somebody waits for all that was accepted by now, before the number `seq`."""
        refused = self._shipper.ledger.refused.total()
        flush = Flush(counts.accepted - refused, seq, Lock())
        flush.waiter.acquire()
        self._waiting.append(flush)
        return flush

    def remove(self, flush: Flush) -> None:
        self._waiting.remove(flush)

    def answer(self, everyone: bool = False) -> None:
        """Let those go on whose events are settled, or all."""
        for flush in list(self._waiting):
            if flush.waiter.locked() and (everyone or self._is_settled(flush)):
                flush.waiter.release()

    def left_of(self, flush: Flush, counts: Counts) -> Left:
        """What of it is not settled."""
        if self._shipper.stage is not None:
            return Left() if self._is_settled(flush) else self.left(counts)
        return Left(min(max(flush.target - self._shipper.through, 0), counts.pending))

    def left(self, counts: Counts) -> Left:
        """What is not settled at this moment, but for what waits for its end."""
        parked = self._shipper.parked
        spooled = max(counts.spooled - parked, 0)
        return Left(max(counts.pending + counts.spooled - parked - spooled, 0), spooled)

    def _is_settled(self, flush: Flush) -> bool:
        if self._shipper.stage is None:
            return flush.target <= self._shipper.through
        return not self._shipper.has_before(flush.seq)
