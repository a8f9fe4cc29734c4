"""How long an end may take. Pure: every decision takes `now`, in monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocols import BUSY, NEEDS_PERSON, REFUSED, Outcome

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
