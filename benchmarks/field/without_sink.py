"""The measures without a sink: imports, and the receiver."""

from __future__ import annotations

import statistics
import time

from benchmarks.field.adapters import KINDS
from benchmarks.field.measures import Work
from benchmarks.field.programs import Found, run
from benchmarks.field.subjects import Subject


def imported(subject: Subject, work: Work, limit: float) -> Found:
    """Measure the import in ms, less the start of Python; medians of `work.runs` alternating processes."""
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in subject.blocked)
    imports = "".join(f"import {module}\n" for module in KINDS[subject.name].modules[: _shown(subject.name)])
    programs = {"bare": "import sys\n", "with": f"import sys\n{hidden}{imports}"}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(work.runs + 1):
        for name, program in programs.items():
            began = time.monotonic_ns()
            ended = run([subject.python, "-c", program], limit, subject.directory)
            if ended.status != 0:
                return Found(error=ended.failure())
            if number:  # the first round fills disk caches and writes .pyc files
                times[name].append((ended.end_ns - began) / 1e6)
    bare, whole = statistics.median(times["bare"]), statistics.median(times["with"])
    return Found({"import_ms": whole - bare, "bare_ms": bare})


def _shown(name: str) -> int | None:
    """The number of modules that a user imports, for a slice: the first of this SDK, all (None) of others."""
    return 1 if name.startswith("agentscope") else None


def receiver(subject: Subject, work: Work, limit: float) -> Found:
    """Measure the receiver by `benchmarks.receiver`, with runs of 10, 1 000 and 100 000 steps."""
    events = work.runs * 10
    command = [subject.python, "-m", "benchmarks.receiver", "--events", str(events), "--lengths", "--json"]
    ended = run(command, limit, subject.directory)
    results = ended.document()
    if not isinstance(results, list) or len(results) < 3:
        return Found(error=ended.failure())
    usual, *longer = results
    return Found(
        {
            "stored_per_second": usual["events_per_second"],
            "cpu": usual["cpu_us"],
            "rss_grown": usual["rss_mb_last"] / usual["rss_mb_first"],
            "peak_mb": usual["peak_mb"],
            "grown": max(result["cpu_us"] for result in longer) / usual["cpu_us"],
        }
    )
