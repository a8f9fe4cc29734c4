"""Event records joined to whole runs with their steps, for exporters that show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from agentscope.protocols.assemble import merge_fields

from .custom import EventRecord


def runs_of(records: Iterable[EventRecord]) -> list[dict[str, Any]]:
    """Join records to runs in the order of their first event; each has `steps`, in order of their start.

    Runs have `id`, `status`, `duration_ms` and the fields of their events; steps have `id`, `run_id`, `parent_id`, `status` and
    theirs.
    A later value of a field replaces an earlier one, but objects in `meta_data` are merged, as the receiver does it.
    """
    parts: dict[tuple[str, str | None], list[EventRecord]] = {}
    for record in sorted(records, key=lambda record: (record.time, record.session, record.seq)):
        parts.setdefault((record.run_id, record.step_id), []).append(record)
    runs: dict[str, dict[str, Any]] = {}
    for (run_id, step_id), events in parts.items():
        run = runs.setdefault(run_id, {"id": run_id, "status": "running", "duration_ms": None, "steps": []})
        fields = merge_fields((event.fields for event in events), _merged_objects)
        if step_id is None:
            run.update(fields, duration_ms=_milliseconds(fields))
        else:
            parent = next((event.parent_id for event in reversed(events) if event.parent_id is not None), None)
            first = {"id": step_id, "run_id": run_id, "parent_id": parent, "status": "running"}
            run["steps"].append({**first, "started_at": events[0].time, **fields})
    for run in runs.values():
        run["steps"].sort(key=lambda step: step["started_at"])
    return list(runs.values())


def _merged_objects(earlier: Any, later: Any) -> Any:
    return {**earlier, **later} if isinstance(earlier, dict) and isinstance(later, dict) else later


def _milliseconds(fields: Mapping[str, Any]) -> float | None:
    begin, end = fields.get("started_at"), fields.get("ended_at")
    if not (isinstance(begin, str) and isinstance(end, str)):
        return None
    try:
        return (datetime.fromisoformat(end[:-1]) - datetime.fromisoformat(begin[:-1])).total_seconds() * 1000
    except ValueError:  # a redaction hook has changed them
        return None
