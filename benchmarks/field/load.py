"""Loads of runs and steps, and the time that each call takes from its caller."""

from __future__ import annotations

import threading
import time
from array import array
from dataclasses import dataclass, field

from benchmarks.field.adapters import Adapter
from benchmarks.field.numbers import in_microseconds
from benchmarks.field.payloads import Payloads


def _times() -> array[int]:
    return array("q")


@dataclass
class Times:
    """Durations of calls in nanoseconds. Arrays, because the garbage collector does not traverse them."""

    step: array[int] = field(default_factory=_times)
    step_cpu: array[int] = field(default_factory=_times)
    """CPU time of the calling thread during each step."""
    start: array[int] = field(default_factory=_times)
    end: array[int] = field(default_factory=_times)

    def add(self, other: Times) -> None:
        for mine, theirs in zip(self.lists(), other.lists(), strict=True):
            mine.extend(theirs)

    def lists(self) -> tuple[array[int], ...]:
        return self.step, self.step_cpu, self.start, self.end

    def figures(self) -> dict[str, float]:
        """Percentiles in µs, and `all_in`: the time of steps, run starts and run ends together, divided by the steps."""
        called = sum(self.step) + sum(self.start) + sum(self.end)
        return {
            **in_microseconds(self.step, "step"),
            **in_microseconds(self.step_cpu, "step_cpu"),
            **in_microseconds(self.start, "start"),
            **in_microseconds(self.end, "end"),
            "all_in": called / len(self.step) / 1e3,
        }


@dataclass(frozen=True)
class Load:
    """The work of one thread: `runs` runs of `steps` steps each.

    pause: seconds of sleep after each step. every: seconds from the beginning of one step to that of the next; a late step
    shortens the next sleep. first: the number of the first step. flush_every: steps between two flushes, which are not timed.
    """

    runs: int
    steps: int = 10
    pause: float = 0.0
    every: float = 0.0
    first: int = 0
    flush_every: int = 0

    @property
    def total(self) -> int:
        return self.runs * self.steps


def drive(adapter: Adapter, payloads: Payloads, load: Load) -> Times:
    """Run a load in this thread."""
    times = Times()
    clock, cpu_clock, sleep = time.perf_counter_ns, time.thread_time_ns, time.sleep
    number = load.first
    due = clock()
    for _ in range(load.runs):
        name = f"run-{number}"
        began = clock()
        run = adapter.begin(name, {"task": "bench", "number": number})
        times.start.append(clock() - began)
        for place in range(load.steps):
            given, made = payloads.step(number)
            name = f"step-{place % 10}"
            number += 1
            cpu_began = cpu_clock()
            began = clock()
            adapter.step(run, name, given, made)
            ended = clock()
            times.step_cpu.append(cpu_clock() - cpu_began)
            times.step.append(ended - began)
            if load.pause:
                sleep(load.pause)  # the pace that is measured
            elif load.every:
                due += int(load.every * 1e9)
                sleep(max(0.0, (due - clock()) / 1e9))  # the pace that is measured
            if load.flush_every and number % load.flush_every == 0:
                adapter.flush()
        began = clock()
        adapter.end(run, {"result": "done", "number": number})
        times.end.append(clock() - began)
    return times


def drive_in_threads(adapter: Adapter, payloads: Payloads, loads: list[Load]) -> Times:
    """Run all loads at once, each in its own thread; a single load runs in this thread."""
    if len(loads) == 1:
        return drive(adapter, payloads, loads[0])
    all_times = [Times() for _ in loads]

    def work(mine: Times, load: Load) -> None:
        mine.add(drive(adapter, payloads, load))

    threads = [threading.Thread(target=work, args=(mine, load)) for mine, load in zip(all_times, loads, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = Times()
    for times in all_times:
        together.add(times)
    return together
