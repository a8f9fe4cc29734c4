"""The choice between two ways to send a batch: requests of many events, or, if the backend has none, one request for each record.

The first attempt tries the batched way. The way that the backend accepts is used from then on. A protocol is shared by all
exporters of a tracker and by those of forked children, so that these know the runs of their parent.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentscope.events import Event

from .assemble import Whole
from .base import Batch, Lane, Outcome
from .batched_lane import PieceLane
from .compression import PieceState
from .sequential_lane import SingleLane, SingleState


class NegotiatedProtocol:
    """A backend and the way that it accepts. Subclasses define both ways."""

    batched: str
    """The name of the batched way."""
    single: str | None = None
    """The name of the way with one request for each record; None if the backend cannot have it."""
    takes_parts: str = ""
    """The name of the way that takes the events of a run or step before its end."""

    def __init__(self, state: PieceState, records: SingleState | None = None) -> None:
        self.name: str | None = None
        self.state = state
        self.records = records or SingleState()

    def warm_up(self) -> None:
        self.state.warm_up()

    def begin(self, batch: Batch) -> NegotiatedDelivery:
        return NegotiatedDelivery(self, batch)

    def batched_lane(self, batch: Batch, outcome: Outcome) -> PieceLane:
        """The lane of the batched way. It writes into `outcome`."""
        raise NotImplementedError

    def wholes(self, batch: Batch, outcome: Outcome) -> list[Whole]:
        """The records of a batch for `single_lane`, in order. Incomplete events go into `outcome.parked`."""
        raise NotImplementedError

    def single_lane(self, batch: Batch, events: list[Event]) -> SingleLane:
        """The lane for the records of one run."""
        raise NotImplementedError


class NegotiatedDelivery:
    """One attempt to deliver a batch: the batched way, the other one, or the batched way first and then the other one."""

    def __init__(self, protocol: NegotiatedProtocol, batch: Batch) -> None:
        self._protocol = protocol
        self._batch = batch
        self._total = Outcome()
        self._batched: PieceLane | None = None
        self._singles: list[SingleLane] | None = None
        self._covered: dict[int, tuple[int, ...]] = {}
        """The `seq` of all events in a record, by the `seq` of the record."""

    @property
    def outcome(self) -> Outcome:
        """The outcome of all requests of this attempt."""
        protocol, total = self._protocol, self._total
        if self._singles:
            if any(lane.outcome.delivered for lane in self._singles):
                protocol.name = protocol.single
            for lane in self._singles:
                found, covered = lane.outcome, self._covered
                found.delivered = [seq for record in found.delivered for seq in covered[record]]
                found.dropped = [drop._replace(seq=seq) for drop in found.dropped for seq in covered[drop.seq]]
                total.add(found)
        elif total.delivered:
            protocol.name = protocol.batched
        total.released = protocol.name == protocol.takes_parts
        settled = {*total.delivered, *total.parked, *(dropped.seq for dropped in total.dropped)}
        if settled.issuperset(event.seq for event in self._batch.events):
            # The problem was that of a request whose events have been settled since.
            total.problem = total.kind = total.retry_after = None
        return total

    def lanes(self) -> Sequence[Lane]:
        protocol = self._protocol
        if self._singles is not None:
            return ()
        if (protocol.single and protocol.name == protocol.single) or (self._batched and self._batched.unsupported):
            self._singles = self._single_lanes()
            return self._singles
        if self._batched is not None:
            return ()
        self._batched = protocol.batched_lane(self._batch, self._total)
        return (self._batched,)

    def _single_lanes(self) -> list[SingleLane]:
        protocol, suspects, total = self._protocol, self._batch.suspects, self._total
        settled = {*total.delivered, *(dropped.seq for dropped in total.dropped)}
        runs: dict[str, list[Event]] = {}
        for event, seqs in protocol.wholes(self._batch, total):
            self._covered[event.seq] = seqs
            if event.seq not in settled:
                runs.setdefault(event.run_id, []).append(event)

        def is_stuck(events: list[Event]) -> bool:
            suspect = suspects.get(events[0].seq)
            return suspect is not None and not suspect.is_ripe(protocol.records.accepted)

        # Runs that the backend has failed on come last, since the time may allow a few requests only.
        return [protocol.single_lane(self._batch, events) for events in sorted(runs.values(), key=is_stuck)]
