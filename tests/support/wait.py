"""A bounded wait for another thread or process."""

from __future__ import annotations

import time
from collections.abc import Callable

_pause = time.sleep


def until(predicate: Callable[[], object], timeout: float = 60.0, what: str = "") -> None:
    """Return as soon as `predicate()` is true; fail after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > end:
            raise AssertionError(f"still not so after {timeout} s: {what or predicate}")
        _pause(0.005)
