"""VoltAgent: OTLP where the backend takes it, since that batches, and the history calls everywhere else.

WIRE.md describes both. Which of them a backend speaks is found out with the first spans and remembered.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentscope.events import Event, in_full
from agentscope.protocols.assemble import by_run
from agentscope.protocols.base import Batch, Lane, Outcome
from agentscope.protocols.otlp.protocol import OTLP, OTLPLane, OTLPState

from .lane import HistoryLane, HistoryState

__all__ = ["HISTORY", "OTLP_PATH", "VoltAgentProtocol"]

HISTORY = "voltagent-history"
OTLP_PATH = "/api/public/otel/v1/traces"


class VoltAgentProtocol:
    """`otlp` is made for `OTLP_PATH`."""

    def __init__(self, otlp: OTLPState) -> None:
        self.name: str | None = None
        self.otlp = otlp
        self.history = HistoryState()

    def warm_up(self) -> None:
        self.otlp.warm_up()

    def begin(self, batch: Batch) -> VoltAgentDelivery:
        return VoltAgentDelivery(self, batch)


class VoltAgentDelivery:
    """One attempt at a batch: a round of OTLP, or of the history calls, or of the one and then the other."""

    def __init__(self, protocol: VoltAgentProtocol, batch: Batch) -> None:
        self._protocol = protocol
        self._batch = batch
        self._total = Outcome()
        self._otlp_lane: OTLPLane | None = None
        self._history_lanes: list[HistoryLane] | None = None

    @property
    def outcome(self) -> Outcome:
        """What all rounds found."""
        protocol, total = self._protocol, self._total
        if self._history_lanes is not None:
            if any(lane.outcome.delivered for lane in self._history_lanes):
                protocol.name = HISTORY
            for lane in self._history_lanes:
                total.add(lane.outcome)
            self._history_lanes = None
            # The time may have been up before all that had been parked was sent.
            total.released = protocol.name == HISTORY
        elif total.delivered:
            protocol.name = OTLP
        settled = {*total.delivered, *total.parked, *(dropped.seq for dropped in total.dropped)}
        if all(event.seq in settled for event in self._batch.events):
            # What went wrong on the way has been overcome.
            total.problem = total.kind = total.retry_after = None
        return total

    def lanes(self) -> Sequence[Lane]:
        if self._history_lanes is not None:
            return ()
        if self._protocol.name == HISTORY or (self._otlp_lane is not None and self._otlp_lane.unsupported):
            # The history calls take a start before its end: nothing waits any longer.
            self._total.parked.clear()
            self._history_lanes = self._by_run()
            return self._history_lanes
        if self._otlp_lane is None:
            self._otlp_lane = OTLPLane(self._protocol.otlp, self._batch, self._total)
            return (self._otlp_lane,)
        return ()

    def _by_run(self) -> list[HistoryLane]:
        settled = {*self._total.delivered, *(dropped.seq for dropped in self._total.dropped)}
        parked = [event for events in list(self._batch.parked.values()) for event in events]
        events = sorted(map(in_full, (*parked, *self._batch.events)), key=lambda event: event.seq)
        runs = by_run(event for event in events if event.seq not in settled)
        history, suspects = self._protocol.history, self._batch.suspects

        def is_stuck(events: list[Event]) -> bool:
            suspect = suspects.get(events[0].seq)
            return suspect is not None and not suspect.is_ripe(history.accepted)

        # Where the time is up after few requests, a run that the backend stumbles over must not be the first for ever.
        return [HistoryLane(history, self._batch, events) for events in sorted(runs, key=is_stuck)]
