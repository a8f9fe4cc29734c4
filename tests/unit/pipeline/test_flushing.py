"""Flushes that go on while threads and tasks do other things."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable

import pytest

from agentscope.pipeline.flushing import Flushing, Part
from agentscope.pipeline.pipeline import Pipeline
from agentscope.pipeline.process.awaiting import Ongoing, SharedCall, finished
from agentscope.types import FlushResult
from tests.support.recording import recorded


class Interrupted:
    """A pipeline in which the host's exception comes."""

    def part(self, until: float, released: Callable[[], None]) -> Part:
        raise SystemExit

    def say_once(self, kind: str, message: str) -> None:
        """Nothing is said."""


def test_a_flush_that_the_host_interrupts_at_its_beginning_is_forgotten() -> None:
    with recorded(flush_interval=60) as recording:
        pipeline = recording.tracker._pipeline
        assert isinstance(pipeline, Pipeline)
        recording.tracker.track_step("step", run_id="run")
        with pytest.raises(SystemExit):
            Flushing([pipeline, Interrupted()], 60.0)
        assert not pipeline._worker._flushes


def test_a_flush_without_events_is_over_at_once() -> None:
    with recorded() as recording:
        flushing = recording.tracker._pipeline.flushing(60.0)
        assert flushing.done()
        assert flushing.result(0.0) == FlushResult()


def test_work_that_goes_on_has_no_result_yet() -> None:
    ongoing: Ongoing[int] = Ongoing()
    assert not ongoing.done()
    with pytest.raises(concurrent.futures.TimeoutError):
        ongoing.result(0.0)
    ongoing.settle(lambda: 1)
    assert (ongoing.done(), ongoing.result()) == (True, 1)


def test_an_exception_of_the_work_is_raised_where_it_is_done_and_where_its_result_is_asked_for() -> None:
    def fail() -> int:
        raise ValueError("no")

    ongoing: Ongoing[int] = Ongoing()
    with pytest.raises(ValueError, match="no"):
        ongoing.settle(fail)
    with pytest.raises(ValueError, match="no"):
        ongoing.result()


def test_calls_share_a_thread_while_it_goes_on_and_not_in_a_forked_child(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Ongoing[int]] = [Ongoing(), Ongoing(), finished(3), finished(4)]
    monkeypatch.setattr("agentscope.pipeline.process.awaiting.in_thread", lambda call, name: begun.pop(0))
    shared: SharedCall[int] = SharedCall()
    first = shared.begin(int, "test")
    assert shared.begin(int, "test") is first
    monkeypatch.setattr("os.getpid", lambda: -1)
    second = shared.begin(int, "test")
    assert second is not first
    second.settle(lambda: 2)
    assert shared.begin(int, "test").result() == 3
    assert shared.begin(int, "test").result() == 4
