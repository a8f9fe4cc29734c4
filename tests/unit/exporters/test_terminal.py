"""Lines for a terminal, and the tree of a run."""

from __future__ import annotations

import io
from typing import Any

import pytest

from agentscope.exporters.terminal import GREEN, RED, Part, Terminal, counted, mark, shorten, tree


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(*parts: Part, stream: io.StringIO | None = None, environ: dict[str, str] | None = None) -> str:
    stream = stream or io.StringIO()
    Terminal(stream, environ or {}).say(*parts)
    return stream.getvalue()


def test_a_pipe_gets_no_colour() -> None:
    assert shown((RED, "red")) == "red\n"


@pytest.mark.parametrize(
    ("environ", "colored"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)],
)
def test_a_terminal_gets_colour_unless_told_otherwise(environ: dict[str, str], colored: bool) -> None:
    assert shown((GREEN, "go"), stream=Screen(), environ=environ) == ("\x1b[32mgo\x1b[0m\n" if colored else "go\n")


def test_an_encoding_without_line_art_gets_ascii() -> None:
    raw = io.BytesIO()
    terminal = Terminal(io.TextIOWrapper(raw, encoding="ascii"), {})
    terminal.say("├─ ✓ 5 µs … é")
    assert raw.getvalue() == b"|- + 5 us ~ ?\n"


def test_control_characters_of_data_never_reach_the_terminal() -> None:
    evil = "\x1b[31mred\x07\u202e\x1b]0;title\x07\x9b2J"
    for text in (shown(evil), shown((RED, evil), stream=Screen()).removeprefix("\x1b[31m").removesuffix("\x1b[0m\n")):
        assert not any(c in text for c in "\x1b\x07\x9b\u202e")


def test_a_line_is_one_line_whatever_is_in_it() -> None:
    assert shown("a\r\n\tb\x00c") == "a   b�c\n"


def test_marks_tell_good_from_bad_without_colour() -> None:
    assert shown(mark(True), mark(False)) == "✓✗\n"


def test_shorten_marks_the_cut() -> None:
    assert (shorten("abc", 3), shorten("abcd", 3)) == ("abc", "ab…")


def test_a_number_has_its_noun_in_the_singular_for_one_only() -> None:
    assert [counted(number, "step") for number in (0, 1, 2, 1000)] == ["0 steps", "1 step", "2 steps", "1,000 steps"]


# the tree of a run


def step(name: str, parent: str | None = None, **fields: Any) -> dict[str, Any]:
    values = {"id": name, "parent_id": parent, "name": name, "step_type": "other", "status": "completed"}
    return {**values, "error": None, "output": None, "latency_ms": 1, **fields}


def drawn(*steps: dict[str, Any], width: int = 110, **fields: Any) -> list[str]:
    run = {"id": "r", "agent_name": "agent", "status": "completed", "duration_ms": 12, "steps": steps, **fields}
    lines = tree(run, width, lambda step: str(step["output"] or ""))
    return ["".join(part if isinstance(part, str) else part[1] for part in line).rstrip() for line in lines]


def test_the_output_of_a_step_is_shown_where_it_is_wanted() -> None:
    assert drawn(step("a", output="three files"))[1] == "└─ ✓ a  other      1.0 ms  three files"


def test_a_run_without_steps_is_one_line() -> None:
    assert drawn() == ["✓ agent  completed · 12 ms · 0 steps"]


def test_a_run_that_has_not_ended_is_drawn_as_far_as_it_is_known() -> None:
    lines = drawn(step("a", latency_ms=None, status="running"), status="running", duration_ms=None, agent_name=None)
    assert lines == ["· run r  running · 1 step", "└─ · a  other"]


def test_a_failed_step_without_details_is_marked_only() -> None:
    assert drawn(step("a", status="failed"))[1] == "└─ ✗ a  other      1.0 ms"


def test_failed_steps_are_counted_beyond_those_that_are_drawn() -> None:
    head = drawn(*(step(f"s{number}") for number in range(300)), step("last", status="failed"))[0]
    assert head == "✓ agent  completed · 12 ms · 301 steps · 1 failed"


def test_long_names_and_outputs_are_cut_to_the_width() -> None:
    lines = drawn(step("n" * 200, output="o" * 500), width=80, agent_name="a" * 30, error="e" * 500)
    assert max(map(len, lines)) == 80


@pytest.mark.parametrize(("value", "text"), [(None, ""), ("12", ""), (0.4, "0.4 ms"), (30, "30 ms"), (1500, "1.5 s")])
def test_durations_are_for_people(value: object, text: str) -> None:
    assert drawn(step("a", latency_ms=value))[1].split("other")[1].strip() == text
