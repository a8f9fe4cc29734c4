"""The worker's start, the failures that it survives, and its end."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentscope import Tracker, create_tracker
from agentscope.pipeline.delivery import Attempts
from agentscope.pipeline.process import lifecycle, threads
from agentscope.server.receiver import Receiver
from tests.support.patient import be_patient
from tests.support.platform import DeployedPlatform
from tests.support.program import run_program
from tests.support.proxy import FaultProxy
from tests.support.stored import stored_steps
from tests.support.wait import until


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("agentscope-w")]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch.setattr, monkeypatch.setenv)


def wait_for_workers() -> None:
    gc.collect()
    until(lambda: not workers())


@pytest.fixture(autouse=True)
def _no_thread_is_left(_patient: None) -> Iterator[None]:
    wait_for_workers()  # those of another test, which did not
    yield
    wait_for_workers()


def whole(tracker: Tracker) -> Any:
    stats = tracker.stats()
    assert stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.spooled + stats.pending
    return stats


def test_a_tracker_has_no_thread_before_its_first_event_and_one_after_it(receiver: Receiver) -> None:
    tracker = create_tracker("ask_test", receiver.url)
    assert workers() == []
    tracker.start_run("agent")
    tracker.track_step("step")
    until(lambda: len(workers()) == 1)
    assert workers()[0].daemon
    assert tracker.shutdown(60)
    until(lambda: not workers())


def test_a_tracker_that_is_dropped_delivers_and_leaves_no_thread(receiver: Receiver) -> None:
    tracker = create_tracker("ask_test", receiver.url, flush_interval=60)
    tracker.start_run("agent")
    tracker.track_step("step")
    gone = weakref.ref(tracker)
    del tracker
    gc.collect()
    assert gone() is None
    until(lambda: stored_steps(receiver.url))  # a new thread may not have its name yet
    until(lambda: not workers())
    assert stored_steps(receiver.url) == ["step"]


def test_many_trackers_leave_neither_threads_nor_pipelines(receiver: Receiver) -> None:
    before = set(lifecycle._known)
    for i in range(100):
        tracker = create_tracker("ask_test", receiver.url, flush_interval=60)
        tracker.start_run(f"agent {i}")
        if i % 2:
            assert tracker.shutdown(60)
        del tracker
    gc.collect()
    until(lambda: not workers())
    until(lambda: lifecycle._started == {})
    until(lambda: gc.collect() >= 0 and set(lifecycle._known) <= before)


def test_a_tracker_without_references_is_collected() -> None:
    before = set(lifecycle._known)
    create_tracker("ask_test", "http://127.0.0.1:9")
    until(lambda: gc.collect() >= 0 and set(lifecycle._known) <= before)


def dying(method: Callable[..., Any], error: type[BaseException], times: int) -> Callable[..., Any]:
    """Make a method raise in its first few calls."""
    left = [error] * times

    def call(self: Attempts, *args: Any) -> Any:
        if left:
            raise left.pop()
        return method(self, *args)

    return call


@pytest.mark.parametrize("name", ["collect", "load", "attempt"])
@pytest.mark.parametrize("error", [MemoryError, SystemExit, RecursionError])
def test_a_worker_that_dies_is_followed_by_another_with_the_same_batch(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, name: str, error: type[BaseException]
) -> None:
    monkeypatch.setattr(Attempts, name, dying(getattr(Attempts, name), error, 2))
    with create_tracker("ask_test", receiver.url, flush_interval=0.0) as tracker:
        with tracker.track_run("agent"):
            for i in range(10):
                tracker.track_step(f"step {i}")
                until(lambda: not workers() or tracker.stats().pending == 0)
        for _ in range(3):
            tracker.flush()
        assert whole(tracker).delivered == 12
    assert stored_steps(receiver.url) == [f"step {i}" for i in range(10)]


@pytest.mark.parametrize("hook", ["threading.setprofile(fail)", "mock.patch('threading.Thread.start').start()"])
def test_a_worker_whose_thread_dies_before_it_begins_is_replaced(receiver: Receiver, tmp_path: Path, hook: str) -> None:
    source = f"""
        import threading
        from unittest import mock
        from agentscope import create_tracker

        def fail(*_):
            raise ValueError("a profiler with a mistake")

        {hook}
        tracker = create_tracker("ask_test", {receiver.url!r}, spool_dir={str(tmp_path / "spool")!r})
        with tracker.track_run("agent"):
            tracker.track_step("step")
        assert tracker.flush(30)
        stats = tracker.stats()
        assert stats.accepted == stats.delivered == 3
    """
    result = run_program(source)
    assert (result.returncode, result.stderr.count("could not be started by the threading module")) == (0, 1), result
    assert stored_steps(receiver.url) == ["step"]


def test_a_batch_whose_export_always_raises_is_given_up_and_its_followers_are_not(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = create_tracker("ask_test", receiver.url, flush_interval=60)
    exporter = tracker._pipeline._worker.exporter
    export = exporter.export
    monkeypatch.setattr(exporter, "export", lambda batch, timeout: 1 / 0)
    with tracker:
        run_id = tracker.start_run("agent")
        while not whole(tracker).dropped:
            tracker.flush(0.2)  # ends the wait between two attempts
        assert whole(tracker).dropped == {"encode_error": 1}
        tracker.flush()  # the last warning may not have counted it
        monkeypatch.setattr(exporter, "export", export)
        tracker.track_step("after", run_id=run_id)
        assert tracker.flush()
    assert stored_steps(receiver.url) == ["after"]


def test_without_threads_flush_delivers_in_the_calling_thread(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "start_new_thread", refuse)
    with create_tracker("ask_test", receiver.url) as tracker:
        with tracker.track_run("agent"):
            tracker.track_step("step")
        assert whole(tracker).pending == 3
        assert tracker.flush()
        tracker.start_run("left for shutdown")
        assert tracker.shutdown(60)
        assert whole(tracker).delivered == 4
    assert stored_steps(receiver.url) == ["step"]


def test_without_threads_a_hanging_backend_does_not_block_flush_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "start_new_thread", refuse)
    with FaultProxy(mode="hang") as proxy, create_tracker("ask_test", proxy.url, timeout=0.3) as tracker:
        tracker.start_run("agent")
        assert not tracker.flush(0.5)
        assert whole(tracker).pending == 1
        assert not tracker.shutdown(0.2)
        assert whole(tracker).dropped == {"shutdown": 1}


def test_without_threads_the_lanes_of_a_platform_run_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "start_new_thread", refuse)
    with DeployedPlatform() as platform, create_tracker("ask_test", platform.url, timeout=60) as tracker:
        for i in range(5):
            with tracker.track_run(f"agent {i}"):
                tracker.track_step("step")
        assert tracker.flush()
        assert len(platform.runs) == 5
        assert platform.max_parallel == 1


def refuse(*_: Any) -> int:
    raise RuntimeError("can't start new thread")


def test_shutdown_twice_and_flush_afterwards_are_harmless(receiver: Receiver) -> None:
    tracker = create_tracker("ask_test", receiver.url)
    tracker.start_run("agent")
    assert tracker.shutdown(60)
    assert tracker.shutdown(60)
    assert tracker.flush()
    assert tracker.track_step("late") is False
    assert whole(tracker).dropped == {"shutdown": 1}


def test_the_first_flush_waits_only_for_what_came_before_it(receiver: Receiver) -> None:
    with create_tracker("ask_test", receiver.url, flush_interval=60) as tracker:
        run_id = tracker.start_run("agent")
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(0.0001):
                if tracker.stats().pending < 500:  # with a slower receiver each flush takes longer
                    tracker.track_step("more", run_id=run_id)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            assert all(tracker.flush() for _ in range(20))
        finally:
            stop.set()
            thread.join()
        assert tracker.flush()
        whole(tracker)


def test_eight_threads_and_an_event_loop_lose_nothing_on_a_plain_return(receiver: Receiver) -> None:
    source = """
        import asyncio, threading
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        tracker = create_tracker("ask_test", {url!r})
        def work(number):
            with tracker.track_run(f"thread {{number}}"):
                for i in range(1_000):
                    tracker.track_step(f"thread {{number}}.{{i}}", "tool_call", {{"i": i}}, {{"ok": True}})
        async def task(number):
            async with tracker.track_run(f"task {{number}}"):
                for i in range(200):
                    async with tracker.track_step_context(f"task {{number}}.{{i}}"):
                        await asyncio.sleep(0)
        async def loop():
            await asyncio.gather(*(task(n) for n in range(10)))
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads: thread.start()
        asyncio.run(loop())
        for thread in threads: thread.join()
    """
    result = run_program(source.format(url=receiver.url), timeout=100)
    assert (result.returncode, result.stderr) == (0, "")
    expected = [f"thread {n}.{i}" for n in range(8) for i in range(1_000)]
    expected += [f"task {n}.{i}" for n in range(10) for i in range(200)]
    assert sorted(stored_steps(receiver.url)) == sorted(expected)


def test_a_frozen_clock_does_not_stop_the_worker(receiver: Receiver) -> None:
    source = """
        from freezegun import freeze_time
        with freeze_time("2020-02-02 12:00:00"):
            from agentscope import create_tracker
            from tests.support.patient import be_patient
            be_patient()
            tracker = create_tracker("ask_test", {url!r}, flush_interval=0.05)
            with tracker.track_run("agent"):
                tracker.track_step("step")
            assert tracker.flush(40)
            tracker.start_run("later")
            assert tracker.shutdown(40)
    """
    result = run_program(source.format(url=receiver.url), timeout=100)
    assert (result.returncode, result.stderr) == (0, "")
    assert stored_steps(receiver.url) == ["step"]


def test_steps_with_estimated_latencies_keep_their_order(receiver: Receiver) -> None:
    with create_tracker("ask_test", receiver.url) as tracker, tracker.track_run("agent"):
        tracker.track_step("first", latency_ms=150)
        tracker.track_step("second", latency_ms=50_000)
        tracker.track_step("third", latency_ms=500)
        assert tracker.flush()
    assert stored_steps(receiver.url) == ["first", "second", "third"]
