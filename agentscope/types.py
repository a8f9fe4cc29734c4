"""Values of the public surface: records of the synchronous client, and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from .events import RUN_STATUSES, STEP_TYPES, RunStatus, StepType

__all__ = [
    "RUN_STATUSES",
    "STEP_TYPES",
    "FlushResult",
    "JSONDict",
    "RunConfig",
    "RunResponse",
    "RunStatus",
    "Stats",
    "StepConfig",
    "StepType",
]

JSONDict = dict[str, Any]
"""A JSON object. A payload may also be any other value: a value that is not JSON is converted."""


@dataclass
class RunConfig:
    """A run as `AgentScopeClient.create_run` takes it."""

    external_id: str | None = None
    agent_name: str = "unknown"
    input: JSONDict | None = None
    meta_data: JSONDict | None = None


@dataclass
class StepConfig:
    """A step as `AgentScopeClient.add_step` takes it. `latency_ms` is in milliseconds."""

    step_type: str = "other"
    name: str = "step"
    input: JSONDict | None = None
    output: JSONDict | None = None
    meta_data: JSONDict | None = None
    error: JSONDict | None = None
    tokens_used: int | None = None
    latency_ms: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass
class RunResponse:
    """A run in an answer of the platform."""

    id: str
    project_id: str
    external_id: str | None
    agent_name: str
    status: str
    started_at: datetime
    created_at: datetime


@dataclass(frozen=True)
class FlushResult:
    """The result of `flush()` and `shutdown()`. True only if every event accepted before the call was acknowledged.

    `pending` is the number of events that were not settled in time, `dropped` the number dropped since the last flush.
    """

    pending: int = 0
    dropped: int = 0
    problem: str | None = None
    """The reason why delivery fails, in one sentence; None if it works."""
    spooled: int = 0
    """Events that were not acknowledged in time, and are on disk: this process or another will deliver them."""

    def __bool__(self) -> bool:
        return self.pending == 0 and self.dropped == 0 and self.spooled == 0


@dataclass(frozen=True)
class Stats:
    """The ledger at one moment: `accepted == delivered + sum(dropped.values()) + spooled + pending`."""

    accepted: int = 0
    delivered: int = 0
    dropped: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Dropped events by reason: queue_full, too_large, encode_error, redaction_error, rejected, shutdown, …"""
    spooled: int = 0
    """Events that are on disk and not acknowledged yet. Always 0 without a `spool_dir`."""
    recovered: int = 0
    """Events of earlier processes that were found in the spool and delivered; they are not part of `accepted`."""
    pending: int = 0
    """Events in memory: queued, batched, or on the wire and not acknowledged yet."""
    unfinished: int = 0
    """Pending events of open runs and steps, for a protocol that sends only whole ones. A flush does not wait for them."""
    queued_bytes: int = 0
    """Bytes of `max_queue_bytes` that the pending events take."""
    duplicates: int = 0
    """Delivered events that the backend already had (an earlier answer was lost)."""
    possibly_duplicated: int = 0
    """Delivered events that a backend without idempotency may have stored twice."""
    payloads_shed: int = 0
    """Steps that kept their place but lost their payload because the queue was nearly full."""
    sampled_out: int = 0
    """Events of runs that `sample_rate` left out; they are not part of `accepted`."""
    invalid_calls: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Calls that could not be recorded or were mended, by kind: no_run, run_ended, unknown_step_type, …"""
    attempts: int = 0
    """Attempts to deliver a batch so far."""
    retries: int = 0
    """Attempts that followed a failed one."""
    requests: int = 0
    """Requests that were sent, answered or not."""
    sent_bytes: int = 0
    """Bytes of the request bodies, after compression."""
    worker_seconds: float = 0.0
    """CPU seconds of the threads that deliver."""
    calls: int = 0
    """Calls that recorded something: starts and ends of runs, and steps. A block counts as one."""
    call_seconds: float = 0.0
    """The time that these calls took, in seconds. An estimate: one call in 61 is timed."""
    protocol: str | None = None
    """The protocol in use: "agentscope-batch", "agentscope-classic", "otlp", "voltagent-history", or None before the first
    answer."""
    problem: str | None = None
    """The reason why delivery fails at the moment, in one sentence; None if it works."""
    exporters: tuple[Stats, ...] = ()
    """With several exporters, the counts of each, in their order; those above are then their sums."""
