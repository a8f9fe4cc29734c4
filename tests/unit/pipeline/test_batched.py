"""Batches close by count, by bytes or by age."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import Event
from agentscope.pipeline.queue import Batched
from tests.support.events import event


def filled(number: int, size: int = 10, now: float = 0.0, **limits: float) -> Batched:
    batcher = Batched(**{"max_events": 5, "max_bytes": 100, "max_age": 2.0, **limits})
    for seq in range(number):
        batcher.add(event(seq, size=size), now)
    return batcher


def take(batcher: Batched, now: float = 0.0) -> list[Event]:
    batch = batcher.next()
    batcher.remove(batch, now)
    return batch


def seqs(batcher: Batched, now: float = 0.0) -> list[int]:
    return [taken.seq for taken in take(batcher, now)]


def test_without_events_no_batch_is_due():
    batcher = filled(0)
    assert (batcher.wait(0.0), batcher.room(), len(batcher), seqs(batcher)) == (None, 5, 0, [])


def test_a_batch_that_is_full_by_count_goes_at_once():
    assert filled(4).wait(0.0) == 2.0
    assert filled(5).wait(0.0) == 0.0
    assert [filled(number).room() for number in (0, 3, 5, 7)] == [5, 2, 0, 0]


def test_a_batch_that_is_full_by_bytes_goes_at_once():
    assert filled(3, size=33).wait(0.0) == 2.0
    assert filled(3, size=34).wait(0.0) == 0.0
    assert filled(3, size=34).room() == 0


def test_a_batch_goes_when_its_first_event_is_old_enough():
    batcher = filled(1, now=10.0)
    batcher.add(event(1, size=10), now=11.5)
    assert [batcher.wait(now) for now in (10.0, 11.5, 12.0, 99.0)] == [2.0, 0.5, 0.0, 0.0]


def test_a_batch_never_holds_more_than_the_limits():
    batcher = filled(7)
    assert seqs(batcher) == [0, 1, 2, 3, 4]
    assert seqs(batcher) == [5, 6]
    assert seqs(filled(4, size=40)) == [0, 1]


def test_one_event_that_is_larger_than_the_limit_goes_alone():
    batcher = filled(1, size=1000)
    batcher.add(event(1, size=10), 0.0)
    assert seqs(batcher) == [0]
    assert seqs(batcher) == [1]


def test_a_batch_is_due_when_enough_events_wait_and_has_all_that_wait():
    batcher = filled(2, enough=3)
    assert (batcher.wait(0.0), batcher.missing(), batcher.room()) == (2.0, 1, 3)
    batcher.add(event(2, size=10), 0.0)
    assert (batcher.wait(0.0), batcher.missing(), batcher.room()) == (0.0, 0, 2)
    batcher.add(event(3, size=10), 0.0)
    assert seqs(batcher) == [0, 1, 2, 3]


def test_a_batch_is_due_at_its_limit_if_that_is_below_the_number_that_is_enough():
    assert filled(5, enough=500).wait(0.0) == 0.0
    assert filled(4, enough=500).missing() == 1
    assert filled(2, size=50, enough=500).missing() == 0


def test_events_are_taken_in_the_order_of_their_source():
    batcher = filled(1)
    waiting = deque(event(seq, size=7) for seq in range(1, 9))
    batcher.take(waiting.popleft, 3, 1.0)
    assert ([each.seq for each in batcher], len(waiting), batcher.wait(1.0)) == ([0, 1, 2, 3], 5, 1.0)
    batcher.take(waiting.popleft, 1, 1.0)
    assert (seqs(batcher), batcher.room()) == ([0, 1, 2, 3, 4], 5)
    batcher.take(waiting.popleft, 4, 3.0)
    assert batcher.wait(3.0) == 2.0


def test_the_age_of_events_that_a_batch_leaves_begins_anew():
    batcher = filled(6, now=0.0)
    take(batcher, 1.5)
    assert batcher.wait(1.5) == 2.0


def test_after_clear_no_event_and_no_byte_is_left():
    batcher = filled(5, size=100)
    batcher.clear()
    assert (len(batcher), batcher.wait(9.0), batcher.room()) == (0, None, 5)
    batcher.add(event(9, size=99), 9.0)
    assert batcher.wait(9.0) == 2.0


def test_the_next_batch_stays_until_it_is_removed():
    batcher = filled(7)
    assert batcher.next() == batcher.next()
    assert len(batcher) == 7


def test_kept_events_are_counted_anew():
    batcher = filled(4, size=40)
    batcher.keep([waiting for waiting in batcher if waiting.seq != 1])
    assert (batcher.room(), [waiting.seq for waiting in batcher]) == (0, [0, 2, 3])
    batcher.keep([])
    assert (batcher.room(), batcher.wait(9.0)) == (5, None)


@given(st.lists(st.integers(0, 150), max_size=40), st.integers(1, 6), st.integers(1, 200))
def test_every_event_comes_out_once_in_order_in_batches_within_the_limits(sizes, max_events, max_bytes):
    batcher = Batched(max_events, max_bytes, 1.0)
    for seq, size in enumerate(sizes):
        batcher.add(event(seq, size=size), 0.0)
    out = []
    while batch := take(batcher):
        assert len(batch) <= max_events
        assert len(batch) == 1 or sum(taken.size for taken in batch) <= max_bytes
        out += [taken.seq for taken in batch]
        assert len(batcher) == len(sizes) - len(out)
    assert out == list(range(len(sizes)))
    assert batcher.room() == max_events
