"""The exit of a program: delivery of the remaining events, and the delay."""

from __future__ import annotations

import re

import pytest

from agentscope.server.receiver import Receiver
from tests.support.platform import DeployedPlatform
from tests.support.program import Result, run_program
from tests.support.proxy import FaultProxy
from tests.support.stored import stored_steps

PROGRAM = """
    import atexit, sys, time
    began = []
    atexit.register(lambda: print(time.monotonic() - began[0]))   # registered first: runs last
    from agentscope import create_tracker
    from agentscope.pipeline import worker
    from tests.support.patient import be_patient
    {limits}
    tracker = create_tracker("ask_test", {url!r}, flush_interval={interval}, timeout=60, shutdown_timeout=600)
    run_id = tracker.start_run("agent")
    for i in range({steps}):
        tracker.track_step(f"step {{i}}")
    {ending}
"""


def run(
    url: str, steps: int = 10, ending: str = "END", limits: str = "be_patient()", interval: float = 1.0
) -> tuple[Result, float]:
    """Run a program. Returns its result, and the seconds of its exit. All limits except `limits` are a minute or more."""
    ending = ending.replace("END", "began.append(time.monotonic())")
    source = PROGRAM.format(url=url, steps=steps, ending=ending, limits=limits, interval=interval)
    result = run_program(source, timeout=120)
    return result, float(result.stdout.splitlines()[-1])


def test_a_plain_return_delivers_everything(receiver: Receiver) -> None:
    result, _ = run(receiver.url, 1_000)
    assert result.returncode == 0
    assert result.stderr == ""
    assert len(stored_steps(receiver.url)) == 1_000


@pytest.mark.parametrize("ending", ["END; sys.exit(3)", "END; raise SystemExit(3)"])
def test_sys_exit_delivers_everything_and_keeps_its_status(receiver: Receiver, ending: str) -> None:
    result, _ = run(receiver.url, 100, ending)
    assert result.returncode == 3
    assert len(stored_steps(receiver.url)) == 100


def test_an_uncaught_exception_delivers_everything(receiver: Receiver) -> None:
    result, _ = run(receiver.url, 100, "END; 1 / 0")
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr
    assert len(stored_steps(receiver.url)) == 100


def test_a_program_that_tracked_nothing_ends_at_once_and_starts_no_thread(receiver: Receiver) -> None:
    source = """
        import threading, time
        from agentscope import create_tracker
        tracker = create_tracker("ask_test", {url!r})
        print(threading.active_count())
    """
    result = run_program(source.format(url=receiver.url), timeout=90)
    assert result.stdout == "1\n"


def test_a_backend_that_hangs_delays_exit_by_two_seconds_and_the_line_says_how_many_events_were_left() -> None:
    with FaultProxy(mode="hang") as proxy:
        result, delay = run(proxy.url, limits="")
    assert delay < 30  # two seconds, with a margin for a busy machine; all other limits are a minute or more
    assert lines(result) == ["agentscope: 11 events were left undelivered at the end and are lost"]


def test_a_backend_that_hangs_since_before_the_exit_does_not_delay_it_longer() -> None:
    with FaultProxy(mode="hang") as proxy:
        ending = "while not tracker.stats().attempts: time.sleep(0.01)"  # between two looks
        result, delay = run(proxy.url, ending=f"{ending}\n    END", limits="", interval=0.0)
    assert delay < 30  # two seconds, with a margin for a busy machine; all other limits are a minute or more
    assert lines(result) == ["agentscope: 11 events were left undelivered at the end and are lost"]


def test_a_backend_that_refuses_delays_exit_by_one_more_try() -> None:
    with FaultProxy(mode="refuse") as proxy:
        result, delay = run(proxy.url)
    assert delay < 30  # the limit without an acknowledgement is a minute here too
    assert lines(result)[-1] == "agentscope: 11 events were left undelivered at the end and are lost"


def test_a_backend_that_refuses_the_key_is_not_tried_again_at_exit() -> None:
    with FaultProxy(mode="status", code=401) as proxy:
        result, delay = run(proxy.url)
    assert delay < 30  # the limit without an acknowledgement is a minute here too
    assert lines(result)[-1] == "agentscope: 11 events were left undelivered at the end and are lost"


# On a slow machine too, the exit takes longer than the limit without an acknowledgement, and no answer does.
A_SECOND_A_REQUEST = """
    from itertools import count
    from agentscope.exporters.http.transport import Transport
    from agentscope.pipeline import delivery
    requests, began_at, send = count(1), worker.monotonic(), Transport.send
    now = began_at
    def counted(*args, **more):
        global now
        now = began_at + next(requests)
        return send(*args, **more)
    Transport.send = counted
    worker.monotonic = delivery.monotonic = lambda: now
    worker.END_PATIENCE = 40.0
"""


def test_a_slow_platform_that_acknowledges_is_waited_for() -> None:
    # Nothing is sent before the exit. Then about fifteen requests pass between two acknowledgements.
    with DeployedPlatform(latency=0.03) as platform:
        result, _ = run(platform.url, steps=98, limits=A_SECOND_A_REQUEST, interval=60.0)
        assert result.stderr == ""
        assert [step["name"] for step in platform.only_run().steps] == [f"step {i}" for i in range(98)]


def lines(result: Result) -> list[str]:
    """The package's lines on standard error, without the text in brackets."""
    assert "Traceback" not in result.stderr
    return [re.sub(r" \(.*", "", line) for line in result.stderr.splitlines()]
