"""The start of the worker's thread, interrupted or doubled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentscope.pipeline.process import threads
from agentscope.pipeline.worker import Worker
from tests.support.recording import Recording, balanced, recorded


@pytest.fixture
def recording() -> Iterator[Recording]:
    with recorded() as found:
        yield found


def worker_of(recording: Recording) -> Worker:
    worker: Worker = recording.tracker._pipeline._worker
    return worker


def interrupt_before(*_: Any) -> bool:
    raise TimeoutError("the host's")


def interrupt_after(target: Callable[[], object], name: str) -> bool:
    started(target, name)
    raise TimeoutError("the host's")


started = threads.start


@pytest.mark.parametrize("start", [interrupt_before, interrupt_after])
def test_a_start_that_an_exception_of_the_host_interrupts_is_made_up_for(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, start: Callable[..., bool]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threads, "start", start)
        with pytest.raises(TimeoutError):
            worker_of(recording).start()
    with recording.tracker.track_run("agent"):
        recording.tracker.track_step("step")
    assert recording.tracker.flush(30)
    stats = recording.tracker.stats()
    assert (stats.delivered, stats.pending) == (3, 0)
    assert balanced(stats)


def test_a_lock_that_an_interrupted_start_left_is_taken_over(recording: Recording) -> None:
    worker_of(recording)._starting.acquire()
    with recording.tracker.track_run("agent"):
        pass
    assert recording.tracker.shutdown(30)
    assert recording.tracker.stats().delivered == 2


def test_of_two_threads_that_are_started_only_one_delivers(recording: Recording) -> None:
    worker = worker_of(recording)
    assert worker.start()
    worker._main()  # as a second thread would; it waits for the first one, which goes on
    with recording.tracker.track_run("agent"):
        pass
    assert recording.tracker.flush(30)
    assert recording.tracker.stats().delivered == 2
