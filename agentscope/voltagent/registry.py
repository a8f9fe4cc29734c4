"""The runs and steps that an SDK has begun and not ended, and how their updates and ends become events.

Nothing here is locked: a signal handler or the garbage collector may be the caller.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentscope.events import RUN_END, RUN_UPDATE, STEP_END, STEP_UPDATE
from agentscope.protocols.ids import new_id
from agentscope.tracker.context import MOST_OPEN_RUNS, bounded
from agentscope.tracker.fields import Fields
from agentscope.tracker.recorder import Recorder, id_of

from .options import (
    FINAL,
    add_error,
    add_fields,
    add_metadata,
    add_usage,
    level_of,
    moment_of,
    status_of,
    take,
)

if TYPE_CHECKING:
    from agentscope.pipeline.fanout import FanOut
    from agentscope.pipeline.pipeline import Pipeline

UNFINISHED = "unfinished"
"""Status of what was never ended."""


class Kept(dict[str, object]):
    """Handles by id, of what is told of by its id alone: it would end with its handle's collection."""

    def keep(self, id_: str, handle: object) -> None:
        """Keep this one, and the newest others."""
        self[id_] = handle
        bounded(self, MOST_OPEN_RUNS)


class Book:
    """Records by one recorder, which its handles keep alive: the pipeline holds the book, and must not hold them.

    `parts` are those that go on, by id, the oldest first. Of more than `MOST_OPEN_RUNS` the oldest are forgotten: they end as
    their handles do, but the end of the process no longer closes them.
    """

    def __init__(self, recorder: Recorder, pipeline: Pipeline | FanOut) -> None:
        self.parts: dict[str, Part] = {}
        self._recorder = weakref.ref(recorder)
        self.runs = recorder.runs
        self._pipeline = pipeline
        self._kept: Callable[[], Kept | None] = lambda: None
        self._closed = False
        pipeline.call_before_stop(self.close_all)

    @property
    def recorder(self) -> Recorder:
        """For as long as anybody is there to call."""
        recorder = self._recorder()
        assert recorder is not None
        return recorder

    def keeper(self) -> Kept:
        """What keeps handles alive until they end, for as long as its owner lives."""
        kept = Kept()
        self._kept = weakref.ref(kept)
        return kept

    def find(self, id_: Any) -> Part | None:
        """The part with this id that goes on; None if there is none."""
        return self.parts.get(id_of(id_) or "")

    def add(self, part: Part) -> None:
        """It has begun."""
        self.parts[part.id] = part
        if len(self.parts) > MOST_OPEN_RUNS:
            bounded(self.parts, MOST_OPEN_RUNS)

    def elsewhere(self, trace_id: Any) -> Part:
        """A part for a trace that does not go on here: another process may have begun it."""
        runs, run_id = self.runs, id_of(trace_id) or new_id()
        if not runs.has_ended(run_id):
            sentence = "a trace was named that was not begun in this process; what is said of it is sent all the same"
            self.recorder.invalid_call("unknown_run", sentence)
        place = runs.placed(run_id)
        part = Part(place.run_id, place.parent_id, None, "unknown", "agent", 0)
        part.is_trace = True
        return part

    # ---- updates and ends ------------------------------------------------------------------------------------------

    def update(self, part: Part, given: dict[str, Any], ends: bool = False) -> bool:
        """Record what has changed. A final status is the end only where `ends` says so; else the end will repeat it."""
        recorder = self.recorder
        if self.is_over(part):
            recorder.invalid_call("updated_after_end", "an update came for something that has ended, and is left out")
            return False
        fields = Fields(recorder.limit, {})
        status = status_of(take(given, "status"), fields)
        level = level_of(take(given, "level"), fields)
        own = {"version": take(given, "version")}
        add_fields(fields, given, of_run=part.step_id is None)
        if part.step_id is None:
            own["level"] = level
            own["completionStartTime"] = take(given, "completionStartTime", "completion_start_time")
        else:
            own["tags"] = fields.texts_of("tags", take(given, "tags"))
            if level is not None:
                fields.values["level"] = level
            name = take(given, "name")
            if name is not None:
                fields.name("name", name)
                part.name = fields.values["name"]
        ended_at = moment_of(take(given, "endTime", "end_time"), fields)
        error = take(given, "statusMessage", "status_message", "error")
        self._results(fields, take(given, "output"), take(given, "usage"), error)
        fields.payload("input", take(given, "input"))
        metadata = take(given, "metadata")
        known = {name: value for name, value in own.items() if value is not None}
        add_metadata(fields, given, metadata, known, of_run=part.step_id is None)
        if status is not None:
            fields.values["status"] = status
            part.status = status if status in FINAL else None
        if ends and status in FINAL:
            accepted = self._end(part, fields, ended_at)
        elif fields.values:
            type_ = RUN_UPDATE if part.step_id is None else STEP_UPDATE
            accepted = recorder.put(type_, part.run_id, part.step_id, part.parent_id, fields, urgent=False)
        else:
            accepted = False
        recorder.say_mended(fields)
        return accepted

    def end(
        self,
        part: Part,
        status: str,
        *,
        output: Any = None,
        usage: Any = None,
        metadata: Any = None,
        error: Any = None,
        ended_at: int | None = None,
    ) -> bool:
        """Record how it ended. Only the first end counts."""
        if self.is_over(part):
            self._say_ended()
            return False
        fields = Fields(self.recorder.limit, {"status": status})
        self._results(fields, output, usage, error)
        if metadata is not None:
            add_metadata(fields, {}, metadata, of_run=part.step_id is None)
        accepted = self._end(part, fields, ended_at)
        if fields.mended:
            self.recorder.say_mended(fields)
        return accepted

    def close(self, part: Part) -> None:
        """Nobody can end it any more, or nobody has: it ends as unfinished. In a forked child that is not its business."""
        if not part.ended and not self._closed and part.pid == os.getpid() and not self.is_over(part):
            self._end(part, Fields(0, {"status": part.status or UNFINISHED}), None)

    def close_all(self) -> None:
        """The pipeline is about to end. What was begun last ends first."""
        for part in reversed(list(self.parts.values())):
            try:
                self.close(part)
            except Exception:  # fail_silently=False, but nobody is there to be told
                pass
        self._closed = True
        self.parts.clear()

    def is_over(self, part: Part) -> bool:
        """Whether it has ended. The other face may have ended a trace's run, too."""
        runs = self.runs
        if part.is_trace and not part.ended and runs.has_ended(part.id) and not runs.is_open(part.id):
            part.claim()
            self._remove(part)
        return part.ended

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _results(self, fields: Fields, output: Any, usage: Any, error: Any) -> None:
        fields.payload("output", output)
        if usage is not None:
            add_usage(fields, usage)
        if error is not None:
            add_error(fields, error)

    def _end(self, part: Part, fields: Fields, ended_at: int | None) -> bool:
        if not part.claim():
            self._say_ended()
            return False
        self._remove(part)
        values, started_at = fields.values, part.started_at
        values["ended_at"] = max(ended_at or time.time_ns(), started_at)
        type_ = RUN_END
        if part.step_id is not None:
            # The start may have been dropped.
            type_ = STEP_END
            values["name"] = part.name
            values["step_type"] = part.step_type
            values["started_at"] = started_at
        urgent = part.step_type == "agent" or values["status"] != "completed"
        event = (type_, part.run_id, part.step_id, part.parent_id)
        recorder = self._recorder()
        if recorder is not None:
            accepted = recorder.put(*event, fields, urgent)
        else:  # it is being collected, together with whatever had begun this
            accepted = self._pipeline.put(*event, fields.values, fields.size, urgent)
        if part.is_trace:
            self.runs.ended(part.id)
        return accepted

    def _say_ended(self) -> None:
        self.recorder.invalid_call("ended_twice", "something was ended again that has ended; how it ended first stands")

    def _remove(self, part: Part) -> None:
        if self.parts.get(part.id) is part:
            self.parts.pop(part.id, None)
        kept = self._kept()
        if kept:
            kept.pop(part.id, None)


class Part:
    """One run or step: what its end has to know."""

    __slots__ = (
        "_open",
        "id",
        "is_trace",
        "name",
        "parent_id",
        "pid",
        "run_id",
        "started_at",
        "status",
        "step_id",
        "step_type",
    )

    def __init__(
        self, run_id: str, step_id: str | None, parent_id: str | None, name: str, step_type: str, started_at: int
    ) -> None:
        self.id = step_id or run_id
        self.is_trace = False
        self.run_id = run_id
        self.step_id = step_id
        """None for a run of its own."""
        self.parent_id = parent_id
        self.name = name
        self.step_type = step_type
        self.started_at = started_at
        """Nanoseconds since the epoch."""
        self.status: str | None = None
        """How it ends if nobody says otherwise: what the last update said."""
        self.pid = os.getpid()
        self._open = [True]

    @property
    def ended(self) -> bool:
        return not self._open

    def claim(self) -> bool:
        """Whether it is the caller who ends it: true once, whatever threads do."""
        try:
            return self._open.pop()
        except IndexError:
            return False
