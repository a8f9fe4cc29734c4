"""The rows of runs and steps that a store keeps beside its events, to list runs and to compute their totals. Pure.

A row is made of a fold, or of the event of a step that consists of one event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from agentscope.events import FIELDS, RUN_FIELDS, TEXTS
from agentscope.protocols import token_usage

LLM_STEP = "llm_call"
MAX_TOKENS = 10**12
"""The most tokens that one step adds to a total, so that sums stay far below 64 bits."""

RUN_COLUMNS = tuple(name for name, field in RUN_FIELDS.items() if field.row)
"""The fields of a run that its row has, besides those that are computed."""
_ROW_FIELDS = (
    *(name for name, field in FIELDS.items() if field.row),
    *("step_type", "error", "tokens_used", "usage", "started_at", "ended_at"),
)
_LISTS = tuple(name for name, field in FIELDS.items() if field.row and field.type == TEXTS)
_LONGEST = 1000  # characters of a name or an id in a list
_MOST_TEXTS = 50  # of a list of texts, such as tags, that a row keeps
_FAILED = frozenset({"failed", "error"})


class StepRow(NamedTuple):
    """The row of a step, to compute totals."""

    step_type: str
    failed: bool
    tokens: int | None
    model: str | None = None


class RunRow(NamedTuple):
    """The row of a run, to list and find it."""

    columns: dict[str, Any]
    """The fields that `RUN_COLUMNS` names: texts, lists of texts, and None."""
    failed: bool
    started_at: str | None
    ended_at: str | None
    tokens: int | None
    """Tokens of the run as a whole. They count only if no step has any."""


def row_fields(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an event that a row is made of, without payloads, and with long texts cut to the listed length."""
    fields = {name: event[name] for name in _ROW_FIELDS if name in event}
    for name, value in fields.items():
        if type(value) is str and len(value) > _LONGEST:
            fields[name] = value[: _LONGEST + 1]
    for name in _LISTS:
        if fields.get(name):
            fields[name] = _listed_texts(fields[name])
    if "error" in fields:
        fields["error"] = bool(fields["error"])
    if "tokens_used" in fields:
        fields["tokens_used"] = _count(fields["tokens_used"])
    if fields.get("usage") is not None:
        fields["usage"] = token_usage.tokens_of(fields["usage"]).usage()
    return fields


def step_row(fields: Mapping[str, Any]) -> StepRow:
    """Make the row of a step from its fold, or from its event if there is only one."""
    return StepRow(
        fields.get("step_type") or "other",
        is_failed(fields),
        tokens_of(fields),
        _listed(fields.get("model")),
    )


def run_row(fields: Mapping[str, Any]) -> RunRow:
    """Make the row of a run from its fold, which is `{}` while only steps of it have come."""
    columns = {
        name: _listed_texts(fields.get(name)) if name in _LISTS else _listed(fields.get(name)) for name in RUN_COLUMNS
    }
    columns["agent_name"] = columns["agent_name"] or "unknown"
    columns["status"] = _listed(status_of(fields)) or ""
    return RunRow(columns, is_failed(fields), fields.get("started_at"), fields.get("ended_at"), tokens_of(fields))


def is_failed(fields: Mapping[str, Any]) -> bool:
    """Return whether a run or step counts as an error. One that was cancelled does not, though it may tell an exception."""
    status = fields.get("status")
    return status in _FAILED or (bool(fields.get("error")) and status != "cancelled")


def run_tokens(rows: Sequence[StepRow]) -> int | None:
    """Sum the tokens of the LLM steps if any has some, since other steps repeat them, else of all steps; None without any."""
    of_llm = [row.tokens for row in rows if row.tokens is not None and row.step_type == LLM_STEP]
    counted = of_llm or [row.tokens for row in rows if row.tokens is not None]
    return sum(counted) if counted else None


def status_of(fields: Mapping[str, Any]) -> str:
    """Return the status that the sender set, else the one derived from the events."""
    status: str | None = fields.get("status")
    if status:
        return status
    if not fields.get("ended"):
        return "running"
    return "failed" if fields.get("error") else "completed"


def _listed(name: str | None) -> str | None:
    """Cut a name to the listed length, which bounds the size of a page of runs."""
    return name if name is None or len(name) <= _LONGEST else name[:_LONGEST] + "…"


def _listed_texts(texts: Sequence[str] | None) -> list[str]:
    return [text if len(text) <= _LONGEST else text[:_LONGEST] + "…" for text in (texts or ())[:_MOST_TEXTS]]


def tokens_of(fields: Mapping[str, Any]) -> int | None:
    """Return `tokens_used`, else the total in `usage`, else the sum of its input and output."""
    tokens = _count(fields.get("tokens_used"))
    if tokens is None and fields.get("usage") is not None:
        counts = token_usage.tokens_of(fields["usage"])
        tokens = counts.total
        if tokens is None and (counts.input is not None or counts.output is not None):
            tokens = (counts.input or 0) + (counts.output or 0)
    return None if tokens is None else min(tokens, MAX_TOKENS)


def _count(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        return None
    return value if 0 <= value <= MAX_TOKENS else max(0, min(value, MAX_TOKENS))
