"""The protocol of a backend is detected with the first batch, and remembered only after a certain answer."""

from __future__ import annotations

import pytest

from agentscope.protocols.agentscope.protocol import BATCH, CLASSIC, AgentScopeProtocol
from agentscope.protocols.base import MISPLACED, UNAUTHORIZED, Failure, Outcome
from tests.support.events import BatchBackend, ClassicBackend, answer, attempt, batch, deliver, event, run_of


@pytest.fixture
def protocol() -> AgentScopeProtocol:
    return AgentScopeProtocol(largest_body=1 << 20, compress=True)


def paths_to(backend):
    seen = []

    def listening(request):
        seen.append(request.path)
        return backend(request)

    return seen, listening


def test_nothing_is_known_before_the_first_answer(protocol):
    assert protocol.name is None
    attempt(protocol, batch(run_of(1)), lambda request: Failure("refused", "nobody"))
    assert protocol.name is None


def test_a_backend_with_the_batch_call_is_asked_nothing_else(protocol):
    seen, backend = paths_to(BatchBackend())
    deliver(protocol, batch(run_of(2)), backend)
    assert seen == ["/api/ingest/batch"]
    assert protocol.name == BATCH


@pytest.mark.parametrize("status", [404, 405])
def test_without_the_batch_call_the_classic_calls_are_used_at_once_and_from_then_on(protocol, status):
    classic = ClassicBackend()

    def platform(request):
        return answer(status) if request.path == "/api/ingest/batch" else classic(request)

    seen, backend = paths_to(platform)
    ending = deliver(protocol, batch(run_of(1)), backend)
    assert (ending.attempts, ending.delivered, protocol.name) == (1, [1, 2, 3], CLASSIC)
    deliver(protocol, batch(run_of(1, "run-2", first=10)), backend)
    assert seen.count("/api/ingest/batch") == 1


@pytest.mark.parametrize(
    "reply", [answer(404), answer(503), answer(422), answer(200, b"<html>"), Failure("timeout", "slow")]
)
def test_the_classic_calls_are_not_remembered_before_one_has_succeeded(protocol, reply):
    def backend(request):
        return answer(404) if request.path == "/api/ingest/batch" else reply

    attempt(protocol, batch([event(1)]), backend)
    assert protocol.name is None
    assert deliver(protocol, batch(run_of(1, first=10)), BatchBackend()).dropped == {}
    assert protocol.name == BATCH


def test_where_there_is_neither_nothing_is_dropped_and_a_person_is_asked_for(protocol):
    ending = deliver(protocol, batch(run_of(2)), lambda request: answer(404), attempts=10)
    assert (ending.delivered, ending.dropped, ending.left) == ([], {}, [1, 2, 3, 4])
    assert ending.last.kind == MISPLACED
    assert "no AgentScope API at this address (HTTP 404)" in (ending.last.problem or "")
    assert protocol.name is None


def test_a_backend_that_loses_the_batch_call_on_the_way_gets_the_rest_by_the_classic_ones(protocol):
    with_batch, classic = BatchBackend(rejected={1}, limit=900), ClassicBackend(runs={"run-1": []})
    seen = []

    def backend(request):
        seen.append(request.path)
        if seen.count("/api/ingest/batch") > 3:
            return classic(request)
        return with_batch(request)

    ending = deliver(protocol, batch(event(seq) for seq in range(1, 9)), backend)
    assert ending.reasons == {1: "rejected"}
    assert sorted(ending.delivered) == [2, 3, 4, 5, 6, 7, 8]
    by_batch, by_classic = sorted(with_batch.stored), classic.runs["run-1"]
    assert by_batch
    assert by_classic
    assert sorted(by_batch + by_classic) == sorted(ending.delivered)


def test_what_went_wrong_on_the_way_is_no_problem_when_everything_is_settled(protocol):
    outcome = attempt(protocol, batch([event(1)]), lambda request: answer(503, retry_after="3"))
    assert (outcome.problem, outcome.retry_after) == ("the backend answers HTTP 503", "3")
    sent = batch(event(seq) for seq in range(1, 9))
    sent.server_errors = 2
    backend, first = BatchBackend(), iter([answer(500)])
    ending = deliver(protocol, sent, lambda request: next(first, None) or backend(request))
    assert (ending.attempts, ending.last.problem, ending.last.kind) == (1, None, None)


def test_outcomes_of_lanes_add_up_and_the_gravest_problem_stays():
    total = Outcome()
    total.add(Outcome(delivered=[1], possibly_duplicated=1, problem="busy", kind="busy", retry_after="5"))
    total.add(Outcome(delivered=[2], duplicates=2, problem="key", kind=UNAUTHORIZED))
    total.add(Outcome(reported=True, problem="busy again", kind="busy"))
    total.add(Outcome())
    assert total == Outcome(
        delivered=[1, 2],
        duplicates=2,
        possibly_duplicated=1,
        reported=True,
        problem="key",
        kind=UNAUTHORIZED,
        retry_after="5",
    )


def test_where_the_batch_call_is_taken_nothing_has_to_stay_parked(protocol):
    assert attempt(protocol, batch(run_of(2)), BatchBackend()).released


def test_where_the_classic_calls_are_used_starts_of_steps_stay_parked(protocol):
    assert not attempt(protocol, batch(run_of(2)), ClassicBackend()).released
