"""Exceptions of the host that interrupt a call at a line of the package, as a signal handler's would."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import agentscope
from agentscope import Tracker
from agentscope.events import RUN_END, RUN_START, STEP_END, STEP_START
from agentscope.tracker.context import Scope, current, switch
from tests.support.recording import Recording, balanced

PACKAGE = str(Path(agentscope.__file__).parent)
KINDS = (TimeoutError, SystemExit, KeyboardInterrupt)
EVERY = os.environ.get("AGENTSCOPE_TEST_EVERY_LINE") == "1"
"""Try each line with each kind. Otherwise each line is tried with one of them."""


def interrupted(call: Callable[[], object], line: int, error: BaseException) -> BaseException | None:
    """Make a call, and raise `error` at its line of this number in the package. Return the exception that came out of it.

    The call ends without one where it has fewer lines: `error` has no traceback then. The collector rests meanwhile: a finalizer
    of an earlier test that ran inside the call would add lines of its own, and swallow what is raised in them.

    The call is made in a generator. Python 3.11 keeps an exception as the one that is being handled if another one comes at the
    first line of its handler. In a generator this ends with it; elsewhere it became the context of each later exception.
    """
    left = line

    def trace(frame: FrameType, what: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if what == "line" and left:
            left -= 1
            if not left:
                raise error
        return trace

    def inside() -> Iterator[object]:
        yield call()

    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()
    sys.settrace(trace)
    try:
        next(inside())
    except BaseException as escaped:
        return escaped
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return None


def differences(recording: Recording, open_runs: dict[str, int], scope: Scope | None, seen: int) -> Iterator[str]:
    """Compare the current step, the open runs, the charges and the ledger with those before a call, and set them right."""
    runs, found = recording.tracker._recorder.runs, switch(scope)
    if found is not scope:
        yield f"the wrong step is current: {found and (found.run_id, found.step_id)}"
    if runs._open != open_runs:
        yield f"runs left open: {len(runs._open)}, not {len(open_runs)}"
        runs._open.clear()
        runs._open.update(open_runs)
    recording.tracker._pipeline.flush(60)
    events = recording.raw[seen:]
    for start, end, ids in (
        (RUN_START, RUN_END, [event.run_id for event in events]),
        (STEP_START, STEP_END, [event.step_id for event in events]),
    ):
        begun = sorted(str(id_) for event, id_ in zip(events, ids, strict=True) if event.type == start)
        ended = sorted(str(id_) for event, id_ in zip(events, ids, strict=True) if event.type == end)
        if begun != ended or len(set(begun)) != len(begun):
            yield f"{len(begun)} {start}, {len(ended)} {end}"
    stats = recording.tracker.stats()
    if not balanced(stats):
        yield f"the ledger does not add up: {stats}"
    if stats.queued_bytes:
        yield f"{stats.queued_bytes} bytes stay charged"
        # The tracker has one destination, hence one pipeline.
        recording.tracker._pipeline._worker.queue.released = recording.tracker._pipeline._worker.queue._reserved  # type: ignore[union-attr]


def at_every_line(
    recording: Recording, make: Callable[[], Callable[[], object]], kind: type[BaseException]
) -> list[str]:
    """Interrupt a call at each of its lines, and return a sentence about each line at which something is wrong.

    `make` prepares the call. Without `EVERY` the lines are shared among `KINDS`.
    """
    wrong = []
    runs = recording.tracker._recorder.runs
    for line in count(1) if EVERY else count(1 + KINDS.index(kind), len(KINDS)):
        open_runs, scope = dict(runs._open), current()
        recording.tracker._pipeline.flush(60)
        seen = len(recording.raw)
        call, error = make(), kind("the host's")
        escaped = interrupted(call, line, error)
        found = [] if escaped is (error if error.__traceback__ else None) else [f"{escaped!r} came out"]
        where = place(error)
        if escaped is not None:
            escaped.__traceback__ = escaped.__context__ = None  # its frames would keep handles
        del call
        found += differences(recording, open_runs, scope, seen)
        # There `try` is an instruction of its own, which nothing protects when it is the first of a function.
        unprotected = sys.version_info < (3, 11) and where.endswith(("__exit__", "__aexit__"))
        wrong += [f"{line} {where}: {sentence}" for sentence in found if not unprotected]
        if not where:
            assert line > 5
            break
    return wrong


def place(error: BaseException) -> str:
    """Return the function and line of the package that was interrupted."""
    found, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename.startswith(PACKAGE):
            found = f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return found


def run(coroutine: Awaitable[object]) -> object:
    """Run a coroutine that never waits, in this very context."""
    steps = coroutine.__await__()
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        return stop.value


def ended(tracker: Tracker, run_id: str, **given: Any) -> None:
    """End a run, and try it once more after an exception, as programs do."""
    try:
        tracker.end_run(run_id=run_id, **given)
    except BaseException:
        if tracker._recorder.runs.is_open(run_id):
            tracker.end_run("failed", run_id=run_id)
        raise
