"""Child processes that are run to their end, and the load of the machine meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.field.subjects import ROOT, environment

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ended:
    """The output, end and exit status of a program."""

    output: str
    errors: str
    end_ns: int
    """The time of its end by CLOCK_MONOTONIC."""
    timed_out: bool
    status: int

    def document(self) -> Any:
        """The output as JSON, else its last line as JSON, else None."""
        for text in (self.output, self.output.strip().rpartition("\n")[2]):
            try:
                return json.loads(text)
            except ValueError:
                continue
        return None

    def failure(self) -> str:
        """The reason why the program failed."""
        if self.timed_out:
            return "took too long and was ended"
        lines = self.errors.strip().splitlines()
        return lines[-1][:200] if lines else f"ended with status {self.status}"


@dataclass(frozen=True)
class Found:
    """The figures of one sample, or the error that prevented them."""

    figures: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    version: str = ""


def run(command: Sequence[str], limit: float, directory: Path = ROOT) -> Ended:
    """Run a program in `directory`, and kill it after `limit` seconds."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environment(directory),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    read: dict[str, str] = {}

    def drain(name: str, pipe: IO[str]) -> None:
        with pipe:
            read[name] = pipe.read()

    assert process.stdout is not None
    assert process.stderr is not None
    readers = [
        threading.Thread(target=drain, args=("output", process.stdout)),
        threading.Thread(target=drain, args=("errors", process.stderr)),
    ]
    for reader in readers:
        reader.start()
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        process.kill()

    killer = threading.Timer(limit, expire)
    killer.start()
    try:
        process.wait()
        end = time.monotonic_ns()
    finally:
        killer.cancel()
        process.kill()
        process.wait()
        for reader in readers:
            reader.join()
    return Ended(read["output"], read["errors"], end, expired.is_set(), process.returncode)


class OtherLoad:
    """The use of the machine by other processes since this object was made. It is known on Linux only."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy = _busy_seconds()
        self._own = self._of_children()

    def cores(self) -> float | None:
        """The cores that neither this process nor an ended child of it kept busy."""
        now = _busy_seconds()
        if self._busy is None or now is None:
            return None
        own = self._of_children() - self._own
        return max(0.0, now - self._busy - own) / (time.monotonic() - self._began)

    @staticmethod
    def _of_children() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system


def _busy_seconds() -> float | None:
    """CPU seconds of the whole machine since it started."""
    try:
        with open("/proc/stat") as stat:
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    except OSError:
        return None
    return (user + nice + system + irq + softirq + steal) / _TICK
