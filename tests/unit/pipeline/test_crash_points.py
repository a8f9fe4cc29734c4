"""The death of the thread that delivers, at any line: the next thread goes on with its batch, and the ledger stays exact."""

from __future__ import annotations

import threading
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import agentscope.pipeline.factory
import agentscope.pipeline.pipeline
from agentscope import Stats, Tracker, create_tracker
from agentscope.config import Config
from agentscope.pipeline.pipeline import Pipeline
from agentscope.protocols.base import BUSY, Batch, Dropped, Outcome
from tests.support.recording import balanced

FOLDER = Path(agentscope.pipeline.pipeline.__file__).parent
MODULES = "worker delivery states queue ledger"
FILES = frozenset(str(FOLDER / f"{name}.py") for name in MODULES.split())
Line = tuple[str, int, str]
"""File, number and function."""


class Moody:
    """An exporter that fails at first, then delivers a part, refuses one event, and then delivers everything."""

    protocol: str | None = "moody"

    def __init__(self) -> None:
        self.delivered: list[int] = []
        self.calls = 0

    def export(self, batch: Batch, timeout: float) -> Outcome:
        self.calls += 1
        seqs = [event.seq for event in batch.events]
        if self.calls == 1:
            return Outcome(problem="busy", kind=BUSY, retry_after="0")
        if self.calls == 2 and len(seqs) > 2:
            self.delivered += seqs[2:]
            return Outcome(delivered=seqs[2:], dropped=[Dropped(seqs[0], "rejected", "")], problem="busy", kind=BUSY)
        self.delivered += seqs
        return Outcome(delivered=seqs, reported=True)

    def warm_up(self) -> None:
        """Nothing is imported."""

    def close(self) -> None:
        """Nothing is closed."""


class Crash(BaseException):
    """An exception that no `except Exception` catches."""


class FailingText:
    """A trace function for the threads of the pipeline. It notes every line, and raises at the line that it is set for."""

    def __init__(self, line: Line | None = None) -> None:
        self.line = line
        self.armed = True
        self.seen: set[Line] = set()

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        # `_main` is the one who catches what the others raise.
        if not self.armed or code.co_filename not in FILES or code.co_name == "_main":
            return None
        if event == "line":
            line = (code.co_filename, frame.f_lineno, code.co_name)
            self.seen.add(line)
            if line == self.line:
                self.armed = False
                raise Crash
        return self


def scenario(trap: FailingText) -> tuple[Moody, Stats, Stats]:
    """Track, fail, retry and deliver with this trap in the threads of the pipeline; and once more without it."""
    exporter = Moody()

    def pipeline_for(config: Config) -> Pipeline:
        return Pipeline(config, lambda: exporter, lambda event: event)

    with patch.object(agentscope.pipeline.factory, "pipeline_for", pipeline_for):
        tracker: Tracker = create_tracker("ask_test", "http://memory.test", flush_interval=0.0, retry_delay=0.0)
    threading.settrace(trap)
    try:
        with tracker.track_run("agent"):
            for number in range(4):
                tracker.track_step(f"step {number}")
        tracker.flush(5)
    finally:
        trap.armed = False
        threading.settrace(None)
    tracker.start_run("afterwards")
    for _ in range(3):  # each begins another thread if the one before has died
        tracker.flush(5)
    between = tracker.stats()
    tracker.shutdown(5)
    return exporter, between, tracker.stats()


def wrong(exporter: Moody, between: Stats, after: Stats) -> str | None:
    """List the faults of a result: seven events are accepted, at most one is refused, and all others are delivered."""
    if not balanced(between) or not balanced(after):
        return f"the identity is broken: {between}"
    # A crash in the very line that calls the redaction hook is taken for the hook's own.
    refused = sum(between.dropped.get(reason, 0) for reason in ("rejected", "redaction_error"))
    if (between.accepted, between.delivered, between.pending) != (7, 7 - refused, 0):
        return f"not everything was delivered: {between}"
    if sum(between.dropped.values()) != refused or len(set(exporter.delivered)) != between.delivered:
        return f"the books are wrong: {sorted(exporter.delivered)} for {between}"
    return f"room was not freed: {between}" if between.queued_bytes else None


def test_a_worker_that_dies_at_any_line_loses_nothing_and_the_ledger_stays_exact() -> None:
    with patch("agentscope.pipeline.reporting.logger"):  # it says of each tracker that its worker stopped
        scenario(every := FailingText())
        assert len(every.seen) > 100
        found = {line: wrong(*scenario(FailingText(line))) for line in sorted(every.seen)}
    assert not [f"{Path(file).name}:{number} {name}: {fault}" for (file, number, name), fault in found.items() if fault]
