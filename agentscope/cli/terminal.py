"""Printing to a terminal: colour where it is wanted, plain text elsewhere, and never a control character from data."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO


@dataclass(frozen=True)
class Style:
    """How to print on one stream."""

    color: bool = False
    unicode: bool = True
    width: int = 110

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Style:
        """Colour only on a terminal that is not dumb and without NO_COLOR; line art only where the encoding has it."""
        terminal = stream.isatty()
        color = terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        try:
            "├─✓✗µ…·".encode(stream.encoding or "utf-8")
            known = True
        except (UnicodeEncodeError, LookupError):
            known = False
        return cls(color, known, max(60, shutil.get_terminal_size().columns) if terminal else 110)

    def bold(self, text: str) -> str:
        return self._paint("1", text)

    def dim(self, text: str) -> str:
        return self._paint("2", text)

    def good(self, text: str) -> str:
        return self._paint("32", text)

    def bad(self, text: str) -> str:
        return self._paint("31", text)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    def art(self, text: str) -> str:
        """Our own text in what this stream can show."""
        if self.unicode:
            return text
        for fancy, plain in _ASCII.items():
            text = text.replace(fancy, plain)
        return text.encode("ascii", "replace").decode()


_ASCII = {
    "├─ ": "|- ",
    "└─ ": "`- ",
    "│  ": "|  ",
    "✓": "+",
    "✗": "x",
    "µ": "u",
    "…": "...",
    "·": "-",
    "—": "-",
    "�": "?",
}


def clean(text: object) -> str:
    """Data as one line that a terminal shows and does not obey: no escapes, no line breaks, no turning of direction."""
    flat = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "�" for c in flat)


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def brief(value: Any) -> str:
    """A payload in half a line: the first plain values by name, lists and objects by their length."""
    if not isinstance(value, dict):
        return "" if value is None else clean(value if isinstance(value, str) else json.dumps(value)[:500])
    parts = []
    for key, item in list(value.items())[:4]:
        if isinstance(item, (list, dict)):
            item = len(item)
        elif isinstance(item, str) and len(item) > 60:
            item = clean(item[:200])[:40] + "…"
        parts.append(f"{clean(key)} {clean(item)}")
    return " · ".join(parts)


def tree(run: Mapping[str, Any], style: Style) -> list[str]:
    """The lines of one run as `GET /api/runs/{id}` gives it, steps below their parents, oldest first."""
    steps: Sequence[Mapping[str, Any]] = run["steps"]
    known = {step["id"] for step in steps}
    below: dict[Any, list[Mapping[str, Any]]] = {}
    for step in steps:
        parent = step["parent_id"] if step["parent_id"] in known else None
        below.setdefault(parent, []).append(step)
    rows: list[tuple[str, Mapping[str, Any]]] = []
    stack = [("", step, step is below[None][-1]) for step in reversed(below.get(None, []))]
    while stack:
        indent, step, last = stack.pop()
        rows.append((indent + ("└─ " if last else "├─ "), step))
        children = below.get(step["id"], [])
        inner = indent + ("   " if last else "│  ")
        stack.extend((inner, child, child is children[-1]) for child in reversed(children))
    column = min(44, max((len(lead) + 2 + len(clean(step["name"])) for lead, step in rows), default=0))
    return [_head(run, style), *(_row(lead, step, column, style) for lead, step in rows)]


def _head(run: Mapping[str, Any], style: Style) -> str:
    status = clean(run["status"])
    mark = style.bad(style.art("✗")) if status == "failed" else style.good(style.art("✓"))
    failed = sum(step["status"] == "failed" for step in run["steps"])
    facts = [status, milliseconds(run.get("duration_ms")), f"{len(run['steps'])} steps"]
    if failed:
        facts.append(f"{failed} failed")
    text = style.art(" · ".join(fact for fact in facts if fact))
    return f"{mark} {style.bold(style.art(clean(run['agent_name'])))}  {style.dim(text)}"


def _row(lead: str, step: Mapping[str, Any], column: int, style: Style) -> str:
    failed = step["status"] == "failed"
    mark = style.bad(style.art("✗")) if failed else style.good(style.art("✓"))
    name = shorten(clean(step["name"]), column - len(lead) - 2)
    pad = " " * (column - len(lead) - 2 - len(name))
    kind = f"{clean(step['step_type']):<9}"
    took = f"{milliseconds(step['latency_ms']):>7}"
    error = step["error"]
    if failed and isinstance(error, dict):
        note = f"{clean(error.get('type', 'error'))}: {clean(error.get('message', ''))}"
    else:
        note = brief(step["output"])
    note = style.art(shorten(note, max(10, style.width - column - 21)))
    shown = style.bad(note) if failed else style.dim(note)
    line = f"{style.dim(style.art(lead))}{mark} {style.art(name)}{pad}  {style.dim(kind)} {took}  {shown}"
    return line.rstrip()


def milliseconds(value: object) -> str:
    """A duration for people; empty when it is not known."""
    if not isinstance(value, (int, float)):
        return ""
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.0f} ms"


def say(out: TextIO, text: str) -> None:
    """Print a line; what `out` cannot show, or would take for a command, is replaced."""
    encoding = out.encoding or "utf-8"
    print("".join(c if c.isprintable() else "�" for c in text).encode(encoding, "replace").decode(encoding), file=out)
