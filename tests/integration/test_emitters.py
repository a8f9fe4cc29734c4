"""Emitters of OpenTelemetry, each with an agent that asks a model, calls a tool and asks again: the receiver shows that tree.

One command each, such as

    AGENTSCOPE_TEST_PYTHON=/venv/bin/python pytest -m by_hand tests/integration/test_emitters.py -k strands

All of them run offline, with a model on loopback. AGENTSCOPE_TEST_PYTHON names interpreters with the packages, separated by `:`,
since not all of them fit into one environment; AGENTSCOPE_TEST_NODE_MODULES the folder `node_modules` of those in JavaScript.

They passed last with Python 3.11, Node 20 and: openinference-instrumentation-openai 0.1.66, -smolagents 0.1.43 with smolagents
1.26.0, -llama-index 4.6.1 with llama-index-core 0.14.25; opentelemetry-instrumentation-openai 0.62.4 (OpenLLMetry);
opentelemetry-instrumentation-openai-v2 2.3b0 with wrapt 1; logfire 5.4.0 with pydantic-ai-slim 2.68.0; langfuse 5.0.4; langsmith
0.15.1; mlflow-skinny 3.17.2; strands-agents 1.62.0; google-adk 2.13.0; opentelemetry-sdk 1.45.1; ai 5, @opentelemetry/sdk-node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agentscope.server.receiver import Receiver
from tests.support.read_api import only_run
from tests.support.receiver import Client
from tests.support.stub_model import ANSWER, stub_model

# Read here, because the tests do not see AGENTSCOPE_ variables.
PYTHONS = os.environ.get("AGENTSCOPE_TEST_PYTHON", sys.executable).split(os.pathsep)
NODE_MODULES = os.environ.get("AGENTSCOPE_TEST_NODE_MODULES")
PROGRAMS = Path(__file__).parents[1] / "support" / "emitters"
QUESTION = "How is the weather in Paris?"
SECONDS = 300

pytestmark = pytest.mark.timeout(2 * SECONDS)


class Emitter(NamedTuple):
    program: str
    """The name of a file in `PROGRAMS`."""
    package: str
    """The module, or the package of Node, that it needs."""
    name: str
    """The name of its run."""
    tree: tuple[str, ...]
    """Type, name and depth of each step, by its start."""
    tokens: int = 36
    """The usage of the run."""
    tool: tuple[str, Any, Any] | None = ("get_weather", {"city": "Paris"}, "sunny in Paris")
    """Name, input and output of the call of the tool; None where the emitter tells no step of it."""
    user: str | None = None


CALL = "llm_call chat gpt-4o"
TOOL = "tool_call get_weather"
EMITTERS = (
    Emitter(
        "opentelemetry_python.py",
        "opentelemetry.sdk",
        "forecaster",
        (TOOL, CALL),
        18,
        ("get_weather", {"city": "Paris"}, "sunny"),
    ),
    Emitter(
        "openinference.py",
        "openinference.instrumentation.openai",
        "forecaster",
        ("llm_call ChatCompletion",) * 2,
        tool=None,
    ),
    Emitter(
        "openllmetry.py",
        "opentelemetry.instrumentation.openai",
        "forecaster",
        ("llm_call openai.chat",) * 2,
        tool=None,
    ),
    Emitter("openai_v2.py", "opentelemetry.instrumentation.openai_v2", "forecaster", (CALL, CALL), tool=None),
    Emitter(
        "logfire_pydantic_ai.py",
        "logfire",
        "question of ann",
        ("agent forecaster", f"  {CALL}", f"  {TOOL}", f"  {CALL}"),
    ),
    Emitter(
        "smolagents_openinference.py",
        "smolagents",
        "forecaster.run",
        (
            *("other Step 1", "  llm_call OpenAIModel.generate", f"  {TOOL}"),
            *("other Step 2", "  llm_call OpenAIModel.generate", f"  {TOOL}", "llm_call OpenAIModel.generate"),
        ),
        tokens=54,
        tool=(
            "get_weather",
            {"args": [], "sanitize_inputs_outputs": True, "kwargs": {"city": "Paris"}},
            "sunny in Paris",
        ),
    ),
    Emitter(
        "langfuse_sdk.py",
        "langfuse",
        "forecaster",
        (TOOL, "llm_call ask"),
        18,
        ("get_weather", {"args": ["Paris"], "kwargs": {}}, "sunny in Paris"),
        "ann",
    ),
    Emitter(
        "langsmith_sdk.py",
        "langsmith",
        "forecaster",
        (TOOL, "llm_call ChatOpenAI"),
        18,
        ("get_weather", {"city": "Paris"}, {"output": "sunny in Paris"}),
    ),
    Emitter("mlflow_tracing.py", "mlflow", "forecaster", (TOOL, "llm_call ask"), 18),
    Emitter(
        "strands.py",
        "strands",
        "forecaster",
        (
            *("other execute_event_loop_cycle", "  llm_call chat", f"  {TOOL}"),
            *("other execute_event_loop_cycle", "  llm_call chat"),
        ),
        tool=("get_weather", {"city": "Paris"}, [{"text": "sunny in Paris"}]),
    ),
    Emitter(
        "llama_index.py",
        "llama_index.core",
        "FunctionAgent.run",
        (
            *("other BaseWorkflowAgent.init_run", "other BaseWorkflowAgent.setup_agent"),
            *("other BaseWorkflowAgent.run_agent_step", "  llm_call OpenAILike._prepare_chat_with_tools"),
            *("  llm_call OpenAILike.achat", "    llm_call OpenAILike.achat"),
            *("other BaseWorkflowAgent.parse_agent_output", "other BaseWorkflowAgent.call_tool", f"  {TOOL}"),
            *("other BaseWorkflowAgent.aggregate_tool_results", "other BaseWorkflowAgent.setup_agent"),
            *("other BaseWorkflowAgent.run_agent_step", "  llm_call OpenAILike._prepare_chat_with_tools"),
            *("  llm_call OpenAILike.achat", "    llm_call OpenAILike.achat"),
            "other BaseWorkflowAgent.parse_agent_output",
        ),
        tool=None,
    ),
    Emitter(
        "google_adk.py",
        "google.adk.models",
        "forecaster",
        ("llm_call generate_content gemini", TOOL, "llm_call generate_content gemini"),
        tool=("get_weather", {"city": "Paris"}, {"weather": "sunny in Paris"}),
    ),
    Emitter(
        "vercel_ai.mjs",
        "ai",
        "forecaster",
        ("llm_call ai.generateText.doGenerate", TOOL, "llm_call ai.generateText.doGenerate"),
        user="ann",
    ),
    Emitter(
        "opentelemetry_js.mjs",
        "@opentelemetry/sdk-node",
        "forecaster",
        (TOOL, CALL),
        18,
        ("get_weather", {"city": "Paris"}, "sunny"),
    ),
)
IN_DEV = "opentelemetry_python.py"  # of which everything is installed with the extra `dev`


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(db=tmp_path / "runs.db") as running:
        yield running


def emit(emitter: Emitter, receiver: Receiver, folder: Path, **variables: str) -> None:
    """Run the program of an emitter against a receiver. Skips the test where its packages are not installed."""
    if emitter.program.endswith(".mjs"):
        if NODE_MODULES is None or not Path(NODE_MODULES, emitter.package).exists():
            pytest.skip(f"{emitter.package} is not in AGENTSCOPE_TEST_NODE_MODULES")
        (folder / "node_modules").symlink_to(NODE_MODULES)
        command = ["node", shutil.copy(PROGRAMS / emitter.program, folder)]
    else:
        known = [
            python for python in PYTHONS if subprocess.run([python, "-c", f"import {emitter.package}"]).returncode == 0
        ]
        if not known:
            pytest.skip(f"{emitter.package} is not in an environment of AGENTSCOPE_TEST_PYTHON")
        command = [known[-1], "-m", f"tests.support.emitters.{emitter.program[:-3]}"]
    with stub_model() as model:
        environment = {
            **os.environ,
            "RECEIVER": receiver.url,
            "STUB_MODEL": model,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "PYTHONPATH": str(PROGRAMS.parents[2]),
            **variables,
        }
        done = subprocess.run(
            command, env=environment, cwd=PROGRAMS.parents[2], capture_output=True, text=True, timeout=SECONDS
        )
    assert done.returncode == 0, done.stderr
    assert "export" not in done.stderr.lower(), done.stderr


def tree_of(run: dict[str, Any]) -> tuple[str, ...]:
    depths: dict[str | None, int] = {None: -1}
    lines = []
    for step in run["steps"]:
        depths[step["id"]] = depths[step["parent_id"]] + 1
        lines.append(f"{'  ' * depths[step['id']]}{step['step_type']} {step['name']}")
    return tuple(lines)


@pytest.mark.parametrize(
    "emitter",
    [
        pytest.param(emitter, marks=[] if emitter.program == IN_DEV else pytest.mark.by_hand, id=emitter.program)
        for emitter in EMITTERS
    ],
)
def test_the_run_of_an_emitter_is_what_it_did(emitter: Emitter, receiver: Receiver, tmp_path: Path) -> None:
    variables = (
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver.url}/v1/traces"} if "mlflow" in emitter.program else {}
    )
    emit(emitter, receiver, tmp_path, **variables)
    run = only_run(receiver.url)
    assert (run["agent_name"], run["status"], run["user_id"]) == (emitter.name, "completed", emitter.user)
    assert sorted(tree_of(run)) == sorted(emitter.tree)
    assert run["tokens_used"] == emitter.tokens
    assert all(step["status"] == "completed" and step["error"] is None for step in run["steps"])
    assert not any("unattached_parent_id" in step for step in run["steps"])
    calls = [step for step in run["steps"] if step["step_type"] == "llm_call"]
    assert QUESTION in str(calls[0]["input"])
    assert ANSWER in str(calls[-1]["output"])
    assert all(step["meta_data"]["resource"] for step in run["steps"])
    if emitter.tool is not None:
        tool = next(step for step in run["steps"] if step["step_type"] == "tool_call")
        assert (tool["name"], tool["input"], tool["output"]) == emitter.tool
    assert Client(receiver.url).get("/health").json["not_kept"]["log_records"] == 0


@pytest.mark.by_hand
@pytest.mark.parametrize("program", ["openinference.py", "openllmetry.py", "openai_v2.py"])
def test_a_call_that_fails_is_a_failure_of_its_step(program: str, receiver: Receiver, tmp_path: Path) -> None:
    (emitter,) = [emitter for emitter in EMITTERS if emitter.program == program]
    emit(emitter, receiver, tmp_path, MODEL="broken")
    run = only_run(receiver.url)
    (call,) = run["steps"]
    assert (call["step_type"], call["status"], run["error_count"], run["status"]) == ("llm_call", "failed", 1, "failed")
    assert "no model" in str(call["error"]) or "no model" in str(run["error"])
    assert QUESTION in str(call["input"])
