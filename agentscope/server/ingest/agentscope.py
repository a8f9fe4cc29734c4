"""The AgentScope calls: batch and classic. `protocols.agentscope` describes the formats."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agentscope.protocols.agentscope.decode import (
    Patch,
    decode_batch,
    decode_run,
    decode_run_update,
    decode_step,
)
from agentscope.protocols.headers import AGENTSCOPE_BATCH, AGENTSCOPE_KEY
from agentscope.server.http.keys import Keys, carries_key
from agentscope.server.http.limits import Refused

from .intake import Held, Intake, made_id

_SPACE = uuid.UUID("5f0c1a52-7d0e-4a55-9a5e-0a4c7be0f6a1")
_PROJECT_ID = str(uuid.uuid5(_SPACE, "project"))
_MAX_WEIGHT = 300_000  # by `weight_of`; a batch can be sent in parts, and the answer may name every event
_decode_batch = partial(decode_batch, weighed=True, lean=True)


class Ingest:
    """The endpoints. Each answers when its events are durable."""

    def __init__(self, intake: Intake, keys: Keys) -> None:
        self._intake = intake
        self._keys = keys

    async def batch(self, request: Request) -> Response:
        """`POST /api/ingest/batch`."""
        async with self._body(request) as body:
            batch = await self._intake.decoded(request, body, _decode_batch, most_weight=_MAX_WEIGHT)
            counts = await self._intake.commit(batch)
        answer = {"accepted": counts.accepted, "duplicates": counts.duplicates, "rejected": batch.rejected}
        return JSONResponse(answer)

    async def run(self, request: Request) -> Response:
        """`POST /api/ingest/run`."""
        event_id, run_id = _classic_ids(request, "run")
        # The answer is made of the stored event, so that a repeated call gets the same one.
        fields = await self._store(request, lambda body: decode_run(body, run_id, self._intake.arrival(event_id)))
        return JSONResponse(
            {
                "id": run_id,
                "project_id": _PROJECT_ID,
                "external_id": fields.get("external_id"),
                "agent_name": fields.get("agent_name"),
                "status": fields.get("status"),
                "started_at": fields.get("started_at", "").removesuffix("Z"),
                "created_at": fields.get("time", "").removesuffix("Z"),
            }
        )

    async def step(self, request: Request) -> Response:
        """`POST /api/ingest/run/{id}/step`."""
        run_id = await self._known_run(request)
        event_id, step_id = _classic_ids(request, f"step:{run_id}")
        await self._store(request, lambda body: decode_step(body, run_id, step_id, self._intake.arrival(event_id)))
        return JSONResponse({"message": "Step added."})

    async def run_update(self, request: Request) -> Response:
        """`PATCH /api/ingest/run/{id}`."""
        run_id = await self._known_run(request)
        event_id, _ = _classic_ids(request, f"update:{run_id}")
        await self._store(request, lambda body: decode_run_update(body, run_id, self._intake.arrival(event_id)))
        return JSONResponse({"message": "Run updated."})

    async def _store(self, request: Request, decode: Callable[[bytes], Patch]) -> dict[str, Any]:
        async with self._body(request) as body:
            return await self._intake.store_one(request, body, decode)

    def _body(self, request: Request) -> AbstractAsyncContextManager[Held]:
        self._authorise(request)
        return self._intake.hold(request)

    def _authorise(self, request: Request) -> None:
        if AGENTSCOPE_BATCH in request.headers:  # announced to a sender of OTLP, whose key is in a header of its own
            self._keys.sender(request.headers)
            return
        if not carries_key(request.headers):
            raise Refused(422, f"The header {AGENTSCOPE_KEY} is required.")
        if self._keys.given_by(request.headers) is None:
            raise Refused(401, f"{AGENTSCOPE_KEY} is not the key of this receiver.")
        self._keys.sender(request.headers)

    async def _known_run(self, request: Request) -> str:
        self._authorise(request)
        run_id: str = request.path_params["run_id"]
        if not await self._intake.has_run(run_id):
            raise Refused(404, "There is no run with this id.")
        return run_id


def _classic_ids(request: Request, scope: str) -> tuple[str, str]:
    """Make the ids of an event and of its run or step."""
    return made_id(request, _SPACE, f"event:{scope}"), made_id(request, _SPACE, scope)
