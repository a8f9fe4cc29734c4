"""Incomplete events, which wait for the end of their run or step: pending, bounded, and settled exactly once."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.config import Config
from agentscope.events import STEP_END, STEP_START, STEP_UPDATE, Event, Session
from agentscope.pipeline import states as event_states
from agentscope.pipeline.delivery import Attempts
from agentscope.pipeline.ledger import Ledger
from agentscope.pipeline.pipeline import Pipeline
from agentscope.pipeline.process import threads
from agentscope.pipeline.states import EventStates
from agentscope.protocols.assemble import Whole, joined
from agentscope.protocols.base import BUSY, Batch, Dropped, Outcome
from tests.support.events import opened
from tests.support.recording import balanced

CONFIG = Config.load({"api_key": "ask_test", "flush_interval": 0.0}, {})


class WholeOnly:
    """An exporter that takes whole steps only. It refuses a given number of attempts first."""

    protocol = "whole"

    def __init__(self, refusals: int = 0) -> None:
        self.sent: list[Whole] = []
        self.refusals = refusals

    def export(self, sent: Batch, timeout: float) -> Outcome:
        wholes, waiting = joined(sent)
        if wholes and self.refusals:
            self.refusals -= 1
            return Outcome(parked=waiting, problem="busy", kind=BUSY)
        self.sent += wholes
        return Outcome(delivered=[seq for whole in wholes for seq in whole.seqs], parked=waiting)

    def warm_up(self) -> None:
        """Nothing is imported."""

    def close(self) -> None:
        """Nothing is closed."""

    @property
    def seqs(self) -> list[tuple[int, ...]]:
        return [whole.seqs for whole in self.sent]


class Bench:
    def __init__(self, exporter: WholeOnly, config: Config = CONFIG, redact: Any = lambda event: event) -> None:
        self.exporter = exporter
        self.ledger = Ledger()
        self.states = EventStates(config, self.ledger)
        self.attempts = Attempts(config, Session("s", "prefix-"), self.states, exporter, redact)
        self.put_in = 0

    def send(self, *events: Event) -> None:
        for event in events:
            assert self.states.queue.put(event, urgent=True) is None
            self.put_in += 1
        self.settle()

    def settle(self, attempts: int = 20) -> None:
        for _ in range(attempts):
            self.attempts.collect(0.0)
            self.attempts.load(0.0)
            if not self.states.in_flight:
                return
            self.attempts.attempt(1.0, 0.0)
            self.check()
        raise AssertionError("it never settles")

    def finish(self) -> None:
        self.states.close_all(0.0)
        self.settle()

    def check(self) -> None:
        pending = len(self.states.queue) + self.states.unsettled
        assert self.put_in == self.ledger.delivered + sum(self.ledger.dropped().values()) + pending
        assert not self.states.number & 1


def test_a_start_is_pending_until_it_is_sent_with_its_end() -> None:
    bench = Bench(WholeOnly())
    start, end = opened(1, 2, "a")
    bench.send(start)
    assert (len(bench.states.incomplete), bench.states.unsettled, bool(bench.states.in_flight)) == (1, 1, False)
    assert bench.states.queue.bytes > 0
    bench.send(end)
    assert bench.exporter.seqs == [(1, 2)]
    assert (len(bench.states.incomplete), bench.ledger.delivered, bench.states.queue.bytes) == (0, 2, 0)


def test_a_flush_counts_incomplete_events_as_settled() -> None:
    bench = Bench(WholeOnly())
    bench.send(opened(1, 2, "a")[0])
    assert bench.states.through == 1


def test_a_refused_end_stays_in_flight_and_its_start_incomplete() -> None:
    bench = Bench(WholeOnly(refusals=2))
    start, end = opened(1, 2, "a")
    bench.send(start, end)
    assert (bench.exporter.seqs, bench.ledger.delivered) == ([(1, 2)], 2)


def test_at_the_end_incomplete_steps_are_sent_as_they_are() -> None:
    bench = Bench(WholeOnly())
    bench.send(opened(1, 8, "a")[0], opened(2, 9, "b")[0])
    bench.finish()
    assert bench.exporter.seqs == [(1,), (2,)]
    assert [whole.event.fields["status"] for whole in bench.exporter.sent] == ["running", "running"]
    assert (len(bench.states.incomplete), bench.states.unsettled) == (0, 0)


def test_incomplete_events_are_redacted_once() -> None:
    seen: list[int] = []

    def redact(event: Event) -> Event:
        seen.append(event.seq)
        return event._replace(fields={**event.fields, "name": "***"})

    bench = Bench(WholeOnly(), redact=redact)
    bench.send(opened(1, 8, "a")[0])
    bench.finish()
    assert seen == [1]
    assert bench.exporter.sent[0].event.fields["name"] == "***"


def test_above_the_bound_the_oldest_incomplete_step_is_sent_as_it_is() -> None:
    bench = Bench(WholeOnly())
    with patch.object(event_states, "MOST_INCOMPLETE", 10):
        for seq in range(30):
            bench.send(opened(seq, 100, f"step-{seq}")[0])
    assert len(bench.states.incomplete) <= 10
    assert bench.exporter.seqs == [(seq,) for seq in range(len(bench.exporter.sent))]


def test_a_step_whose_end_is_in_flight_is_not_sent_as_it_is() -> None:
    bench = Bench(WholeOnly(refusals=2))
    first, *others = [opened(seq, 100 + seq, f"step-{seq}") for seq in range(8)]
    with patch.object(event_states, "MOST_INCOMPLETE", 5):
        bench.send(first[0], *(start for start, _ in others[:4]))
        bench.send(first[1], *(start for start, _ in others[4:]))
        bench.finish()
    assert (0, 100) in bench.exporter.seqs
    assert sorted(seq for seqs in bench.exporter.seqs for seq in seqs) == [*range(8), 100]


def test_a_step_that_is_sent_as_it_is_is_sent_once() -> None:
    bench = Bench(WholeOnly(refusals=4), replace(CONFIG, batch_size=1))
    start, _ = opened(0, 100, "a")
    bench.send(start, *(start._replace(type=STEP_UPDATE, seq=seq) for seq in range(1, 8)))
    with patch.object(event_states, "MOST_INCOMPLETE", 2):
        bench.send(opened(20, 21, "b")[1])
        bench.finish()
    assert bench.exporter.seqs == [(21,), tuple(range(8))]


class Learning(WholeOnly):
    """An exporter that learns at the first end that its backend takes single events."""

    def export(self, sent: Batch, timeout: float) -> Outcome:
        if not any(event.type == STEP_END for event in sent.events) and not self.sent:
            return Outcome(parked=[event.seq for event in sent.events])
        self.sent += [Whole(event, (event.seq,)) for event in sent.events]
        return Outcome(delivered=[event.seq for event in sent.events], released=True)


def test_no_event_stays_incomplete_for_a_backend_that_takes_single_events() -> None:
    bench = Bench(Learning())
    (start, end), (other, _), (third, _) = opened(1, 4, "a"), opened(2, 9, "b"), opened(3, 9, "c")
    bench.send(start, other, third)
    assert len(bench.states.incomplete) == 3
    bench.send(end)
    assert bench.exporter.seqs == [(4,), (1,), (2,), (3,)]
    assert (len(bench.states.incomplete), bench.states.unsettled, bench.states.through) == (0, 0, 4)


def test_a_flush_waits_for_events_that_are_no_longer_incomplete() -> None:
    pipeline = Pipeline(CONFIG, Learning, lambda event: event)
    for step_id in "abc":
        put(pipeline, STEP_START, step_id)
    assert pipeline.flush(60)
    assert pipeline.stats().unfinished == 3
    put(pipeline, STEP_END, "a")
    assert pipeline.flush(60)
    stats = pipeline.stats()
    assert (stats.delivered, stats.pending) == (4, 0)
    pipeline.shutdown(1)


def test_incomplete_events_take_half_of_the_queue_at_most() -> None:
    bench = Bench(WholeOnly(), replace(CONFIG, max_queue_bytes=64 * 1024))
    for seq in range(40):
        start, _ = opened(seq, 100, f"step-{seq}")
        bench.send(start._replace(size=4096))
    assert bench.states.queue.bytes <= 40 * 1024
    assert len(bench.states.incomplete) < 10


def test_abandoned_events_include_incomplete_ones() -> None:
    bench = Bench(WholeOnly())
    bench.send(opened(1, 8, "a")[0])
    assert bench.states.abandon() == 1
    bench.check()
    assert bench.ledger.dropped() == {"shutdown": 1}


def test_a_step_that_is_rejected_is_rejected_with_its_start() -> None:
    class Rejecting(WholeOnly):
        def export(self, sent: Batch, timeout: float) -> Outcome:
            wholes, waiting = joined(sent)
            dropped = [Dropped(seq, "rejected", "") for whole in wholes for seq in whole.seqs]
            return Outcome(dropped=dropped, parked=waiting)

    bench = Bench(Rejecting())
    start, end = opened(1, 2, "a")
    bench.send(start)
    bench.send(end)
    assert bench.ledger.dropped() == {"rejected": 2}
    assert bench.states.unsettled == 0


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40),
    st.lists(st.integers(1, 5), max_size=10),
    st.integers(0, 3),
)
def test_starts_and_ends_in_any_order_and_any_batches_are_settled_once(
    calls: list[tuple[int, bool]], cuts: list[int], refusals: int
) -> None:
    bench = Bench(WholeOnly(refusals))
    events = []
    for seq, (number, ends) in enumerate(calls):
        start, end = opened(seq, seq, f"step-{number}")
        events.append(end if ends else start)
    left = list(events)
    for cut in [*cuts, len(left)]:
        bench.send(*left[:cut])
        left = left[cut:]
    bench.finish()
    counts = Counter(seq for seqs in bench.exporter.seqs for seq in seqs)
    assert counts == Counter(range(len(events)))
    assert bench.ledger.delivered == len(events)


def put(pipeline: Pipeline, type_: str, step_id: str) -> None:
    assert pipeline.put(type_, "run", step_id, None, {"name": step_id}, 10, urgent=False)


def test_a_flush_does_not_wait_for_open_steps() -> None:
    pipeline = Pipeline(CONFIG, WholeOnly, lambda event: event)
    put(pipeline, STEP_START, "a")
    assert pipeline.flush(60)
    stats = pipeline.stats()
    assert (stats.pending, stats.unfinished) == (1, 1)
    assert pipeline.flush(60)  # again, with nothing but that
    put(pipeline, STEP_END, "a")
    assert pipeline.flush(60)
    assert pipeline.stats().delivered == 2
    assert pipeline.shutdown(60)
    assert balanced(pipeline.stats())


def test_shutdown_sends_open_steps() -> None:
    pipeline = Pipeline(CONFIG, WholeOnly, lambda event: event)
    put(pipeline, STEP_START, "a")
    assert pipeline.shutdown(60)
    stats = pipeline.stats()
    assert (stats.delivered, stats.pending, stats.dropped) == (1, 0, {})


def test_without_a_thread_flush_and_shutdown_treat_open_steps_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "start", lambda *_, **__: False)
    pipeline = Pipeline(CONFIG, WholeOnly, lambda event: event)
    put(pipeline, STEP_START, "a")
    assert pipeline.flush(60)
    assert pipeline.stats().unfinished == 1
    assert pipeline.shutdown(60)
    assert (pipeline.stats().delivered, pipeline.stats().pending) == (1, 0)


class Down(WholeOnly):
    def export(self, sent: Batch, timeout: float) -> Outcome:
        return Outcome(problem="nobody is at home", kind=BUSY)


def test_after_max_retries_a_batch_is_dropped() -> None:
    told: list[tuple[str, int]] = []
    config = replace(CONFIG, max_retries=2, retry_delay=0.0, on_drop=lambda *drop: told.append(drop))
    pipeline = Pipeline(config, Down, lambda event: event)
    put(pipeline, STEP_END, "a")
    result = pipeline.flush(60)
    assert (result.pending, result.dropped) == (0, 1)
    stats = pipeline.stats()
    assert (stats.dropped, stats.attempts) == ({"retry_limit": 1}, 3)
    assert balanced(stats)
    pipeline.shutdown(1)
    assert told == [("retry_limit", 1)]


def test_the_payloads_of_incomplete_events_stay_as_they_are() -> None:
    start, end = opened(1, 2, "a", output=json.dumps({"x": 1}).encode())
    bench = Bench(WholeOnly())
    bench.send(start)
    bench.send(end)
    assert bench.exporter.sent[0].event.fields["output"] == b'{"x": 1}'
