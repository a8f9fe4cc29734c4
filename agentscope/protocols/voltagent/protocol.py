"""The VoltAgent protocol: the batch call if the backend announces it, else OTLP, else the history calls (`lane.py`).

OTLP takes whole runs and steps. The batch call takes their starts, too, so that a page shows what is going on.
"""

from __future__ import annotations

from agentscope.events import Event, in_full
from agentscope.protocols.agentscope.batch import PATH, BatchLane
from agentscope.protocols.agentscope.protocol import BATCH
from agentscope.protocols.assemble import Whole
from agentscope.protocols.base import BUSY, Batch, Failure, Outcome, Response
from agentscope.protocols.batched_lane import PieceLane
from agentscope.protocols.compression import PieceState
from agentscope.protocols.headers import AGENTSCOPE_BATCH
from agentscope.protocols.negotiation import NegotiatedProtocol
from agentscope.protocols.otlp.protocol import OTLP, OTLPLane, OTLPState
from agentscope.protocols.responses import fail

from .lane import HistoryLane, HistoryState

HISTORY = "voltagent-history"
OTLP_PATH = "/api/public/otel/v1/traces"


class VoltAgentProtocol(NegotiatedProtocol):
    """A VoltAgent backend, and the protocol that it accepts. `otlp` is the state of its `OTLP_PATH`."""

    batched = OTLP
    single = takes_parts = HISTORY

    def __init__(self, otlp: OTLPState) -> None:
        self._otlp, self._history = otlp, HistoryState()
        self._receiver = PieceState(True, otlp.largest_body)
        super().__init__(otlp, self._history)

    def warm_up(self) -> None:
        super().warm_up()
        self._receiver.warm_up()

    def take_batches(self, are_taken: bool) -> None:
        """Use the batch call from now on, or no longer."""
        self.batched, self.takes_parts = (BATCH, BATCH) if are_taken else (OTLP, HISTORY)
        self.name = BATCH if are_taken else None

    def batched_lane(self, batch: Batch, outcome: Outcome) -> PieceLane:
        if self.batched == BATCH:
            return ReceiverLane(self, self._receiver, batch, outcome)
        return TracesLane(self, self._otlp, batch, outcome)

    def wholes(self, batch: Batch, outcome: Outcome) -> list[Whole]:
        # The history calls take a start before its end, so that no event has to be parked.
        outcome.parked.clear()
        parked = [event for events in list(batch.parked.values()) for event in events]
        events = sorted(map(in_full, (*parked, *batch.events)), key=lambda event: event.seq)
        return [Whole(event, (event.seq,)) for event in events]

    def single_lane(self, batch: Batch, events: list[Event]) -> HistoryLane:
        return HistoryLane(self._history, batch, events)


class TracesLane(OTLPLane):
    """The lane of OTLP. An answer may announce the batch call, and a heartbeat is a request without spans, to ask for it."""

    def __init__(self, protocol: VoltAgentProtocol, state: OTLPState, batch: Batch, outcome: Outcome) -> None:
        self._protocol = protocol
        super().__init__(state, batch, outcome)

    def _line_up(self) -> None:
        super()._line_up()
        if self._batch.is_heartbeat:
            self._pieces.append([])

    def _settle(self, reply: Response | Failure) -> None:
        if not self._batch.is_heartbeat:
            super()._settle(reply)
        if isinstance(reply, Response) and reply.status == 200 and reply.headers.get(AGENTSCOPE_BATCH.lower()) == PATH:
            self._protocol.take_batches(True)


class ReceiverLane(BatchLane):
    """The lane of the batch call. If the receiver has it no longer, OTLP is used again."""

    def __init__(self, protocol: VoltAgentProtocol, state: PieceState, batch: Batch, outcome: Outcome) -> None:
        self._protocol = protocol
        super().__init__(state, batch, outcome)

    def _settle(self, reply: Response | Failure) -> None:
        super()._settle(reply)
        if self.unsupported:
            self.unsupported = False
            self._state.confirmed, self._state.absences = False, 0
            self._protocol.take_batches(False)
            fail(self._outcome, BUSY, "the backend has its batch call no longer")
