"""Events: patches to one run or one step, as they travel through the pipeline.

An event names its run, perhaps its step, and carries only the fields it sets. Payload fields hold JSON that was encoded
at the call, as UTF-8 `bytes`; every other field holds a plain str, int, float, bool or list of str.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

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


class Event(NamedTuple):
    """One patch. `(time_ns, session, seq)` is its place in the order; the event id is made of session and seq."""

    type: str
    seq: int
    time_ns: int
    """Wall clock, nanoseconds since the epoch, read in the caller's thread."""
    run_id: str
    step_id: str | None
    parent_id: str | None
    fields: dict[str, Any]
    size: int
    """Bytes this event is charged against the queue's bound."""


class PlainStep(NamedTuple):
    """The fields of a step that ended well and of which no more is told than of most, in a third of a dict's memory.

    Until the worker makes the dict, they stand in an event's `fields`.
    """

    name: str
    step_type: str
    started_at: int
    """Nanoseconds since the epoch."""
    elapsed: int
    """Nanoseconds."""
    input: bytes | None
    output: bytes | None

    def make(self) -> dict[str, Any]:
        name, step_type, started_at, elapsed, given, output = self
        fields: dict[str, Any] = {
            "name": name,
            "step_type": step_type,
            "status": "completed",
            "latency_ms": elapsed // 1000 / 1000,
            "started_at": started_at,
            "ended_at": started_at + elapsed,
        }
        if given is not None:
            fields["input"] = given
        if output is not None:
            fields["output"] = output
        return fields


def in_full(event: Event) -> Event:
    """The event with its fields as a dict; the same object if they are one."""
    fields: Any = event.fields
    return event._replace(fields=fields.make()) if type(fields) is PlainStep else event


class Deferred(dict[str, Any]):
    """Fields that the worker makes, in the caller's stead: what they are made of does not change any more.

    Empty until then. `make` gives them; what it raises drops the event.
    """

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self.make = make


class Session(NamedTuple):
    """One sending process. A forked child has its own: ids never meet."""

    id: str
    event_prefix: str
    """An event's id is this and its `seq` as twelve hexadecimal digits: made by the worker, at no cost to the caller."""

    def event_id(self, seq: int) -> str:
        """The idempotency key of the event with this `seq`, in the form of a UUID."""
        return f"{self.event_prefix}{seq:012x}"
