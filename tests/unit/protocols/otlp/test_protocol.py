"""The OTLP protocol: as few requests as possible, and a verdict on every event."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import RUN_START, Event
from agentscope.exporters.otlp import VOLTAGENT_TRACES_PATH
from agentscope.protocols.base import BUSY, MISPLACED, REFUSED, UNAUTHORIZED, Failure, Outcome, Request, Response
from agentscope.protocols.ids import span_id_of
from agentscope.protocols.otlp.protocol import OTLP, OTLPProtocol, OTLPState
from agentscope.protocols.otlp.wire import json_form
from agentscope.protocols.otlp.wire import protobuf_form as protobuf
from agentscope.protocols.otlp.wire.model import Span, Unreadable
from agentscope.protocols.voltagent.protocol import HISTORY, VoltAgentProtocol
from tests.support.events import answer, attempt, batch, deliver, event, opened, parked_after, run_of
from tests.support.otlp import read_request

FORMS: dict[str, Any] = {form.CONTENT_TYPE: form for form in (protobuf, json_form)}


def state(encoding: str = "protobuf", compress: bool = False, **options: Any) -> OTLPState:
    given = {"path": "", "largest_body": 1 << 20, "resource": {"service.name": "test"}, **options}
    return OTLPState(encoding=encoding, compress=compress, **given)


@dataclass
class Backend:
    """A backend with the OTLP endpoint. Its sets hold span ids."""

    takes: tuple[str, ...] = ("application/x-protobuf", "application/json")
    gzip: bool = True
    rejected: set[str] = field(default_factory=set)
    names_them: bool = True
    unacceptable: set[str] = field(default_factory=set)
    limit: int = 1 << 62
    stored: Counter[str] = field(default_factory=Counter)
    spans: list[Span] = field(default_factory=list)
    resource: Any = None
    seen: list[tuple[str, str | None]] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        assert request.method == "POST"
        kind, coding = request.headers["Content-Type"], request.headers.get("Content-Encoding")
        self.seen.append((kind, coding))
        if kind not in self.takes or (coding and not self.gzip):
            return answer(415)
        form = FORMS[kind]
        body = gzip.decompress(request.body) if coding else request.body
        if len(body) > self.limit:
            return answer(413)
        groups = read_request(form, body)
        spans = [span for group in groups for span in group.spans if not isinstance(span, Unreadable)]
        assert len(spans) == sum(len(group.spans) for group in groups)
        self.resource = groups[0].resource
        if any(span.span_id in self.unacceptable for span in spans):
            return answer(400)
        refused = [span.span_id for span in spans if span.span_id in self.rejected]
        self.stored.update(span.span_id for span in spans if span.span_id not in refused)
        self.spans += spans
        message = (
            f"span {', '.join(refused)}: bad" if self.names_them and refused else "some are bad" if refused else ""
        )
        return answer(200, form.encode_response(len(refused), message), content_type=kind)


def step_span(seq: int) -> str:
    return span_id_of(f"step-{seq}")


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
@pytest.mark.parametrize("compress", [False, True])
def test_a_run_is_one_request_with_a_span_each(encoding: str, compress: bool) -> None:
    backend = Backend()
    protocol = OTLPProtocol(state(encoding, compress))
    ending = deliver(protocol, batch(run_of(3, input=b'"' + b"x" * 500 + b'"')), backend)
    assert sorted(ending.delivered) == [1, 2, 3, 4, 5]
    assert len(backend.seen) == 1
    assert backend.seen[0][1] == ("gzip" if compress else None)
    assert backend.stored == Counter([span_id_of("run-1"), *(step_span(seq) for seq in (2, 3, 4))])
    assert protocol.name == OTLP
    assert backend.resource["service.name"] == "test"
    assert backend.resource["telemetry.sdk.name"] == "agentscope"


def test_open_runs_and_steps_cost_no_request() -> None:
    backend = Backend()
    ending = deliver(OTLPProtocol(state()), batch([event(1, RUN_START)]), backend)
    assert (ending.delivered, ending.parked, ending.left, backend.seen) == ([], [1], [], [])
    assert ending.last.problem is None


def test_a_start_is_settled_with_the_end_that_came_later() -> None:
    backend = Backend()
    protocol = OTLPProtocol(state())
    start, end = opened(1, 2, "a")
    deliver(protocol, batch([start]), backend)
    sent = batch([end])
    sent.parked = {("run-1", "a"): [start]}
    assert sorted(deliver(protocol, sent, backend).delivered) == [1, 2]
    assert backend.spans[0].start_ns == start.fields["started_at"]


@pytest.mark.parametrize(("first", "other"), [("protobuf", json_form), ("json", protobuf)])
def test_the_other_encoding_is_tried_where_the_first_is_refused_and_remembered(first: str, other: Any) -> None:
    backend = Backend(takes=(other.CONTENT_TYPE,))
    protocol = OTLPProtocol(state(first))
    assert len(deliver(protocol, batch(run_of(1)), backend).delivered) == 3
    deliver(protocol, batch([event(9)]), backend)
    kinds = [kind for kind, _ in backend.seen]
    assert len(kinds) == 3
    assert kinds[1:] == [other.CONTENT_TYPE] * 2


def test_a_backend_that_takes_no_gzip_gets_none_and_keeps_the_encoding() -> None:
    backend = Backend(gzip=False)
    protocol = OTLPProtocol(state(compress=True))
    deliver(protocol, batch(run_of(3, input=b'"' + b"x" * 2000 + b'"')), backend)
    deliver(protocol, batch([event(9, input=b'"' + b"x" * 2000 + b'"')]), backend)
    assert backend.seen == [(protobuf.CONTENT_TYPE, "gzip")] + [(protobuf.CONTENT_TYPE, None)] * 2


def test_a_backend_that_takes_neither_encoding_is_tried_again_later() -> None:
    protocol = OTLPProtocol(state())
    ending = deliver(protocol, batch([event(1)]), Backend(takes=()), attempts=2)
    assert ending.left == []
    assert ending.reasons == {1: "rejected"}


@pytest.mark.parametrize("names_them", [True, False])
def test_rejected_spans_are_dropped_and_their_neighbours_delivered(names_them: bool) -> None:
    backend = Backend(rejected={step_span(2)}, names_them=names_them)
    ending = deliver(OTLPProtocol(state()), batch(run_of(3)), backend)
    assert len(ending.delivered) + len(ending.dropped) == 5
    assert {dropped.reason for dropped in ending.dropped.values()} == {"rejected"}
    if names_them:
        assert ending.dropped == {2: (2, "rejected", f"span {step_span(2)}: bad")}


def test_a_rejected_run_takes_its_start_and_its_end_along() -> None:
    backend = Backend(rejected={span_id_of("run-1")})
    ending = deliver(OTLPProtocol(state()), batch(run_of(1)), backend)
    assert (ending.delivered, ending.reasons) == ([2], {1: "rejected", 3: "rejected"})


@given(st.sets(st.integers(2, 9)), st.sets(st.integers(2, 9)))
def test_only_the_culprits_are_dropped_whatever_they_are(rejected: set[int], unacceptable: set[int]) -> None:
    backend = Backend(
        rejected={step_span(seq) for seq in rejected}, unacceptable={step_span(seq) for seq in unacceptable}
    )
    ending = deliver(OTLPProtocol(state()), batch(run_of(8)), backend)
    assert set(ending.reasons) == rejected | unacceptable
    assert sorted([*ending.delivered, *ending.reasons]) == list(range(1, 11))
    assert all(count == 1 for count in backend.stored.values())


def test_a_batch_that_is_too_large_goes_in_pieces_and_a_span_that_is_alone_is_cut() -> None:
    backend = Backend(limit=12_000)
    events = [*run_of(20, input=b'"' + b"x" * 1000 + b'"'), event(50, output=b'"' + b"y" * 50_000 + b'"')]
    ending = deliver(OTLPProtocol(state()), batch(events), backend)
    assert sorted(ending.delivered) == [*range(1, 23), 50]
    (cut,) = [span for span in backend.spans if span.span_id == step_span(50)]
    assert " bytes of JSON, more than the backend takes" in str(cut.attributes)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Failure("refused", "nobody"), REFUSED),
        (answer(503, retry_after="3"), BUSY),
        (answer(429), BUSY),
        (answer(401), UNAUTHORIZED),
        (answer(302), MISPLACED),
        (answer(404), MISPLACED),
        (answer(405), MISPLACED),
        (answer(200, b"<html>", content_type="text/html"), BUSY),
        (answer(200, b"\xff\xff", content_type="application/x-protobuf"), BUSY),
        (answer(200, b"[1]", content_type="application/json"), BUSY),
        (answer(200, protobuf.encode_response(99, ""), content_type="application/x-protobuf"), BUSY),
    ],
)
def test_an_answer_that_is_no_acknowledgement_leaves_everything_where_it_is(reply: Any, kind: str) -> None:
    protocol = OTLPProtocol(state())
    outcome = attempt(protocol, batch(run_of(2)), lambda request: reply)
    assert (outcome.delivered, outcome.dropped, outcome.kind) == ([], [], kind)
    assert outcome.problem
    assert protocol.name is None


@pytest.mark.parametrize(
    "reply",
    [
        answer(200),
        answer(202, b""),
        answer(200, b"{}", content_type="application/json; charset=utf-8"),
        answer(200, b'{"partialSuccess":{}}', content_type="application/json"),
        answer(200, b'{"message":"stored"}', content_type="application/json"),
        answer(200, b"", content_type="application/x-protobuf"),
        answer(200, b"", content_type="text/plain"),
        answer(200, protobuf.encode_response(0, "a warning"), content_type="application/x-protobuf"),
    ],
)
def test_every_form_of_a_successful_answer_is_accepted(reply: Response) -> None:
    outcome = attempt(OTLPProtocol(state()), batch(run_of(2)), lambda request: reply)
    assert sorted(outcome.delivered) == [1, 2, 3, 4]
    assert outcome.problem is None


def test_a_backend_that_was_there_is_not_given_up_for_one_404() -> None:
    protocol = OTLPProtocol(state())
    attempt(protocol, batch([event(1)]), Backend())
    outcome = attempt(protocol, batch([event(2)]), lambda request: answer(404))
    assert outcome.kind == BUSY


def voltagent() -> VoltAgentProtocol:
    return VoltAgentProtocol(state("json", path=VOLTAGENT_TRACES_PATH, voltops=True))


class History:
    """A backend with the history calls only."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, request: Request) -> Response:
        self.calls.append(f"{request.method} {request.path.split('/')[1]}")
        if request.path == VOLTAGENT_TRACES_PATH:
            return answer(404, {"message": "Not found"})
        return answer(200, {"id": f"srv-{len(self.calls)}"})


def test_a_voltagent_backend_with_otlp_is_asked_nothing_else() -> None:
    backend, protocol = Backend(), voltagent()
    ending = deliver(protocol, batch(run_of(3)), backend)
    assert (len(ending.delivered), len(backend.seen), protocol.name) == (5, 1, OTLP)
    assert backend.seen[0][0] == json_form.CONTENT_TYPE


def test_one_without_it_gets_the_history_calls_and_is_never_asked_again() -> None:
    backend, protocol = History(), voltagent()
    ending = deliver(protocol, batch(run_of(1)), backend)
    assert sorted(ending.delivered) == [1, 2, 3]
    deliver(protocol, batch([event(9, RUN_START, "run-2")]), backend)
    assert backend.calls == [
        "POST api",
        "POST history",
        "POST history-events",
        "POST history-events",
        "PATCH history",
        "POST history",
    ]
    assert protocol.name == HISTORY


def test_where_the_history_calls_are_used_nothing_has_to_stay_parked() -> None:
    protocol = voltagent()
    assert not attempt(protocol, batch([event(1, RUN_START)]), History()).released
    assert attempt(protocol, batch(run_of(1)), History()).released


def test_what_was_parked_for_otlp_is_sent_once_the_history_calls_are_used() -> None:
    backend, protocol = History(), voltagent()
    first = batch([event(1, RUN_START), opened(2, 9, "a")[0]])
    outcome = attempt(protocol, first, backend)
    assert (outcome.parked, backend.calls) == ([1, 2], [])
    second = batch([event(3)])
    second.parked = parked_after(first, outcome)
    outcome = attempt(protocol, second, backend)
    assert sorted(outcome.delivered) == [1, 2, 3]
    assert (outcome.parked, outcome.problem) == ([], None)


@pytest.mark.parametrize("reply", [Failure("refused", "nobody"), answer(503), answer(401), answer(302)])
def test_a_voltagent_backend_that_cannot_be_reached_decides_nothing(reply: Any) -> None:
    protocol = voltagent()
    outcome: Outcome = attempt(protocol, batch([event(1)]), lambda request: reply)
    assert (protocol.name, outcome.delivered) == (None, [])
    assert outcome.problem


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.lists(st.integers(1, 4), max_size=6))
def test_in_whatever_pieces_they_come_every_event_has_one_verdict(steps: list[str], cuts: list[int]) -> None:
    events: list[Event] = [event(1, RUN_START)]
    going: set[str] = set()
    for seq, step_id in enumerate(steps, 2):
        start, end = opened(seq, seq, step_id)
        events.append(end if step_id in going else start)
        going ^= {step_id}
    for make, backend in ((lambda: OTLPProtocol(state()), Backend()), (voltagent, History())):
        _all_settled(make(), backend, events, cuts)


def _all_settled(protocol: Any, backend: Callable[[Request], Any], events: list[Event], cuts: list[int]) -> None:
    parked: dict[Any, list[Event]] = {}
    settled: list[int] = []
    left = list(events)
    for cut in [*cuts, len(left)]:
        sent = batch(left[:cut])
        left = left[cut:]
        sent.parked = parked
        settled += deliver(protocol, sent, backend).delivered
        parked = dict(sent.parked)
    for part in list(parked):  # the end of the run
        sent = batch([parked[part].pop()])
        sent.parked, sent.closing = {part: parked[part]}, {part}
        settled += deliver(protocol, sent, backend).delivered
    assert sorted(settled) == [event.seq for event in events]
