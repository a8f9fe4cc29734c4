"""The wait before the next attempt, and the end of all attempts: tables, and a schedule as a list."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import RetryCallState, Retrying, retry_if_result, stop_never
from tenacity.stop import stop_base

from agentscope.pipeline.retry import (
    FIRST,
    LONGEST,
    PROBE_INTERVAL,
    RETRY_AFTER_LIMIT,
    Backoff,
    count_anew_after_progress,
    retry_after,
    stop_when,
    wait_for_backend,
    wait_full_jitter,
)
from agentscope.protocols.base import BUSY, REFUSED, UNAUTHORIZED, Dropped, Outcome

NOW = 1_769_860_800.0  # Sat, 31 Jan 2026 12:00:00 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("   ", None),
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("2.5", 2.5),
        ("60", 60.0),
        ("61", 60.0),
        ("1e8", 60.0),
        ("1e999", 60.0),
        ("9" * 20, 60.0),
        ("9" * 5000, 60.0),
        ("-1", None),
        ("+5", None),
        ("abc", None),
        ("NaN", None),
        ("inf", None),
        ("-inf", None),
        ("5 s", None),
        ("²", None),
        ("Sat, 31 Jan 2026 12:00:05 GMT", 5.0),
        ("Sat, 31 Jan 2026 13:00:05 +0100", 5.0),
        ("Sat, 31 Jan 2026 11:59:00 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60.0),
        ("Sat, 99 Jan 2026 12:00:05 GMT", None),
        ("Sat, 31 Jan 99999 12:00:05 GMT", None),
        ("Sat, 31 Jan", None),
    ],
)
def test_retry_after_is_taken_within_a_minute_or_not_at_all(value, seconds):
    assert retry_after(value, NOW) == seconds


@given(
    st.text()
    | st.text("0123456789.eE+-_ naif")
    | st.text("0123456789:, SatJanGMT+-")
    | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} (Jan|Dec) \d{1,6} \d\d:\d\d:\d\d ?(GMT|[+-]\d{1,12}|)", fullmatch=True)
)
def test_no_header_makes_retry_after_raise_or_leave_its_bounds(value):
    seconds = retry_after(value, NOW)
    assert seconds is None or 0.0 <= seconds <= RETRY_AFTER_LIMIT


def policy(jitter: float = 0.5, first: float = FIRST) -> wait_for_backend:
    return wait_for_backend(wait_full_jitter(first, lambda: jitter), wall=lambda: NOW)


def wait_after(outcome: Outcome, failures: int, jitter: float = 0.5) -> float:
    """Return the seconds to wait after a number of failures in a row, the last with this outcome."""
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = failures
    state.set_result(outcome)
    return policy(jitter)(state)


@given(
    failures=st.integers(0, 10_000),
    jitter=st.floats(0, 1, exclude_max=True),
    kind=st.sampled_from([None, BUSY, REFUSED, UNAUTHORIZED]),
    asked=st.none() | st.text() | st.integers(-5, 500).map(str),
)
def test_no_wait_is_longer_than_its_bound(failures, jitter, kind, asked):
    wait = wait_after(Outcome(kind=kind, retry_after=asked), failures, jitter)
    assert 0.0 <= wait <= 60.0
    if kind == UNAUTHORIZED:
        assert wait == PROBE_INTERVAL
    elif retry_after(asked, NOW) is None:
        assert wait <= min(LONGEST, FIRST * 2.0 ** min(max(failures - 1, 0), 10))


def test_the_bound_doubles_from_half_a_second_to_thirty():
    almost = math.nextafter(1.0, 0.0)
    waits = [wait_after(Outcome(kind=BUSY), failures, almost) for failures in range(10)]
    assert waits == pytest.approx([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0])
    assert wait_after(Outcome(kind=BUSY), 5, 0.25) == 2.0
    assert wait_after(Outcome(kind=BUSY), 5, 0.0) == 0.0


def test_the_wait_that_a_backend_asks_for_goes_before_the_schedule_even_after_progress():
    outcome = Outcome(delivered=[1], kind=BUSY, retry_after="9")
    assert wait_after(outcome, 0) == 9.0
    assert wait_after(outcome, 20) == 9.0


def test_no_wait_takes_a_number_from_the_users_own_random_sequence():
    random.seed(1)
    before = random.getstate()
    wait_after(Outcome(kind=BUSY), 3)
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("outcome", "failures"),
    [
        (Outcome(kind=BUSY), 4),
        (Outcome(delivered=[1], kind=BUSY), 0),
        (Outcome(dropped=[Dropped(1, "rejected", "")]), 0),
    ],
)
def test_failures_are_counted_in_a_row_and_any_progress_starts_again(outcome, failures):
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = 4
    state.set_result(outcome)
    count_anew_after_progress(state)
    assert state.attempt_number == failures


def run_schedule(outcomes: list[Outcome], stop: stop_base = stop_never) -> list[float]:
    """Return the sleeps between attempts with these outcomes, made by tenacity itself."""
    slept: list[float] = []
    rest = iter(outcomes)
    Retrying(
        retry=retry_if_result(lambda outcome: outcome.problem is not None),
        wait=policy(),
        stop=stop,
        sleep=slept.append,
        after=count_anew_after_progress,
        retry_error_callback=lambda state: None,
    )(lambda: next(rest))
    assert next(rest, None) is None
    return slept


def busy(**fields) -> Outcome:
    return Outcome(kind=BUSY, problem="busy", **fields)


SCHEDULE = [busy(), busy(), busy(retry_after="7"), busy(delivered=[1]), busy(), Outcome(delivered=[2])]


def test_a_schedule_as_a_list():
    assert run_schedule(SCHEDULE) == [0.25, 0.5, 7.0, 0.0, 0.25]


def test_separate_attempts_have_the_same_waits():
    backoff = Backoff(policy())
    assert [(backoff.after(outcome), backoff.failures) for outcome in SCHEDULE] == [
        (0.25, 1),
        (0.5, 2),
        (7.0, 3),
        (0.0, 0),
        (0.25, 1),
        (0.0, 0),
    ]


def test_success_at_the_first_attempt_needs_no_sleep():
    assert run_schedule([Outcome(delivered=[1])]) == []


def test_there_is_no_limit_on_attempts():
    slept = run_schedule([*[busy()] * 500, Outcome()])
    assert len(slept) == 500
    assert slept[-1] == 15.0


def test_a_backend_that_needs_a_person_is_asked_once_a_minute():
    outcomes = [Outcome(kind=UNAUTHORIZED, problem="key")] * 3
    assert run_schedule([*outcomes, Outcome()]) == [60.0] * 3


def test_when_it_is_time_to_stop_there_is_neither_sleep_nor_attempt():
    stops = iter([False, False, True])
    assert len(run_schedule([busy()] * 3, stop=stop_when(lambda: next(stops)))) == 2
