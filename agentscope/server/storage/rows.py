"""Rows: what the store keeps of a run to list and find it, and of a step to compute totals. Pure.

A row is made of a fold, or of a single event where that is all there is of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LLM_STEP = "llm_call"
MAX_TOKENS = 10**12
"""What one step may add to a total, so that sums stay far from the bounds of 64 bits."""

_TOTAL = ("total_tokens", "totalTokens")
_INPUT = ("input_tokens", "prompt_tokens", "inputTokens", "promptTokens")
_OUTPUT = ("output_tokens", "completion_tokens", "outputTokens", "completionTokens")
_COUNTED = frozenset({*_TOTAL, *_INPUT, *_OUTPUT})
_ROW_FIELDS = (
    "agent_name",
    "status",
    "external_id",
    "user_id",
    "conversation_id",
    "source",
    "step_type",
    "error",
    "tokens_used",
    "usage",
    "started_at",
    "ended_at",
)
_LONGEST = 1000  # characters of a name or an id in a list
_FAILED = frozenset({"failed", "error"})


class StepRow(NamedTuple):
    """What the store keeps of a step to compute totals."""

    step_type: str
    failed: bool
    tokens: int | None


class RunRow(NamedTuple):
    """What the store keeps of a run to list and find it."""

    agent_name: str
    status: str
    external_id: str | None
    user_id: str | None
    conversation_id: str | None
    source: str | None
    failed: bool
    started_at: str | None
    ended_at: str | None
    tokens: int | None
    """What was said of the run as a whole; it counts only where no step carries any."""


def row_fields(event: Mapping[str, Any]) -> dict[str, Any]:
    """What of an event may count for a row, in little space: no payload, and of long texts no more than is listed."""
    fields = {name: event[name] for name in _ROW_FIELDS if name in event}
    for name, value in fields.items():
        if type(value) is str and len(value) > _LONGEST:
            fields[name] = value[: _LONGEST + 1]
    if "error" in fields:
        fields["error"] = bool(fields["error"])
    if "tokens_used" in fields:
        fields["tokens_used"] = _count(fields["tokens_used"])
    usage = fields.get("usage")
    if usage is not None:
        counts = usage.items() if isinstance(usage, dict) else ()
        fields["usage"] = {name: _count(value) for name, value in counts if name in _COUNTED}
    return fields


def step_row(fields: Mapping[str, Any]) -> StepRow:
    """The row of a step, from its fold or, for a step of one event, from that event."""
    return StepRow(
        fields.get("step_type") or "other",
        fields.get("status") in _FAILED or bool(fields.get("error")),
        tokens_of(fields),
    )


def run_row(fields: Mapping[str, Any]) -> RunRow:
    """The row of a run, from its fold; from `{}` when only steps of it came so far."""
    return RunRow(
        _listed(fields.get("agent_name")) or "unknown",
        _listed(status_of(fields)) or "",
        _listed(fields.get("external_id")),
        _listed(fields.get("user_id")),
        _listed(fields.get("conversation_id")),
        _listed(fields.get("source")),
        fields.get("status") in _FAILED or bool(fields.get("error")),
        fields.get("started_at"),
        fields.get("ended_at"),
        tokens_of(fields),
    )


def run_tokens(rows: Sequence[StepRow]) -> int | None:
    """A run's tokens: over its LLM steps where any carries usage (others repeat it), else over all; None if none does."""
    of_llm = [row.tokens for row in rows if row.tokens is not None and row.step_type == LLM_STEP]
    counted = of_llm or [row.tokens for row in rows if row.tokens is not None]
    return sum(counted) if counted else None


def status_of(fields: Mapping[str, Any]) -> str:
    """What the sender said; where it said nothing, what the events that came amount to."""
    status: str | None = fields.get("status")
    if status:
        return status
    if not fields.get("ended"):
        return "running"
    return "failed" if fields.get("error") else "completed"


def _listed(name: str | None) -> str | None:
    """A name as lists show it: a page of them must not grow with what somebody called a run."""
    return name if name is None or len(name) <= _LONGEST else name[:_LONGEST] + "…"


def tokens_of(fields: Mapping[str, Any]) -> int | None:
    """`tokens_used`, else the total of `usage`, else its input and output added up."""
    tokens = _count(fields.get("tokens_used"))
    usage = fields.get("usage")
    if tokens is None and isinstance(usage, dict):
        tokens = _named(usage, _TOTAL)
        if tokens is None:
            parts = [_named(usage, _INPUT), _named(usage, _OUTPUT)]
            known = [part for part in parts if part is not None]
            tokens = min(sum(known), MAX_TOKENS) if known else None
    return tokens


def _named(usage: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """The first of these counts that is one."""
    return next((count for name in names if (count := _count(usage.get(name))) is not None), None)


def _count(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        return None
    return value if 0 <= value <= MAX_TOKENS else max(0, min(value, MAX_TOKENS))
