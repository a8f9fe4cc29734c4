"""Processes that fork, with a spool: no process touches the file of another, and events of dead processes are sent once."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentscope.server.receiver import Receiver
from tests.support.program import run_program, start_program
from tests.support.proxy import FaultProxy
from tests.support.spool_recovery import send_what_is_left
from tests.support.stored import stored_steps

QUIET = {"PYTHONWARNINGS": "ignore::DeprecationWarning", "COVERAGE_PROCESS_CONFIG": ""}
"""Since 3.12 Python warns of every fork beside a thread. Coverage's tracer takes a lock for every new file, which may stay locked
in the child for ever."""

UNDER_LOAD = """
    import json, os, signal, sys, threading, time
    from agentscope import create_tracker
    from tests.support.patient import wait_for_disk
    wait_for_disk()
    tracker = create_tracker("ask_test", {url!r}, flush_interval=0.01, spool_dir={spool!r})
    run_id = tracker.start_run("agent")
    stop = threading.Event()
    counts = [0] * 3
    def work(number):
        while not stop.is_set():
            if counts[number] < 3_000:   # a slow machine need not store any more, and a receiver shows 10 000 steps of a run
                counts[number] += tracker.track_step(f"thread {{number}} {{counts[number]}}", run_id=run_id)
            stop.wait(0.002)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads: thread.start()
    def child(number):
        signal.alarm(100)   # one that hangs ends by that
        tracker.track_step(f"child {{number}}", run_id=run_id)
        if number % 4 == 0:
            sys.exit()
        if number % 4 == 1:
            assert tracker.flush(60)
        while tracker.stats().pending:
            time.sleep(0.005)   # the pace of an agent
        if number % 4 == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    statuses = []
    alive = []
    for number in range({forks}):
        pid = os.fork()
        if not pid:
            child(number)
        alive.append(pid)
        if len(alive) == 5:
            statuses += [os.waitpid(pid, 0)[1] for pid in alive]
            alive = []
    stop.set()
    for thread in threads: thread.join()
    assert tracker.flush(60)
    stats = tracker.stats()
    assert stats.accepted == stats.delivered + stats.spooled + stats.pending + sum(stats.dropped.values())
    print(json.dumps([statuses, counts, dict(stats.dropped)]))
"""

FORKS = 100


def test_forks_under_load_lose_and_double_nothing_and_hang_nobody(receiver: Receiver, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    source = UNDER_LOAD.format(url=receiver.url, spool=str(spool), forks=FORKS)
    result = run_program(source, env=QUIET, timeout=300)
    statuses, counts, dropped = result.last_line_json
    assert statuses == [9 if number % 4 == 2 else 0 for number in range(FORKS)]
    assert dropped == {}
    send_what_is_left(receiver.url, spool)
    children = [f"child {number}" for number in range(FORKS)]
    tracked = [f"thread {number} {i}" for number in range(3) for i in range(counts[number])]
    assert sorted(stored_steps(receiver.url)) == sorted(children + tracked)


def test_a_child_sends_what_its_parent_left_although_it_has_inherited_the_open_file(
    receiver: Receiver, tmp_path: Path
) -> None:
    # The parent does not try to send anything by itself.
    source = """
        import os, time
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        tracker = create_tracker("ask_test", {url!r}, flush_interval=600, spool_dir={spool!r})
        run_id = tracker.start_run("agent")
        for number in range(10):
            tracker.track_step(f"parent {{number}}", run_id=run_id)
        while tracker.stats().spooled < 11:
            time.sleep(0.01)   # between two looks
        if os.fork():
            time.sleep(300)   # to be killed
        parent = os.getppid()
        print(parent, flush=True)   # from now on it may be killed
        while os.getppid() == parent:
            time.sleep(0.01)   # between two looks
        tracker.track_step("child", run_id=run_id)
        until = time.monotonic() + 60
        while tracker.stats().recovered < 11 and time.monotonic() < until:
            time.sleep(0.02)   # between two looks
        assert tracker.flush(60)
        print(tracker.stats().recovered)
    """
    spool = tmp_path / "spool"
    process = start_program(source.format(url=receiver.url, spool=str(spool)), env=QUIET)
    assert process.stdout is not None  # which ends with the child
    assert process.stdout.readline() == f"{process.pid}\n"
    assert stored_steps(receiver.url) == []
    process.kill()
    stdout, stderr = process.communicate(timeout=180)
    assert (stdout, stderr) == ("11\n", "")
    assert send_what_is_left(receiver.url, spool) == 0
    assert sorted(stored_steps(receiver.url)) == sorted(["child", *(f"parent {number}" for number in range(10))])


POOLS = {
    "closed": """
        with context.Pool(2) as pool:
            pool.map(child, range(10), chunksize=1)
            pool.close()
            pool.join()
    """,
    "terminated": """
        with context.Pool(2) as pool:   # leaving the block sends SIGTERM
            pool.map(stored_child, range(10), chunksize=1)
    """,
    "replaced": """
        with context.Pool(2, maxtasksperchild=2) as pool:
            pool.map(child, range(10), chunksize=1)
            pool.close()
            pool.join()
    """,
    "executor": """
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            list(executor.map(child, range(10)))
    """,
}


@pytest.mark.parametrize(
    ("pool", "method"),
    [(pool, "fork") for pool in POOLS] + [("closed", "spawn"), ("closed", "forkserver"), ("terminated", "spawn")],
)
def test_what_the_children_of_a_pool_could_not_deliver_is_sent_by_the_next_process(
    receiver: Receiver, tmp_path: Path, pool: str, method: str
) -> None:
    spool = tmp_path / "spool"
    with FaultProxy(receiver.url) as proxy:
        proxy.set("refuse")
        source = f"""
        import multiprocessing, time
        from agentscope import create_tracker
        from tests.support.patient import wait_for_disk
        wait_for_disk()
        tracker = create_tracker("ask_test", {proxy.url!r}, flush_interval=600, spool_dir={str(spool)!r})
        def child(number):
            with tracker.track_run("agent"):
                tracker.track_step(f"child {{number}}")
        def stored_child(number):
            child(number)
            while tracker.stats().pending:
                time.sleep(0.01)   # between two looks
        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
    """
        result = run_program(source + POOLS[pool].replace("\n", "\n    "), env=QUIET, timeout=240)
        assert result.returncode == 0, result.stderr
        assert stored_steps(receiver.url) == []
        proxy.set("pass")
        assert send_what_is_left(proxy.url, spool) == 30
    assert sorted(stored_steps(receiver.url)) == [f"child {i}" for i in range(10)]
