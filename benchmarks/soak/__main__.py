"""The command line of the soak test.

    python -m benchmarks.soak --events 500000 --seed 1 --seeds 20

Each seed has producers that share one spool directory, a receiver with a new database, and a fault proxy between them.
Producers and receiver are killed by SIGKILL at random and started again. At the end the faults stop, the rest is delivered, and
the promised events are compared with the stored ones: every event that was tracked a second or more before its producer was
killed must be stored once. The exit status is 0 only if that is so, and if each ledger was exact at every look.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.soak.driver import Result, Seed, Settings

LINES = 10.0
"""Seconds between two lines if the output is no terminal."""


class Display:
    """A progress line that overwrites itself; without a terminal, a line every few seconds."""

    def __init__(self, settings: Sequence[Settings]) -> None:
        self._settings = settings
        self._done: list[Result] = []
        self._began = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._said = float("-inf")

    def __call__(self, result: Result, seconds: float) -> None:
        now = time.monotonic()
        if not self._terminal and now - self._said < LINES:
            return
        self._said = now
        settings = self._settings[len(self._done)]
        line = (
            f"seed {len(self._done) + 1}/{len(self._settings)}  {result.tracked:,}/{settings.events:,} events  "
            f"{result.tracked / max(seconds, 0.1):,.0f}/s  killed {result.producers_killed} + {result.receivers_killed}  "
            f"faults {share(result):.0%}  lost: not known yet  {self._left(result, seconds)}"
        )
        self._write(line, end="" if self._terminal else "\n")

    def seed(self, result: Result) -> None:
        """Print the result of one seed."""
        self._done.append(result)
        self._write(
            f"seed {result.seed}: {result.tracked:,} tracked, {result.promised:,} promised, {result.stored:,} stored; "
            f"{result.lost} lost, {result.twice} twice; killed {result.producers_killed} + {result.receivers_killed}, "
            f"{result.ended} ended; faults {share(result):.0%} of {result.requests:,}; "
            f"{result.seconds:.0f} s, {result.draining:.1f} s of them to deliver the rest"
        )
        for line in result.broken[:20]:
            print(f"    {line}")

    def _left(self, result: Result, seconds: float) -> str:
        settings = self._settings[len(self._done)]
        part = result.tracked / settings.events
        if settings.seconds is not None:
            part = max(part, seconds / settings.seconds)
        done = len(self._done) + min(part, 1.0)
        spent = time.monotonic() - self._began
        if done < 0.02:
            return ""
        left = spent / done * (len(self._settings) - done)
        return f"ETA {int(left) // 60}:{int(left) % 60:02}"

    def _write(self, line: str, end: str = "\n") -> None:
        sys.stdout.write(f"\r\x1b[K{line}{end}" if self._terminal else f"{line}{end}")
        sys.stdout.flush()


def share(result: Result) -> float:
    return result.faulted / max(result.requests, 1)


def table(results: Sequence[Result]) -> str:
    """The resource use of the processes, over all seeds."""
    lines = [
        "",
        f"{'':22}{'least':>10}{'median':>10}{'most':>10}{'growth':>10}   (of the median, within one seed, at most)",
    ]
    for role in ("producer", "receiver"):
        for name, unit in (("rss", 1 << 20), ("threads", 1), ("fds", 1)):
            found = [part[name] for result in results if (part := getattr(result, role)) and part.get(name)]
            if not found:
                continue
            label = f"{role} {name}" + (" MB" if unit > 1 else "")
            middle = sorted(item["median"] for item in found)[len(found) // 2]
            values = (
                min(item["min"] for item in found),
                middle,
                max(item["max"] for item in found),
                max(item["growth"] for item in found),
            )
            lines.append(f"{label:22}" + "".join(f"{value / unit:10.0f}" for value in values))
    return "\n".join(lines)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="Kill everything; lose nothing.")
    parser.add_argument("--events", type=int, default=200_000, help="events of each seed (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=int, default=1, help="how many seeds, one after the other (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, help="end each seed's tracking after so long at the latest")
    parser.add_argument("--producers", type=int, default=3, help="at the same time (default: %(default)s)")
    parser.add_argument(
        "--rate", type=float, default=6000, help="events a second at most, of all (default: %(default)s)"
    )
    parser.add_argument("--kill-every", type=float, default=3.0, metavar="SECONDS", help="on each side, on the average")
    parser.add_argument("--faulted", type=float, default=0.35, help="share of requests (default: %(default)s)")
    parser.add_argument(
        "--promise", type=float, default=1.0, metavar="SECONDS", help="what was tracked so long before a kill is stored"
    )
    parser.add_argument("--no-spool", action="store_true", help="producers are not killed, but end in order")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    return parser.parse_args(arguments)


def main() -> None:
    asked = options()
    settings = [
        Settings(
            seed=seed,
            events=asked.events,
            seconds=asked.seconds,
            producers=asked.producers,
            rate=asked.rate,
            kill_every=asked.kill_every,
            faulted=asked.faulted,
            spool=not asked.no_spool,
            promise=asked.promise,
        )
        for seed in range(asked.seed, asked.seed + asked.seeds)
    ]
    display = Display(settings)
    results = []
    for each in settings:
        results.append(Seed(each, display).run())
        display.seed(results[-1])
    total = {
        name: sum(getattr(result, name) for result in results)
        for name in (
            *("tracked", "promised", "stored", "lost", "twice", "beyond", "forgiven", "left", "seconds", "ended"),
            *("producers_killed", "receivers_killed", "requests", "faulted", "checks"),
        )
    }
    ok = all(result.ok for result in results)
    print(table(results))
    print(
        f"\n{total['tracked']:,} events over {len(results)} seeds in {total['seconds'] / 60:.1f} min; killed "
        f"{total['producers_killed']} producers and {total['receivers_killed']} receivers; "
        f"{total['faulted'] / max(total['requests'], 1):.0%} of {total['requests']:,} requests met a fault; "
        f"{total['checks']:,} looks at ledgers\n{total['promised']:,} promised: {total['lost']} lost, {total['twice']} "
        f"stored twice; {total['beyond']:,} stored beyond that, {total['forgiven']:,} dropped and said so"
    )
    print("Kept." if ok else f"NOT kept, by seed {', '.join(str(result.seed) for result in results if not result.ok)}.")
    if asked.json:
        document = {"ok": ok, "total": total, "seeds": [result.document() for result in results]}
        asked.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(0 if ok else 1)


if __name__ == "__main__":
    main()
