"""Lines for a terminal."""

from __future__ import annotations

import io

import pytest

from agentscope.cli.terminal import GREEN, RED, Part, Terminal, mark, shorten


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
