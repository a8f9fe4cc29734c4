"""The JSON document of a measurement: written to a file, and read again."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agentscope._version import __version__
from benchmarks.field.adapters import PEERS
from benchmarks.field.rows import Line
from benchmarks.field.runner import Sample

FORMAT = 1


def document(samples: Iterable[Sample], lines: Iterable[Line], *, share: float) -> dict[str, Any]:
    """The document. share: the part of the full work that was done."""
    return {
        "format": FORMAT,
        "ended_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "agentscope": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "share": share,
        "lines": [_line(line) for line in lines],
        "samples": [asdict(sample) for sample in samples],
    }


def _line(line: Line) -> dict[str, Any]:
    row, limit = line.row, line.limit
    return {
        "row": row.key,
        "title": row.title,
        "unit": row.unit,
        "subject": line.subject,
        "value": line.value and line.value._asdict(),
        "target": limit and {"at": limit.at, "of": limit.of, "least": row.more_is_better},
        "compared": line.compared and line.compared._asdict(),
        "peer": line.peer and line.peer._asdict(),
        "met": line.met,
        "why": line.why,
    }


def read(paths: Sequence[Path]) -> list[Sample]:
    """The samples of several documents, with their rounds numbered on. Raises `ValueError` for another format."""
    found: list[Sample] = []
    for path in paths:
        read = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(read, dict) or read.get("format") != FORMAT:
            raise ValueError(f"{path} was not written by --json of this version")
        before = max((sample.round + 1 for sample in found), default=0)
        samples = [Sample(**sample) for sample in read["samples"]]
        found += [replace(sample, round=sample.round + before) for sample in samples]
    return found


def versions(samples: Iterable[Sample]) -> dict[str, str]:
    """The versions of the measured peers by name."""
    found = {sample.subject: sample.version for sample in samples if sample.version}
    return {name: found[name] for name in PEERS if name in found}
