"""The tables `runs` and `steps`: the rows of steps, and the rows of runs, which are told from them.

The rows of steps are written with their events. The row of a run is made anew from the rows of all its steps before it is read,
or when there is time, so that a run of many batches is not told anew with each of them. `runs.unsummed` counts the rows that were
written since.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple

from agentscope.protocols.token_usage import Tokens
from agentscope.server.storage.rows import MOST_TEXTS, RUN_COLUMNS, StepRow
from agentscope.server.storage.summary import summary_of
from agentscope.server.storage.totals import LLM_STEP, Account

LARGE = 2_000
"""The steps of a run up to which its row is rebuilt before each read. Beyond it, after a growth by a quarter, or if there is
time."""
MOST_READ = 20_000
"""The steps of a run up to which its totals follow `totals.py`. Beyond it they are sums over its model calls, or over all steps
if those have none."""
_FIRST = 200  # steps that tell the name and the status of a run with too many to be read
_MOST_CACHED = 10_000  # rows of steps

_OF_ROW = (
    *RUN_COLUMNS,
    *("failed", "started_at", "ended_at", "more_tags", "settles", "rootless", "agents", "root", "copy"),
    *("step_count", "failed_steps", "tokens", "usage", "cost", "summed", "unsummed"),
)
_UPDATE_RUN = f"UPDATE runs SET {'=?, '.join(_OF_ROW)}=?, began=min(coalesce(?, first_at), last_at) WHERE key=?"  # noqa: S608 - constants
_INSERT_RUN = """
INSERT INTO runs (key, project, id, agent_name, status, failed, first_at, last_at, began, touched_at, unsummed)
VALUES (?,?,?,'unknown','running',0,?,?,?,?,?)
"""
_TOUCH_RUN = """
UPDATE runs SET first_at=min(first_at, :first_at), last_at=max(last_at, :last_at),
  began=min(coalesce(started_at, min(first_at, :first_at)), max(last_at, :last_at)), touched_at=:now,
  unsummed=coalesce(unsummed, 0) + :rows
WHERE key=:key
"""
_OF_STEP = (
    *("name", "type", "status", "failed", "parent", "source", "began", "started_at", "ended_at"),
    *("tokens", "usage", "cost", "model", "root"),
)
_PUT_STEP = f"INSERT OR REPLACE INTO steps (run, id, {', '.join(_OF_STEP)}) VALUES (?,?{',?' * len(_OF_STEP)})"  # noqa: S608 - constants
_ROWS_OF = f"SELECT id, {', '.join(_OF_STEP)} FROM steps WHERE run=?"  # noqa: S608 - constants
_SUMMED = "SELECT id, coalesce(summed, 0), coalesce(unsummed, 0) FROM runs WHERE key=?"
_SUMS = f"""
SELECT count(*), sum(failed), sum(tokens), sum(CASE WHEN type='{LLM_STEP}' THEN tokens END),
  sum(cost), sum(CASE WHEN type='{LLM_STEP}' THEN cost END), sum(status='running'), max(ended_at) FROM steps WHERE run=?
"""  # noqa: S608 - a constant


class StepRows:
    """The rows of steps of the runs that were written last. For the writer thread only."""

    def __init__(self, most: int = _MOST_CACHED) -> None:
        self._most = most
        self._count = 0
        self._rows: dict[int, dict[str, StepRow]] = {}

    def clear(self) -> None:
        """Forget all rows."""
        self._rows.clear()
        self._count = 0

    def add(self, run: int, rows: Mapping[str, StepRow], is_new: bool) -> None:
        """Add rows of a run that were written. is_new: the run had no rows before."""
        known = self._rows.pop(run, {} if is_new else None)
        if known is None:
            return
        self._count -= len(known)
        known.update(rows)
        if len(known) > LARGE:
            return
        self._rows[run] = known
        self._count += len(known)
        while self._count > self._most:
            self._count -= len(self._rows.pop(next(iter(self._rows))))

    def of(self, db: sqlite3.Connection, run: int) -> Mapping[str, StepRow]:
        """Return the rows of all steps of a run."""
        found = self._rows.get(run)
        if found is None:
            found = {step: _row(*columns) for step, *columns in db.execute(_ROWS_OF, (run,))}
            self.add(run, found, is_new=True)
        return found


class Received(NamedTuple):
    """The events of a run that a batch has."""

    first_at: str
    last_at: str
    rows: int
    """The number of rows of steps that were written, at least 1."""
    now: float


def insert_run(db: sqlite3.Connection, key: int, project: str, run_id: str, received: Received) -> None:
    """Insert the row of a run, to be made by `write_run`."""
    first_at, last_at, rows, now = received
    db.execute(_INSERT_RUN, (key, project, run_id, first_at, last_at, first_at, now, rows))


def touch_run(db: sqlite3.Connection, key: int, received: Received) -> None:
    """Record that events of a run were received. Its row is to be made anew by `write_run`."""
    db.execute(_TOUCH_RUN, {"key": key, **received._asdict()})


def put_steps(db: sqlite3.Connection, rows: Mapping[int, Mapping[str, StepRow]]) -> None:
    """Insert or replace the rows of steps, by the keys of their runs."""
    db.executemany(
        _PUT_STEP, [(run, step, *_columns(row)) for run, steps in rows.items() for step, row in steps.items()]
    )


def write_run(db: sqlite3.Connection, key: int, run: Mapping[str, Any], rows: StepRows) -> None:
    """Make the row of a run from the fold of its own events and the rows of its steps."""
    run_id, summed, unsummed = db.execute(_SUMMED, (key,)).fetchone()
    is_huge = summed + unsummed > MOST_READ
    steps = first_rows(db, key) if is_huge else rows.of(db, key)
    summary = summary_of(run_id, run, steps)
    row = {**summary.row, "settles": summary.settles, "summed": len(steps)}
    row |= {"root": summary.root, "copy": summary.copy}
    if is_huge:
        row |= _sums(db, key, row)
    tags, usage = row["tags"], row["total_usage"]
    row |= {
        "tags": tags[:MOST_TEXTS],
        "more_tags": tags[MOST_TEXTS:],
        "unsummed": 0,
        "rootless": row["is_root_missing"],
    }
    row |= {"tokens": row["tokens_used"], "cost": row["cost_usd"], "usage": usage and json.dumps(usage)}
    db.execute(_UPDATE_RUN, (*(_column(row[name]) for name in _OF_ROW), row["started_at"], key))


def first_rows(db: sqlite3.Connection, run: int) -> dict[str, StepRow]:
    """Return the rows of the first steps, and of the first agents and roots, which tell a run that has too many to be read."""
    found: dict[str, StepRow] = {}
    for condition in ("", "AND (root OR type='agent')"):
        first = f"{_ROWS_OF} {condition} ORDER BY began LIMIT {_FIRST}"
        found |= {step: _row(*columns) for step, *columns in db.execute(first, (run,))}
    return found


def _sums(db: sqlite3.Connection, run: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of a run whose steps are too many to be read."""
    count, failed, tokens, call_tokens, cost, call_cost, running, ended = db.execute(_SUMS, (run,)).fetchone()
    sums = {"step_count": count, "failed_steps": failed, "summed": count, "total_usage": None}
    sums["tokens_used"] = tokens if call_tokens is None else call_tokens
    sums["cost_usd"] = cost if call_cost is None else call_cost
    if row["is_root_missing"]:
        status = "running" if running else row["status"]
        sums |= {"ended_at": ended, "settles": None if running else ended, "status": status}
    return sums


def _columns(row: StepRow) -> tuple[Any, ...]:
    tokens = row.account.tokens
    usage = json.dumps(tokens) if tokens != Tokens(total=tokens.total) else None
    return (*row[:9], tokens.total, usage, row.account.cost, row.model, row.is_root)


def _row(*columns: Any) -> StepRow:
    name, type_, status, failed, parent, source, began, started, ended, total, usage, cost, model, is_root = columns
    tokens = Tokens(total=total) if usage is None else Tokens(*json.loads(usage))
    account = Account(tokens, cost)
    # The rows of an earlier version lack columns until they are made anew.
    head = (name or "step", type_ or "other", status or "", bool(failed), parent, source, began or "")
    return StepRow(*head, started, ended, account, model, bool(is_root))


def _column(value: Any) -> Any:
    """Return a value for a column. A list is stored as JSON, an empty one as NULL."""
    return (json.dumps(value) if value else None) if isinstance(value, list) else value
