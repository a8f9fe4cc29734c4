"""The clock of the scheduling, and the pauses of a busy worker.

The clock calls `clock_gettime`, because freezegun replaces `time.monotonic`, and tests that freeze time must not stop
the worker.
"""

from __future__ import annotations

import time

from . import threads

if hasattr(time, "clock_gettime"):

    def monotonic() -> float:
        """Return seconds since an arbitrary start, which never go back."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)

else:  # Windows

    class _Real:
        monotonic = staticmethod(time.monotonic)

    monotonic = _Real.monotonic


STRETCH = 0.0005
"""Seconds of Python after which other threads may run: the worker's Python holds the interpreter's lock."""
REST = 0.00005
"""Seconds of the pause, at least. With none, the lock would be taken back before another thread is awake."""


class Turns:
    """Pauses between short pieces of work, for one thread at a time. Work starts with `begin`."""

    def __init__(self) -> None:
        self._since = 0.0

    def begin(self) -> None:
        self._since = monotonic()

    def __call__(self) -> None:
        # At the end of the process the other threads are over, or wait for this one.
        if monotonic() - self._since >= STRETCH and not threads.ending():
            time.sleep(REST)
            self._since = monotonic()
