"""Record classes of the published package: API records, configuration and handle options.

Names and fields are those of `voltagent` 0.1.1 on PyPI. Handles also take options as plain dicts, which are not checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from agentscope.protocols.voltagent.vocabulary import camel_case, camel_case_metadata

from .record import (
    ANYTHING,
    FLAG,
    MESSAGE,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_PAIRS,
    TEXTS,
    WHOLE,
    Record,
    one_of,
    optional,
    record,
    required,
)

_record = dataclass(init=False, repr=False, eq=False)
_Object = dict[str, Any]


snake_to_camel = camel_case


def convert_metadata_to_camel_case(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a new dict with camelCase keys, in nested dicts too. Lists stay as they are."""
    return camel_case_metadata(metadata) if metadata else metadata


class EventStatus(str, Enum):
    """Status of an event."""

    RUNNING = "running"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"


class EventLevel(str, Enum):
    """Severity of an event."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class TraceStatus(str, Enum):
    """Status of a trace."""

    WORKING = "working"
    COMPLETED = "completed"
    ERROR = "error"


_EVENT_STATUS, _LEVEL, _TRACE_STATUS = one_of(EventStatus), one_of(EventLevel), one_of(TraceStatus)


# ---- answers of the API ----------------------------------------------------------------------------------------------


@_record
class TokenUsage(Record):
    """Tokens used by a model call or an agent. Other counts are allowed."""

    prompt_tokens: int | None = optional(WHOLE)
    completion_tokens: int | None = optional(WHOLE)
    total_tokens: int | None = optional(WHOLE)


@_record
class _Contents(Record):
    """The fields that events, traces and requests have in common."""

    input: _Object | None = optional(OBJECT)
    tags: list[str] | None = optional(TEXTS)
    metadata: _Object | None = optional(OBJECT)
    version: str | None = optional(TEXT)
    level: EventLevel | None = optional(_LEVEL)


@_record
class _Results(_Contents):
    output: _Object | None = optional(OBJECT)


@_record
class TimelineEvent(_Results):
    """An event to be added to a trace. Times are ISO 8601."""

    name: str = required(TEXT)
    type: str = required(TEXT)
    id: str | None = optional(TEXT)
    startTime: str | None = optional(TEXT)
    endTime: str | None = optional(TEXT)
    status: EventStatus = optional(_EVENT_STATUS, EventStatus.RUNNING)
    level: EventLevel = optional(_LEVEL, EventLevel.INFO)
    statusMessage: str | _Object | None = optional(MESSAGE)
    parentEventId: str | None = optional(TEXT)
    traceId: str | None = optional(TEXT)


@_record
class Event(_Results):
    """An event in an answer of the API."""

    id: str = required(TEXT)
    history_id: str = required(TEXT)
    event_type: str = required(TEXT)
    event_name: str = required(TEXT)
    status: EventStatus = required(_EVENT_STATUS)
    start_time: str | None = optional(TEXT)
    end_time: str | None = optional(TEXT)
    status_message: str | _Object | None = optional(MESSAGE)
    level: EventLevel = optional(_LEVEL, EventLevel.INFO)
    parent_event_id: str | None = optional(TEXT)
    created_at: str | None = optional(TEXT)
    updated_at: str | None = optional(TEXT)


@_record
class History(_Results):
    """A trace in an answer of the API."""

    id: str = required(TEXT)
    agent_id: str = required(TEXT)
    user_id: str | None = optional(TEXT)
    conversation_id: str | None = optional(TEXT)
    start_time: str | None = optional(TEXT)
    end_time: str | None = optional(TEXT)
    completion_start_time: str | None = optional(TEXT)
    status: TraceStatus = optional(_TRACE_STATUS, TraceStatus.WORKING)
    usage: TokenUsage | None = optional(record(TokenUsage))
    created_at: str | None = optional(TEXT)
    updated_at: str | None = optional(TEXT)


# ---- requests to the API ---------------------------------------------------------------------------------------------


@_record
class CreateHistoryRequest(_Contents):
    """The body of `POST /history`."""

    agent_id: str = required(TEXT)
    id: str | None = optional(TEXT)
    userId: str | None = optional(TEXT)
    conversationId: str | None = optional(TEXT)
    startTime: str | None = optional(TEXT)
    completionStartTime: str | None = optional(TEXT)
    status: TraceStatus = optional(_TRACE_STATUS, TraceStatus.WORKING)


@_record
class UpdateHistoryRequest(_Results):
    """The body of `PATCH /history/{id}`."""

    id: str = required(TEXT)
    end_time: str | None = optional(TEXT)
    completion_start_time: str | None = optional(TEXT)
    status: TraceStatus | None = optional(_TRACE_STATUS)
    usage: TokenUsage | None = optional(record(TokenUsage))


@_record
class AddEventRequest(Record):
    """The data of `POST /history-events`."""

    history_id: str = required(TEXT)
    event: TimelineEvent = required(record(TimelineEvent))


@_record
class UpdateEventRequest(_Results):
    """The body of `PATCH /history-events/{id}`."""

    id: str = required(TEXT)
    end_time: str | None = optional(TEXT)
    status: EventStatus | None = optional(_EVENT_STATUS)
    status_message: str | _Object | None = optional(MESSAGE)


# ---- configuration ---------------------------------------------------------------------------------------------------


@_record
class VoltAgentConfig(Record):
    """Address, keys and delivery options of a client or an SDK. Times are in seconds.

    A receiver on this machine needs no keys. `max_retries` is None by default, unlike the published 3: events are kept through an
    outage while the queue has room.
    """

    base_url: str = required(TEXT)
    public_key: str | None = optional(TEXT)
    secret_key: str | None = optional(TEXT)
    timeout: int | float = optional(NUMBER, 30)
    headers: dict[str, str] | None = optional(TEXT_PAIRS)
    auto_flush: bool = optional(FLAG, True)
    flush_interval: int | float = optional(NUMBER, 5)
    max_retries: int | None = optional(WHOLE)
    retry_delay: int | float = optional(NUMBER, 1.0)


# ---- options of handles ----------------------------------------------------------------------------------------------


@_record
class TraceOptions(_Contents):
    """Options of `VoltAgentSDK.trace`. Times are ISO 8601."""

    agentId: str = required(TEXT)
    id: str | None = optional(TEXT)
    userId: str | None = optional(TEXT)
    conversationId: str | None = optional(TEXT)
    startTime: str | None = optional(TEXT)
    completionStartTime: str | None = optional(TEXT)


@_record
class _StepOptions(Record):
    name: str = required(TEXT)
    input: _Object | None = optional(OBJECT)
    metadata: _Object | None = optional(OBJECT)


@_record
class AgentOptions(_StepOptions):
    """Options of `add_agent`."""

    instructions: str | None = optional(TEXT)


@_record
class ToolOptions(_StepOptions):
    """Options of `add_tool`."""


@_record
class MemoryOptions(_StepOptions):
    """Options of `add_memory`."""


@_record
class RetrieverOptions(_StepOptions):
    """Options of `add_retriever`."""


@_record
class SuccessOptions(Record):
    """Options of `success()`."""

    output: _Object | None = optional(OBJECT)
    metadata: _Object | None = optional(OBJECT)


@_record
class AgentSuccessOptions(SuccessOptions):
    """Options of an agent's `success()`."""

    usage: TokenUsage | None = optional(record(TokenUsage))


@_record
class ErrorOptions(Record):
    """Options of `error()`."""

    status_message: Any = required(ANYTHING)
    metadata: _Object | None = optional(OBJECT)


ToolSuccessOptions = MemorySuccessOptions = RetrieverSuccessOptions = SuccessOptions
ToolErrorOptions = MemoryErrorOptions = RetrieverErrorOptions = AgentErrorOptions = ErrorOptions
