"""What delivery costs, for `tracker.stats()`."""

from __future__ import annotations

import time
from _thread import get_ident
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from agentscope.protocols.base import Outcome

SAMPLED = 61
"""A call is timed when the performance counter, in nanoseconds, is a multiple of this at its beginning. It is a prime, so
that clocks which tick in microseconds hit it just as often."""


class Meter:
    """Adds up samples. Threads that add at the same moment may lose one: it is an estimate anyway, and takes no lock."""

    __slots__ = ("_sampled",)

    def __init__(self) -> None:
        self._sampled = 0

    def reset(self) -> None:
        """Another process begins."""
        self._sampled = 0

    def add(self, nanoseconds: int) -> None:
        self._sampled += nanoseconds

    @property
    def seconds(self) -> float:
        """Spent in all calls so far, about."""
        return self._sampled * SAMPLED / 1e9


class Counts(NamedTuple):
    """What became of all events so far, at one moment."""

    accepted: int
    delivered: int
    pending: int
    """In memory only."""
    dropped: dict[str, int]
    """By reason."""
    spooled: int
    """On disk."""


class Left(NamedTuple):
    """What a flush found unsettled when its time was over."""

    pending: int = 0
    spooled: int = 0


class Figures:
    """Counted by the thread that delivers; any other may read."""

    def __init__(self) -> None:
        self.requests = 0
        """That were sent, answered or not."""
        self.sent_bytes = 0
        """Of their bodies, as they were sent."""
        self.retries = 0
        """Attempts after one that got nowhere."""
        self.cpu_seconds = 0.0
        """Of all threads that deliver."""
        self._thread = 0
        self._counted = 0.0

    def note(self, outcome: Outcome, retried: bool) -> None:
        """An attempt was made."""
        self.requests += outcome.requests
        self.sent_bytes += outcome.sent_bytes
        self.retries += retried
        self.cpu_seconds += outcome.cpu_seconds
        self.count_cpu()

    def begin(self) -> None:
        """This thread delivers from now on."""
        self._thread, self._counted = get_ident(), time.thread_time()

    def count_cpu(self) -> None:
        """Count what this thread has spent since it was counted before."""
        now = time.thread_time()
        if self._thread == get_ident():
            self.cpu_seconds += now - self._counted
            self._counted = now
