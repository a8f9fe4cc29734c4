"""The clock of the scheduling, and the pauses of a busy worker.

The clock calls `clock_gettime`, because freezegun replaces `time.monotonic`, and tests that freeze time must not stop
the worker.
"""

from __future__ import annotations

import time
from typing import Any

from . import threads

if hasattr(time, "clock_gettime"):

    def monotonic() -> float:
        """Return seconds since an arbitrary start, which never go back."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)

else:  # Windows

    class _Real:
        monotonic = staticmethod(time.monotonic)

    monotonic = _Real.monotonic


JITTER_NS = 1_000_000
"""Nanoseconds by which threads that stamp at the same moment may be out of order."""
NEVER = 1 << 63


class SessionTime:
    """The time of one session, in nanoseconds since the epoch. It never goes back: a clock that was set back is corrected.

    A call takes the wall clock as its time, and sets `least` to it, unless it is before `least`. Otherwise it takes `now()`,
    which reads the monotonic clock too. `now()` is also called now and then.
    """

    __slots__ = ("_at", "_known", "least", "offset")

    def __init__(self) -> None:
        self.least = 0
        """The time of the last event. While `offset` is set it is later than any time."""
        self._known = time.time_ns()
        self._at = monotonic()
        """The last time that `now` returned, and the time by the monotonic clock then."""
        self.offset = 0
        """Nanoseconds by which the wall clock, after it was set back, is behind the time of the session."""

    def now(self) -> int:
        """Return the time of an event."""
        wall, moment = time.time_ns(), monotonic()
        passed = self._known + int((moment - self._at) * 1e9)
        latest, least = (self._known, passed) if self.offset else (self.least, self.least)
        if wall >= least - JITTER_NS:
            now, self.offset = max(wall, latest), 0
        else:
            now = max(passed, latest)
            self.offset = now - wall
        self._known, self._at = now, moment
        self.least = NEVER if self.offset else now
        return now

    def correct(self, fields: dict[str, Any]) -> None:
        """Add `offset` to the times of a run or step that were read after the clock was set back."""
        last = fields.get("ended_at", fields.get("started_at"))
        if type(last) is int and last <= time.time_ns():
            for name in ("started_at", "ended_at"):
                if type(fields.get(name)) is int:
                    fields[name] += self.offset


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
