"""The OTLP call. https://opentelemetry.io/docs/specs/otlp/#otlphttp describes request and answers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from agentscope.protocols.agentscope.batch import PATH
from agentscope.protocols.agentscope.decode import Batch, Patch
from agentscope.protocols.headers import AGENTSCOPE_BATCH
from agentscope.protocols.json_decode import DecodeError
from agentscope.protocols.otlp.inbound.patches import SESSION, patches_of, without_repeats
from agentscope.protocols.otlp.wire import json_form, protobuf_form
from agentscope.protocols.otlp.wire.limits import Form
from agentscope.protocols.otlp.wire.model import SpanGroup, Unreadable
from agentscope.server.http.body import content_type
from agentscope.server.http.keys import Keys

from . import otlp_protobuf
from .intake import REFUSALS, Intake, refusal

_FORMS: dict[str, Form] = {protobuf_form.CONTENT_TYPE: protobuf_form, json_form.CONTENT_TYPE: json_form}
DECODERS: dict[str, Callable[[bytes], list[SpanGroup]]] = {
    protobuf_form.CONTENT_TYPE: otlp_protobuf.decode_request,
    json_form.CONTENT_TYPE: json_form.decode_request,
}
"""The decoder of a request by its content type."""
_ANNOUNCED = {AGENTSCOPE_BATCH: PATH}
_LONGEST_MESSAGE = 4000
_GROWTH = 8  # memory beside that of JSON of the same size: protobuf is denser, and each root span repeats its resource
MAX_STORED = 64 << 20
"""Characters of all events of one body. Each root span repeats its resource, which the body has only once."""
MAX_GROWTH = 32
"""The most characters of events for each byte of a body, beside the first 4 MB of them."""


class OTLP:
    """The endpoint. It answers when its spans are durable."""

    def __init__(self, intake: Intake, keys: Keys) -> None:
        self._intake = intake
        self._keys = keys

    async def traces(self, request: Request) -> Response:
        """`POST /v1/traces`, and the same under the path of VoltAgent's and Langfuse's backends.

        Errors are answered with a `google.rpc.Status` in the encoding of the request, as the specification demands. Java's
        exporter logs its message, others log the status line or the raw body.
        """
        form = _FORMS.get(content_type(request), json_form)
        try:
            return Response(await self._take(request, form), headers=_ANNOUNCED, media_type=form.CONTENT_TYPE)
        except REFUSALS as problem:
            status, sentence, headers = refusal(problem)
            return Response(form.encode_status(sentence), status, headers, form.CONTENT_TYPE)

    async def _take(self, request: Request, form: Form) -> bytes:
        self._keys.sender(request.headers)

        def decode(body: bytes) -> Batch:
            groups = DECODERS[form.CONTENT_TYPE](body)
            return batch_of(groups, min(MAX_STORED, (4 << 20) + MAX_GROWTH * len(body)))

        async with self._intake.hold(request, *_FORMS) as body:
            batch = await self._intake.decoded(request, body, decode, growth=_GROWTH)
            if batch.patches:
                await self._intake.commit(batch)
        return form.encode_response(len(batch.rejected), rejection_message(batch.rejected))


def batch_of(groups: Iterable[SpanGroup], room: int = MAX_STORED) -> Batch:
    """Convert spans to patches. `rejected` names the spans that cannot be stored by their span ids.

    Raises `DecodeError` (413) for events of more than `room` characters.
    """
    patches: list[Patch] = []
    rejected: list[dict[str, Any]] = []
    for group in groups:
        for span in group.spans:
            if isinstance(span, Unreadable):
                rejected.append({"id": span.span_id, "reason": span.reason})
                continue
            try:
                found = patches_of(span, group)
            except ValueError as wrong:
                rejected.append({"id": span.span_id, "reason": str(wrong)})
                continue
            patches += found
            room -= sum(len(patch.body) for patch in found)
            if room < 0:
                raise DecodeError(413, "The spans are too large with what their resources tell; send them in parts.")
    return Batch(str(uuid.uuid4()), SESSION, without_repeats(patches), rejected, {})


def rejection_message(rejected: list[dict[str, Any]]) -> str:
    """Describe why spans were rejected, as `span <id>: reason; …`, for as many spans as the length of a message allows."""
    message = ""
    for count, item in enumerate(rejected):
        more = f"{'; ' if message else ''}span {item['id'] or '(no id)'}: {item['reason']}"
        if len(message) + len(more) > _LONGEST_MESSAGE:
            return f"{message}; and {len(rejected) - count} more"
        message += more
    return message
