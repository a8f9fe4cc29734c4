"""The console destination: each run as a tree of its steps, printed when the run ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from agentscope.events import RUN, RUN_END
from agentscope.protocols.token_usage import tokens_of

from .custom import EventRecord, ExportResult, LocalExporter
from .memory import runs_of
from .terminal import Terminal, shorten, tree

SHOWN = ("agent_name", "name", "step_type", "status", "latency_ms", "tokens_used", "usage", "model", "error")
TIMES = ("started_at", "ended_at")
LONGEST_TEXT = 200
"""Characters of a text that are kept. A printed line shows fewer."""
MOST_EVENTS = 20_000
"""Events of open runs that are kept. Beyond it the run that is open longest is printed as it is."""


class ConsoleExporter(LocalExporter):
    """Prints each run as a tree when it ends: name, type, status, duration, model, tokens and errors of its steps.

    Runs that are still open are printed at the end of the tracker. stream: standard error by default, as standard output belongs
    to the program's own results. color: by default on a terminal only, and not where NO_COLOR is set.
    """

    def __init__(self, stream: TextIO | None = None, *, color: bool | None = None) -> None:
        self._stream = stream
        self._color = color
        self._open: dict[str, dict[str, EventRecord]] = {}
        """The events of each open run: run id -> event id -> event."""
        self._events = 0
        self._pid = os.getpid()

    def export(self, events: Sequence[EventRecord], timeout: float) -> ExportResult | None:
        """Keep these events, and print the runs that end with them."""
        if self._pid != os.getpid():  # what was open at a fork is printed by the parent
            self._open, self._events, self._pid = {}, 0, os.getpid()
        ended = []
        for event in events:
            run = self._open.setdefault(event.run_id, {})
            self._events += event.id not in run
            run[event.id] = event._replace(fields=_slim(event.fields))
            if event.type in (RUN, RUN_END):
                ended.append(event.run_id)
        kept = self._events - sum(len(self._open[run_id]) for run_id in set(ended))
        for run_id in self._open:
            if kept <= MOST_EVENTS:
                break
            if run_id not in ended:
                ended.append(run_id)
                kept -= len(self._open[run_id])
        try:
            self._print(ended)
        except (OSError, ValueError):  # the stream is closed, or its reader has gone
            return ExportResult(rejected=[event.id for event in events])
        return None

    def close(self) -> None:
        """Print the runs that are still open."""
        if self._pid == os.getpid():
            self._print(list(self._open))

    def _print(self, run_ids: Iterable[str]) -> None:
        told = [events for run_id in run_ids if (events := self._open.pop(run_id, None)) is not None]
        self._events -= sum(map(len, told))
        stream = self._stream or sys.stderr
        if not told or stream is None:  # pythonw has no standard error
            return
        terminal = Terminal(stream, color=self._color)
        runs = [run for events in told for run in runs_of(events.values())]
        # One write, so that lines of other threads do not come between.
        stream.write("".join(f"{terminal.line(*line)}\n" for run in runs for line in tree(run, terminal.width)))
        stream.flush()


def _slim(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are printed; texts are shortened."""
    kept = {name: fields[name] for name in (*SHOWN, *TIMES) if name in fields}
    for name in ("agent_name", "name", "step_type", "status", "model"):
        if name in kept:
            kept[name] = shorten(str(kept[name]), LONGEST_TEXT)
    error = kept.get("error")
    if isinstance(error, dict):
        kept["error"] = {name: shorten(str(error.get(name, "")), LONGEST_TEXT) for name in ("type", "message")}
    elif error is not None:
        kept["error"] = {"type": "error", "message": shorten(str(error), LONGEST_TEXT)}
    usage = kept.pop("usage", None)
    if kept.get("tokens_used") is None:
        kept["tokens_used"] = tokens_of(usage).total
    return kept
