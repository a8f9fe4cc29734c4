"""An estimate of the time that calls take, for `tracker.stats()`."""

from __future__ import annotations

SAMPLED = 61
"""A call is timed when the performance counter, in nanoseconds, is a multiple of this at its beginning. It is a prime, so
that clocks which tick in microseconds hit it just as often."""


class Meter:
    """A sum of samples, without a lock: it is an estimate, and threads that add at the same moment may lose a sample."""

    __slots__ = ("_sampled",)

    def __init__(self) -> None:
        self._sampled = 0

    def reset(self) -> None:
        """Begin at zero, in a forked child."""
        self._sampled = 0

    def add(self, nanoseconds: int) -> None:
        self._sampled += nanoseconds

    @property
    def seconds(self) -> float:
        """Return the estimated time of all calls, in seconds."""
        return self._sampled * SAMPLED / 1e9
