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
    Batch,
    Patch,
    decode_batch,
    decode_run,
    decode_run_update,
    decode_step,
)
from agentscope.server.http.limits import Refused
from agentscope.server.http.security import KEY_HEADER, Keys

from .intake import Held, Intake

_SPACE = uuid.UUID("5f0c1a52-7d0e-4a55-9a5e-0a4c7be0f6a1")
_PROJECT_ID = str(uuid.uuid5(_SPACE, "project"))
_MAX_KEY = 255
_MAX_WEIGHT = 300_000  # by `weight_of`; a batch can be sent in parts, and the answer may name every event


class Ingest:
    """The calls. Each is answered when its events are durable."""

    def __init__(self, intake: Intake, keys: Keys) -> None:
        self._intake = intake
        self._keys = keys

    async def batch(self, request: Request) -> Response:
        """`POST /api/ingest/batch`."""
        async with self._body(request) as body:
            return JSONResponse(await self._store_batch(request, body))

    async def _store_batch(self, request: Request, body: Held) -> dict[str, Any]:
        decode = partial(decode_batch, weighed=True, lean=True)
        batch = await self._intake.decoded(request, body, decode, most_weight=_MAX_WEIGHT)
        counts = await self._intake.commit(batch)
        return {"accepted": counts.accepted, "duplicates": counts.duplicates, "rejected": batch.rejected}

    async def run(self, request: Request) -> Response:
        """`POST /api/ingest/run`."""
        event_id, run_id = self._classic_ids(request, "run")
        await self._store_classic(
            request,
            lambda body, now: decode_run(body, event_id=event_id, run_id=run_id, now=now, seq=self._intake.next_seq()),
        )
        # The answer is made of the stored event, so that a repeated call gets the same one.
        fields = await self._intake.event(event_id) or {}
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
        event_id, step_id = self._classic_ids(request, f"step:{run_id}")
        await self._store_classic(
            request,
            lambda body, now: decode_step(
                body, event_id=event_id, run_id=run_id, step_id=step_id, now=now, seq=self._intake.next_seq()
            ),
        )
        return JSONResponse({"message": "Step added."})

    async def run_update(self, request: Request) -> Response:
        """`PATCH /api/ingest/run/{id}`."""
        run_id = await self._known_run(request)
        event_id, _ = self._classic_ids(request, f"update:{run_id}")
        await self._store_classic(
            request,
            lambda body, now: decode_run_update(
                body, event_id=event_id, run_id=run_id, now=now, seq=self._intake.next_seq()
            ),
        )
        return JSONResponse({"message": "Run updated."})

    async def _store_classic(self, request: Request, decode: Callable[[bytes, str], Patch]) -> None:
        def decode_one(body: bytes) -> Batch:
            return Batch(str(uuid.uuid4()), "classic", [decode(body, self._intake.now())], [], {})

        async with self._body(request) as body:
            batch = await self._intake.decoded(request, body, decode_one)
            # A repeated call is not ingested: it carries another time, and would count as a conflict.
            if await self._intake.event(batch.patches[0].id) is None:
                await self._intake.commit(batch)

    def _body(self, request: Request) -> AbstractAsyncContextManager[Held]:
        self._authorise(request)
        return self._intake.hold(request)

    def _authorise(self, request: Request) -> None:
        given = request.headers.get(KEY_HEADER)
        if given is None:
            raise Refused(422, "The header X-Agentscope-Key is required.")
        if not self._keys.accepts(given):
            raise Refused(401, "X-Agentscope-Key is not the key of this receiver.")

    async def _known_run(self, request: Request) -> str:
        self._authorise(request)
        run_id: str = request.path_params["run_id"]
        if not await self._intake.has_run(run_id):
            raise Refused(404, "There is no run with this id.")
        return run_id

    def _classic_ids(self, request: Request, scope: str) -> tuple[str, str]:
        """Make the ids of an event and of its run or step; the same `Idempotency-Key` always gives the same ids."""
        key = request.headers.get("idempotency-key")
        if key is None:
            return str(uuid.uuid4()), str(uuid.uuid4())
        if not 0 < len(key) <= _MAX_KEY:
            raise Refused(400, f"Idempotency-Key must have 1 to {_MAX_KEY} characters.")
        return str(uuid.uuid5(_SPACE, f"event:{scope}:{key}")), str(uuid.uuid5(_SPACE, f"{scope}:{key}"))
