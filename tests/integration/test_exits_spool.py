"""Every way in which a program ends, with a spool: the next process sends the undelivered events once."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from agentscope import create_tracker
from agentscope.server.receiver import Receiver
from tests.support.ctrl_c import CTRL_C_TWICE
from tests.support.patient import wait_for_disk
from tests.support.program import Result, run_program, start_program
from tests.support.proxy import FaultProxy
from tests.support.spool_recovery import events_in_file, send_what_is_left
from tests.support.stored import stored_steps
from tests.support.wait import until


@pytest.fixture(autouse=True)
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs here run without coverage, which handles SIGTERM itself, and warns of processes that end early."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


PROGRAM = """
    import atexit, os, signal, sys, threading, time
    atexit.register(lambda: {at_last})   # registered first: runs last
    from agentscope import create_tracker
    from agentscope.pipeline import worker
    from tests.support.patient import be_patient, wait_for_disk
    {limits}
    limits = dict(timeout=60, shutdown_timeout=60, flush_interval=600)
    tracker = create_tracker("ask_test", {url!r}, spool_dir={spool!r}, flush_on_signal={opted}, **limits)
    run_id = tracker.start_run("agent")
    for i in range({steps}):
        tracker.track_step(f"step {{i}}", run_id=run_id)
    {ending}
"""

QUIET = {"PYTHONWARNINGS": "ignore::DeprecationWarning", "COVERAGE_PROCESS_CONFIG": ""}
"""Since 3.12 Python warns of every fork beside a thread. Coverage's tracer takes a lock for every new file, which may stay locked
in the child for ever."""


def program(
    url: str, ending: str, spool: Path, steps: int, opted: bool = False, limits: str = "", at_last: str = "None"
) -> str:
    return PROGRAM.format(
        url=url,
        steps=steps,
        ending=ending,
        spool=str(spool),
        opted=opted,
        limits=limits or "be_patient()",
        at_last=at_last,
    )


def run(url: str, ending: str, spool: Path, steps: int = 1, **more: Any) -> Result:
    return run_program(program(url, ending, spool, steps, **more), env=QUIET, timeout=120)


STORED = "while tracker.stats().spooled < 11: time.sleep(0.01)"  # between two looks
"""Written within a quarter of a second; what is tested is what happens after that."""

IMPATIENT = "wait_for_disk(); worker.PATIENCE = 60.0"
"""The limits of an exit: long for the write to disk, and short, as usual with a spool, for the backend."""

SUDDEN = {
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "SIGHUP": ("os.kill(os.getpid(), signal.SIGHUP)", -signal.SIGHUP),
    "os._exit": ("os._exit(3)", 3),
    "abort": ("os.abort()", -signal.SIGABRT),
}


@pytest.mark.parametrize("way", SUDDEN)
def test_with_a_spool_the_next_process_sends_what_a_sudden_end_left(
    receiver: Receiver, tmp_path: Path, way: str
) -> None:
    ending, status = SUDDEN[way]
    spool = tmp_path / "spool"
    result = run(receiver.url, f"{STORED}\n    {ending}", spool, steps=10)
    assert result.returncode == status
    assert stored_steps(receiver.url) == []
    assert send_what_is_left(receiver.url, spool) == 11
    assert sorted(stored_steps(receiver.url)) == sorted(f"step {i}" for i in range(10))


@pytest.mark.parametrize("mode", ["hang", "refuse"])
def test_with_a_spool_what_the_end_cannot_deliver_is_kept_for_the_next_process(
    receiver: Receiver, tmp_path: Path, mode: str
) -> None:
    spool = tmp_path / "spool"
    with FaultProxy(receiver.url) as proxy:
        proxy.set(mode)
        result = run(proxy.url, "", spool, steps=10, limits=IMPATIENT)
        assert result.returncode == 0
        assert "kept in the spool" in result.stderr
        proxy.set("pass")
        assert send_what_is_left(proxy.url, spool) == 11
    assert sorted(stored_steps(receiver.url)) == sorted(f"step {i}" for i in range(10))


def test_with_a_spool_a_plain_end_leaves_nothing(receiver: Receiver, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    result = run(receiver.url, "", spool, steps=100)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(stored_steps(receiver.url)) == 100
    assert [path.name for path in spool.iterdir() if path.suffix == ".db"] == []


def test_with_a_spool_a_killed_child_leaves_its_own_which_is_sent_once(receiver: Receiver, tmp_path: Path) -> None:
    ending = f"""
    pid = os.fork()
    if not pid:
        tracker.track_step("child", run_id=run_id)
        while tracker.stats().spooled < 1: time.sleep(0.01)   # between two looks
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    {STORED.replace("11", "2")}
    """
    spool = tmp_path / "spool"
    result = run(receiver.url, ending, spool, at_last="print(tracker.stats().recovered)")
    assert (result.returncode, result.stderr) == (0, "")
    # The parent recovers events of dead processes too, and sends them if the next process has not.
    assert int(result.stdout) + send_what_is_left(receiver.url, spool) == 1
    assert sorted(stored_steps(receiver.url)) == ["child", "step 0"]


def test_with_a_spool_two_programs_at_once_keep_apart(receiver: Receiver, tmp_path: Path) -> None:
    source = program(receiver.url, "", tmp_path / "spool", 50)
    programs = [start_program(source, env=QUIET) for _ in range(3)]
    ends = [program.communicate(timeout=120) for program in programs]
    assert ends == [("", "")] * 3
    assert sorted(stored_steps(receiver.url)) == sorted(3 * [f"step {i}" for i in range(50)])


# ---- signals -------------------------------------------------------------------------------------------------------

# An import during the exit loses the exit status of Ctrl-C.
SIGNALLED = {
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "SIGHUP": ("os.kill(os.getpid(), signal.SIGHUP)", -signal.SIGHUP),
    "Ctrl-C": ("signal.raise_signal(signal.SIGINT)", None),
}


@pytest.mark.parametrize("way", SIGNALLED)
def test_with_flush_on_signal_and_a_backend_that_hangs_a_signal_leaves_all_in_the_spool_within_a_second(
    receiver: Receiver, tmp_path: Path, way: str
) -> None:
    ending, status = SIGNALLED[way]
    # The signal comes at once: the exit writes the events in memory.
    result = left_behind(receiver, tmp_path / "spool", ending, IMPATIENT)
    assert result.returncode == status or status is None
    assert result.stderr.count("Traceback") == ("Ctrl-C" in way)
    assert "11 events are kept in the spool" in result.stderr


TWICE = {
    # Nothing waits for the second signal: events that are not on disk by then are lost.
    "SIGTERM": f"{STORED}\n    for _ in range(2): os.kill(os.getpid(), signal.SIGTERM)",
    "Ctrl-C": CTRL_C_TWICE,
}


@pytest.mark.parametrize("way", TWICE)
def test_with_flush_on_signal_and_a_backend_that_hangs_a_second_signal_ends_at_once_and_leaves_all_in_the_spool(
    receiver: Receiver, tmp_path: Path, way: str
) -> None:
    result = left_behind(receiver, tmp_path / "spool", TWICE[way], "be_patient()")
    assert result.returncode == -signal.SIGTERM or way == "Ctrl-C"
    assert result.stderr.count("Traceback") == (way == "Ctrl-C")
    assert ("11 events are kept in the spool" in result.stderr) == (way == "Ctrl-C")


def left_behind(receiver: Receiver, spool: Path, ending: str, limits: str) -> Result:
    """Run a program that these signals end. Returns its result. The next process must send all its eleven events."""
    ending = f"print(time.monotonic())\n    {ending}\n    time.sleep(60)"  # the signals interrupt it
    with FaultProxy(receiver.url, mode="hang") as proxy:
        result = run(proxy.url, ending, spool, steps=10, opted=True, limits=limits)
        took = time.monotonic() - float(result.stdout)
        assert (
            took < 45
        )  # 0.8 s without an acknowledgement, with a margin for a busy machine; all other limits are a minute
        proxy.set("pass")
        assert send_what_is_left(proxy.url, spool) == 11
    assert sorted(stored_steps(receiver.url)) == sorted(f"step {i}" for i in range(10))
    return result


def test_with_flush_on_signal_and_a_backend_that_answers_a_signal_leaves_nothing(
    receiver: Receiver, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    result = run(receiver.url, "os.kill(os.getpid(), signal.SIGTERM)", spool, steps=10, opted=True)
    assert (result.returncode, result.stderr) == (-signal.SIGTERM, "")
    assert len(stored_steps(receiver.url)) == 10
    assert list(spool.iterdir()) == []


# ---- serverless ----------------------------------------------------------------------------------------------------


class Context:
    """The context object of a serverless platform."""

    def get_remaining_time_in_millis(self) -> int:
        return 1_500


def test_when_a_function_returns_what_it_could_not_deliver_is_in_the_spool(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_disk(monkeypatch.setattr)
    spool = tmp_path / "spool"
    with FaultProxy(receiver.url, mode="hang") as proxy:
        tracker = create_tracker("ask_test", proxy.url, flush_interval=60, spool_dir=spool)

        @tracker.lambda_handler
        def handler(event: object, context: Context) -> None:
            with tracker.track_run("agent"):
                tracker.track_step("step")

        handler({}, Context())
        until(lambda: tracker.stats().spooled == 3)  # until now, except on a busy machine
        stats = tracker.stats()
        (database,) = spool.glob("*.db")
        assert (stats.accepted, stats.spooled, stats.pending, events_in_file(database)) == (3, 3, 0, 3)
        tracker.shutdown(0)
        proxy.set("pass")
        assert send_what_is_left(proxy.url, spool) == 3
    assert sorted(stored_steps(receiver.url)) == ["step"]
    assert list(spool.glob("*-2.*")) == []  # the late answer to the last request opens nothing
