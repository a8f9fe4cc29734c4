"""The read queries. Each runs inside one short read transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from agentscope.events import RUN_FIELDS, STEP_FIELDS, TEXTS, Field
from agentscope.server.storage.base import EventPage, RunCursor, RunPage, RunQuery, StoredEvent
from agentscope.server.storage.fold import duration_ms
from agentscope.server.storage.rows import COST_DIGITS, RUN_COLUMNS

_MOST_EVENTS = 2048  # of one page
_COLUMNS = ("id", *RUN_COLUMNS, "failed", "started_at", "ended_at")
_TEXT_LISTS = tuple(name for name in RUN_COLUMNS if RUN_FIELDS[name].type == TEXTS)


def _condition(field: Field, of_step: bool) -> str:
    """The SQL condition of a filter. It is void while its parameter is null."""
    if of_step:
        test = f"EXISTS (SELECT 1 FROM steps WHERE run = runs.key AND {field.name} = :{field.filter})"  # noqa: S608 - constants
    elif field.type == TEXTS:
        both = f"SELECT value FROM json_each({field.name}) UNION ALL SELECT value FROM json_each(more_{field.name})"  # noqa: S608
        test = f":{field.filter} IN ({both})"
    else:
        test = f"{field.name} = :{field.filter}"
    return f"(:{field.filter} IS NULL OR {test})"


_FILTERS = {
    field.filter: _condition(field, of_step)
    for of_step, fields in ((False, RUN_FIELDS), (True, STEP_FIELDS))
    for field in fields.values()
    if field.filter and (not of_step or field.name not in RUN_FIELDS)
}
# Of runs that began together the one received last comes first.
_LIST = f"""
SELECT key, began, tokens, {", ".join(_COLUMNS)}
FROM runs
WHERE (:began IS NULL OR (began, key) < (:began, coalesce((SELECT key FROM runs WHERE id=:run_id), 0)))
  AND {" AND ".join(_FILTERS.values())}
  AND (:q IS NULL OR agent_name LIKE :q ESCAPE '\\' OR id LIKE :q ESCAPE '\\' OR external_id LIKE :q ESCAPE '\\'
       OR user_id LIKE :q ESCAPE '\\' OR conversation_id LIKE :q ESCAPE '\\')
ORDER BY began DESC, key DESC LIMIT :limit
"""  # noqa: S608 - a constant of this module
_TOTALS = """
SELECT run, count(*), sum(failed), sum(tokens), sum(CASE WHEN llm THEN tokens END), sum(cost), sum(CASE WHEN llm THEN cost END)
FROM steps WHERE run IN (SELECT value FROM json_each(?)) GROUP BY run
"""
# The inner query reads an index only, so that the bodies of the events that follow the page stay unread.
_EVENTS = """
SELECT key, session_id, body FROM events
WHERE key IN (SELECT key FROM events WHERE run=? AND key>? ORDER BY key LIMIT ?) ORDER BY key
"""


def list_runs(db: sqlite3.Connection, query: RunQuery) -> RunPage:
    began, run_id = query.after or (None, None)
    values = {name: getattr(query, name) for name in _FILTERS}
    values.update(began=began, run_id=run_id, q=_pattern(query.q), limit=query.limit + 1)
    rows = db.execute(_LIST, values).fetchall()
    more = len(rows) > query.limit
    rows = rows[: query.limit]
    totals = {run: found for run, *found in db.execute(_TOTALS, (json.dumps([row[0] for row in rows]),))}
    runs = [_listed(row[2:], totals.get(row[0], (0, 0, *[None] * 4))) for row in rows]
    return RunPage(runs, RunCursor(rows[-1][1], rows[-1][3]) if more else None)


def run_key(db: sqlite3.Connection, run_id: str) -> int | None:
    """Return the key of a run in the other tables, or None."""
    row = db.execute("SELECT key FROM runs WHERE id=?", (run_id,)).fetchone()
    return None if row is None else row[0]


def run_size(db: sqlite3.Connection, run_id: str) -> int | None:
    key = run_key(db, run_id)
    if key is None:
        return None
    size: int = db.execute("SELECT coalesce(sum(length(body)), 0) FROM events WHERE run=?", (key,)).fetchone()[0]
    return size


def events(db: sqlite3.Connection, run_id: str, after: str | None, size: int) -> EventPage:
    found: list[StoredEvent] = []
    last = int(after or 0)
    for key, session_id, body in db.execute(_EVENTS, (run_key(db, run_id), last, _MOST_EVENTS)):
        size -= len(body)
        if found and size < 0:
            return EventPage(found, str(last))
        found.append(StoredEvent(session_id, body))
        last = key
    return EventPage(found, str(last) if len(found) == _MOST_EVENTS else None)


def item_events(db: sqlite3.Connection, run_id: str, step_id: str | None) -> list[StoredEvent]:
    sql = "SELECT session_id, body FROM events WHERE run=? AND step_id IS ? ORDER BY key"
    return [StoredEvent(*row) for row in db.execute(sql, (run_key(db, run_id), step_id))]


def event(db: sqlite3.Connection, event_id: str) -> dict[str, Any] | None:
    row = db.execute("SELECT body FROM events WHERE id=?", (event_id,)).fetchone()
    return None if row is None else json.loads(row[0])


def health(db: sqlite3.Connection) -> dict[str, Any]:
    events, runs = db.execute("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM runs)").fetchone()
    batches, duplicates, conflicts = db.execute(
        "SELECT count(*), coalesce(sum(duplicates), 0), coalesce(sum(conflicts), 0) FROM batches"
    ).fetchone()
    dropped = dict(db.execute("SELECT reason, sum(count) FROM dropped GROUP BY reason"))
    counts = {"events": events, "runs": runs, "batches": batches, "duplicates": duplicates, "conflicts": conflicts}
    return {**counts, "dropped": dropped}


def _listed(row: Sequence[Any], totals: Sequence[Any]) -> dict[str, Any]:
    """A run as the read API lists it, from its row (the run's own tokens first) and the totals of its steps."""
    own_tokens, *columns = row
    steps, errors, tokens, llm_tokens, cost, llm_cost = totals
    cost = cost if llm_cost is None else llm_cost
    run = dict(zip(_COLUMNS, columns, strict=True))
    return {
        **run,
        **{name: json.loads(run[name] or "[]") for name in _TEXT_LISTS},
        "failed": bool(run["failed"]),
        "duration_ms": duration_ms(run["started_at"], run["ended_at"]),
        "step_count": steps,
        "error_count": errors,
        "tokens_used": next((sum_ for sum_ in (llm_tokens, tokens, own_tokens) if sum_ is not None), None),
        "cost_usd": None if cost is None else round(cost, COST_DIGITS),
    }


def _pattern(text: str | None) -> str | None:
    """The LIKE pattern for a part of a text."""
    if text is None:
        return None
    for special in ("\\", "%", "_"):
        text = text.replace(special, "\\" + special)
    return f"%{text}%"
