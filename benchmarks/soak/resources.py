"""Memory, threads and file descriptors of processes, read from /proc."""

from __future__ import annotations

import os
import resource
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_PAGE = resource.getpagesize()


class Sample(NamedTuple):
    rss: int
    """Bytes."""
    threads: int
    fds: int


def sample(pid: int) -> Sample | None:
    """The current resource use of a process; None if it has ended or not begun."""
    folder = Path(f"/proc/{pid}")
    try:
        threads = next(
            int(line.split()[1]) for line in (folder / "status").read_text().splitlines() if line.startswith("Threads:")
        )
        rss = int((folder / "statm").read_text().split()[1]) * _PAGE
        return Sample(rss, threads, len(os.listdir(folder / "fd")))
    except (OSError, StopIteration, ValueError):
        return None


@dataclass
class Series:
    """The samples of one kind of process, in order of time."""

    samples: list[Sample]

    def summary(self) -> dict[str, Any]:
        """The least, median and greatest value of each quantity, and the growth of the median from first to last third."""
        return {name: _summed([getattr(item, name) for item in self.samples]) for name in Sample._fields}


def _summed(values: Sequence[int]) -> dict[str, int]:
    if not values:
        return {}
    third = max(len(values) // 3, 1)
    growth = statistics.median(values[-third:]) - statistics.median(values[:third])
    return {
        "min": min(values),
        "median": int(statistics.median(values)),
        "max": max(values),
        "growth": int(growth),
    }
