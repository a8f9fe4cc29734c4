"""The classic calls: one record a request, and ids made by the server. What every deployed platform has."""

from __future__ import annotations

from collections import OrderedDict
from urllib.parse import quote

from ...events import RUN_END, RUN_START, RUN_UPDATE, STEP, Event
from .. import BUSY, MISPLACED, PATIENCE, Batch, Dropped, Failure, Outcome, Request, Response, Suspect
from .answers import GONE, UNACCEPTABLE, detail, fail, json_object, note_failure, note_refusal
from .batch import cut_largest_field
from .encoding import UNENCODABLE
from .records import run_record, step_record, update_record

MOST_RUNS = 10_000
"""Server ids that are remembered; the run that was used longest ago is forgotten first."""
AMBIGUOUS = frozenset({502, 504})
"""A gateway's word that it got no answer: the platform behind it may have stored the record."""


class ClassicState:
    """What is learnt of a platform, for as long as the process lives."""

    def __init__(self) -> None:
        self.confirmed = False
        """A classic call has been answered as one is."""
        self.accepted = 0
        """Records that were stored so far: the sign that others get through while one does not."""
        self.uncertain: set[str] = set()
        """Ids of events that were sent and not answered; sent again, they may be stored twice."""
        self._run_ids: OrderedDict[str, str] = OrderedDict()

    def server_id(self, run_id: str) -> str:
        """The platform's id of a run. One that was not started here is taken to be the platform's own."""
        try:
            self._run_ids.move_to_end(run_id)
        except KeyError:
            return run_id
        return self._run_ids.get(run_id, run_id)

    def learn(self, run_id: str, server_id: str) -> None:
        self._run_ids[run_id] = server_id
        if len(self._run_ids) > MOST_RUNS:
            self._run_ids.popitem(last=False)


class ClassicLane:
    """The events of one run, in order, each in its own request.

    Only a record that is answered 500 again and again is passed by others: whether they get through tells if it is to blame.
    If it is not, it arrives late, which is better than never.
    """

    def __init__(self, state: ClassicState, batch: Batch, events: list[Event]) -> None:
        self.outcome = Outcome()
        self._state = state
        self._batch = batch
        self._events = events
        self._at = 0
        """Where the next event is: behind those that the platform stumbles over."""
        self._sent = b""
        self._stopped = False

    def next(self) -> Request | None:
        while not self._stopped and self._at < len(self._events):
            event = self._events[self._at]
            if self._yields(event):
                continue
            try:
                request = self._request(event)
            except UNENCODABLE as error:
                self._verdict(event, "encode_error", type(error).__name__)
                continue
            if request is not None:
                return request
            self._verdict(event, "encode_error", f"the classic calls cannot carry {event.type}")
        return None

    def answer(self, reply: Response | Failure) -> None:
        event = self._events[self._at]
        if isinstance(reply, Failure):
            if not reply.unsent:
                self._doubt(event)
            note_failure(self.outcome, reply)
            self._stopped = True
        elif 200 <= reply.status < 300:
            self._stored(event, reply)
        elif reply.status in GONE:
            self._not_found(event, reply)
        elif reply.status == 413:
            self._too_large(event)
        elif reply.status in UNACCEPTABLE:
            self._confirm()
            self._verdict(event, "rejected", detail(reply))
        elif reply.status == 500 and "retry-after" not in reply.headers:
            self._server_error(event, reply)
        else:
            if reply.status in AMBIGUOUS:
                self._doubt(event)
            note_refusal(self.outcome, reply)
            self._stopped = True

    def _yields(self, event: Event) -> bool:
        """Whether this one lets the next go first; it does so once for each answer of 500."""
        suspect = self._batch.suspects.get(event.seq)
        if suspect is None or not suspect.yields or not self._has_followers():
            return False
        suspect.yields = False
        self._at += 1
        return True

    def _has_followers(self) -> bool:
        return self._at + 1 < len(self._events)

    def _request(self, event: Event) -> Request | None:
        """The call for this event, its largest fields cut if the platform refuses records of that size."""
        call = self._call(event)
        while call is not None and len(call[2]) >= self._batch.refused_size:
            smaller = cut_largest_field(event)
            if smaller is None:
                break
            event = self._events[self._at] = smaller
            call = self._call(event)
        if call is None:
            return None
        method, path, self._sent = call
        headers = {"Content-Type": "application/json", "Idempotency-Key": self._id(event)}
        return Request(method, path, headers, self._sent)

    def _call(self, event: Event) -> tuple[str, str, bytes] | None:
        extra: dict[str, object] = {}
        truncated = event.fields.get("truncated")
        if truncated:
            extra["agentscope_truncated"] = truncated
        path = "/api/ingest/run"
        if event.type == RUN_START:
            extra["agentscope_run_id"] = event.run_id
            return "POST", path, run_record(event.fields, extra)
        path = f"{path}/{quote(self._state.server_id(event.run_id), safe='')}"
        if event.type in (RUN_END, RUN_UPDATE):
            return "PATCH", path, update_record(event.fields)
        if event.type == STEP:
            extra["agentscope_step_id"] = event.step_id
            if event.parent_id is not None:
                extra["agentscope_parent_id"] = event.parent_id
            return "POST", f"{path}/step", step_record(event.fields, extra)
        return None

    def _stored(self, event: Event, response: Response) -> None:
        answer = json_object(response)
        if event.type == RUN_START and answer is not None:
            server_id = answer.get("id")
            if type(server_id) not in (str, int) or server_id == "":
                answer = None
            else:
                self._state.learn(event.run_id, str(server_id))
        if answer is None:
            self._doubt(event)
            note_refusal(self.outcome, response)
            self._stopped = True
            return
        self._confirm()
        self._state.accepted += 1
        self.outcome.delivered.append(event.seq)
        if self._id(event) in self._state.uncertain:
            self._state.uncertain.discard(self._id(event))
            # An update can be repeated; a run or a step that was created twice is there twice.
            self.outcome.possibly_duplicated += event.type in (RUN_START, STEP)
        del self._events[self._at]
        self._at = 0

    def _not_found(self, event: Event, response: Response) -> None:
        if self._state.confirmed and event.type != RUN_START:
            self._verdict(event, "rejected", detail(response))  # the platform does not know this run
            return
        if event.type != RUN_START:
            # It may only be that the run's start, which another tracker has in hand, has not come yet.
            fail(self.outcome, BUSY, f"the platform answers HTTP {response.status} to a step or the end of a run")
            self._stopped = True
            return
        fail(
            self.outcome,
            MISPLACED,
            f"there is no AgentScope API at this address (HTTP {response.status}): check base_url",
        )
        self._stopped = True

    def _too_large(self, event: Event) -> None:
        if cut_largest_field(event) is None:
            self._verdict(event, "too_large", "HTTP 413 to this record")
        else:
            self._batch.refused_size = min(self._batch.refused_size, len(self._sent))

    def _server_error(self, event: Event, response: Response) -> None:
        """HTTP 500 may mean an outage, or a record that the platform stumbles over: then only that one is given up."""
        note_refusal(self.outcome, response)
        suspect = self._batch.suspects.setdefault(event.seq, Suspect(self._state.accepted))
        suspect.note(self._state.accepted)
        self._batch.server_errors = max(self._batch.server_errors, suspect.errors)
        if suspect.strikes >= PATIENCE:
            self._verdict(event, "rejected", "HTTP 500 to this record alone")
        elif suspect.errors >= PATIENCE and self._at < PATIENCE and event.type != RUN_START and self._has_followers():
            suspect.yields = True
        else:
            self._stopped = True

    def _verdict(self, event: Event, reason: str, why: str) -> None:
        self.outcome.dropped.append(Dropped(event.seq, reason, why))
        self._state.uncertain.discard(self._id(event))
        del self._events[self._at]

    def _confirm(self) -> None:
        self._state.confirmed = True

    def _doubt(self, event: Event) -> None:
        self._state.uncertain.add(self._id(event))

    def _id(self, event: Event) -> str:
        return self._batch.session.event_id(event.seq)
