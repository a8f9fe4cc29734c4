"""The clock that scheduling goes by. Tests that freeze time must not stop the worker, so it is out of their reach.

freezegun replaces `time.monotonic` wherever a module holds it by that name; `clock_gettime` it leaves alone.
"""

from __future__ import annotations

import time

if hasattr(time, "clock_gettime"):

    def monotonic() -> float:
        """Seconds, from an arbitrary start, never backwards."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)

else:  # Windows

    class _Real:
        monotonic = staticmethod(time.monotonic)

    monotonic = _Real.monotonic
