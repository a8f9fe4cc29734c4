"""The fold: the state of a run or step from its patches, which may come in any order and several times. Pure.

Fields are taken one by one, as `Field.join` says: mostly the last writer by `(time, session_id, seq)` wins, and an explicit
null is a value. A null `parent_id` changes nothing, since every event has the field.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
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
from agentscope.protocols.assemble import merge_objects
from agentscope.protocols.ids import span_id_of
from agentscope.protocols.token_usage import normal_usage

from .rows import INTERRUPTED, run_cost, run_row, run_tokens, status_of, step_row, tokens_of

_JOINS = {
    of_run: tuple(tuple(name for name in fields if fields[name].join == join) for join in (LAST, MERGED, UNITED))
    for of_run, fields in ((True, RUN_FIELDS), (False, STEP_FIELDS))
}
_TEXT_LISTS = tuple(name for name, field in RUN_FIELDS.items() if field.type == TEXTS)
_OF_RUN = tuple(name for name in RUN_FIELDS if name != "span_id")  # which only serves to find parents
_ENDS = frozenset({RUN_END, STEP, STEP_END})
_STARTS = frozenset({RUN_START, STEP_START})


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
    """Extend a fold with ordered patches, all of which come after those that it was made of."""
    for patch in ordered:
        last, merged, united = _JOINS[patch.step_id is None]
        event = patch.fields
        # A start that is ordered after the end, by a clock that was set back, opens nothing again.
        is_late = fields["ended"] and patch.type in _STARTS
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
        if patch.type in _ENDS:
            fields["ended"] = True


def run_view(
    run_id: str, patches: Iterable[Patch], silence: Mapping[str, bool] = MappingProxyType({})
) -> dict[str, Any]:
    """Fold all events of one run to the run that the read API shows, with its steps ordered by start.

    silence: as `Store.silence` tells. An open step is interrupted if all sessions that sent events of it are silent; an open run
    if all are that sent events of the run itself, and none lives that sent events of its steps.
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
    order = sorted(folds, key=lambda step_id: (_start(folds[step_id]), place(min(step_patches[step_id], key=place))))
    told = run.get("span_id")
    roots = {span_id_of(run_id), told if type(told) is str else None}  # a batch may name any JSON
    given = resolved(roots, {step_id: folds[step_id].get("parent_id") for step_id in order})
    parents = attach(given)
    rows = [step_row(folds[step_id]) for step_id in order]
    row = run_row(run)
    lives = any(silence.get(patch.session_id) is False for patch in chain(*step_patches.values())) if silence else False
    row["status"] = row["status"] if lives else _current(row["status"], run_patches, silence)
    own_tokens = row.pop("tokens")
    tokens = run_tokens(rows)
    return {
        "id": run_id,
        **{name: run.get(name) for name in _OF_RUN},
        **row,
        **{name: run.get(name) or [] for name in _TEXT_LISTS},
        "usage": normal_usage(run.get("usage")),
        "duration_ms": duration_ms(row["started_at"], row["ended_at"]),
        "step_count": len(rows),
        "error_count": sum(step.failed for step in rows),
        "tokens_used": own_tokens if tokens is None else tokens,
        "cost_usd": run_cost(rows),
        "steps": [
            {
                **_step_view(step_id, index, folds[step_id], parents[step_id], given[step_id]),
                "status": _current(status_of(folds[step_id]), step_patches[step_id], silence),
            }
            for index, step_id in enumerate(order)
        ],
    }


def _current(status: str, patches: Sequence[Patch], silence: Mapping[str, bool]) -> str:
    is_left = status == "running" and bool(patches) and all(silence.get(patch.session_id) for patch in patches)
    return INTERRUPTED if is_left else status


def resolved(roots: Collection[str | None], parents: Mapping[str, str | None]) -> dict[str, str | None]:
    """Replace parents that another sender named by their span ids with the ids of steps.

    `roots` are the span ids of the run itself.
    """
    strange = {parent for parent in parents.values() if parent is not None and parent not in parents}
    if not strange:
        return dict(parents)
    by_span: dict[str, str | None] = {span_id_of(step_id): step_id for step_id in parents}
    by_span.update((root, None) for root in roots if root is not None)
    return {
        step_id: by_span.get(parent, parent) if parent in strange and parent is not None else parent
        for step_id, parent in parents.items()
    }


def attach(parents: Mapping[str, str | None]) -> dict[str, str | None]:
    """Make the parents a tree: an unknown parent, and one that leads back to its own step, becomes None."""
    attached = {step: parent if parent in parents else None for step, parent in parents.items()}
    settled: set[str] = set()
    for step in parents:
        path: dict[str, None] = {}
        here: str | None = step
        while here is not None and here not in settled and here not in path:
            path[here] = None
            here = attached[here]
        if here is not None and here in path:
            attached[here] = None
        settled.update(path)
    return attached


def duration_ms(started_at: str | None, ended_at: str | None) -> float | None:
    """Return the milliseconds between two times in the form of `Patch.time`, at least 0; None while one is missing."""
    if started_at is None or ended_at is None:
        return None
    span = datetime.fromisoformat(ended_at[:-1]) - datetime.fromisoformat(started_at[:-1])
    return max(0.0, round(span.total_seconds() * 1000, 3))


def _step_view(
    step_id: str, index: int, fields: Mapping[str, Any], parent: str | None, given: str | None
) -> dict[str, Any]:
    latency = fields.get("latency_ms")
    if latency is None:
        latency = duration_ms(fields.get("started_at"), fields.get("ended_at"))
    view = {
        "id": step_id,
        "parent_id": parent,
        "step_index": index,
        **{name: fields.get(name) for name in STEP_FIELDS},
        "step_type": fields.get("step_type") or "other",
        "name": fields.get("name") or "step",
        "status": status_of(fields),
        "tokens_used": tokens_of(fields),
        "usage": normal_usage(fields.get("usage")),
        "latency_ms": latency,
        "truncated": fields.get("truncated", []),
    }
    if parent != given:
        view["unattached_parent_id"] = given
    return view


def _start(fields: Mapping[str, Any]) -> str:
    started: str = fields.get("started_at") or fields["first_at"]
    return started
