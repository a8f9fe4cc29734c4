"""Lines of text for a terminal, and a run as lines: a tree of its steps."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

BOLD, DIM, RED, GREEN = "1", "2", "31", "32"

Part = str | tuple[str, str]
"""A piece of a line: text, or a color and text."""

_ASCII = str.maketrans("├└│─✓✗µ…·�", "|`|-+xu~-?")
_MOST_STEPS = 200


class Terminal:
    """A stream to print lines to, with the colors, characters and width that it can show."""

    def __init__(
        self, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ, color: bool | None = None
    ) -> None:
        self.stream = stream or sys.stdout
        self.is_live = self.stream.isatty()
        self.width = max(60, shutil.get_terminal_size().columns) if self.is_live else 110
        shows_color = self.is_live and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self._is_colored = shows_color if color is None else color

    def say(self, *parts: Part) -> None:
        """Print one line."""
        print(self.line(*parts), file=self.stream, flush=True)

    def line(self, *parts: Part) -> str:
        """Return one line.

        Control characters in a part are replaced, since data must not command a terminal, and so are characters that the
        stream's encoding lacks.
        """
        line = ""
        for part in parts:
            color, text = ("", part) if isinstance(part, str) else part
            text = self._shown(text)
            line += f"\x1b[{color}m{text}\x1b[0m" if color and text and self._is_colored else text
        return line.rstrip()

    def _shown(self, text: str) -> str:
        text = "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)
        encoding = getattr(self.stream, "encoding", None) or "utf-8"  # `io.StringIO` has None
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
        return text


def mark(is_good: bool) -> Part:
    """Return a green tick or a red cross."""
    return (GREEN, "✓") if is_good else (RED, "✗")


def shorten(text: str, width: int) -> str:
    """Cut a text to `width` characters, with an ellipsis for the rest."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: `1 step`, `2 steps`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def tree(
    run: Mapping[str, Any], width: int, output: Callable[[Mapping[str, Any]], str] = lambda step: ""
) -> Iterator[list[Part]]:
    """Yield the lines of a run as `GET /api/runs/{id}` gives it: its facts, then its steps below their parents, oldest first.

    output: writes the output of a step that has not failed. It is not shown by default.
    """
    steps = run["steps"]
    name = str(run.get("agent_name") or f"run {run['id']}")
    failed = sum(step["status"] == "failed" for step in steps)
    facts = [run["status"], _duration(run["duration_ms"]), counted(len(steps), "step"), failed and f"{failed} failed"]
    yield [_mark(run), " ", (BOLD, name), "  ", (DIM, _joined(max(20, width - len(name) - 4), *facts, _error(run)))]
    rows = list(_rows(steps[:_MOST_STEPS]))
    column = min(44, max((len(lead) + 2 + len(_name(step)) for lead, step in rows), default=0))
    for lead, step in rows:
        space = max(column - len(lead) - 2, 1)
        name = f" {shorten(_name(step), space):<{space}}"
        kind = f"  {step.get('step_type') or 'other'!s:<9} {_duration(step.get('latency_ms')):>7}  "
        tokens = step.get("tokens_used")
        facts = [step.get("model"), None if tokens is None else f"{tokens} tokens", _error(step) or output(step)]
        note = _joined(max(10, width - column - len(kind)), *facts)
        yield [(DIM, lead), _mark(step), name, (DIM, kind), (RED if step["status"] == "failed" else DIM, note)]
    if len(steps) > _MOST_STEPS:
        yield [(DIM, f"… {counted(len(steps) - _MOST_STEPS, 'more step')}")]


def _rows(steps: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the steps in the order of the tree, each with the lines that lead to it."""
    known = {step["id"] for step in steps}
    below: dict[Any, list[Mapping[str, Any]]] = {}
    for step in steps:
        parent = step["parent_id"] if step["parent_id"] in known and step["parent_id"] != step["id"] else None
        below.setdefault(parent, []).append(step)
    stack = [("", step) for step in reversed(below.get(None, []))]
    last = {id(siblings[-1]) for siblings in below.values()}
    while stack:
        indent, step = stack.pop()
        yield indent + ("└─ " if id(step) in last else "├─ "), step
        inner = indent + ("   " if id(step) in last else "│  ")
        stack += [(inner, child) for child in reversed(below.get(step["id"], []))]


def _name(step: Mapping[str, Any]) -> str:
    return str(step.get("name") or "step")


def _mark(part: Mapping[str, Any]) -> Part:
    return mark(part["status"] == "completed") if part["status"] in ("completed", "failed") else (DIM, "·")


def _joined(width: int, *facts: object) -> str:
    return shorten(" · ".join(str(fact) for fact in facts if fact), width)


def _duration(value: object) -> str:
    if not isinstance(value, (int, float)):
        return ""
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def _error(part: Mapping[str, Any]) -> str:
    error = part.get("error")
    if not isinstance(error, dict):
        return str(error or "")
    return f"{error.get('type', 'error')}: {error.get('message', '')}"
