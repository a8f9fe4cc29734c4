"""Threads of ours: known as such, had or not had, and a fork that waits for imports. And the clock that they go by."""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from unittest import mock

import pytest
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from agentscope.pipeline.process import clock, threads
from tests.support.wait import until


def test_code_in_a_thread_of_ours_is_known_as_such_and_other_code_is_not():
    seen = []
    assert threads.start(lambda: seen.append((threads.is_ours(), threading.current_thread())), "agentscope-test")
    until(lambda: seen)
    ours, thread = seen[0]
    assert (ours, thread.name, thread.daemon) == (True, "agentscope-test", True)
    assert not threads.is_ours()
    thread.join(60)
    until(lambda: thread.ident not in threads._ours)


def test_a_thread_is_ours_no_longer_when_its_work_raised():
    def fail():
        assert threads.is_ours()
        raise ValueError("done")

    with pytest.raises(ValueError, match="done"):
        threads.own(fail)()
    assert not threads.is_ours()


def test_where_no_thread_can_be_had_it_says_so_and_does_nothing(monkeypatch):
    def refuse(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "start_new_thread", refuse)
    done = []
    assert threads.start(lambda: done.append(1), "agentscope-test") is False
    assert done == []


def test_where_the_second_thread_cannot_be_had_the_first_does_the_work(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    seen = []
    monkeypatch.setattr(threads, "start_new_thread", lambda work, args: work(*args))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert threads.start(lambda: seen.append(threads.is_ours()), "agentscope-test")
    assert seen == [True]


def test_starting_a_thread_takes_no_lock_of_the_threading_module():
    """A signal handler may have interrupted the code that holds them."""
    done = []
    with threading._active_limbo_lock:
        assert threads.start(lambda: done.append(1), "agentscope-test")
    until(lambda: done)


def test_a_callback_is_known_while_it_runs_also_when_it_raises():
    assert not threads.in_callback()
    with pytest.raises(ValueError, match="hook"), threads.callback():
        assert threads.in_callback()
        raise ValueError("hook")
    assert not threads.in_callback()


def test_what_the_http_library_logs_in_threads_of_ours_does_not_reach_the_users_handlers(caplog):
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger(threads.NOISY[0])
    threads.hush()
    threads.hush()
    assert logger.filters.count(threads._from_elsewhere) == 1
    threads.own(lambda: logger.warning("ours"))()
    logger.warning("theirs")
    assert [record.getMessage() for record in caplog.records] == ["theirs"]


@pytest.fixture
def gate(monkeypatch):
    fresh = threads._Gate()
    monkeypatch.setattr(threads, "_imports", fresh)
    monkeypatch.setattr(threads, "_gates", (fresh,))
    return fresh


@pytest.fixture
def disk_gate(monkeypatch):
    fresh = threads._Gate()
    monkeypatch.setattr(threads, "_disk", fresh)
    monkeypatch.setattr(threads, "_gates", (fresh,))
    return fresh


def test_work_on_the_spool_waits_for_a_fork_and_a_fork_for_it(disk_gate):
    with threads.disk() as free:
        assert free
        assert disk_gate.lock.locked()
        with threads.disk(timeout=0) as again:
            assert not again
    threads.before_fork()
    with threads.disk(timeout=0) as free:
        assert not free
    threads.after_fork_in_parent()
    with threads.disk(timeout=0) as free:
        assert free


def test_a_child_that_was_forked_between_two_works_on_the_spool_may_use_one(disk_gate):
    threads.before_fork()
    threads.after_fork_in_child()
    with threads.disk() as free:
        assert free


def test_a_child_that_was_forked_in_the_middle_of_work_on_the_spool_does_without_for_ever(disk_gate):
    with threads.disk():
        threads.own(threads.before_fork)()  # one of our own threads cannot wait for itself
        threads.after_fork_in_child()
        with threads.disk() as free:
            assert not free
    threads.before_fork()
    threads.after_fork_in_child()
    with threads.disk() as free:
        assert not free


def test_a_fork_waits_for_imports_that_are_under_way(gate):
    asked, forked = threading.Event(), threading.Event()
    lock = gate.lock

    class Watched:
        release = lock.release

        def acquire(self, timeout):
            asked.set()
            return lock.acquire(timeout=12 * timeout)  # this thread may be late with its look at `forked`

    def fork():
        threads.before_fork()
        forked.set()
        threads.after_fork_in_parent()

    forking = threading.Thread(target=fork)
    with threads.warm_up():
        gate.lock = Watched()
        forking.start()
        assert asked.wait(60)
        assert not forked.is_set()
    forking.join(60)
    assert forked.is_set()
    assert not lock.locked()


def test_imports_wait_for_a_fork(gate):
    threads.before_fork()
    assert gate.lock.locked()
    threads.after_fork_in_parent()
    with threads.warm_up():
        assert gate.lock.locked()
    threads.after_fork_in_parent()
    assert not gate.lock.locked()


def test_a_thread_of_ours_that_forks_does_not_wait_for_its_own_imports(gate):
    def fork():
        with threads.warm_up():
            threads.before_fork()
            threads.after_fork_in_parent()
            assert gate.lock.locked()

    threads.own(fork)()


def test_the_child_begins_with_an_open_gate_and_no_threads_of_ours(gate, monkeypatch):
    monkeypatch.setattr(threads, "_ours", {1, threading.get_ident()})
    monkeypatch.setattr(threads, "callbacks", {1})
    gate.lock.acquire()
    gate.held_by_fork = True
    threads.after_fork_in_child()
    assert not gate.lock.locked()
    assert not gate.held_by_fork
    assert not threads.is_ours()
    assert threads.callbacks == set()


def load_clock():
    """A second copy of the clock's module, as it is on this machine at this moment."""
    spec = importlib.util.spec_from_file_location("agentscope.pipeline.process.clock_again", clock.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    return again


@pytest.mark.parametrize("posix", [True, False])
def test_the_clock_goes_on_while_a_test_has_stopped_the_time(monkeypatch, posix):
    if not posix:
        monkeypatch.delattr(time, "clock_gettime")
    real = time.monotonic
    again = load_clock()
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    before = real()
    assert before <= again.monotonic() <= real()
    assert posix == hasattr(time, "clock_gettime")


def test_opentelemetry_does_not_trace_a_hook_and_goes_on_to_trace_the_application():
    with threads.callback():
        inside = is_instrumentation_enabled()
    assert (inside, is_instrumentation_enabled()) == (False, True)


@pytest.fixture
def replaced(monkeypatch, caplog):
    """The log lines on threads that were replaced."""
    monkeypatch.setattr(threads._process, "replaced", False)
    caplog.set_level(logging.WARNING, logger="agentscope")
    return lambda: [record.getMessage() for record in caplog.records]


def raise_always(*_):
    raise ValueError("a profiler with a mistake")


def never(self):
    """A start that starts nothing."""


@pytest.mark.parametrize("hook", ["setprofile", "settrace"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_before_its_work_begins_is_replaced_and_that_is_said(replaced, hook):
    done = []
    before = getattr(threading, hook.replace("set", "get"))()
    getattr(threading, hook)(raise_always)
    try:
        for number in range(3):
            assert threads.start(lambda number=number: done.append((number, threads.is_ours())), "agentscope-test")
            until(lambda number=number: len(done) == number + 1)
    finally:
        getattr(threading, hook)(before)
    assert done == [(0, True), (1, True), (2, True)]
    (line,) = replaced()
    assert line.startswith("the thread agentscope-test could not be started by the threading module")


@pytest.mark.parametrize("patch", ["Thread", "Thread.start", "Thread.run"])
def test_work_is_done_once_where_the_threading_module_is_patched(replaced, monkeypatch, patch):
    monkeypatch.setattr(threads, "LOOK", 0.001)
    done = []
    with mock.patch(f"threading.{patch}", *([never] if "." in patch else [])):
        assert threads.start(lambda: done.append(1), "agentscope-test")
        until(lambda: done)
        if patch != "Thread":  # of which logging makes use itself
            until(replaced)
    assert done == [1]


def test_a_thread_that_cannot_be_started_for_another_reason_is_replaced(replaced):
    done = []
    with mock.patch("threading.Thread.start", raise_always):
        assert threads.start(lambda: done.append(1), "agentscope-test")
        until(lambda: done)
    assert len(replaced()) == 1


def test_a_thread_that_begins_late_is_waited_for(replaced, monkeypatch):
    start, held = threading.Thread.start, []

    def late(self):
        held.append(self)

    monkeypatch.setattr(threading.Thread, "start", late)
    monkeypatch.setattr(threading.Thread, "is_alive", lambda self: True)
    done = []
    assert threads.start(lambda: done.append(1), "agentscope-test")
    until(lambda: held)
    start(held[0])
    until(lambda: done)
    assert (done, replaced()) == ([1], [])
