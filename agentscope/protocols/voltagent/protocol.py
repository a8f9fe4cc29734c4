"""The VoltAgent protocol: OTLP, or the batch call of a receiver that announces it, else the history calls (`lane.py`)."""

from __future__ import annotations

from agentscope.events import Event, in_full
from agentscope.protocols.assemble import Whole
from agentscope.protocols.base import Batch, Outcome
from agentscope.protocols.otlp.protocol import OTLPProtocol, OTLPState

from .lane import HistoryLane, HistoryState

HISTORY = "voltagent-history"


class VoltAgentProtocol(OTLPProtocol):
    """A VoltAgent backend, and the protocol that it accepts. `otlp` is the state of its OTLP endpoint."""

    single = takes_parts = HISTORY

    def __init__(self, otlp: OTLPState) -> None:
        self._history = HistoryState()
        super().__init__(otlp, self._history)

    def wholes(self, batch: Batch, outcome: Outcome) -> list[Whole]:
        # The history calls take a start before its end, so that no event has to be parked.
        outcome.parked.clear()
        parked = [event for events in list(batch.parked.values()) for event in events]
        events = sorted(map(in_full, (*parked, *batch.events)), key=lambda event: event.seq)
        return [Whole(event, (event.seq,)) for event in events]

    def single_lane(self, batch: Batch, events: list[Event]) -> HistoryLane:
        return HistoryLane(self._history, batch, events)
