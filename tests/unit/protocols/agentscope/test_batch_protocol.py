"""The batch call: its bytes, the check of answers, and the verdict on each event for every answer."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope._version import __version__
from agentscope.events import (
    RUN_END,
    RUN_START,
    RUN_UPDATE,
    STEP,
    STEP_END,
    STEP_START,
    STEP_UPDATE,
    Event,
    in_full,
)
from agentscope.protocols import compression as bodies
from agentscope.protocols.agentscope.protocol import BATCH, AgentScopeProtocol
from agentscope.protocols.base import (
    BUSY,
    MISPLACED,
    PATIENCE,
    REFUSED,
    UNAUTHORIZED,
    Batch,
    Failure,
    Response,
)
from agentscope.protocols.batched_lane import CHUNK, cut_largest_field
from agentscope.protocols.compression import SMALLEST_TIMELY
from agentscope.protocols.json_encode import event_json
from tests.support.events import (
    NOON,
    SESSION,
    BatchBackend,
    acknowledged,
    answer,
    attempt,
    batch,
    deliver,
    event,
    event_id,
    inflated,
    plain_step,
    strict,
)

PATIENT = settings(deadline=None, max_examples=60)
"""Settings of the property tests, whose examples take long on a busy machine."""


def protocol(largest_body: int = 1 << 20, compress: bool = True) -> AgentScopeProtocol:
    return AgentScopeProtocol(largest_body=largest_body, compress=compress)


def events(number: int, **fields: Any) -> list[Event]:
    return [event(seq, **fields) for seq in range(1, number + 1)]


def first_request(sent, used=None):
    (lane,) = (used or protocol()).begin(sent).lanes()
    return lane.next()


# ---- the request -------------------------------------------------------------------------------------------------------


def test_the_body_is_the_envelope_and_the_patches_and_nothing_else():
    patch = Event(
        STEP,
        17,
        NOON + 123_456_789,
        'run "1"\n',
        "step-é",
        None,
        {
            "name": "search ✓",
            "step_type": "tool_call",
            "input": b'{"q": [1, 2.50, "\xc3\xa9"]}',
            "output": b"null",
            "tokens_used": 3,
            "latency_ms": 12,
            "started_at": NOON,
            "ended_at": NOON + 999_999_999,
            "tags": ["a", "b"],
            "truncated": ["error"],
        },
        100,
    )
    bare = Event(RUN_END, 18, NOON, "run-2", None, "parent", {}, 100)
    request = first_request(batch([patch, bare], {"queue_full": 3, "rejected": 1}))
    assert (request.method, request.path) == ("POST", "/api/ingest/batch")
    assert request.headers == {"Content-Type": "application/json"}
    assert strict(request.body) == {
        "batch_id": "ba7c4000-0000-4000-8000-00000000ffff",
        "sdk": {"name": "agentscope-python", "version": __version__},
        "heartbeat_seconds": 15.0,
        "session_id": SESSION.id,
        "events": [
            {
                "id": "ab12cd34-0000-8000-8000-000000000011",
                "seq": 17,
                "time": "2026-01-31T12:00:00.123456Z",
                "type": "step",
                "run_id": 'run "1"\n',
                "step_id": "step-é",
                "parent_id": None,
                "name": "search ✓",
                "step_type": "tool_call",
                "input": {"q": [1, 2.5, "é"]},
                "output": None,
                "tokens_used": 3,
                "latency_ms": 12,
                "started_at": "2026-01-31T12:00:00.000000Z",
                "ended_at": "2026-01-31T12:00:00.999999Z",
                "tags": ["a", "b"],
                "truncated": ["error"],
            },
            {
                "id": "ab12cd34-0000-8000-8000-000000000012",
                "seq": 18,
                "time": "2026-01-31T12:00:00.000000Z",
                "type": "run.end",
                "run_id": "run-2",
                "step_id": None,
                "parent_id": "parent",
            },
        ],
        "dropped": [{"reason": "queue_full", "count": 3}, {"reason": "rejected", "count": 1}],
    }


@pytest.mark.parametrize("given", [b'{"q":1}', None])
@pytest.mark.parametrize("output", [b"[2]", None])
def test_a_plain_step_is_written_as_in_full(given, output):
    plain = plain_step(1, given, output, 'say "x" é', NOON + 5_000, 1_234_567)
    written, in_dict = (strict(event_json(each, SESSION)) for each in (plain, in_full(plain)))
    assert written == in_dict
    assert (written["latency_ms"], written["ended_at"]) == (1.234, "2026-01-31T12:00:00.001239Z")


def test_a_field_that_a_hook_named_oddly_is_json_all_the_same():
    (item,) = strict(first_request(batch([event(1, **{'a"b\\': 1, "é": "ü"})])).body)["events"]
    assert (item['a"b\\'], item["é"]) == (1, "ü")


def test_payloads_travel_as_the_bytes_they_are():
    payload = b'{ "z":1.0,\t"a" : "\\u00e9" }'
    assert b'"input":' + payload in first_request(batch([event(1, input=payload)])).body


@pytest.mark.parametrize("type_", [RUN_START, RUN_UPDATE, RUN_END, STEP_START, STEP_UPDATE, STEP_END, STEP])
def test_every_type_of_event_has_its_name_on_the_wire(type_):
    (item,) = strict(first_request(batch([event(1, type_)])).body)["events"]
    assert item["type"] == type_


@PATIENT
@given(
    run_id=st.text(st.characters(exclude_categories=["Cs"])),
    time_ns=st.integers(-(2**62), 2**63),
    fields=st.dictionaries(
        st.sampled_from(["name", "agent_name", "status", "tokens_used", "tags"]),
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"])), st.integers(-(2**63), 2**63), st.lists(st.text("ab"))
        ),
    ),
    payload=st.recursive(st.none() | st.booleans() | st.text('aé\u2028"\\'), st.lists, max_leaves=5),
)
def test_the_body_is_strict_json_whatever_the_fields_hold(run_id, time_ns, fields, payload):
    encoded = json.dumps(payload).encode()
    sent = Event(STEP, 1, time_ns, run_id, run_id, run_id, {**fields, "output": encoded}, 1)
    (item,) = strict(first_request(batch([sent]), protocol(compress=False)).body)["events"]
    assert item["run_id"] == item["step_id"] == item["parent_id"] == run_id
    assert {name: item[name] for name in fields} == fields
    assert item["output"] == payload


def test_dropped_counts_are_told_again_until_they_are_acknowledged_and_then_no_more():
    backend = BatchBackend(unacceptable={1})
    sent = batch(events(4), {"queue_full": 2})
    ending = deliver(protocol(), sent, backend)
    assert ending.reasons == {1: "rejected"}
    told = ["dropped" in document for document in backend.requests]
    # 1234 and 12 are refused, and so is 1; 2 is the first to be acknowledged.
    assert [[item["seq"] for item in document["events"]] for document in backend.requests] == [
        [1, 2, 3, 4],
        [1, 2],
        [1],
        [2],
        [3, 4],
    ]
    assert told == [True, True, True, True, False]
    assert backend.reports == {sent.id: [{"reason": "queue_full", "count": 2}]}


def test_dropped_counts_are_told_again_after_a_failure_under_the_same_batch_id():
    sent = batch(events(1), {"queue_full": 2})
    used = protocol()
    first = first_request(sent, used)
    outcome = attempt(used, sent, lambda request: Failure("timeout", "no answer"))
    assert not outcome.reported
    assert first_request(sent, used).body == first.body


def test_a_piece_that_carries_no_report_has_an_id_of_its_own():
    backend = BatchBackend(unacceptable={3})
    sent = batch(events(8))
    deliver(protocol(), sent, backend)
    ids = [document["batch_id"] for document in backend.requests]
    assert len(ids) > 3
    assert len(set(ids)) == len(ids)
    assert sent.id not in ids


def test_an_event_that_a_hook_made_unencodable_is_dropped_and_its_neighbours_delivered():
    bad = {
        2: event(2, name="\ud800"),
        4: event(4, latency_ms=float("nan")),
        6: event(6, tags={1}),
        8: event(8, started_at=10**40),
    }
    sent = batch(bad.get(seq, event(seq)) for seq in range(1, 10))
    backend = BatchBackend()
    ending = deliver(protocol(), sent, backend)
    assert ending.reasons == dict.fromkeys(bad, "encode_error")
    assert sorted(backend.stored) == [1, 3, 5, 7, 9]


def test_a_batch_of_which_nothing_can_be_encoded_makes_no_request():
    ending = deliver(protocol(), batch([event(1, name="\ud800")]), lambda request: pytest.fail("a request"))
    assert ending.reasons == {1: "encode_error"}


def test_events_are_sent_in_pieces_under_the_largest_body():
    backend = BatchBackend()
    ending = deliver(protocol(largest_body=1000), batch(events(20, input=b'"%b"' % (b"x" * 150))), backend)
    pieces = [[item["seq"] for item in document["events"]] for document in backend.requests]
    assert [seq for piece in pieces for seq in piece] == ending.delivered == list(range(1, 21))
    assert {len(piece) for piece in pieces} == {2}


def test_one_event_larger_than_the_largest_body_is_sent_alone():
    backend = BatchBackend()
    large = event(2, input=b'"%b"' % (b"x" * 2000))
    deliver(protocol(largest_body=1000), batch([event(1), large, event(3)]), backend)
    assert [[item["seq"] for item in document["events"]] for document in backend.requests] == [[1], [2], [3]]


# ---- compression -------------------------------------------------------------------------------------------------------

LARGE = b'"%b"' % (b"x" * 2000)


def encodings(announced: str, compress: bool = True, payload: bytes = LARGE) -> list[str | None]:
    """The `Content-Encoding` of two requests, before and after the backend's first answer."""
    used = protocol(compress=compress)
    backend = BatchBackend(announces=announced)
    seen: list[str | None] = []

    def listening(request):
        seen.append(request.headers.get("Content-Encoding"))
        return backend(request)

    for seq in (1, 2):
        assert deliver(used, batch([event(seq, input=payload)]), listening).delivered == [seq]
    return seen


@pytest.mark.parametrize(
    ("announced", "second"),
    [
        ("", "gzip"),
        ("identity", None),
        ("gzip", "gzip"),
        ("br, GZIP;q=0.5", "gzip"),
        ("gzip, zstd", "zstd"),
        ("zstd", "zstd"),
    ],
)
def test_bodies_are_sent_as_gzip_until_the_backend_announces_something_else(announced, second):
    assert encodings(announced) == ["gzip", second]


def test_without_the_zstandard_package_gzip_is_used_or_nothing(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(bodies, "import_module", missing)
    monkeypatch.setattr(bodies, "_zstandard", cache(bodies._zstandard.__wrapped__))
    assert encodings("gzip, zstd") == ["gzip", "gzip"]
    assert encodings("zstd") == ["gzip", None]


def test_small_bodies_are_not_compressed():
    assert encodings("gzip", payload=b"1") == [None, None]


def test_compression_can_be_turned_off():
    assert encodings("gzip", compress=False) == [None, None]


def test_415_turns_compression_off_for_good_and_the_same_events_are_sent_again():
    used = protocol()
    seen = []

    def backend(request):
        seen.append(request.headers.get("Content-Encoding"))
        return answer(415, accept_encoding="gzip") if seen[-1] else acknowledged(1, accept_encoding="gzip")

    for seq in (1, 2):
        assert deliver(used, batch([event(seq, input=LARGE)]), backend).delivered == [seq]
    assert seen == ["gzip", None, None]


def test_415_to_a_plain_body_means_the_event():
    ending = deliver(protocol(), batch(events(1)), lambda request: answer(415))
    assert ending.reasons == {1: "rejected"}


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_compressed_body_holds_the_same_json(encoding):
    used = protocol()
    used.state.encoding = encoding
    sent = batch(events(300, input=LARGE), {"queue_full": 1})
    plain = first_request(sent, protocol(compress=False)).body
    assert len(plain) > 2 * CHUNK
    assert inflated(first_request(sent, used)) == plain
    assert [item["seq"] for item in strict(plain)["events"]] == list(range(1, 301))


def test_a_body_whose_last_event_fills_a_chunk_is_whole():
    payload = b'"%b"' % (b"x" * CHUNK)
    assert deliver(protocol(largest_body=1 << 30), batch(events(3, input=payload)), BatchBackend()).attempts == 1


@pytest.mark.parametrize("requests", [1, 1 << 30])
@pytest.mark.parametrize("status", [400, 415, 422, 500])
def test_a_backend_that_takes_gzip_for_broken_json_gets_the_same_events_plain_from_then_on(status, requests):
    used, backend = protocol(), BatchBackend()
    seen = []

    def naive(request):
        seen.append(request.headers.get("Content-Encoding"))
        return answer(status) if seen[-1] else backend(request)

    for first in (1, 5):
        sent = batch(event(seq, input=LARGE) for seq in range(first, first + 4))
        assert deliver(used, sent, naive, requests=requests).dropped == {}
    assert seen == ["gzip", None, None]


@pytest.mark.parametrize("requests", [1, 1 << 30])
@pytest.mark.parametrize("status", [400, 422])
def test_what_is_refused_with_and_without_gzip_is_itself_at_fault(status, requests):
    used, backend = protocol(), BatchBackend()
    seen = []

    def judging(request):
        seen.append(request.headers.get("Content-Encoding"))
        bad = any(item["seq"] == 2 for item in strict(inflated(request))["events"])
        return answer(status) if bad else backend(request)

    ending = deliver(used, batch(events(4, input=LARGE)), judging, requests=requests)
    assert ending.reasons == {2: "rejected"}
    # All four, then 1 and 2, and then each of those alone: 1 is taken, and after that only 2 is to blame.
    assert seen == ["gzip", None, "gzip", None, "gzip", "gzip", "gzip"]


def test_what_is_not_compressed_is_made_with_pauses():
    sent = batch(events(300, input=LARGE))
    pauses = []
    sent.pause = lambda: pauses.append(1)
    body = first_request(sent, protocol(compress=False)).body
    assert len(pauses) >= len(body) // CHUNK > 2


@pytest.mark.parametrize(("compress", "looked_up"), [(True, ["zstandard"]), (False, [])])
def test_warming_up_imports_what_compression_may_need(monkeypatch, compress, looked_up):
    asked: list[str] = []
    monkeypatch.setattr(bodies, "import_module", asked.append)
    monkeypatch.setattr(bodies, "_zstandard", cache(bodies._zstandard.__wrapped__))
    protocol(compress=compress).warm_up()
    assert asked == looked_up


def test_what_warming_up_did_not_find_is_not_looked_for_again(monkeypatch):
    asked: list[str] = []

    def missing(name):
        asked.append(name)
        raise ImportError(name)

    monkeypatch.setattr(bodies, "import_module", missing)
    monkeypatch.setattr(bodies, "_zstandard", cache(bodies._zstandard.__wrapped__))
    used = protocol()
    used.warm_up()
    assert deliver(used, batch(events(300, input=LARGE)), BatchBackend(announces="gzip, zstd")).left == []
    assert asked == ["zstandard"]


# ---- slow connections ------------------------------------------------------------------------------------------------


def sizes(used, answers, number=400):
    """The number of events in each request to a backend with these answers. Later requests are acknowledged."""
    backend, seen, given = BatchBackend(), [], iter(answers)

    def slow(request):
        seen.append(len(strict(inflated(request))["events"]))
        return next(given, None) or backend(request)

    assert deliver(used, batch(events(number, input=LARGE)), slow).left == []
    return seen


LATE = Failure("timeout", "not a whole answer within 10 s")


def test_a_body_that_was_not_answered_in_time_is_sent_in_halves():
    first, second, *_ = sizes(protocol(largest_body=1 << 30), [LATE])
    assert (first, second) == (400, 200)


def test_bodies_become_no_smaller_than_is_worth_a_request_and_larger_again_with_each_success():
    used = protocol(largest_body=1 << 30)
    seen = sizes(used, [LATE] * 20)
    assert min(seen[:20]) * len(LARGE) > SMALLEST_TIMELY * 0.9
    growing = sizes(used, [], 4000)
    assert growing[:-1] == sorted(growing[:-1])
    assert 2 * growing[0] < growing[-2]
    assert sizes(used, []) == [400]


@pytest.mark.parametrize(
    "failure", [Failure("timeout", "not connected", unsent=True), Failure("connection", "broke"), answer(503)]
)
def test_other_failures_say_nothing_of_how_large_a_body_may_be(failure):
    assert sizes(protocol(largest_body=1 << 30), [failure]) == [400, 400]


def test_one_event_that_is_late_does_not_make_others_smaller():
    used = protocol(largest_body=1 << 30)
    assert sizes(used, [LATE], 1) == [1, 1]
    assert sizes(used, []) == [400]


# ---- valid and invalid answers ---------------------------------------------------------------------------------------


def test_an_acknowledgement_settles_every_event_and_names_the_protocol():
    used = protocol()
    assert used.name is None
    outcome = attempt(used, batch(events(3), {"queue_full": 1}), lambda request: acknowledged(2, 1))
    assert (outcome.delivered, outcome.dropped, outcome.duplicates) == ([1, 2, 3], [], 1)
    assert (outcome.reported, outcome.problem, outcome.kind) == (True, None, None)
    assert used.name == BATCH


def test_a_batch_without_dropped_counts_reports_nothing():
    assert not attempt(protocol(), batch(events(1)), lambda request: acknowledged(1)).reported


def test_rejected_events_are_dropped_with_the_backends_reason():
    verdicts = [{"id": event_id(2), "reason": "too\x1b[31m odd\n"}, {"id": event_id(3), "reason": ["nested"]}]
    outcome = attempt(protocol(), batch(events(3)), lambda request: acknowledged(1, 0, verdicts))
    assert outcome.delivered == [1]
    assert outcome.dropped == [(2, "rejected", "too [31m odd"), (3, "rejected", "no reason given")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[3]",
        b"\xff\xfe",
        b"[" * 60_000,
        {},
        {"accepted": 3},
        {"accepted": 1},
        {"accepted": True, "duplicates": 1},
        {"accepted": 2.0},
        {"accepted": "2"},
        {"accepted": -1, "duplicates": 3},
        {"accepted": 3, "duplicates": -1},
        {"accepted": 1, "duplicates": None},
        {"accepted": 2, "rejected": None},
        {"accepted": 2, "rejected": {}},
        {"accepted": 1, "rejected": ["x"]},
        {"accepted": 1, "rejected": [{"id": "unknown"}]},
        {"accepted": 1, "rejected": [{"id": ["unhashable"]}]},
        {"accepted": 1, "rejected": [{"id": {}}]},
        {"accepted": 1, "rejected": [{"id": None}]},
        {"accepted": 0, "rejected": [{"id": event_id(1)}, {"id": event_id(1)}]},
    ],
)
def test_an_answer_that_does_not_parse_or_add_up_settles_nothing(body):
    outcome = attempt(protocol(), batch(events(2), {"queue_full": 1}), lambda request: answer(200, body))
    assert (outcome.delivered, outcome.dropped, outcome.duplicates, outcome.reported) == ([], [], 0, False)
    assert outcome.kind == BUSY
    assert "not an acknowledgement" in (outcome.problem or "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 5) | st.floats() | st.text(max_size=3) | st.sampled_from([event_id(1)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
VERDICT = st.fixed_dictionaries(
    {"id": st.sampled_from([event_id(seq) for seq in range(5)]) | JSON}, optional={"reason": JSON}
)
ANSWERS = JSON | st.fixed_dictionaries(
    {},
    optional={
        "accepted": st.integers(0, 3) | JSON,
        "duplicates": st.integers(0, 3) | JSON,
        "rejected": st.lists(VERDICT, max_size=3) | JSON,
    },
)


@PATIENT
@given(body=ANSWERS, number=st.integers(1, 4), status=st.sampled_from([200, 201, 202, 204, 299]))
def test_no_answer_settles_an_event_twice_or_one_that_was_not_sent(body, number, status):
    outcome = attempt(protocol(), batch(events(number)), lambda request: answer(status, body))
    settled = [*outcome.delivered, *(dropped.seq for dropped in outcome.dropped)]
    # All or nothing: a valid answer has a verdict on each event.
    assert sorted(settled) in ([], list(range(1, number + 1)))
    assert (outcome.problem is None) == bool(settled)
    assert outcome.duplicates <= len(outcome.delivered)
    assert all(len(dropped.detail) <= 200 and dropped.detail.isprintable() for dropped in outcome.dropped)


# ---- refusals that change nothing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kind", "word"),
    [
        (Failure("refused", "r:1 refused", unsent=True), REFUSED, "r:1 refused"),
        (Failure("tls", "bad certificate", unsent=True), MISPLACED, "bad certificate"),
        (Failure("timeout", "too slow"), BUSY, "too slow"),
        (Failure("dns", "no host", unsent=True), BUSY, "no host"),
        (Failure("too_large", "too much"), BUSY, "too much"),
        (answer(301), MISPLACED, "redirects (HTTP 301)"),
        (answer(308), MISPLACED, "redirects (HTTP 308)"),
        (answer(401), UNAUTHORIZED, "API key (HTTP 401)"),
        (answer(403), UNAUTHORIZED, "API key (HTTP 403)"),
        (answer(403), UNAUTHORIZED, "any proxy on the way"),
        (answer(403, {"detail": "Requests from pages of another site are refused."}), MISPLACED, "send no Origin"),
        (answer(421), MISPLACED, "start it with --allow-host"),
        (answer(200, {"success": False, "accepted": 3}), BUSY, "not an acknowledgement"),
        (Failure("setup", "needs PySocks", unsent=True), MISPLACED, "needs PySocks"),
        (answer(402), MISPLACED, "HTTP 402"),
        (answer(410), MISPLACED, "HTTP 410"),
        (answer(408), BUSY, "HTTP 408"),
        (answer(425), BUSY, "HTTP 425"),
        (answer(429), BUSY, "HTTP 429"),
        (answer(500), BUSY, "HTTP 500"),
        (answer(503), BUSY, "HTTP 503"),
        (answer(599), BUSY, "HTTP 599"),
    ],
)
def test_a_refusal_settles_nothing_and_says_why(reply, kind, word):
    outcome = attempt(protocol(), batch(events(3), {"queue_full": 1}), lambda request: reply)
    assert (outcome.delivered, outcome.dropped, outcome.reported) == ([], [], False)
    assert outcome.kind == kind
    assert word in (outcome.problem or "")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_retry_after_is_handed_on_as_it_came(status):
    outcome = attempt(protocol(), batch(events(3)), lambda request: answer(status, retry_after="abc"))
    assert outcome.retry_after == "abc"


def test_a_refusal_ends_the_attempt_and_the_next_one_sends_the_same_bytes():
    bodies = []

    def backend(request):
        bodies.append(request.body)
        return answer(503) if len(bodies) < 3 else acknowledged(3)

    ending = deliver(protocol(), batch(events(3)), backend)
    assert (ending.attempts, len(bodies), len(set(bodies))) == (3, 3, 1)


def test_a_backend_that_says_when_to_come_back_with_500_is_not_searched_for_a_culprit():
    sent = batch(events(4))
    ending = deliver(protocol(), sent, lambda request: answer(500, retry_after="1"), attempts=20)
    assert (ending.left, sent.server_errors, sent.suspects) == ([1, 2, 3, 4], 0, {})


# ---- refusals because of a part of the batch -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_event_is_dropped_with_what_the_backend_says(status):
    said = answer(status, {"detail": [{"msg": "field required"}]})
    ending = deliver(protocol(), batch(events(1)), lambda request: said)
    assert ending.dropped[1] == (1, "rejected", f"HTTP {status} field required")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"detail": "plain"}, "HTTP 422 plain"),
        ({"detail": []}, "HTTP 422"),
        ({"detail": [1]}, "HTTP 422"),
        ({"detail": {"a": 1}}, "HTTP 422"),
        (b"<html>", "HTTP 422"),
        ({"detail": "a\nb\x1b[0m\u202e" + "x" * 1000}, "HTTP 422 a b [0m " + "x" * 183),
    ],
)
def test_a_backends_text_is_made_printable_and_short(body, sentence):
    ending = deliver(protocol(), batch(events(1)), lambda request: answer(422, body))
    assert ending.dropped[1].detail == sentence


@pytest.mark.parametrize("requests", [1, 2, 1 << 30])
@PATIENT
@given(bad=st.sets(st.integers(1, 25)), number=st.integers(1, 25), rejected=st.sets(st.integers(1, 25)))
def test_400_and_422_cost_exactly_the_culprits(requests, bad, number, rejected):
    backend = BatchBackend(unacceptable=bad, rejected=rejected)
    ending = deliver(protocol(compress=False), batch(events(number)), backend, requests=requests)
    everything = set(range(1, number + 1))
    culprits = everything & (bad | rejected)
    assert ending.reasons == dict.fromkeys(culprits, "rejected")
    assert set(backend.stored) == set(ending.delivered) == everything - culprits
    assert len(backend.requests) < 2 * number


@pytest.mark.parametrize("requests", [1, 3, 1 << 30])
@PATIENT
@given(
    sizes=st.lists(st.integers(0, 6000), min_size=1, max_size=12),
    limit=st.integers(300, 8000),
)
def test_413_cuts_what_is_too_large_and_drops_only_what_cannot_be_cut(requests, sizes, limit):
    sent = [event(seq, input=b'"%b"' % (b"x" * size)) for seq, size in enumerate(sizes)]
    backend = BatchBackend(limit=limit)
    ending = deliver(protocol(), batch(sent), backend, requests=requests)
    envelope = 250
    assert set(ending.reasons.values()) <= {"too_large"}
    assert all(limit < envelope + 300 + 256 for _ in ending.dropped)
    assert sorted([*ending.delivered, *ending.dropped]) == list(range(len(sizes)))
    assert Counter(ending.delivered) == backend.stored


def test_413_splits_and_the_size_is_remembered_for_the_next_batch():
    backend = BatchBackend(limit=6000)
    used = protocol()
    payload = b'"%b"' % (b"x" * 500)
    assert deliver(used, batch(events(16, input=payload)), backend).delivered == list(range(1, 17))
    before = len(backend.requests)
    later = [event(seq, input=payload) for seq in range(17, 33)]
    assert deliver(used, batch(later), backend).dropped == {}
    assert all(len(json.dumps(document)) <= 6000 for document in backend.requests[before:])


def test_a_field_that_is_too_large_is_cut_marked_and_the_event_delivered():
    backend = BatchBackend(limit=3000)
    large = event(1, input=b'{"small":1}', output=b'["%b"]' % (b"y" * 10_000), truncated=["usage"])
    assert deliver(protocol(), batch([large]), backend).delivered == [1]
    (item,) = backend.requests[-1]["events"]
    assert item["truncated"] == ["output", "usage"]
    assert item["input"] == {"small": 1}
    assert item["output"].startswith('["yyyy')
    assert item["output"].endswith("…[cut: 10004 bytes of JSON, more than the backend takes]")


def test_an_event_as_large_as_one_that_was_refused_is_cut_before_it_is_sent():
    sent = batch([event(1, output=b'"%b"' % (b"y" * 10_000))])
    sent.refused_size = 3000
    backend = BatchBackend(limit=3000)
    assert deliver(protocol(), sent, backend).delivered == [1]
    assert len(backend.requests) == 1


def test_an_event_with_nothing_left_to_cut_is_dropped_as_too_large():
    ending = deliver(protocol(), batch([event(1, name="n" * 5000)]), BatchBackend(limit=3000))
    assert ending.dropped[1] == (1, "too_large", "HTTP 413 to this event alone")


def test_an_event_without_a_field_worth_cutting_is_sent_as_it_is_though_its_size_was_refused():
    sent = batch([event(1, name="n" * 5000)])
    sent.refused_size = 1000
    assert deliver(protocol(), sent, BatchBackend()).delivered == [1]


def test_one_event_that_was_too_large_does_not_cut_those_of_later_batches():
    used = protocol()
    backend = BatchBackend(limit=3000)
    deliver(used, batch([event(1, input=b'"%b"' % (b"x" * 9000))]), backend)
    later = event(2, input=b'"%b"' % (b"y" * 9000))
    ending = deliver(used, batch([later]), BatchBackend())
    assert ending.delivered == [2]
    (lane,) = used.begin(batch([later])).lanes()
    assert b"y" * 9000 in inflated(lane.next())


@PATIENT
@given(st.dictionaries(st.sampled_from(["input", "output", "error"]), st.text(max_size=4000)))
def test_cutting_always_ends_and_leaves_json(payloads):
    current = event(1, **{name: json.dumps(value).encode() for name, value in payloads.items()})
    for _ in range(100):
        smaller = cut_largest_field(current)
        if smaller is None:
            break
        lengths = [sum(len(value) for value in e.fields.values() if type(value) is bytes) for e in (current, smaller)]
        assert lengths[1] < lengths[0]
        for name in payloads:
            strict(smaller.fields[name])
        current = smaller
    else:
        pytest.fail("no end")


# ---- HTTP 500: an outage, or one event ----------------------------------------------------------------------------------


def company(attempts: int = 30):
    """Healthy events, three for each attempt."""
    return ([event(1000 + 3 * i + j) for j in range(3)] for i in range(attempts))


@pytest.mark.parametrize("requests", [1, 2, 5, 1 << 30])
@pytest.mark.parametrize("poison", [1, 7, 20])
def test_one_event_that_is_always_answered_500_is_dropped_and_all_others_are_delivered(requests, poison):
    backend = BatchBackend(crashing={poison})
    sent = batch(events(20))
    ending = deliver(protocol(), sent, backend, requests=requests, more=company(), attempts=300)
    assert ending.dropped == {poison: (poison, "rejected", "HTTP 500 to this event alone")}
    assert ending.left == []
    assert sent.suspects[poison].strikes == PATIENCE
    assert set(backend.stored) == set(ending.delivered)


@PATIENT
@given(poison=st.sets(st.integers(1, 20), max_size=5), requests=st.sampled_from([1, 3, 1 << 30]))
def test_several_that_are_always_answered_500_are_dropped_and_no_others(poison, requests):
    backend = BatchBackend(crashing=poison)
    ending = deliver(protocol(), batch(events(20)), backend, requests=requests, more=company(), attempts=2000)
    assert set(ending.dropped) == poison
    assert ending.left == []


@pytest.mark.parametrize("requests", [1, 4, 1 << 30])
@pytest.mark.parametrize("number", [1, 2, 50])
def test_an_outage_of_500s_drops_nothing_however_long(requests, number):
    sent = batch(events(number))
    ending = deliver(protocol(), sent, lambda request: answer(500), requests=requests, attempts=200)
    assert (ending.delivered, ending.dropped, len(ending.left)) == ([], {}, number)
    assert ending.last.kind == BUSY
    assert "HTTP 500" in (ending.last.problem or "")
    assert deliver(protocol(), sent, BatchBackend()).left == []


@PATIENT
@given(
    good=st.integers(0, 40),
    outage=st.integers(1, 120),
    number=st.integers(1, 12),
    requests=st.sampled_from([1, 1 << 30]),
)
def test_an_outage_of_500s_drops_nothing_at_whichever_request_it_begins_and_ends(good, outage, number, requests):
    backend = BatchBackend(unacceptable={3})
    seen = []

    def failing(request):
        seen.append(request)
        return answer(500) if good <= len(seen) - 1 < good + outage else backend(request)

    ending = deliver(protocol(), batch(events(number)), failing, requests=requests, more=company(), attempts=400)
    assert set(ending.dropped) <= {3}
    assert ending.left == []


def test_requests_in_an_outage_of_500s_are_few():
    asked = []

    def outage(request):
        asked.append(request)
        return answer(500)

    ending = deliver(protocol(), batch(events(1000)), outage, attempts=30)
    assert len(asked) <= ending.attempts / PATIENCE * (2 + 2 * 10 + 4)


def test_a_batch_is_not_searched_before_it_was_answered_500_a_few_times():
    backend = BatchBackend(crashing={1})
    deliver(protocol(compress=False), batch(events(8)), backend, attempts=PATIENCE - 1)
    assert [len(document["events"]) for document in backend.requests] == [8, 8]


@PATIENT
@given(
    st.lists(st.sampled_from([200, 400, 401, 413, 415, 429, 500, 502, 0, 1]), max_size=60),
    st.integers(1, 12),
    st.sampled_from([1, 2, 1 << 30]),
)
def test_whatever_a_backend_answers_every_event_ends_once_and_the_good_end_delivers(script, number, requests):
    backend = BatchBackend()
    steps = iter(script)

    def moody(request):
        status = next(steps, 200)
        if status == 200:
            return backend(request)
        if status == 1:
            backend(request)  # stored, and the answer is lost
        return Failure("connection", "broke") if status < 2 else answer(status)

    sent = batch(events(number, input=b'"%b"' % (b"x" * 300)), {"queue_full": 7})
    ending = deliver(protocol(), sent, moody, requests=requests, more=company())
    assert ending.left == []
    assert not set(ending.delivered) & set(ending.dropped)
    assert set(backend.stored) >= set(ending.delivered)
    assert max(backend.stored.values(), default=1) == 1
    if ending.delivered:
        assert list(backend.reports) == [sent.id]


# ---- the heartbeat -----------------------------------------------------------------------------------------------------


def test_a_heartbeat_is_a_batch_without_events_and_no_answer_to_it_changes_anything():
    for reply in (Response(200, {}, b"{}"), Response(400), Response(413), Response(500), Failure("refused", "no")):
        used = protocol()
        sent = Batch("ba7c4000-0000-4000-8000-00000000ffff", SESSION, (), is_heartbeat=True)
        delivery = used.begin(sent)
        (lane,) = delivery.lanes()
        told = strict(lane.next().body)
        assert (told["session_id"], told["events"], told["heartbeat_seconds"]) == (SESSION.id, [], 15.0)
        lane.answer(reply)
        assert lane.next() is None
        assert not delivery.lanes()
        assert delivery.outcome.problem is None
