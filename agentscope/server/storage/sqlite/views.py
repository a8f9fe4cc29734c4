"""A run and its steps for a reader, part by part: the memory depends on what is shown, and not on the size of the run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from agentscope.protocols.ids import span_id_of
from agentscope.server.storage.base import StepCursor, StepPage, StepQuery, StoredEvent
from agentscope.server.storage.fold import head_view, root_of, step_view
from agentscope.server.storage.registers import Registers
from agentscope.server.storage.rows import row_fields
from agentscope.server.storage.summary import root_rows, summary_of

from .append import stored_registers
from .run_rows import first_rows

_STEPS = 100  # of one read
_EVENTS = 2000  # of one read
_SIZE = 8 << 20  # characters of one read, and one event more
_MOST_SEARCHED = 50_000  # steps of a run in which a parent is looked for by its span id
_MOST_ANCESTORS = 5_000  # steps that are looked at for one page, to find circles

_RUN = "SELECT key FROM runs WHERE project=? AND id=?"
_ITEM = "SELECT key, session_id, body FROM events WHERE run=? AND step_id IS ? AND key>? ORDER BY key LIMIT ?"
_KNOWN = "SELECT id, parent FROM steps WHERE run=? AND id IN (SELECT value FROM json_each(?))"

Reading = Callable[[], AbstractContextManager[sqlite3.Connection]]


class _Head(NamedTuple):
    step_id: str
    began: str
    parent: str | None
    is_root: bool


class _Fold(NamedTuple):
    fields: dict[str, Any]
    sessions: set[str]
    root_sessions: dict[str, set[str]]
    size: int


def run_head(reading: Reading, project: str, listed: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the run of an entry of `list_runs` as `fold.run_view` does, without its steps; None if it is gone."""
    run_id = listed["id"]
    with reading() as db:
        found = db.execute(_RUN, (project, run_id)).fetchone()
        if found is None:
            return None
        rows = first_rows(db, found[0])
    run = _folded(reading, found[0], None).fields
    summary = summary_of(run_id, run, rows)
    folds = {step: _folded(reading, found[0], step).fields for step in {summary.top, summary.agent} if step is not None}
    folds = {step: fields for step, fields in folds.items() if fields}
    return head_view(run, folds, summary, listed)


def steps_page(
    reading: Reading, project: str, run_id: str, query: StepQuery, silence: Mapping[str, bool]
) -> StepPage | None:
    """Return a page of the steps of a run, or None for an unknown run."""
    with reading() as db:
        found = db.execute(_RUN, (project, run_id)).fetchone()
        if found is None:
            return None
        run = found[0]
        own = stored_registers(db, run, None).fields()
        hidden = _hidden(db, run, run_id, own)
        heads = _heads(db, run, query, hidden)
        spans = {span_id_of(run_id), own.get("span_id"), *own.get("roots", {})}
        given, parents = _parents(db, run, heads[: query.limit], spans, hidden)
    whole: _Fold | None = None
    steps: list[dict[str, Any]] = []
    left = query.size
    first = query.skip if query.after is None else query.after.position + 1
    shown = heads[: query.limit]
    for start in range(0, len(shown), _STEPS):
        with reading() as db:
            for head in shown[start : start + _STEPS]:
                if left <= 0 and not query.is_whole:
                    break
                step = head.step_id
                if head.is_root:
                    whole = whole or _folded(reading, run, None)
                    fields = whole.fields.get("roots", {}).get(step, {})
                    item = _Fold(fields, whole.root_sessions.get(step, set()), {}, len(json.dumps(fields)))
                else:
                    item = _folded(reading, run, step, db, lean=left <= 0)
                left -= item.size
                if item.fields:  # else deleted meanwhile
                    index = None if query.failed else first + len(steps)
                    steps.append(
                        step_view(step, index, item.fields, parents[step], given[step], item.sessions, silence)
                    )
    count = len(steps)
    last = heads[count - 1] if 0 < count < len(heads) else None
    return StepPage(steps, None if last is None else StepCursor(last.began, last.step_id, first + count - 1))


def _folded(
    reading: Reading, run: int, step_id: str | None, db: sqlite3.Connection | None = None, *, lean: bool = False
) -> _Fold:
    """Fold the events of a run or step. db: a read that was begun, for the first of them. lean: without the payloads."""
    registers = Registers()
    sessions: set[str] = set()
    root_sessions: dict[str, set[str]] = {}
    last = size = 0
    more = True
    while more:
        count = read = 0
        with reading() if db is None else nullcontext(db) as source:  # a read is short, since it holds the log back
            for key, session_id, body in source.execute(_ITEM, (run, step_id, last, _EVENTS)):
                patch = StoredEvent(session_id, body).patch()
                registers.add(patch._replace(fields=row_fields(patch.fields)) if lean else patch)
                sessions.add(session_id)
                root = root_of(patch) if step_id is None else None
                if root is not None:
                    root_sessions.setdefault(root, set()).add(session_id)
                last, count, read = key, count + 1, read + len(body)
                if read > _SIZE:
                    break
        db = None
        size += read
        more = count == _EVENTS or read > _SIZE
    return _Fold(registers.fields(), sessions, root_sessions, size)


def _hidden(db: sqlite3.Connection, run: int, run_id: str, own: Mapping[str, Any]) -> str | None:
    """Return the root of the trace that is the run, and no step as well."""
    rows = root_rows(own)
    root = summary_of(run_id, own, rows).hidden if rows else None
    row = db.execute("SELECT root FROM steps WHERE run=? AND id=?", (run, root)).fetchone()
    return root if row is not None and row[0] else None


def _heads(db: sqlite3.Connection, run: int, query: StepQuery, hidden: str | None) -> list[_Head]:
    """Return the steps of a page and the one after it."""
    values: dict[str, Any] = {"run": run, "hidden": hidden, "limit": query.limit + 1, "skip": query.skip}
    conditions = ["run=:run", "id IS NOT :hidden"]
    if query.failed:
        conditions.append("failed")
    if query.after is not None:
        conditions.append("(began, id) > (:began, :id)")
        values.update(began=query.after.began, id=query.after.step_id)
    where = " AND ".join(conditions)
    sql = f"SELECT id, began, parent, root FROM steps WHERE {where} ORDER BY began, id LIMIT :limit OFFSET :skip"  # noqa: S608 - constants
    return [_Head(step, began or "", parent, bool(root)) for step, began, parent, root in db.execute(sql, values)]


def _parents(
    db: sqlite3.Connection, run: int, heads: Iterable[_Head], spans: set[Any], hidden: str | None
) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Return the parent that each step names, by the id of a step where that is known, and its parent in the tree."""
    given = {head.step_id: head.parent for head in heads}
    known: dict[str, str | None] = dict(given)
    _look_up(db, run, known, {*given.values()})
    known.pop(hidden or "", None)  # the run itself
    strange = {parent for parent in given.values() if parent is not None and parent not in known}
    named: dict[str, str | None] = dict.fromkeys(strange & spans)
    if strange - named.keys():
        found = db.execute("SELECT id FROM steps WHERE run=? LIMIT ?", (run, _MOST_SEARCHED))
        by_span = [(span_id_of(step), step) for (step,) in found]
        named.update((span, step) for span, step in by_span if span in strange and span not in named)
    given = {
        step: named.get(parent, parent) if parent in strange and parent is not None else parent
        for step, parent in given.items()
    }
    _look_up(db, run, known, {*given.values()})
    parents: dict[str, str | None] = {}
    for step, parent in given.items():
        is_known = parent in known
        parents[step] = parent if is_known and not _leads_back(db, run, known, step, parent) else None
    return given, parents


def _look_up(db: sqlite3.Connection, run: int, known: dict[str, str | None], steps: Iterable[str | None]) -> None:
    wanted = [step for step in steps if step is not None and step not in known]
    if wanted:
        known.update(db.execute(_KNOWN, (run, json.dumps(wanted))))


def _leads_back(db: sqlite3.Connection, run: int, known: dict[str, str | None], step: str, parent: str | None) -> bool:
    """Return whether a step is among its own ancestors, as far as these are looked at."""
    seen: set[str] = set()
    here = parent
    while here is not None and here != step and here not in seen:
        seen.add(here)
        if here not in known and len(known) < _MOST_ANCESTORS:
            _look_up(db, run, known, [here])
        here = known.get(here)
    return here == step
