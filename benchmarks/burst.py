"""The time until 10 000 steps from eight threads and an event loop are stored, by a program that just returns.

    python -m benchmarks.burst [rounds]

The receiver runs in a process of its own. Prints the seconds from the first call to the end of the process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

PROGRAM = """
import asyncio, sys, threading, time
from agentscope import create_tracker
began = time.time()
tracker = create_tracker("ask_bench", sys.argv[1])
def work(number):
    with tracker.track_run(f"thread {number}"):
        for i in range(1_000):
            tracker.track_step("step", "tool_call", {"query": "weather", "i": i}, {"celsius": 21, "sky": "clear"})
async def task(number):
    async with tracker.track_run(f"task {number}"):
        for i in range(200):
            async with tracker.track_step_context("step", "tool_call", {"query": "weather", "i": i}) as step:
                await asyncio.sleep(0)
                step.output = {"celsius": 21, "sky": "clear"}
async def loop():
    await asyncio.gather(*(task(n) for n in range(10)))
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
for thread in threads: thread.start()
asyncio.run(loop())
for thread in threads: thread.join()
print(began, time.time(), flush=True)
"""


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "agentscope", "serve", "--port", "8911", "--db", f"{folder}/bench.db"],
            stdout=subprocess.DEVNULL,
        )
        url = "http://127.0.0.1:8911"
        try:
            wait_for(url)
            totals = []
            for number in range(1, rounds + 1):
                process = subprocess.Popen([sys.executable, "-c", PROGRAM, url], stdout=subprocess.PIPE, text=True)
                assert process.stdout is not None
                began, tracked = (float(word) for word in process.stdout.readline().split())
                process.wait()
                totals.append(time.time() - began)
                stored = health(url)["events"]
                assert stored == number * (10_000 + 2 * 18), stored
                print(f"tracked in {tracked - began:.2f} s, stored and ended after {totals[-1]:.2f} s", flush=True)
            print(f"median {statistics.median(totals):.2f} s, worst {max(totals):.2f} s; every event stored once")
        finally:
            server.terminate()
            server.wait()


def health(url: str) -> dict[str, int]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url + "/health", timeout=5) as answer:
        found: dict[str, int] = json.load(answer)
        return found


def wait_for(url: str) -> None:
    for _ in range(200):
        try:
            health(url)
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the receiver did not start")


if __name__ == "__main__":
    main()
