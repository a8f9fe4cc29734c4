"""The tables `runs` and `steps`: the rows of steps, and the rows of runs, which are told from them.

The row of a run is made anew with each of its events, in the same transaction, from the rows of all its steps. That of a run with
many steps is made anew when it has grown by a quarter, and in the meantime by `Refresher`, so that the time stays linear.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Any

from agentscope.protocols.token_usage import Tokens
from agentscope.server.storage.rows import MOST_TEXTS, RUN_COLUMNS, StepRow
from agentscope.server.storage.summary import summary_of
from agentscope.server.storage.totals import LLM_STEP, Account

LARGE = 5_000
"""Steps. The row of a run with more is not made anew with each of its events."""
MOST_READ = 50_000
"""Steps. Tokens and cost of a run with more are the sums over its model calls, or over all steps where those have none."""
_GROWTH = 4  # the row of a large run is made anew when it has grown by this part of its steps
_FIRST = 200  # steps that tell the name and the status of a run with too many to be read
_MOST_CACHED = 20_000  # rows of steps
_PAUSE = 2.0  # seconds between two rows of large runs that are made anew, at the least
_SHARE = 20  # of the time of the writer thread, for such rows

_OF_ROW = (
    *RUN_COLUMNS,
    *("failed", "started_at", "ended_at", "more_tags", "settles", "rootless", "agents", "root", "copy"),
    *("step_count", "failed_steps", "tokens", "usage", "cost", "summed", "unsummed"),
)
_UPDATE_RUN = f"UPDATE runs SET {'=?, '.join(_OF_ROW)}=?, began=min(coalesce(?, first_at), last_at) WHERE key=?"  # noqa: S608 - constants
_INSERT_RUN = """
INSERT INTO runs (key, project, id, agent_name, status, failed, first_at, last_at, began, touched_at)
VALUES (?,?,?,'unknown','running',0,?,?,?,?)
"""
_TOUCH_RUN = """
UPDATE runs SET first_at=min(first_at, :first_at), last_at=max(last_at, :last_at),
  began=min(coalesce(started_at, min(first_at, :first_at)), max(last_at, :last_at)), touched_at=:now
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


def insert_run(
    db: sqlite3.Connection, key: int, project: str, run_id: str, first_at: str, last_at: str, now: float
) -> None:
    """Insert the row of a run, to be made by `write_run`."""
    db.execute(_INSERT_RUN, (key, project, run_id, first_at, last_at, first_at, now))


def touch_run(db: sqlite3.Connection, key: int, first_at: str, last_at: str, now: float) -> None:
    """Record that events of a run were received, from that of `first_at` to that of `last_at`."""
    db.execute(_TOUCH_RUN, {"first_at": first_at, "last_at": last_at, "now": now, "key": key})


def put_steps(db: sqlite3.Connection, run: int, rows: Mapping[str, StepRow]) -> None:
    """Insert or replace the rows of steps of a run."""
    db.executemany(_PUT_STEP, [(run, step, *_columns(row)) for step, row in rows.items()])


def is_due(db: sqlite3.Connection, key: int, count: int) -> bool:
    """Return whether the row of a run has to be made anew after `count` more rows of its steps were written."""
    summed, unsummed = db.execute(
        "SELECT coalesce(summed, 0), coalesce(unsummed, 0) FROM runs WHERE key=?", (key,)
    ).fetchone()
    unsummed += count
    if summed + unsummed <= LARGE or unsummed * _GROWTH >= summed:
        return True
    db.execute("UPDATE runs SET unsummed=? WHERE key=?", (unsummed, key))
    return False


def write_run(db: sqlite3.Connection, key: int, run: Mapping[str, Any], rows: StepRows) -> None:
    """Make the row of a run from the fold of its own events and the rows of its steps."""
    run_id, summed, unsummed = db.execute(_SUMMED, (key,)).fetchone()
    is_huge = summed + unsummed > MOST_READ
    steps = _first_rows(db, key) if is_huge else rows.of(db, key)
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


def _first_rows(db: sqlite3.Connection, run: int) -> dict[str, StepRow]:
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


class Refresher:
    """Makes the rows of large runs anew that have grown, one at a time. `fold` returns the fold of a run's own events."""

    def __init__(
        self,
        fold: Callable[[sqlite3.Connection, int], Mapping[str, Any]],
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fold = fold
        self._steady = steady
        self._next = steady()

    def __call__(self, db: sqlite3.Connection) -> bool:
        """Make one row anew if it is time to. Returns True if more is waiting, and due now."""
        began = self._steady()
        if began < self._next:
            return False
        found = db.execute("SELECT key FROM runs WHERE unsummed > 0 ORDER BY touched_at LIMIT 1").fetchone()
        if found is not None:
            db.execute("BEGIN IMMEDIATE")
            try:
                write_run(db, found[0], self._fold(db, found[0]), StepRows())
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        self._next = self._steady() + max(_PAUSE, _SHARE * (self._steady() - began))
        return False


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
