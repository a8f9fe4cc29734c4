"""The ledger: exact counts from any thread, and the counts of drops that a backend has not acknowledged."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.pipeline.ledger import Ledger, Tallies, Tally


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Make threads switch as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(work, number: int = 8) -> None:
    """Run `work(i)` in several threads that start at the same moment."""
    barrier = threading.Barrier(number)

    def run(i: int) -> None:
        barrier.wait(60)
        work(i)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(number)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


@given(st.integers(0, 5000))
def test_reading_a_tally_does_not_increase_it(times):
    tally = Tally()
    for _ in range(times):
        tally.add()
    assert tally.value == tally.value == times


def test_a_tally_is_exact_under_eight_threads(hasty_threads):
    tally = Tally()

    def work(i: int) -> None:
        for _ in range(2000):
            tally.add()

    together(work)
    assert tally.value == 8 * 2000


def test_tallies_by_name_are_exact_under_eight_threads_that_bring_new_names(hasty_threads):
    tallies = Tallies()

    def work(i: int) -> None:
        for n in range(2000):
            tallies.add(f"name {n % 50}")

    together(work)
    assert tallies.values() == {f"name {n}": 8 * 40 for n in range(50)}
    assert tallies.total() == 16_000


def test_dropped_events_are_those_refused_at_the_call_and_those_dropped_later():
    ledger = Ledger()
    ledger.refused.add("queue_full")
    ledger.refused.add("shutdown")
    ledger.drop("shutdown", 3)
    ledger.drop("rejected")
    assert ledger.dropped() == {"queue_full": 1, "shutdown": 4, "rejected": 1}


def test_settled_counts_only_events_that_left_the_queue():
    ledger = Ledger()
    ledger.refused.add("queue_full")
    ledger.delivered = 5
    ledger.drop("rejected", 2)
    assert ledger.settled() == 7


def test_totals_that_are_set_twice_count_once():
    ledger = Ledger()
    ledger.drop("rejected")
    totals = ledger.with_verdicts(2, ["rejected", "encode_error"])
    assert ledger.settled() == 1
    ledger.settle(totals)
    ledger.settle(totals)
    assert (ledger.delivered, ledger.dropped()) == (2, {"rejected": 2, "encode_error": 1})


def test_acknowledged_counts_of_drops_are_not_sent_again_and_later_ones_are():
    ledger = Ledger()
    assert ledger.unreported() == {}
    ledger.drop("rejected", 2)
    ledger.refused.add("queue_full")
    told = ledger.unreported()
    assert told == {"rejected": 2, "queue_full": 1}
    ledger.drop("rejected")
    assert ledger.unreported() == {"rejected": 3, "queue_full": 1}
    ledger.reported(told)
    assert ledger.unreported() == {"rejected": 1}
    ledger.reported({"rejected": 1})
    assert ledger.unreported() == {}
