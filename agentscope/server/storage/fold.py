"""The fold: the state of a run or step from its patches, which may come in any order and several times. Pure.

Fields are taken one by one, as `Field.join` says: mostly the last writer by `(time, session_id, seq)` wins, and an explicit
null is a value. A null `parent_id` changes nothing, since every event has the field.

A patch to a run that has the `span_id` and the `step_type` of a root is about that root: a trace may have several. Each root has
a fold of its own, in `roots` of the run's fold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any

from agentscope.events import (
    LAST,
    MERGED,
    RUN_END,
    RUN_FIELDS,
    RUN_START,
    STEP,
    STEP_END,
    STEP_FIELDS,
    STEP_START,
    TEXTS,
    UNITED,
)
from agentscope.protocols.agentscope.decode import Patch
from agentscope.protocols.agentscope.fields import is_id
from agentscope.protocols.assemble import merge_objects
from agentscope.protocols.token_usage import normal_usage

from .rows import INTERRUPTED, account_of, duration_ms, status_of, step_row
from .summary import Summary, root_rows, summary_of

_OF_TRACE = ("user_id", "conversation_id", "tags", "environment", "release", "external_id")
"""The fields that every root tells of the run as a whole."""
_OF_ROOT = {name: field for name, field in {**STEP_FIELDS, **RUN_FIELDS}.items() if name not in _OF_TRACE}
_ORDER = (LAST, MERGED, UNITED)
Joins = tuple[tuple[str, ...], ...]
"""The names of fields by their `Field.join`: the last one counts, merged, united."""


def _joins(names: Iterable[str]) -> Joins:
    fields = {**STEP_FIELDS, **RUN_FIELDS}
    return tuple(tuple(name for name in names if fields[name].join == join) for join in _ORDER)


RUN_JOINS, STEP_JOINS, ROOT_JOINS, TRACE_JOINS = map(_joins, (RUN_FIELDS, STEP_FIELDS, _OF_ROOT, _OF_TRACE))
_TEXT_LISTS = tuple(name for name, field in RUN_FIELDS.items() if field.type == TEXTS)
_OF_RUN = tuple(name for name in RUN_FIELDS if name != "span_id" and not name.startswith("trace_"))
_NOT_OF_RUNS = ("model", "provider", "cost_usd", "first_token_ms")
OF_OWNER = ("agent_name", "status", "started_at", "ended_at")
ENDS = frozenset({RUN_END, STEP, STEP_END})
STARTS = frozenset({RUN_START, STEP_START})


def place(patch: Patch) -> tuple[str, str, int, str]:
    """Return the place of a patch in the order. The id decides between patches to which a faulty sender gave the same place."""
    return patch.time, patch.session_id, patch.seq, patch.id


def fold(patches: Iterable[Patch]) -> dict[str, Any]:
    """Fold the patches of one run or step, given in any order. `first_at` is the earliest time."""
    ordered = sorted(patches, key=place)
    fields: dict[str, Any] = {"first_at": ordered[0].time, "ended": False}
    extend(fields, ordered)
    return fields


def extend(fields: dict[str, Any], ordered: Iterable[Patch]) -> None:
    """Extend a fold with ordered patches, all of which come after those that it was made of.

    `begun` of a run is True if its sender began it, beside the roots of its trace: an event of it has a name, a status or a time.
    """
    for patch in ordered:
        if patch.step_id is not None:
            _join(fields, patch, STEP_JOINS)
            continue
        root = root_of(patch)
        if root is not None:
            roots = fields.setdefault("roots", {})
            _join(roots.setdefault(root, {"first_at": patch.time, "ended": False}), patch, ROOT_JOINS)
            _join(fields, patch, TRACE_JOINS)
        else:
            _join(fields, patch, RUN_JOINS)
            fields["begun"] = fields.get("begun", False) or any(name in patch.fields for name in OF_OWNER)


def root_of(patch: Patch) -> str | None:
    """Return the root of the trace that a patch to a run is about. One that tells no type is about the run itself."""
    root = patch.fields.get("span_id")
    return root if is_id(root) and isinstance(patch.fields.get("step_type"), str) else None


def _join(fields: dict[str, Any], patch: Patch, joins: Joins) -> None:
    last, merged, united = joins
    event = patch.fields
    # A start that is ordered after the end, by a clock that was set back, opens nothing again.
    is_late = fields["ended"] and patch.type in STARTS
    for name in last:
        if name in event and not (is_late and name == "status"):
            fields[name] = event[name]
    if event.get("parent_id") is not None:
        fields["parent_id"] = event["parent_id"]
    for name in merged:
        if name in event:
            fields[name] = merge_objects(fields.get(name), event[name])
    for name in united:
        if event.get(name):
            fields[name] = sorted({*fields.get(name, ()), *event[name]})
    if patch.type in ENDS and joins is not TRACE_JOINS:
        fields["ended"] = True


def run_view(
    run_id: str,
    patches: Iterable[Patch],
    silence: Mapping[str, bool] = MappingProxyType({}),
    quiet: str | None = None,
) -> dict[str, Any]:
    """Fold all events of one run to the run that the read API shows, with its steps ordered by start.

    silence: as `Store.silence` tells. An open step is interrupted if all sessions that sent events of it are silent; an open run
    if all are that sent events of the run itself, and none lives that sent events of its steps. quiet: as `summary_of` has it.
    """
    run_patches: list[Patch] = []
    step_patches: dict[str, list[Patch]] = {}
    for patch in patches:
        if patch.step_id is None:
            run_patches.append(patch)
        else:
            step_patches.setdefault(patch.step_id, []).append(patch)
    run = fold(run_patches) if run_patches else {}
    folds = {step_id: fold(found) for step_id, found in step_patches.items()}
    rows = {step_id: step_row(fields) for step_id, fields in folds.items()}
    of_roots: dict[str, list[Patch]] = {}
    for patch in run_patches:
        of_roots.setdefault(root_of(patch) or "", []).append(patch)
    for span_id, row in root_rows(run).items():
        if span_id not in rows:
            rows[span_id], folds[span_id], step_patches[span_id] = row, run["roots"][span_id], of_roots[span_id]
    summary = summary_of(run_id, run, rows, quiet)
    told = _told(run, folds, summary)
    for step_id in (summary.hidden, summary.copy):
        if step_id is not None:
            del folds[step_id]
    firsts = {step_id: place(min(step_patches[step_id], key=place)) for step_id in folds}
    # Of steps that began at the same moment a parent comes before its children.
    order = sorted(folds, key=lambda step_id: (rows[step_id].began, summary.depths[step_id], firsts[step_id]))
    lives = any(silence.get(patch.session_id) is False for patch in chain(*step_patches.values())) if silence else False
    head = {name: value for name, value in summary.row.items() if name != "failed_steps"}
    head["status"] = head["status"] if lives else _current(head["status"], _sessions(run_patches), silence)
    parents, given = summary.parents, summary.given
    return {
        **_head_view({"id": run_id, **head}, told),
        "steps": [
            step_view(step, index, folds[step], parents[step], given[step], _sessions(step_patches[step]), silence)
            for index, step in enumerate(order)
        ],
    }


def head_view(
    run: Mapping[str, Any], folds: Mapping[str, Mapping[str, Any]], summary: Summary, listed: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what `run_view` does but for the steps.

    run: the fold of the run's own events. folds: those of the topmost step and the topmost agent of the summary. listed: its
    entry of `Store.list_runs`.
    """
    return _head_view(listed, _told(run, folds, summary))


def _head_view(head: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": head["id"],
        **{name: told.get(name) for name in _OF_RUN},
        **head,
        **{name: told.get(name) or [] for name in _TEXT_LISTS},
        "usage": normal_usage(told.get("usage")),
    }


def _sessions(patches: Iterable[Patch]) -> set[str]:
    return {patch.session_id for patch in patches}


def _told(run: Mapping[str, Any], folds: Mapping[str, Mapping[str, Any]], summary: Summary) -> dict[str, Any]:
    """Return the fields of the run, payloads included, from its fold and those of its steps and roots."""
    if run.get("begun"):
        return dict(run)
    fields = {name: value for name, value in run.items() if name != "meta_data" or summary.root is None}
    if summary.root is not None:
        root = run["roots"][summary.root]
        fields |= {name: value for name, value in root.items() if name != "meta_data"}
        parts = [{name: root[name] for name in _NOT_OF_RUNS if root.get(name) is not None}] if summary.hidden else []
        parts += [each["meta_data"] for each in (run, root) if "meta_data" in each]
        for part in parts:  # a run has no fields of steps
            if part:
                fields["meta_data"] = merge_objects(fields.get("meta_data"), part)
    elif summary.top is not None:
        top = folds[summary.top]
        fields |= {name: top[name] for name in ("input", "output", "error") if fields.get(name) is None and name in top}
        resource = top["meta_data"].get("resource") if isinstance(top.get("meta_data"), dict) else None
        if resource is not None:
            fields["meta_data"] = merge_objects({"resource": resource}, fields.get("meta_data", {}))
    if summary.copy is not None:
        copy = folds[summary.copy]
        fields |= {name: copy.get(name) for name in ("input", "output", "error", "usage") if fields.get(name) is None}
        fields["meta_data"] = merge_objects(copy.get("meta_data", {}), fields.get("meta_data", {}))
    if summary.agent is not None:
        agent = folds[summary.agent]
        fields |= {name: agent.get(name) for name in ("input", "output") if fields.get(name) is None}
    return fields


def _current(status: str, sessions: Collection[str], silence: Mapping[str, bool]) -> str:
    is_left = status == "running" and bool(sessions) and all(silence.get(session) for session in sessions)
    return INTERRUPTED if is_left else status


def step_view(
    step_id: str,
    index: int | None,
    fields: Mapping[str, Any],
    parent: str | None,
    given: str | None,
    sessions: Collection[str],
    silence: Mapping[str, bool],
) -> dict[str, Any]:
    """Return a step as the read API shows it.

    index: its place in the order of the steps. fields: its fold. parent: its parent in the tree. given: the parent that it names.
    sessions: those that sent events of it. silence: as `Store.silence` tells.
    """
    latency = fields.get("latency_ms")
    if latency is None:
        latency = duration_ms(fields.get("started_at"), fields.get("ended_at"))
    view = {
        "id": step_id,
        "parent_id": parent,
        "step_index": index,
        **{name: fields.get(name) for name in STEP_FIELDS},
        "step_type": fields.get("step_type") or "other",
        "name": fields.get("name") or fields.get("agent_name") or "step",
        "status": _current(status_of(fields), sessions, silence),
        "tokens_used": account_of(fields).tokens.total,
        "usage": normal_usage(fields.get("usage")),
        "latency_ms": latency,
        "truncated": fields.get("truncated", []),
    }
    if parent != given:
        view["unattached_parent_id"] = given
    return view
