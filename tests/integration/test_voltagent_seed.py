"""The VoltAgent document's own examples, word for word, with a running receiver: by OTLP, and by the history calls.

The code is kept as text. Only the name of the package and the address are changed, and missing imports are added. The fragments
of its step-by-step guide are joined to one program.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support import patient, read_api
from ..support.command import ROOT, run
from ..support.faults import MODES
from ..support.program import Result
from ..support.proxy import FaultProxy

DOCUMENT = ROOT / "tests" / "support" / "seed_examples" / "voltagent.md"
CODE = dict(
    re.findall(r"^#+ ([^\n]+)\n\n```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
)
IMPORTS = "import asyncio\nfrom voltagent import VoltAgentSDK\n\n"
GUIDE = [
    "2. Create a Trace",
    "3. Add an Agent to the Trace",
    "Tools (External API calls)",
    "Memory Operations",
    "Retrieval Operations",
    "5. Working with Sub-Agents",
    "6. Complete the Agent and Trace",
]


def without_otlp(exchange: Any, request: Any) -> None:
    """The receiver without its OTLP endpoint, so that the history calls are used."""
    if request.target.endswith("/otel/v1/traces"):
        MODES["status"](exchange, request, code=404)
    else:
        MODES["pass"](exchange, request)


@pytest.fixture(params=["otlp", "history"])
def url(request: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL to which the example sends. The stored runs are read from the receiver itself."""
    if request.param == "otlp":
        yield receiver.url
        return
    monkeypatch.setitem(MODES, "without_otlp", without_otlp)
    with FaultProxy(receiver.url, "without_otlp") as proxy:
        yield proxy.url
        assert {seen.target.split("/")[1] for seen in proxy.requests} == {"api", "history", "history-events"}


def run_program(code: str, url: str, folder: Path) -> Result:
    for old, new in (("from voltagent import", "from agentscope.voltagent import"), ("https://api.voltagent.dev", url)):
        assert old in code
        code = code.replace(old, new)
    path = folder / "example.py"
    path.write_text(code, encoding="utf-8")
    done = run(path, cwd=folder, env=patient.programs(), timeout=100)
    assert done.returncode == 0, done
    return done


def run_example(heading: str, url: str, folder: Path) -> None:
    code = CODE[heading]
    done = run_program(code if code.startswith("import asyncio") else IMPORTS + code, url, folder)
    assert (done.stdout, done.stderr) == ("", "")


def steps(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {step["name"]: step for step in run["steps"]}
    assert len(found) == len(run["steps"])
    return found


def statuses(run: dict[str, Any]) -> set[str]:
    return {step["status"] for step in run["steps"]}


def test_quick_start(url: str, receiver: Any, tmp_path: Path) -> None:
    run_example("🚀 Quick Start", url, tmp_path)
    run = read_api.only_run(receiver.url)
    assert (run["agent_name"], run["status"], run["tokens_used"]) == ("customer-support-v1", "completed", 235)
    assert run["input"] == {"query": "How to reset my password?"}
    assert (run["user_id"], run["conversation_id"]) == ("user-123", "conv-456")
    assert (run["tags"], run["source"]) == (["support", "password-reset"], "voltagent")
    assert read_api.outline(run) == ["agent Support Agent", ["tool_call knowledge-base-search"]]
    assert statuses(run) == {"completed"}
    agent, tool = steps(run)["Support Agent"], steps(run)["knowledge-base-search"]
    assert agent["output"] == {"response": "Password reset link sent!"}
    assert agent["usage"] == {"input_tokens": 150, "output_tokens": 85, "total_tokens": 235}
    assert agent["meta_data"] == {
        "instructions": "You are a helpful customer support agent.",
        "modelParameters": {"model": "gpt-4"},
    }
    assert tool["input"] == {"query": "password reset procedure"}
    assert tool["output"] == {"results": ["Reset via email", "Reset via SMS"], "relevance_score": 0.89}


def test_weather(url: str, receiver: Any, tmp_path: Path) -> None:
    run_example("Simple Weather Agent", url, tmp_path)
    run = read_api.only_run(receiver.url)
    assert (run["agent_name"], run["status"], run["tokens_used"]) == ("weather-agent-v1", "completed", 75)
    assert read_api.outline(run) == ["agent Weather Agent", ["tool_call weather_api", "memory cache_weather"]]
    assert statuses(run) == {"completed"}
    assert steps(run)["Weather Agent"]["output"] == {"response": "It's 22°C and sunny in Istanbul!"}
    assert steps(run)["cache_weather"]["output"] == {"cached": True, "expires_in": 3600}


def test_research(url: str, receiver: Any, tmp_path: Path) -> None:
    run_example("Multi-Agent Research Workflow", url, tmp_path)
    run = read_api.only_run(receiver.url)
    assert (run["agent_name"], run["status"], run["tokens_used"]) == ("research-orchestrator", "completed", 1030)
    assert read_api.outline(run) == [
        "agent Research Agent",
        ["retrieval web_search"],
        "agent Summary Agent",
        ["agent Translation Agent", ["tool_call translate_api"]],
    ]
    assert statuses(run) == {"completed"}
    assert steps(run)["translate_api"]["output"] == {"translated_text": "AI eğilimleri özeti..."}


def test_error_handling(url: str, receiver: Any, tmp_path: Path) -> None:
    run_example("Error Handling", url, tmp_path)
    run = read_api.only_run(receiver.url)
    assert (run["agent_name"], run["status"]) == ("test-agent", "completed")
    assert read_api.outline(run) == ["agent Risky Agent!", ["tool_call external_api!"]]
    agent, tool = steps(run)["Risky Agent"], steps(run)["external_api"]
    # The document does not define this function.
    assert (tool["error"]["type"], tool["error"]["message"]) == ("NameError", "name 'call_external_api' is not defined")
    assert "result = await call_external_api()" in tool["error"]["traceback"]
    assert tool["meta_data"] == {"errorCode": "API_TIMEOUT", "retryAttempts": 3}
    assert agent["error"] == {"message": "Agent failed due to tool error"}
    assert agent["meta_data"]["failedTool"] == "external_api"


def joined_guide() -> str:
    """Join the fragments: each goes into the block that the fragment before it leaves open with `pass`."""
    body = ""
    for heading in reversed(GUIDE):
        fragment = CODE[heading]
        opened, found, _ = fragment.rpartition("    pass\n")
        body = opened + textwrap.indent(body, "    ") if found else fragment + body
    start = CODE["1. Initialize the SDK"]
    return f"import asyncio\n{start}\nasync def main():\n{textwrap.indent(body, '    ')}\nasyncio.run(main())\n"


def test_the_fragments_of_the_guide_joined(url: str, receiver: Any, tmp_path: Path) -> None:
    done = run_program(joined_guide(), url, tmp_path)
    # In the document the error after the success is "if needed".
    assert done.stderr == "agentscope: a run or step was ended twice; only the first end counts\n"
    run = read_api.only_run(receiver.url)
    assert (run["agent_name"], run["status"], run["tokens_used"]) == ("customer-support-v1", "completed", 365)
    assert {key: run["meta_data"][key] for key in ("priority", "source")} == {"priority": "high", "source": "web-chat"}
    assert read_api.outline(run) == [
        "agent Support Agent",
        [
            "tool_call knowledge-base-search",
            "memory user-context-storage",
            "retrieval policy-document-retriever",
            "agent Policy Checker",
            ["tool_call policy-verification"],
        ],
    ]
    assert statuses(run) == {"completed"}
    found = steps(run)
    search, checker, agent = found["knowledge-base-search"], found["Policy Checker"], found["Support Agent"]
    assert search["error"] is None
    assert search["meta_data"] == {
        "searchType": "semantic",
        "database": "support-kb",
        "searchTime": "0.2s",
        "indexUsed": "support-kb-v2",
    }
    assert checker["meta_data"]["parentAgent"] == agent["id"]
    assert checker["meta_data"]["policiesChecked"] == ["password-policy", "premium-user-policy"]
    assert agent["output"]["user_satisfied"] is True
    assert agent["meta_data"]["confidenceScore"] == 0.95
    assert found["user-context-storage"]["input"]["value"] == {"last_login": "2024-01-15", "account_type": "premium"}


def test_every_complete_example_and_every_fragment_of_the_document_is_run() -> None:
    examples = {"🚀 Quick Start", "Simple Weather Agent", "Multi-Agent Research Workflow", "Error Handling"}
    assert set(CODE) == {*examples, *GUIDE, "1. Initialize the SDK"}
