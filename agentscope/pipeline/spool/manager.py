"""All that a worker has because of its spool: the stage, the thread that brings events to disk, and what others have left."""

from __future__ import annotations

from collections.abc import Callable

from agentscope.config import Config
from agentscope.events import Event, Session
from agentscope.pipeline.delivery import Shipper
from agentscope.pipeline.process.clock import monotonic
from agentscope.protocols.base import Exporter, Outcome

from .buffer import Stage
from .recovery import Recovery
from .spool import Place, Spool
from .writer import Storer

LAST_WRITE = 1.0
"""Seconds that the end waits for a disk that does not answer."""


class Spooling:
    """Belongs to one worker, whose threads call it."""

    def __init__(
        self,
        config: Config,
        place: Place,
        session: Session,
        shipper: Shipper,
        exporter: Exporter,
        redact: Callable[[Event], Event],
    ) -> None:
        spool = Spool(place, session)
        self.stage = Stage(config, spool, shipper.queue, shipper.ledger, shipper.move, shipper.in_batches)
        self.storer = Storer(self.stage, spool, shipper.queue, redact)
        self.recovery = Recovery(config, place, exporter)
        self._exporter = exporter
        self._ordered_by_backend = place.ordered_by_backend
        shipper.stage = self.stage
        shipper.on_settled = self.stage.settled

    def see_to_storing(self) -> None:
        """Events must get to disk even while the worker waits for an answer; without another thread it does it itself."""
        self.storer.start()
        if not self.storer.running:
            self.store_all(monotonic() + LAST_WRITE)

    def store_all(self, until: float) -> None:
        """Write what is queued, if that can be done until this moment."""
        while (now := monotonic()) < until and self.storer.store(now, until - now):
            pass

    def note(self, outcome: Outcome) -> None:
        """What an attempt has told of the backend."""
        self.stage.note(outcome, self._exporter.protocol in self._ordered_by_backend)
        if outcome.delivered:
            self.recovery.go_on(monotonic())

    def sleep(self, seconds: float | None, wake_at: int) -> None:
        """Wait until so many events may be batched, or somebody rings, or `seconds` are over, or old events are due."""
        soon = self.recovery.wait(monotonic())
        self.stage.sleep(soon if seconds is None else min(seconds, soon), wake_at)

    def close(self) -> None:
        """After the end: let others have what is left."""
        self.stage.close_spool(monotonic(), LAST_WRITE)
        self.recovery.close(LAST_WRITE)
