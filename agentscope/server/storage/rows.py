"""The rows of steps that a store keeps beside its events, of which it tells runs and computes their totals. Pure.

A row is made of a fold, or of the event of a step that consists of one event. `summary` makes the row of a run of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from agentscope.events import FIELDS, RUN_FIELDS, STEP, TEXTS
from agentscope.protocols.agentscope.fields import MAX_COST, MAX_TOKENS
from agentscope.protocols.token_usage import Tokens, cost_in
from agentscope.protocols.token_usage import tokens_of as usage_counts

from .totals import Account

INTERRUPTED = "interrupted"
"""The status of a run or step that was left open by sessions that are silent. It is derived when it is read, and never stored."""
MOST_TEXTS = 50
"""Texts of a list, such as tags, that an entry of `list_runs` shows. A filter finds each of the others too."""

RUN_COLUMNS = tuple(name for name, field in RUN_FIELDS.items() if field.row)
"""The fields of a run that its row has, besides those that are computed."""
_ROW_FIELDS = (
    *(name for name, field in FIELDS.items() if field.row),
    *("name", "step_type", "error", "tokens_used", "usage", "cost_usd", "started_at", "ended_at"),
    *("parent_id", "span_id", "trace_name", "trace_environment", "trace_release"),
)
LISTS = tuple(name for name, field in FIELDS.items() if field.row and field.type == TEXTS)
_LONGEST = 1000  # characters of a name or an id in a list
_NOTHING = Account()
_FAILED = frozenset({"failed", "error"})


class StepRow(NamedTuple):
    """The row of a step, to tell runs and to compute totals."""

    name: str
    step_type: str
    status: str
    failed: bool
    parent_id: str | None
    """As it was sent."""
    source: str | None
    """The instrumentation that recorded it."""
    began: str
    """`started_at`, or the time of its earliest event while that is unknown."""
    started_at: str | None
    ended_at: str | None
    account: Account
    model: str | None = None
    is_root: bool = False
    """True for the root of a trace, which is the run itself unless the run has another root."""


def row_fields(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an event that a row is made of, without payloads, and with long texts cut to the listed length."""
    fields = {name: event[name] for name in _ROW_FIELDS if name in event}
    for name, value in fields.items():
        if type(value) is str and len(value) > _LONGEST:
            fields[name] = value[: _LONGEST + 1]
    for name in LISTS:
        if name in fields:
            fields[name] = listed_texts(fields[name])
    if "error" in fields:
        fields["error"] = bool(fields["error"])
    if "tokens_used" in fields:
        fields["tokens_used"] = _count(fields["tokens_used"])
    if "usage" in fields:
        fields["usage"] = _usage(fields["usage"])
    return fields


def step_row(fields: Mapping[str, Any], is_root: bool = False) -> StepRow:
    """Make the row of a step from its fold, or from its event if there is only one."""
    started, parent = fields.get("started_at"), fields.get("parent_id")
    return StepRow(
        listed(fields.get("name") or fields.get("agent_name")) or "step",
        listed(fields.get("step_type")) or "other",
        listed(status_of(fields)) or "",
        is_failed(fields),
        parent if isinstance(parent, str) else None,
        listed(fields.get("source")),
        started or fields.get("first_at") or fields["time"],
        started,
        fields.get("ended_at"),
        account_of(fields),
        listed(fields.get("model")),
        is_root,
    )


def is_failed(fields: Mapping[str, Any]) -> bool:
    """Return whether a run or step counts as an error. A cancelled one does not, even with an exception."""
    status = fields.get("status")
    return status in _FAILED or (bool(fields.get("error")) and status != "cancelled")


def status_of(fields: Mapping[str, Any]) -> str:
    """Return the status that the sender set, else the one derived from the events."""
    status: str | None = fields.get("status")
    if status:
        return status
    if not fields.get("ended") and fields.get("type") != STEP:
        return "running"
    return "failed" if fields.get("error") else "completed"


def listed(name: object) -> str | None:
    """Cut a name to the listed length, which bounds the size of a page of runs.

    A value that is no text is None. Events of an earlier version, which did not check all fields, may have one.
    """
    if type(name) is not str:
        return None
    return name if len(name) <= _LONGEST else name[:_LONGEST] + "…"


def listed_texts(texts: object) -> list[str]:
    """Cut each of some texts as `listed` does."""
    return [name for text in texts if (name := listed(text)) is not None] if isinstance(texts, list) else []


def account_of(fields: Mapping[str, Any]) -> Account:
    """Return the counts of a run or step: `tokens_used`, else the total in `usage`, else the sum of input and output tokens.

    Its cost is `cost_usd`, else that in `usage`.
    """
    total, cost, usage = fields.get("tokens_used"), fields.get("cost_usd"), fields.get("usage")
    if not usage and cost is None:
        return _NOTHING if total is None else Account(Tokens(total=_count(total)))
    counts = Tokens(*map(_count, usage_counts(usage)))
    total, cost = _count(total), _cost(cost)
    if total is None:
        total = counts.total
    if total is None and (counts.input is not None or counts.output is not None):
        total = min((counts.input or 0) + (counts.output or 0), MAX_TOKENS)
    return Account(counts._replace(total=total), _cost(cost_in(usage)) if cost is None else cost)


def _usage(usage: Any) -> dict[str, Any]:
    """Reduce a `usage` payload to the counts and the cost that a row is made of."""
    counts: dict[str, Any] = dict(usage_counts(usage).usage())
    cost = cost_in(usage)
    return counts if cost is None else {**counts, "cost_usd": cost}


def _count(value: Any) -> int | None:
    """Return a number of tokens within bounds. A negative one means that the number is unknown."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return min(value, MAX_TOKENS) if type(value) is int and value >= 0 else None


def _cost(value: Any) -> float | None:
    """Return a cost within bounds. A negative one means that the cost is unknown."""
    return float(min(value, MAX_COST)) if type(value) in (int, float) and value >= 0 else None


def duration_ms(started_at: str | None, ended_at: str | None) -> float | None:
    """Return the milliseconds between two times in the form of `Patch.time`, at least 0; None while one is missing."""
    if started_at is None or ended_at is None:
        return None
    span = datetime.fromisoformat(ended_at[:-1]) - datetime.fromisoformat(started_at[:-1])
    return max(0.0, round(span.total_seconds() * 1000, 3))
