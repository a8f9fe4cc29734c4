"""Logs with a secret on every line: the events that a kill loses in spite of the spool, and the exit beside logs without secrets.

    python -m benchmarks.kills [rounds]

Each round kills a program 250 ms after the last of 8 MB and 1.2 s after the last of 40 MB, with a spool and a backend that
refuses; and ends programs with 40 MB and a healthy backend. The exit status is 1 if an event was lost, or if the exit with
secrets takes longer than that without by 1.2 s. The machine has to be quiet: another program that computes makes the disk late.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from agentscope.server.receiver import Receiver
from tests.support.spool_recovery import events_in_file

PROGRAM = """
import os, signal, sys, time
from agentscope import create_tracker
url, word, spool, megabytes, wait = *sys.argv[1:4], float(sys.argv[4]), float(sys.argv[5])
line = f"2026-11-30 09:00:00 INFO GET /v1/items?page=2 {word}=%s status=200 took=12ms user=alice"
text = "\\n".join(line % f"a8f{number:013x}9Zq" for number in range(2000))
tracker = create_tracker("ask_bench", url, spool_dir=spool or None)
tracker.start_run("agent")
count = int(megabytes * 1e6 / len(text))
for number in range(count):
    tracker.track_step("step", output_data={"log": text})
if wait:
    print(count + 1, flush=True)
    time.sleep(wait)  # the delay that is tried
    os.kill(os.getpid(), signal.SIGKILL)
began = time.monotonic()
tracker.shutdown(60)
print(time.monotonic() - began, sum(tracker.stats().dropped.values()))
"""
KILLS = ((8, 0.25), (40, 1.2))
"""Megabytes of logs, and the seconds from the last event to the kill."""
LONGER = 1.2
"""Seconds that the exit with secrets may take longer."""


def told(*arguments: object) -> list[str]:
    """The words that a program prints."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.split()


def lost(url: str, megabytes: float, wait: float) -> int:
    """The number of events that are not on disk after a kill."""
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        (recorded,) = told(url, "token", folder, megabytes, wait)
        return int(recorded) - sum(map(events_in_file, Path(folder).glob("*.db")))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = f"http://127.0.0.1:{closed.getsockname()[1]}"
    failed = False
    for megabytes, wait in KILLS:
        losses = [lost(refusing, megabytes, wait) for _ in range(rounds)]
        failed = failed or any(losses)
        print(f"{megabytes} MB, killed {wait} s after the last event: events lost, by round: {losses}", flush=True)
    exits: dict[str, float] = {}
    with Receiver(port=0) as receiver:
        for word in ("number", "token"):
            ends = [told(receiver.url, word, "", 40, 0) for _ in range(rounds)]
            exits[word] = statistics.median(float(seconds) for seconds, _ in ends)
            failed = failed or any(dropped != "0" for _, dropped in ends)
    longer = exits["token"] - exits["number"]
    print(f"exit with 40 MB: {exits['number']:.2f} s without secrets, {longer:.2f} s longer with them")
    if failed or longer > LONGER:
        sys.exit(1)


if __name__ == "__main__":
    main()
