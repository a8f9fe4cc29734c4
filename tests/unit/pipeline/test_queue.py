"""The queue: its bound in bytes, the room for urgent events, and the wakes of the worker."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from itertools import count
from queue import Empty, SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.pipeline.queue import CROWDED, NEVER, REFUSE_AT, SHED_AT, UNIT, EventQueue, units
from tests.support.events import event
from tests.support.interruptions import interrupted

LARGEST = 100 * UNIT


def queue(max_bytes: int = LARGEST, batch_bytes: int = 10 * UNIT) -> EventQueue:
    return EventQueue(max_bytes, batch_bytes)


def one(units: int = 1, seq: int = 1):
    """Make an event that is charged this number of units."""
    return event(seq, size=units * UNIT - 1)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Make threads switch as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_events_are_in_the_order_of_their_calls():
    filled = queue()
    events = [one(seq=seq) for seq in range(5)]
    assert [filled.put(each, False) for each in events] == [None] * 5
    assert list(filled.events) == events
    assert len(filled) == 5


@pytest.mark.parametrize(("size", "charged"), [(0, 1), (1, 1), (UNIT - 1, 1), (UNIT, 2), (10 * UNIT, 11)])
def test_an_event_is_charged_in_whole_units(size, charged):
    filled = queue()
    filled.put(event(1, size=size), False)
    assert filled.bytes == charged * UNIT


def test_ordinary_events_are_refused_where_the_room_for_urgent_ones_begins():
    filled = queue()
    accepted = [filled.put(one(), False) for _ in range(120)]
    assert accepted == [None] * int(100 * REFUSE_AT) + ["queue_full"] * 25
    urgent = [filled.put(one(), True) for _ in range(10)]
    assert urgent == [None] * 5 + ["queue_full"] * 5
    assert filled.bytes == LARGEST


def test_an_event_that_does_not_fit_leaves_the_queue_as_it_was():
    filled = queue()
    assert filled.put(one(101), True) == "queue_full"
    assert filled.put(one(96), False) == "queue_full"
    assert (len(filled), filled.bytes) == (0, 0)
    assert filled.put(one(100), True) is None


def test_a_queue_has_room_for_one_urgent_event_however_small_its_bound():
    filled = queue(max_bytes=0)
    assert filled.put(one(), True) is None
    assert filled.put(one(), True) == "queue_full"


def test_near_the_bound_only_events_without_payloads_and_urgent_ones_are_taken():
    filled = queue()
    for _ in range(int(100 * SHED_AT) - 2):
        filled.put(one(), False)
    assert filled.put(one(2), False, whole=True) is None
    before = (len(filled), filled.bytes)
    assert filled.put(one(), False, whole=True) == CROWDED
    assert (len(filled), filled.bytes) == before
    assert filled.put(one(), False) is None
    assert filled.put(one(), True, whole=True) is None


def test_settled_events_make_room():
    filled = queue()
    for _ in range(95):
        filled.put(one(), False)
    assert filled.put(one(), False) == "queue_full"
    taken = [filled.events.popleft() for _ in range(10)]
    assert filled.put(one(), False) == "queue_full", "taken is not settled"
    filled.released += units(taken)
    assert filled.bytes == 85 * UNIT
    assert filled.put(one(10), False) is None


@given(st.lists(st.tuples(st.integers(0, 30 * UNIT), st.booleans()) | st.integers(0, 5), max_size=80))
def test_the_bytes_are_those_of_the_unsettled_events_after_any_sequence_of_calls(calls):
    filled = queue()
    unsettled = []
    for call in calls:
        if isinstance(call, int):
            done, unsettled = unsettled[:call], unsettled[call:]
            filled.released += units(done)
        else:
            size, urgent = call
            if filled.put(event(1, size=size), urgent) is None:
                unsettled.append(filled.events[-1])
        assert filled.bytes == sum(each.size // UNIT + 1 for each in unsettled) * UNIT <= LARGEST
    filled.released += units(unsettled)
    assert filled.bytes == 0


def test_a_put_that_is_interrupted_at_any_line_is_charged_if_it_is_appended_and_not_otherwise():
    filled, outcomes = queue(), []
    for line in count(1):
        before = len(filled)
        if interrupted(lambda: filled.put(one(3), True), line, TimeoutError()) is None:
            break
        assert filled.bytes == 3 * len(filled) * UNIT
        outcomes.append(len(filled) - before)
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {0, 1}


def test_under_eight_threads_the_bound_is_missed_by_an_event_a_thread_at_most_and_ends_at_zero(hasty_threads):
    number, size = 8, 3
    filled = queue()
    accepted = [0] * number
    over: list[int] = []
    barrier = threading.Barrier(number + 1)
    stop = threading.Event()

    def put(i: int) -> None:
        barrier.wait(60)
        for _ in range(3000):
            accepted[i] += filled.put(one(size), i % 2 == 0) is None

    def settle() -> None:
        barrier.wait(60)
        held: list[object] = []
        while not stop.is_set() or filled.events:
            while filled.events:
                held.append(filled.events.popleft())
            over.append(size * len(held))
            filled.released += units(held)
            settled.extend(held)
            held = []

    settled: list[object] = []
    producers = [threading.Thread(target=put, args=(i,)) for i in range(number)]
    consumer = threading.Thread(target=settle)
    for thread in [*producers, consumer]:
        thread.start()
    for thread in producers:
        thread.join()
    stop.set()
    consumer.join()
    assert len(settled) == sum(accepted) > 0
    assert max(over) <= 100 + number * size
    assert filled.bytes == 0


# ---- waking the worker -------------------------------------------------------------------------------------------------


class Bell:
    """A double of `SimpleQueue` in the bell: counts rings, and runs `meanwhile` during a wait, as other threads would."""

    def __init__(self, meanwhile=lambda: None) -> None:
        self.rings = 0
        self.waited: list[float | None] = []
        self.meanwhile = meanwhile

    def put(self, item: None) -> None:
        self.rings += 1

    def get(self, timeout: float | None) -> None:
        self.waited.append(timeout)
        self.meanwhile()
        self.get_nowait()

    def get_nowait(self) -> None:
        if not self.rings:
            raise Empty
        self.rings -= 1


def sleeper(meanwhile) -> tuple[EventQueue, Bell]:
    filled = queue()
    bell = Bell(lambda: meanwhile(filled))
    filled._bell._rings = bell
    return filled, bell


def test_a_worker_that_is_awake_is_not_rung_for():
    filled, bell = sleeper(lambda filled: None)
    for _ in range(20):
        filled.put(one(), False)
    assert bell.rings == 0


def test_the_worker_sleeps_for_its_time_if_there_is_no_ring():
    filled, bell = sleeper(lambda filled: None)
    filled.sleep(1.5, wake_at=3)
    filled.sleep(None, wake_at=1)
    assert bell.waited == [1.5, None]
    assert filled.wake_at == NEVER


def test_enough_events_keep_the_worker_from_going_to_sleep():
    filled, bell = sleeper(lambda filled: None)
    filled.put(one(), False)
    filled.sleep(None, wake_at=1)
    assert bell.waited == []


@pytest.mark.parametrize(
    ("events", "rings"),
    [
        ([1, 1], 0),
        ([1, 1, 1], 1),
        ([1, 1, 1, 1, 1], 1),
        ([10], 0),
        ([11], 1),
        ([101], 0),
        ([10, 101], 1),
    ],
)
def test_the_worker_is_woken_once_by_number_by_bytes_or_by_an_event_that_is_refused(events, rings):
    heard = []

    def put(filled):
        for number in events:
            filled.put(one(number), True)
        heard.append(bell.rings)

    filled, bell = sleeper(put)
    filled.sleep(5.0, wake_at=3)
    assert heard == [rings]
    assert bell.rings == 0


def test_a_worker_that_waits_out_a_pause_is_woken_by_no_event():
    heard = []

    def put(filled):
        for _ in range(99):
            filled.put(one(), True)
        heard.append(bell.rings)

    filled, bell = sleeper(put)
    filled.sleep(5.0, wake_at=NEVER)
    assert heard == [0]


def test_a_ring_wakes_the_worker_from_any_sleep():
    for wake_at in (1, 100, NEVER):
        filled = queue()
        filled.ring()
        filled.sleep(None, wake_at=wake_at)


def test_old_rings_do_not_wake_the_worker_again():
    filled, bell = sleeper(lambda filled: [filled.ring() for _ in range(5)])
    filled.sleep(None, wake_at=1)
    assert bell.rings == 0


def test_no_wake_is_lost_between_putting_and_going_to_sleep(hasty_threads):
    """The worker sleeps without a timeout, so that the test hangs if a wake is lost."""
    filled = queue(max_bytes=1 << 30)
    number, each = 4, 5000
    taken: SimpleQueue[int] = SimpleQueue()

    def put(i: int) -> None:
        for n in range(each):
            filled.put(event(i * each + n), False)

    def work() -> None:
        got = 0
        while got < number * each:
            filled.sleep(None, wake_at=1)
            while filled.events:
                filled.events.popleft()
                got += 1
        taken.put(got)

    threads = [threading.Thread(target=work, daemon=True)]
    threads += [threading.Thread(target=put, args=(i,), daemon=True) for i in range(number)]
    for thread in threads:
        thread.start()
    assert taken.get(timeout=30) == number * each
