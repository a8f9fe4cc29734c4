"""The demonstration: a receiver, an agent on real files, and what came out at the other end, checked against what went in."""

from __future__ import annotations

import json
import os
import queue
import signal
import statistics
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from agentscope.exporters.terminal import Style, clean, tree
from agentscope.tracker.tracker import Tracker, create_tracker
from agentscope.types import FlushResult, Stats

from .agent import Librarian

if TYPE_CHECKING:
    from agentscope.server.receiver import Receiver

CALLS = 2000
"""How many tracking calls the cost is measured over."""

_WARM_UP = 200


def run_demo(port: int = 0, leave: bool = False, directory: str | None = None, out: TextIO | None = None) -> int:
    """Run the demonstration in `directory` (default: the current one) and print it to `out` (default: stdout).

    `port` 0 takes a free one. With `leave` it ends at once, otherwise it stays up until Ctrl-C. The answer is an exit
    status: 0 if every event that was accepted was delivered and is stored, else 1.
    """
    from agentscope.server.receiver import Receiver

    out = out or sys.stdout
    root = os.path.abspath(directory or os.getcwd())
    with (
        tempfile.TemporaryDirectory(prefix="agentscope-demo-") as folder,
        Receiver(port=port, db=os.path.join(folder, "demo.db")) as receiver,
    ):
        return _Demo(receiver, root, Path(folder), out).run(leave)


class _Demo:
    def __init__(self, receiver: Receiver, root: str, folder: Path, out: TextIO) -> None:
        self.receiver = receiver
        self.root = root
        self.folder = folder
        self.out = out
        self.style = Style.of(out)

    def run(self, leave: bool) -> int:
        self._say(f"An agent reads {self.style.bold(clean(self.root))}, recorded by AgentScope.\n")
        # What the environment says of these is meant for the user's own agents.
        tracker = create_tracker(
            api_key="demo", base_url=self.receiver.url, enabled=True, sample_rate=1.0, fail_silently=True
        )
        cost_run, costs = measure(tracker)
        runs = self._work(tracker)
        flushed = tracker.flush(timeout=10)
        stats = tracker.stats()
        tracker.shutdown(timeout=5)
        stored = sum(self._count_stored(run_id) for run_id in [*runs, cost_run])
        for run_id in runs:
            self._show_run(run_id)
        fault = self._show_ledger(flushed, stats, stored)
        self._show_cost(costs)
        if leave:
            self._show_address(runs[-1], leave)
        else:
            with signals() as wait:
                self._show_address(runs[-1], leave)
                wait()
        return 1 if fault else 0

    def _work(self, tracker: Tracker) -> list[str]:
        agent = Librarian(tracker, self.root, self.folder / "notebook.json")
        first, topics = agent.survey()
        runs = [first]
        for topic in topics[:1] or ["anything"]:
            runs.append(agent.answer(f"What do these files say about {topic}?"))
        return runs

    def _show_run(self, run_id: str) -> None:
        run = self._get(f"/api/runs/{urllib.parse.quote(run_id)}")
        if run is None:
            self._say(self.style.bad(self.style.art(f"✗ The receiver does not know the run {run_id}.")) + "\n")
            return
        style = self.style
        lines = tree(run, style)
        asked, answered = run.get("input") or {}, run.get("output") or {}
        self._say(lines[0])
        self._say(style.bold(style.art(f"  {clean(asked.get('question', ''))}")))
        for line in lines[1:]:
            self._say(f"  {line}")
        answer = textwrap.wrap(clean(answered.get("answer", "")), style.width - 4, max_lines=4, placeholder=" …")
        self._say(style.art("\n".join(f"  {line}" for line in answer)) + "\n")

    def _show_ledger(self, flushed: FlushResult, stats: Stats, stored: int) -> bool:
        lost = sum(stats.dropped.values())
        kept = stats.delivered + lost + stats.spooled + stats.pending
        whole = stats.accepted == stats.delivered == stored == kept
        mark = self.style.good(self.style.art("✓")) if whole else self.style.bad(self.style.art("✗"))
        self._say(
            f"{mark} ledger   accepted {stats.accepted} = delivered {stats.delivered} + dropped {lost} "
            f"+ spooled {stats.spooled} + pending {stats.pending}; stored by the receiver: {stored}"
        )
        if not whole:
            self._say("  These numbers should be equal: accepted, delivered, stored.")
            for reason, count in sorted(stats.dropped.items()):
                self._say(f"  dropped {count}: {clean(reason)}")
            if flushed.problem:
                self._say(f"  {clean(flushed.problem)}")
        return not whole

    def _show_cost(self, costs: list[float]) -> None:
        percentiles = statistics.quantiles(costs, n=100)
        self._say(
            self.style.art(
                f"· cost     a tracking call took {statistics.median(costs):.1f} µs (median), {percentiles[98]:.1f} µs "
                f"(99th percentile), over {len(costs)} calls with 1 KB each"
            )
        )

    def _show_address(self, run_id: str, leave: bool) -> None:
        page = f"{self.receiver.url}/runs/{urllib.parse.quote(run_id)}"
        art, url = self.style.art, self.receiver.url
        if leave:
            self._say(art(f"· page     was at {page}; run it without --exit to look around"))
            return
        self._say(art("· page     ") + self.style.bold(page) + f"   (all runs: {url}/)")
        self._say(art(f'· yours    tracker = create_tracker(api_key="any", base_url="{url}")'))
        self._say("\nPress Ctrl-C to end; the recordings are deleted then.")

    def _count_stored(self, run_id: str) -> int:
        stored = self._get(f"/api/runs/{urllib.parse.quote(run_id)}/events")
        return len(stored["events"]) if stored else 0

    def _get(self, path: str) -> Any:
        # Not through a proxy that the environment may name: the receiver is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.receiver.url + path, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            raise

    def _say(self, text: str) -> None:
        print(text.encode(self.out.encoding or "utf-8", "replace").decode(self.out.encoding or "utf-8"), file=self.out)
        self.out.flush()


@contextmanager
def signals() -> Iterator[Callable[[], int]]:
    """Collect SIGINT and SIGTERM from here on; what it gives waits for the first. An exception could be raised inside a
    finalizer, which would swallow it.
    """
    got: queue.SimpleQueue[int] = queue.SimpleQueue()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda signum, _: got.put(signum)) for number in numbers}
    try:
        yield got.get
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def measure(tracker: Tracker, calls: int = CALLS) -> tuple[str, list[float]]:
    """Time `calls` tracking calls with a payload like the agent's. Returns the run they are in, and microseconds each."""
    passage = "What an agent reads and answers is mostly text, so this is text as well. " * 6
    found = {"path": "README.md", "lines": 120, "text": passage}
    run_id = tracker.start_run("call cost", input_data={"calls": calls})
    costs = []
    clock = time.perf_counter_ns
    for number in range(calls + _WARM_UP):
        asked = {"question": passage, "number": number}
        begin = clock()
        tracker.track_step("read_file", "tool_call", input_data=asked, output_data=found, latency_ms=1, run_id=run_id)
        costs.append((clock() - begin) / 1000)
    tracker.end_run(run_id=run_id)
    return run_id, costs[_WARM_UP:]
