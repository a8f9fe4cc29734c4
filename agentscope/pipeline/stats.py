"""An estimate of the time that calls take, for `tracker.stats()`."""

from __future__ import annotations

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
