"""How events change places and get their verdicts, so that a thread may die at any line of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import NamedTuple

from ..events import Event
from .ledger import Ledger, Totals
from .queue import UNIT, EventQueue


class Moves:
    """Changes of place, one at a time. What an exception leaves half done is mended before anyone sees it."""

    def __init__(self, mend: Callable[[], None]) -> None:
        self.number = 0
        """Odd while events are between two places: whoever counts then looks again."""
        self.over = False
        """Everything has been abandoned, and nothing may be moved any more."""
        self._mend = mend
        self._depth = 0
        self._lock = RLock()

    @contextmanager
    def move(self) -> Iterator[bool]:
        """Events change places here; gives False when that is over."""
        with self._lock, self._one() as allowed:
            yield allowed

    @contextmanager
    def _one(self) -> Iterator[bool]:
        # Not in one with the lock: what is raised at the very `try` would leave it locked.
        depth = self._depth
        try:
            self._depth = depth + 1
            self.number |= 1
            yield not self.over
            self._moved(depth)
        except BaseException:
            try:
                self._mend()
            finally:
                self._moved(depth)
            raise

    def _moved(self, depth: int) -> None:
        self._depth, self.number = depth, self.number if depth else (self.number | 1) + 1


class Verdicts(NamedTuple):
    """Events that are being settled, and what all sums are once they are: totals, so that they may be set twice."""

    events: list[Event]
    totals: Totals
    released: int

    @classmethod
    def of(
        cls, delivered: Sequence[Event], dropped: Sequence[tuple[Event, str]], ledger: Ledger, queue: EventQueue
    ) -> Verdicts:
        events = [*delivered, *(event for event, _ in dropped)]
        totals = ledger.with_verdicts(len(delivered), [reason for _, reason in dropped])
        return cls(events, totals, queue._released + sum(event.size // UNIT + 1 for event in events))

    def enter(self, ledger: Ledger, queue: EventQueue) -> None:
        """Set the sums."""
        ledger.settle(self.totals)
        queue._released = self.released
