"""The memory of a receiver under attack, and the latency of a healthy client meanwhile.

python -m benchmarks.hostile [seconds, 60] [hostile clients, 32]

Fails if the receiver takes more than 200 MB, if the healthy client is refused, or if the 99th percentile of its requests is
more than 250 ms.
"""

from __future__ import annotations

import http.client
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.hostile_clients import ATTACKERS, memory, prepare
from tests.support.receiver import Client, receiver_process, step

MEMORY_MB = 200.0
P99_SECONDS = 0.25
PROCESSES = 4
FORK = multiprocessing.get_context("fork")


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 32
    with tempfile.TemporaryDirectory() as folder, receiver_process(Path(folder, "runs.db")) as (process, url):
        prepare(url)
        for attack in ATTACKERS:
            _try(attack, url)  # makes the bodies of the attack too, which are kept
        end = time.monotonic() + seconds
        attacks = FORK.Value("L")
        # In other processes, so that the healthy client waits for the receiver only, not for its own interpreter.
        shares = [range(start, count, PROCESSES) for start in range(PROCESSES)]
        crowds = [FORK.Process(target=_crowd, args=(url, share, end, attacks), daemon=True) for share in shares]
        for crowd in crowds:
            crowd.start()
        waits, refused, sent = _healthy(url, process.pid, end, attacks)
        for crowd in crowds:
            crowd.join()
        stored = Client(url).get("/api/runs/healthy").json["step_count"]
        waits.sort()
        p99 = waits[int(len(waits) * 0.99)]
        peak = memory(process.pid)
        print(
            f"\n{len(waits)} healthy requests: median {waits[len(waits) // 2]:.3f} s, p99 {p99:.3f} s, worst {waits[-1]:.3f} s"
        )
        print(f"{refused} refused; {sent} events acknowledged, {stored} stored; {peak:.0f} MB at the most")
        process.terminate()
        before = time.monotonic()
        process.wait(10)
        print(f"ended {time.monotonic() - before:.1f} s after SIGTERM")
    if peak > MEMORY_MB or p99 > P99_SECONDS or refused or stored != sent:
        sys.exit("not good enough")


def _crowd(url: str, seeds: range, end: float, attacks: Any) -> None:
    """Run one hostile client in each thread."""

    def attack(seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < end:
            _try(chance.choice(ATTACKERS), url)
            with attacks.get_lock():
                attacks.value += 1

    threads = [threading.Thread(target=attack, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _try(attack: Callable[[str], None], url: str) -> None:
    try:
        attack(url)
    except (OSError, http.client.HTTPException):
        pass  # refused or cut off, as expected


def _healthy(url: str, pid: int, end: float, attacks: Any) -> tuple[list[float], int, int]:
    """Send a batch every 20 ms. Returns the seconds of each, the number refused, and the number of acknowledged events."""
    client = Client(url)
    waits: list[float] = []
    refused = sent = 0
    shown = 0.0
    while time.monotonic() < end:
        before = time.monotonic()
        try:
            answer = client.batch(*(step("healthy") for _ in range(20)))
            sent += answer.json.get("accepted", 0)
            refused += answer.status != 200
        except OSError:
            refused += 1
        waits.append(time.monotonic() - before)
        if before - shown > 1:
            shown = before
            told = f"{end - before:4.0f} s left, {attacks.value:6} attacks, {len(waits):6} healthy requests"
            print(f"\r{told}, {memory(pid, 'VmRSS'):4.0f} MB", end="", flush=True)
        time.sleep(0.02)  # the pace of a healthy client
    return waits, refused, sent


if __name__ == "__main__":
    main()
