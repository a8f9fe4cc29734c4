"""AgentScope ingest, both ways: the batch call where the backend has it, the classic calls everywhere else.

`batch` and `classic` describe the two formats. The first batch finds out which of them a backend speaks: this object
is shared by all exporters of a tracker, and by those of forked children, which know the runs of their parent from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentscope.events import Event
from agentscope.protocols.assemble import by_run, joined
from agentscope.protocols.base import Batch, Lane, Outcome
from agentscope.protocols.compression import PieceState

from .batch import BatchLane
from .classic import ClassicLane, ClassicState

__all__ = ["BATCH", "CLASSIC", "AgentScopeProtocol"]

BATCH = "agentscope-batch"
CLASSIC = "agentscope-classic"


class AgentScopeProtocol:
    """`largest_body` is what one batch request may hold, in bytes; `compress` allows gzip or zstd where it is announced."""

    def __init__(self, *, largest_body: int, compress: bool) -> None:
        self.name: str | None = None
        self.batch = PieceState(compress, largest_body)
        self.classic = ClassicState()

    def warm_up(self) -> None:
        self.batch.warm_up()

    def begin(self, batch: Batch) -> AgentScopeDelivery:
        return AgentScopeDelivery(self, batch)


class AgentScopeDelivery:
    """One attempt at a batch: a round of the batch call, or of the classic calls, or of the one and then the other."""

    def __init__(self, protocol: AgentScopeProtocol, batch: Batch) -> None:
        self._protocol = protocol
        self._batch = batch
        self._total = Outcome()
        self._batch_lane: BatchLane | None = None
        self._classic_lanes: list[ClassicLane] | None = None
        self._covered: dict[int, tuple[int, ...]] = {}
        """One record of the classic calls: its `seq`, and those of all events that it was joined from."""

    @property
    def outcome(self) -> Outcome:
        """The outcome of all rounds."""
        protocol = self._protocol
        if self._classic_lanes is not None:
            if any(lane.outcome.delivered for lane in self._classic_lanes):
                protocol.name = CLASSIC
            for lane in self._classic_lanes:
                self._total.add(self._uncovered(lane.outcome))
            self._classic_lanes = None
        elif self._total.delivered:
            protocol.name = BATCH
            self._total.released = True  # starts of steps that the classic calls have parked, if any
        settled = {*self._total.delivered, *self._total.parked, *(dropped.seq for dropped in self._total.dropped)}
        if settled.issuperset(event.seq for event in self._batch.events):
            # What went wrong on the way has been overcome.
            self._total.problem = self._total.kind = self._total.retry_after = None
        return self._total

    def lanes(self) -> Sequence[Lane]:
        if self._classic_lanes is not None:
            return ()
        if self._protocol.name == CLASSIC or (self._batch_lane is not None and self._batch_lane.unsupported):
            self._classic_lanes = self._by_run()
            return self._classic_lanes
        if self._batch_lane is None:
            self._batch_lane = BatchLane(self._protocol.batch, self._batch, self._total)
            return (self._batch_lane,)
        return ()

    def _by_run(self) -> list[ClassicLane]:
        settled = {*self._total.delivered, *(dropped.seq for dropped in self._total.dropped)}
        # There is no call for the start of a step: it waits for its end.
        wholes, self._total.parked = joined(self._batch, runs=False)
        self._covered = {whole.event.seq: whole.seqs for whole in wholes}
        runs = by_run(whole.event for whole in wholes if whole.event.seq not in settled)
        classic, suspects = self._protocol.classic, self._batch.suspects

        def is_stuck(events: list[Event]) -> bool:
            suspect = suspects.get(events[0].seq)
            return suspect is not None and not suspect.is_ripe(classic.accepted)

        # Where the time is up after few requests, a run that the platform stumbles over must not be the first for ever.
        return [ClassicLane(classic, self._batch, events) for events in sorted(runs, key=is_stuck)]

    def _uncovered(self, found: Outcome) -> Outcome:
        """Apply the verdict on a record to every event that was joined into it."""
        found.delivered = [seq for record in found.delivered for seq in self._covered[record]]
        found.dropped = [dropped._replace(seq=seq) for dropped in found.dropped for seq in self._covered[dropped.seq]]
        return found
