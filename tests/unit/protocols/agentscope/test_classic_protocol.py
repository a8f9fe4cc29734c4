"""The classic calls: order, ids of the server, and the verdict on each event for every answer."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope.events import RUN_END, RUN_START, RUN_UPDATE, STEP, STEP_UPDATE
from agentscope.protocols.agentscope.classic import MOST_RUNS, ClassicState
from agentscope.protocols.agentscope.decode import Arrival, decode_step
from agentscope.protocols.agentscope.protocol import CLASSIC, AgentScopeProtocol
from agentscope.protocols.base import BUSY, MISPLACED, PATIENCE, REFUSED, UNAUTHORIZED, Failure
from tests.support.events import (
    ClassicBackend,
    acknowledged,
    answer,
    attempt,
    batch,
    deliver,
    event,
    event_id,
    opened,
    run_of,
    strict,
)

STORED = answer(200, {"message": "ok"})
NOW = "2026-01-31T12:00:00.000000Z"
CREATED = answer(200, {"id": "srv", "status": "running"})


PATIENT = settings(deadline=None)
"""Settings of the property tests, whose examples take long on a busy machine."""


def protocol() -> AgentScopeProtocol:
    used = AgentScopeProtocol(largest_body=1 << 20, compress=True)
    used.name = CLASSIC
    return used


def mixed(runs: int, steps: int = 3):
    """Several runs whose events alternate."""
    whole = [run_of(steps, f"run-{i}", first=100 * i) for i in range(1, runs + 1)]
    return [event for events in zip(*whole, strict=True) for event in events]


def company(attempts: int = 100):
    """A healthy run for each attempt."""
    return (run_of(1, f"other-{i}", first=10_000 + 10 * i) for i in range(attempts))


def in_order(backend: ClassicBackend) -> bool:
    return all(stored == sorted(stored) for stored in backend.runs.values())


# ---- the requests ------------------------------------------------------------------------------------------------------


def test_a_run_is_a_post_its_steps_posts_below_the_servers_id_and_its_end_a_patch():
    requests = []

    def backend(request):
        requests.append(request)
        return CREATED if request.path == "/api/ingest/run" else STORED

    step = event(2, input=b'{"q":1}', truncated=["output"])._replace(parent_id="step-1")
    events = [event(1, RUN_START), step, event(3), event(4, RUN_UPDATE, status="running"), event(5, RUN_END)]
    assert deliver(protocol(), batch(events), backend).delivered == [1, 2, 3, 4, 5]
    assert [(request.method, request.path) for request in requests] == [
        ("POST", "/api/ingest/run"),
        ("POST", "/api/ingest/run/srv/step"),
        ("POST", "/api/ingest/run/srv/step"),
        ("PATCH", "/api/ingest/run/srv"),
        ("PATCH", "/api/ingest/run/srv"),
    ]
    assert [strict(request.body) for request in requests] == [
        {"agent_name": "agent", "external_id": "run-1", "meta_data": {"agentscope_run_id": "run-1"}},
        {
            "name": "step 2",
            "step_type": "llm_call",
            "input": {"q": 1},
            "meta_data": {
                "agentscope_truncated": ["output"],
                "agentscope_step_id": "step-2",
                "agentscope_parent_id": "step-1",
            },
        },
        {"name": "step 3", "step_type": "llm_call", "meta_data": {"agentscope_step_id": "step-3"}},
        {"status": "running"},
        {"status": "completed"},
    ]
    assert [request.headers for request in requests] == [
        {"Content-Type": "application/json", "Idempotency-Key": event_id(seq)} for seq in range(1, 6)
    ]


def test_a_repeated_request_carries_the_same_idempotency_key():
    keys = []

    def backend(request):
        keys.append(request.headers["Idempotency-Key"])
        return answer(503) if len(keys) < 3 else STORED

    deliver(protocol(), batch([event(1)]), backend)
    assert keys == [event_id(1)] * 3


def test_what_the_classic_calls_have_no_place_for_is_dropped_and_its_neighbours_are_not():
    events = [event(1, RUN_START), event(2, "run.pause"), event(3)]
    ending = deliver(protocol(), batch(events), ClassicBackend())
    assert ending.dropped == {2: (2, "encode_error", "the AgentScope API cannot carry run.pause")}
    assert ending.delivered == [1, 3]


def test_a_step_that_was_announced_is_one_record_once_it_has_ended():
    backend = ClassicBackend()
    shared = protocol()
    start, end = opened(2, 5, "a", output=b'{"x":1}')
    first = batch([event(1, RUN_START), start, event(3)])
    ending = deliver(shared, first, backend)
    assert (ending.delivered, ending.parked, ending.left) == ([1, 3], [2], [])
    second = batch([event(4, STEP_UPDATE)._replace(step_id="a"), end])
    second.parked = first.parked
    ending = deliver(shared, second, backend)
    assert (sorted(ending.delivered), ending.parked) == ([2, 4, 5], [])
    assert list(backend.runs.values()) == [[1, 3, 5]]


def test_a_step_that_is_refused_is_refused_with_its_start():
    backend = ClassicBackend(unacceptable={3})
    ending = deliver(protocol(), batch([event(1, RUN_START), *opened(2, 3, "a")]), backend)
    assert ending.reasons == {2: "rejected", 3: "rejected"}


def test_an_event_that_a_hook_made_unencodable_is_dropped_and_its_neighbours_are_not():
    backend = ClassicBackend()
    events = [
        event(1, RUN_START),
        event(2, name=7),
        event(3, input=b'{"k":1}', meta_data=3),
        event(4),
        event(5, RUN_END),
    ]
    ending = deliver(protocol(), batch(events), backend)
    assert ending.reasons == {2: "encode_error", 3: "encode_error"}
    assert backend.runs == {"srv/0": [1, 4, 5]}


# ---- ids and order -----------------------------------------------------------------------------------------------------


def test_steps_wait_for_the_answer_to_their_runs_creation():
    (lane,) = protocol().begin(batch(run_of(1))).lanes()
    assert lane.next().path == "/api/ingest/run"
    lane.answer(CREATED)
    assert lane.next().path == "/api/ingest/run/srv/step"


def test_steps_are_not_sent_when_the_creation_was_not_answered():
    asked = []

    def backend(request):
        asked.append(request.path)
        return Failure("timeout", "too slow")

    outcome = attempt(protocol(), batch(run_of(3)), backend)
    assert asked == ["/api/ingest/run"]
    assert (outcome.delivered, outcome.dropped) == ([], [])


def test_a_later_batch_knows_the_servers_ids_of_an_earlier_one():
    used, backend = protocol(), ClassicBackend()
    start, *rest = run_of(2)
    deliver(used, batch([start]), backend)
    deliver(used, batch(rest), backend)
    assert backend.runs == {"srv/0": [1, 2, 3, 4]}


def test_a_run_that_was_not_started_here_is_taken_to_be_the_platforms_own():
    backend = ClassicBackend(runs={"theirs/ü": []})
    deliver(protocol(), batch([event(1, run_id="theirs/ü")]), backend)
    assert backend.runs == {"theirs/ü": [1]}


def test_a_number_is_an_id_too():
    paths = []

    def backend(request):
        paths.append(request.path)
        return answer(200, {"id": 7})

    deliver(protocol(), batch(run_of(0)), backend)
    assert paths[1] == "/api/ingest/run/7"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", [1], {}, {"id": None}, {"id": ""}, {"id": True}, {"id": 1.5}, {"id": ["a"]}]
)
def test_a_creation_that_is_not_answered_with_an_id_is_repeated_and_may_have_been_stored_twice(body):
    answers = iter([answer(200, body), answer(200, body)])
    ending = deliver(protocol(), batch([event(1, RUN_START)]), lambda request: next(answers, CREATED))
    assert (ending.attempts, ending.delivered, ending.possibly_duplicated) == (3, [1], 1)


def test_a_step_answered_with_something_that_is_no_json_is_repeated():
    outcome = attempt(protocol(), batch([event(1)]), lambda request: answer(200, b"<html>"))
    assert (outcome.delivered, outcome.kind) == ([], BUSY)
    assert "not an acknowledgement" in (outcome.problem or "")


def test_the_run_that_was_used_longest_ago_is_forgotten_first():
    state = ClassicState()
    for i in range(MOST_RUNS):
        state.learn(f"run {i}", f"srv {i}")
    assert state.server_id("run 0") == "srv 0"
    state.learn("one more", "srv")
    assert state.server_id("run 0") == "srv 0"
    assert state.server_id("run 1") == "run 1"
    assert state.server_id("one more") == "srv"


def test_every_run_has_a_lane_of_its_own():
    lanes = protocol().begin(batch(mixed(4))).lanes()
    assert len(lanes) == 4
    assert [lane.next().headers["Idempotency-Key"] for lane in lanes] == [event_id(100 * i) for i in range(1, 5)]


@PATIENT
@given(
    script=st.lists(st.sampled_from([200, 0, 1, 2, 400, 429, 502, 503]), max_size=80),
    runs=st.integers(1, 4),
    requests=st.sampled_from([1, 2, 1 << 30]),
)
def test_whatever_a_platform_answers_every_event_ends_once_and_runs_keep_their_order(script, runs, requests):
    backend = ClassicBackend()
    steps = iter(script)

    def moody(request):
        status = next(steps, 200)
        if status == 200:
            return backend(request)
        if status == 1:
            backend(request)  # stored, and the answer is lost
        if status <= 2:
            return Failure("connection", "broke", unsent=status == 2)
        return answer(status)

    ending = deliver(protocol(), batch(mixed(runs)), moody, requests=requests)
    assert ending.left == []
    assert not set(ending.delivered) & set(ending.dropped)
    stored = Counter(seq for seqs in backend.runs.values() for seq in seqs)
    assert set(stored) >= set(ending.delivered)
    assert in_order(backend)
    assert sum(stored.values()) - len(stored) <= ending.possibly_duplicated + script.count(1)


# ---- possible duplicates ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [Failure("timeout", "too slow"), answer(502), answer(504), answer(200, b"<html>")])
@pytest.mark.parametrize(("type_", "counted"), [(RUN_START, 1), (STEP, 1), (RUN_END, 0), (RUN_UPDATE, 0)])
def test_a_record_that_was_sent_and_not_answered_may_be_there_twice_and_counts_once(reply, type_, counted):
    answers = iter([reply, reply, reply])
    used = protocol()
    ending = deliver(used, batch([event(1, type_)]), lambda request: next(answers, CREATED))
    assert (ending.attempts, ending.delivered, ending.possibly_duplicated) == (4, [1], counted)
    assert used.records.uncertain == set()


@pytest.mark.parametrize("reply", [Failure("refused", "nobody", unsent=True), answer(503), answer(429), answer(401)])
def test_a_record_that_certainly_was_not_stored_is_not_counted(reply):
    answers = iter([reply])
    ending = deliver(protocol(), batch([event(1)]), lambda request: next(answers, STORED))
    assert (ending.delivered, ending.possibly_duplicated) == ([1], 0)


def test_a_record_that_was_refused_after_all_is_not_counted():
    answers = iter([Failure("timeout", "too slow"), answer(422)])
    used = protocol()
    ending = deliver(used, batch([event(1)]), lambda request: next(answers))
    assert (ending.reasons, ending.possibly_duplicated, used.records.uncertain) == ({1: "rejected"}, 0, set())


# ---- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Failure("refused", "nobody listens", unsent=True), REFUSED),
        (Failure("tls", "bad certificate", unsent=True), MISPLACED),
        (Failure("timeout", "too slow"), BUSY),
        (answer(302), MISPLACED),
        (answer(401), UNAUTHORIZED),
        (answer(403), UNAUTHORIZED),
        (answer(408), BUSY),
        (answer(429, retry_after="7"), BUSY),
        (answer(500, retry_after="7"), BUSY),
        (answer(503, retry_after="7"), BUSY),
    ],
)
def test_a_refusal_ends_the_lane_and_says_why(reply, kind):
    asked = []

    def backend(request):
        asked.append(request)
        return reply

    outcome = attempt(protocol(), batch(run_of(3)), backend)
    assert (len(asked), outcome.delivered, outcome.dropped) == (1, [], [])
    assert outcome.kind == kind
    assert outcome.retry_after == ("7" if "retry-after" in getattr(reply, "headers", {}) else None)


@pytest.mark.parametrize("denial", [{"success": False}, {"ok": False}, {"success": False, "id": "srv"}])
def test_an_answer_of_success_that_denies_it_is_no_acknowledgement(denial):
    outcome = attempt(protocol(), batch(run_of(1)), lambda request: answer(200, denial))
    assert (outcome.delivered, outcome.dropped, outcome.kind) == ([], [], BUSY)
    assert "not an acknowledgement" in outcome.problem


def test_a_record_that_is_always_denied_is_dropped_and_the_others_arrive():
    used = protocol()
    poison = run_of(1)[1].seq

    def backend(request):
        if request.headers["Idempotency-Key"] == event_id(poison):
            return answer(200, {"success": False})
        return CREATED if request.path == "/api/ingest/run" else STORED

    ending = deliver(used, batch(run_of(1)), backend, more=company())
    assert ending.dropped == {poison: (poison, "rejected", "success: false to this record alone")}
    assert ending.possibly_duplicated == 0


def test_one_lane_that_is_refused_does_not_stop_the_others():
    def backend(request):
        return answer(429, retry_after="9") if request.headers["Idempotency-Key"] == event_id(100) else CREATED

    outcome = attempt(protocol(), batch(mixed(2, steps=1)), backend)
    assert outcome.delivered == [200, 201, 202]
    assert (outcome.kind, outcome.retry_after) == (BUSY, "9")


def test_a_refused_key_in_one_lane_is_not_hidden_by_trouble_in_another():
    def backend(request):
        return answer(401) if request.headers["Idempotency-Key"] == event_id(100) else answer(503)

    assert attempt(protocol(), batch(mixed(2)), backend).kind == UNAUTHORIZED


@PATIENT
@given(bad=st.sets(st.sampled_from([seq.seq for seq in mixed(3)])), requests=st.sampled_from([1, 1 << 30]))
def test_422_costs_the_record_and_what_hangs_on_it(bad, requests):
    backend = ClassicBackend(unacceptable=bad)
    ending = deliver(protocol(), batch(mixed(3)), backend, requests=requests)
    unborn = {seq for first in (100, 200, 300) if first in bad for seq in range(first, first + 5)}
    assert set(ending.dropped) == bad | unborn
    assert set(ending.reasons.values()) <= {"rejected"}
    assert ending.left == []
    assert in_order(backend)


def test_a_step_of_a_run_that_the_platform_does_not_know_is_dropped():
    used = protocol()
    ending = deliver(used, batch([*run_of(1), event(9, run_id="stranger")]), ClassicBackend())
    assert ending.dropped == {9: (9, "rejected", "HTTP 404 Run not found")}


@pytest.mark.parametrize("status", [404, 405])
def test_before_a_platform_has_shown_that_it_is_one_404_to_a_creation_means_the_address(status):
    outcome = attempt(protocol(), batch([event(1, RUN_START)]), lambda request: answer(status))
    assert (outcome.delivered, outcome.dropped, outcome.kind) == ([], [], MISPLACED)
    assert "check the address" in (outcome.problem or "")


@pytest.mark.parametrize("type_", [STEP, RUN_END])
def test_before_a_platform_has_shown_that_it_is_one_404_to_a_step_may_mean_that_its_run_comes_later(type_):
    outcome = attempt(protocol(), batch([event(1, type_)]), lambda request: answer(404))
    assert (outcome.delivered, outcome.dropped, outcome.kind) == ([], [], BUSY)


def test_a_platform_that_refuses_records_has_shown_that_it_is_one():
    used = protocol()
    deliver(used, batch([event(1)]), lambda request: answer(422))
    assert deliver(used, batch([event(2)]), lambda request: answer(404)).reasons == {2: "rejected"}


def test_404_to_a_creation_always_means_the_address():
    used = protocol()
    deliver(used, batch(run_of(1)), ClassicBackend())
    outcome = attempt(used, batch([event(9, RUN_START, "run-2")]), lambda request: answer(404))
    assert (outcome.dropped, outcome.kind) == ([], MISPLACED)


# ---- 413 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requests", [1, 1 << 30])
def test_a_record_that_is_too_large_is_cut_until_it_fits(requests):
    backend = ClassicBackend(limit=2000)
    events = [event(1, RUN_START), event(2, input=b'"%b"' % (b"x" * 9000), output=b'"%b"' % (b"y" * 5000)), event(3)]
    assert deliver(protocol(), batch(events), backend, requests=requests).delivered == [1, 2, 3]


@pytest.mark.parametrize("requests", [1, 1 << 30])
def test_a_record_with_nothing_left_to_cut_is_dropped(requests):
    backend = ClassicBackend(limit=120)
    events = [event(1, input=b'"%b"' % (b"x" * 9000)), event(2)]
    ending = deliver(protocol(), batch(events), backend, requests=requests)
    assert ending.dropped[1] == (1, "too_large", "HTTP 413 to this record")


def test_a_record_without_a_field_worth_cutting_is_sent_as_it_is_though_its_size_was_refused():
    sent = batch([event(1)])
    sent.refused_size = 50
    assert deliver(protocol(), sent, lambda request: STORED).delivered == [1]


# ---- HTTP 500: an outage, or one record ---------------------------------------------------------------------------------


@pytest.mark.parametrize("requests", [1, 2, 7, 1 << 30])
@pytest.mark.parametrize("poison", [100, 102, 104, 203, 304])
def test_one_record_that_is_always_answered_500_is_dropped_and_all_others_are_delivered(requests, poison):
    backend = ClassicBackend(crashing={poison})
    sent = batch(mixed(3))
    ending = deliver(protocol(), sent, backend, requests=requests, more=company())
    assert ending.left == []
    assert ending.dropped[poison] == (poison, "rejected", "HTTP 500 to this record alone")
    assert sent.suspects[poison].strikes == PATIENCE
    hanging_on_it = set(range(101, 105)) if poison == 100 else set()
    assert set(ending.dropped) == {poison} | hanging_on_it
    assert in_order(backend)


@pytest.mark.parametrize("requests", [1, 1 << 30])
@pytest.mark.parametrize("poison", [{2}, {2, 3}, {3, 4, 5}, {2, 7}])
def test_in_a_single_run_the_followers_tell_on_records_that_are_always_answered_500(requests, poison):
    backend = ClassicBackend(crashing=set(poison))
    ending = deliver(protocol(), batch(run_of(20)), backend, requests=requests, attempts=300)
    assert set(ending.dropped) == poison
    assert ending.left == []
    assert in_order(backend)


def test_a_creation_that_is_answered_500_holds_its_run_up_and_no_other():
    backend = ClassicBackend(crashing={100})
    ending = deliver(protocol(), batch(mixed(2)), backend, attempts=50)
    assert ending.left == [100, 101, 102, 103, 104]
    assert ending.dropped == {}
    backend.crashing.clear()
    assert deliver(protocol(), batch(mixed(1)), backend).delivered == [100, 101, 102, 103, 104]


@pytest.mark.parametrize("requests", [1, 1 << 30])
@pytest.mark.parametrize("runs", [1, 5])
def test_an_outage_of_500s_drops_nothing_however_long_and_order_is_kept(requests, runs):
    sent = batch(mixed(runs))
    asked = []

    def outage(request):
        asked.append(request)
        return answer(500)

    ending = deliver(protocol(), sent, outage, requests=requests, attempts=90)
    assert (ending.delivered, ending.dropped, len(ending.left)) == ([], {}, 5 * runs)
    assert len(asked) <= 90 * runs * (PATIENCE + 1)
    backend = ClassicBackend()
    assert deliver(protocol(), sent, backend).left == []
    assert in_order(backend)


@PATIENT
@given(
    good=st.integers(0, 30), outage=st.integers(1, 120), runs=st.integers(1, 3), requests=st.sampled_from([1, 1 << 30])
)
def test_an_outage_of_500s_drops_nothing_at_whichever_request_it_begins_and_ends(good, outage, runs, requests):
    backend = ClassicBackend()
    seen = []

    def failing(request):
        seen.append(request)
        return answer(500) if good <= len(seen) - 1 < good + outage else backend(request)

    ending = deliver(protocol(), batch(mixed(runs, steps=6)), failing, requests=requests, more=company(20))
    assert (ending.dropped, ending.left) == ({}, [])


def test_a_follower_that_is_refused_says_nothing_about_the_one_before_it():
    def backend(request):
        return answer(500) if request.headers["Idempotency-Key"] == event_id(1) else answer(422)

    ending = deliver(protocol(), batch([event(1), event(2), event(3)]), backend, attempts=20)
    assert ending.reasons == {2: "rejected", 3: "rejected"}
    assert ending.left == [1]


def test_a_batch_answer_is_no_classic_answer():
    outcome = attempt(protocol(), batch([event(1, RUN_START)]), lambda request: acknowledged(1))
    assert outcome.delivered == []


def test_fields_that_the_classic_calls_have_no_place_for_travel_in_meta_data():
    bodies = []

    def backend(request):
        bodies.append(strict(request.body))
        return CREATED if request.path == "/api/ingest/run" else STORED

    start = event(1, RUN_START, user_id="u", tags=["t"], environment="test", meta_data=b'{"mine":1}')
    call = event(2, model="gpt-5", usage=b'{"input_tokens":3}', cost_usd=0.5, first_token_ms=12.5)
    assert deliver(protocol(), batch([start, call]), backend).delivered == [1, 2]
    assert bodies[0]["meta_data"] == {
        "mine": 1,
        "agentscope_run_id": "run-1",
        "agentscope_user_id": "u",
        "agentscope_tags": ["t"],
        "agentscope_environment": "test",
    }
    assert bodies[1]["meta_data"] == {
        "agentscope_step_id": "step-2",
        "agentscope_model": "gpt-5",
        "agentscope_usage": {"input_tokens": 3},
        "agentscope_cost_usd": 0.5,
        "agentscope_first_token_ms": 12.5,
    }
    patch = decode_step(json.dumps(bodies[1]).encode(), "r", "s", Arrival("e", NOW, 1))
    assert patch.fields["usage"] == {"input_tokens": 3}
    assert {name: patch.fields[name] for name in ("model", "cost_usd", "first_token_ms")} == {
        name: call.fields[name] for name in ("model", "cost_usd", "first_token_ms")
    }
