"""The path of one step from its call to the wire: the modules and functions that it crosses, beside OpenTelemetry's.

    python -m benchmarks.path                    this checkout
    python -m benchmarks.path ../before .        another checkout beside it
    python -m benchmarks.path --spool            with a spool
    python -m benchmarks.path --functions        each module with the functions that were called in it

An SDK runs in a process of its own. It is warm: a run is open, and all that was recorded before has been delivered. Then one
step is recorded and a profile notes each function of the SDK's package that begins, until the backend has its request and
nothing more happens. Nobody calls flush, which would change the path. Libraries that an SDK uses are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.field.adapters import KINDS
from benchmarks.field.load import Load, drive
from benchmarks.field.payloads import Payloads
from benchmarks.field.process import HOST, name_the_backend
from benchmarks.field.programs import run
from benchmarks.field.sink_client import Commander, SinkProcess
from benchmarks.field.subjects import ROOT, checkout

PACKAGES = {"agentscope": "agentscope", "otel": "opentelemetry"}
"""The measured SDKs by their names in `adapters`, with the packages that their functions are in."""
CALLER = "caller"
LIMIT = 60.0
"""Seconds after which a process is killed."""


@dataclass(frozen=True)
class Call:
    """A function, and the number of its calls."""

    module: str
    function: str
    count: int


Threads = Mapping[str, Sequence[Call]]
"""The called functions by thread, in the order of their first calls."""


class Profile:
    """A profile function for `sys.setprofile`, which counts calls of functions whose module is in `package`."""

    def __init__(self, package: str) -> None:
        self.recording = False
        self._package = package
        self._prefix = package + "."
        self._caller = threading.get_ident()
        self._counts: dict[str, Counter[tuple[str, str]]] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or not self.recording:
            return
        module = frame.f_globals.get("__name__", "")
        if module != self._package and not module.startswith(self._prefix):
            return
        name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)  # co_qualname: Python 3.11
        if name.endswith(">"):
            return  # comprehensions and lambdas are parts of their functions; newer Pythons do not call the former at all
        thread = CALLER if threading.get_ident() == self._caller else threading.current_thread().name
        self._counts.setdefault(thread, Counter())[module, name] += 1

    def threads(self) -> Threads:
        return {
            thread: [Call(module, function, count) for (module, function), count in counts.items()]
            for thread, counts in self._counts.items()
        }


def record(subject: str, port: int, commands: int) -> Threads:
    """Record one step with a warm SDK, and return the functions that were called for it."""
    name_the_backend()
    url = f"http://{HOST}:{port}"
    os.environ.update(KINDS[subject].environ(url))
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "1000"  # milliseconds: as long as this SDK waits for more events
    backend, payloads = Commander(commands), Payloads()
    profile = Profile(PACKAGES[subject])
    threading.setprofile(profile)  # for the threads that the SDK starts
    adapter = KINDS[subject].make(url)
    drive(adapter, payloads, Load(runs=2, steps=4))
    open_run = adapter.begin("run", {"task": "bench"})
    adapter.flush()
    backend.wait_until_quiet()
    backend("reset")
    given, made = payloads.step(100)
    profile.recording = True
    sys.setprofile(profile)
    adapter.step(open_run, "step", given, made)
    sys.setprofile(None)
    deadline = time.monotonic() + LIMIT / 2
    while not backend("arrived")["requests"]:
        if time.monotonic() > deadline:
            raise SystemExit("the step did not arrive")
        time.sleep(0.05)  # between two looks
    backend.wait_until_quiet()
    profile.recording = False
    return profile.threads()


def measure(subject: str, directory: Path, *, spool: bool = False) -> Threads:
    """Have `record` done in a process of its own, which runs in `directory`."""
    with SinkProcess(sys.executable) as sink, tempfile.TemporaryDirectory() as folder:
        task = {"subject": subject, "port": sink.port, "commands": sink.command_port, "spool": folder if spool else ""}
        ended = run([sys.executable, "-m", "benchmarks.path", "--record", json.dumps(task)], LIMIT, directory)
        document = ended.document()
        if not isinstance(document, dict):
            raise SystemExit(f"{subject}: {ended.failure()}")
        return {thread: [Call(**call) for call in calls] for thread, calls in document.items()}


def others(threads: Threads) -> list[Call]:
    """The calls of all threads but the caller's. A function that two threads called is in it once."""
    counts: Counter[tuple[str, str]] = Counter()
    for thread, calls in threads.items():
        if thread != CALLER:
            for call in calls:
                counts[call.module, call.function] += call.count
    return [Call(module, function, count) for (module, function), count in counts.items()]


def table(measured: Mapping[str, Threads]) -> str:
    """Modules, functions and calls of each SDK, for the calling thread and for all others."""
    lines = [("", "thread", "modules", "functions", "calls")]
    for label, threads in measured.items():
        for thread, calls in ((CALLER, threads.get(CALLER, ())), ("worker", others(threads))):
            modules = len({call.module for call in calls})
            lines.append((label, thread, str(modules), str(len(calls)), str(sum(call.count for call in calls))))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def paths(threads: Threads, *, functions: bool = False) -> Iterator[str]:
    """The modules that each thread crossed, in the order in which it first entered them; optionally with their functions."""
    for thread, calls in threads.items():
        yield f"  {thread}"
        for module in dict.fromkeys(call.module for call in calls):
            yield f"    {module}"
            if functions:
                yield from (f"      {call.function} {call.count}" for call in calls if call.module == module)


def show(measured: Mapping[str, Threads], *, functions: bool) -> None:
    print(table(measured))
    for label, threads in measured.items():
        print(f"\n{label}")
        print("\n".join(paths(threads, functions=functions)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.path", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "checkouts", nargs="*", type=Path, metavar="PATH", help="roots of checkouts (default: this one)"
    )
    parser.add_argument("--spool", action="store_true", help="let this SDK keep its events in a spool")
    parser.add_argument("--functions", action="store_true", help="print the functions below each module")
    parser.add_argument("--record", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.record is not None:
        if spool := asked.record.pop("spool"):
            os.environ["AGENTSCOPE_SPOOL_DIR"] = spool
        print(json.dumps(document(record(**asked.record))), flush=True)
        os._exit(0)  # the exit of the SDK is no part of the path
    measured = {}
    for path in asked.checkouts or [ROOT]:
        with checkout(path) as directory:
            measured[label(path, asked.checkouts)] = measure("agentscope", directory, spool=asked.spool)
    measured[KINDS["otel"].label] = measure("otel", ROOT)
    show(measured, functions=asked.functions)


def label(path: Path, checkouts: Iterable[Path]) -> str:
    return f"{KINDS['agentscope'].label} {path}" if len(list(checkouts)) > 1 else KINDS["agentscope"].label


def document(threads: Threads) -> dict[str, list[dict[str, Any]]]:
    return {thread: [vars(call) for call in calls] for thread, calls in threads.items()}


if __name__ == "__main__":
    main()
