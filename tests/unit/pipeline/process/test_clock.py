"""Long work in Python rests now and then, so that other threads get the interpreter's lock."""

from __future__ import annotations

from typing import Any

import pytest

from agentscope.pipeline.process import clock as turns
from agentscope.pipeline.process.clock import REST, STRETCH, Turns


class Time:
    """A clock that stands still unless it is told, or somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 50.0
        self.rests: list[float] = []
        monkeypatch.setattr(turns, "monotonic", lambda: self.now)
        monkeypatch.setattr(turns.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def test_short_work_goes_on_without_a_rest(time: Time) -> None:
    pause = Turns()
    pause.begin()
    time.now += STRETCH / 2
    pause()
    assert time.rests == []


def test_after_a_stretch_there_is_one_rest_and_then_another_stretch(time: Time) -> None:
    pause = Turns()
    pause.begin()
    for _ in range(4):
        time.now += STRETCH * 0.6
        pause()
    assert time.rests == [REST, REST]


def test_the_time_before_the_work_does_not_count(time: Time) -> None:
    pause = Turns()
    time.now += 100.0
    pause.begin()
    pause()
    assert time.rests == []


def test_nobody_gets_a_turn_when_the_process_is_at_its_end(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns.threads, "ending", lambda: True)
    pause = Turns()
    pause.begin()
    time.now += 2 * STRETCH
    pause()
    assert time.rests == []


SECOND = 1_000_000_000


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A wall clock in nanoseconds and a monotonic clock in seconds, which only tests move."""

    class Clocks:
        wall, steady = 1_800_000_000 * SECOND, 50.0

        def go(self, seconds: float, set_by: float = 0) -> None:
            self.wall += int((seconds + set_by) * SECOND)
            self.steady += seconds

    made = Clocks()
    monkeypatch.setattr(turns.time, "time_ns", lambda: made.wall)
    monkeypatch.setattr(turns, "monotonic", lambda: made.steady)
    return made


@pytest.mark.parametrize("back", [2, 3600, 1_700_000_000])
def test_the_time_of_a_session_goes_on_when_the_clock_is_set_back(clocks: Any, back: int) -> None:
    session = turns.SessionTime()
    begun = session.now()
    clocks.go(1, set_by=-back)
    assert session.now() - begun == SECOND
    clocks.go(5)
    assert session.now() - begun == 6 * SECOND
    assert session.offset == back * SECOND


def test_a_clock_that_is_set_back_after_events_that_read_only_the_wall_clock_is_corrected(clocks: Any) -> None:
    session = turns.SessionTime()
    clocks.go(100)
    assert clocks.wall >= session.least
    session.least = latest = clocks.wall  # as an event does
    clocks.go(1, set_by=-3600)
    assert clocks.wall < session.least
    assert session.now() == latest + SECOND
    clocks.go(1)
    assert clocks.wall < session.least
    assert session.now() == latest + 2 * SECOND


def test_the_time_of_a_session_does_not_go_back_when_a_clock_that_was_set_forward_is_set_right(clocks: Any) -> None:
    session = turns.SessionTime()
    session.now()
    clocks.go(1, set_by=3600)
    session.least = latest = clocks.wall
    clocks.go(1, set_by=-3600)
    assert session.now() == latest
    clocks.go(1)
    assert session.now() == latest + SECOND


def test_the_time_of_a_session_is_that_of_the_clock_again_when_it_has_caught_up(clocks: Any) -> None:
    session = turns.SessionTime()
    session.now()
    clocks.go(1, set_by=-10)
    session.now()
    clocks.go(1, set_by=60)
    assert (session.now(), session.offset) == (clocks.wall, 0)


def test_times_read_after_the_clock_was_set_back_are_corrected_and_those_before_are_not(clocks: Any) -> None:
    session = turns.SessionTime()
    before = session.now()
    clocks.go(1, set_by=-10)
    session.now()
    after = {"started_at": clocks.wall - 5, "ended_at": clocks.wall, "name": "after"}
    session.correct(after)
    assert after == {
        "started_at": before + SECOND - 5,
        "ended_at": before + SECOND,
        "name": "after",
    }
    across = {"started_at": before, "ended_at": before + SECOND}
    session.correct(across)
    assert across == {"started_at": before, "ended_at": before + SECOND}
    unfinished = {"started_at": clocks.wall}
    session.correct(unfinished)
    assert unfinished == {"started_at": before + SECOND}
