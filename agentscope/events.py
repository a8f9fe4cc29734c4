"""Events: patches to one run or one step, as they travel through the pipeline.

An event names its run, perhaps its step, and carries only the fields it sets. Payload fields hold JSON that was encoded
at the call, as UTF-8 `bytes`; every other field holds a str, int, float, bool or list of str.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, get_args

StepType = Literal["llm_call", "tool_call", "agent", "memory", "retrieval", "reasoning", "other"]
RunStatus = Literal["running", "completed", "failed"]

STEP_TYPES: frozenset[str] = frozenset(get_args(StepType))
RUN_STATUSES: frozenset[str] = frozenset(get_args(RunStatus))


RUN_START = "run.start"
RUN_UPDATE = "run.update"
RUN_END = "run.end"
STEP_START = "step.start"
STEP_UPDATE = "step.update"
STEP_END = "step.end"
STEP = "step"
RUN = "run"
"""A finished run in one event: what a start, updates and an end are joined to for protocols that send runs whole."""

EVENT_TYPES = frozenset({RUN_START, RUN_UPDATE, RUN_END, STEP_START, STEP_UPDATE, STEP_END, STEP})

PAYLOAD_FIELDS = ("input", "output", "error", "meta_data", "usage")
"""The fields that hold encoded JSON."""


FieldValue: TypeAlias = str | int | float | bytes | list[str]
"""The value of one field: encoded JSON in a payload field, a plain value in every other."""


class Event(NamedTuple):
    """One patch. `(time_ns, session, seq)` is its place in the order; the event id is made of session and seq."""

    type: str
    seq: int
    time_ns: int
    """Wall clock, nanoseconds since the epoch, read in the caller's thread."""
    run_id: str
    step_id: str | None
    parent_id: str | None
    fields: dict[str, FieldValue]
    size: int
    """Bytes this event is charged against the queue's bound."""


class PlainFields(NamedTuple):
    """The fields of a completed step that sets nothing but a name, a type, its times, an input and an output."""

    name: str
    step_type: str
    started_at: int
    """Nanoseconds since the epoch."""
    elapsed: int
    """Nanoseconds."""
    input: bytes | None
    output: bytes | None


class PlainStep(NamedTuple):
    """An event of type `step` with `PlainFields`, in half of the memory that an `Event` and its dict take."""

    seq: int
    run_id: str
    step_id: str
    parent_id: str | None
    size: int
    name: str
    step_type: str
    started_at: int
    elapsed: int
    input: bytes | None
    output: bytes | None

    @property
    def type(self) -> str:
        return STEP


class DeferredFields(NamedTuple):
    """Fields that are made in the worker, of values that no longer change. An error in `make` drops the event."""

    make: Callable[[], dict[str, FieldValue]]


class DeferredEvent(NamedTuple):
    """An event with `DeferredFields`; otherwise as `Event`."""

    type: str
    seq: int
    time_ns: int
    run_id: str
    step_id: str | None
    parent_id: str | None
    make: Callable[[], dict[str, FieldValue]]
    size: int


ReadyEvent: TypeAlias = Event | PlainStep
"""An event whose fields are known."""
QueuedEvent: TypeAlias = ReadyEvent | DeferredEvent
"""An event in one of the three forms that a call puts into the queue. `in_full` makes an `Event` of each."""


def in_full(event: QueuedEvent) -> Event:
    """Make the `Event` of a queued one: the same object if it is one."""
    if isinstance(event, Event):
        return event
    if isinstance(event, DeferredEvent):
        type_, seq, time_ns, run_id, step_id, parent_id, make, size = event
        return Event(type_, seq, time_ns, run_id, step_id, parent_id, make(), size)
    ended_at = event.started_at + event.elapsed
    fields: dict[str, FieldValue] = {
        "name": event.name,
        "step_type": event.step_type,
        "status": "completed",
        "latency_ms": event.elapsed // 1000 / 1000,
        "started_at": event.started_at,
        "ended_at": ended_at,
    }
    if event.input is not None:
        fields["input"] = event.input
    if event.output is not None:
        fields["output"] = event.output
    return Event(STEP, event.seq, ended_at, event.run_id, event.step_id, event.parent_id, fields, event.size)


def truncated_with(fields: dict[str, FieldValue], *names: str) -> list[str]:
    """The value of `truncated` once these fields have lost something as well."""
    before = fields.get("truncated")
    return sorted({*(before if isinstance(before, list) else ()), *names})


class Session(NamedTuple):
    """One sending process. A forked child has its own: ids never meet."""

    id: str
    event_prefix: str
    """An event's id is this and its `seq` as twelve hexadecimal digits: made by the worker, at no cost to the caller."""

    def event_id(self, seq: int) -> str:
        """The idempotency key of the event with this `seq`, in the form of a UUID."""
        return f"{self.event_prefix}{seq:012x}"
