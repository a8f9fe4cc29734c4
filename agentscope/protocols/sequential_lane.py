"""The delivery of events one by one, in order within a run, to backends without a batch call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from agentscope.events import RUN_START, Event

from .base import BUSY, MISPLACED, PATIENCE, Batch, Dropped, Failure, Outcome, Request, Response, Suspect
from .batched_lane import cut_largest_field
from .drop_reasons import ENCODE_ERROR, REJECTED, TOO_LARGE, DropReason
from .json_encode import UNENCODABLE
from .responses import GONE, UNACCEPTABLE, detail, fail, is_denial, json_object, note_failure, note_refusal

AMBIGUOUS = frozenset({502, 504})
"""Answers of a gateway that got no answer itself: the backend behind it may have stored the record."""

MOST_UNCERTAIN = 100_000
"""The most ids in `SingleState.uncertain`. Some of these events never get an answer."""

K = TypeVar("K")
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """A mapping with at most `most` entries, which drops the least recently used."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        try:
            self._entries.move_to_end(key)
        except KeyError:
            return None
        return self._entries.get(key)  # another lane may have removed it meanwhile

    def put(self, key: K, value: V) -> None:
        self._entries.pop(key, None)  # first, because another lane may remove the oldest entry at any moment
        self._entries[key] = value
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def forget(self, key: K) -> None:
        self._entries.pop(key, None)


class SingleState:
    """The knowledge about a backend, kept until the process ends."""

    def __init__(self) -> None:
        self.confirmed = False
        """True after the first valid answer."""
        self.accepted = 0
        """The number of stored records, which shows if others are accepted while one is not."""
        self.uncertain: set[str] = set()
        """The ids of events that were sent without an answer; sent again, they may be stored twice."""


def record_request(method: str, path: str, body: bytes, key: str) -> Request:
    """Make the request for a record. `key` is its idempotency key."""
    return Request(method, path, {"Content-Type": "application/json", "Idempotency-Key": key}, body)


class SingleLane:
    """The lane for the events of one run, in order. Subclasses define the requests and their acknowledgements.

    After several answers of 500 to one record, later records are sent before it: their success is the evidence against it.
    Without such evidence it is sent again, late.
    """

    api = "API"
    """The name of the API in log lines."""

    def __init__(self, state: SingleState, batch: Batch, events: list[Event]) -> None:
        self.outcome = Outcome()
        self._state = state
        self._batch = batch
        self._events = events
        self._at = 0
        """The index of the next event; those before it are suspects that let it pass."""
        self._sent = b""
        self._stopped = False

    # ---- the format --------------------------------------------------------------------------------------------------

    def _request(self, event: Event) -> Request | None:
        """Make the request for this event, or for a part of it; None if the format has none."""
        raise NotImplementedError

    def _learn(self, event: Event, answer: Mapping[str, Any]) -> bool:
        """Read the answer to the last call. Returns False if it is no acknowledgement."""
        raise NotImplementedError

    def _is_done(self, event: Event) -> bool:
        """True if that was the last request for this event."""
        return True

    def _creates(self, event: Event) -> bool:
        """True if this event would be stored twice if it were sent twice."""
        raise NotImplementedError

    def _smaller(self, event: Event) -> Event | None:
        """Cut the next request of this event; None if nothing is left to cut."""
        return cut_largest_field(event)

    # ---- requests and answers ----------------------------------------------------------------------------------------

    def next(self) -> Request | None:
        while not self._stopped and self._at < len(self._events):
            event = self._events[self._at]
            if self._yields(event):
                continue
            try:
                request = self._fitting_request(event)
            except UNENCODABLE as error:
                self._verdict(event, ENCODE_ERROR, type(error).__name__)
                continue
            if request is not None:
                self._sent = request.body
                return request
            self._verdict(event, ENCODE_ERROR, f"the {self.api} cannot carry {event.type}")
        return None

    def answer(self, reply: Response | Failure) -> None:
        event = self._events[self._at]
        if isinstance(reply, Failure):
            if not reply.unsent:
                self._mark_uncertain(event)
            note_failure(self.outcome, reply)
            self._stopped = True
        elif 200 <= reply.status < 300:
            self._answered(event, reply)
        elif reply.status in GONE:
            self._not_found(event, reply)
        elif reply.status == 413:
            self._too_large(event)
        elif reply.status in UNACCEPTABLE:
            self._state.confirmed = True
            self._verdict(event, REJECTED, detail(reply))
        elif reply.status == 500 and "retry-after" not in reply.headers:
            self._server_error(event, reply)
        else:
            if reply.status in AMBIGUOUS:
                self._mark_uncertain(event)
            note_refusal(self.outcome, reply)
            self._stopped = True

    def _yields(self, event: Event) -> bool:
        """True if this event lets the next one pass, once for each 500."""
        suspect = self._batch.suspects.get(event.seq)
        if suspect is None or not suspect.yields or event is self._events[-1]:
            return False
        suspect.yields = False
        self._at += 1
        return True

    def _fitting_request(self, event: Event) -> Request | None:
        """Make the request for this event, with its largest fields cut if the backend refused that size."""
        request = self._request(event)
        while request and len(request.body) >= self._batch.refused_size and (smaller := self._smaller(event)):
            event = self._events[self._at] = smaller
            request = self._request(event)
        return request

    def _answered(self, event: Event, reply: Response) -> None:
        answer = json_object(reply)
        if answer is not None and is_denial(answer):
            self._server_error(event, reply)
            return
        if answer is None or not self._learn(event, answer):
            self._mark_uncertain(event)
            note_refusal(self.outcome, reply)
            self._stopped = True
            return
        self._stored(event)

    def _stored(self, event: Event) -> None:
        self._state.confirmed = True
        self._state.accepted += 1
        if not self._is_done(event):
            return
        self.outcome.delivered.append(event.seq)
        if self._id(event) in self._state.uncertain:
            self._state.uncertain.discard(self._id(event))
            self.outcome.possibly_duplicated += self._creates(event)
        del self._events[self._at]
        self._at = 0

    def _not_found(self, event: Event, reply: Response) -> None:
        self._stopped = True
        if event.type == RUN_START:
            sentence = f"there is no {self.api} at this address (HTTP {reply.status}): check the address"
            fail(self.outcome, MISPLACED, sentence)
        elif self._state.confirmed:
            self._stopped = False
            self._verdict(event, REJECTED, detail(reply))  # the backend does not know this run
        else:
            # The start of the run, in another tracker of this process, may not have arrived yet.
            sentence = f"the backend answers HTTP {reply.status} to a step or the end of a run"
            fail(self.outcome, BUSY, sentence)

    def _too_large(self, event: Event) -> None:
        if self._smaller(event) is None:
            self._verdict(event, TOO_LARGE, "HTTP 413 to this record")
        else:
            self._batch.refused_size = min(self._batch.refused_size, len(self._sent))

    def _server_error(self, event: Event, reply: Response) -> None:
        """React to HTTP 500 or a denial: drop the event if others succeed, or send the next event first, or stop."""
        note_refusal(self.outcome, reply)
        suspect = self._batch.suspects.setdefault(event.seq, Suspect(self._state.accepted))
        suspect.note(self._state.accepted)
        self._batch.server_errors = max(self._batch.server_errors, suspect.errors)
        if suspect.strikes >= PATIENCE:
            self._verdict(
                event, REJECTED, f"{'HTTP 500' if reply.status == 500 else 'success: false'} to this record alone"
            )
        elif suspect.errors >= PATIENCE > self._at and event.type != RUN_START and event is not self._events[-1]:
            suspect.yields = True
        else:
            self._stopped = True

    def _verdict(self, event: Event, reason: DropReason, why: str) -> None:
        self.outcome.dropped.append(Dropped(event.seq, reason, why))
        self._state.uncertain.discard(self._id(event))
        del self._events[self._at]

    def _mark_uncertain(self, event: Event) -> None:
        uncertain = self._state.uncertain
        if len(uncertain) >= MOST_UNCERTAIN:
            uncertain.pop()
        uncertain.add(self._id(event))

    def _id(self, event: Event) -> str:
        return self._batch.session.event_id(event.seq)
