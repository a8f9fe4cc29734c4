"""The types of options that are given as dicts. Names that are not listed here are allowed: they become metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from .types import EventLevel, EventStatus

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class TraceDict(TypedDict, total=False):
    """Options of `VoltAgentSDK.trace`. Times are ISO 8601."""

    agentId: str
    id: str
    userId: str
    conversationId: str
    input: Any
    tags: Sequence[str]
    metadata: Mapping[str, Any]
    version: str
    level: Level | EventLevel
    startTime: str
    completionStartTime: str
    environment: str
    release: str


class StepDict(TypedDict, total=False):
    """Options of `add_tool`, `add_memory` and `add_retriever`."""

    name: str
    input: Any
    metadata: Mapping[str, Any]
    model: str
    provider: str


class AgentDict(StepDict, total=False):
    """Options of `add_agent`."""

    instructions: str


class EventDict(StepDict, total=False):
    """Options of `add_event`. Times are ISO 8601."""

    type: str
    id: str
    startTime: str
    endTime: str
    status: Literal["running", "completed", "error", "cancelled"] | EventStatus
    level: Level | EventLevel
    statusMessage: str | Mapping[str, Any]
    parentEventId: str
    traceId: str
    output: Any
    tags: Sequence[str]
    version: str
