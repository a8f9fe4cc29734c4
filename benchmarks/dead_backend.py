"""A million events of 1 KB while the backend is dead: growth of memory, threads and descriptors, and the ledger.

    python -m benchmarks.dead_backend [--events 1000000] [--size 1000] [--spool]

Measured with a backend that refuses connections, then with one that accepts them and hangs; each in a process of its own. The
exit status is 0 only if memory grew by no more than `max_queue_bytes` and 16 MB, the ledger agrees with the counts of the caller,
and there are no more threads and file descriptors at the end than after the first thousand events, except for one connection.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from agentscope import Config
from tests.support.proxy import FaultProxy

ROOT = Path(__file__).resolve().parents[1]
MiB = 1 << 20
ALLOWANCE, SPOOL_ALLOWANCE = 4 * MiB, 20 * MiB
"""Bytes that memory may grow by beside the queue: 64 MiB in all, and more with a spool, for SQLite and unwritten events."""
PAYLOAD = 1000
"""Bytes of text in each event, by default."""
WARM = 1000
"""Events before the first count of threads and file descriptors."""


def resources() -> dict[str, int]:
    """The memory, threads and file descriptors of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    fds = len(os.listdir("/proc/self/fd"))
    return {"rss": pages * resource.getpagesize(), "threads": threading.active_count(), "fds": fds}


def most(spool: bool) -> int:
    """Bytes that memory may grow by."""
    return Config().max_queue_bytes + (SPOOL_ALLOWANCE if spool else ALLOWANCE)


def flood(url: str, events: int, size: int, spool_dir: str = "") -> dict[str, Any]:
    """Track `events` events as fast as possible, and return what that cost. It runs in the measured process."""
    from agentscope import create_tracker

    tracker = create_tracker("ask_bench", url, timeout=2, spool_dir=spool_dir or None)
    run_id = tracker.start_run("flood")
    taken, refused, broken = 1, 0, 0
    before = resources()
    highest, slowest = before["rss"], 0.0
    warm = before
    began = time.perf_counter()
    for i in range(events):
        call = time.perf_counter()
        # Each event gets its own text: a shared one would cost no memory.
        accepted = tracker.track_step("step", "tool_call", output_data=f"{i:0{size}}", run_id=run_id)
        slowest = max(slowest, time.perf_counter() - call)
        taken += accepted
        refused += not accepted
        if i == min(WARM, events - 1):
            time.sleep(0.5)  # until the worker has its thread and its first connection
            warm = resources()
        if i % 5_000 == 4_999:
            highest = max(highest, resources()["rss"])
            broken += not exact(tracker.stats(), taken + refused, refused)
    seconds = time.perf_counter() - began
    after = resources()
    stats = tracker.stats()
    broken += not exact(stats, taken + refused, refused)
    closing = time.perf_counter()
    tracker.shutdown()
    end = tracker.stats()
    lost = sum(end.dropped.values())
    return {
        "events": events,
        "seconds": seconds,
        "growth": max(highest, after["rss"]) - before["rss"],
        "bound": Config().max_queue_bytes,
        "most": most(bool(spool_dir)),
        "refused": refused,
        "queue_full": stats.dropped.get("queue_full", 0),
        "payloads_shed": stats.payloads_shed,
        "pending": stats.pending,
        "queued_bytes": stats.queued_bytes,
        "spooled": stats.spooled,
        "broken": broken + (lost + end.spooled != taken + refused) + (end.pending != 0),
        "threads": [warm["threads"], after["threads"], threading.active_count()],
        "fds": [warm["fds"], after["fds"], resources()["fds"]],
        "slowest_call": slowest,
        "shutdown": time.perf_counter() - closing,
    }


def exact(stats: Any, tracked: int, refused: int) -> bool:
    """Tell if the ledger adds up, and agrees with the counts of the caller."""
    settled = stats.delivered + sum(stats.dropped.values())
    return bool(
        stats.accepted == settled + stats.spooled + stats.pending == tracked
        and stats.dropped.get("queue_full", 0) == refused
    )


def measured(url: str, events: int, size: int = PAYLOAD, *, spool: bool = False) -> dict[str, Any]:
    """Run `flood` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.dead_backend", "--flood", url]
    options = ["--events", str(events), "--size", str(size)]
    with tempfile.TemporaryDirectory() as folder:
        options += ["--spool-dir", folder] if spool else []
        # The SDK logs the drops once a minute.
        process = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    if process.returncode:
        raise AssertionError(f"the measured process ended with {process.returncode}: {process.stderr}")
    found: dict[str, Any] = json.loads(process.stdout)
    return found


def faults(found: dict[str, Any]) -> list[str]:
    """The promises that were broken, one text for each."""
    named = []
    if found["growth"] > found["most"]:
        named.append(f"memory grew by {found['growth'] / MiB:.0f} MB")
    if found["broken"] or found["refused"] != found["queue_full"]:
        named.append(f"the ledger was wrong {found['broken']} times, or its drops")
    for name, spare in (("threads", 0), ("fds", 1)):
        if max(found[name][1:]) > found[name][0] + spare:
            named.append(f"{name}: {' -> '.join(map(str, found[name]))}")
    return named


def row(mode: str, found: dict[str, Any]) -> str:
    threads, fds = ("/".join(map(str, found[name])) for name in ("threads", "fds"))
    return (
        f"{mode:8} {found['events'] / found['seconds']:9.0f} {found['growth'] / MiB:8.1f} {found['refused']:11} "
        f"{found['payloads_shed']:6} {found['pending']:10} {found['spooled']:8}  {threads:8}  {fds:8} "
        f"{found['slowest_call'] * 1000:9.1f} ms {found['shutdown']:8.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=PAYLOAD, help="bytes of text in each event (default: %(default)s)")
    parser.add_argument("--spool", action="store_true", help="with a spool on disk")
    parser.add_argument("--spool-dir", default="", help=argparse.SUPPRESS)
    parser.add_argument("--flood", metavar="URL", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.flood:
        print(json.dumps(flood(asked.flood, asked.events, asked.size, asked.spool_dir)))
        return
    print(f"{asked.events} events of {asked.size} bytes; memory may grow by {most(asked.spool) / MiB:.0f} MB\n")
    print(
        "backend   events/s  grew MB     refused   shed  in memory  on disk  threads   fds      slowest call  shutdown"
    )
    wrong = []
    for mode in ("refuse", "hang"):
        with FaultProxy(None, mode, remember=False) as proxy:
            found = measured(proxy.url, asked.events, asked.size, spool=asked.spool)
        print(row(mode, found), flush=True)
        wrong += [f"{mode}: {fault}" for fault in faults(found)]
    print("\n" + ("\n".join(wrong) if wrong else "Within the bound, and every drop counted."))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
