"""The OTLP calls. https://opentelemetry.io/docs/specs/otlp/#otlphttp describes request and answers."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agentscope.protocols.agentscope.batch import PATH
from agentscope.protocols.agentscope.decode import Batch, Patch
from agentscope.protocols.headers import AGENTSCOPE_BATCH
from agentscope.protocols.json_decode import DecodeError, Rejected
from agentscope.protocols.otlp.inbound.patches import SESSION, patches_of, without_repeats
from agentscope.protocols.otlp.wire import json_form, protobuf_form
from agentscope.protocols.otlp.wire.limits import Form
from agentscope.protocols.otlp.wire.model import Span, SpanGroup, Unreadable
from agentscope.server.http.body import content_type
from agentscope.server.http.keys import Keys
from agentscope.server.storage.project import PROJECT
from agentscope.server.storage.rows import row_fields

from . import otlp_protobuf
from .intake import REFUSALS, Intake, refusal
from .otlp_ids import SpanIds
from .otlp_logs import JoinedRecords

_FORMS: dict[str, Form] = {protobuf_form.CONTENT_TYPE: protobuf_form, json_form.CONTENT_TYPE: json_form}
DECODERS: dict[str, Callable[[bytes], list[SpanGroup]]] = {
    protobuf_form.CONTENT_TYPE: otlp_protobuf.decode_request,
    json_form.CONTENT_TYPE: json_form.decode_request,
}
"""The decoder of a request by its content type."""
_LOGS = {
    protobuf_form.CONTENT_TYPE: otlp_protobuf.decode_logs,
    json_form.CONTENT_TYPE: json_form.decode_logs,
}
_POINTS = {
    protobuf_form.CONTENT_TYPE: otlp_protobuf.count_points,
    json_form.CONTENT_TYPE: json_form.count_points,
}
OTLP_BASES = ("", "/api/public/otel", "/otel", "/api/v1/private/otel")
"""The paths before `/v1/traces`: of collectors, VoltAgent and Langfuse, LangSmith, and Opik."""
_ANNOUNCED = {AGENTSCOPE_BATCH: PATH}
_LONGEST_MESSAGE = 4000
_TOO_LARGE = "the spans are too large with what their resources tell"
_MOST_NAMED = 400  # rejected spans, for which a message has no room
_UNNAMED = {"id": "", "reason": ""}  # takes the place of other rejections, of which there may be very many
_GROWTH = 8  # memory beside that of JSON of the same size: protobuf is denser, and each span repeats its resource
MAX_GROWTH = 32
"""The most characters of events for each byte of a body, beside the first 4 MB. Each span repeats its resource."""
_MOST_STORED = 64 << 20  # characters of the events of a body that is stored at once
_STORED_AT_ONCE = 2 << 20  # bytes of a body up to which either all of its spans are stored or none
_PART = 8 << 20  # characters of the events of a larger body that are in memory, and stored, together
_LONG_EVENT = 16 << 10  # characters of an event whose payloads are not kept in memory beside its text


class OTLP:
    """The endpoints. They answer when what they keep is durable."""

    def __init__(self, intake: Intake, keys: Keys) -> None:
        self._intake = intake
        self._keys = keys
        self._joined = JoinedRecords(intake)
        self._ids = SpanIds()
        self.not_kept: Mapping[str, dict[str, int]] = defaultdict(lambda: {"log_records": 0, "data_points": 0})
        """Log records and data points that were answered, and not kept, since the start, by project."""

    async def traces(self, request: Request) -> Response:
        """`POST /v1/traces`."""
        return await self._answered(request, self._take_spans)

    async def logs(self, request: Request) -> Response:
        """`POST /v1/logs`: messages of models are joined to their span, other records are not kept."""
        return await self._answered(request, self._take_records)

    async def metrics(self, request: Request) -> Response:
        """`POST /v1/metrics`: data points are counted, and not kept."""
        return await self._answered(request, self._take_points)

    async def _answered(self, request: Request, take: Callable[[Request, Form], Awaitable[bytes]]) -> Response:
        """Answer a request.

        Errors are answered with a `google.rpc.Status` in the encoding of the request, as the specification demands. Java's
        exporter logs its message, others log the status line or the raw body.
        """
        form = _FORMS.get(content_type(request), json_form)
        try:
            self._keys.sender(request.headers)
            return Response(await take(request, form), headers=_ANNOUNCED, media_type=form.CONTENT_TYPE)
        except REFUSALS as problem:
            status, sentence, headers = refusal(problem)
            return Response(form.encode_status(sentence), status, headers, form.CONTENT_TYPE)

    async def _take_points(self, request: Request, form: Form) -> bytes:
        async with self._intake.hold(request, *_FORMS) as body:
            count = await self._intake.decoded(request, body, _POINTS[form.CONTENT_TYPE], is_text=form is json_form)
        self.not_kept[PROJECT.get()]["data_points"] += count
        return form.encode_response(count, "Metrics are not kept." if count else "", "DataPoints")

    async def _take_records(self, request: Request, form: Form) -> bytes:
        decode = _LOGS[form.CONTENT_TYPE]
        async with self._intake.hold(request, *_FORMS) as body:
            found = await self._intake.decoded(request, body, decode, growth=_GROWTH, is_text=form is json_form)
            left_out = await self._joined.add(found)
        self.not_kept[PROJECT.get()]["log_records"] += left_out
        message = "Only log records with messages of models, and the ids of their span, are kept." if left_out else ""
        return form.encode_response(left_out, message, "LogRecords")

    async def _take_spans(self, request: Request, form: Form) -> bytes:
        project = PROJECT.get()

        def decode(body: bytes) -> tuple[Batch, Iterator[Batch] | None]:
            part = _PART if len(body) > _STORED_AT_ONCE else None
            room = (4 << 20) + MAX_GROWTH * len(body)
            groups = DECODERS[form.CONTENT_TYPE](body)
            del body
            batches = batches_of(groups, lambda span: self._ids.own(span, project), room, part)
            return next(batches), None if part is None else batches

        count = 0
        named: list[dict[str, Any]] = []
        async with self._intake.hold(request, *_FORMS) as body:
            is_text = form is json_form
            decoded = await self._intake.decoded(request, body, decode, growth=_GROWTH, is_text=is_text)
            batch: Batch | None
            batch, more = decoded
            while batch is not None:
                if batch.patches:
                    await self._intake.commit(batch)
                    await self._joined.complete_roots(batch.patches)
                count += len(batch.rejected)
                named += batch.rejected[: _MOST_NAMED - len(named)]
                batch = None if more is None else await run_in_threadpool(next, more, None)
        return form.encode_response(count, rejection_message(named, count))


def batches_of(
    groups: Iterable[SpanGroup], own: Callable[[Span], Span], room: int, part: int | None
) -> Iterator[Batch]:
    """Convert spans to patches: to batches of about `part` characters, or to one if it is None.

    own: gives a span an id of its own. `rejected` names the spans that cannot be stored by their span ids. Events of more than
    `room` characters are too large. If `part` is None this raises `DecodeError` (413), else the spans beyond `room` are rejected.
    """
    patches: list[Patch] = []
    rejected: list[dict[str, Any]] = []
    size = 0
    if part is None:
        room = min(room, _MOST_STORED)
    for group in groups:
        for span in group.spans:
            try:
                if room < 0:
                    raise Rejected(_TOO_LARGE)
                found = _patches(span, group, own)
                length = sum(len(patch.body) for patch in found)
                room -= length
                if room < 0 and part is None:
                    raise DecodeError(413, f"{_TOO_LARGE}; send them in parts.".capitalize())
                if room < 0:
                    raise Rejected(_TOO_LARGE)
            except Rejected as wrong:
                named = len(rejected) < _MOST_NAMED
                rejected.append({"id": span.span_id, "reason": str(wrong)} if named else _UNNAMED)
                continue
            if length > _LONG_EVENT:
                found = [patch._replace(fields=row_fields(patch.fields)) for patch in found]
            patches += found
            size += length
            if part is not None and size > part:
                yield _batch(patches, rejected)
                patches, rejected, size = [], [], 0
    yield _batch(patches, rejected)


def _patches(span: Span | Unreadable, group: SpanGroup, own: Callable[[Span], Span]) -> list[Patch]:
    if isinstance(span, Unreadable):
        raise Rejected(span.reason)
    try:
        return patches_of(own(span), group)
    except ValueError as wrong:
        raise Rejected(str(wrong)) from None


def _batch(patches: list[Patch], rejected: list[dict[str, Any]]) -> Batch:
    return Batch(str(uuid.uuid4()), SESSION, without_repeats(patches), rejected, {})


def rejection_message(rejected: list[dict[str, Any]], count: int) -> str:
    """Describe why `count` spans were rejected, as `span <id>: reason; …`, for as many of them as a message has room for."""
    message = ""
    for number, item in enumerate(rejected):
        more = f"{'; ' if message else ''}span {item['id'] or '(no id)'}: {item['reason']}"
        if len(message) + len(more) > _LONGEST_MESSAGE:
            return f"{message}; and {count - number} more"
        message += more
    return message
