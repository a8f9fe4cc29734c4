"""The open runs and steps of a process, and the announcement of the steps that take long.

A step is one event, made when it ends. The worker looks about once a second at the steps that are open. One that is about
a second old is announced: its start becomes an event of its own, if the destination takes single events. The event of its end is
the same with and without an announcement, so that nothing depends on the announcement's arrival.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from agentscope.events import FieldValue

AGE = 1.0
"""Seconds after which an open step is announced."""
_ALSO_AT = 0.75
"""Seconds after which a step is announced with one that is older, since steps within each other begin together."""
_NS = 1_000_000_000
NEVER = float("inf")


class StepStart(NamedTuple):
    """The start of an open step; for a span that is a run of its own, the fields that the start of the run did not have."""

    run_id: str
    step_id: str | None
    parent_id: str | None
    fields: dict[str, FieldValue]
    size: int
    """Bytes of the payloads and names."""
    started_at: int
    """Nanoseconds since the epoch."""


class OpenStep(Protocol):
    """The handle of a step."""

    def open_since(self) -> int | None:
        """Return when the step began, by `time.perf_counter_ns`; None if it is not open."""

    def start_event(self) -> StepStart | None:
        """Return the start of the step; None if it is an event already, or the step is not open."""


class OpenRun(Protocol):
    ended: bool


class OpenItems:
    """The open runs and steps of the process. Any thread adds and removes, with one C call, and no lock."""

    def __init__(self) -> None:
        self.runs: dict[str, OpenRun] = {}
        self.steps: dict[str | None, Callable[[], OpenStep | None]] = {}
        """References to the handles, in the order of their starts. A handle that is collected leaves a dead one."""
        self.watched = False
        """True while the workers look by themselves. If it is False, a thread that adds a step has to call `Pipeline.watch`."""

    def clear(self) -> None:
        """Forget everything: it belongs to the parent of a forked process."""
        self.runs.clear()
        self.steps.clear()
        self.watched = False

    def open_steps(self) -> Iterator[tuple[str | None, OpenStep, int]]:
        """Yield the id, the handle and the start of each open step. Forgets steps that have ended without saying so."""
        for step_id, reference in self.steps.copy().items():
            step = reference()
            began = None if step is None else step.open_since()
            if step is None or began is None:
                self.steps.pop(step_id, None)
            else:
                yield step_id, step, began

    def has_open_run(self) -> bool:
        for run_id, run in self.runs.copy().items():
            if not run.ended:
                return True
            self.runs.pop(run_id, None)
        return False


class Watch:
    """The looks of one worker at the open items. `announce` is `Pipeline.announce`."""

    def __init__(self, items: OpenItems, announce: Callable[[StepStart], int | None]) -> None:
        self.next = 0.0
        """The monotonic time of the next look. Another thread sets it to 0 for a look at once."""
        self._items = items
        self._announce = announce
        self._announced: set[str | None] = set()

    def wait(self, now: float, heartbeat_at: float) -> float | None:
        """Return the seconds until the worker has to look again, or to send a heartbeat; None while nothing is open."""
        wake_at = min(self.next, heartbeat_at) if self._items.runs or self._items.steps else self.next
        return None if wake_at == NEVER else max(wake_at - now, 0.0)

    def look(self, now: float, is_told: bool | None, perf_ns: int | None = None) -> int | None:
        """Announce the steps that are old enough. Returns the number of the first announcement; None if no step is old enough.

        0 if what waits already is to be sent: the starts are events of their own, or it is not known yet whether the destination
        takes them (`is_told` is None). perf_ns: the time by `time.perf_counter_ns`.
        """
        items = self._items
        is_asked = items.watched and self.next == 0.0
        # In this order: a step that is added after the last line asks for a look.
        self.next = NEVER
        items.watched = False
        if not items.steps:
            self._announced.clear()
            if is_asked:
                # The step that asked has ended, and others will follow: not each of them has to wake the worker.
                items.watched, self.next = True, now + AGE
            return None
        items.watched = True
        self._announced.intersection_update(items.steps.copy())
        now_ns = time.perf_counter_ns() if perf_ns is None else perf_ns
        fresh = [
            (step_id, step, (now_ns - began) / _NS)
            for step_id, step, began in items.open_steps()
            if step_id not in self._announced
        ]
        oldest = max((age for _, _, age in fresh), default=0.0)
        if oldest < AGE or not is_told:
            self.next = now + (AGE - oldest if oldest < AGE else AGE)
            return 0 if oldest >= AGE and is_told is None else None
        self.next = now + AGE
        first = None
        for step_id, step, age in fresh:
            if age < _ALSO_AT:
                continue
            try:
                start = step.start_event()
            except Exception:  # foreign code: a value that the user gave
                start = None
            seq = 0 if start is None else self._announce(start)
            if seq is not None:
                self._announced.add(step_id)
            first = first or seq
        return first

    def is_open(self) -> bool:
        """Return whether any run or step of this process is open."""
        return self._items.has_open_run() or next(self._items.open_steps(), None) is not None
