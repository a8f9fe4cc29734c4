"""The spool with real processes: kills, exits, forks, and a second process that delivers the events of the first."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path

import pytest

from agentscope import Tracker, create_tracker
from agentscope.exporters.http.exporter import HTTPExporter
from agentscope.pipeline import worker
from agentscope.pipeline.spool.manager import Spooling
from agentscope.server.receiver import Receiver
from agentscope.types import Stats
from tests.support.patient import be_patient
from tests.support.platform import DeployedPlatform
from tests.support.program import Result, run_program, start_program
from tests.support.proxy import FaultProxy
from tests.support.recording import balanced
from tests.support.stored import get, stored_runs, stored_steps
from tests.support.wait import until

UNMEASURED = {"COVERAGE_PROCESS_CONFIG": "", "PYTHONWARNINGS": "ignore::DeprecationWarning"}
"""Programs that fork run without coverage, whose tracer may leave a lock locked in a child, and without warnings."""
PROGRAM = """
    import atexit, os, signal, sys, time
    began = []
    atexit.register(lambda: print(time.monotonic() - began[0]))   # registered first: runs last
    from agentscope import create_tracker
    from agentscope.pipeline import worker
    from tests.support.patient import be_patient, wait_for_disk
    {limits}
    tracker = create_tracker("ask_test", {url!r}, spool_dir={spool!r}, timeout=60, shutdown_timeout=60)
    run_id = tracker.start_run("agent")
    for i in range({steps}):
        tracker.track_step(f"{name} {{i}}")
    {ending}
"""
STORED = "while tracker.stats().pending: time.sleep(0.01)"  # between two looks
IMPATIENT = "wait_for_disk(); worker.PATIENCE = 60.0"
"""The limits of an exit: long for the write to disk, and short, as usual with a spool, for the backend."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long limits for the trackers of this process, so that a busy machine makes none give up."""
    be_patient(monkeypatch.setattr, lambda name, value: None)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A directory that does not exist yet."""
    return tmp_path / "spool"


def others(spool: Path, tracker: Tracker) -> list[str]:
    """The files of other sessions."""
    own = tracker._pipeline._worker.session.id
    return [path.name for path in spool.iterdir() if own not in path.name]


def run(
    url: str, spool: Path, steps: int = 10, ending: str = "END", name: str = "step", limits: str = "be_patient()"
) -> Result:
    ending = ending.replace("STORED", STORED).replace("END", "began.append(time.monotonic())")
    source = PROGRAM.format(url=url, spool=str(spool), steps=steps, name=name, ending=ending, limits=limits)
    return run_program(source, env=UNMEASURED, timeout=180)


def inherit(url: str, spool: Path, events: int) -> None:
    """Let another session on the directory deliver the events of dead ones."""
    with create_tracker("ask_test", url, spool_dir=spool, timeout=60) as heir:
        heir.start_run("heir")
        until(lambda: heir.stats().recovered >= events)
        assert heir.flush(60)
        assert balanced(heir.stats())
        assert heir.stats().recovered == events
        until(lambda: not others(spool, heir))
        heir.shutdown(60)
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("mode", ["hang", "refuse", "status"])
def test_a_program_that_is_killed_loses_nothing_that_was_on_disk(receiver: Receiver, spool: Path, mode: str) -> None:
    with FaultProxy(receiver.url, mode=mode) as proxy:
        result = run(proxy.url, spool, 200, "\n    STORED\n    os.kill(os.getpid(), signal.SIGKILL)")
        assert result.returncode == -signal.SIGKILL
        proxy.set("pass")
        inherit(proxy.url, spool, 201)
    assert sorted(stored_steps(receiver.url)) == sorted(f"step {i}" for i in range(200))


LOGS = """
    line = "2026-11-30 09:00:00 INFO GET /v1/items?page=2 token=a8f{number:013x}9Zq status=200 user=alice"
    text = chr(10).join(line.format(number=number) for number in range(2000))
    for i in range(10):
        tracker.track_step(f"log {i}", output_data={"log": text})
    STORED
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_logs_full_of_secrets_that_were_on_disk_survive_a_kill_without_the_secrets(
    receiver: Receiver, spool: Path
) -> None:
    with FaultProxy(receiver.url, mode="refuse") as proxy:
        result = run(proxy.url, spool, 0, LOGS)
        assert result.returncode == -signal.SIGKILL
        assert not [path for path in spool.iterdir() if b"a8f0000000000" in path.read_bytes()]
        proxy.set("pass")
        inherit(proxy.url, spool, 11)
    (stored,) = [run for run in stored_runs(receiver.url) if run["agent_name"] == "agent"]
    assert sorted(step["name"] for step in stored["steps"]) == [f"log {i}" for i in range(10)]
    for step in stored["steps"]:
        lines = step["output"]["log"].splitlines()
        assert len(lines) == 2000
        assert {line.partition("token=")[2] for line in lines} == {"[redacted] status=200 user=alice"}


def test_delivery_begins_when_the_first_events_are_on_disk(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Stats] = []
    go_on = threading.Event()
    store, warm_up = Spooling.store, HTTPExporter.warm_up

    def held(spooling: Spooling, now: float, timeout: float = -1.0) -> bool:
        go_on.wait(60)
        return store(spooling, now, timeout)

    def watched(exporter: HTTPExporter) -> None:
        seen.append(tracker.stats())
        warm_up(exporter)

    monkeypatch.setattr(Spooling, "store", held)
    monkeypatch.setattr(HTTPExporter, "warm_up", watched)
    monkeypatch.setattr(worker, "HEAD_START", 60.0)
    with create_tracker("ask_test", "http://127.0.0.1:9", spool_dir=spool, shutdown_timeout=60) as tracker:
        run_id = tracker.start_run("agent")
        for number in range(1_000):
            tracker.track_step(f"step {number}", run_id=run_id)
        go_on.set()
        until(lambda: seen)
        assert (seen[0].spooled, seen[0].pending) == (1_001, 0)
        assert balanced(seen[0])
        tracker.shutdown(0)


def test_events_are_on_disk_soon_even_while_a_request_hangs(spool: Path) -> None:
    with (
        FaultProxy(mode="hang") as proxy,
        create_tracker("ask_test", proxy.url, spool_dir=spool, flush_interval=0.0, timeout=300) as tracker,
    ):
        tracker.start_run("agent")
        until(lambda: tracker.stats().attempts)
        for number in range(5):
            tracker.track_step(f"step {number}")
            # A quarter of a second, with a margin for a busy machine; the answer would take five minutes.
            until(lambda: not tracker.stats().pending, what="stored while the worker waits for an answer")
            assert balanced(tracker.stats())
        assert tracker.stats().spooled == 6
        tracker.shutdown(0)


@pytest.mark.parametrize("mode", ["hang", "refuse", "status"])
def test_a_backend_that_does_not_answer_delays_the_exit_by_a_second_at_most_and_all_is_kept(
    receiver: Receiver, spool: Path, mode: str
) -> None:
    with FaultProxy(receiver.url, mode=mode) as proxy:
        result = run(proxy.url, spool, limits=IMPATIENT)
        delay = float(result.stdout.splitlines()[-1])
        assert delay < 45  # one second, with a margin for a busy machine; all other limits are a minute
        line = "agentscope: 11 events are kept in the spool, for the next process or `agentscope replay`"
        assert re.sub(r" \(.*", "", result.stderr.splitlines()[-1]) == line
        assert "Traceback" not in result.stderr
        proxy.set("pass")
        inherit(proxy.url, spool, 11)
    assert stored_steps(receiver.url) == [f"step {i}" for i in range(10)]


def test_a_healthy_exit_leaves_nothing_on_disk(receiver: Receiver, spool: Path) -> None:
    result = run(receiver.url, spool, 1_000)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(stored_steps(receiver.url)) == 1_000
    assert list(spool.iterdir()) == []


def test_an_end_by_os_exit_keeps_what_was_on_disk(receiver: Receiver, spool: Path) -> None:
    with FaultProxy(receiver.url, mode="refuse") as proxy:
        result = run(proxy.url, spool, ending="\n    STORED\n    os._exit(7)")
        assert result.returncode == 7
        proxy.set("pass")
        inherit(proxy.url, spool, 11)


def test_a_fresh_event_does_not_wait_for_what_others_have_left(receiver: Receiver, spool: Path) -> None:
    with FaultProxy(receiver.url, mode="refuse") as proxy:
        for name in ("red", "green"):
            run(proxy.url, spool, 3_000, "\n    STORED\n    os.kill(os.getpid(), signal.SIGKILL)", name)
        proxy.set("delay", seconds=0.5)  # sixty batches of old events take much longer than the new one
        with create_tracker("ask_test", proxy.url, spool_dir=spool, flush_interval=0.0, batch_size=100) as heir:
            heir.start_run("heir")
            until(lambda: heir.stats().recovered)
            before = heir.stats().recovered
            heir.track_step("fresh")
            assert heir.flush(60)
            assert before <= heir.stats().recovered < 6_002
            proxy.set("pass")
            until(lambda: heir.stats().recovered == 6_002, 120)
    steps = stored_steps(receiver.url)
    assert len(steps) == len(set(steps)) == 6_001


def test_a_platform_without_event_ids_gets_what_was_left_in_its_order(spool: Path) -> None:
    with DeployedPlatform() as platform:
        with FaultProxy(platform.url, mode="refuse") as proxy:
            ending = "\n    tracker.end_run()\n    STORED\n    os.kill(os.getpid(), signal.SIGKILL)"
            run(proxy.url, spool, 20, ending)
            proxy.set("pass")
            inherit(proxy.url, spool, 22)
        names = [[step["name"] for step in run.steps] for run in platform.runs.values()]
    assert [f"step {i}" for i in range(20)] in names


def test_two_trackers_of_one_process_share_a_directory_and_leave_each_other_alone(
    receiver: Receiver, spool: Path
) -> None:
    spool.mkdir()
    link = spool.parent / "link"
    link.symlink_to(spool)
    with FaultProxy(receiver.url, mode="status") as proxy:
        one = create_tracker("ask_test", proxy.url, spool_dir=spool, service_name="one", batch_size=7, timeout=60)
        two = create_tracker("ask_test", proxy.url, spool_dir=link, service_name="two", batch_size=8, timeout=60)
        for tracker in (one, two):
            run_id = tracker.start_run("agent")
            for i in range(50):
                tracker.track_step(f"step {i}", run_id=run_id)
        until(lambda: one.stats().spooled == two.stats().spooled == 51)
        proxy.set("pass")
        assert one.flush(60)
        assert two.flush(60)
        for tracker in (one, two):
            stats = tracker.stats()
            assert (stats.delivered, stats.recovered, stats.duplicates) == (51, 0, 0)
            tracker.shutdown(60)
    assert list(spool.iterdir()) == []


FORKS = """
    import json, os, sys, time
    from agentscope import create_tracker
    from tests.support.patient import wait_for_disk
    wait_for_disk()
    tracker = create_tracker("ask_test", {url!r}, spool_dir={spool!r}, flush_interval=0.01)
    run_id = tracker.start_run("agent")
    statuses, children = [], []
    for i in range({forks}):
        tracker.track_step(f"parent {{i}}")
        pid = os.fork()
        if pid == 0:
            tracker.track_step(f"child {{i}}")
            {ending}
        children.append(pid)
        if len(children) - len(statuses) == 5:   # more at once only show how slow the machine is
            statuses += [os.waitpid(pid, 0)[1] for pid in children[-5:]]
    tracker.flush(60)
    stats = tracker.stats()
    print(json.dumps([statuses, stats.accepted, stats.delivered, stats.pending, stats.spooled, dict(stats.dropped)]))
"""
STORED_IN_CHILD = "\n            while tracker.stats().pending: time.sleep(0.01)\n            "  # between two looks


@pytest.mark.parametrize(
    ("ending", "status"),
    [("sys.exit()", 0), (STORED_IN_CHILD + "os.kill(os.getpid(), 9)", 9), (STORED_IN_CHILD + "os._exit(0)", 0)],
    ids=["exit", "kill", "os._exit"],
)
def test_forked_children_have_files_of_their_own_and_the_parents_is_not_touched(
    receiver: Receiver, spool: Path, ending: str, status: int
) -> None:
    forks = 100 if status == 0 and "sys" in ending else 20
    source = FORKS.format(url=receiver.url, spool=str(spool), forks=forks, ending=ending)
    result = run_program(source, env=UNMEASURED, timeout=300)
    statuses, accepted, delivered, pending, spooled, dropped = result.last_line_json
    assert statuses == [status] * forks
    assert (accepted, delivered, pending, spooled, dropped) == (forks + 1, forks + 1, 0, 0, {})
    with create_tracker("ask_test", receiver.url, spool_dir=spool) as heir:
        heir.start_run("heir")
        expected = sorted(f"{who} {i}" for i in range(forks) for who in ("parent", "child"))
        until(lambda: get(receiver.url, "/health")["events"] == 2 * forks + 2, 120)
        until(lambda: not others(spool, heir))
        heir.shutdown(60)
    assert sorted(stored_steps(receiver.url)) == expected
    assert list(spool.iterdir()) == []


def test_a_child_inherits_what_its_dead_parent_left(receiver: Receiver, spool: Path) -> None:
    """A child inherits the descriptor of the parent's database, and opens the file again."""
    source = """
        import os, signal, sys, time
        from agentscope import create_tracker
        tracker = create_tracker("ask_test", {url!r}, spool_dir={spool!r}, flush_interval=0.01)
        tracker.start_run("agent")
        for i in range(50):
            tracker.track_step(f"parent {{i}}")
        while tracker.stats().pending: time.sleep(0.01)   # between two looks
        parent = os.getpid()
        if os.fork() == 0:
            os.kill(parent, signal.SIGKILL)
            tracker.track_step("child")
            while tracker.stats().recovered < 51: time.sleep(0.01)   # between two looks
            tracker.flush(60)
            os._exit(0)
        time.sleep(300)   # to be killed
    """
    with FaultProxy(receiver.url, mode="status") as proxy:
        process = start_program(source.format(url=proxy.url, spool=str(spool)), env=UNMEASURED)
        assert process.wait(120) == -signal.SIGKILL
        proxy.set("pass")
        until(lambda: len(stored_steps(receiver.url)) == 51, 120)
        process.communicate(timeout=120)  # the child holds its pipes open too
        with create_tracker("ask_test", proxy.url, spool_dir=spool) as heir:
            heir.start_run("heir")
            until(lambda: not others(spool, heir))
            heir.shutdown(60)
    assert list(spool.iterdir()) == []
    assert sorted(stored_steps(receiver.url)) == sorted([*(f"parent {i}" for i in range(50)), "child"])


WORKER = """
    import os, random, sys, time
    from agentscope import create_tracker
    tracker = create_tracker("ask_test", {url!r}, spool_dir={spool!r}, flush_interval=0.05, batch_size=20, timeout=1.0)
    tracker.start_run("agent")
    log = open({log!r} + f"/{{os.getpid()}}", "a", buffering=1)
    number = 0
    while True:
        tracked = []
        for _ in range(20):
            number += 1
            name = f"{{os.getpid()}}-{{number}}"
            if tracker.track_step(name):
                tracked.append(name)
        while tracker.stats().pending: time.sleep(0.005)   # between two looks
        log.write(" ".join(tracked) + "\\n")   # on disk, or delivered: promised
        time.sleep(0.02)   # the pace of an agent
"""


def test_eight_processes_on_one_directory_killed_at_random_lose_nothing_and_double_nothing(
    receiver: Receiver, spool: Path
) -> None:
    log = spool.parent / "log"
    log.mkdir()
    with FaultProxy(receiver.url) as proxy:
        source = WORKER.format(url=proxy.url, spool=str(spool), log=str(log))
        processes = [start_program(source, env=UNMEASURED) for _ in range(8)]
        until(lambda: len(list(log.iterdir())) == 8, 120)
        for number, process in enumerate(processes):
            proxy.set(("pass", "status", "reset_after", "hang")[number % 4])
            written = log.stat().st_mtime_ns + sum(path.stat().st_size for path in log.iterdir())
            until(lambda before=written: sum(p.stat().st_size for p in log.iterdir()) + log.stat().st_mtime_ns > before)
            process.kill()
            process.communicate()
        proxy.set("pass")
        names = [name for path in log.iterdir() for name in path.read_text().rpartition("\n")[0].split()]
        with create_tracker("ask_test", proxy.url, spool_dir=spool) as heir:
            heir.start_run("heir")
            until(lambda: not others(spool, heir), 120)
            assert heir.flush(60)
            heir.shutdown(60)
    steps = stored_steps(receiver.url)
    assert len(names) >= 160
    assert set(names) <= set(steps)
    assert len(steps) == len(set(steps))
    assert list(spool.iterdir()) == []


def test_no_key_and_nothing_unredacted_is_in_any_file(spool: Path) -> None:
    with (
        FaultProxy(mode="status") as proxy,
        create_tracker("ask_canary_5d1f", proxy.url, spool_dir=spool) as tracker,
    ):
        before = os.umask(0)
        try:
            run_id = tracker.start_run("agent", input_data={"password": "hunter2-canary", "city": "Lisbon-canary"})
            tracker.track_step("step", input_data={"api_key": "sk-canary"}, run_id=run_id)
            until(lambda: tracker.stats().spooled == 2)
        finally:
            os.umask(before)
        modes = {oct(spool.stat().st_mode & 0o777)}
        modes |= {oct(path.stat().st_mode & 0o777) for path in spool.iterdir()}
        content = b"".join(path.read_bytes() for path in spool.iterdir())
        tracker.shutdown(0)
    assert modes == {"0o700", "0o600"}
    assert b"Lisbon-canary" in content
    for secret in (b"ask_canary_5d1f", b"hunter2-canary", b"sk-canary"):
        assert secret not in content


def test_a_wrong_key_keeps_its_events_and_the_right_one_delivers_them(spool: Path) -> None:
    with Receiver(port=0, db=spool.parent / "receiver.db", api_key="ask_right") as receiver:
        with create_tracker("ask_wrong", receiver.url, spool_dir=spool) as wrong:
            wrong.start_run("agent")
            until(lambda: wrong.stats().problem is not None and wrong.stats().spooled)
        with create_tracker("ask_right", receiver.url, spool_dir=spool) as right:
            right.start_run("heir")
            until(lambda: right.stats().recovered == 1)
            assert right.flush()


def test_the_runs_of_a_killed_program_are_whole(receiver: Receiver, spool: Path) -> None:
    ending = "\n    tracker.end_run(output={'answer': 42})\n    STORED\n    os.kill(os.getpid(), signal.SIGKILL)"
    with FaultProxy(
        receiver.url, mode="reset_after"
    ) as proxy:  # everything is committed, and the acknowledgement is lost
        run(proxy.url, spool, 30, ending)
        proxy.set("pass")
        inherit(proxy.url, spool, 32)
    (run_,) = [run for run in stored_runs(receiver.url) if run["agent_name"] == "agent"]
    assert (run_["status"], run_["output"]) == ("completed", {"answer": 42})
    assert [step["name"] for step in run_["steps"]] == [f"step {i}" for i in range(30)]
    assert json.loads(json.dumps(run_["step_count"])) == 30
