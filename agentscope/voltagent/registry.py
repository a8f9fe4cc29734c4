"""The registry of open runs and steps of an SDK, which records their starts, updates and ends.

No lock is used, since a signal handler or the garbage collector may be the caller.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from agentscope.events import RUN_END, RUN_START, RUN_UPDATE, STEP_END, STEP_START, STEP_TYPES, STEP_UPDATE
from agentscope.protocols.ids import new_id
from agentscope.protocols.voltagent.vocabulary import STEP_TYPES as PUBLISHED_STEP_TYPES
from agentscope.serialization.foreign import called, is_hosts
from agentscope.tracker.context import HANDLE, MOST_OPEN_RUNS, Place, bounded
from agentscope.tracker.fields import Fields, _plain_text, outcome
from agentscope.tracker.recorder import Recorder, id_of

from .options import FINAL, add_error, add_fields, add_metadata, add_usage, level_of, moment_of, status_of, take

if TYPE_CHECKING:
    from agentscope.pipeline.fanout import FanOut
    from agentscope.pipeline.pipeline import Pipeline

H = TypeVar("H")

UNFINISHED = "unfinished"
"""Status of a run or step that was never ended."""


class HandleStore(dict[str, object]):
    """Handles by id, for callers that keep only the id: a handle that is collected ends its run or step."""

    def keep(self, id_: str, handle: object) -> None:
        """Keep this handle, and drop the oldest above the bound."""
        self[id_] = handle
        bounded(self, MOST_OPEN_RUNS)


class _Watch(weakref.ref[Any]):
    """A weak reference to the handle of an open run or step."""

    __slots__ = ("entry",)
    entry: Entry


class Registry:
    """The open runs and steps of one recorder. The recorder is referenced weakly, since the pipeline references the registry.

    `entries` are the open ones by id, oldest first. Above `MOST_OPEN_RUNS` the oldest are removed: their handles can still end
    them, but the end of the process does not.
    """

    def __init__(self, recorder: Recorder, pipeline: Pipeline | FanOut) -> None:
        self.entries: dict[str, Entry] = {}
        self._recorder = weakref.ref(recorder)
        self.runs = recorder.runs
        self._pipeline = pipeline
        self._kept: Callable[[], HandleStore | None] = lambda: None
        self._closed = False
        self._watches: dict[int, _Watch] = {}
        pipeline.call_before_stop(self.close_all)

    @property
    def recorder(self) -> Recorder:
        """The recorder, which lives as long as any handle."""
        recorder = self._recorder()
        assert recorder is not None
        return recorder

    def keeper(self) -> HandleStore:
        """Return a store that keeps handles alive until they end. The registry does not keep the store alive."""
        kept = HandleStore()
        self._kept = weakref.ref(kept)
        return kept

    def find(self, id_: Any) -> Entry | None:
        """Return the open run or step with this id, or None."""
        return self.entries.get(id_of(id_) or "")

    def watch(self, handle: object, entry: Entry) -> None:
        """Close the run or step when its handle is collected.

        Handles have no `__del__`: Python would drop an exception of a signal handler that comes in it. This way code runs only
        for a handle that was never ended.
        """
        watch = _Watch(handle, self._collected)
        watch.entry = entry
        self._watches[id(entry)] = watch

    def _collected(self, watch: _Watch) -> None:
        try:
            self._watches.pop(id(watch.entry), None)
            self.close(watch.entry)
        except Exception:  # collected anywhere, even while the interpreter shuts down
            pass

    def add(self, entry: Entry) -> None:
        """Add a run or step that has begun."""
        self.entries[entry.id] = entry
        if len(self.entries) > MOST_OPEN_RUNS:
            bounded(self.entries, MOST_OPEN_RUNS)
        items = self._pipeline.open_items
        items.steps[entry.id] = entry.itself
        bounded(items.steps, MOST_OPEN_RUNS)
        if not items.watched:
            self._pipeline.watch()

    def elsewhere(self, trace_id: Any) -> Entry:
        """Return an entry for a trace that is not open here. Another process may have begun it."""
        runs, run_id = self.runs, id_of(trace_id) or new_id()
        if not runs.has_ended(run_id):
            sentence = "a trace was named that was not begun in this process; its updates are sent all the same"
            self.recorder.invalid_call("unknown_run", sentence)
        place = runs.placed(run_id)
        return Entry(place.run_id, place.parent_id, None, "unknown", "agent", 0, is_trace=True)

    # ---- updates and ends ------------------------------------------------------------------------------------------

    def update(self, entry: Entry, given: dict[str, Any], ends: bool = False) -> bool:
        """Record changes. A final status ends the run or step only with `ends`; otherwise it is kept as the status of the end."""
        recorder = self.recorder
        if self.is_over(entry):
            recorder.invalid_call(
                "updated_after_end", "a run or step was updated after its end; the update is left out"
            )
            return False
        fields = Fields(recorder.limit, {})
        status = status_of(take(given, "status"), fields)
        level = level_of(take(given, "level"), fields)
        own = {"version": take(given, "version")}
        add_fields(fields, given, of_run=entry.step_id is None)
        if entry.step_id is None:
            own["level"] = level
            own["completionStartTime"] = take(given, "completionStartTime", "completion_start_time")
        else:
            own["tags"] = fields.texts_of("tags", take(given, "tags"))
            if level is not None:
                fields.values["level"] = level
            name = take(given, "name")
            if name is not None:
                fields.name("name", name)
                entry.name = fields.values["name"]
        ended_at = moment_of(take(given, "endTime", "end_time"), fields)
        error = take(given, "statusMessage", "status_message", "error")
        self._results(fields, take(given, "output"), take(given, "usage"), error)
        fields.payload("input", take(given, "input"))
        metadata = take(given, "metadata")
        add_metadata(fields, given, metadata, own, of_run=entry.step_id is None)
        if status is not None:
            fields.values["status"] = status
            entry.status = status if status in FINAL else None
        if ends and status in FINAL:
            accepted = self._end(entry, fields, ended_at)
        elif fields.values:
            type_ = RUN_UPDATE if entry.step_id is None else STEP_UPDATE
            accepted = recorder.put(type_, entry.run_id, entry.step_id, entry.parent_id, fields, urgent=False)
        else:
            accepted = False
        recorder.say_mended(fields)
        return accepted

    def end(
        self,
        entry: Entry,
        status: str,
        *,
        output: Any = None,
        usage: Any = None,
        metadata: Any = None,
        error: Any = None,
        ended_at: int | None = None,
    ) -> bool:
        """Record the end. Only the first end counts."""
        if self.is_over(entry):
            self._say_ended()
            return False
        fields = Fields(self.recorder.limit, {"status": status})
        self._results(fields, output, usage, error)
        if metadata is not None:
            add_metadata(fields, {}, metadata, of_run=entry.step_id is None)
        accepted = self._end(entry, fields, ended_at)
        if fields.mended:
            self.recorder.say_mended(fields)
        return accepted

    def close(self, entry: Entry) -> None:
        """End an open run or step as unfinished. Do nothing in a forked child."""
        if not entry.ended and not self._closed and entry.pid == os.getpid() and not self.is_over(entry):
            self._end(entry, Fields(0, {"status": entry.status or UNFINISHED}), None)

    def close_all(self) -> None:
        """Close all open runs and steps before the pipeline stops, the newest first."""
        for entry in reversed(list(self.entries.values())):
            called(partial(self.close, entry), None)  # raised with fail_silently=False, but there is no caller
        self._closed = True
        self.entries.clear()
        self._watches.clear()

    def is_over(self, entry: Entry) -> bool:
        """Return True if a run or step has ended. The tracker may have ended the run of a trace."""
        runs = self.runs
        if entry.is_trace and not entry.ended and runs.has_ended(entry.id) and not runs.is_open(entry.id):
            entry.claim()
            self._remove(entry)
        return entry.ended

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _results(self, fields: Fields, output: Any, usage: Any, error: Any) -> None:
        fields.payload("output", output)
        if usage is not None:
            add_usage(fields, usage)
        if error is not None:
            add_error(fields, error)

    def abandon(self, entry: Entry, error: BaseException) -> None:
        """End a run or step as failed after an exception of the host's interrupted its start or its end."""
        start = RUN_START if entry.step_id is None else STEP_START
        if not (entry.ended or entry.id in self.entries or self._pipeline.holds(start, entry.run_id, entry.step_id)):
            entry.claim()  # it has not begun
            self._remove(entry)
        if not entry.ended:
            fields = Fields(self.recorder.limit, {"status": outcome(error)})
            fields.error(error)
            self._end(entry, fields, None)

    def _end(self, entry: Entry, fields: Fields, ended_at: int | None) -> bool:
        if entry.ended:
            self._say_ended()
            return False
        try:
            if not entry.claim():
                self._say_ended()
                return False
            return self._put_end(entry, fields, ended_at)
        except BaseException as error:
            end = RUN_END if entry.step_id is None else STEP_END
            if entry.ended and is_hosts(error):
                if self._pipeline.holds(end, entry.run_id, entry.step_id):
                    self._forget(entry)
                else:
                    self._put_end(entry, fields, ended_at)
            raise

    def _forget(self, entry: Entry) -> None:
        self._remove(entry)
        if entry.is_trace:
            self.runs.ended(entry.id)
            self._pipeline.open_items.runs.pop(entry.id, None)

    def _put_end(self, entry: Entry, fields: Fields, ended_at: int | None) -> bool:
        values, started_at = fields.values, entry.started_at
        values["ended_at"] = max(ended_at or time.time_ns(), started_at)
        type_ = RUN_END
        if entry.step_id is not None:
            # Repeated here, since the start may have been dropped.
            type_ = STEP_END
            values["name"] = entry.name
            values["step_type"] = entry.step_type
            values["started_at"] = started_at
        urgent = entry.step_type == "agent" or values["status"] != "completed"
        event = (type_, entry.run_id, entry.step_id, entry.parent_id)
        accepted = self._pipeline.put(*event, fields.values, fields.size, urgent)
        self._forget(entry)
        recorder = self._recorder()
        if not accepted and recorder is not None:  # else it is being collected together with the handle
            recorder.refused()
        return accepted

    def _say_ended(self) -> None:
        self.recorder.invalid_call("ended_twice", "a run or step was ended twice; only the first end counts")

    def _remove(self, entry: Entry) -> None:
        self._pipeline.open_items.steps.pop(entry.id, None)
        self._watches.pop(id(entry), None)
        if self.entries.get(entry.id) is entry:
            self.entries.pop(entry.id, None)
        kept = self._kept()
        if kept:
            kept.pop(entry.id, None)


@dataclass(eq=False, slots=True)
class Entry:
    """An open run or step, with the fields that its end repeats."""

    run_id: str
    step_id: str | None
    """None for a run."""
    parent_id: str | None
    name: str
    step_type: str
    started_at: int
    """Nanoseconds since the epoch."""
    is_trace: bool = False
    status: str | None = None
    """The final status from the last update, used if the end names none."""
    pid: int = field(default_factory=os.getpid)
    began: int = field(default_factory=time.perf_counter_ns)
    _open: list[bool] = field(default_factory=lambda: [True])

    @property
    def id(self) -> str:
        return self.step_id or self.run_id

    @property
    def ended(self) -> bool:
        """True after `claim()`."""
        return not self._open

    def itself(self) -> Entry:
        return self

    def open_since(self) -> int | None:
        return None if self.ended else self.began

    def start_event(self) -> None:
        """Return nothing: each start is an event of its own."""

    def claim(self) -> bool:
        """Claim the end. Returns True for exactly one caller, in whatever threads they are."""
        try:
            return self._open.pop()
        except IndexError:
            return False


# ---- starts ----------------------------------------------------------------------------------------------------------


def begin_trace(registry: Registry, make: Callable[[Entry], H], given: dict[str, Any], fields: Fields) -> H:
    """Begin a trace: a run, or a step if a run of the tracker or of another process is current. `make` makes its handle."""
    values, recorder = fields.values, registry.recorder
    run_id = id_of(take(given, "id")) or new_id()
    started_at = moment_of(take(given, "startTime", "start_time"), fields) or time.time_ns()
    values.update(status="running", started_at=started_at)
    fields.name("agent_name", take(given, "agentId", "agent_id", "name"), default="unknown")
    agent_name = values["agent_name"]
    about = {
        "agentId": agent_name,
        "version": take(given, "version"),
        "level": level_of(take(given, "level"), fields),
        "completionStartTime": take(given, "completionStartTime", "completion_start_time"),
    }
    scope = registry.runs.innermost()
    within = None if scope is None or scope.sort == HANDLE else Place(scope.run_id, scope.step_id)
    if within is None:
        values["source"] = "voltagent"
        add_fields(fields, given, of_run=True)
    else:  # a step has no fields for these
        about["userId"] = take(given, "userId", "user_id")
        about["conversationId"] = take(given, "conversationId", "conversation_id")
        about["tags"] = fields.texts_of("tags", take(given, "tags"))
    fields.payload("input", take(given, "input"))
    add_metadata(fields, given, take(given, "metadata"), about, of_run=within is None)
    recorder.say_mended(fields)
    own, step_id, parent_id = (run_id, None, None) if within is None else (within.run_id, run_id, within.parent_id)
    entry = Entry(own, step_id, parent_id, agent_name, "agent", started_at, is_trace=True)
    try:
        handle = make(entry)
        if recorder.begin(run_id, fields, within):
            registry.add(entry)
        return handle
    except BaseException as error:
        registry.abandon(entry, error)
        raise


def begin_step(
    registry: Registry,
    make: Callable[[Entry], H],
    above: Entry,
    step_type: str,
    given: dict[str, Any],
    fields: Fields,
    *,
    own: Mapping[str, Any] | None = None,
    step_id: str | None = None,
    parent_id: str | None = None,
    started_at: int | None = None,
) -> H:
    """Begin a step below `above`, or below the current step inside it. `make` makes its handle."""
    recorder, values, run_id = registry.recorder, fields.values, above.run_id
    step_id = step_id or recorder.new_step_id()
    started_at = started_at or time.time_ns()
    values["status"] = "running"
    values["started_at"] = started_at
    values["step_type"] = step_type
    fields.name("name", given.pop("name", None), default=step_type)
    fields.payload("input", given.pop("input", None))
    metadata = given.pop("metadata", None)
    if given:
        add_fields(fields, given, of_run=False)
    if metadata is not None or given or own:
        add_metadata(fields, given, metadata, own)
    if fields.mended:
        recorder.say_mended(fields)
    parent_id = parent_id or registry.runs.below(run_id, above.step_id)
    entry = Entry(run_id, step_id, parent_id, values["name"], step_type, started_at)
    try:
        handle = make(entry)
        recorder.put(STEP_START, run_id, step_id, parent_id, fields, step_type == "agent")
        registry.add(entry)
        return handle
    except BaseException as error:
        registry.abandon(entry, error)
        raise


def begin_event(
    registry: Registry, make: Callable[[Entry], H], above: Entry, given: dict[str, Any], fields: Fields
) -> H:
    """Begin a custom event as a step. A final status ends it at once. `make` makes its handle."""
    event_type = _plain_text(take(given, "type", "event_type", "eventType"))
    step_type = PUBLISHED_STEP_TYPES.get(event_type or "", event_type if event_type in STEP_TYPES else "other")
    own = {"eventType": event_type if event_type and step_type == "other" else None}
    own |= {name: take(given, name) for name in ("version", "tags")}
    status = status_of(take(given, "status"), fields)
    level = level_of(take(given, "level"), fields)
    if level is not None:
        fields.values["level"] = level
    ended_at = moment_of(take(given, "endTime", "end_time"), fields)
    error, output = take(given, "statusMessage", "status_message"), take(given, "output")
    take(given, "traceId", "trace_id")
    over = status in FINAL
    if not over:
        fields.payload("output", output)
    begun: list[Entry] = []

    def keep(entry: Entry) -> H:
        begun.append(entry)
        return make(entry)

    handle = begin_step(
        registry,
        keep,
        above,
        step_type,
        given,
        fields,
        own=own,
        step_id=id_of(take(given, "id")),
        parent_id=id_of(take(given, "parentEventId", "parent_event_id")),
        started_at=moment_of(take(given, "startTime", "start_time"), fields),
    )
    if over:
        registry.end(begun[0], status or "", output=output, error=error, ended_at=ended_at)
    return handle
