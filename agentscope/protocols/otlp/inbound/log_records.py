"""The messages that an emitter tells in log records, as Google ADK and the OpenAI instrumentation do, joined to their span.

The records of a span may come in several requests, before or after the span. Each update of its step has all records that have
come so far, in `RECORDS`, so that the last update has all messages in their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Any

from agentscope.events import RUN_END, RUN_START, RUN_UPDATE, STEP, STEP_FIELDS, STEP_START, STEP_UPDATE
from agentscope.protocols.agentscope.decode import Patch
from agentscope.protocols.ids import run_id_of
from agentscope.protocols.otlp.wire.limits import check_ids
from agentscope.protocols.otlp.wire.model import LogRecord

from .attributes import payload_of, plain
from .messages import DETAILS, MESSAGE_EVENTS, messages_of
from .patches import SESSION, update_of

RECORDS = "log_records"
"""The member of an event with the records that it was made of: lists of time, index, name and content, by digest."""
_EPOCH = datetime(1970, 1, 1)
_MORE_DETAILS = ("gen_ai.system_instructions", "gen_ai.tool.definitions")

Records = dict[str, list[Any]]


def place_of(record: LogRecord) -> tuple[str, str] | None:
    """Return the run and the span id of a record with messages of a span, None for any other record."""
    if _name(record) not in MESSAGE_EVENTS or not record.time_ns:
        return None
    try:
        trace_id, span_id, _ = check_ids(record.trace_id, record.span_id, "")
    except ValueError:
        return None
    return run_id_of(trace_id), span_id


def records_of(found: Iterable[LogRecord]) -> Records:
    """Return log records as JSON values. Those of one moment keep their order."""
    records: Records = {}
    for index, record in enumerate(found):
        name, body = _name(record), record.body
        given: Mapping[str, Any] = record.attributes
        if isinstance(body, Mapping):
            given = {**given, **body} if name == DETAILS else body
        elif body is not None:
            given = {**given, "content": body}
        content = {key: plain(value) for key, value in given.items() if value is not None}
        text = json.dumps([record.time_ns, name, content], sort_keys=True)
        digest = blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()
        records[digest] = [record.time_ns, index, name, content]
    return records


def stored_records(events: Iterable[Patch]) -> Records:
    """Return the records in the stored events of a step or run. Events of other protocols may have any value under their name."""
    return {
        digest: record
        for event in events
        if event.session_id == SESSION and isinstance(event.fields.get(RECORDS), dict)
        for digest, record in event.fields[RECORDS].items()
        if _is_record(record)
    }


def _is_record(record: Any) -> bool:
    return isinstance(record, list) and [*map(type, record)] == [int, int, str, dict]


def update_by(records: Records, run_id: str, span_id: str) -> Patch:
    """Make the update of a step with the messages of its log records. Raises `ValueError` for records that cannot be stored."""
    ordered = sorted(records.values(), key=lambda record: (record[0], record[1]))
    content = messages_of((name, given) for _, _, name, given in ordered)
    fields: dict[str, Any] = {name: value for name, value in content._asdict().items() if value is not None}
    details = [given for _, _, name, given in ordered if name == DETAILS]
    meta = {key: payload_of(given[key]) for given in details for key in _MORE_DETAILS if key in given}
    if meta:
        fields["meta_data"] = meta
    # A record with all details is complete by itself, and may be large.
    fields[RECORDS] = records if len(details) < len(ordered) else {}
    return update_of(STEP_UPDATE, run_id, span_id, ordered[-1][0], fields, len(records))


def root_update(update: Patch, root: Mapping[str, Any]) -> Patch:
    """Make the update of a root from the update of its step. `root` are the fields of an event of the root."""
    fields = {name: update.fields[name] for name in ("input", "output", "meta_data", RECORDS) if name in update.fields}
    fields |= {name: root[name] for name in ("span_id", "step_type") if name in root}
    return update_of(RUN_UPDATE, update.run_id, None, _nanoseconds(update.time), fields, update.seq)


def root_span(patch: Patch) -> str | None:
    """Return the span id of a root from its event; None for any other event."""
    span_id = patch.fields.get("span_id")
    return span_id if patch.type in (RUN_START, RUN_END) and isinstance(span_id, str) and span_id else None


def step_of(root: Patch, span_id: str) -> Patch:
    """Make the step of a root that is the run itself. Log records that came before the root made a step with its id."""
    fields = {name: value for name, value in root.fields.items() if name in STEP_FIELDS}
    fields = {"name": root.fields.get("agent_name"), "step_type": "agent", **fields}
    type_ = STEP if root.type == RUN_END else STEP_START
    return update_of(type_, root.run_id, span_id, _nanoseconds(root.time), fields)


def _nanoseconds(time: str) -> int:
    since = datetime.fromisoformat(time[:-1]) - _EPOCH
    return max(1, (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000)  # 0 is no time


def _name(record: LogRecord) -> str:
    name = record.event_name or record.attributes.get("event.name")
    return name if isinstance(name, str) else ""
