"""The direct client of the history API: each call is one request and waits for its answer.

For scripts that need to know at once what was stored. Agents use the SDK, whose calls do not wait.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

from agentscope.exporters.http.transport import Transport
from agentscope.exporters.voltagent import VoltAgentExporter
from agentscope.pipeline.process import awaiting
from agentscope.protocols.base import Failure, Response
from agentscope.protocols.responses import clean, is_denial, json_object
from agentscope.serialization.snapshot import encode

from .errors import APIError, TimeoutError, ValidationError  # noqa: A004 - the published name
from .record import Record
from .types import (
    AddEventRequest,
    CreateHistoryRequest,
    Event,
    History,
    UpdateEventRequest,
    UpdateHistoryRequest,
    VoltAgentConfig,
)

R = TypeVar("R", bound=Record)

MAX_BODY_BYTES = 16 << 20
"""Bound on the body of a request. A larger one is cut."""


class VoltAgentCoreAPI:
    """Creates and changes histories (traces) and their events, one request a call.

    config: a `VoltAgentConfig` or a dict of its fields. `timeout` bounds a whole request, in seconds. Keys that are missing are
    taken from `VOLTAGENT_PUBLIC_KEY` and `VOLTAGENT_SECRET_KEY`; a receiver on this machine needs none. Raises
    `ConfigurationError` for an invalid value.

    Calls raise `APIError` if the API cannot be reached or refuses the request, `TimeoutError` if it does not answer in time,
    and `ValidationError` for a record or an answer that lacks a field. Requests are never repeated: a request whose answer was
    lost may have been stored. Threads may share a client, and a forked child opens its own connections. Each call has an
    `_async` form that does not block the event loop.
    """

    def __init__(self, config: VoltAgentConfig | Mapping[str, Any]) -> None:
        self.config = config if isinstance(config, VoltAgentConfig) else VoltAgentConfig(**dict(config))
        self.timeout = self.config.timeout
        backend = VoltAgentExporter(
            base_url=self.config.base_url,
            public_key=self.config.public_key,
            secret_key=self.config.secret_key,
            headers=self.config.headers or {},
        ).checked()
        self.base_url = backend.url
        self._secrets = backend.secrets
        self._headers = {"Content-Type": "application/json", **backend.request_headers()}
        self._transport, self._pid = Transport(self.base_url, self._headers), os.getpid()

    # ---- histories -------------------------------------------------------------------------------------------------

    def add_history(self, data: CreateHistoryRequest) -> History:
        """Create a history (a trace)."""
        record = _record(CreateHistoryRequest, data)
        return self._call(History, "POST", "/history", record.model_dump(exclude_none=True))

    async def add_history_async(self, data: CreateHistoryRequest) -> History:
        """`add_history` for asyncio."""
        return await awaiting.awaited(lambda: self.add_history(data), "agentscope-client")

    def update_history(self, data: UpdateHistoryRequest) -> History:
        """Change a history."""
        record = _record(UpdateHistoryRequest, data)
        changes = record.model_dump(exclude={"id"}, exclude_none=True)
        return self._call(History, "PATCH", f"/history/{_quoted(record.id)}", changes)

    async def update_history_async(self, data: UpdateHistoryRequest) -> History:
        """`update_history` for asyncio."""
        return await awaiting.awaited(lambda: self.update_history(data), "agentscope-client")

    # ---- events ----------------------------------------------------------------------------------------------------

    def add_event(self, data: AddEventRequest) -> Event:
        """Add an event to a history."""
        record = _record(AddEventRequest, data)
        event = record.event
        fields = {
            "history_id": record.history_id,
            "event_type": event.type,
            "event_name": event.name,
            "start_time": event.startTime,
            "end_time": event.endTime,
            "status_message": event.statusMessage,
            "parent_event_id": event.parentEventId,
            **{name: getattr(event, name) for name in ("status", "level", "version", "tags")},
            **{name: getattr(event, name) for name in ("metadata", "input", "output")},
        }
        return self._call(Event, "POST", "/history-events", fields)

    async def add_event_async(self, data: AddEventRequest) -> Event:
        """`add_event` for asyncio."""
        return await awaiting.awaited(lambda: self.add_event(data), "agentscope-client")

    def update_event(self, data: UpdateEventRequest) -> Event:
        """Change an event."""
        record = _record(UpdateEventRequest, data)
        changes = record.model_dump(exclude={"id"}, exclude_none=True)
        return self._call(Event, "PATCH", f"/history-events/{_quoted(record.id)}", changes)

    async def update_event_async(self, data: UpdateEventRequest) -> Event:
        """`update_event` for asyncio."""
        return await awaiting.awaited(lambda: self.update_event(data), "agentscope-client")

    # ---- connections -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        self._transport.close()

    async def aclose(self) -> None:
        """`close` for asyncio."""
        self.close()

    def __enter__(self) -> VoltAgentCoreAPI:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> VoltAgentCoreAPI:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"VoltAgentCoreAPI(base_url={self.base_url!r}, public_key=…, secret_key=…, timeout={self.timeout!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a VoltAgentCoreAPI cannot be copied or pickled: it holds keys and connections; create another")

    def _call(self, kind: type[R], method: str, path: str, fields: Mapping[str, Any]) -> R:
        if self._pid != os.getpid():
            # After a fork both processes hold the same sockets, and their requests would mix.
            self._transport, self._pid = Transport(self.base_url, self._headers), os.getpid()
        body, _ = encode({name: value for name, value in fields.items() if value is not None}, MAX_BODY_BYTES)
        reply = self._transport.send(method, path, body, {}, float(self.timeout))
        if isinstance(reply, Failure):
            if reply.kind == "timeout":
                raise TimeoutError(f"Request timeout: no answer within {self.timeout} s")
            raise APIError(f"Network error: {reply.sentence}", status_code=0)
        answer = self._answer(method, reply)
        try:
            return kind(**answer)
        except ValidationError as error:
            raise ValidationError(f"Invalid response data: {error}") from None

    def _answer(self, method: str, reply: Response) -> dict[str, Any]:
        data = json_object(reply)
        if 200 <= reply.status < 300 and not is_denial(data or {}):
            if data is None:
                sentence = f"Invalid JSON response: HTTP {reply.status} without a JSON object: check base_url"
                raise APIError(sentence, reply.status)
            return data
        if 300 <= reply.status < 400:
            sentence = f"the API redirects (HTTP {reply.status}), which is never followed: check base_url"
            raise APIError(sentence, reply.status)
        detail = (data or {}).get("message")
        message = f"{method} was refused: HTTP {reply.status}"
        if isinstance(detail, str):
            message = clean(detail, self._secrets)  # an answer may quote a key of the request
        raise APIError(message, reply.status, data)


def _record(kind: type[R], data: Any) -> R:
    if isinstance(data, kind):
        return data
    if not isinstance(data, Mapping):
        raise ValidationError(f"a {kind.__name__} or a dict of its fields is expected, not {type(data).__name__}")
    return kind(**data)


def _quoted(id_: str) -> str:
    # "." and ".." are path segments with a meaning, however they are quoted.
    if id_ in ("", ".", ".."):
        raise ValidationError("id must be one that the API gave")
    return quote(id_, safe="", errors="replace")
