"""The seed document's own examples, word for word, with a platform that has only the three classic calls.

They are kept as text. Only the name of the package and hard-coded addresses are changed.
"""

from __future__ import annotations

from pathlib import Path

from ..support import patient
from ..support.command import ROOT, run
from ..support.platform import DeployedPlatform
from ..support.program import Result

KEY = "ask_your_api_key_here"

EXAMPLES = ROOT / "tests" / "support" / "seed_examples"

# A LangChain of the seed's days, as far as its example goes.
LANGCHAIN_PACKAGE = {
    "langchain/__init__.py": "",
    "langchain/schema.py": "class HumanMessage:\n    def __init__(self, content):\n        self.content = content\n",
    "langchain/chat_models.py": """\
from types import SimpleNamespace

class ChatOpenAI:
    def __init__(self, temperature):
        self.temperature = temperature

    def __call__(self, messages):
        assert messages[0].content == "What is the capital of France?"
        return SimpleNamespace(content="Paris.", response_metadata={"token_usage": {"total_tokens": 16}})
""",
}


def run_example(name: str, platform: DeployedPlatform, folder: Path, files: dict[str, str] | None = None) -> Result:
    text = (EXAMPLES / f"{name}.txt").read_text(encoding="utf-8")
    for name, content in {"example.py": text, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        renamed = content.replace("agentscope_sdk", "agentscope").replace("http://localhost:8000", platform.url)
        path.write_text(renamed, encoding="utf-8")
    env = {**patient.programs(folder), "AGENTSCOPE_BASE_URL": platform.url}
    done = run(folder / "example.py", cwd=folder, env=env, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    return done


def test_basic_usage_arrives_whole_and_in_order(tmp_path: Path) -> None:
    with DeployedPlatform(KEY) as platform:
        run_example("basic_usage", platform, tmp_path)
    stored = platform.only_run()
    assert (stored.agent_name, stored.input) == ("my_agent", {"query": "What is the weather in SF?"})
    assert [(step["name"], step["step_type"], step["tokens_used"], step["latency_ms"]) for step in stored.steps] == [
        ("search_weather", "tool_call", 0, 150),
        ("llm_generate_response", "llm_call", 50, 500),
    ]
    assert stored.steps[0]["output"] == {"temperature": 65, "condition": "sunny"}
    assert stored.steps[1]["output"] == {"response": "It's 65°F and sunny in San Francisco!"}
    assert (stored.status, stored.output) == ("completed", {"response": "It's 65°F and sunny in San Francisco!"})
    assert len(stored.updates) == 1
    only_the_batch_call_was_refused(platform)


def test_context_manager_arrives_whole_and_in_order(tmp_path: Path) -> None:
    with DeployedPlatform(KEY) as platform:
        done = run_example("context_manager", platform, tmp_path)
    stored = platform.only_run()
    assert [(step["name"], step["step_type"]) for step in stored.steps] == [
        ("llm_call", "custom"),
        ("final_step", "custom"),
    ]
    assert [step["meta_data"]["step_type"] for step in stored.steps] == ["other", "other"]
    assert stored.steps[0]["input"] == {"prompt": "..."}
    assert stored.steps[1]["output"] == {"result": "AI response"}
    assert (stored.status, len(stored.updates)) == ("completed", 1)
    assert done.stdout == f"Run ID: {stored.meta_data['agentscope_run_id']}\n"
    assert stored.external_id == stored.meta_data["agentscope_run_id"]
    only_the_batch_call_was_refused(platform)


def test_langchain_example_arrives_whole(tmp_path: Path) -> None:
    with DeployedPlatform(KEY) as platform:
        assert run_example("langchain_example", platform, tmp_path, LANGCHAIN_PACKAGE).stdout == "Paris.\n"
    stored = platform.only_run()
    assert (stored.agent_name, stored.input) == ("langchain_agent", {"query": "What is the capital of France?"})
    (step,) = stored.steps
    assert (step["name"], step["step_type"], step["tokens_used"]) == ("llm_call", "llm_call", 16)
    assert (step["input"], step["output"]) == ({"query": "What is the capital of France?"}, {"response": "Paris."})
    assert (stored.status, len(stored.updates)) == ("completed", 1)
    only_the_batch_call_was_refused(platform)


def test_quick_start_arrives_whole(tmp_path: Path) -> None:
    with DeployedPlatform(KEY) as platform:
        run_example("quick_start", platform, tmp_path)
    stored = platform.only_run()
    assert [(step["name"], step["output"]) for step in stored.steps] == [("llm_call", {"response": "..."})]
    assert (stored.status, len(stored.updates)) == ("completed", 1)
    only_the_batch_call_was_refused(platform)


def only_the_batch_call_was_refused(platform: DeployedPlatform) -> None:
    """Check that the only refused request is the batch call, which the exporter tries once."""
    assert [path for _, path, _ in platform.refusals if path != "/api/ingest/batch"] == []
    assert len(platform.refusals) <= 1
