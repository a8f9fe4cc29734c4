"""VoltAgent's history calls, as the package `voltagent` 0.1.1 makes them. A history is a run, its events are patches to steps.

The id of an event in an answer is the id of the stored patch, by which later calls name it.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agentscope.events import RUN_START
from agentscope.protocols.agentscope.decode import Patch
from agentscope.protocols.headers import VOLTAGENT_PUBLIC_KEY, VOLTAGENT_SECRET_KEY
from agentscope.protocols.voltagent.decode import (
    SESSION,
    event_added,
    event_changed,
    read,
    run_changed,
    run_started,
)
from agentscope.protocols.voltagent.responses import added_view, changed_view, history_view
from agentscope.server.http.keys import READ, Keys
from agentscope.server.http.limits import Refused
from agentscope.server.storage.base import Store
from agentscope.server.storage.fold import fold

from .intake import REFUSALS, Intake, made_id, refusal

_SPACE = uuid.UUID("0b6f4a3e-4d0e-4a0c-9d53-8f3a51c7a1d2")
_Handler = Callable[["History", Request], Awaitable[Response]]


def _with_message(handler: _Handler) -> _Handler:
    """Answer a refusal with `message`, the member that the published client reads."""

    @wraps(handler)
    async def handle(self: History, request: Request) -> Response:
        try:
            return await handler(self, request)
        except REFUSALS as problem:
            status, sentence, headers = refusal(problem)
            return JSONResponse({"message": sentence}, status, headers=headers)

    return handle


class History:
    """The four endpoints. Each answers when its event is durable.

    The answer to a key that may not read is made of the fields of its own request, and not of stored ones.
    """

    def __init__(self, intake: Intake, store: Store, keys: Keys) -> None:
        self._intake = intake
        self._store = store
        self._keys = keys

    @_with_message
    async def create(self, request: Request) -> Response:
        """`POST /history`. For a run that has begun nothing is stored, and the answer shows it to a key that may read."""
        may_read = self._authorise(request)

        def decode(body: bytes) -> tuple[str, bool, Patch | None, bool]:
            record = read(body)
            named = "id" in record
            run_id = record["id"] if named else made_id(request, _SPACE, "history")
            has_begun = named and any(patch.type == RUN_START for patch in self._patches(run_id, None))
            if has_begun and may_read:
                return run_id, named, None, True
            # Two concurrent calls make the same event, which is stored once.
            arrival = self._intake.arrival(str(uuid.uuid5(_SPACE, f"start:{run_id}")))
            return run_id, named, run_started(record, run_id, arrival), has_begun

        async with self._intake.hold(request) as body:
            run_id, named, patch, has_begun = await self._intake.decoded(request, body, decode)
            if patch is not None and not has_begun:
                await (self._intake.commit_one(patch) if named else self._intake.keep_one(patch))
        return await self._history(run_id, None if may_read or patch is None else patch.fields)

    @_with_message
    async def update(self, request: Request) -> Response:
        """`PATCH /history/{run_id}`."""
        may_read = self._authorise(request)
        run_id: str = request.path_params["run_id"]
        if not await self._intake.has_run(run_id):
            raise Refused(404, "There is no history with this id.")
        event_id = made_id(request, _SPACE, f"update:{run_id}")
        async with self._intake.hold(request) as body:
            sent = await self._intake.store_one(
                request, body, lambda raw: run_changed(read(raw), run_id, self._intake.arrival(event_id))
            )
        return await self._history(run_id, None if may_read else sent)

    @_with_message
    async def add_event(self, request: Request) -> Response:
        """`POST /history-events`."""
        self._authorise(request)

        def decode(body: bytes) -> tuple[dict[str, Any], Patch]:
            record = read(body)
            event_id = made_id(request, _SPACE, f"event:{record.get('history_id')}")
            above = record.get("parent_event_id")
            parent = None if above is None else self._event_named(above)
            return record, event_added(record, parent, self._intake.arrival(event_id))

        async with self._intake.hold(request) as body:
            record, patch = await self._intake.decoded(request, body, decode)
            stored = await self._intake.keep_one(patch)
        return JSONResponse(added_view(patch.id, record, stored["time"]))

    @_with_message
    async def update_event(self, request: Request) -> Response:
        """`PATCH /history-events/{event_id}`: change the step of an event."""
        may_read = self._authorise(request)
        target = await run_in_threadpool(self._event_named, request.path_params["event_id"])
        if target is None or target["step_id"] is None:
            raise Refused(404, "There is no event with this id.")
        event_id = made_id(request, _SPACE, f"change:{target['id']}")
        async with self._intake.hold(request) as body:
            sent = await self._intake.store_one(
                request, body, lambda raw: event_changed(read(raw), target, self._intake.arrival(event_id))
            )
        if may_read:
            return JSONResponse(await run_in_threadpool(self._event_of, target))
        named = {"id": target["id"], "run_id": target["run_id"], "time": sent["time"]}
        return JSONResponse(changed_view(named, sent, self._intake.now()))

    def _event_named(self, event_id: str) -> dict[str, Any] | None:
        """Return the event with this id: that of these calls, else one of another protocol."""
        return self._store.event(event_id, SESSION) or self._store.event(event_id)

    async def _history(self, run_id: str, sent: Mapping[str, Any] | None) -> Response:
        """Answer with the stored run, or with the fields that were `sent` if they are given."""
        if sent is None:
            patches = await run_in_threadpool(self._patches, run_id, None)
            fields = fold(patches) if patches else {}
        else:
            fields = {**sent, "first_at": sent["time"]}
        return JSONResponse(history_view(run_id, fields, self._intake.now()))

    def _event_of(self, event: dict[str, Any]) -> dict[str, Any]:
        patches = self._patches(event["run_id"], event["step_id"])
        return changed_view(event, fold(patches) if patches else {}, self._intake.now())

    def _patches(self, run_id: str, step_id: str | None) -> list[Patch]:
        return [event.patch() for event in self._store.item_events(run_id, step_id)]

    def _authorise(self, request: Request) -> bool:
        """Authorise a request to send events. Returns whether its key may read, too. Raises `Refused`."""
        public, secret = (request.headers.get(name, "") for name in (VOLTAGENT_PUBLIC_KEY, VOLTAGENT_SECRET_KEY))
        if not public or self._keys.find(secret.encode("latin-1")) is None:
            names = f"{VOLTAGENT_PUBLIC_KEY} and the key of this receiver in {VOLTAGENT_SECRET_KEY}".lower()
            raise Refused(401, f"Send any name in the header {names}.")
        return self._keys.sender(request.headers).may(READ)
