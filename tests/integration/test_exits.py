"""Every way in which a program ends, except for signals, and without a spool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentscope.server.receiver import Receiver
from tests.support.ctrl_c import CTRL_C_TWICE
from tests.support.program import ROOT, Result, run_program
from tests.support.proxy import FaultProxy
from tests.support.stored import stored_steps
from tests.support.wait import until


@pytest.fixture(autouse=True)
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs here run without coverage, which handles SIGTERM itself, and warns of processes that end early."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


# Events wait for ten minutes here, and an exit for one. Events sent before that are sent by the exit.
PROGRAM = """
    import os, signal, sys, threading, time
    from agentscope import create_tracker
    from tests.support.patient import be_patient
    be_patient()
    tracker = create_tracker("ask_test", {url!r}, flush_interval=600)
    run_id = tracker.start_run("agent")
    for i in range({steps}):
        tracker.track_step(f"step {{i}}", run_id=run_id)
    {ending}
"""

QUIET = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}
"""Since 3.12 Python warns of every fork beside a thread."""


def run(url: str, ending: str, steps: int = 1) -> Result:
    source = PROGRAM.format(url=url, steps=steps, ending=ending)
    return run_program(source, env=QUIET, timeout=90)


# ---- exits from running code -----------------------------------------------------------------------------------------


def test_ctrl_c_delivers_and_shows_only_the_programs_own_traceback(receiver: Receiver) -> None:
    # An import during the exit loses the exit status, so the worker has imported everything in an earlier delivery.
    ending = """
    assert tracker.flush()
    tracker.track_step("step 1", run_id=run_id)
    signal.raise_signal(signal.SIGINT)
    time.sleep(60)   # the signal interrupts it
    """
    result = run(receiver.url, ending)
    assert result.returncode == -signal.SIGINT
    assert result.stderr.count("Traceback") == 1
    assert result.stderr.endswith("KeyboardInterrupt\n")
    assert stored_steps(receiver.url) == ["step 0", "step 1"]


def test_a_second_ctrl_c_ends_at_once_without_a_traceback_of_ours() -> None:
    ending = f"{CTRL_C_TWICE}time.sleep(60)"  # the signal interrupts it
    with FaultProxy(mode="hang") as proxy:
        result = run(proxy.url, ending)
    assert result.seconds < 45  # less than the limit without an acknowledgement, which is a minute here
    assert result.stderr.count("Traceback") == 1
    assert "2 events were left undelivered at the end and are lost" in result.stderr


def test_a_ctrl_c_at_the_very_beginning_of_the_end_shows_no_traceback_of_ours() -> None:
    ending = """
    from agentscope.pipeline.process import lifecycle
    lifecycle.threads.end = lambda: signal.raise_signal(signal.SIGINT)
    """
    with FaultProxy(mode="hang") as proxy:
        result = run(proxy.url, ending)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False)
    assert result.seconds < 45  # less than the limit without an acknowledgement, which is a minute here


@pytest.mark.parametrize("ending", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["os._exit", "SIGKILL"])
def test_an_end_without_exit_handlers_loses_what_is_in_memory(receiver: Receiver, ending: str) -> None:
    result = run(receiver.url, ending)
    assert (result.returncode, result.stderr) == (3 if "_exit" in ending else -signal.SIGKILL, "")
    assert stored_steps(receiver.url) == []


def test_what_a_thread_tracks_that_outlives_the_main_one_is_delivered(receiver: Receiver) -> None:
    ending = """
    def work():
        threading.main_thread().join()
        for i in range(100):
            assert tracker.track_step("late %d" % i, run_id=run_id)
            time.sleep(0.002)   # it outlasts more than one batch
    threading.Thread(target=work).start()
    """
    result = run(receiver.url, ending)
    assert (result.returncode, result.stderr) == (0, "")
    assert stored_steps(receiver.url) == ["step 0", *(f"late {i}" for i in range(100))]


def test_what_is_tracked_by_tasks_is_delivered_after_their_loop_is_closed(receiver: Receiver) -> None:
    ending = """
    import asyncio
    async def task(number):
        async with tracker.track_step_context(f"task {number}", run_id=run_id):
            await asyncio.sleep(0)   # the others get their turn
    async def main():
        await asyncio.gather(*(task(i) for i in range(3)))
        asyncio.get_running_loop().create_task(asyncio.sleep(60))   # cancelled by the end of the loop
    asyncio.run(main())
    """
    result = run(receiver.url, ending)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(stored_steps(receiver.url)) == ["step 0", "task 0", "task 1", "task 2"]


def test_what_a_library_tracks_at_its_own_exit_is_delivered_if_it_registered_later(receiver: Receiver) -> None:
    ending = """
    import atexit
    atexit.register(tracker.track_step, "by the library", run_id=run_id)
    """
    result = run(receiver.url, ending)
    assert (result.returncode, result.stderr) == (0, "")
    assert stored_steps(receiver.url) == ["step 0", "by the library"]


def test_a_library_that_registered_earlier_may_exit_again_and_raise(receiver: Receiver) -> None:
    source = """
        import atexit, sys
        atexit.register(sys.exit, 5)
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        tracker = create_tracker("ask_test", {url!r}, flush_interval=600)
        tracker.track_step("step", run_id=tracker.start_run("agent"))
        atexit.register(lambda: 1 / 0)
    """
    result = run_program(source.format(url=receiver.url), timeout=90)
    assert "ZeroDivisionError" in result.stderr
    assert "agentscope" not in result.stderr
    assert stored_steps(receiver.url) == ["step"]


def test_an_import_starts_no_thread_and_threads_that_track_during_one_are_delivered(receiver: Receiver) -> None:
    source = """
        import sys, threading
        import agentscope
        assert threading.active_count() == 1
        from tests.support.patient import be_patient
        be_patient()
        import types
        # The module below is half imported as long as its threads run, and its lock is held.
        code = '''
        import threading
        tracker = agentscope.create_tracker("ask_test", {url!r}, flush_interval=600)
        run_id = tracker.start_run("agent")
        track = lambda number: tracker.track_step(f"thread {{number}}", run_id=run_id)
        threads = [threading.Thread(target=track, args=(number,)) for number in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert tracker.flush()
        tracker.track_step("after", run_id=run_id)
        '''
        import importlib.abc, importlib.util, textwrap
        class Loader(importlib.abc.Loader):
            def exec_module(self, module):
                exec(textwrap.dedent(code), {{"agentscope": agentscope, "__name__": "busy"}})
        spec = importlib.util.spec_from_loader("busy", Loader())
        sys.meta_path.insert(0, types.SimpleNamespace(find_spec=lambda name, *_: spec if name == "busy" else None))
        import busy
    """
    result = run_program(source.format(url=receiver.url), timeout=90)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(stored_steps(receiver.url)) == ["after", *(f"thread {i}" for i in range(3))]


# ---- other ways to start a program -----------------------------------------------------------------------------------

PLAIN = """
from agentscope import create_tracker
from tests.support.patient import be_patient
be_patient()
tracker = create_tracker("ask_test", "{url}", flush_interval=600)
tracker.track_step("step", run_id=tracker.start_run("agent"))
"""


@pytest.mark.parametrize("way", ["-c", "-m", "-", "-i", "a package"])
def test_it_does_not_matter_how_the_interpreter_was_started(receiver: Receiver, tmp_path: Path, way: str) -> None:
    source = PLAIN.format(url=receiver.url)
    (tmp_path / "plain.py").write_text(source)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(source)
    arguments = {"-c": ["-c", source], "-m": ["-m", "plain"], "-": ["-"], "-i": ["-i", "-q"], "a package": ["package"]}
    done = subprocess.run(
        [sys.executable, *arguments[way]],
        input=source if way in ("-", "-i") else "",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert "Traceback" not in done.stderr
    assert stored_steps(receiver.url) == ["step"]


# ---- children ------------------------------------------------------------------------------------------------------

POOLS = {
    "a pool that is closed": """
        with context.Pool(2) as pool:
            pool.map(child, range(10), chunksize=1)
            pool.close()
            pool.join()
    """,
    "a pool whose children are replaced": """
        with context.Pool(2, maxtasksperchild=2) as pool:
            pool.map(child, range(10), chunksize=1)
            pool.close()
            pool.join()
    """,
    "an executor": """
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            list(executor.map(child, range(10)))
    """,
}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("pool", POOLS)
def test_the_children_of_a_pool_deliver_what_they_track(receiver: Receiver, pool: str, method: str) -> None:
    source = f"""
        import multiprocessing
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        tracker = create_tracker("ask_test", {receiver.url!r}, flush_interval=600)
        def child(number):
            with tracker.track_run("agent"):
                tracker.track_step(f"child {{number}}")
        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
    """
    result = run_program(source + POOLS[pool].replace("\n", "\n    "), env=QUIET, timeout=90)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(stored_steps(receiver.url)) == [f"child {i}" for i in range(10)]


def test_the_children_of_a_pool_that_is_terminated_need_the_option_for_signals(receiver: Receiver) -> None:
    source = """
        import multiprocessing
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        tracker = create_tracker("ask_test", {url!r}, flush_interval=600, flush_on_signal=True)
        def child(number):
            with tracker.track_run("agent"):
                tracker.track_step(f"child {{number}}")
        if __name__ == "__main__":
            with multiprocessing.get_context("fork").Pool(2) as pool:   # leaving the block sends SIGTERM
                pool.map(child, range(10))
    """
    result = run_program(source.format(url=receiver.url), env=QUIET, timeout=90)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(stored_steps(receiver.url)) == [f"child {i}" for i in range(10)]


@pytest.mark.parametrize(
    "ending",
    ["", "time.sleep(0.5); "],  # until its parents have ended
    ids=["at once", "after its parents have gone"],
)
def test_a_daemon_delivers_although_it_was_forked_twice(receiver: Receiver, ending: str) -> None:
    source = """
        import os, sys, time
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        tracker = create_tracker("ask_test", {url!r}, flush_interval=600)
        run_id = tracker.start_run("agent")
        tracker.track_step("before", run_id=run_id)
        if os.fork():
            sys.exit()
        os.setsid()
        if os.fork():
            os._exit(0)
        {ending}tracker.track_step("daemon", run_id=run_id)
    """
    result = run_program(source.format(url=receiver.url, ending=ending), env=QUIET, timeout=90)
    assert (result.returncode, result.stderr) == (0, "")
    until(lambda: sorted(stored_steps(receiver.url)) == ["before", "daemon"])
