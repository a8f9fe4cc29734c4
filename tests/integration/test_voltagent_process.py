"""Open handles when a process ends, forks or is interrupted."""

from __future__ import annotations

from typing import Any

from ..support import read_api
from ..support.program import run_program

HEAD = """
    import os, sys, time
    from agentscope.voltagent import VoltAgentSDK
    from tests.support.patient import be_patient
    be_patient()
    sdk = VoltAgentSDK(base_url={url!r}, public_key="pk", secret_key="sk")
"""


def run(receiver: Any, source: str) -> Any:
    # Since 3.12 Python warns of every fork beside a thread. These tests are about the state of the child.
    env = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}
    done = run_program((HEAD + source).replace("{url!r}", repr(receiver.url)), env=env, timeout=100)
    assert done.stderr == ""
    return done


def statuses(receiver: Any) -> dict[str, str]:
    (found,) = read_api.runs(receiver.url)
    return {found["agent_name"]: found["status"], **{step["name"]: step["status"] for step in found["steps"]}}


def test_what_was_never_ended_is_closed_as_unfinished_at_exit(receiver: Any) -> None:
    run(
        receiver,
        """
    trace = sdk.trace(agentId="a")
    agent = trace.add_agent("A")
    tool = agent.add_tool("t")
    agent.add_tool("done").success()
    """,
    )
    assert statuses(receiver) == {"a": "unfinished", "A": "unfinished", "t": "unfinished", "done": "completed"}


def test_a_block_that_the_end_of_the_process_leaves_is_an_error(receiver: Any) -> None:
    done = run(
        receiver,
        """
    with sdk.trace(agentId="a") as trace, trace.add_agent("A"):
        sys.exit(3)
    """,
    )
    assert done.returncode == 3
    assert statuses(receiver) == {"a": "failed", "A": "failed"}


def test_a_forked_child_ends_its_own_handles_and_none_of_its_parents(receiver: Any) -> None:
    run(
        receiver,
        """
    trace = sdk.trace(agentId="a")
    agent = trace.add_agent("A")
    while not sdk.tracker._pipeline._worker._warm:   # a fork waits for its imports, but not for ever
        time.sleep(0.01)   # between two looks
    pid = os.fork()
    if pid == 0:
        mine = agent.add_tool("of the child, never ended")
        agent.add_tool("of the child").success()
        del agent, trace
        sys.exit()
    os.waitpid(pid, 0)
    agent.success()
    trace.end()
    """,
    )
    assert statuses(receiver) == {
        "a": "completed",
        "A": "completed",
        "of the child": "completed",
        "of the child, never ended": "unfinished",
    }


def test_a_child_of_multiprocessing_delivers_and_closes_what_it_began(receiver: Any) -> None:
    run(
        receiver,
        """
    import multiprocessing
    trace = sdk.trace(agentId="a")
    def work():
        global tool
        tool = trace.add_tool("of the child")
        trace.add_tool("done").success()
    while not sdk.tracker._pipeline._worker._warm:   # a fork waits for its imports, but not for ever
        time.sleep(0.01)   # between two looks
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    trace.end()
    """,
    )
    assert statuses(receiver) == {"a": "completed", "of the child": "unfinished", "done": "completed"}


def test_handles_in_signal_handlers_never_deadlock_and_lose_nothing(receiver: Any) -> None:
    done = run(
        receiver,
        """
    import json, signal
    trace = sdk.trace(agentId="a")
    signals = 0
    def handler(*_):
        global signals
        signals += 1
        trace.add_tool("from the handler").success()
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    for number in range(5000):
        trace.add_tool("from the program").success(number)
    signal.setitimer(signal.ITIMER_REAL, 0, 0)
    trace.end()
    flushed = sdk.flush(60)
    stats = sdk.stats()
    print(json.dumps([bool(flushed), signals, stats.accepted, stats.delivered, dict(stats.invalid_calls)]))
    """,
    )
    flushed, signals, accepted, delivered, invalid_calls = done.last_line_json
    assert flushed
    assert signals > 5
    assert accepted == delivered == 2 + 2 * (5000 + signals)
    assert invalid_calls == {}
