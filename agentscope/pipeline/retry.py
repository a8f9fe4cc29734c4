"""The wait before the next attempt at a batch, as tenacity's policies.

Only the worker imports this module, so that `import agentscope` does not import tenacity.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_result,
    stop_after_attempt,
    stop_any,
    stop_never,
    wait_exponential,
)
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from agentscope.protocols.base import NEEDS_PERSON, Outcome

__all__ = ["Backoff", "RetryCallState", "Retrying", "count_anew_after_progress", "give_up_after", "retry_if_result"]

FIRST = 0.5
LONGEST = 30.0
RETRY_AFTER_LIMIT = 60.0
PROBE_INTERVAL = 60.0
"""Seconds between two attempts at a backend that needs a person: the key or the address is wrong."""


class wait_full_jitter(wait_base):
    """A random part of a bound that begins with `first` seconds and doubles with each failure in a row, up to 30.

    draw: a random number in [0, 1). tenacity's own `wait_random_exponential` draws from `random`, whose sequence is the user's.
    """

    def __init__(self, first: float, draw: Callable[[], float]) -> None:
        self._bound = wait_exponential(multiplier=first, max=LONGEST)
        self._draw = draw

    def __call__(self, retry_state: RetryCallState) -> float:
        return self._draw() * self._bound(retry_state) if retry_state.attempt_number else 0.0


class stop_when(stop_base):
    """Stop as soon as `over()` is true."""

    def __init__(self, over: Callable[[], bool]) -> None:
        self._over = over

    def __call__(self, retry_state: RetryCallState) -> bool:
        return self._over()


class wait_for_backend(wait_base):
    """The seconds in `Retry-After`, a minute after a refused key or a wrong address, else the wait of another policy."""

    def __init__(self, otherwise: wait_base, wall: Callable[[], float] = time.time) -> None:
        self._otherwise = otherwise
        self._wall = wall

    def __call__(self, retry_state: RetryCallState) -> float:
        outcome = result(retry_state)
        if outcome.kind in NEEDS_PERSON:
            return PROBE_INTERVAL
        asked = retry_after(outcome.retry_after, self._wall())
        return self._otherwise(retry_state) if asked is None else asked


def give_up_after(retries: int | None, over: Callable[[], bool]) -> stop_base:
    """Stop after this number of retries without progress (None: no limit), or as soon as `over()` is true."""
    return stop_any(stop_never if retries is None else stop_after_attempt(retries + 1), stop_when(over))


def result(retry_state: RetryCallState) -> Outcome:
    """Return the outcome of the newest attempt."""
    assert retry_state.outcome is not None
    outcome: Outcome = retry_state.outcome.result()
    return outcome


def count_anew_after_progress(retry_state: RetryCallState) -> None:
    """Make `attempt_number` the number of failures in a row. An attempt that settles a part of a batch is no failure."""
    outcome = result(retry_state)
    if outcome.delivered or outcome.dropped:
        retry_state.attempt_number = 0


class Backoff:
    """The waits between attempts that are no retries of one batch, such as those at events of earlier processes."""

    def __init__(self, wait: wait_base) -> None:
        self._wait = wait
        self._state = RetryCallState(Retrying(), None, (), {})

    @property
    def failures(self) -> int:
        """The number of consecutive failures before the next attempt."""
        return self._state.attempt_number - 1

    def after(self, outcome: Outcome) -> float:
        """Return the seconds to wait after an attempt with this outcome."""
        self._state.set_result(outcome)
        count_anew_after_progress(self._state)
        seconds = self._wait(self._state)
        self._state.prepare_for_next_attempt()
        return seconds


def retry_after(value: str | None, wall: float) -> float | None:
    """`Retry-After` in seconds, within 0 and 60; None if it is absent or makes no sense. RFC 9110, 10.2.3.

    wall: seconds since the epoch.
    """
    if value is None:
        return None
    from email.utils import parsedate_to_datetime  # imports much, and few answers have this header

    text = value.strip()
    try:
        seconds = float(text) if text[:1].isdigit() else parsedate_to_datetime(text).timestamp() - wall
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT)
