"""Events: patches to one run or one step, as they travel through the pipeline.

An event names its run, perhaps its step, and carries only the fields it sets. Payload fields hold JSON as UTF-8 `bytes`, or a
sealed copy of a value until the worker encodes it (`serialization.snapshot`). Every other field holds a str, int, float, bool or
list of str.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

StepType = Literal["llm_call", "tool_call", "agent", "memory", "retrieval", "reasoning", "other"]
RunStatus = Literal["running", "completed", "failed", "cancelled"]

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
"""A finished run in one event: a start, updates and an end joined, for protocols that send runs as a whole."""

EVENT_TYPES = frozenset({RUN_START, RUN_UPDATE, RUN_END, STEP_START, STEP_UPDATE, STEP_END, STEP})


# ---- the table of fields ---------------------------------------------------------------------------------------------

TEXT, TEXTS, WHOLE, NUMBER = "text", "texts", "whole", "number"
MILLISECONDS, TIME, PAYLOAD = "milliseconds", "time", "payload"
"""The types of fields: a str, a list of str, an int, an int or a float, a duration (a number, rounded to microseconds), a
moment (an int: nanoseconds since the epoch), and any JSON, encoded."""

LAST, MERGED, UNITED = "last", "merged", "united"
"""How the values of several events of one run or step are joined: the last one counts, objects are merged key by key, lists
are united."""


class Field(NamedTuple):
    """One field of runs, of steps, or of both, and its place in each part of the package."""

    name: str
    """Its name in events, in the JSON of the batch call, in the read API, and as an attribute of a handle."""
    type: str
    given: bool = False
    """A caller sets it, by keyword or as an attribute of a handle, and it is recorded just as it was set."""
    classic: bool = False
    """True if the classic calls have a member for it. Any other field travels in `meta_data`."""
    attributes: tuple[str, ...] = ()
    """The span attributes that carry it. This package reads the first of its own spans, and writes all for other backends."""
    resource: bool = False
    """It is read from the attributes of a span's resource, too."""
    filter: str = ""
    """The parameter of `GET /api/runs` that selects by it. Empty: none."""
    listed: bool = False
    """A list of runs shows it, although there is no filter for it."""
    label: str = ""
    """Its title among the facts on a page. Empty: a page shows it elsewhere, or not at all."""
    join: str = LAST

    @property
    def row(self) -> bool:
        """The store keeps it in a column of this name, to list and to filter by."""
        return self.listed or bool(self.filter)


def _table(*fields: Field) -> dict[str, Field]:
    return {field.name: field for field in fields}


_BOTH = (
    Field("input", PAYLOAD, classic=True),
    Field("output", PAYLOAD, given=True, classic=True),
    Field("error", PAYLOAD, given=True, classic=True),
    Field("meta_data", PAYLOAD, given=True, classic=True, join=MERGED),
    Field("usage", PAYLOAD, given=True),
    Field("status", TEXT, classic=True, attributes=("agentscope.status",), filter="status"),
    Field("started_at", TIME, classic=True),
    Field("ended_at", TIME, classic=True),
    Field("truncated", TEXTS, attributes=("agentscope.truncated",), join=UNITED),
)
_CONVERSATION = ("gen_ai.conversation.id", "conversation.id", "session.id")
_ENVIRONMENT = ("deployment.environment.name",)
_SOURCE = Field("source", TEXT, attributes=("agentscope.source",), listed=True)
_COST = ("agentscope.cost_usd", "gen_ai.usage.cost", "llm.cost.total")

RUN_FIELDS = _table(
    *_BOTH,
    Field("agent_name", TEXT, classic=True, filter="agent"),
    Field("external_id", TEXT, False, True, ("agentscope.external_id",), listed=True, label="External id"),
    Field("user_id", TEXT, True, attributes=("user.id",), filter="user_id", label="User"),
    Field("conversation_id", TEXT, True, False, _CONVERSATION, filter="conversation_id", label="Conversation"),
    Field("tags", TEXTS, True, attributes=("tag.tags",), filter="tag", label="Tags"),
    Field("environment", TEXT, True, False, _ENVIRONMENT, True, filter="environment", label="Environment"),
    Field("release", TEXT, True, False, ("service.version",), True, filter="release", label="Release"),
    _SOURCE,
    Field("span_id", TEXT, attributes=("agentscope.span_id",)),
    *(Field(f"trace_{name}", TEXT) for name in ("name", "environment", "release")),
)
STEP_FIELDS = _table(
    *_BOTH,
    Field("name", TEXT, classic=True),
    Field("step_type", TEXT, classic=True),
    Field("tokens_used", WHOLE, given=True, classic=True, attributes=("agentscope.tokens_used",)),
    Field("latency_ms", MILLISECONDS, given=True, classic=True, attributes=("agentscope.latency_ms",)),
    Field("model", TEXT, given=True, attributes=("agentscope.model",), filter="model", label="Model"),
    Field("provider", TEXT, given=True, attributes=("agentscope.provider",), label="Provider"),
    Field("cost_usd", NUMBER, given=True, attributes=_COST, label="Cost (USD)"),
    Field("first_token_ms", MILLISECONDS, True, False, ("agentscope.first_token_ms",), label="First token (ms)"),
    Field("level", TEXT, attributes=("agentscope.level",)),
    _SOURCE,
)
FIELDS = {**STEP_FIELDS, **RUN_FIELDS}
"""Both tables in one. A name that is in both has the same type and meaning."""

PAYLOAD_FIELDS = tuple(name for name, field in FIELDS.items() if field.type == PAYLOAD)
"""The fields that hold encoded JSON."""
TIME_FIELDS = frozenset(name for name, field in FIELDS.items() if field.type == TIME)


if TYPE_CHECKING:  # to make these classes takes as long as the rest of this module
    from typing import TypedDict

    class RunFields(TypedDict, total=False):
        """The fields of a run that `track_run` and `start_run` take by keyword, besides those of their own."""

        user_id: str | None
        conversation_id: str | None
        tags: list[str] | tuple[str, ...] | None
        environment: str | None
        release: str | None
        usage: Any

    class StepFields(TypedDict, total=False):
        """The fields of a step that `track_step` and `track_step_context` take by keyword, besides those of their own."""

        model: str | None
        provider: str | None
        usage: Any
        cost_usd: float | None
        first_token_ms: float | None


# ---- events ----------------------------------------------------------------------------------------------------------


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


PlainFields: TypeAlias = "tuple[str, str, int, int, bytes | None, bytes | None]"
"""The fields of a completed step that sets nothing but these: the last six of a `PlainStep`."""


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
    """Nanoseconds since the epoch."""
    elapsed: int
    """Nanoseconds."""
    input: bytes | None
    output: bytes | None

    @property
    def type(self) -> str:
        return STEP


class DeferredFields:
    """Fields that are made in the worker, of values that no longer change. An error in `make` drops the event."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], dict[str, FieldValue]]) -> None:
        self.make = make


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
    """Return a queued event as an `Event`: the same object if it is one."""
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


def united(earlier: FieldValue | None, more: Iterable[str]) -> list[str]:
    """Return the value of a list field after more texts were added."""
    return sorted({*(earlier if isinstance(earlier, list) else ()), *more})


class Session(NamedTuple):
    """One sending process. A forked child has its own, so that event ids stay unique."""

    id: str
    event_prefix: str
    """The beginning of event ids. The `seq` in twelve hexadecimal digits follows; the worker joins them."""

    def event_id(self, seq: int) -> str:
        """Return the idempotency key of the event with this `seq`, in the form of a UUID."""
        return f"{self.event_prefix}{seq:012x}"
