"""Turns: the worker's own Python holds the interpreter's lock, and the agent's threads must not wait long for it."""

from __future__ import annotations

import time

from . import threads
from .clock import monotonic

STRETCH = 0.0005
"""Seconds of Python after which other threads get their turn."""
REST = 0.00005
"""Seconds that this takes at least. To sleep for none would be no turn: the lock is taken back before another thread is awake."""


class Turns:
    """To be called between short pieces of work, by one thread at a time; work begins with `begin`."""

    def __init__(self) -> None:
        self._since = 0.0

    def begin(self) -> None:
        self._since = monotonic()

    def __call__(self) -> None:
        # At the end of the process the others are over, or wait for this thread.
        if monotonic() - self._since >= STRETCH and not threads.ending():
            time.sleep(REST)  # the turn of the others
            self._since = monotonic()
