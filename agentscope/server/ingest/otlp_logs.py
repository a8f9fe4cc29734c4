"""The join of log records with their spans, whichever comes first."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable

from agentscope.events import STEP_UPDATE
from agentscope.protocols.agentscope.decode import Batch, Patch
from agentscope.protocols.otlp.inbound.log_records import (
    RECORDS,
    place_of,
    records_of,
    root_among,
    root_span,
    root_update,
    step_of,
    stored_records,
    update_by,
)
from agentscope.protocols.otlp.inbound.patches import SESSION
from agentscope.protocols.otlp.wire.model import LogRecord
from agentscope.server.storage.base import StoredEvent
from agentscope.server.storage.fold import place

from .intake import Intake

_MOST_EARLY = 100_000  # spans
_MOST_STORED = 16 << 20  # characters of all updates of a span, each of which has the records of those before it


class JoinedRecords:
    """Turns log records into updates of the steps of their spans."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._lock = asyncio.Lock()  # each update of a step is made of the one before
        self._early: dict[tuple[str, str], None] = {}
        """The runs and spans whose records came before any event of the span. One may be a root, and become no step."""

    async def add(self, records: Iterable[LogRecord | None]) -> int:
        """Store the records with messages of a span. Returns the number of the others."""
        left_out = 0
        spans: dict[tuple[str, str], list[LogRecord]] = {}
        for record in records:
            place = None if record is None else place_of(record)
            if record is None or place is None:
                left_out += 1
            else:
                spans.setdefault(place, []).append(record)
        if not spans:
            return left_out
        async with self._lock:
            of_runs = {
                run_id: await self._intake.item_events(run_id, None) for run_id in {run_id for run_id, _ in spans}
            }
            patches: list[Patch] = []
            for (run_id, span_id), found in spans.items():
                try:
                    patches += await self._updates(run_id, span_id, found, of_runs[run_id])
                except ValueError:
                    left_out += len(found)
            if patches:
                await self._intake.commit(Batch(str(uuid.uuid4()), SESSION, patches, [], {}))
        return left_out

    async def _updates(
        self, run_id: str, span_id: str, found: list[LogRecord], of_run: list[StoredEvent]
    ) -> list[Patch]:
        of_root = [event for event in of_run if span_id in event.body]
        of_step = await self._intake.item_events(run_id, span_id)
        if sum(len(event.body) for event in (*of_root, *of_step) if RECORDS in event.body) > _MOST_STORED:
            raise ValueError("the records of this span came in too many parts")
        events = [event.patch() for event in (*of_root, *of_step)]
        root = root_among(events, span_id)
        if not of_step and root is None:
            self._early[run_id, span_id] = None
            if len(self._early) > _MOST_EARLY:
                del self._early[next(iter(self._early))]
        update = update_by({**records_of(found), **stored_records(events)}, run_id, span_id)
        if root is None:
            return [update]
        return [root_update(update, root), *([update] if of_step else [])]

    async def complete_roots(self, patches: list[Patch]) -> None:
        """Add to the patches of spans what log records told before of a root among them."""
        for patch in [*patches]:
            span_id = root_span(patch)
            if span_id is None or (patch.run_id, span_id) not in self._early:
                continue
            events = [event.patch() for event in await self._intake.item_events(patch.run_id, span_id)]
            updates = [event for event in events if event.type == STEP_UPDATE and RECORDS in event.fields]
            if updates:
                patches.append(root_update(max(updates, key=place), patch.fields))
            if not any(other.step_id == span_id and other.run_id == patch.run_id for other in patches):
                patches.append(step_of(patch, span_id))
