"""The interfaces and values of wire protocols and exporters. Protocols use no sockets, threads or clocks.

A protocol turns a `Batch` into a `Delivery`: rounds of independent lanes. A lane makes one request after the other; the lanes of
one round may run at the same time. After all rounds `Delivery.outcome` holds the verdicts; an event without a verdict is tried
again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from agentscope.events import ReadyEvent, Session

from .drop_reasons import DropReason

Part = tuple[str, str | None]
"""The run or step of an event: (run id, step id), or (run id, None) for the run itself."""

REFUSED = "refused"
"""Kind of a failure: the connection was refused."""
UNAUTHORIZED: Final = "unauthorized"
"""Kind of a failure: the backend refuses the key."""
MISPLACED = "misplaced"
"""Kind of a failure: the address belongs to another server, or its certificate is invalid."""
NEEDS_PERSON = frozenset({UNAUTHORIZED, MISPLACED})
"""Kinds of failures after which a retry is useless until a person has changed something."""
BUSY = "busy"
"""Kind of a failure: any other reason for a retry."""

PATIENCE = 3
"""Answers of HTTP 500 before the search for a faulty event begins, and strikes before that event is dropped."""


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
    """Header names are in lower case."""
    body: bytes = b""


@dataclass(frozen=True)
class Failure:
    """The failure of a request without an answer. unsent: True if the request certainly did not reach the backend."""

    kind: str
    """`refused`, `timeout`, `tls`, `dns`, `connection`, `protocol`, `too_large`, or `setup` if this program lacks something."""
    sentence: str
    unsent: bool = False


class Dropped(NamedTuple):
    seq: int
    reason: DropReason
    detail: str


@dataclass
class Suspect:
    """The evidence against an event that was answered 500 when it was sent alone."""

    accepted: int
    """The number of events that the backend had accepted at the last 500 for this event."""
    errors: int = 0
    """The number of answers of 500 for this event."""
    strikes: int = 0
    """The number of these answers between which the backend accepted other events. It stays 0 in an outage."""
    yields: bool = False
    """True if later events are sent before this one."""

    def is_ripe(self, accepted: int) -> bool:
        """True if the backend accepted other events since the last 500. Only then the next 500 counts against this event."""
        return accepted > self.accepted

    def note(self, accepted: int) -> bool:
        """Count another HTTP 500 for this event. Returns True if it counts against the event."""
        struck = self.is_ripe(accepted)
        self.accepted = accepted
        self.errors += 1
        self.strikes += struck
        return struck


@dataclass
class Batch:
    """Events that are delivered together, in order, with the `dropped` counts that the backend gets with them."""

    id: str
    session: Session
    events: Sequence[ReadyEvent]
    dropped: Mapping[str, int] = field(default_factory=dict)
    server_errors: int = 0
    """Answers of 500 to several events together. Every `PATIENCE` of them a search for the faulty event begins."""
    searching: bool = False
    """True while the batch is halved in search of the faulty event."""
    suspects: dict[int, Suspect] = field(default_factory=dict)
    """The events that were answered 500 when they were sent alone, by `seq`."""
    refused_size: int = 1 << 62
    """The smallest size of an event that was refused alone as too large, in bytes."""
    pieces: list[list[int]] = field(default_factory=list)
    """The parts into which earlier attempts have split the batch, as lists of `seq`."""
    parked: Mapping[Part, Sequence[ReadyEvent]] = field(default_factory=dict)
    """Incomplete events of earlier batches, which wait for the end of their run or step."""
    closing: Collection[Part] = ()
    """The runs and steps that are sent now, even without an end."""
    is_heartbeat: bool = False
    """True for a batch without events, which says that the session lives."""
    pause: Callable[[], object] = field(default=lambda: None)
    """A function to call now and then during long work, so that other threads can run."""


@dataclass
class Outcome:
    """The verdicts of one attempt, as lists of `seq`. An event in none of the lists is tried again."""

    delivered: list[int] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    parked: list[int] = field(default_factory=list)
    """Incomplete events: kept for the end of their run or step, and passed with every batch until they have a verdict."""
    released: bool = False
    """True if the backend turned out to take single events, so that incomplete events need not wait."""
    duplicates: int = 0
    possibly_duplicated: int = 0
    reported: bool = False
    """True if the batch's `dropped` counts were acknowledged."""
    problem: str | None = None
    """The reason why events are left, in one sentence."""
    kind: str | None = None
    """REFUSED, UNAUTHORIZED, MISPLACED or BUSY."""
    retry_after: str | None = None
    """The header `Retry-After` of the backend, unparsed."""
    requests: int = 0
    """The number of requests sent, answered or not."""
    sent_bytes: int = 0
    """Bytes of the bodies sent, after compression."""
    cpu_seconds: float = 0.0
    """CPU seconds of other threads than the caller of `export`."""

    def add(self, other: Outcome) -> None:
        """Add the outcome of another lane."""
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
        """Take the answer to the last request of `next`, or its failure."""


class Delivery(Protocol):
    @property
    def outcome(self) -> Outcome:
        """The outcome of all rounds. It is read once, at the end."""

    def lanes(self) -> Sequence[Lane]:
        """The lanes of the next round; empty if there is nothing more to do in this attempt."""


class WireProtocol(Protocol):
    @property
    def name(self) -> str | None:
        """The name of the protocol in use; None before the first answer."""

    def warm_up(self) -> None:
        """Import the needed modules before the first batch."""

    def begin(self, batch: Batch) -> Delivery:
        """Start one attempt at a batch."""


class Exporter(Protocol):
    """A destination of batches: the only interface between the pipeline and the outside."""

    @property
    def protocol(self) -> str | None:
        """The name of the protocol in use; None before the first answer."""

    def export(self, batch: Batch, timeout: float) -> Outcome:
        """Make one attempt within about `timeout` seconds. Answers and failures of a backend raise nothing."""

    def warm_up(self) -> None:
        """Import the needed modules before the first batch."""

    def close(self) -> None:
        """Close the connections."""
