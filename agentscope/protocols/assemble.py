"""The merge of starts, updates and ends into one event, for protocols that send runs and steps as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from agentscope.events import (
    FIELDS,
    LAST,
    MERGED,
    RUN,
    RUN_END,
    STEP,
    STEP_END,
    UNITED,
    Event,
    ReadyEvent,
    in_full,
    united,
)

from .base import Batch, Part

_ENDS = frozenset({RUN, RUN_END, STEP, STEP_END})


class Whole(NamedTuple):
    """A whole run or step as one event, and the `seq` of all events that were merged into it."""

    event: Event
    seqs: tuple[int, ...]


def joined(batch: Batch, runs: bool = True) -> tuple[list[Whole], list[int]]:
    """Return the complete runs and steps of a batch, in order of their last event, and the `seq` of each incomplete event.

    A part in `batch.closing` is sent even if it is incomplete. runs: False to keep the events of runs single.
    """
    parts: dict[Part, list[ReadyEvent]] = {}
    for event in batch.events:
        if event.step_id is not None or runs:
            parts.setdefault((event.run_id, event.step_id), []).append(event)
    singles = [] if runs else [Whole(in_full(event), (event.seq,)) for event in batch.events if event.step_id is None]
    wholes, waiting = singles, []
    for part, events in parts.items():
        if part in batch.closing or any(event.type in _ENDS for event in events):
            every = sorted(map(in_full, (*batch.parked.get(part, ()), *events)), key=_seq)
            wholes.append(Whole(merged(every), tuple(event.seq for event in every)))
        else:
            waiting += [event.seq for event in events]
    return sorted(wholes, key=lambda whole: whole.event.seq), waiting


def merged(parts: Sequence[Event]) -> Event:
    """Merge the ordered events of one run or step into one of type `run` or `step`, with the `seq` of the last.

    The table of fields defines how the values of each field are merged, as in the receiver.
    """
    last = parts[-1]
    type_ = RUN if last.step_id is None else STEP
    if len(parts) == 1:
        return last if last.type == type_ else last._replace(type=type_)
    fields = merge_fields((event.fields for event in parts), _merged_objects)
    parent = next((event.parent_id for event in reversed(parts) if event.parent_id is not None), None)
    return last._replace(type=type_, parent_id=parent, fields=fields, size=sum(event.size for event in parts))


def merge_fields(parts: Iterable[Mapping[str, Any]], merge_objects: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """Merge the fields of several events, in order. `merge_objects` merges two objects, such as `meta_data`."""
    fields: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            join = FIELDS[name].join if name in FIELDS else LAST
            if join == MERGED and name in fields:
                value = merge_objects(fields[name], value)
            elif join == UNITED and isinstance(value, list):
                value = united(fields.get(name), value)
            fields[name] = value
    return fields


def merge_objects(earlier: Any, later: Any) -> Any:
    """Merge two decoded values: objects key by key, later ones over earlier ones. Any other later value replaces the earlier."""
    return {**earlier, **later} if isinstance(earlier, dict) and isinstance(later, dict) else later


def _merged_objects(earlier: Any, later: Any) -> Any:
    try:
        one, other = json.loads(earlier), json.loads(later)
    except (ValueError, TypeError, RecursionError):
        return later
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return later
    return json.dumps({**one, **other}, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _seq(event: Event) -> int:
    return event.seq
