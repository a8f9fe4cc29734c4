"""Printing runs to a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest

from agentscope.exporters.terminal import Style, brief, clean, milliseconds, shorten, tree


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def step(name: str, parent: str | None = None, **fields: Any) -> dict[str, Any]:
    values = {"id": name, "parent_id": parent, "name": name, "step_type": "other", "status": "completed"}
    return {**values, "error": None, "output": None, "latency_ms": 1, **fields}


def run(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"agent_name": "agent", "status": "completed", "duration_ms": 12, "steps": list(steps), **fields}


def test_a_pipe_gets_no_colour() -> None:
    assert not Style.of(io.StringIO(), {}).color


@pytest.mark.parametrize(
    ("environ", "color"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)]
)
def test_a_terminal_gets_colour_unless_told_otherwise(environ: dict[str, str], color: bool) -> None:
    assert Style.of(Terminal(), environ).color is color


def test_an_encoding_without_line_art_gets_ascii() -> None:
    style = Style.of(io.TextIOWrapper(io.BytesIO(), encoding="ascii"), {})
    assert not style.unicode
    assert style.art("├─ ✓ 5 µs … é") == "|- + 5 us ... ?"


def test_children_stand_below_their_parents_and_orphans_at_the_top() -> None:
    lines = tree(run(step("a"), step("b", "a"), step("c", "b"), step("d", "a"), step("e", "unknown")), Style())
    drawn = [line.partition("  other")[0].rstrip() for line in lines[1:]]
    assert drawn == ["├─ ✓ a", "│  ├─ ✓ b", "│  │  └─ ✓ c", "│  └─ ✓ d", "└─ ✓ e"]


def test_steps_that_are_each_others_parent_do_not_hang_the_tree() -> None:
    assert len(tree(run(step("a"), step("b", "c"), step("c", "b")), Style())) == 2


def test_a_run_without_steps_is_one_line() -> None:
    assert tree(run(), Style()) == ["✓ agent  completed · 12 ms · 0 steps"]


def test_a_failed_step_shows_its_error_and_the_run_counts_it() -> None:
    failed = step("a", status="failed", error={"type": "OSError", "message": "no\nway"})
    lines = tree(run(failed, status="failed"), Style())
    assert lines[0] == "✗ agent  failed · 12 ms · 1 step · 1 failed"
    assert lines[1].endswith("OSError: no way")


def test_a_failed_step_without_details_shows_its_output() -> None:
    assert tree(run(step("a", status="failed", output={"n": 1})), Style())[1].endswith("n 1")


def test_control_characters_of_data_never_reach_the_terminal() -> None:
    evil = step("\x1b[31mred\x07\u202e", output={"\x1b]0;title\x07": "\x9b2J"}, step_type="\x1b[2J", status="\x1b")
    text = "\n".join(tree(run(evil, agent_name="\x1b[5m", status="\x1b[8m"), Style()))
    assert not any(c in text for c in "\x1b\x07\x9b\u202e")


def test_colour_is_ours_only() -> None:
    lines = tree(run(step("a"), step("b", status="failed")), Style(color=True))
    assert "\x1b[32m✓\x1b[0m" in lines[1]
    assert "\x1b[31m✗\x1b[0m" in lines[2]


def test_long_names_and_outputs_are_cut_to_the_width() -> None:
    lines = tree(run(step("n" * 200, output="o" * 500)), Style(width=80))
    assert len(lines[1]) <= 80


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("plain", "plain"),
        ([1, 2], "[1, 2]"),
        ({"files": [1, 2, 3], "ok": True, "found": {}}, "files 3 · ok True · found 0"),
        ({"text": "x" * 100}, "text " + "x" * 40 + "…"),
    ],
)
def test_brief_is_half_a_line(value: object, text: str) -> None:
    assert brief(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, ""), ("12", ""), (3, "3 ms"), (0.4, "0 ms"), (1500, "1.5 s")])
def test_milliseconds_are_for_people(value: object, text: str) -> None:
    assert milliseconds(value) == text


def test_clean_keeps_text_on_one_line() -> None:
    assert clean("a\r\n\tb\x00c") == "a b�c"


def test_shorten_marks_the_cut() -> None:
    assert (shorten("abc", 3), shorten("abcd", 3)) == ("abc", "ab…")
