"""The documents of the repository, and the programs and commands in them."""

from __future__ import annotations

import re
from pathlib import Path

from .program import ROOT

README = ROOT / "README.md"
GUIDES = [path for path in sorted((ROOT / "examples").glob("*.md")) if path.name != "README.md"]
FAULTS = ROOT / "tests" / "README.md"
MAP = ROOT / "agentscope" / "README.md"
EVERY = [
    README,
    ROOT / "CHANGELOG.md",
    *GUIDES,
    ROOT / "examples" / "README.md",
    FAULTS,
    MAP,
    ROOT / "benchmarks" / "README.md",
]


def name_of(path: Path) -> str:
    """The path of a document inside the repository."""
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    """A document as text."""
    return path.read_text(encoding="utf-8")


def programs(path: Path) -> list[str]:
    """The Python programs of a document."""
    return re.findall(r"```python\n(.*?)```", text_of(path), re.DOTALL)


def commands(path: Path) -> list[str]:
    """The calls of the `agentscope` command in the shell blocks of a document."""
    return [
        line.partition("#")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", text_of(path), re.DOTALL)
        for line in block.splitlines()
        if line.startswith("agentscope ")
    ]


def table(path: Path, heading: str) -> list[list[str]]:
    """The rows of the first table whose head begins with the cell `heading`, cell by cell."""
    lines = iter(text_of(path).splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            next(lines)
            break
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def headings(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    return {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text_of(path).splitlines()
        if line[:1] == "#"
    }
