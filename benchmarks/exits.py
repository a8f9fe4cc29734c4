"""The delay of a program's exit: with a backend that is healthy, hangs or refuses, and with none in use; also with a spool.

    python -m benchmarks.exits [rounds] [--json]

Each program tracks some steps. The delay is the time from the end of its own code to the end of the process, less that of an idle
program, which is Python's own exit. The exit status is 1 if a median misses its target, or if a healthy backend has not stored
everything.
"""

from __future__ import annotations

import json
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from agentscope.server.receiver import Receiver
from tests.support.stored import stored_runs

PROGRAM = """
import sys, time
from agentscope import create_tracker
tracker = create_tracker("ask_bench", sys.argv[1], spool_dir=sys.argv[4] or None)
if int(sys.argv[2]):
    with tracker.track_run("agent"):
        for i in range(int(sys.argv[2])):
            tracker.track_step("step", "tool_call", {"i": i}, {"ok": True})
time.sleep(float(sys.argv[3]))
print(time.time(), flush=True)
"""

PYTHON_ALONE = "import time; print(time.time(), flush=True)"


class Case(NamedTuple):
    """target: seconds of delay, for the median. pause: seconds that the program goes on after its last step."""

    name: str
    backend: str
    steps: int
    pause: float
    spool: bool
    target: float


CASES = (
    Case("nothing tracked", "healthy", 0, 0.0, False, 0.05),
    Case("all delivered before", "healthy", 100, 2.0, False, 0.05),
    Case("all delivered before, spool", "healthy", 100, 2.0, True, 0.05),
    Case("10 000 steps, healthy", "healthy", 10_000, 0.0, False, 2.0),
    Case("10 000 steps, healthy, spool", "healthy", 10_000, 0.0, True, 2.0),
    Case("hanging, at once", "hanging", 100, 0.0, False, 2.2),
    Case("hanging, later", "hanging", 100, 1.5, False, 2.2),
    Case("hanging, at once, spool", "hanging", 100, 0.0, True, 1.0),
    Case("hanging, later, spool", "hanging", 100, 1.5, True, 1.0),
    Case("refused, at once", "refusing", 100, 0.0, False, 0.3),
    Case("refused, later", "refusing", 100, 1.5, False, 0.3),
    Case("refused, at once, spool", "refusing", 100, 0.0, True, 0.3),
    Case("refused, later, spool", "refusing", 100, 1.5, True, 0.3),
)


def delay(*command: str) -> float:
    """Seconds from the program's last line to its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    last = float(process.stdout.readline())
    process.wait()
    return time.time() - last


def measured(case: Case, url: str, rounds: int, own: float) -> dict[str, Any]:
    """The delays of one case in seconds, less the interpreter's own exit."""
    times = []
    for _ in range(rounds):
        folder = tempfile.mkdtemp(prefix="exits-")
        spool = folder if case.spool else ""
        try:
            times.append(max(delay(PROGRAM, url, str(case.steps), str(case.pause), spool) - own, 0.0))
        finally:
            shutil.rmtree(folder)
    median = statistics.median(times)
    return {**case._asdict(), "median": round(median, 3), "worst": round(max(times), 3), "met": median <= case.target}


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    as_json = len(arguments) < len(sys.argv) - 1
    rounds = int(arguments[0]) if arguments else 5
    deaf = socket.create_server(
        ("127.0.0.1", 0), backlog=16 + rounds * len(CASES)
    )  # accepts connections and never answers
    closed = socket.create_server(("127.0.0.1", 0))
    refusing = f"http://127.0.0.1:{closed.getsockname()[1]}"
    closed.close()
    own = statistics.median(delay(PYTHON_ALONE) for _ in range(rounds))
    results = []
    with Receiver(port=0) as receiver:
        backends = {
            "healthy": receiver.url,
            "hanging": f"http://127.0.0.1:{deaf.getsockname()[1]}",
            "refusing": refusing,
        }
        if not as_json:
            print(f"Python {platform.python_version()}, whose own end takes {own:.3f} s")
            print(f"{'seconds of delay, median (worst)':34}{'':18}target")
        for case in CASES:
            result = measured(case, backends[case.backend], rounds, own)
            results.append(result)
            if not as_json:
                verdict = "" if result["met"] else "  MISSED"
                print(
                    f"{case.name:34}{result['median']:7.3f} ({result['worst']:6.3f}){case.target:8.2f}{verdict}",
                    flush=True,
                )
        expected = rounds * sum(case.steps for case in CASES if case.backend == "healthy")
        stored = sum(len(run["steps"]) for run in stored_runs(receiver.url))
    if as_json:
        whole = {"python": platform.python_version(), "own": round(own, 3), "cases": results}
        print(json.dumps({**whole, "healthy": {"expected": expected, "stored": stored}}))
    else:
        print(f"healthy backend: {stored} of {expected} steps stored")
    if stored != expected or not all(result["met"] for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
