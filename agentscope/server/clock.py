"""The clock of a receiver: wall time that never goes back."""

from __future__ import annotations

import time


class Clock:
    """Seconds since the epoch. The wall clock is read once and the monotonic clock counts from there.

    A jump of the wall clock would otherwise make every run old enough to be deleted, or order events wrongly.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        return self._offset + time.monotonic()
