"""The history calls: order, ids of the server, and the verdict on each event for every answer."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import RUN_END, RUN_START, RUN_UPDATE, STEP, STEP_END, STEP_START, STEP_UPDATE
from agentscope.protocols.base import BUSY, MISPLACED, PATIENCE, REFUSED, UNAUTHORIZED, Failure
from agentscope.protocols.sequential_lane import Remembered
from agentscope.protocols.voltagent.lane import MAX_METADATA_BYTES
from tests.support.events import answer, attempt, batch, deliver, event, event_id, run_of, strict
from tests.support.history import HistoryBackend, HistoryProtocol, MemoryReceiver, ended, started

OK = answer(200, {"id": "srv"})


def numbered():
    """A backend that accepts everything, and numbers its ids."""
    ids = count()
    return lambda request: answer(200, {"id": f"srv {next(ids)}"})


def steps_of(run_id: str, first: int, steps: int = 3):
    """A run whose steps are a start and an end each."""
    inner = []
    for number in range(steps):
        inner.append(started(first + 1 + 2 * number, f"{run_id} {number}", run_id))
        inner.append(ended(first + 2 + 2 * number, f"{run_id} {number}", run_id))
    return [event(first, RUN_START, run_id), *inner, event(first + 1 + 2 * steps, RUN_END, run_id)]


def mixed(runs: int, steps: int = 3, whole: bool = False):
    """Several runs whose events alternate."""
    made = [
        run_of(steps, f"run-{i}", first=100 * i) if whole else steps_of(f"run-{i}", 100 * i, steps)
        for i in range(1, runs + 1)
    ]
    return [event for events in zip(*made, strict=True) for event in events]


def company(attempts: int = 100):
    """A healthy run for each attempt."""
    return (run_of(1, f"other-{i}", first=10_000 + 10 * i) for i in range(attempts))


def in_order(backend: HistoryBackend) -> bool:
    return all(stored == sorted(stored) for stored in backend.runs.values())


def recording(backend):
    requests = []

    def ask(request):
        requests.append(request)
        return backend(request)

    return ask, requests


# ---- the requests ------------------------------------------------------------------------------------------------------


def test_a_run_is_a_history_and_a_step_an_event_with_another_below_it():
    ask, requests = recording(numbered())
    update = event(3, STEP_UPDATE, output=b"{}")._replace(step_id="s", parent_id=None)
    events = [
        event(1, RUN_START),
        started(2, "s"),
        update,
        started(4, "t", parent_id="s"),
        ended(5, "t", parent_id="s"),
        ended(6, "s"),
        event(7, RUN_UPDATE, tags=["t"]),
        event(8, RUN_END),
    ]
    assert deliver(HistoryProtocol(), batch(events), ask).delivered == list(range(1, 9))
    assert [(request.method, request.path) for request in requests] == [
        ("POST", "/history"),
        ("POST", "/history-events"),
        ("PATCH", "/history-events/srv%201"),
        ("POST", "/history-events"),
        ("POST", "/history-events"),
        ("POST", "/history-events"),
        ("PATCH", "/history/srv%200"),
        ("PATCH", "/history/srv%200"),
    ]
    bodies = [strict(request.body) for request in requests]
    assert [body.get("history_id") for body in bodies] == [None, "srv 0", None, "srv 0", "srv 0", "srv 0", None, None]
    assert [body.get("parent_event_id") for body in bodies[3:6]] == ["srv 1", "srv 3", "srv 1"]
    assert [request.headers for request in requests] == [
        {"Content-Type": "application/json", "Idempotency-Key": event_id(seq)} for seq in range(1, 9)
    ]


def test_a_step_in_one_event_takes_two_requests_and_gets_one_verdict():
    ask, requests = recording(numbered())
    whole = event(2, input=b'{"q":1}', output=b'{"a":1}', status="completed")
    assert deliver(HistoryProtocol(), batch([event(1, RUN_START), whole]), ask).delivered == [1, 2]
    _, start, end = (strict(request.body) for request in requests)
    assert (start["event_name"], start["input"], "output" in start) == ("tool:start", {"q": 1}, False)
    assert (end["event_name"], end["output"], "input" in end) == ("tool:success", {"a": 1}, False)
    assert end["parent_event_id"] == "srv 1"
    keys = [request.headers["Idempotency-Key"] for request in requests]
    assert keys == [event_id(1), f"{event_id(2)}-start", event_id(2)]


@pytest.mark.parametrize("reply", [answer(503), Failure("timeout", "too slow"), answer(500), answer(200, b"<html>")])
def test_the_first_half_of_a_step_is_not_repeated_when_the_second_fails(reply):
    troubles = iter([reply])
    backend = HistoryBackend()
    ask, requests = recording(
        lambda request: (
            next(troubles, None) or backend(request)
            if request.headers["Idempotency-Key"] == event_id(2)
            else backend(request)
        )
    )
    assert deliver(HistoryProtocol(), batch(run_of(1)), ask).delivered == [1, 2, 3]
    starts = [request for request in requests if request.headers["Idempotency-Key"].endswith("-start")]
    assert (len(starts), len(requests)) == (1, 5)


def test_a_repeated_request_carries_the_same_idempotency_key():
    keys = []

    def backend(request):
        keys.append(request.headers["Idempotency-Key"])
        return answer(503) if len(keys) < 3 else OK

    deliver(HistoryProtocol(), batch([event(1, RUN_START)]), backend)
    assert keys == [event_id(1)] * 3


def test_what_the_api_has_no_place_for_is_dropped_and_its_neighbours_are_not():
    whole_run = event(2, RUN_END)._replace(type="run")
    ending = deliver(HistoryProtocol(), batch([event(1, RUN_START), whole_run, event(3, RUN_END)]), HistoryBackend())
    assert ending.dropped == {2: (2, "encode_error", "the VoltAgent API cannot carry run")}
    assert ending.delivered == [1, 3]


def test_an_event_that_a_hook_made_unencodable_is_dropped_and_its_neighbours_are_not():
    backend = HistoryBackend()
    events = [
        event(1, RUN_START),
        event(2, name=b"\xff", input=7),
        event(3, meta_data=3),
        event(4, latency_ms=float("nan")),
        event(5, name="\ud800"),
        event(6),
        event(7, RUN_END),
    ]
    ending = deliver(HistoryProtocol(), batch(events), backend)
    assert ending.reasons == dict.fromkeys((2, 3, 4, 5), "encode_error")
    assert set(backend.runs["srv/0"]) == {1, 4, 6, 7}, "the first half of 4 had nothing wrong"


# ---- ids and order -----------------------------------------------------------------------------------------------------


def test_what_hangs_below_a_step_waits_for_the_answer_that_tells_its_id():
    (lane,) = HistoryProtocol().begin(batch([started(1, "s"), started(2, "t", parent_id="s")])).lanes()
    assert lane.next() is not None
    lane.answer(answer(200, {"id": "srv"}))
    assert strict(lane.next().body)["parent_event_id"] == "srv"


def test_nothing_of_a_run_is_sent_before_its_creation_was_answered():
    ask, requests = recording(lambda request: Failure("timeout", "too slow"))
    outcome = attempt(HistoryProtocol(), batch(run_of(3)), ask)
    assert [request.path for request in requests] == ["/history"]
    assert (outcome.delivered, outcome.dropped) == ([], [])


def test_a_later_batch_knows_the_servers_ids_of_an_earlier_one():
    used, backend = HistoryProtocol(), HistoryBackend()
    first, second = [event(1, RUN_START), started(2, "s")], [started(3, "t", parent_id="s"), ended(4, "s")]
    deliver(used, batch(first), backend)
    deliver(used, batch(second), backend)
    records = list(backend.events.values())
    assert [record.get("parent_event_id") for record in records] == [None, "event/0", "event/0"]


def test_a_step_whose_parent_is_not_known_hangs_on_the_history_and_its_note_names_the_parent():
    backend = HistoryBackend()
    deliver(HistoryProtocol(), batch([event(1, RUN_START), started(2, "s", parent_id="lost")]), backend)
    (record,) = backend.events.values()
    assert record.get("parent_event_id") is None
    assert record["metadata"]["agentscope"]["parentId"] == "lost"


def test_an_end_whose_start_is_not_known_hangs_on_the_history_and_its_note_names_the_step():
    backend = HistoryBackend()
    deliver(HistoryProtocol(), batch([event(1, RUN_START), started(2, "p"), ended(3, "s", parent_id="p")]), backend)
    record = backend.events["event/1"]
    assert record.get("parent_event_id") is None, "below p it would be taken for the end of p"
    assert record["metadata"]["agentscope"]["stepId"] == "s"


def test_a_whole_step_goes_before_those_below_it_although_they_ended_first():
    backend = HistoryBackend()
    parents = {2: "step-3", 3: "step-4", 4: None, 5: "step-3"}
    events = [event(seq)._replace(parent_id=parent) for seq, parent in parents.items()]
    ending = deliver(HistoryProtocol(), batch([event(1, RUN_START), *events]), backend)
    assert sorted(ending.delivered) == [1, 2, 3, 4, 5]
    starts = {own_id: record for own_id, record in backend.events.items() if record["event_name"] == "tool:start"}
    named = {own_id: record["metadata"]["agentscope"]["stepId"] for own_id, record in starts.items()}
    assert {named[own_id]: named.get(record.get("parent_event_id")) for own_id, record in starts.items()} == {
        "step-2": "step-3",
        "step-3": "step-4",
        "step-4": None,
        "step-5": "step-3",
    }


def test_whole_steps_that_are_below_each_other_in_a_circle_are_all_sent():
    events = [event(1)._replace(parent_id="step-2"), event(2)._replace(parent_id="step-1")]
    assert sorted(deliver(HistoryProtocol(), batch(events), lambda request: OK).delivered) == [1, 2]


def test_a_run_and_a_step_that_were_not_started_here_are_taken_to_be_the_backends_own():
    ask, requests = recording(lambda request: OK)
    update = event(2, STEP_UPDATE)._replace(step_id="their/step")
    deliver(HistoryProtocol(), batch([event(1, RUN_UPDATE, "theirs/ü"), update]), ask)
    assert [request.path for request in requests] == ["/history/theirs%2F%C3%BC", "/history-events/their%2Fstep"]


def test_a_number_is_an_id_too():
    ask, requests = recording(lambda request: answer(200, {"id": 7}))
    deliver(HistoryProtocol(), batch([event(1, RUN_START), event(2, RUN_END)]), ask)
    assert requests[1].path == "/history/7"


@pytest.mark.parametrize("type_", [RUN_START, RUN_END, STEP_START, STEP_END])
@pytest.mark.parametrize("body", [b"", b"<html>", [1], {}, {"id": None}, {"id": ""}, {"id": True}, {"id": ["a"]}])
def test_an_answer_that_does_not_echo_an_id_is_no_acknowledgement(type_, body):
    outcome = attempt(HistoryProtocol(), batch([event(1, type_)]), lambda request: answer(200, body))
    assert (outcome.delivered, outcome.kind) == ([], BUSY)
    assert "not an acknowledgement" in (outcome.problem or "")


def test_of_what_is_remembered_that_which_was_used_longest_ago_is_forgotten_first():
    remembered = Remembered(2)
    remembered.put("a", 1)
    remembered.put("b", 2)
    assert remembered.get("a") == 1
    remembered.put("c", 3)
    assert (remembered.get("a"), remembered.get("b"), remembered.get("c"), len(remembered)) == (1, None, 3, 2)
    remembered.put("a", 4)
    remembered.put("d", 5)
    assert (remembered.get("a"), remembered.get("c"), remembered.get("d")) == (4, None, 5)


def test_every_run_has_a_lane_of_its_own():
    lanes = HistoryProtocol().begin(batch(mixed(4))).lanes()
    assert [lane.next().headers["Idempotency-Key"] for lane in lanes] == [event_id(100 * i) for i in range(1, 5)]


@given(
    script=st.lists(st.sampled_from([200, 0, 1, 2, 400, 429, 502, 503]), max_size=80),
    runs=st.integers(1, 3),
    requests=st.sampled_from([1, 2, 1 << 30]),
    whole=st.booleans(),
)
def test_whatever_a_backend_answers_every_event_ends_once_and_runs_keep_their_order(script, runs, requests, whole):
    backend = HistoryBackend()
    moods = iter(script)

    def moody(request):
        status = next(moods, 200)
        if status == 200:
            return backend(request)
        if status == 1:
            backend(request)  # stored, and the answer is lost
        if status <= 2:
            return Failure("connection", "broke", unsent=status == 2)
        return answer(status)

    events = mixed(runs, whole=whole)
    ending = deliver(HistoryProtocol(), batch(events), moody, requests=requests)
    assert ending.left == []
    assert len(ending.delivered) + len(ending.dropped) == len(events)
    assert not set(ending.delivered) & set(ending.dropped)
    stored = Counter(seq for seqs in backend.runs.values() for seq in seqs)
    assert set(stored) >= set(ending.delivered)
    assert in_order(backend)


# ---- fields repeated in updates --------------------------------------------------------------------------------------


def sent_metadata(events):
    ask, requests = recording(numbered())
    deliver(HistoryProtocol(), batch(events), ask)
    return [
        {key: value for key, value in strict(request.body)["metadata"].items() if key != "agentscope"}
        for request in requests
    ]


def test_an_update_of_a_run_repeats_the_metadata_that_the_run_has_by_now():
    events = [
        event(1, RUN_START, meta_data=b'{"team":"a","shift":1}'),
        event(2, RUN_UPDATE, meta_data=b'{"shift":2}'),
        event(3, RUN_END),
    ]
    assert sent_metadata(events)[1:] == [{"agentId": "agent", "team": "a", "shift": 2}] * 2


def test_the_end_of_a_step_repeats_the_metadata_of_its_start():
    events = [started(1, "s", meta_data=b'{"instructions":"be kind"}'), ended(2, "s", meta_data=b'{"took":1}')]
    own = {"displayName": "s", "id": "s", "instructions": "be kind"}
    assert sent_metadata(events) == [own, {**own, "took": 1}]


def test_metadata_that_is_too_large_to_remember_is_not_repeated():
    large = b'{"k":"%b"}' % (b"x" * MAX_METADATA_BYTES)
    assert sent_metadata([event(1, RUN_START, meta_data=large), event(2, RUN_END)])[1] == {}


def test_metadata_is_forgotten_with_the_end_of_what_it_belongs_to():
    used = HistoryProtocol()
    deliver(used, batch([event(1, RUN_START), started(2, "s"), ended(3, "s"), event(4), event(5, RUN_END)]), numbered())
    assert len(used._history._metadata) == 0


def test_the_agent_around_a_step_is_named_or_else_that_of_the_run():
    agent = {"step_type": "agent"}
    events = [
        event(1, RUN_START, agent_name="desk"),
        started(2, "helper", **agent),
        started(3, "tool", parent_id="helper"),
        started(4, "inner", parent_id="tool", **agent),
        started(5, "search", parent_id="inner"),
        ended(6, "search", parent_id="inner"),
        started(7, "other"),
    ]
    assert [metadata["agentId"] for metadata in sent_metadata(events)] == [
        "desk",
        "desk",
        "helper",
        "helper",
        "inner",
        "inner",
        "desk",
    ]


def test_no_agent_is_named_where_none_is_known():
    assert sent_metadata([started(1, "s")]) == [{"displayName": "s", "id": "s"}]


# ---- possible duplicates ---------------------------------------------------------------------------------------------

AMBIGUOUS = [Failure("timeout", "too slow"), answer(502), answer(504), answer(200, b"<html>")]


@pytest.mark.parametrize("reply", AMBIGUOUS)
@pytest.mark.parametrize(
    ("type_", "counted"),
    [(RUN_START, 1), (STEP, 1), (STEP_START, 1), (STEP_END, 1), (STEP_UPDATE, 0), (RUN_END, 0), (RUN_UPDATE, 0)],
)
def test_a_record_that_was_sent_and_not_answered_may_be_there_twice_and_counts_once(reply, type_, counted):
    answers = iter([reply, reply, reply])
    used = HistoryProtocol()
    ending = deliver(used, batch([event(1, type_)]), lambda request: next(answers, OK))
    assert (ending.attempts, ending.delivered, ending.possibly_duplicated) == (4, [1], counted)
    assert used.records.uncertain == set()


@pytest.mark.parametrize("second", AMBIGUOUS)
def test_a_step_both_of_whose_halves_were_not_answered_counts_once(second):
    answers = iter([Failure("timeout", "too slow"), OK, second])
    ending = deliver(HistoryProtocol(), batch([event(1)]), lambda request: next(answers, OK))
    assert (ending.delivered, ending.possibly_duplicated) == ([1], 1)


@pytest.mark.parametrize("reply", [Failure("refused", "nobody", unsent=True), answer(503), answer(429), answer(401)])
def test_a_record_that_certainly_was_not_stored_is_not_counted(reply):
    answers = iter([reply])
    ending = deliver(HistoryProtocol(), batch([event(1)]), lambda request: next(answers, OK))
    assert (ending.delivered, ending.possibly_duplicated) == ([1], 0)


def test_a_record_that_was_refused_after_all_is_not_counted():
    answers = iter([Failure("timeout", "too slow"), answer(422)])
    used = HistoryProtocol()
    ending = deliver(used, batch([event(1)]), lambda request: next(answers))
    assert (ending.reasons, ending.possibly_duplicated, used.records.uncertain) == ({1: "rejected"}, 0, set())


def test_a_conflict_over_the_id_of_a_run_means_that_its_creation_came_through_the_first_time():
    answers = iter([Failure("timeout", "too slow"), answer(409, {"message": "exists"})])
    used = HistoryProtocol()
    ask, requests = recording(lambda request: next(answers, OK))
    ending = deliver(used, batch([event(1, RUN_START), event(2, RUN_END)]), ask)
    assert (ending.delivered, ending.duplicates, ending.possibly_duplicated) == ([1, 2], 1, 0)
    assert requests[-1].path == "/history/run-1"
    assert used.records.uncertain == set()


def test_a_conflict_over_anything_else_is_left_to_a_person():
    assert attempt(HistoryProtocol(), batch([event(1)]), lambda request: answer(409)).kind == MISPLACED


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
    ask, requests = recording(lambda request: reply)
    outcome = attempt(HistoryProtocol(), batch(run_of(3)), ask)
    assert (len(requests), outcome.delivered, outcome.dropped) == (1, [], [])
    assert outcome.kind == kind
    assert outcome.retry_after == ("7" if "retry-after" in getattr(reply, "headers", {}) else None)


def test_one_lane_that_is_refused_does_not_stop_the_others():
    def backend(request):
        return answer(429, retry_after="9") if request.headers["Idempotency-Key"] == event_id(100) else OK

    outcome = attempt(HistoryProtocol(), batch(mixed(2, steps=1)), backend)
    assert outcome.delivered == [200, 201, 202, 203]
    assert (outcome.kind, outcome.retry_after) == (BUSY, "9")


@given(
    bad=st.sets(st.sampled_from([event.seq for event in mixed(2)])),
    requests=st.sampled_from([1, 1 << 30]),
    whole=st.booleans(),
)
def test_422_costs_the_record_and_if_it_begins_a_run_all_of_that(bad, requests, whole):
    events = mixed(2, whole=whole)
    backend = HistoryBackend(unacceptable=bad)
    ending = deliver(HistoryProtocol(), batch(events), backend, requests=requests)
    unborn = {event.seq for event in events if event.seq // 100 * 100 in bad}
    assert set(ending.dropped) == {event.seq for event in events if event.seq in bad} | unborn
    assert set(ending.reasons.values()) <= {"rejected"}
    assert ending.left == []
    assert in_order(backend)


def test_the_reason_of_a_refusal_is_in_the_words_of_the_api():
    replies = iter([answer(422, {"message": "metadata\nis wrong"}), answer(400, {"detail": "no"}), answer(400)])
    ending = deliver(HistoryProtocol(), batch([event(1), event(2), event(3)]), lambda request: next(replies))
    assert [dropped.detail for dropped in ending.dropped.values()] == [
        "HTTP 422 metadata is wrong",
        "HTTP 400 no",
        "HTTP 400",
    ]


def test_a_step_of_a_run_that_the_backend_does_not_know_is_dropped():
    ending = deliver(HistoryProtocol(), batch([*run_of(1), event(9, run_id="stranger")]), HistoryBackend())
    assert ending.dropped == {9: (9, "rejected", "HTTP 404 History not found")}


@pytest.mark.parametrize("status", [404, 405])
def test_404_to_a_creation_means_the_address(status):
    used = HistoryProtocol()
    outcome = attempt(used, batch([event(1, RUN_START)]), lambda request: answer(status))
    assert (outcome.delivered, outcome.dropped, outcome.kind) == ([], [], MISPLACED)
    assert outcome.problem == f"there is no VoltAgent API at this address (HTTP {status}): check the address"
    deliver(used, batch([event(1, RUN_START)]), HistoryBackend())
    outcome = attempt(used, batch([event(9, RUN_START, "run-2")]), lambda request: answer(status))
    assert (outcome.dropped, outcome.kind) == ([], MISPLACED)


@pytest.mark.parametrize("type_", [STEP, STEP_START, STEP_UPDATE, RUN_END])
def test_before_a_backend_has_shown_that_it_is_one_404_may_mean_that_the_run_comes_later(type_):
    outcome = attempt(HistoryProtocol(), batch([event(1, type_)]), lambda request: answer(404))
    assert (outcome.delivered, outcome.dropped, outcome.kind) == ([], [], BUSY)


# ---- 413 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requests", [1, 1 << 30])
def test_a_record_that_is_too_large_is_cut_until_it_fits(requests):
    receiver = MemoryReceiver()

    def small(request):
        return answer(413) if len(request.body) > 3000 else receiver(request)

    large = event(2, input=b'"%b"' % (b"x" * 9000), output=b'"%b"' % (b"y" * 5000), meta_data=b'{"k":1}')
    events = [event(1, RUN_START), large, event(3)]
    assert deliver(HistoryProtocol(), batch(events), small, requests=requests).delivered == [1, 2, 3]
    step = receiver.view("run-1")["steps"][0]
    assert (step["truncated"], step["meta_data"]) == (["input", "output"], {"k": 1})
    assert "more than the backend takes" in step["input"]


def test_what_is_in_the_other_half_of_a_step_is_not_cut_for_nothing():
    receiver = MemoryReceiver()
    payloads = {"input": b"i" * 3100, "meta_data": b"m" * 3000, "output": b"o" * 4000}
    large = event(2, **{name: b'"%b"' % payload for name, payload in payloads.items()})
    ending = deliver(
        HistoryProtocol(),
        batch([event(1, RUN_START), large]),
        lambda request: answer(413) if len(request.body) > 6000 else receiver(request),
    )
    assert ending.delivered == [1, 2]
    (step,) = receiver.view("run-1")["steps"]
    assert (step["truncated"], step["output"], step["meta_data"]) == (["input"], "o" * 4000, "m" * 3000)


@pytest.mark.parametrize("requests", [1, 1 << 30])
def test_a_record_with_nothing_left_to_cut_is_dropped(requests):
    backend = HistoryBackend(limit=50)
    events = [event(1, STEP_END, input=b'"%b"' % (b"x" * 9000)), event(2, STEP_END)]
    ending = deliver(HistoryProtocol(), batch(events), backend, requests=requests)
    assert ending.dropped[1] == (1, "too_large", "HTTP 413 to this record")
    assert ending.left == []


# ---- HTTP 500: an outage, or one record ---------------------------------------------------------------------------------


@pytest.mark.parametrize("requests", [1, 2, 7, 1 << 30])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("poison", [102, 104, 203])
def test_one_record_that_is_always_answered_500_is_dropped_and_all_others_are_delivered(requests, whole, poison):
    backend = HistoryBackend(crashing={poison})
    sent = batch(mixed(3, whole=whole))
    ending = deliver(HistoryProtocol(), sent, backend, requests=requests, more=company())
    assert ending.left == []
    assert ending.dropped == {poison: (poison, "rejected", "HTTP 500 to this record alone")}
    assert sent.suspects[poison].strikes == PATIENCE
    assert in_order(backend)


def test_a_second_half_that_is_always_answered_500_costs_its_step_and_no_other():
    backend = HistoryBackend()

    def stumbling(request):
        return answer(500) if request.headers["Idempotency-Key"] == event_id(3) else backend(request)

    ending = deliver(HistoryProtocol(), batch(run_of(10)), stumbling, attempts=300)
    assert set(ending.dropped) == {3}
    assert ending.left == []


@pytest.mark.parametrize("requests", [1, 1 << 30])
@pytest.mark.parametrize("runs", [1, 4])
def test_an_outage_of_500s_drops_nothing_however_long_and_order_is_kept(requests, runs):
    sent = batch(mixed(runs))
    ask, asked = recording(lambda request: answer(500))
    ending = deliver(HistoryProtocol(), sent, ask, requests=requests, attempts=60)
    assert (ending.delivered, ending.dropped, len(ending.left)) == ([], {}, 8 * runs)
    assert len(asked) <= 60 * runs * (PATIENCE + 1)
    backend = HistoryBackend()
    assert deliver(HistoryProtocol(), sent, backend).left == []
    assert in_order(backend)


def test_a_creation_that_is_answered_500_holds_its_run_up_and_no_other():
    backend = HistoryBackend(crashing={100})
    ending = deliver(HistoryProtocol(), batch(mixed(2, whole=True)), backend, attempts=50)
    assert ending.left == [100, 101, 102, 103, 104]
    assert ending.dropped == {}
    backend.crashing.clear()
    assert deliver(HistoryProtocol(), batch(mixed(1, whole=True)), backend).delivered == [100, 101, 102, 103, 104]


def test_the_memory_for_unanswered_requests_is_bounded(monkeypatch):
    monkeypatch.setattr("agentscope.protocols.sequential_lane.MOST_UNCERTAIN", 10)
    protocol = HistoryProtocol()
    for seq in range(30):  # each of these is dropped
        attempt(protocol, batch([started(seq, "a")]), lambda request: Failure("timeout", "no answer"))
    assert 0 < len(protocol.records.uncertain) <= 10
