"""How long a program's exit is delayed: by a backend that is healthy, hangs, refuses, or is not used at all.

    python -m benchmarks.exits [rounds]

Each program tracks some steps, and the time from the end of its own code to the end of the process is taken.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time

from agentscope.server.serve import Receiver

PROGRAM = """
import sys, time
from agentscope import create_tracker
tracker = create_tracker("ask_bench", sys.argv[1])
with tracker.track_run("agent"):
    for i in range(int(sys.argv[2])):
        tracker.track_step("step", "tool_call", {"i": i}, {"ok": True})
time.sleep(float(sys.argv[3]))
print(time.time(), flush=True)
"""


def delay(url: str, steps: int, pause: float) -> float:
    """Seconds from the program's last line to its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, url, str(steps), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    last = float(process.stdout.readline())
    process.wait()
    return time.time() - last


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    deaf = socket.create_server(("127.0.0.1", 0), backlog=16)  # takes connections, never answers
    closed = socket.create_server(("127.0.0.1", 0))
    refusing = f"http://127.0.0.1:{closed.getsockname()[1]}"
    closed.close()
    hanging = f"http://127.0.0.1:{deaf.getsockname()[1]}"
    with Receiver(port=0) as receiver:
        cases = [
            ("nothing tracked yet, healthy", receiver.url, 0),
            ("10 000 steps, healthy", receiver.url, 10_000),
            ("100 steps, hanging", hanging, 100),
            ("100 steps, refusing", refusing, 100),
        ]
        print(f"{'seconds of delay, median (worst)':36} at once          after 1 s")
        for name, url, steps in cases:
            columns = []
            for pause in (0.0, 1.0):
                times = [delay(url, steps, pause) for _ in range(rounds)]
                columns.append(f"{statistics.median(times):6.2f} ({max(times):5.2f})")
            print(f"{name:36} {'  '.join(columns)}", flush=True)


if __name__ == "__main__":
    main()
