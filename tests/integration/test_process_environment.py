"""The SDK survives odd environments, clocks that jump, limits of the machine, and thousands of signals."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from agentscope import Stats, Tracker, create_tracker
from agentscope.server.receiver import Receiver
from tests.support.program import run_program
from tests.support.proxy import FaultProxy
from tests.support.recording import recorded
from tests.support.stored import get, stored_runs, stored_steps
from tests.support.wait import until


@pytest.fixture(autouse=True)
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs here run without coverage, because they count files and memory."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


KEY = "ask_canary_0123456789"


def whole(tracker: Tracker) -> Stats:
    """The statistics; the identity of the ledger must hold at any moment."""
    stats = tracker.stats()
    assert stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.spooled + stats.pending
    return stats


# ---- the environment -------------------------------------------------------------------------------------------------

ENVIRONMENTS = {
    "a netrc": {"NETRC": "{folder}/netrc"},
    "a netrc at home": {"HOME": "{folder}"},
    "a proxy": {
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    },
    "a proxy that needs a password": {"http_proxy": "http://me:hunter2@127.0.0.1:9", "NO_PROXY": ""},
    "a bundle": {"REQUESTS_CA_BUNDLE": "{folder}/bundle.pem", "CURL_CA_BUNDLE": "{folder}/bundle.pem"},
    "verification switched off elsewhere": {"PYTHONHTTPSVERIFY": "0", "CURL_CA_BUNDLE": ""},
    "all of it": {
        "NETRC": "{folder}/netrc",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "CURL_CA_BUNDLE": "{folder}/bundle.pem",
    },
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_environment_changes_neither_the_key_nor_the_way_to_this_machine(
    receiver: Receiver, tmp_path: Path, name: str
) -> None:
    for file in ("netrc", ".netrc"):
        (tmp_path / file).write_text("machine 127.0.0.1 login me password hunter2\ndefault login me password hunter2\n")
        (tmp_path / file).chmod(0o600)
    (tmp_path / "bundle.pem").write_text("")
    with FaultProxy(receiver.url) as proxy:
        source = f"""
            from agentscope import create_tracker
            with create_tracker({KEY!r}, {proxy.url!r}) as tracker, tracker.track_run("agent"):
                tracker.track_step("step")
                assert tracker.flush(), tracker.stats().problem
        """
        env = {variable: value.format(folder=tmp_path) for variable, value in ENVIRONMENTS[name].items()}
        result = run_program(source, env=env)
        assert (result.returncode, result.stderr) == (0, "")
        assert {request.header("X-Agentscope-Key") for request in proxy.requests} == {KEY}
        assert {request.header("Authorization") for request in proxy.requests} == {None}
    assert stored_steps(receiver.url) == ["step"]


# ---- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gzip", "body", "headers"])
def test_an_endless_answer_takes_no_memory(kind: str) -> None:
    # In a process of its own, so that the proxy's buffers are not measured.
    with FaultProxy(mode="bomb", kind=kind, line=60_000 if kind == "headers" else 0) as proxy:
        source = f"""
            import resource
            from agentscope.exporters.http.transport import Transport
            def peak():
                return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            transport = Transport({proxy.url!r})
            transport.send("POST", "/", b"{{}}", timeout=60)
            before = peak()
            kinds = {{transport.send("POST", "/", b"{{}}", timeout=60).kind for _ in range(20)}}
            print(*kinds, peak() - before)
        """
        told, grown = run_program(source).stdout.split()
    assert told == "too_large"
    assert int(grown) <= 2048  # KiB


def test_an_end_does_not_wait_for_what_the_backend_asked_for() -> None:
    with FaultProxy(mode="status", code=503, headers={"Retry-After": "60"}) as proxy:
        tracker = create_tracker(KEY, proxy.url, flush_interval=0.0)
        tracker.start_run("agent")
        until(lambda: tracker.stats().problem is not None)
        started = time.monotonic()
        assert not tracker.shutdown(60)
        assert time.monotonic() - started < 25  # two seconds, with a margin for a busy machine
        assert whole(tracker).dropped == {"shutdown": 1}


# ---- the moment of a call --------------------------------------------------------------------------------------------


def test_what_is_stored_is_what_the_value_was_when_it_was_tracked() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with recorded(flush_interval=0.0) as recording:
            run_id = recording.tracker.start_run("agent")

            def work(worker: int) -> None:
                value: dict[str, object] = {"inner": {"list": []}}
                for number in range(500):
                    value["number"] = number
                    value["inner"] = {"list": [number] * 3, "text": str(number)}
                    recording.tracker.track_step(
                        f"{worker}.{number}", input_data=value, output_data=value, run_id=run_id
                    )
                    value["inner"]["list"].append("late")
                    value["inner"]["text"] = "late"
                    value["number"] = "late"

            threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            steps = recording.steps()
            assert len(steps) == 2_000
            for step in steps:
                number = int(step["name"].partition(".")[2])
                expected = {"inner": {"list": [number] * 3, "text": str(number)}, "number": number}
                assert step["input"] == step["output"] == expected
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.timeout(300)
def test_ten_thousand_signals_lose_nothing(receiver: Receiver) -> None:
    source = """
        import json, signal
        from agentscope import create_tracker
        tracker = create_tracker("ask_test", {url!r}, flush_interval=0.05)
        run_id = tracker.start_run("agent")
        signals = calls = 0
        def handler(*_):
            global signals
            signals += 1
            if signals % 10 == 0:
                tracker.track_step("from the handler", run_id=run_id)
            else:
                tracker.stats()
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        while signals < 10_000:
            calls += tracker.track_step("from the program", input_data=[calls], run_id=run_id) if calls < 20_000 else 0
        signal.setitimer(signal.ITIMER_REAL, 0, 0)
        handled = signals // 10
        assert tracker.flush(60)
        stats = tracker.stats()
        print(json.dumps([1 + calls + handled, stats.accepted, stats.delivered, dict(stats.dropped)]))
    """
    tracked, accepted, delivered, dropped = run_program(source.format(url=receiver.url), timeout=250).last_line_json
    assert (accepted, delivered, dropped) == (tracked, tracked, {})


# ---- the clock -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_wall_clock_that_jumps_a_day_delays_nothing_and_loses_nothing(receiver: Receiver, jump: int) -> None:
    source = f"""
        import time
        real, real_ns, offset = time.time, time.time_ns, 0
        time.time = lambda: real() + offset
        time.time_ns = lambda: real_ns() + offset * 10**9
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        tracker = create_tracker("ask_test", {receiver.url!r}, flush_interval=0.05)
        with tracker.track_run("agent"):
            for number in range(4):
                offset = {jump} if number % 2 else 0
                with tracker.track_step_context(f"step {{number}}"):
                    offset = 0 if number % 2 else {jump}
                assert tracker.flush(40)
        assert tracker.shutdown(40)
    """
    result = run_program(source, timeout=100)
    assert (result.returncode, result.stderr) == (0, "")
    (run,) = stored_runs(receiver.url)
    assert sorted(step["name"] for step in run["steps"]) == [f"step {number}" for number in range(4)]
    # Durations come from a clock that does not jump.
    assert all(0 <= step["latency_ms"] < 60_000 for step in run["steps"])


# ---- limits of the machine -------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_a_thousand_trackers_one_after_the_other_leave_nothing(receiver: Receiver) -> None:
    source = """
        import gc, os, threading, time, tracemalloc
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        def cycle(count):
            for _ in range(count):
                tracker = create_tracker("ask_test", {url!r})
                with tracker.track_run("agent"):
                    pass
                assert tracker.shutdown(40)
            end = time.monotonic() + 40
            while threading.active_count() > 1 and time.monotonic() < end:
                time.sleep(0.01)   # between two looks
            gc.collect()
        cycle(100)   # what is kept once is kept by now
        files = len(os.listdir("/proc/self/fd"))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        cycle(900)
        grown = tracemalloc.get_traced_memory()[0] - before
        print(threading.active_count(), len(os.listdir("/proc/self/fd")) - files, grown)
    """
    result = run_program(source.format(url=receiver.url), timeout=250)
    threads, files, grown = map(int, result.stdout.split())
    assert (threads, result.stderr) == (1, "")
    assert files <= 0
    assert grown < 900 * 500  # bytes: the id of a run is kept for a while; a tracker would take many times as much
    assert get(receiver.url, "/health")["runs"] == 1_000


def test_without_file_descriptors_events_wait_and_then_arrive(receiver: Receiver) -> None:
    source = """
        import os, resource
        from agentscope import create_tracker
        tracker = create_tracker("ask_test", {url!r}, flush_interval=0.0, retry_delay=0.05)
        tracker._pipeline._worker.exporter.warm_up()   # imports need descriptors, too, and Python its standard modules
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        with tracker.track_run("agent"):
            accepted = [tracker.track_step("step") for _ in range(10)]
        assert all(accepted)
        assert not tracker.flush(0.5)
        stats = tracker.stats()
        assert (stats.pending, dict(stats.dropped)) == (12, {{}}), stats
        for descriptor in taken:
            os.close(descriptor)
        assert tracker.flush(60), tracker.stats()
        assert tracker.stats().delivered == 12
    """
    result = run_program(source.format(url=receiver.url), timeout=100)
    assert result.returncode == 0, result.stderr
    assert stored_steps(receiver.url) == ["step"] * 10


def test_where_the_system_gives_no_thread_flush_delivers_by_itself(receiver: Receiver) -> None:
    source = """
        import os, resource, sys, threading
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        tracker = create_tracker("ask_test", {url!r})
        tracker._pipeline._worker.exporter.warm_up()   # another user may not be able to read the modules
        import agentscope.pipeline.retry
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        if os.getuid() == 0:
            os.setuid(65534)   # the limit does not hold for root
        try:
            threading.Thread(target=int).start()
        except RuntimeError:
            pass
        else:
            sys.exit("the limit does not hold")
        with tracker.track_run("agent"):
            tracker.track_step("step")
        assert tracker.stats().pending == 3
        assert tracker.flush(), tracker.stats()
        assert tracker.stats().delivered == 3
    """
    result = run_program(source.format(url=receiver.url), timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert stored_steps(receiver.url) == ["step"]


def test_a_subinterpreter_delivers_at_flush(receiver: Receiver) -> None:
    source = """
        import os, sys
        try:
            import _interpreters as interpreters   # 3.13
        except ImportError:
            import _xxsubinterpreters as interpreters
        program = '''
        import sys
        sys.path[:] = {path!r}
        from agentscope import create_tracker
        tracker = create_tracker("ask_test", {url!r})
        with tracker.track_run("agent"):
            assert tracker.track_step("step")
        assert tracker.flush(60), tracker.stats()
        stats = tracker.stats()
        assert (stats.accepted, stats.delivered, stats.pending) == (3, 3, 0), stats
        tracker.shutdown()
        '''
        interpreter = interpreters.create()
        failed = interpreters.run_string(interpreter, program.replace(chr(10) + "        ", chr(10)))
        print(failed, flush=True)
        os._exit(0)   # Python 3.12 crashes when it takes down a subinterpreter that has imported ssl
    """
    result = run_program(source.format(url=receiver.url, path=sys.path), timeout=60)
    assert (result.returncode, result.stdout) == (0, "None\n"), result.stderr
    assert stored_steps(receiver.url) == ["step"]


@pytest.mark.parametrize("back", [2, 86_400])
def test_a_clock_that_is_set_back_within_a_run_leaves_status_order_and_durations_right(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, back: int
) -> None:
    real = time.time_ns
    with create_tracker(KEY, receiver.url) as tracker:
        begun = real()
        run_id = tracker.start_run("agent")
        block = tracker.track_step_context("across")
        with block:
            monkeypatch.setattr(time, "time_ns", lambda: real() - back * 10**9)
            tracker.end_run(run_id=tracker.start_run("beside"))
        tracker.track_step("plain", latency_ms=1, run_id=run_id)
        with tracker.track_step_context("block", run_id=run_id):
            pass
        tracker.end_run(run_id=run_id)
        monkeypatch.undo()
        lasted = (real() - begun) / 1e6
        assert tracker.flush()
        assert whole(tracker).delivered == 7
    assert {run["status"] for run in stored_runs(receiver.url)} == {"completed"}
    run = get(receiver.url, f"/api/runs/{run_id}")
    assert 0 <= run["duration_ms"] <= lasted + 1
    assert [step["name"] for step in run["steps"]] == ["across", "plain", "block"]
    assert all(run["started_at"] <= step["started_at"] <= step["ended_at"] <= run["ended_at"] for step in run["steps"])
