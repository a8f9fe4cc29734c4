"""The VoltAgent protocol: OTLP, which batches, if the backend accepts it, else the history calls (`lane.py`)."""

from __future__ import annotations

from agentscope.events import Event, in_full
from agentscope.protocols.assemble import Whole
from agentscope.protocols.base import Batch, Outcome
from agentscope.protocols.negotiation import NegotiatedProtocol
from agentscope.protocols.otlp.protocol import OTLP, OTLPLane, OTLPState

from .lane import HistoryLane, HistoryState

HISTORY = "voltagent-history"
OTLP_PATH = "/api/public/otel/v1/traces"


class VoltAgentProtocol(NegotiatedProtocol):
    """A VoltAgent backend, and the protocol that it accepts. `otlp` is the state of its `OTLP_PATH`."""

    batched = OTLP
    single = takes_parts = HISTORY

    def __init__(self, otlp: OTLPState) -> None:
        self._otlp, self._history = otlp, HistoryState()
        super().__init__(otlp, self._history)

    def batched_lane(self, batch: Batch, outcome: Outcome) -> OTLPLane:
        return OTLPLane(self._otlp, batch, outcome)

    def wholes(self, batch: Batch, outcome: Outcome) -> list[Whole]:
        # The history calls take a start before its end, so that no event has to be parked.
        outcome.parked.clear()
        parked = [event for events in list(batch.parked.values()) for event in events]
        events = sorted(map(in_full, (*parked, *batch.events)), key=lambda event: event.seq)
        return [Whole(event, (event.seq,)) for event in events]

    def single_lane(self, batch: Batch, events: list[Event]) -> HistoryLane:
        return HistoryLane(self._history, batch, events)
