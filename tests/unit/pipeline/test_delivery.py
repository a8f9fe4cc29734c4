"""The batch in flight: every event is settled exactly once, whatever the verdicts of the exporter."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.config import Config
from agentscope.events import STEP, Event, Session
from agentscope.pipeline.delivery import Attempts
from agentscope.pipeline.ledger import Ledger
from agentscope.pipeline.states import EventStates
from agentscope.protocols.base import BUSY, PATIENCE, Batch, Dropped, Outcome

SESSION = Session("session", "prefix-")


class Scripted:
    """An exporter that returns scripted outcomes, and keeps the batches that it was given."""

    protocol = None

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.reports: list[dict[str, int]] = []
        self.plan: list[Outcome | Exception] = []

    def export(self, batch: Batch, timeout: float) -> Outcome:
        self.batches.append([event.seq for event in batch.events])
        self.reports.append(dict(batch.dropped))
        step = (
            self.plan.pop(0) if self.plan else Outcome(delivered=[event.seq for event in batch.events], reported=True)
        )
        if isinstance(step, Exception):
            raise step
        return step

    def warm_up(self) -> None:
        return None

    def close(self) -> None:
        return None


def event(seq: int, size: int = 100) -> Event:
    return Event(STEP, seq, 0, "run", f"step-{seq}", None, {"name": "step"}, size)


def refuse_odd(event: Event) -> Event:
    if event.seq % 2:
        raise ValueError
    return event


class Bench:
    """The states of a session, its exporter, and the events that were put."""

    def __init__(self, redact=lambda event: event, **options: object) -> None:
        self.exporter = Scripted()
        self.ledger = Ledger()
        self.states = EventStates(Config(**options), self.ledger)
        self.attempts = Attempts(Config(**options), SESSION, self.states, self.exporter, redact)
        self.seq = 0

    def put(self, number: int = 1) -> None:
        for _ in range(number):
            self.seq += 1
            assert self.states.queue.put(event(self.seq), urgent=True) is None

    def load(self) -> None:
        self.attempts.collect(0.0)
        self.attempts.load(0.0)

    def check(self) -> None:
        """Check the ledger's identity from counts that do not depend on each other."""
        dropped = sum(self.ledger.dropped().values())
        pending = len(self.states.queue) + self.states.unsettled
        assert self.seq == self.ledger.delivered + dropped + pending
        assert not self.states.number & 1


def test_delivered_events_are_settled_and_free_their_room() -> None:
    bench = Bench()
    bench.put(3)
    bench.load()
    bench.attempts.attempt(1.0, 0.0)
    bench.check()
    assert (bench.ledger.delivered, bench.states.queue.bytes, bench.states.through) == (3, 0, 3)
    assert not bench.states.in_flight


def test_events_without_a_verdict_stay_in_flight_and_are_tried_again_alone() -> None:
    bench = Bench()
    bench.put(3)
    bench.exporter.plan = [Outcome(delivered=[2], problem="busy", kind=BUSY)]
    bench.load()
    bench.attempts.attempt(1.0, 0.0)
    assert (bench.states.unsettled, bench.states.through) == (2, 0)
    bench.attempts.attempt(1.0, 0.0)
    assert bench.exporter.batches == [[1, 2, 3], [1, 3]]
    bench.check()


def test_the_first_verdict_counts_and_one_for_an_unknown_event_is_passed_over() -> None:
    bench = Bench()
    bench.put(2)
    bench.exporter.plan = [
        Outcome(delivered=[1, 1, 77], dropped=[Dropped(1, "rejected", ""), Dropped(2, "rejected", "")])
    ]
    bench.load()
    bench.attempts.attempt(1.0, 0.0)
    bench.check()
    assert (bench.ledger.delivered, bench.ledger.dropped()) == (1, {"rejected": 1})


def test_an_event_whose_redaction_fails_is_dropped_and_never_sent() -> None:
    bench = Bench(refuse_odd)
    bench.put(4)
    bench.load()
    bench.attempts.attempt(1.0, 0.0)
    assert bench.exporter.batches == [[2, 4]]
    assert bench.ledger.dropped() == {"redaction_error": 2}
    bench.check()


def test_a_batch_whose_events_all_fail_redaction_is_not_sent() -> None:
    bench = Bench(refuse_odd)
    bench.put(1)
    bench.load()
    assert bench.attempts.attempt(1.0, 0.0).problem is None
    assert bench.exporter.batches == []
    assert not bench.states.in_flight
    bench.check()


def test_counts_of_dropped_events_are_sent_until_they_are_acknowledged() -> None:
    bench = Bench()
    bench.ledger.refused.add("queue_full")
    bench.put(1)
    bench.exporter.plan = [Outcome(problem="lost", kind=BUSY)]
    bench.load()
    bench.attempts.attempt(1.0, 0.0)
    bench.attempts.attempt(1.0, 0.0)
    bench.put(1)
    bench.load()
    bench.attempts.attempt(1.0, 0.0)
    assert bench.exporter.reports == [{"queue_full": 1}, {"queue_full": 1}, {}]


def test_an_exporter_that_raises_is_tried_three_times_and_then_its_batch_is_given_up() -> None:
    bench = Bench()
    bench.put(2)
    bench.exporter.plan = [ZeroDivisionError()] * 3
    bench.load()
    problems = [bench.attempts.attempt(1.0, 0.0).problem for _ in range(3)]
    assert problems == ["the exporter raised ZeroDivisionError"] * 2 + [None]
    assert bench.ledger.dropped() == {"encode_error": 2}
    bench.check()


def test_a_batch_that_is_answered_500_again_gets_more_events() -> None:
    bench = Bench(batch_size=10)
    bench.put(1)
    bench.load()
    bench.exporter.plan = [Outcome(problem="HTTP 500", kind=BUSY)] * 2
    bench.attempts.attempt(1.0, 0.0)
    batch = bench.attempts.batch
    assert batch is not None
    batch.server_errors = PATIENCE
    bench.put(20)
    bench.attempts.attempt(1.0, 0.0)
    assert bench.exporter.batches[-1] == list(range(1, 12))
    bench.check()
    bench.attempts.attempt(1.0, 0.0)
    bench.check()
    assert bench.ledger.delivered >= 11


def test_abandoned_events_are_counted_and_nothing_moves_afterwards() -> None:
    bench = Bench(batch_size=2)
    bench.put(5)
    bench.load()
    assert bench.states.abandon() == 5
    assert bench.ledger.dropped() == {"shutdown": 5}
    bench.check()
    bench.attempts.collect(0.0)
    bench.attempts.load(0.0)
    assert not bench.states.in_flight
    assert bench.states.abandon() == 0


def test_an_answer_that_comes_after_the_end_changes_nothing() -> None:
    bench = Bench()
    bench.put(2)
    bench.load()
    export = bench.exporter.export

    def late(batch: Batch, timeout: float) -> Outcome:
        bench.states.abandon()
        return export(batch, timeout)

    bench.exporter.export = late
    bench.attempts.attempt(1.0, 0.0)
    assert (bench.ledger.delivered, bench.ledger.dropped()) == (0, {"shutdown": 2})
    bench.check()


def test_a_thread_that_dies_while_it_adds_events_to_a_batch_leaves_none_out() -> None:
    bench = Bench(batch_size=2)
    bench.put(2)
    bench.load()
    bench.exporter.plan = [Outcome(problem="HTTP 500", kind=BUSY)]
    bench.attempts.attempt(1.0, 0.0)
    bench.put(2)
    bench.attempts.collect(0.0)
    bench.states.begin_batch(0.0)  # and here it dies
    bench.attempts.attempt(1.0, 0.0)
    assert bench.exporter.batches == [[1, 2], [1, 2, 3, 4]]
    assert bench.ledger.delivered == 4
    bench.check()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 8)),
        st.tuples(st.just("collect"), st.none()),
        st.tuples(st.just("load"), st.none()),
        st.tuples(st.just("attempt"), st.tuples(st.lists(st.integers(1, 40)), st.lists(st.integers(1, 40)))),
        st.tuples(st.just("crash"), st.none()),
        st.tuples(st.just("errors"), st.integers(0, 6)),
        st.tuples(st.just("abandon"), st.none()),
    ),
    max_size=40,
)


@given(STEPS, st.sampled_from([1, 3, 500]), st.booleans())
def test_the_identity_holds_after_every_move_whatever_the_exporter_says(
    steps: list[tuple[str, object]], batch_size: int, picky: bool
) -> None:
    bench = Bench(refuse_odd if picky else lambda event: event, batch_size=batch_size)
    ended = False
    for name, value in steps:
        if name == "put" and not ended:
            bench.put(value)
        elif name == "collect":
            bench.attempts.collect(0.0)
        elif name == "load":
            bench.attempts.load(0.0)
        elif name == "attempt" and bench.states.in_flight:
            delivered, dropped = value
            bench.exporter.plan = [
                Outcome(delivered=delivered, dropped=[Dropped(seq, "rejected", "") for seq in dropped], reported=True)
            ]
            bench.attempts.attempt(1.0, 0.0)
        elif name == "crash" and bench.states.in_flight:
            bench.exporter.plan = [RuntimeError()]
            bench.attempts.attempt(1.0, 0.0)
        elif name == "errors" and bench.attempts.batch is not None:
            bench.attempts.batch.server_errors = value
        elif name == "abandon":
            bench.states.abandon()
            ended = True
        bench.check()
    bench.exporter.plan = []
    while not ended and (len(bench.states.queue) or bench.states.unsettled):
        bench.load()
        bench.attempts.attempt(1.0, 0.0)
        bench.check()
    sent = Counter(seq for batch in bench.exporter.batches for seq in batch)
    if not ended:
        assert bench.states.queue.bytes == 0
        if not picky:
            assert set(sent) == set(range(1, bench.seq + 1))
        else:
            assert all(seq % 2 == 0 for seq in sent)


def test_counts_wait_for_a_thread_that_is_in_the_middle_of_a_move(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    bench.put(3)
    looks = []
    move = bench.states.move()

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 1_500:  # the other thread has its turn at last
            bench.ledger.taken -= 3
            move.__exit__(None, None, None)

    monkeypatch.setattr("agentscope.pipeline.states.time.sleep", sleep)
    move.__enter__()
    bench.ledger.taken += 3  # they are still in the queue as well
    counts = bench.states.counts()
    assert (counts.accepted, counts.pending) == (3, 3)
    assert 0 < sum(looks) < 1


def test_counts_give_up_on_a_move_of_their_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    monkeypatch.setattr("agentscope.pipeline.states.time.sleep", looks.append)
    bench = Bench()
    bench.put(3)
    with bench.states.move():
        assert bench.states.counts().accepted == 3
    assert sum(looks) == pytest.approx(1)
