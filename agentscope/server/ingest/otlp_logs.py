"""The join of log records with their spans, whichever comes first."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from weakref import WeakValueDictionary

from agentscope.events import STEP_UPDATE
from agentscope.protocols.agentscope.decode import Batch, Patch
from agentscope.protocols.otlp.inbound.log_records import (
    RECORDS,
    place_of,
    records_of,
    root_span,
    root_update,
    step_of,
    stored_records,
    update_by,
)
from agentscope.protocols.otlp.inbound.patches import SESSION
from agentscope.protocols.otlp.wire.model import LogRecord
from agentscope.server.storage.base import Store, StoredEvent
from agentscope.server.storage.fold import place
from agentscope.server.storage.project import PROJECT

from .intake import Intake

_MOST_STORED = 16 << 20  # characters of the events of a span, each update of which has the records of those before it


class JoinedRecords:
    """Turns log records into updates of the steps of their spans.

    A root that is the run has no step, so its run is updated. Spans and log records may be taken at the same time: each side
    looks for the other one after its own commit, and so at least one of them finds both. What both of them store is equal,
    and kept once.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        """By project and run. Each update of a step is made of the one before."""

    async def add(self, records: Iterable[LogRecord | None]) -> int:
        """Store the records with messages of a span. Returns the number of the others."""
        left_out = 0
        runs: dict[str, dict[str, list[LogRecord]]] = {}
        for record in records:
            place = None if record is None else place_of(record)
            if record is None or place is None:
                left_out += 1
            else:
                runs.setdefault(place[0], {}).setdefault(place[1], []).append(record)
        async with AsyncExitStack() as held:
            for run_id in sorted(runs):  # in one order, so that no two requests wait for each other
                await held.enter_async_context(self._locks.setdefault((PROJECT.get(), run_id), asyncio.Lock()))
            patches, unknown, too_many = await self._intake.read(lambda store: _updates(store, runs))
            await self._commit(patches)
            await self._commit(await self._intake.read(lambda store: _missing(store, unknown)))
        return left_out + too_many

    async def complete_roots(self, stored: Iterable[Patch]) -> None:
        """Store what log records told before of the roots among these events, which have been stored."""
        roots: dict[str, set[str]] = {}
        for patch in stored:
            span_id = root_span(patch)
            if span_id is not None:
                roots.setdefault(patch.run_id, set()).add(span_id)
        if roots:
            await self._commit(await self._intake.read(lambda store: _missing(store, roots)))

    async def _commit(self, patches: list[Patch]) -> None:
        if patches:
            await self._intake.commit(Batch(str(uuid.uuid4()), SESSION, patches, [], {}))


def _updates(
    store: Store, runs: Mapping[str, Mapping[str, list[LogRecord]]]
) -> tuple[list[Patch], dict[str, set[str]], int]:
    """Return the updates of spans, the spans that are no known roots, and the number of records that are left out."""
    patches: list[Patch] = []
    unknown: dict[str, set[str]] = {}
    left_out = 0
    for run_id, spans in runs.items():
        of_run = _of_run(store, run_id)
        for span_id, found in spans.items():
            of_step = store.item_events(run_id, span_id, session_id=SESSION, most=_MOST_STORED)
            of_root = [event.patch() for event in of_run if span_id in event.body]
            events = [
                event for event in of_root if event.fields.get("span_id") == span_id
            ]  # another may mention the id
            events += [event.patch() for event in of_step]
            root = next((event.fields for event in events if root_span(event) == span_id), None)
            try:
                for each in (of_run, of_step):
                    if sum(len(event.body) for event in each) > _MOST_STORED:
                        raise ValueError("the records of this span came in too many parts")
                update = update_by({**records_of(found), **stored_records(events)}, run_id, span_id)
                patches += [update] if root is None else [root_update(update, root), *([update] if of_step else [])]
            except ValueError:
                left_out += len(found)
                continue
            if root is None:
                unknown.setdefault(run_id, set()).add(span_id)
    return patches, unknown, left_out


def _missing(store: Store, spans: Mapping[str, Iterable[str]]) -> list[Patch]:
    """Return the events of those of the spans that are roots, and whose records were stored while no root was known."""
    missing: list[Patch] = []
    for run_id, span_ids in spans.items():
        told = [
            span_id
            for span_id in span_ids
            if store.item_events(run_id, span_id, session_id=SESSION, holding=f'"{RECORDS}":', most=0)
        ]
        of_run = [event.patch() for event in _of_run(store, run_id)] if told else []
        for span_id in told:
            roots = [event for event in of_run if root_span(event) == span_id]
            if not roots:
                continue
            of_step = store.item_events(run_id, span_id, session_id=SESSION, most=_MOST_STORED)
            events = [event.patch() for event in of_step]
            updates = [event for event in events if event.type == STEP_UPDATE and RECORDS in event.fields]
            if not updates:
                continue
            missing.append(root_update(max(updates, key=place), roots[-1].fields))
            made = [step_of(root, span_id) for root in roots]
            # A root that is the run and a step as well has told its step itself.
            if {event.id for event in events if event.type != STEP_UPDATE} <= {step.id for step in made}:
                missing += made
    return missing


def _of_run(store: Store, run_id: str) -> list[StoredEvent]:
    """Return the events of the roots of a run."""
    return store.item_events(run_id, None, session_id=SESSION, holding='"span_id":', most=_MOST_STORED)
