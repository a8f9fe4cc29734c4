"""One batch after the other to its verdict: attempts, waits between them, and what is said about it."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from agentscope.config import Config
from agentscope.pipeline.process.clock import monotonic
from agentscope.protocols.base import NEEDS_PERSON, Outcome
from agentscope.protocols.drop_reasons import RETRY_LIMIT

from .delivery import Shipper
from .flush import Flushes
from .queue import NEVER
from .reporting import Notices
from .retry import FRESH, Attempts, Stop, backoff, persist, retry_after
from .stats import Figures

if TYPE_CHECKING:
    from agentscope.pipeline.spool.manager import Spooling

LOOK = 1.0
"""Seconds between two looks for new events during a long wait."""


class Sender:
    """Done by the thread that delivers. Other threads ask for the end by setting `stop`, and `finished` when it has come."""

    def __init__(
        self, config: Config, shipper: Shipper, flushes: Flushes, notices: Notices, spooling: Spooling | None
    ) -> None:
        self.stop: Stop | None = None
        self.finished = False
        """Nothing more will be delivered."""
        self.problem: str | None = None
        """Why delivery does not get on, in one sentence."""
        self.kind: str | None = None
        self.progress = monotonic()
        """When the last event got its verdict."""
        self.figures = Figures()
        self._config = config
        self._shipper = shipper
        self._flushes = flushes
        self._notices = notices
        self._spooling = spooling
        self._random = random.Random(shipper.session.id)  # noqa: S311 - jitter, and never the user's own sequence
        self._old_attempts = Attempts()
        self._asked_to_wait = False
        """The backend itself has said how long."""

    def recover(self) -> bool:
        """Send a batch of what earlier processes have left, if it is time to. False if there was nothing to do."""
        if self._spooling is None or self.stop is not None or self._spooling.recovery.wait(monotonic()):
            return False
        recovery = self._spooling.recovery
        outcome = recovery.step(self._config.timeout, monotonic(), monotonic)
        if outcome is None:
            return False
        self.figures.note(outcome, retried=self._old_attempts.failures > 0)
        self._old_attempts.note(outcome)
        self._note(outcome, self._old_attempts.failures)
        if outcome.problem is not None:
            recovery.put_off(monotonic() + self._backoff(outcome, self._old_attempts.failures))
        return True

    def _backoff(self, outcome: Outcome, failures: int) -> float:
        return backoff(outcome, failures, self._random.random(), time.time(), self._config.retry_delay)

    def round(self) -> None:
        """Take a batch in hand and keep at it until it is settled, or until the end."""
        self._shipper.collect(monotonic())
        self._shipper.load(monotonic())
        attempts = Attempts()

        def attempt() -> Outcome:
            limit = self._config.timeout
            if self.stop is not None:
                limit = min(limit, self.stop.patience, max(self.stop.deadline(self.progress) - monotonic(), 0.05))
            outcome = self._shipper.attempt(limit, monotonic())
            self.figures.note(outcome, retried=attempts.failures > 0)
            attempts.note(outcome)
            if self._spooling is not None:
                self._spooling.note(outcome)
            self._note(outcome, attempts.failures)
            return outcome

        def wait(outcome: Outcome) -> float:
            asked = self._backoff(outcome, attempts.failures)
            self._asked_to_wait = retry_after(outcome.retry_after, time.time()) is not None
            if self.stop is not None:
                asked = self.stop.wait(outcome, asked, monotonic(), self.progress)
            return asked

        def given_up() -> bool:
            most = self._config.max_retries
            if most is not None and attempts.failures > most:
                self._shipper.give_up(RETRY_LIMIT)
                return True
            return self.over()

        persist(
            attempt,
            unfinished=lambda outcome: self._shipper.in_hand,
            wait=wait,
            sleep=self._nap,
            stop=given_up,
        )

    def _note(self, outcome: Outcome, failures: int) -> None:
        if self.finished:
            return  # the attempt was cut off by the end: that is not what was wrong
        if outcome.delivered or outcome.dropped:
            self.progress = monotonic()
        if self.stop is not None:
            self.stop.note(outcome)
        self.problem, self.kind = outcome.problem, outcome.kind
        if outcome.problem is None:
            self._notices.relief()
        elif self.stop is None:
            counts = self._shipper.counts()
            self._notices.trouble(outcome.problem, outcome.kind, failures, counts.pending + counts.spooled, monotonic())
        self._notices.drops(self._shipper.ledger.dropped(), monotonic())

    def _nap(self, seconds: float) -> None:
        """Wait for the next attempt. A flush or a stop ends it, but a backend that needs a person is not asked more often.

        New events need not wait for long, unless the backend has asked for it.
        """
        now = monotonic()
        end, fresh = now + seconds, now + FRESH * (0.5 + self._random.random() / 2)
        stopping = self.stop is not None
        patient, came = self._asked_to_wait or self.kind in NEEDS_PERSON, self._came()
        while (now := monotonic()) < end:
            if not patient and now >= fresh and self._came() > came:
                return
            if self.kind in NEEDS_PERSON:
                self._flushes.answer(everyone=True)
            if self._spooling is not None:
                self._spooling.see_to_storing()
            until = end if patient else min(end, fresh if now < fresh else now + LOOK)
            (self._shipper.stage or self._shipper.queue).sleep(until - now, wake_at=NEVER)
            if (self.stop is not None) != stopping:
                return
            if self._flushes and self.kind not in NEEDS_PERSON and not stopping:
                return

    def _came(self) -> int:
        """How many events have been put so far."""
        return self._shipper.ledger.taken + len(self._shipper.queue)

    def over(self) -> bool:
        """Whether the end was asked for, and there is no use in going on."""
        return self.stop is not None and self.stop.over(monotonic(), self.progress)
