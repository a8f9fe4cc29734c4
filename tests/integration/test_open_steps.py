"""A step that hangs, and one in which its process was killed, as the receiver shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.sdk.trace import TracerProvider

from agentscope import create_tracker
from agentscope.integrations.otel import AgentScopeSpanProcessor
from agentscope.server.receiver import Receiver
from tests.support.program import start_program
from tests.support.wait import until

AGENTSCOPE = """
    import os, time
    from agentscope import create_tracker
    tracker = create_tracker("ask_test", {url!r}, {options})
    with tracker.track_run("agent", input_data={{"q": 1}}):
        with tracker.track_step_context("helper", step_type="agent", input_data={{"task": "x"}}):
            with tracker.track_step_context("quick", step_type="tool_call"):
                pass
            with tracker.track_step_context("hangs", step_type="tool_call", input_data={{"password": "p4ss-w0rd", "u": 2}}):
                while not os.path.exists({go!r}):
                    time.sleep(0.05)  # between two looks
    tracker.shutdown()
"""

VOLTAGENT = """
    import os, time
    from agentscope.voltagent import VoltAgentSDK
    sdk = VoltAgentSDK(base_url={url!r}, public_key="pk", secret_key="sk", {options})
    with sdk.trace(agentId="agent", input={{"q": 1}}) as trace:
        with trace.add_agent({{"name": "helper", "input": {{"task": "x"}}}}) as agent:
            agent.add_tool({{"name": "quick"}}).success({{}})
            tool = agent.add_tool({{"name": "hangs", "input": {{"password": "p4ss-w0rd", "u": 2}}}})
            while not os.path.exists({go!r}):
                time.sleep(0.05)  # between two looks
            tool.success({{"done": True}})
    sdk.shutdown()
"""

SPANS = """
    import os, time
    from opentelemetry.sdk.trace import TracerProvider
    from agentscope import create_tracker
    from agentscope.integrations.otel import AgentScopeSpanProcessor
    tracker = create_tracker("ask_test", {url!r}, {options})
    provider = TracerProvider()
    provider.add_span_processor(AgentScopeSpanProcessor(tracker))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("root", attributes={{"input.value": '{{"q": 1}}', "openinference.span.kind": "AGENT"}}):
        with tracer.start_as_current_span("helper", attributes={{"input.value": '{{"task": "x"}}'}}):
            with tracer.start_as_current_span("quick"):
                pass
            told = {{"input.value": '{{"password": "p4ss-w0rd", "u": 2}}', "input.mime_type": "application/json"}}
            with tracer.start_as_current_span("hangs", attributes=told):
                while not os.path.exists({go!r}):
                    time.sleep(0.05)  # between two looks
    tracker.shutdown()
"""

WANTED_SPANS = SPANS.replace(
    "Processor(tracker)", 'Processor(tracker, only=lambda span: span.name != "unwanted")'
).replace(
    '            with tracer.start_as_current_span("quick"):',
    '            tracer.start_span("unwanted")\n            with tracer.start_as_current_span("quick"):',
)

OTLP = AGENTSCOPE.replace(
    'create_tracker("ask_test", {url!r}, {options})', 'create_tracker(protocol="otlp", endpoint={url!r}, {options})'
)


def shown(receiver: Receiver) -> dict[str, Any]:
    """The only run that the receiver shows; {} while there is none."""
    listed = requests.get(f"{receiver.url}/api/runs", timeout=10).json()["runs"]
    if not listed:
        return {}
    (run,) = listed
    whole: dict[str, Any] = requests.get(f"{receiver.url}/api/runs/{run['id']}", timeout=10).json()
    assert whole["status"] == run["status"]
    return whole


def statuses(receiver: Receiver) -> dict[str, str]:
    run = shown(receiver)
    return {"": run["status"], **{step["name"]: step["status"] for step in run["steps"]}} if run else {}


def let_pass(receiver: Receiver, seconds: float) -> None:
    before: Callable[[], float] = receiver.store._now
    receiver.store._now = lambda: before() + seconds


OPEN = {"": "running", "helper": "running", "quick": "completed", "hangs": "running"}


@pytest.mark.parametrize("program", [AGENTSCOPE, VOLTAGENT, SPANS, WANTED_SPANS, OTLP])
@pytest.mark.parametrize("spooled", [False, True])
def test_a_hanging_tool_is_shown_as_running_and_after_a_kill_as_interrupted(
    receiver: Receiver, tmp_path: Path, spooled: bool, program: str
) -> None:
    options = f"spool_dir={str(tmp_path / 'spool')!r}" if spooled else ""
    let_pass(receiver, 60)  # the first moments of a receiver, in which no session counts as silent
    process = start_program(program.format(url=receiver.url, options=options, go=str(tmp_path / "go")))
    until(lambda: statuses(receiver) == OPEN, what="the tool is shown as running")
    run = shown(receiver)
    helper, _, hangs = run["steps"]
    assert (helper["input"], hangs["parent_id"], run["input"]) == ({"task": "x"}, helper["id"], {"q": 1})
    assert hangs["input"]["u"] == 2
    assert "p4ss" not in str(run)

    process.kill()
    process.communicate()
    let_pass(receiver, 60)
    assert statuses(receiver) == {**OPEN, "": "interrupted", "helper": "interrupted", "hangs": "interrupted"}
    page = requests.get(f"{receiver.url}/runs/{run['id']}", timeout=10).text
    assert page.count('<span class="status interrupted">interrupted</span>') == 3
    found = requests.get(f"{receiver.url}/api/runs?status=interrupted", timeout=10).json()["runs"]
    assert [each["id"] for each in found] == [run["id"]]


@pytest.mark.parametrize("program", [AGENTSCOPE, VOLTAGENT, SPANS, WANTED_SPANS, OTLP])
def test_a_step_that_was_announced_ends_as_one_that_was_not(receiver: Receiver, tmp_path: Path, program: str) -> None:
    process = start_program(program.format(url=receiver.url, options="", go=str(tmp_path / "go")))
    until(lambda: statuses(receiver) == OPEN, what="the tool is shown as running")
    (tmp_path / "go").touch()
    process.communicate()
    assert process.returncode == 0
    assert statuses(receiver) == dict.fromkeys(OPEN, "completed")
    assert len(shown(receiver)["steps"]) == 3
    assert receiver.store.health()["duplicates"] == 0


def test_a_voltagent_trace_is_shown_before_anything_of_it_has_ended(receiver: Receiver, tmp_path: Path) -> None:
    quick = '            agent.add_tool({{"name": "quick"}}).success({{}})\n'
    program = VOLTAGENT.replace(quick, "")
    assert program != VOLTAGENT
    process = start_program(program.format(url=receiver.url, options="", go=str(tmp_path / "go")))
    until(lambda: statuses(receiver) == {"": "running", "helper": "running", "hangs": "running"})
    (tmp_path / "go").touch()
    process.communicate()
    assert statuses(receiver) == {"": "completed", "helper": "completed", "hangs": "completed"}


def test_a_span_that_was_shown_while_it_was_open_ends_although_it_is_not_wanted_then(receiver: Receiver) -> None:
    tracker = create_tracker("ask_test", receiver.url)
    provider = TracerProvider()
    provider.add_span_processor(AgentScopeSpanProcessor(tracker, only=lambda span: span.end_time is None))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("root"):
        with tracer.start_as_current_span("slow") as slow:
            until(lambda: statuses(receiver) == {"": "running", "slow": "running"})
            slow.set_attribute("output.value", "not wanted")
        with tracer.start_as_current_span("quick"):
            pass
    assert tracker.shutdown()
    assert statuses(receiver) == {"": "completed", "slow": "completed"}
    assert "not wanted" not in str(shown(receiver))
