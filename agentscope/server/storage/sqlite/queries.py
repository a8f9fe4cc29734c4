"""What the read API asks of the tables. Everything here runs inside one short read transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from agentscope.protocols.agentscope.decode import Patch
from agentscope.server.storage.fold import duration_ms, run_view

from .append import patches_of


class Mark(NamedTuple):
    """The last run of a page: the next page begins after it, whatever was inserted meanwhile."""

    began: str
    key: int


class RunQuery(NamedTuple):
    """Which runs to list: equal to `status` and `agent` where given, with `q` somewhere in a name or an id."""

    limit: int = 50
    after: Mark | None = None
    status: str | None = None
    agent: str | None = None
    q: str | None = None


# Each condition is void while its parameter is null.
_LIST = """
SELECT key, began, id, agent_name, status, external_id, user_id, conversation_id, source, failed, started_at, ended_at,
  tokens
FROM runs
WHERE (:began IS NULL OR (began, key) < (:began, :key))
  AND (:status IS NULL OR status = :status)
  AND (:agent IS NULL OR agent_name = :agent)
  AND (:q IS NULL OR agent_name LIKE :q ESCAPE '\\' OR id LIKE :q ESCAPE '\\' OR external_id LIKE :q ESCAPE '\\'
       OR user_id LIKE :q ESCAPE '\\' OR conversation_id LIKE :q ESCAPE '\\')
ORDER BY began DESC, key DESC LIMIT :limit
"""
_TOTALS = """
SELECT run, count(*), sum(failed), sum(tokens), count(tokens), sum(CASE WHEN llm THEN tokens END),
  count(CASE WHEN llm THEN tokens END)
FROM steps WHERE run IN (SELECT value FROM json_each(?)) GROUP BY run
"""


def list_runs(db: sqlite3.Connection, query: RunQuery) -> tuple[list[dict[str, Any]], Mark | None]:
    """Runs as the read API lists them, newest first, and the mark of the last one if there are more."""
    began, key = query.after or (None, None)
    values = {"began": began, "key": key, "status": query.status, "agent": query.agent, "q": _pattern(query.q)}
    rows = db.execute(_LIST, {**values, "limit": query.limit + 1}).fetchall()
    more = len(rows) > query.limit
    rows = rows[: query.limit]
    totals = {run: found for run, *found in db.execute(_TOTALS, (json.dumps([row[0] for row in rows]),))}
    runs = [_listed(row, totals.get(row[0], (0, 0, None, 0, None, 0))) for row in rows]
    return runs, Mark(rows[-1][1], rows[-1][0]) if more else None


def run_key(db: sqlite3.Connection, run_id: str) -> int | None:
    """The key of a run in the other tables, or None."""
    row = db.execute("SELECT key FROM runs WHERE id=?", (run_id,)).fetchone()
    return None if row is None else row[0]


def run_size(db: sqlite3.Connection, run_id: str) -> int | None:
    """Characters of a run's events as JSON, or None for an unknown run."""
    key = run_key(db, run_id)
    if key is None:
        return None
    size: int = db.execute("SELECT coalesce(sum(length(body)), 0) FROM events WHERE run=?", (key,)).fetchone()[0]
    return size


def run_patches(db: sqlite3.Connection, run_id: str) -> list[Patch] | None:
    """A run's events without their bodies, in the order they came, or None for an unknown run."""
    key = run_key(db, run_id)
    if key is None:
        return None
    # One row at a time, so that the text of a large run is never in memory as a whole.
    rows = db.execute("SELECT session_id, body FROM events WHERE run=? ORDER BY key", (key,))
    return [patch._replace(body="") for patch in patches_of(rows)]


def event_keys(db: sqlite3.Connection, run_id: str) -> list[int] | None:
    """The keys of a run's events in the order they came, or None for an unknown run."""
    key = run_key(db, run_id)
    if key is None:
        return None
    return [found for (found,) in db.execute("SELECT key FROM events WHERE run=? ORDER BY key", (key,))]


def events(db: sqlite3.Connection, keys: Sequence[int]) -> list[tuple[str, str]]:
    """(session_id, body) of the events with these keys, in the order of the keys."""
    sql = "SELECT session_id, body FROM events WHERE key IN (SELECT value FROM json_each(?)) ORDER BY key"
    return db.execute(sql, (json.dumps(keys),)).fetchall()


def event(db: sqlite3.Connection, event_id: str) -> dict[str, Any] | None:
    """One event as it came, or None."""
    row = db.execute("SELECT body FROM events WHERE id=?", (event_id,)).fetchone()
    return None if row is None else json.loads(row[0])


def patches(db: sqlite3.Connection, run_id: str, step_id: str | None) -> list[Patch]:
    """What is stored of one step, or of a run itself, in the order it came."""
    sql = "SELECT session_id, body FROM events WHERE run=? AND step_id IS ? ORDER BY key"
    return list(patches_of(db.execute(sql, (run_key(db, run_id), step_id))))


def view(run_id: str, patches: Sequence[Patch]) -> dict[str, Any]:
    """A run as the read API shows it, from all of its events."""
    return run_view(run_id, patches)


def health(db: sqlite3.Connection) -> dict[str, Any]:
    """Counts of what is stored."""
    events, runs = db.execute("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM runs)").fetchone()
    batches, duplicates, conflicts = db.execute(
        "SELECT count(*), coalesce(sum(duplicates), 0), coalesce(sum(conflicts), 0) FROM batches"
    ).fetchone()
    dropped = dict(db.execute("SELECT reason, sum(count) FROM dropped GROUP BY reason"))
    counts = {"events": events, "runs": runs, "batches": batches, "duplicates": duplicates, "conflicts": conflicts}
    return {**counts, "dropped": dropped}


def _listed(row: tuple[Any, ...], totals: Sequence[Any]) -> dict[str, Any]:
    _, _, run_id, agent, status, external_id, user_id, conversation_id, source, failed, started, ended, own = row
    steps, errors, tokens, with_tokens, llm_tokens, llm_with_tokens = totals
    return {
        "id": run_id,
        "agent_name": agent,
        "status": status,
        "external_id": external_id,
        "user_id": user_id,
        "conversation_id": conversation_id,
        "source": source,
        "failed": bool(failed),
        "started_at": started,
        "ended_at": ended,
        "duration_ms": duration_ms(started, ended),
        "step_count": steps,
        "error_count": errors,
        "tokens_used": llm_tokens if llm_with_tokens else tokens if with_tokens else own,
    }


def _pattern(text: str | None) -> str | None:
    if text is None:
        return None
    for special in ("\\", "%", "_"):
        text = text.replace(special, "\\" + special)
    return f"%{text}%"
