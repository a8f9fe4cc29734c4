"""Processes that fork or spawn: each event arrives once, from the process that tracked it."""

from __future__ import annotations

import pytest

from agentscope.server.receiver import Receiver
from tests.support.platform import DeployedPlatform
from tests.support.program import run_program
from tests.support.proxy import FaultProxy
from tests.support.stored import stored_steps

FORKS = """
    import json, os, sys, threading
    from agentscope import create_tracker
    from tests.support.patient import be_patient
    be_patient()
    tracker = create_tracker("ask_test", {url!r}, flush_interval={interval}, timeout={timeout})
    run_id = tracker.start_run("agent")
    children = []
    statuses = []
    for i in range({forks}):
        tracker.track_step(f"parent {{i}}")
        pid = os.fork()
        if pid == 0:
            tracker.track_step(f"child {{i}}")
            {ending}
        children.append(pid)
        if len(children) - len(statuses) == 5:   # more at once only show how slow the machine is
            statuses += [os.waitpid(pid, 0)[1] for pid in children[-5:]]
    statuses += [os.waitpid(pid, 0)[1] for pid in children[len(statuses):]]
    tracker.flush(60)
    stats = tracker.stats()
    print(json.dumps([statuses, stats.accepted, stats.delivered, stats.pending, dict(stats.dropped)]))
"""


UNMEASURED = {"COVERAGE_PROCESS_CONFIG": ""}
"""Coverage's tracer takes a lock for every new file, which stays locked in a child that is forked meanwhile. A child that hangs
for that reason is no fault of this package."""


@pytest.mark.parametrize("ending", ["sys.exit()", "assert tracker.flush(); os._exit(0)"])
def test_forked_children_deliver_what_they_track_and_nothing_of_the_parent(receiver: Receiver, ending: str) -> None:
    result = run_program(
        FORKS.format(url=receiver.url, forks=30, interval=0.01, timeout=10.0, ending=ending),
        env=UNMEASURED,
        timeout=180,
    )
    statuses, accepted, delivered, pending, dropped = result.last_line_json
    assert statuses == [0] * 30
    assert (accepted, delivered, pending, dropped) == (31, 31, 0, {})
    expected = sorted([f"parent {i}" for i in range(30)] + [f"child {i}" for i in range(30)])
    assert sorted(stored_steps(receiver.url)) == expected


def test_a_fork_while_the_worker_waits_for_an_answer_loses_and_doubles_nothing(receiver: Receiver) -> None:
    with FaultProxy(receiver.url) as proxy:
        proxy.plan([("hang", {})])  # the first request is never answered; both processes deliver over other connections
        source = FORKS.format(url=proxy.url, forks=3, interval=0.0, timeout=1.0, ending="sys.exit()")
        result = run_program(source, env=UNMEASURED, timeout=180)
    assert result.last_line_json[1:] == [4, 4, 0, {}]
    assert sorted(stored_steps(receiver.url)) == sorted([f"{who} {i}" for who in ("parent", "child") for i in range(3)])


def test_a_child_of_a_child_delivers_too(receiver: Receiver) -> None:
    source = """
        import os, sys
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        tracker = create_tracker("ask_test", {url!r})
        with tracker.track_run("agent"):
            for generation in range(3):
                tracker.track_step(f"generation {{generation}}")
                pid = os.fork()
                if pid:
                    os.waitpid(pid, 0)
                    break
    """
    # Since 3.12 Python warns of every fork beside a thread.
    quiet = {**UNMEASURED, "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    result = run_program(source.format(url=receiver.url), env=quiet, timeout=180)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(stored_steps(receiver.url)) == [f"generation {i}" for i in range(3)]


def test_a_fork_while_threads_track_loses_nothing(receiver: Receiver) -> None:
    source = """
        import json, os, sys, threading
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        tracker = create_tracker("ask_test", {url!r}, flush_interval=0.01)
        run_id = tracker.start_run("agent")
        stop = threading.Event()
        counts = [0] * 3
        def work(number):
            while not stop.is_set():
                if counts[number] < 3_000:   # a slow machine need not store any more, and a receiver shows 10 000 steps of a run
                    counts[number] += tracker.track_step("thread", run_id=run_id)
                stop.wait(0.0005)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads: thread.start()
        for i in range(20):
            pid = os.fork()
            if pid == 0:
                tracker.track_step("child", run_id=run_id)
                assert tracker.flush(60)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for thread in threads: thread.join()
        assert tracker.flush(60)
        print(json.dumps(sum(counts)))
    """
    result = run_program(source.format(url=receiver.url), env=UNMEASURED, timeout=240)
    names = stored_steps(receiver.url)
    assert names.count("child") == 20
    assert names.count("thread") == result.last_line_json


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_deliver_before_they_end(receiver: Receiver, method: str) -> None:
    source = """
        import multiprocessing
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        tracker = create_tracker("ask_test", {url!r}, flush_interval=600)
        def child(run_id, number):
            for i in range(10):
                tracker.track_step(f"child {{number}}.{{i}}", run_id=run_id)
        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            with tracker.track_run("agent") as run_id:
                children = [context.Process(target=child, args=(str(run_id), n)) for n in range(3)]
                for process in children: process.start()
                for process in children: process.join(90)
                assert [process.exitcode for process in children] == [0, 0, 0]
    """
    result = run_program(source.format(url=receiver.url, method=method), env=UNMEASURED, timeout=180)
    assert result.returncode == 0, result.stderr
    assert sorted(stored_steps(receiver.url)) == sorted(f"child {n}.{i}" for n in range(3) for i in range(10))


def test_the_children_of_a_platform_know_the_runs_of_their_parent() -> None:
    with DeployedPlatform() as platform:
        result = run_program(
            FORKS.format(url=platform.url, forks=3, interval=0.0, timeout=60.0, ending="sys.exit()").replace(
                "children = []", "children = []; assert tracker.flush()"
            ),
            env=UNMEASURED,
            timeout=180,
        )
        assert result.last_line_json[1:] == [4, 4, 0, {}]
        assert {path for _, path, _ in platform.refusals} == {"/api/ingest/batch"}
        names = sorted(step["name"] for step in platform.only_run().steps)
    assert names == sorted([f"{who} {i}" for who in ("parent", "child") for i in range(3)])


def test_a_child_that_is_forked_while_a_thread_takes_a_connection_ends_all_the_same(receiver: Receiver) -> None:
    source = """
        import gc, os, signal, sys, urllib3
        from agentscope import create_tracker
        tracker = create_tracker("ask_test", {url!r})
        tracker.start_run("agent")
        assert tracker.flush()
        kept = [pool.pool for pool in gc.get_objects() if isinstance(pool, urllib3.HTTPConnectionPool)]
        assert kept
        for pool in kept:   # as far as the library's own queue has one
            if hasattr(pool, "mutex"):
                pool.mutex.acquire()
        pid = os.fork()
        if not pid:
            signal.alarm(60)   # a bound, should it hang
            sys.exit()
        print(os.waitpid(pid, 0)[1])
        os._exit(0)
    """
    assert run_program(source.format(url=receiver.url), env=UNMEASURED, timeout=120).last_line_json == 0


def test_a_child_that_is_interrupted_while_it_is_told_of_the_fork_delivers_what_it_tracks(receiver: Receiver) -> None:
    # Python prints an exception from a fork hook, and goes on.
    source = """
        import os, sys
        from agentscope import create_tracker
        from agentscope.pipeline.spool import directory as spooldir
        from tests.support.patient import be_patient
        be_patient()
        tracker = create_tracker("ask_test", {url!r}, flush_interval=0.01)
        run_id = tracker.start_run("agent")
        assert tracker.flush(60)
        interrupts = [KeyboardInterrupt]
        def told():
            if interrupts: raise interrupts.pop()
        spooldir.after_fork_in_child = told
        if not os.fork():
            tracker.track_step("child", run_id=run_id)
            assert tracker.flush(60)
            sys.exit()
        sys.exit(os.wait()[1])
    """
    result = run_program(source.format(url=receiver.url), env=UNMEASURED, timeout=180)
    assert result.returncode == 0
    assert result.stderr.count("KeyboardInterrupt") == 1
    assert stored_steps(receiver.url) == ["child"]


UNTOLD = """
    import ctypes, json, os
    from agentscope import create_tracker

    tracker = create_tracker("ask_test", {url!r}, flush_interval=0.05)
    block = tracker.track_step_context("block", run_id=tracker.start_run("agent")) if {first} else None
    if block:
        block.__enter__()
    assert tracker.flush(60)  # the worker is past its imports
    read, write = os.pipe()
    pid = ctypes.CDLL(None).fork()
    with tracker.track_run("agent"), tracker.track_step_context("child" if pid == 0 else "parent") as step:
        pass
    if block:
        block.__exit__(None, None, None)
    if pid == 0:
        ended = bool(tracker.flush(30))
        os.write(write, json.dumps([ended, step.id, tracker._pipeline._worker.session.id]).encode())
        os._exit(0)
    assert tracker.flush(60)
    os.waitpid(pid, 0)
    print(json.dumps([json.loads(os.read(read, 10_000)), step.id, tracker._pipeline._worker.session.id]))
"""


@pytest.mark.parametrize("first", [False, True])
def test_a_child_that_c_code_forks_has_a_session_and_ids_of_its_own(receiver: Receiver, first: bool) -> None:
    result = run_program(UNTOLD.format(url=receiver.url, first=first), env=UNMEASURED, timeout=60)
    (ended, child_step, child_session), step, session = result.last_line_json
    assert ended
    assert child_step != step
    assert child_session != session
    assert set(stored_steps(receiver.url)) == {"child", "parent", *(["block"] if first else [])}


RESTORED = """
    import json, sys, types
    sys.modules["snapshot_restore_py"] = module = types.ModuleType("snapshot_restore_py")
    hooks = []
    module.register_after_restore = hooks.append
    from agentscope import create_tracker

    tracker = create_tracker("ask_test", {url!r}, flush_interval=60)
    sessions, steps = [], []
    for number in range(3):
        with tracker.track_run("agent"), tracker.track_step_context(f"step {{number}}") as step:
            pass
        sessions.append(tracker._pipeline._worker.session.id)
        steps.append(step.id[:24])
        if number < 2:
            hooks[0]()
    assert tracker.flush(60)
    stats = tracker.stats()
    assert stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.spooled + stats.pending
    print(json.dumps([len(hooks), len(set(sessions)), len(set(steps))]))
"""


def test_a_clone_of_a_memory_image_begins_a_session_of_its_own_and_the_image_loses_nothing(receiver: Receiver) -> None:
    env = {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
    result = run_program(RESTORED.format(url=receiver.url), env=env, timeout=100)
    assert result.last_line_json == [1, 3, 3]
    assert sorted(stored_steps(receiver.url)) == ["step 0", "step 1", "step 2"]
