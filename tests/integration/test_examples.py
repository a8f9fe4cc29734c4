"""Each example runs as a program, and the receiver has the tree of steps that the example promises."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from ..support import patient, read_api
from ..support.command import ROOT, run
from ..support.program import Result

EXAMPLES = ROOT / "examples"


def start(name: str, receiver: Any) -> Result:
    places = {"AGENTSCOPE_BASE_URL": receiver.url, "VOLTAGENT_BASE_URL": receiver.url}
    done = run(EXAMPLES / name, env={**patient.programs(), **places}, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    return done


def steps(run: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [step for step in run["steps"] if step["name"] == name]


def test_basic_usage(receiver: Any) -> None:
    assert start("basic_usage.py", receiver).stdout == "12 * 7 + 5 = 89\n"
    run = read_api.only_run(receiver.url)
    assert (run["agent_name"], run["status"]) == ("calculator", "completed")
    assert (run["input"], run["output"]) == ({"question": "What is 12 * 7 + 5?"}, {"answer": "12 * 7 + 5 = 89"})
    assert read_api.outline(run) == ["reasoning find_expression", "tool_call calculate"]
    assert steps(run, "calculate")[0]["output"] == {"result": 89}


def test_context_manager(receiver: Any) -> None:
    start("context_manager.py", receiver)
    run = read_api.only_run(receiver.url)
    assert read_api.outline(run) == [
        "tool_call read_file!",
        "tool_call read_file",
        "agent analyst",
        ["tool_call count"],
    ]
    failed, read = steps(run, "read_file")
    assert failed["error"]["type"] == "FileNotFoundError"
    assert read["output"] == {"characters": len((EXAMPLES / "context_manager.py").read_text())}
    assert run["status"] == "completed"
    assert list(steps(run, "analyst")[0]["output"]) == run["output"]["answer"]


def test_decorator(receiver: Any) -> None:
    assert start("decorator.py", receiver).stdout == "Paris and Tokyo differ in 5 letters\n"
    run = read_api.only_run(receiver.url)
    below = ["retrieval look_up", "retrieval look_up", "tool_call distance", "llm_call write_answer"]
    assert read_api.outline(run) == ["agent compare", below]
    assert [step["output"] for step in steps(run, "look_up")] == ["Paris", "Tokyo"]
    assert steps(run, "look_up")[0]["input"] == {"country": "France"}
    assert steps(run, "distance")[0]["output"] == 5
    assert "differ in 5 letters" in str(steps(run, "write_answer")[0]["output"])


def test_spool(receiver: Any) -> None:
    assert start("spool.py", receiver).stdout == (
        "the first process ended with SIGKILL\ndelivered 3 events of its own, and 2 of the process that was killed\n"
    )
    assert sorted(run["agent_name"] for run in read_api.runs(receiver.url)) == ["doomed", "heir"]


def test_async_agent(receiver: Any) -> None:
    assert start("async_agent.py", receiver).stdout == "looked up 3 hosts; delivered: True\n"
    run = read_api.only_run(receiver.url)
    parents = {step["id"]: step["name"] for step in run["steps"]}
    tree = {(parents.get(step["parent_id"]), step["step_type"], step["input"].get("host")) for step in run["steps"]}
    assert tree == {
        (None, "agent", None),
        ("by_name", "tool_call", "localhost"),
        ("by_number", "tool_call", "127.0.0.1"),
        ("by_number", "tool_call", "127.0.0.2"),
    }
    assert run["output"] == {"looked_up": 3}


def test_threads(receiver: Any) -> None:
    start("threads.py", receiver)
    run = read_api.only_run(receiver.url)
    files = {path.name for path in EXAMPLES.glob("*.py")}
    assert read_api.outline(run) == ["agent workers", ["tool_call digest"] * len(files)]
    assert {step["input"]["file"] for step in steps(run, "digest")} == files
    assert run["output"] == {"different": len(files)}


def test_tuned(receiver: Any) -> None:
    done = start("tuned.py", receiver)
    assert done.stdout.startswith("accepted 502, delivered 502, in ")
    run = read_api.only_run(receiver.url)
    assert {step["input"]["from"] for step in run["steps"]} == set(range(1, 501))
    assert run["output"] == {"longest": 143}


def test_custom_agent(receiver: Any) -> None:
    assert start("custom_agent.py", receiver).stdout == "Athens\n"
    run = read_api.only_run(receiver.url)
    asked = ["tool_call flight", "tool_call hotel", "memory remember"]
    assert read_api.outline(run) == [
        "reasoning plan",
        "agent price_agent",
        ["tool_call flight", "tool_call hotel!", "tool_call hotel", "memory remember"],
        "agent price_agent",
        asked,
        "agent price_agent",
        asked,
        "llm_call decide",
    ]
    failed, retried, *_ = steps(run, "hotel")
    assert (failed["error"]["type"], failed["meta_data"], retried["meta_data"]) == (
        "ConnectionError",
        {"attempt": 1},
        {"attempt": 2},
    )
    assert run["output"] == {"choice": "Athens", "prices": {"Athens": 290, "Lisbon": 280, "Oslo": 460}}
    decided = steps(run, "decide")[0]
    assert (decided["tokens_used"], decided["usage"]) == (42, {"input_tokens": 30, "output_tokens": 12})
    assert run["tokens_used"] == 42


def test_processes(receiver: Any) -> None:
    assert start("processes.py", receiver).stdout.startswith("4 words, counted by process ")
    run = read_api.only_run(receiver.url)
    assert run["agent_name"] == "editor"
    assert read_api.outline(run) == ["agent ask_counter", ["agent counter", ["tool_call split"]]]
    assert steps(run, "counter")[0]["output"] == run["output"] == {"words": 4}


def test_otlp(receiver: Any) -> None:
    assert start("otlp.py", receiver).stdout == "delivered: True, by agentscope-batch\n"
    run = read_api.only_run(receiver.url)
    assert read_api.outline(run) == ["retrieval find_notes", "llm_call write"]
    assert (run["agent_name"], run["tokens_used"]) == ("cook", 15)
    assert run["output"]["answer"].startswith("Boil water")


def test_opentelemetry_spans(receiver: Any) -> None:
    assert start("opentelemetry_spans.py", receiver).stdout == "recorded: 5 events\n"
    run = read_api.only_run(receiver.url)
    assert (run["agent_name"], run["tokens_used"], run["output"]) == ("forecaster", 17, {"celsius": -3})
    assert read_api.outline(run) == ["agent weather", ["tool_call thermometer", "llm_call chat a-small-model"]]


def test_voltagent_quickstart(receiver: Any) -> None:
    found = [path for path in EXAMPLES.glob("*.py") if "import asyncio" in path.read_text(encoding="utf-8")]
    done = start("voltagent_quickstart.py", receiver)
    assert done.stdout == f"{len(found)} examples have it\ndelivered: True\n"
    run = read_api.only_run(receiver.url)
    assert (run["agent_name"], run["user_id"], run["tags"]) == ("librarian", "user-1", ["examples"])
    assert (run["status"], run["tokens_used"]) == ("completed", 13)
    below = ["retrieval examples", "memory remember", "tool_call read!"]
    assert read_api.outline(run) == ["agent Librarian", below]
    assert steps(run, "examples")[0]["output"] == {"documents": sorted(path.name for path in found)}
    assert steps(run, "remember")[0]["meta_data"] == {"cacheHit": False}
    assert steps(run, "read")[0]["error"]["type"] == "FileNotFoundError"
    assert run["output"] == {"answer": f"{len(found)} examples have it"}


def test_voltagent_nested(receiver: Any) -> None:
    assert start("voltagent_nested.py", receiver).stdout == "22.0 USD, 3200.0 JPY\n"
    run = read_api.only_run(receiver.url)
    asked = ["agent converter", ["tool_call rate"]]
    failed = ["agent converter!", ["tool_call rate!"]]
    assert read_api.outline(run) == ["agent planner", [*asked, *failed, "other skipped", *asked]]
    assert steps(run, "converter")[1]["error"]["type"] == "KeyError"
    assert steps(run, "skipped")[0]["meta_data"] == {"eventType": "note"}
    assert run["tokens_used"] == 20
    assert (run["meta_data"]["priority"], run["meta_data"]["currenciesAsked"]) == ("low", 3)
    assert run["output"] == {"USD": 22.0, "JPY": 3200.0}


@pytest.mark.skipif(importlib.util.find_spec("langchain_core") is None, reason="langchain-core is not installed")
def test_langchain_example(receiver: Any) -> None:
    assert start("langchain_example.py", receiver).stdout == "Paris.\n"
    run = read_api.only_run(receiver.url)
    assert read_api.outline(run) == ["reasoning prompt", "llm_call llm_call"]
    messages = steps(run, "prompt")[0]["output"]["messages"]
    assert [message["role"] for message in messages] == ["system", "human"]
    assert messages[1]["content"] == "What is the capital of France?"
    assert (steps(run, "llm_call")[0]["output"], steps(run, "llm_call")[0]["tokens_used"]) == (
        {"response": "Paris."},
        16,
    )


def test_langchain_example_says_what_it_needs_where_langchain_is_absent(tmp_path: Path, receiver: Any) -> None:
    (tmp_path / "langchain_core.py").write_text("raise ImportError('not here')\n")
    path = f"{tmp_path}:{ROOT}"
    done = run(EXAMPLES / "langchain_example.py", env={"AGENTSCOPE_BASE_URL": receiver.url, "PYTHONPATH": path})
    assert (done.returncode, done.stderr) == (1, "This example needs LangChain: pip install langchain-core\n")
    assert read_api.runs(receiver.url) == []


def test_every_example_is_tested_and_listed() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {name.removeprefix("test_") for name in globals() if name.removeprefix("test_") in names}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in names if f"({name}.py)" not in listed] == []


def test_an_example_without_a_backend_still_does_its_work_and_says_what_was_lost() -> None:
    done = run(EXAMPLES / "basic_usage.py", env={"AGENTSCOPE_BASE_URL": "http://127.0.0.1:9"}, timeout=60)
    assert (done.returncode, done.stdout) == (0, "12 * 7 + 5 = 89\n")
    assert "4 events" in done.stderr
    assert "Traceback" not in done.stderr
