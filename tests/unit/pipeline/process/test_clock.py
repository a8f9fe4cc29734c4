"""Long work in Python rests now and then, so that other threads get the interpreter's lock."""

from __future__ import annotations

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
