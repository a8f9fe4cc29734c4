"""The summary of a run: its name, status, times and totals, told from its own events, the roots of its trace and its steps. Pure.

A run with a start or an end of its own has these. Otherwise the root of its trace is the run, of several that of an agent, else
the earliest; the other roots are steps. Without any root it is told from the topmost step, an agent's if there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from agentscope.protocols.ids import span_id_of

from .rows import (
    LISTS,
    RUN_COLUMNS,
    StepRow,
    account_of,
    duration_ms,
    is_failed,
    listed,
    listed_texts,
    status_of,
    step_row,
)
from .totals import AGENT_STEP, Account, CountedStep, run_account
from .tree import attach, depth_first, resolved

MOST_AGENTS = 20
"""The most agents inside a run that an entry of `list_runs` names. A filter finds each of the others too."""
_CALLS = frozenset({"llm_call", "tool_call", "memory", "retrieval"})
"""Types of roots that are steps as well: the run consists of that call."""


class Summary(NamedTuple):
    """The summary, and the steps that it was told from."""

    row: dict[str, Any]
    """The fields in `RUN_COLUMNS`, `failed`, `started_at`, `ended_at`, `duration_ms`, `step_count`, `failed_steps`,
    `error_count`, `tokens_used`, `total_usage`, `cost_usd`, `agents` and `is_root_missing`."""
    settles: str | None
    """The end of the last step of a run without a root, unless a step goes on; None for a run with a root."""
    root: str | None
    """The root of the trace that is the run."""
    hidden: str | None
    """The root that is the run, unless it is shown as a step too."""
    top: str | None
    """The topmost step of a run without a root."""
    copy: str | None
    """The only child of the root, if it repeats the root. It is not shown, and its children become children of the run."""
    agent: str | None
    """The topmost agent among the steps."""
    given: dict[str, str | None]
    """The parent that each step names, by the id of a step where that is known."""
    parents: dict[str, str | None]
    """The tree of the steps."""
    depths: dict[str, int]
    """The depth of each step in the tree."""


def root_rows(run: Mapping[str, Any]) -> dict[str, StepRow]:
    """Return the rows of the roots of a trace, from the fold of its run. Of a root with a step of its own that one counts."""
    roots: Mapping[str, Any] = run.get("roots", {})
    return {span: step_row(root, is_root=True) for span, root in roots.items()}


def summary_of(run_id: str, run: Mapping[str, Any], rows: Mapping[str, StepRow], quiet: str | None = None) -> Summary:
    """Summarise a run from its fold and the rows of all its steps and roots.

    quiet: a run without a root has ended once all its steps ended before this moment; None stands for a moment after any.
    """
    is_begun = run.get("begun", False)
    roots: Mapping[str, Any] = {} if is_begun else run.get("roots", {})
    root = min(
        roots, key=lambda span: (roots[span].get("step_type") != AGENT_STEP, _start(roots[span]), span), default=None
    )
    is_hidden = root is not None and root in rows and rows[root].is_root and rows[root].step_type not in _CALLS
    hidden = root if is_hidden else None
    steps = {step: rows[step] for step in sorted(rows, key=lambda step: (rows[step].began, step)) if step != hidden}
    told = run.get("span_id")
    own_spans = {span_id_of(run_id), root, told if type(told) is str else None}  # a batch may name any JSON
    given = resolved(own_spans, {step: row.parent_id for step, row in steps.items()})
    parents = attach(given)
    depths = depth_first(parents)
    loose = [step for step, parent in parents.items() if parent is None]
    first = next((step for step in loose if steps[step].step_type == AGENT_STEP), loose[0] if loose else None)
    top = None if is_begun or root is not None else first
    agents = [step for step, row in steps.items() if row.step_type == AGENT_STEP]
    head = run if root is None else {**run, **roots[root]}
    row = _row(head)
    if row["agent_name"] is None:
        told = None if first is None else steps[first].name
        row["agent_name"] = listed(run.get("trace_name")) or told or "unknown"
    settles = None
    if top is not None:
        row |= _told_by(steps[top], steps.values())
        told_of = {name: listed(run.get(f"trace_{name}")) for name in ("environment", "release")}
        row |= {name: value for name, value in told_of.items() if row[name] is None}
        settles = max(step.ended_at or step.began for step in steps.values()) if row["status"] != "running" else None
        if settles is not None and quiet is not None and settles > quiet:
            row["status"] = "running"
    own = Account() if root is not None and hidden is None else account_of(head)
    tellers = {
        step: CountedStep(row.account, row.step_type, row.source, row.began, row.ended_at)
        for step, row in steps.items()
    }
    account = run_account(own, tellers, list(depths), parents)
    copy = _copy_of(hidden, row, steps, parents)
    if copy is not None:
        agents = [step for step in agents if step != copy]
        del steps[copy], parents[copy], given[copy]
        parents.update({step: None for step, parent in parents.items() if parent == copy})
        given.update({step: None for step, parent in given.items() if parent == copy})
    failed = sum(step.failed for step in steps.values())
    names = dict.fromkeys(steps[step].name for step in agents)
    names.pop(row["agent_name"], None)
    row |= {
        "duration_ms": duration_ms(row["started_at"], row["ended_at"]),
        "step_count": len(steps),
        "failed_steps": failed,
        "error_count": failed or int(row["failed"]),
        "tokens_used": account.tokens.total,
        "total_usage": account.tokens.usage() or None,
        "cost_usd": account.cost,
        "agents": list(names)[:MOST_AGENTS],
        "is_root_missing": top is not None,
    }
    topmost = min(agents, key=depths.__getitem__, default=None)
    return Summary(row, settles, root, hidden, top, copy, topmost, given, parents, depths)


def _copy_of(
    root: str | None, row: Mapping[str, Any], steps: Mapping[str, StepRow], parents: Mapping[str, str | None]
) -> str | None:
    """Return the step that repeats the root, as the task in a workflow of the OpenAI Agents SDK does."""
    top = [step for step, parent in parents.items() if parent is None]
    if root is None or len(top) != 1 or len(steps) == 1:
        return None
    only = steps[top[0]]
    same = only.name == row["agent_name"] and only.status == row["status"] and only.step_type not in _CALLS
    return top[0] if same else None


def _row(head: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: (listed_texts if name in LISTS else listed)(head.get(name)) for name in RUN_COLUMNS},
        "status": listed(status_of(head)) or "",
        "failed": is_failed(head),
        "started_at": head.get("started_at"),
        "ended_at": head.get("ended_at"),
    }


def _told_by(top: StepRow, steps: Iterable[StepRow]) -> dict[str, Any]:
    """Return the status of a run without a root, which is that of its topmost step, and the time that its steps took."""
    steps = list(steps)
    goes_on = any(step.status == "running" for step in steps)
    return {
        "status": "running" if goes_on else top.status,
        "failed": top.failed,
        "source": top.source,
        "started_at": min((step.started_at for step in steps if step.started_at), default=None),
        "ended_at": None if goes_on else max((step.ended_at for step in steps if step.ended_at), default=None),
    }


def _start(root: Mapping[str, Any]) -> str:
    started: str = root.get("started_at") or root["first_at"]
    return started
