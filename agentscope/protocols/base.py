"""What the exporter and every wire protocol agree on. Protocols know nothing of sockets, threads or clocks.

A protocol turns a `Batch` into a `Delivery`: rounds of independent lanes. A lane is a conversation with the backend, one request
after the other; lanes of one round may go on at the same time. When all rounds are over, `Delivery.outcome` holds a verdict per
event; events without a verdict are to be tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from agentscope.events import ReadyEvent, Session

Part = tuple[str, str | None]
"""What an event tells of: (run id, step id), or (run id, None) for the run itself."""

REFUSED = "refused"
"""Kind of a failure: nobody listens there."""
UNAUTHORIZED = "unauthorized"
"""Kind of a failure: the backend refuses the key."""
MISPLACED = "misplaced"
"""Kind of a failure: this is not the backend that was meant, or its certificate is not good."""
NEEDS_PERSON = frozenset({UNAUTHORIZED, MISPLACED})
"""Trying again does not help before somebody has mended something."""
BUSY = "busy"
"""Kind of a failure: any other reason to try again."""

PATIENCE = 3
"""After so many answers of HTTP 500 the culprit is looked for, and after so many strikes it is given up."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""


@dataclass(frozen=True)
class Failure:
    """No answer came. `unsent`: the request certainly never reached the backend."""

    kind: str
    """refused, timeout, tls, dns, connection, protocol or too_large."""
    sentence: str
    unsent: bool = False


class Dropped(NamedTuple):
    seq: int
    reason: str
    detail: str


@dataclass
class Suspect:
    """What speaks against an event that was answered 500 when it was sent alone."""

    accepted: int
    """How much the backend had accepted in all by its newest answer of 500."""
    errors: int = 0
    """How often it was answered 500."""
    strikes: int = 0
    """How often that was after others had got through since the time before: in an outage, never."""
    yields: bool = False
    """Its followers are to be tried before it is sent again."""

    def is_ripe(self, accepted: int) -> bool:
        """Whether others have got through since: only then the next answer tells something about this event."""
        return accepted > self.accepted

    def note(self, accepted: int) -> bool:
        """It was answered 500 again. True if that is a strike."""
        struck = self.is_ripe(accepted)
        self.accepted = accepted
        self.errors += 1
        self.strikes += struck
        return struck


def _go_on() -> None:
    """No other thread waits."""


@dataclass
class Batch:
    """Events that are delivered together, in order. `dropped` counts ride along once."""

    id: str
    session: Session
    events: Sequence[ReadyEvent]
    dropped: Mapping[str, int] = field(default_factory=dict)
    server_errors: int = 0
    """How often the backend answered 500 to what could not be told apart; after every few, the culprit is looked for."""
    searching: bool = False
    """The culprit is being looked for, by halves."""
    suspects: dict[int, Suspect] = field(default_factory=dict)
    """By `seq`: events that were answered 500 when they were sent alone."""
    refused_size: int = 1 << 62
    """The size of the smallest of these events that was refused, alone, as too large."""
    pieces: list[list[int]] = field(default_factory=list)
    """How the protocol has split this batch so far, as lists of `seq`: kept from one attempt to the next."""
    parked: Mapping[Part, Sequence[ReadyEvent]] = field(default_factory=dict)
    """Events of earlier batches that a protocol has parked: it sends runs and steps only as a whole."""
    closing: Collection[Part] = ()
    """What is to be sent as it is now, ended or not."""
    pause: Callable[[], object] = _go_on
    """To be called now and then in long work that holds up other threads."""


@dataclass
class Outcome:
    """What became of a batch in one export. Sequence numbers that are in none of the lists are to be tried again."""

    delivered: list[int] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    parked: list[int] = field(default_factory=list)
    """To be kept for the event that ends their run or step, and given with every batch until they have a verdict."""
    released: bool = False
    """This backend takes everything event by event, as it is known by now: what is still parked waits for nothing."""
    duplicates: int = 0
    possibly_duplicated: int = 0
    reported: bool = False
    """The batch's `dropped` counts were acknowledged."""
    problem: str | None = None
    """Why something is left, in one sentence."""
    kind: str | None = None
    """REFUSED, UNAUTHORIZED, MISPLACED or BUSY."""
    retry_after: str | None = None
    """The backend's own header, as it came."""
    requests: int = 0
    """That were sent, answered or not."""
    sent_bytes: int = 0
    """Of their bodies, as they were sent."""
    cpu_seconds: float = 0.0
    """Spent in other threads than the one that asked for the export."""

    def add(self, other: Outcome) -> None:
        """Take in what another lane found."""
        self.delivered += other.delivered
        self.dropped += other.dropped
        self.parked += other.parked
        self.duplicates += other.duplicates
        self.possibly_duplicated += other.possibly_duplicated
        self.reported = self.reported or other.reported
        if other.problem is not None and self.kind not in NEEDS_PERSON:
            self.problem, self.kind = other.problem, other.kind
            self.retry_after = other.retry_after or self.retry_after


class Lane(Protocol):
    def next(self) -> Request | None:
        """The next request, or None when the lane is at its end or has to wait."""

    def answer(self, reply: Response | Failure) -> None:
        """What came of the request that `next` gave."""


class Delivery(Protocol):
    @property
    def outcome(self) -> Outcome:
        """What all rounds found. To be asked once, at the end."""

    def lanes(self) -> Sequence[Lane]:
        """The lanes of the next round; empty when there is nothing more to do now."""


class WireProtocol(Protocol):
    @property
    def name(self) -> str | None:
        """What was negotiated; None before the first answer."""

    def warm_up(self) -> None:
        """Import what is needed, before the first batch."""

    def begin(self, batch: Batch) -> Delivery:
        """Start one attempt at a batch."""


class Exporter(Protocol):
    """Delivers batches. The one seam between the pipeline and the world."""

    @property
    def protocol(self) -> str | None:
        """What was negotiated; None before the first answer."""

    def export(self, batch: Batch, timeout: float) -> Outcome:
        """Try once, within about `timeout` seconds. Never raises for what a backend does."""

    def warm_up(self) -> None:
        """Import what is needed, before the first batch."""

    def close(self) -> None:
        """Let go of connections."""
