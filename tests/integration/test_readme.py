"""The README is tested: its programs run, its commands exist, its table of options is the configuration."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agentscope.cli.main import build_parser
from agentscope.config import _NOT_IN_ENVIRONMENT, Config, env_name

from ..support import patient, read_api
from ..support.command import ROOT, run

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("agentscope ")
]


@pytest.mark.parametrize(
    "program", PROGRAMS, ids=lambda program: re.findall(r'(?:(?:track|start)_run\(|agentId=)"(\w+)"', program)[0]
)
def test_a_program_of_the_readme_runs_and_its_run_arrives(program: str, tmp_path: Path, receiver: Any) -> None:
    file = tmp_path / "program.py"
    file.write_text(program.replace("http://localhost:8000", receiver.url), encoding="utf-8")
    env = {**patient.programs(), "AGENTSCOPE_BASE_URL": receiver.url, "HOME": str(tmp_path)}
    done = run(file, cwd=tmp_path, env=env, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    stored = read_api.only_run(receiver.url)
    assert f'"{stored["agent_name"]}"' in program
    assert stored["status"] == "completed"
    assert {step["name"] for step in stored["steps"]} == set(
        re.findall(r'track_step(?:_context)?\(\s*"(\w+)"', program)
        + re.findall(r"observe\(.*\)\n(?:async )?def (\w+)", program)
        + re.findall(r'start_as_current_span\("(\w+)"', program)
        + re.findall(r'"name": "(\w+)"', program)
    )


def test_the_redaction_program_keeps_its_word(tmp_path: Path, receiver: Any) -> None:
    (program,) = (text for text in PROGRAMS if "redact=" in text)
    file = tmp_path / "program.py"
    file.write_text(program, encoding="utf-8")
    env = {**patient.programs(), "AGENTSCOPE_BASE_URL": receiver.url}
    assert run(file, env=env, timeout=100).returncode == 0
    stored = str(read_api.only_run(receiver.url))
    assert "5678" not in stored
    assert "hunter2" not in stored
    assert "card" in stored


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_parses(command: str) -> None:
    arguments = shlex.split(command.replace("$KEY", "ask_key"))[1:]
    if arguments == ["--version"]:
        with pytest.raises(SystemExit, match="0"):
            build_parser().parse_args(arguments)
    else:
        assert build_parser().parse_args(arguments).command == arguments[0]


def test_every_command_and_option_is_in_the_readme() -> None:
    (commands,) = (action for action in build_parser()._actions if isinstance(action.choices, dict))
    assert isinstance(commands.choices, dict)
    for name, parser in commands.choices.items():
        assert f"agentscope {name}" in README
        for action in parser._actions:
            for option in set(action.option_strings) - {"-h", "--help"}:
                assert re.search(rf"agentscope {name}.*{option}\b", README), f"{name} {option}"


def test_the_table_of_options_is_the_configuration() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \| (.+) \|$", README, re.MULTILINE)
    table = {option: (variable.strip("`"), default.strip("`")) for option, variable, default, _ in rows}
    expected = {}
    for item in fields(Config):
        value = getattr(Config(), item.name)
        default = "–" if value in (None, "", (), {}) else str(value)
        variable = "–" if item.name in _NOT_IN_ENVIRONMENT else env_name(item.name)
        expected[item.name] = (variable, default.lower() if isinstance(value, bool) else default)
    assert table == expected


def test_every_test_that_it_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", README))
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    assert named - there == set()


def test_every_line_on_faults_and_ends_names_a_test() -> None:
    (section,) = re.findall(r"### Fault by fault\n(.*?)### Limits", README, re.DOTALL)
    rows = [
        line for line in section.splitlines() if line.startswith("| ") and not line.startswith(("| fault |", "| how "))
    ]
    assert len(rows) > 30
    assert [row for row in rows if "`test_" not in row] == []


def test_it_opens_with_the_two_set_ups() -> None:
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert lines == [
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[server]' && .venv/bin/agentscope demo",
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[server,dev]' && .venv/bin/pytest",
    ]
    assert README.index(lines[1]) < README.index("## ")


def test_links_to_files_and_headings_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in README.splitlines()
        if line[:1] == "#"
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("http"):
            assert (ROOT / target).exists(), target
