"""The words that the API has for how things stand."""

from __future__ import annotations

from enum import Enum


class EventStatus(str, Enum):
    """How an event stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"


class EventLevel(str, Enum):
    """How much an event matters."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class TraceStatus(str, Enum):
    """How a trace stands."""

    WORKING = "working"
    COMPLETED = "completed"
    ERROR = "error"
