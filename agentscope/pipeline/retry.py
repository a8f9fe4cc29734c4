"""How long to wait before the next attempt, and when to stop. Policies are tenacity's kind of value; `sleep` is an argument.

tenacity is imported on first use: the worker pays for it, not `import agentscope`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from agentscope.protocols.base import NEEDS_PERSON, Outcome

if TYPE_CHECKING:
    from tenacity import RetryCallState
from agentscope.protocols.base import BUSY, REFUSED

FIRST = 0.5
LONGEST = 30.0
FRESH = 4.0
"""The longest wait while new events come in: they arrive within seconds of the end of an outage."""
RETRY_AFTER_LIMIT = 60.0
PROBE_INTERVAL = 60.0
"""A backend that needs a person (a wrong key, a wrong address) is asked once in this many seconds."""


def warm_up() -> None:
    """Import tenacity."""
    import_module("tenacity")


@dataclass
class Attempts:
    """Failures in a row. Progress, even of a part of a batch, begins the count anew."""

    failures: int = 0

    def note(self, outcome: Outcome) -> None:
        progress = bool(outcome.delivered or outcome.dropped)
        self.failures = 0 if progress else self.failures + 1


def backoff(outcome: Outcome, failures: int, jitter: float, wall: float, first: float = FIRST) -> float:
    """Seconds to wait: what the backend asked for, else full jitter under an exponential bound that begins with `first`.

    `jitter` is random in [0, 1); `wall` is the time of day in seconds since the epoch, for dates in `Retry-After`.
    """
    if outcome.kind in NEEDS_PERSON:
        return PROBE_INTERVAL
    asked = retry_after(outcome.retry_after, wall)
    if asked is not None:
        return asked
    if failures == 0:
        return 0.0
    return jitter * min(LONGEST, first * 2.0 ** min(failures - 1, 32))


def retry_after(value: str | None, wall: float) -> float | None:
    """`Retry-After` in seconds, within 0 and 60; None if it is absent or makes no sense. RFC 9110, 10.2.3."""
    if value is None:
        return None
    from email.utils import parsedate_to_datetime  # imports much, and few answers have this header

    text = value.strip()
    try:
        seconds = float(text) if text[:1].isdigit() else parsedate_to_datetime(text).timestamp() - wall
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT)


def persist(
    attempt: Callable[[], Outcome],
    *,
    unfinished: Callable[[Outcome], bool],
    wait: Callable[[Outcome], float],
    sleep: Callable[[float], None],
    stop: Callable[[], bool],
) -> None:
    """Call `attempt` until it is no longer `unfinished`, or until `stop()`; there is no limit on attempts."""
    from tenacity import Retrying, retry_if_result

    def pause(state: RetryCallState) -> float:
        return 0.0 if state.outcome is None else wait(state.outcome.result())

    Retrying(
        retry=retry_if_result(unfinished),
        wait=pause,
        stop=lambda state: stop(),
        sleep=sleep,
        retry_error_callback=lambda state: None,
    )(attempt)


PATIENCE = 2.0
"""Seconds without an acknowledgement after which the end waits no longer."""
SPOOLED_PATIENCE = 0.8
"""The same where everything is on disk already: another process can deliver it."""
LAST_WAIT = 0.05
"""Seconds before the one more try that a refused connection gets."""
SHORTEST_WAIT = 0.1


@dataclass
class Stop:
    """The end was asked for at `since` and must be over by `until`."""

    since: float
    until: float
    patience: float = PATIENCE
    refusals: int = 0
    hopeless: bool = False

    def note(self, outcome: Outcome) -> None:
        """An attempt came back. Nobody listening is tried once more, a refused key not at all."""
        self.refusals = self.refusals + 1 if outcome.kind == REFUSED and not outcome.delivered else 0
        self.hopeless = outcome.kind in NEEDS_PERSON or self.refusals > 1

    def deadline(self, progress: float) -> float:
        """When to give up, if the last acknowledgement came at `progress`."""
        return min(self.until, max(progress, self.since) + self.patience)

    def over(self, now: float, progress: float) -> bool:
        return self.hopeless or now >= self.deadline(progress)

    def wait(self, outcome: Outcome, asked: float, now: float, progress: float) -> float:
        """Seconds before the next attempt, where `asked` is what would be waited otherwise."""
        if outcome.kind == REFUSED:
            return LAST_WAIT
        wait = max(min(asked, self.patience / 4), SHORTEST_WAIT) if outcome.kind == BUSY else 0.0
        return max(min(wait, self.deadline(progress) - now), 0.0)
