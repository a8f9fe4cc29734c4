"""A producer of the soak test: a process that records one run of numbered steps, and may be killed at any moment.

    python -m benchmarks.soak.producer OPTIONS   (JSON; see `Options`)

Each line of its output is one of

    run ID              the run of its steps
    count N TIME        N events were accepted before TIME of the monotonic clock
    ended N TIME        the same, and the last of them is the end of the run
    waits N             N events are not acknowledged
    broken TEXT         the ledger did not add up
    end STATS           it has shut down; JSON

It shuts down when its standard input is closed.
"""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from agentscope import Stats, Tracker, create_tracker

REPORT = 0.05
"""Seconds between two reports."""
CHECK = 0.2
"""Seconds between two checks of the ledger."""
CHUNK = 25
"""Steps that are tracked without a pause."""


@dataclass(frozen=True)
class Options:
    url: str
    name: str
    spool_dir: str = ""
    rate: float = 1000.0
    """The greatest number of steps a second."""
    most_waiting: int = 20_000
    """The greatest number of undelivered events. At that number the producer waits, so that the queue does not fill up."""
    drain: bool = False
    """True to track almost nothing, and to run until the spool is empty."""
    patience: float = 0.0
    """Seconds for the delivery of everything before a shutdown."""

    def text(self) -> str:
        return json.dumps(asdict(self))


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


class Producer:
    """Counts every call, for comparison with the ledger."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._tracker: Tracker = create_tracker(
            "ask_soak",
            options.url,
            spool_dir=options.spool_dir or None,
            batch_size=500,
            flush_interval=0.2,
            timeout=1.0,
            retry_delay=0.1,
        )
        self._calls = 1
        self._count = 1
        self._run_id = self._tracker.start_run(options.name)
        say("run", self._run_id)

    def work(self) -> None:
        began = reported = checked = time.monotonic()
        waiting = 0
        while not ended():
            now = time.monotonic()
            if now - checked >= CHECK:
                checked = now
                waiting = self._check()
            ahead = self._count - (now - began) * self._options.rate
            if ahead <= 0 and waiting < self._options.most_waiting:
                self._track()
            else:
                time.sleep(min(max(ahead / self._options.rate, 0.005), REPORT))  # the pace that was asked for
            if now - reported >= REPORT:
                reported = now
                self._report()

    def drain(self) -> None:
        """Wait until no other process has a file in the spool, and this one's events are delivered."""
        began = time.monotonic()
        folder = Path(self._options.spool_dir)
        others = alone(folder)
        while not ended() and (self._check() or others()) and time.monotonic() - began < self._options.patience:
            time.sleep(0.1)  # between two looks

    def end(self) -> None:
        """End the run and the tracker, and report the statistics."""
        self._calls += 1
        self._tracker.end_run(run_id=self._run_id)
        self._count += 1
        self._report("ended")
        if self._options.patience:
            self._tracker.flush(self._options.patience)
        self._check()
        self._tracker.shutdown()
        self._check()
        stats = self._tracker.stats()
        refused = self._calls - self._count
        dropped = dict(stats.dropped)
        say("end", json.dumps({"dropped": dropped, "refused": refused, "spooled": stats.spooled}))

    def _track(self) -> None:
        for _ in range(CHUNK):
            self._calls += 1
            # A refused step does not count, and the next one takes its number.
            self._count += self._tracker.track_step(
                str(self._count), "tool_call", {"n": self._count}, run_id=self._run_id
            )

    def _report(self, word: str = "count") -> None:
        say(word, self._count, time.monotonic())

    def _check(self) -> int:
        """Check the ledger. Return the number of events that are not acknowledged."""
        stats = self._tracker.stats()
        if not whole(stats) or stats.accepted != self._calls:
            say("broken", f"{self._calls} calls, {stats}")
        waiting = stats.pending + stats.spooled
        say("waits", waiting)
        return waiting


def whole(stats: Stats) -> bool:
    return stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.spooled + stats.pending


def alone(folder: Path) -> Callable[[], bool]:
    """A function that tells if the spool has files of other processes. This process must have made its own file before."""
    return lambda: len(list(folder.glob("*.db"))) > 1


def ended() -> bool:
    """Tell if standard input is closed."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    producer = Producer(options)
    if options.drain:
        producer.drain()
    else:
        producer.work()
    producer.end()


if __name__ == "__main__":
    main()
