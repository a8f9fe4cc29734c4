"""The rows of runs and steps that a store keeps beside its events, to list runs and to compute their totals. Pure.

A row is made of a fold, or of the event of a step that consists of one event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from agentscope.events import FIELDS, RUN_FIELDS, TEXTS
from agentscope.protocols.agentscope.fields import MAX_COST, MAX_TOKENS
from agentscope.protocols.token_usage import tokens_of as usage_counts

LLM_STEP = "llm_call"
INTERRUPTED = "interrupted"
"""The status of a run or step that was left open by sessions that are silent. It is derived when it is read, and never stored."""
COST_DIGITS = 9
"""Decimal digits of a total in US dollars, so that it does not depend on the order of the sum."""
MOST_TEXTS = 50
"""Texts of a list, such as tags, that an entry of `list_runs` shows. A filter finds each of the others too."""

RUN_COLUMNS = tuple(name for name, field in RUN_FIELDS.items() if field.row)
"""The fields of a run that its row has, besides those that are computed."""
_ROW_FIELDS = (
    *(name for name, field in FIELDS.items() if field.row),
    *("step_type", "error", "tokens_used", "usage", "cost_usd", "started_at", "ended_at"),
)
_LISTS = tuple(name for name, field in FIELDS.items() if field.row and field.type == TEXTS)
_LONGEST = 1000  # characters of a name or an id in a list
_FAILED = frozenset({"failed", "error"})
T = TypeVar("T", int, float)


class StepRow(NamedTuple):
    """The row of a step, to compute totals."""

    step_type: str
    failed: bool
    tokens: int | None
    model: str | None = None
    cost: float | None = None


def row_fields(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an event that a row is made of, without payloads, and with long texts cut to the listed length."""
    fields = {name: event[name] for name in _ROW_FIELDS if name in event}
    for name, value in fields.items():
        if type(value) is str and len(value) > _LONGEST:
            fields[name] = value[: _LONGEST + 1]
    for name in _LISTS:
        if name in fields:
            fields[name] = _listed_texts(fields[name])
    if "error" in fields:
        fields["error"] = bool(fields["error"])
    if "tokens_used" in fields:
        fields["tokens_used"] = _count(fields["tokens_used"])
    if "usage" in fields:
        fields["usage"] = usage_counts(fields["usage"]).usage()
    return fields


def step_row(fields: Mapping[str, Any]) -> StepRow:
    """Make the row of a step from its fold, or from its event if there is only one."""
    return StepRow(
        fields.get("step_type") or "other",
        is_failed(fields),
        tokens_of(fields),
        _listed(fields.get("model")),
        _cost(fields.get("cost_usd")),
    )


def run_row(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Make the row of a run from its fold, which is `{}` while only steps of it have come.

    `tokens` is the token count of the run as a whole. It is used only if no step has a count.
    """
    return {
        **{name: (_listed_texts if name in _LISTS else _listed)(fields.get(name)) for name in RUN_COLUMNS},
        "agent_name": _listed(fields.get("agent_name")) or "unknown",
        "status": _listed(status_of(fields)) or "",
        "failed": is_failed(fields),
        "started_at": fields.get("started_at"),
        "ended_at": fields.get("ended_at"),
        "tokens": tokens_of(fields),
    }


def is_failed(fields: Mapping[str, Any]) -> bool:
    """Return whether a run or step counts as an error. A cancelled one does not, even with an exception."""
    status = fields.get("status")
    return status in _FAILED or (bool(fields.get("error")) and status != "cancelled")


def run_tokens(rows: Sequence[StepRow]) -> int | None:
    """Sum the tokens of the LLM steps, since other steps repeat them; without those, of all steps. None without tokens."""
    return _total([(row.step_type, row.tokens) for row in rows])


def run_cost(rows: Sequence[StepRow]) -> float | None:
    """Sum the cost of the steps in US dollars, as `run_tokens` does it."""
    cost = _total([(row.step_type, row.cost) for row in rows])
    return None if cost is None else round(cost, COST_DIGITS)


def _total(values: Iterable[tuple[str, T | None]]) -> T | None:
    known = [(step_type, value) for step_type, value in values if value is not None]
    of_llm = [value for step_type, value in known if step_type == LLM_STEP]
    return sum(of_llm or (value for _, value in known)) if known else None


def status_of(fields: Mapping[str, Any]) -> str:
    """Return the status that the sender set, else the one derived from the events."""
    status: str | None = fields.get("status")
    if status:
        return status
    if not fields.get("ended"):
        return "running"
    return "failed" if fields.get("error") else "completed"


def _listed(name: object) -> str | None:
    """Cut a name to the listed length, which bounds the size of a page of runs.

    A value that is no text is None. Events of an earlier version, which did not check all fields, may have one.
    """
    if not isinstance(name, str):
        return None
    return name if len(name) <= _LONGEST else name[:_LONGEST] + "…"


def _listed_texts(texts: object) -> list[str]:
    return [listed for text in texts if (listed := _listed(text)) is not None] if isinstance(texts, list) else []


def tokens_of(fields: Mapping[str, Any]) -> int | None:
    """Return `tokens_used`, else the total in `usage`, else the sum of the input and output tokens."""
    tokens = _count(fields.get("tokens_used"))
    usage = fields.get("usage")
    if tokens is None and usage:
        counts = usage_counts(usage)
        parts = [counts.total] if counts.total is not None else [counts.input, counts.output]
        known = [part for part in parts if part is not None]
        tokens = min(sum(known), MAX_TOKENS) if known else None
    return tokens


def _count(value: Any) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return max(0, min(value, MAX_TOKENS)) if type(value) is int else None


def _cost(value: Any) -> float | None:
    return float(max(0.0, min(value, MAX_COST))) if type(value) in (int, float) and value == value else None
