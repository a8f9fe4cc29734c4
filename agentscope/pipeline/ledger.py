"""The ledger: the counts of all events by outcome. It takes no lock, since a signal handler that counts could deadlock.

A call only increases a `Tally`. All other counts are written inside the moves of `states`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import NamedTuple

from agentscope.protocols.drop_reasons import DropReason

Totals = tuple[int, dict[str, int]]
"""The totals of settled events: delivered, and dropped by reason."""


class Counts(NamedTuple):
    """The terms of the identity at one moment: `accepted == delivered + pending + dropped + spooled`."""

    accepted: int
    delivered: int
    pending: int
    """In memory only."""
    dropped: dict[str, int]
    """Dropped events by reason."""
    spooled: int
    """On disk."""


class Left(NamedTuple):
    """The events that are not settled when the time of a flush is over."""

    pending: int = 0
    spooled: int = 0


class Tally:
    """A counter that any thread and any signal handler may increase. An increase is one C call, and so cannot be interrupted."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = count()

    def add(self) -> None:
        next(self._count)

    @property
    def value(self) -> int:
        # No Python version has another way to read a count without increasing it.
        return int(repr(self._count)[6:-1])


class Tallies:
    """Counters by name. A name's counter appears with its first event."""

    __slots__ = ("_tallies",)

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def add(self, name: str) -> None:
        tally = self._tallies.get(name)
        if tally is None:
            tally = self._tallies.setdefault(name, Tally())
        tally.add()

    def values(self) -> dict[str, int]:
        return {name: tally.value for name, tally in list(self._tallies.items())}

    def total(self) -> int:
        return sum(self.values().values())


class Ledger:
    """Counts of one session."""

    def __init__(self) -> None:
        self.refused = Tallies()
        """Events dropped at the call, by reason. They count as accepted."""
        self.invalid_calls = Tallies()
        self.shed = Tally()
        self.sampled_out = Tally()
        self.taken = 0
        """Events that left the queue."""
        self.delivered = 0
        self.duplicates = 0
        self.possibly_duplicated = 0
        self.attempts = 0
        self._dropped: dict[str, int] = {}
        self._reported: dict[str, int] = {}

    def drop(self, reason: DropReason, number: int = 1) -> None:
        if number:
            self._dropped[reason] = self._dropped.get(reason, 0) + number

    def with_verdicts(self, delivered: int, dropped: Iterable[DropReason]) -> Totals:
        """Return the totals after more verdicts: a number of delivered events, and one reason for each dropped event."""
        reasons = self._dropped.copy()
        for reason in dropped:
            reasons[reason] = reasons.get(reason, 0) + 1
        return self.delivered + delivered, reasons

    def settle(self, totals: Totals) -> None:
        """Set the totals. A second call with the same totals changes nothing."""
        self.delivered, self._dropped = totals

    def dropped(self) -> dict[str, int]:
        """Return all dropped events by reason."""
        return added((self._dropped.copy(), self.refused.values()))

    def settled(self) -> int:
        """Return the number of settled events that came through the queue."""
        return self.delivered + sum(self._dropped.copy().values())

    def unreported(self) -> dict[str, int]:
        """Return the counts of dropped events that no request has carried to the backend."""
        totals = self.dropped()
        rest = {reason: number - self._reported.get(reason, 0) for reason, number in totals.items()}
        return {reason: number for reason, number in rest.items() if number > 0}

    def reported(self, counts: Mapping[str, int]) -> None:
        """Record counts that the backend has acknowledged."""
        self._reported = added((self._reported, counts))


def added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add counts by name."""
    totals: dict[str, int] = {}
    for part in parts:
        for reason, number in part.items():
            totals[reason] = totals.get(reason, 0) + number
    return totals
