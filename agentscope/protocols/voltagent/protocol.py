"""The VoltAgent protocol: OTLP, which batches, if the backend accepts it, else the history calls.

The first attempt tries OTLP; the protocol that the backend accepts is used from then on.
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
    """A VoltAgent backend and its negotiated protocol. `otlp` is the state of its `OTLP_PATH`."""

    def __init__(self, otlp: OTLPState) -> None:
        self.name: str | None = None
        self.otlp = otlp
        self.history = HistoryState()

    def warm_up(self) -> None:
        self.otlp.warm_up()

    def begin(self, batch: Batch) -> VoltAgentDelivery:
        return VoltAgentDelivery(self, batch)


class VoltAgentDelivery:
    """One attempt to deliver a batch: by OTLP, by the history calls, or by OTLP first and then by the history calls."""

    def __init__(self, protocol: VoltAgentProtocol, batch: Batch) -> None:
        self._protocol = protocol
        self._batch = batch
        self._total = Outcome()
        self._otlp_lane: OTLPLane | None = None
        self._history_lanes: list[HistoryLane] | None = None

    @property
    def outcome(self) -> Outcome:
        """The outcome of all requests of this attempt."""
        protocol, total = self._protocol, self._total
        if self._history_lanes is not None:
            if any(lane.outcome.delivered for lane in self._history_lanes):
                protocol.name = HISTORY
            for lane in self._history_lanes:
                total.add(lane.outcome)
            self._history_lanes = None
            # Not all parked events need have been sent in this attempt: the time may have run out.
            total.released = protocol.name == HISTORY
        elif total.delivered:
            protocol.name = OTLP
        settled = {*total.delivered, *total.parked, *(dropped.seq for dropped in total.dropped)}
        if all(event.seq in settled for event in self._batch.events):
            # The problem was that of a request whose events have been settled since.
            total.problem = total.kind = total.retry_after = None
        return total

    def lanes(self) -> Sequence[Lane]:
        if self._history_lanes is not None:
            return ()
        if self._protocol.name == HISTORY or (self._otlp_lane is not None and self._otlp_lane.unsupported):
            # The history calls take a start before its end, so that no event has to be parked.
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

        # Runs that the backend has failed on come last, since the time may allow a few requests only.
        return [HistoryLane(history, self._batch, events) for events in sorted(runs, key=is_stuck)]
