"""Every program in the README and in the guides runs, and its run arrives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ..support import patient, read_api
from ..support.command import run
from ..support.documents import GUIDES, README, name_of, programs, text_of

PROGRAMS = [
    pytest.param(program, id=f"{name_of(path)}-{number}")
    for path in (README, *GUIDES)
    for number, program in enumerate(programs(path), start=1)
]
NETWORK = ("AgentScopeExporter(", "OTLPExporter(", "VoltAgentExporter(")


def sends_to_a_backend(program: str) -> bool:
    return "exporters=[" not in program or any(name in program for name in NETWORK)


def expected_output(program: str) -> str:
    """The block of text that follows the program in its document, if one does."""
    for path in (README, *GUIDES):
        found = re.search(re.escape(program) + r"```\n+```text\n(.*?)```", text_of(path), re.DOTALL)
        if found:
            return found[1]
    return ""


def without_times(text: str) -> str:
    return re.sub(r"[\d.]+ ms", "… ms", text)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_the_documents_runs_and_its_run_arrives(program: str, tmp_path: Path, receiver: Any) -> None:
    file = tmp_path / "program.py"
    file.write_text(program.replace("http://localhost:8000", receiver.url), encoding="utf-8")
    env = {**patient.programs(), "AGENTSCOPE_BASE_URL": receiver.url, "HOME": str(tmp_path)}
    done = run(file, cwd=tmp_path, env=env, timeout=100)
    assert (done.returncode, without_times(done.stdout), done.stderr) == (0, expected_output(program), "")
    if not sends_to_a_backend(program):
        assert read_api.runs(receiver.url) == []
        return
    stored = read_api.runs(receiver.url)
    assert len(stored) == 1 or "ProcessPoolExecutor" in program
    assert {f'"{run["agent_name"]}"' in program for run in stored} == {True}
    assert {run["status"] for run in stored} == {"completed"}
    assert {step["name"] for run in stored for step in run["steps"]} == set(
        re.findall(r'(?:track_step(?:_context)?|start_step)\(\s*"(\w+)"', program)
        + re.findall(r"observe\(.*\)\n(?:async )?def (\w+)", program)
        + re.findall(r'start_as_current_span\("(\w+)"', program)
        + re.findall(r'"name": "(\w+)"', program)
    )


@pytest.mark.parametrize(
    ("redact", "secrets"), [('redact=[r"', ("5678", "hunter2")), ("redact=without_inputs", ("Jane", "patient"))]
)
def test_a_redaction_program_sends_none_of_its_secrets(
    redact: str, secrets: tuple[str, ...], tmp_path: Path, receiver: Any
) -> None:
    (guide,) = (path for path in GUIDES if path.name == "redaction.md")
    (program,) = (text for text in programs(guide) if redact in text)
    file = tmp_path / "program.py"
    file.write_text(program, encoding="utf-8")
    env = {**patient.programs(), "AGENTSCOPE_BASE_URL": receiver.url}
    assert run(file, env=env, timeout=100).returncode == 0
    stored = str(read_api.only_run(receiver.url))
    assert [secret for secret in secrets if secret in stored] == []
