"""The time that calls take, as `stats()` estimates it from samples, on a clock of the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytest

from agentscope.pipeline.stats import SAMPLED
from tests.support.recording import Recording, recorded

STEP = 1_000
"""Nanoseconds that pass between two looks at the clock."""


class Clock:
    """A clock that goes on at each reading. The first reading of a call decides if the call is timed."""

    def __init__(self, first: int) -> None:
        self._now = first

    def __call__(self) -> int:
        self._now += STEP
        return self._now - STEP


@pytest.fixture
def recording() -> Iterator[Recording]:
    with recorded() as found, found.tracker.track_run("agent"):
        yield found


def spent(recording: Recording, first: int, call: Callable[[Recording], object]) -> float:
    """Return the seconds that are added to `call_seconds` if the clock begins at `first`."""
    before = recording.tracker.stats().call_seconds
    with patch.object(time, "perf_counter_ns", Clock(first)):
        call(recording)
    return recording.tracker.stats().call_seconds - before


def block(recording: Recording) -> None:
    with recording.tracker.track_step_context("step"):
        """Nothing happens inside."""


CALLS: dict[str, Callable[[Recording], object]] = {
    "track_step": lambda recording: recording.tracker.track_step("step"),
    "start_run": lambda recording: recording.tracker.start_run("inner"),
    "end_run": lambda recording: recording.tracker.end_run(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_that_begins_at_a_multiple_is_timed_and_counts_for_61(
    recording: Recording, call: Callable[[Recording], object]
) -> None:
    assert spent(recording, 10 * SAMPLED, call) == pytest.approx(STEP * SAMPLED / 1e9)


@pytest.mark.parametrize("call", [*CALLS.values(), block], ids=[*CALLS, "block"])
def test_all_other_calls_are_not_timed(recording: Recording, call: Callable[[Recording], object]) -> None:
    assert spent(recording, 10 * SAMPLED + 1, call) == 0


def test_the_start_and_the_end_of_a_block_are_timed_without_its_body(recording: Recording) -> None:
    times = iter((1, 10 * SAMPLED, 10 * SAMPLED + 700, 10_000_000, 10_000_300))
    before = recording.tracker.stats().call_seconds
    with patch.object(time, "perf_counter_ns", lambda: next(times)):
        block(recording)
    assert recording.tracker.stats().call_seconds - before == pytest.approx((700 + 300) * SAMPLED / 1e9)


def test_clocks_that_tick_in_microseconds_hit_a_multiple_as_often() -> None:
    hits = sum(tick * 1000 % SAMPLED == 0 for tick in range(61_000))
    assert hits == 1000


def test_each_start_end_and_step_is_a_call_and_a_block_is_one() -> None:
    with recorded() as recording:
        with recording.tracker.track_run("agent"):
            recording.tracker.track_step("step")
            block(recording)
        assert recording.tracker.stats().calls == 4
        recording.tracker.track_step("nowhere")
        assert recording.tracker.stats().calls == 4


def test_calls_of_runs_that_are_sampled_out_are_calls() -> None:
    with recorded(sample_rate=0.0) as recording:
        with recording.tracker.track_run("agent"):
            recording.tracker.track_step("step")
        stats = recording.tracker.stats()
    assert (stats.calls, stats.sampled_out, stats.accepted) == (3, 3, 0)
