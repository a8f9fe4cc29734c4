"""The time that a tracking call takes from the agent, in microseconds, while the worker delivers in the background.

    python -m benchmarks.calls [calls]

The backend is a receiver in a process of its own; "alone" is the same JSON made by the standard library, for comparison.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from agentscope import create_tracker
from benchmarks.burst import wait_for

SMALL = {"query": "weather in Paris", "units": "metric"}
CHAT = {"messages": [{"role": "user", "content": "x" * 400} for _ in range(5)]}


def measure(call: Callable[[], Any], calls: int) -> tuple[float, float, float]:
    """Median, 99th and 99.9th percentile in microseconds. The pauses let the worker keep up, as an agent's own work does."""
    times = []
    for number in range(calls):
        began = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - began)
        if number % 100 == 0:
            time.sleep(0.01)
    times.sort()
    return times[calls // 2] / 1e3, times[calls * 99 // 100] / 1e3, times[calls * 999 // 1000] / 1e3


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "agentscope", "serve", "--port", "8912", "--db", f"{folder}/bench.db"],
            stdout=subprocess.DEVNULL,
        )
        try:
            url = "http://127.0.0.1:8912"
            wait_for(url)
            tracker = create_tracker("ask_bench", url)

            def block() -> None:
                with tracker.track_step_context("plan", "llm_call", SMALL) as step:
                    step.output = SMALL

            cases: list[tuple[str, Callable[[], Any]]] = [
                ("json.dumps alone, small", lambda: json.dumps(SMALL)),
                ("track_step, no payload", lambda: tracker.track_step("step")),
                ("track_step, small in and out", lambda: tracker.track_step("step", "tool_call", SMALL, SMALL)),
                ("a block, small in and out", block),
                ("json.dumps alone, 2 KB chat", lambda: json.dumps(CHAT)),
                ("track_step, 2 KB chat", lambda: tracker.track_step("step", "llm_call", CHAT)),
            ]
            with tracker.track_run("agent"):
                print(f"{'microseconds':32}  median      99 %    99.9 %")
                for name, call in cases:
                    measure(call, 200)
                    gc.collect()
                    median, high, highest = measure(call, calls)
                    print(f"{name:32} {median:7.1f} {high:9.1f} {highest:9.1f}", flush=True)
            began = time.perf_counter()
            result = tracker.shutdown()
            print(f"the rest was delivered in {time.perf_counter() - began:.2f} s: {result}")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
