"""OTLP over HTTP: runs and steps as spans, for every OpenTelemetry backend.

The format is https://opentelemetry.io/docs/specs/otlp/#otlphttp. A span is sent once, when its run or step has ended; until then
its events are incomplete. A receiver of this package announces its batch call in its answers. The lane changes to it, which
takes the starts of runs and steps too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from agentscope._version import __version__
from agentscope.events import ReadyEvent, in_full
from agentscope.protocols.agentscope.batch import PATH, BatchLane
from agentscope.protocols.agentscope.protocol import BATCH
from agentscope.protocols.assemble import Whole, joined
from agentscope.protocols.base import BUSY, MISPLACED, Batch, Failure, Outcome, Request, Response
from agentscope.protocols.batched_lane import PieceLane
from agentscope.protocols.compression import PieceState
from agentscope.protocols.drop_reasons import REJECTED
from agentscope.protocols.headers import AGENTSCOPE_BATCH
from agentscope.protocols.ids import span_id_of
from agentscope.protocols.negotiation import NegotiatedProtocol
from agentscope.protocols.otlp.outbound.span import span_of
from agentscope.protocols.otlp.wire.limits import Form
from agentscope.protocols.otlp.wire.model import Value
from agentscope.protocols.responses import clean, fail, json_object, note_refusal
from agentscope.protocols.sequential_lane import SingleState

from .wire import json_form, protobuf_form

OTLP = "otlp"
SCOPE = "agentscope"
"""The name of the instrumentation scope of all spans."""
_FORMS: Mapping[str, Form] = {"protobuf": protobuf_form, "json": json_form}
_SPAN_ID = re.compile(r"\b[0-9a-f]{16}\b")


class OTLPState(PieceState):
    """The knowledge about an OTLP backend, kept until the process ends.

    path: the part after the transport's base URL. encoding: `protobuf` or `json`; the other one is tried after a refusal.
    compress: True to send gzip, which every OTLP backend must support. resource: the attributes of the sending program.
    voltops: True for VoltAgent's backend, which has its own attribute names.
    """

    def __init__(
        self,
        *,
        path: str,
        encoding: str,
        compress: bool,
        largest_body: int,
        resource: Mapping[str, Value],
        voltops: bool = False,
    ) -> None:
        super().__init__(compress, largest_body)
        self.path = path
        self.voltops = voltops
        self.resource: Mapping[str, Value] = {
            **resource,
            "telemetry.sdk.name": "agentscope",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.version": __version__,
        }
        self.form = encoding
        self.refused: set[str] = set()
        """The encodings that were answered 415."""
        self._zips = compress
        self.proven = True  # gzip, which every OTLP backend must support, so a refusal has another reason

    def learn(self, response: Response) -> None:
        """Do nothing: an OTLP backend announces no encodings, so gzip is used until it is refused."""

    def pack(
        self, chunks: Iterator[bytes], content_type: str, pause: Callable[[], object]
    ) -> tuple[bytes, dict[str, str]]:
        packed, headers = super().pack(chunks, content_type, pause)
        return packed, {**headers, "Accept": content_type}

    def other_form(self) -> bool:
        """Change to the other encoding after a refusal. Returns False if that was refused too."""
        self.refused.add(self.form)
        left = sorted(_FORMS.keys() - self.refused)
        if not left:
            self.refused.clear()  # a later version of the backend may accept it
            return False
        self.form = left[0]
        if self._zips:  # gzip was turned off before the refused encoding was known
            self.compress, self.encoding = True, "gzip"
        return True


class OTLPProtocol(NegotiatedProtocol):
    """A backend with OTLP, and the batch call if the backend announces it."""

    batched = OTLP

    def __init__(self, state: OTLPState, records: SingleState | None = None) -> None:
        super().__init__(state, records)
        self._otlp = state
        self._receiver = PieceState(True, state.largest_body)

    def warm_up(self) -> None:
        super().warm_up()
        self._receiver.warm_up()

    def hear(self, reply: Response | Failure) -> None:
        """Use the batch call from now on if an answer announces it."""
        announced = isinstance(reply, Response) and reply.status == 200 and reply.headers.get(AGENTSCOPE_BATCH.lower())
        if announced == PATH and self._otlp.path:
            self.batched, self.takes_parts, self.name = BATCH, BATCH, BATCH

    def forget_batches(self) -> None:
        """Use OTLP again."""
        self.batched, self.takes_parts, self.name = OTLP, type(self).takes_parts, None

    def batched_lane(self, batch: Batch, outcome: Outcome) -> PieceLane:
        if self.batched == BATCH:
            return ReceiverLane(self, self._receiver, batch, outcome)
        return OTLPLane(self, self._otlp, batch, outcome)

    def wholes(self, batch: Batch, outcome: Outcome) -> list[Whole]:
        fail(outcome, MISPLACED, "there is no OTLP endpoint for traces at this address: check it")
        return []


class ReceiverLane(BatchLane):
    """The lane of the batch call. If the receiver has it no longer, OTLP is used again."""

    def __init__(self, protocol: OTLPProtocol, state: PieceState, batch: Batch, outcome: Outcome) -> None:
        self._protocol = protocol
        super().__init__(state, batch, outcome)

    def next(self) -> Request | None:
        request = super().next()
        return None if request is None else replace(request, headers={**request.headers, AGENTSCOPE_BATCH: PATH})

    def _settle(self, reply: Response | Failure) -> None:
        super()._settle(reply)
        if self.unsupported:
            self.unsupported = False
            self._state.confirmed, self._state.absences = False, 0
            self._protocol.forget_batches()
            fail(self._outcome, BUSY, "the backend has its batch call no longer")


class OTLPLane(PieceLane):
    """The lane of a batch's spans. It holds back the events of open runs and steps.

    A heartbeat is a request without spans, which asks for the announcement of the batch call.
    """

    _state: OTLPState

    def __init__(self, protocol: OTLPProtocol, state: OTLPState, batch: Batch, outcome: Outcome) -> None:
        wholes, waiting = joined(batch)
        outcome.parked += waiting
        self._protocol = protocol
        self._path = state.path
        super().__init__(state, batch, outcome, wholes)

    def _line_up(self) -> None:
        super()._line_up()
        if self._batch.is_heartbeat:
            self._pieces.append([])

    def _settle(self, reply: Response | Failure) -> None:
        if not self._batch.is_heartbeat:
            super()._settle(reply)
        self._protocol.hear(reply)

    @property
    def _form(self) -> Form:
        return _FORMS[self._state.form]

    @property
    def _content_type(self) -> str:
        return self._form.CONTENT_TYPE

    def _item(self, event: ReadyEvent) -> bytes:
        self._batch.pause()  # a span takes as long as many patches
        return self._form.encode_span(span_of(in_full(event), voltops=self._state.voltops))

    def _body(self, portions: Iterator[list[bytes]]) -> Iterator[bytes]:
        spans = [span for portion in portions for span in portion]
        yield self._form.encode_request(spans, self._state.resource, SCOPE, __version__)

    def _unsupported_media(self) -> bool:
        if super()._unsupported_media():
            return True  # the reason may have been the compression
        return self._state.other_form()

    def _acknowledge(self, reply: Response) -> None:
        answer = _partial_success(reply)
        if answer is None:
            self._stop()
            note_refusal(self._outcome, reply)
            return
        rejected, message = answer
        if not 0 <= rejected <= len(self._sent):
            self._stop()
            fail(self._outcome, BUSY, f"the backend rejects {rejected} of {len(self._sent)} spans, which cannot be")
            return
        refused = self._rejected(rejected, message)
        for seq in refused:
            self._drop(seq, REJECTED, clean(message) or "no reason given")
        self._deliver([seq for seq in self._sent if seq not in refused])
        self._confirm(len(self._sent))

    def _rejected(self, number: int, message: str) -> set[int]:
        """Return the rejected spans. OTLP has only their number; a message may name them, as that of the receiver here does.

        Without names the last spans are chosen, so that at least the counts are right.
        """
        if not number:
            return set()
        named = set(_SPAN_ID.findall(message))
        events = [self._events[seq] for seq in self._sent] if named else []
        found = [
            each.seq for each in events if span_id_of(each.run_id if each.step_id is None else each.step_id) in named
        ]
        others = [seq for seq in reversed(self._sent) if seq not in found]
        return set([*found, *others][:number])


def _partial_success(reply: Response) -> tuple[int, str] | None:
    """The number of rejected spans and the reason, from an answer of success; None if it is not OTLP."""
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == protobuf_form.CONTENT_TYPE:
        return protobuf_form.decode_response(reply.body)
    if not reply.body.strip():
        return 0, ""
    if kind in ("", json_form.CONTENT_TYPE):
        # Some backends answer in another form of JSON.
        return json_form.decode_response(reply.body) or (None if json_object(reply) is None else (0, ""))
    return protobuf_form.decode_response(reply.body) if kind == "application/octet-stream" else None
