"""One measure of one SDK, in a process of its own and under its own interpreter. Prints the figures as one line of JSON.

    python -m benchmarks.field.worker JSON      (see `Task`)

Each measure warms up first, so that imports, the start of threads and the connection are not in its figures. The faults of the
backend begin after that.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from benchmarks.field.adapters import KINDS, Adapter
from benchmarks.field.load import Load, drive, drive_in_threads
from benchmarks.field.measures import Work
from benchmarks.field.numbers import in_microseconds
from benchmarks.field.payloads import Payloads
from benchmarks.field.process import HOST, Memory, block, cpu_seconds, name_the_backend
from benchmarks.field.sink_client import Commander

Figures = dict[str, float]

WARM = 10**9
"""The number of the first step of the warm-up; the measure counts from 0."""
FLUSH_EVERY = 10_000
"""Steps between flushes in loads that are larger than the queue."""


@dataclass(frozen=True)
class Task:
    subject: str
    port: int
    """The port of the sink for data."""
    commands: int
    """The port of the sink for commands."""
    blocked: tuple[str, ...]
    """Installed modules that must not be found: those of the extra `fast`."""
    work: Work

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


class Bench:
    """A warm SDK, its backend and its payloads."""

    def __init__(self, task: Task) -> None:
        self.work = task.work
        self.backend = Commander(task.commands)
        self.payloads = Payloads(task.work.size)
        self.adapter: Adapter = KINDS[task.subject].make(task.url)
        drive(self.adapter, self.payloads, Load(10, 4, first=WARM))
        self.adapter.flush()
        self.backend.wait_until_quiet()
        if task.subject != "nothing" and not self.backend("arrived")["requests"]:
            raise SystemExit("nothing arrived while it was warming up")
        self.backend("reset")

    def turn(self) -> None:
        """Put the backend into the state of this measure."""
        if self.work.backend != "ok":
            self.backend("mode", mode=self.work.backend, ms=200)

    def loads(self) -> list[Load]:
        work = self.work
        runs = work.runs // work.threads
        return [
            Load(runs, work.steps, work.pause, work.every, first=number * runs * work.steps)
            for number in range(work.threads)
        ]


def load(bench: Bench) -> Figures:
    """Measure latency, CPU time, throughput, loss, memory and bytes of one load."""
    bench.turn()
    memory = Memory()
    loads = bench.loads()
    began, cpu_began = time.monotonic_ns(), cpu_seconds()
    times = drive_in_threads(bench.adapter, bench.payloads, loads)
    called = time.monotonic_ns()
    tracked = sum(load.total for load in loads)
    figures = {**times.figures(), "tracked": float(tracked)}
    if not bench.work.flush:
        time.sleep(1.0)  # an SDK that retries has failed once by now
        return {**figures, "peak_mb": memory.peak_mb()}
    bench.adapter.flush()
    bench.backend.wait_until_quiet()
    cpu = cpu_seconds() - cpu_began
    figures.update(peak_mb=memory.peak_mb(), cpu_seconds=cpu)
    report = bench.backend("report")
    whole = report["whole"]
    seconds = (max(report["last_ns"], called) - began) / 1e9
    figures.update(
        whole=float(whole),
        requests=float(report["requests"]),
        lost=1 - whole / tracked,
        per_second=whole / seconds,
        sink_cpu=report["sink_cpu"],
    )
    if whole:
        figures.update(wire_bytes=report["wire_bytes"] / whole, plain_bytes=report["plain_bytes"] / whole)
    return figures


def leave(bench: Bench) -> Figures:
    """Run a load and return. The parent process measures the exit from `left_ns` on."""
    bench.turn()
    loads = bench.loads()
    drive(bench.adapter, bench.payloads, loads[0])
    return {"tracked": float(loads[0].total), "left_ns": float(time.monotonic_ns())}


def _delivery(bench: Bench, tracked: int) -> Figures:
    """Count the steps that arrived: a cost without delivery means nothing."""
    bench.backend.wait_until_quiet()
    whole = bench.backend("report")["whole"]
    return {"tracked": float(tracked), "whole": float(whole), "lost": 1 - whole / tracked}


def a_task(rounds: int) -> int:
    """A task in pure Python, like that of another thread of the application."""
    total = 0
    for number in range(rounds):
        total += number & 7
    return total


def probe(bench: Bench) -> Figures:
    """Measure how much longer the slowest tasks of 100 µs take while the SDK's thread delivers.

    100 steps are tracked, which is not timed; then 50 tasks, about 5 ms, run while the thread works, and so on. The same tasks
    before and after, with nothing to deliver, are the comparison.
    """
    clock = time.perf_counter_ns
    length, cycles = 1_000, bench.work.runs

    def tasks(number: int) -> list[int]:
        times = []
        for _ in range(number):
            began = clock()
            a_task(length)
            times.append(clock() - began)
        return times

    length = int(length * 100_000 / sorted(tasks(1_000))[500])
    alone = tasks(50 * cycles)
    busy: list[int] = []
    cpu_began, own_began = cpu_seconds(), time.thread_time()
    for cycle in range(cycles):
        drive(bench.adapter, bench.payloads, Load(10, first=cycle * 100))
        busy += tasks(50)
    sender_cpu = (cpu_seconds() - cpu_began) - (time.thread_time() - own_began)
    bench.adapter.flush()
    delivery = _delivery(bench, cycles * 100)
    alone += tasks(50 * cycles)
    figures = {**in_microseconds(alone, "alone"), **in_microseconds(busy, "busy")}
    longer = figures["busy_p999"] - figures["alone_p999"]
    return {**figures, "longer": longer, "sender_cpu": sender_cpu, **delivery}


def _cost(bench: Bench, load: Load) -> float:
    """CPU time in µs for each event until all are delivered. Run starts and ends count as events."""
    began = cpu_seconds()
    drive(bench.adapter, bench.payloads, load)
    bench.adapter.flush()
    return (cpu_seconds() - began) / (load.runs * (load.steps + 2)) * 1e6


def growth(bench: Bench) -> Figures:
    """Measure the cost of an event in a load, in one ten times as large, and in one a hundred times as large."""
    runs, first = bench.work.runs, 0
    costs = {}
    for factor, repeats in ((1, 5), (10, 2), (100, 1)):
        found = []
        for _ in range(repeats):
            load = Load(runs * factor, first=first, flush_every=FLUSH_EVERY)
            found.append(_cost(bench, load))
            first += load.total
        costs[factor] = sorted(found)[len(found) // 2]
    figures = {f"cost_{factor}x": cost for factor, cost in costs.items()}
    grown = {"grown_10x": costs[10] / costs[1], "grown_100x": costs[100] / costs[1]}
    return {**figures, **grown, "grown": max(grown.values()), **_delivery(bench, first)}


def lengths(bench: Bench) -> Figures:
    """Measure the cost of an event in runs of 10 steps, in runs of 1 000, and in one run of `work.runs` times 50.

    The lengths go up and down again, so that a machine that becomes slower does not count against long runs.
    """
    runs, first = bench.work.runs, 0
    short = Load(runs, 10, flush_every=FLUSH_EVERY)
    long = Load(max(1, runs // 100), 1_000, flush_every=FLUSH_EVERY)
    longest = Load(1, runs * 50, flush_every=FLUSH_EVERY)
    found: dict[str, list[float]] = {"short": [], "long": [], "longest": []}
    for name, load in (("short", short), ("long", long), ("longest", longest), ("long", long), ("short", short)):
        found[name].append(_cost(bench, replace(load, first=first)))
        first += load.total
    costs = {name: sum(each) / len(each) for name, each in found.items()}
    figures = {f"cost_{name}": cost for name, cost in costs.items()}
    grown = max(costs["long"], costs["longest"]) / costs["short"]
    return {**figures, "grown": grown, **_delivery(bench, first)}


def first(task: Task) -> Figures:
    """Measure the time from before the import to the end of the first run, of one step, in ms."""
    payloads = Payloads(task.work.size)
    began = time.perf_counter_ns()
    adapter = KINDS[task.subject].make(task.url)
    drive(adapter, payloads, Load(1, 1))
    return {"first_ms": (time.perf_counter_ns() - began) / 1e6}


MEASURED: Mapping[str, Callable[[Bench], Figures]] = {
    "load": load,
    "leave": leave,
    "probe": probe,
    "growth": growth,
    "lengths": lengths,
}
_alive: list[Any] = []
"""Objects that live until the process ends, as in an application."""


def main() -> None:
    document = json.loads(sys.argv[1])
    task = Task(**{**document, "blocked": tuple(document["blocked"]), "work": Work(**document["work"])})
    block(task.blocked)
    name_the_backend()
    kind = KINDS[task.subject]
    os.environ.update(kind.environ(task.url))
    if task.work.kind == "first":
        figures = first(task)
    else:
        bench = Bench(task)
        _alive.append(bench)
        figures = MEASURED[task.work.kind](bench)
    version = metadata.version(kind.distribution) if kind.distribution else ""
    line = {"figures": figures, "version": version, "threads": threading.active_count()}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    if task.work.kind != "leave":
        os._exit(0)  # exits are measured by `leave`


if __name__ == "__main__":
    main()
