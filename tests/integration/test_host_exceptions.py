"""Exceptions of the host that come by a signal or from another thread while a call goes on: each reaches the host."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tests.support.program import run_program, start_program

TRIALS = 400

pytestmark = pytest.mark.timing(reason="the exceptions come by the clock, at any instruction")

SETUP = """
    import ctypes, dataclasses, json, random, signal, sys, threading, time
    from agentscope import InMemoryExporter, create_tracker
    from agentscope.tracker.context import current
    from agentscope.voltagent import VoltAgentSDK

    @dataclasses.dataclass
    class Message:
        role: str = "user"
        content: str = "a message of some length"
        number: int = 1

    class Named:
        def __repr__(self):
            return f"Named({sum(range(20))})"

    messages = [Message() for _ in range(200)]
    mixed = [*messages[:20], *(Named() for _ in range(20)), {"a": [1, 2]}, b"text"]
    tracker = create_tracker(exporters=[InMemoryExporter()])
    sdk = VoltAgentSDK(exporters=[InMemoryExporter()])

    @tracker.observe(step_type="tool_call")
    def observed(value):
        return value

    def steps():
        tracker.track_step("step", "tool_call", {"q": mixed}, {"a": mixed})

    def blocks():
        with tracker.track_step_context("step", "llm_call", mixed) as step:
            step.output = mixed
            observed(mixed)

    def runs():
        with tracker.track_run("inner", mixed) as run:
            run.output = mixed

    def volt():
        with sdk.trace(agentId="agent", input=mixed) as trace, trace.add_agent(name="a", input=mixed) as agent:
            agent.add_tool(name="t", input=mixed).success(output=mixed)
            agent.success({"a": mixed}, usage={"total_tokens": 1})

    def small():
        with tracker.track_run("run"):
            with tracker.track_step_context("step"):
                pass
            observed(1)

    def small_volt():
        with sdk.trace(agentId="agent") as trace, trace.add_agent(name="a") as agent:
            agent.add_tool(name="t").success(output=1)
            agent.success(1)
        del trace, agent
"""

DEADLINES = """
    def alarm(number, frame):
        raise TimeoutError("the host's")

    class SoftLimit(Exception):
        pass

    signal.signal(signal.SIGALRM, alarm)
    main = threading.get_ident()
    due, begin = threading.Semaphore(0), []

    def from_thread():
        while due.acquire():
            time.sleep(begin.pop())  # the deadline
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(SoftLimit))

    threading.Thread(target=from_thread, daemon=True).start()

    def trial(work, form):
        delay = random.uniform(0.0002, 0.004)
        before = current()
        until = time.monotonic() + 5
        try:
            if form == "alarm":
                signal.setitimer(signal.ITIMER_REAL, delay)
            else:
                begin.append(delay)
                due.release()
            while time.monotonic() < until:
                work()
        except (TimeoutError, SoftLimit):
            return current() is before
        return None

    run_id = tracker.start_run("agent")
    small_volt()
    for face in (tracker, sdk):
        assert face.flush(60)  # the workers have begun: the start of a thread is not tried here
    random.seed(SEED)
    results = [trial(WORK, FORM) for _ in range(TRIALS)]
    scopes = results.count(False)
    tracker.end_run(run_id=run_id)
    results = {"swallowed": results.count(None), "wrong_step": scopes, "open_runs": len(tracker._recorder.runs._open)}
    for name, face in (("tracker", tracker), ("sdk", sdk)):
        assert face.flush(60).pending == 0
        stats = face.stats()
        assert stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.spooled + stats.pending
        results[name] = stats.queued_bytes
    print(json.dumps(results))
"""


def trials(work: str, form: str, number: int = TRIALS) -> dict[str, int]:
    source = SETUP + DEADLINES.replace("WORK", work).replace("FORM", repr(form)).replace("TRIALS", str(number))
    result = run_program(source.replace("SEED", "1"), timeout=300)
    assert result.returncode == 0, result.stderr
    found: dict[str, int] = result.last_line_json
    return found


@pytest.mark.parametrize("number", [40, pytest.param(TRIALS, marks=pytest.mark.long)])
@pytest.mark.parametrize("form", ["alarm", "thread"])
@pytest.mark.parametrize("work", ["steps", "blocks", "runs", "volt"])
def test_a_deadline_that_strikes_inside_a_call_reaches_the_host(work: str, form: str, number: int) -> None:
    found = trials(work, form, number)
    # An exception at the very entry of a block's `__exit__` comes before any code of ours.
    assert found.pop("wrong_step") <= max(number // 100, 1)
    assert found.pop("open_runs") <= max(number // 100, 1)
    assert found == dict.fromkeys(("swallowed", "tracker", "sdk"), 0)


SIGTERM = """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    tracker.start_run("agent")
    print("ready", flush=True)
    while True:
        tracker.track_step("step", "tool_call", {"messages": messages}, [messages, mixed])
"""


def test_a_sigterm_handler_that_exits_ends_a_program_that_records_all_the_time() -> None:
    codes = []
    for _ in range(12):
        process = start_program(SETUP + SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05)  # so that the signal comes in the middle of a call
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        codes.append(process.returncode)
    assert codes == [7] * 12
