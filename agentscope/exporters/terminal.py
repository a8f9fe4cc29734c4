"""Text for a terminal: a run as a tree, colors where the stream shows them, and no control character from data."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO


@dataclass(frozen=True)
class Style:
    """The colors, characters and width of one stream."""

    color: bool = False
    unicode: bool = True
    width: int = 110

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Style:
        """Choose colors on a terminal that is not dumb and without NO_COLOR, and line art where the encoding has it."""
        terminal = stream.isatty()
        encoding = getattr(stream, "encoding", None) or "utf-8"  # `io.StringIO` has None
        color = terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        try:
            "├─✓✗µ…·".encode(encoding)
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
        """Replace characters of the layout that this stream does not have."""
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
    """Write data as one line without escapes, line breaks and changes of direction."""
    flat = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "�" for c in flat)


def shorten(text: str, width: int) -> str:
    """Cut a text to this many characters."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def brief(value: Any) -> str:
    """Write a payload in half a line: the first plain values by name, lists and objects by their length."""
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


def tree(run: Mapping[str, Any], style: Style, total: int | None = None) -> list[str]:
    """Write the lines of one run as `GET /api/runs/{id}` gives it: steps below their parents, oldest first.

    total: the number of steps, where `run` holds only some of them.
    """
    steps: Sequence[Mapping[str, Any]] = run["steps"]
    known = {step["id"] for step in steps}
    below: dict[Any, list[Mapping[str, Any]]] = {}
    for step in steps:
        parent = step["parent_id"] if step["parent_id"] in known and step["parent_id"] != step["id"] else None
        below.setdefault(parent, []).append(step)
    rows: list[tuple[str, Mapping[str, Any]]] = []
    stack = [("", step, step is below[None][-1]) for step in reversed(below.get(None, []))]
    while stack:
        indent, step, last = stack.pop()
        rows.append((indent + ("└─ " if last else "├─ "), step))
        children = below.get(step["id"], [])
        inner = indent + ("   " if last else "│  ")
        stack.extend((inner, child, child is children[-1]) for child in reversed(children))
    column = min(44, max((len(lead) + 2 + len(_name(step)) for lead, step in rows), default=0))
    head = _head(run, style, len(steps) if total is None else total)
    return [head, *(_row(lead, step, column, style) for lead, step in rows)]


def _name(step: Mapping[str, Any]) -> str:
    return clean(step.get("name") or "step")


def _mark(status: object, style: Style) -> str:
    if status == "failed":
        return style.bad(style.art("✗"))
    return style.good(style.art("✓")) if status == "completed" else style.dim(style.art("·"))


def _head(run: Mapping[str, Any], style: Style, total: int) -> str:
    failed = sum(step.get("status") == "failed" for step in run["steps"])
    facts = [clean(run["status"]), milliseconds(run.get("duration_ms")), f"{total} step{'' if total == 1 else 's'}"]
    if failed:
        facts.append(f"{failed} failed")
    if run.get("error"):
        facts.append(_error(run["error"]))
    name = clean(run.get("agent_name") or f"run {run.get('id', '')}")
    text = style.art(shorten(" · ".join(fact for fact in facts if fact), max(20, style.width - len(name) - 4)))
    return f"{_mark(run['status'], style)} {style.bold(style.art(name))}  {style.dim(text)}"


def _error(error: object) -> str:
    if not isinstance(error, dict):
        return clean(error)
    return f"{clean(error.get('type', 'error'))}: {clean(error.get('message', ''))}"


def _row(lead: str, step: Mapping[str, Any], column: int, style: Style) -> str:
    name = shorten(_name(step), column - len(lead) - 2)
    pad = " " * (column - len(lead) - 2 - len(name))
    kind = f"{clean(step.get('step_type') or 'other'):<9}"
    took = f"{milliseconds(step.get('latency_ms')):>7}"
    tokens = step.get("tokens_used")
    facts = [clean(step.get("model") or ""), "" if tokens is None else f"{clean(tokens)} tokens"]
    failed = step.get("status") == "failed"
    facts.append(_error(step["error"]) if failed and step.get("error") else brief(step.get("output")))
    note = style.art(shorten(" · ".join(fact for fact in facts if fact), max(10, style.width - column - 21)))
    shown = style.bad(note) if failed else style.dim(note)
    begin = f"{style.dim(style.art(lead))}{_mark(step.get('status'), style)} {style.art(name)}{pad}"
    return f"{begin}  {style.dim(kind)} {took}  {shown}".rstrip()


def milliseconds(value: object) -> str:
    """Write a duration for people; empty when it is not known."""
    if not isinstance(value, (int, float)):
        return ""
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.0f} ms"


def printable(out: TextIO, text: str) -> str:
    """Replace characters that the stream's encoding does not have."""
    encoding = getattr(out, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def say(out: TextIO, text: str) -> None:
    """Print a line, without control characters."""
    print(printable(out, "".join(c if c.isprintable() else "�" for c in text)), file=out)
