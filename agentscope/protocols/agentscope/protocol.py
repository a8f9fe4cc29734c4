"""AgentScope ingest: the batch call if the backend has it (`batch.py`), else the classic calls (`classic.py`)."""

from __future__ import annotations

from agentscope.events import Event
from agentscope.protocols.assemble import Whole, joined
from agentscope.protocols.base import Batch, Outcome
from agentscope.protocols.compression import PieceState
from agentscope.protocols.negotiation import NegotiatedProtocol

from .batch import BatchLane
from .classic import ClassicLane, ClassicState

BATCH = "agentscope-batch"
CLASSIC = "agentscope-classic"


class AgentScopeProtocol(NegotiatedProtocol):
    """An AgentScope backend, and the calls that it has."""

    batched = takes_parts = BATCH
    single = CLASSIC

    def __init__(self, *, largest_body: int, compress: bool) -> None:
        """largest_body: bound on a batch request, in bytes. compress: True to send gzip or zstd if it is announced."""
        self._classic = ClassicState()
        super().__init__(PieceState(compress, largest_body), self._classic)

    def batched_lane(self, batch: Batch, outcome: Outcome) -> BatchLane:
        return BatchLane(self.state, batch, outcome)

    def wholes(self, batch: Batch, outcome: Outcome) -> list[Whole]:
        # There is no call for the start of a step: it waits for its end.
        wholes, outcome.parked = joined(batch, runs=False)
        return wholes

    def single_lane(self, batch: Batch, events: list[Event]) -> ClassicLane:
        return ClassicLane(self._classic, batch, events)
