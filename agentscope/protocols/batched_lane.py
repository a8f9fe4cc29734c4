"""The delivery of a batch in as few requests as possible: one, or several pieces after a refusal."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from math import log2

from agentscope.events import Event, ReadyEvent, in_full, united

from .assemble import Whole
from .base import BUSY, PATIENCE, Batch, Dropped, Failure, Outcome, Request, Response, Suspect
from .compression import PieceState
from .drop_reasons import ENCODE_ERROR, REJECTED, TOO_LARGE, DropReason
from .json_encode import UNENCODABLE, dumps
from .responses import GONE, UNACCEPTABLE, detail, fail, note_failure, note_refusal

CHUNK = 192 * 1024
"""Bytes of items that are encoded before each compression. With larger chunks the allocator takes new memory from the system."""
SMALLEST_FIELD = 256
SMALLEST_SPLIT = 1024
"""The least size in bytes of a piece that was split as too large."""
_UNREADABLE = UNACCEPTABLE | {500}
"""Possible answers of a backend that reads a compressed body as invalid JSON."""
MOST_ABSENCES = 10
"""Consecutive 404s after which an endpoint that once worked counts as gone."""


class PieceLane:
    """The lane that delivers a batch. Subclasses define the format of items, bodies and acknowledgements."""

    def __init__(
        self, state: PieceState, batch: Batch, outcome: Outcome, wholes: Iterable[Whole] | None = None
    ) -> None:
        """wholes: the merged events that are sent as one item each; by default each event is an item."""
        self.unsupported = False
        """True if the backend does not have this endpoint."""
        self._state = state
        self._batch = batch
        self._outcome = outcome
        self._covered: dict[int, tuple[int, ...]] | None = None
        """The `seq` of all events in an item, by the `seq` of the item; None if each event is an item."""
        if wholes is None:
            self._events: dict[int, ReadyEvent] = {event.seq: event for event in batch.events}
        else:
            self._events, self._covered = {}, {}
            for event, seqs in wholes:
                self._events[event.seq], self._covered[event.seq] = event, seqs
        self._pieces: deque[list[int]] = deque()
        self._sent: list[int] = []
        self._sent_bytes = 0
        """The bytes of the items in `_sent` before compression."""
        self._compressed = False
        self._requests = 0
        self._stopped = False
        self._budget = 2 * int(log2(len(batch.events) + 1)) + 4
        self._line_up()

    # ---- the format --------------------------------------------------------------------------------------------------

    _path: str
    """The path of the requests."""

    @property
    def _content_type(self) -> str:
        return "application/json"

    def _item(self, event: ReadyEvent) -> bytes:
        """Encode one item for a body."""
        raise NotImplementedError

    def _body(self, portions: Iterator[list[bytes]]) -> Iterator[bytes]:
        """The body in chunks. A portion is a list of encoded items, of `CHUNK` bytes or more except the last."""
        raise NotImplementedError

    def _acknowledge(self, reply: Response) -> None:
        """Record the verdicts in an answer of success; call `_stop` if the answer is not valid."""
        raise NotImplementedError

    def _unsupported_media(self) -> bool:
        """React to HTTP 415. Returns True if the same items can be sent in another form."""
        if self._state.encoding is None:
            return False
        self._state.encoding, self._state.compress = None, False
        return True

    # ---- requests and answers ----------------------------------------------------------------------------------------

    def next(self) -> Request | None:
        while not self._stopped and self._pieces:
            chunks = self._body(self._encoded(self._pieces.popleft()))
            body, headers = self._state.pack(chunks, self._content_type, self._batch.pause)
            if self._sent or self._batch.is_heartbeat:
                self._requests += 1
                self._compressed = "Content-Encoding" in headers
                return Request("POST", self._path, headers, body)
        return None

    def answer(self, reply: Response | Failure) -> None:
        self._settle(reply)
        # This may have been the last request of the attempt. The next attempt begins with the pieces that are left now.
        self._batch.pieces = [list(piece) for piece in self._pieces]

    def _settle(self, reply: Response | Failure) -> None:
        if isinstance(reply, Failure):
            if reply.kind == "timeout" and not reply.unsent and len(self._sent) > 1:
                self._state.shrink(self._sent_bytes)
            self._stop()
            note_failure(self._outcome, reply)
            return
        self._state.learn(reply)
        if 200 <= reply.status < 300:
            self._state.grow(self._compressed)
            self._acknowledge(reply)
        elif reply.status in GONE:
            self._stop()
            self._state.absences += 1
            self.unsupported = not self._state.confirmed or self._state.absences > MOST_ABSENCES
            if not self.unsupported:
                fail(self._outcome, BUSY, f"the backend answers HTTP {reply.status}, which it did not before")
        elif (reply.status == 415 and self._unsupported_media()) or (
            reply.status in _UNREADABLE and self._state.suspects_compression(self._compressed)
        ):
            self._pieces.appendleft(self._sent)  # the body is sent again in another form
        elif reply.status == 413:
            self._too_large()
        elif reply.status in UNACCEPTABLE and len(self._sent) > 1:
            self._split()
        elif reply.status in UNACCEPTABLE:
            self._drop(self._sent[0], REJECTED, detail(reply))
        elif reply.status == 500 and "retry-after" not in reply.headers:
            self._server_error(reply)
        else:
            self._stop()
            note_refusal(self._outcome, reply)

    def _encoded(self, piece: list[int]) -> Iterator[list[bytes]]:
        """The encoded items of a piece in portions, up to the size of one body. The other events become another piece.

        They are encoded on demand and not kept, because together they take as much memory as the events.
        """
        sent: list[int] = []
        self._sent, self._sent_bytes = sent, 0
        most = min(self._state.largest_body, self._state.timely_body)
        events, make, refused = self._events, self._item, self._batch.refused_size
        portion: list[bytes] = []
        size, end = 0, CHUNK
        for position, seq in enumerate(piece):
            try:
                item = make(events[seq])
                if len(item) >= refused:
                    item = self._cut(seq, item)
            except UNENCODABLE as error:
                self._drop(seq, ENCODE_ERROR, type(error).__name__)
                continue
            size += len(item)
            if size > most and sent:
                size -= len(item)
                self._pieces.appendleft(piece[position:])
                break
            sent.append(seq)
            portion.append(item)
            if size >= end:
                yield portion
                portion, end = [], size + CHUNK
        self._sent_bytes = size
        yield portion

    def _cut(self, seq: int, item: bytes) -> bytes:
        """Cut an item below the size that was refused, if possible."""
        while len(item) >= self._batch.refused_size and (smaller := cut_largest_field(self._events[seq])) is not None:
            self._events[seq] = smaller
            item = self._item(smaller)
        return item

    def _deliver(self, seqs: Iterable[int]) -> None:
        self._outcome.delivered += seqs if self._covered is None else [c for seq in seqs for c in self._covered[seq]]

    def _drop(self, seq: int, reason: DropReason, why: str) -> None:
        covered = (seq,) if self._covered is None else self._covered[seq]
        self._outcome.dropped += [Dropped(each, reason, why) for each in covered]

    def _confirm(self, number: int) -> None:
        """Count `number` items that the backend has acknowledged."""
        self._state.accepted += number
        self._state.confirmed, self._state.absences = True, 0

    def _line_up(self) -> None:
        """Queue all events: in the pieces of an earlier attempt, the others together.

        Suspects are sent alone, and after others, whose success is the evidence against a suspect.
        """
        if not self._batch.suspects and not self._batch.pieces:
            if self._events:
                self._pieces.append(list(self._events))
            return
        suspects = {seq: suspect for seq, suspect in self._batch.suspects.items() if seq in self._events}
        ripe = [seq for seq, suspect in suspects.items() if suspect.is_ripe(self._state.accepted)]
        rest = dict.fromkeys(seq for seq in self._events if seq not in suspects)
        self._pieces.extend([seq] for seq in ripe)
        for earlier in self._batch.pieces:
            kept = [seq for seq in earlier if seq in rest]
            for seq in kept:
                del rest[seq]
            if kept:
                self._pieces.append(kept)
        if rest:
            self._pieces.append(list(rest))
        self._pieces.extend([seq] for seq in suspects if seq not in ripe)

    def _stop(self) -> None:
        self._stopped = True
        self._pieces.appendleft(self._sent)

    def _split(self) -> None:
        middle = len(self._sent) // 2
        self._pieces.extendleft((self._sent[middle:], self._sent[:middle]))

    def _too_large(self) -> None:
        size = self._sent_bytes
        if len(self._sent) > 1:
            self._state.largest_body = min(self._state.largest_body, max(size // 2, SMALLEST_SPLIT))
            self._split()
        elif cut_largest_field(self._events[self._sent[0]]) is None:
            self._drop(self._sent[0], TOO_LARGE, "HTTP 413 to this event alone")
        else:
            self._batch.refused_size = min(self._batch.refused_size, size)
            self._pieces.appendleft(self._sent)

    def _server_error(self, response: Response) -> None:
        """React to HTTP 500: search for one event that causes it, which is dropped, or stop, as in an outage."""
        note_refusal(self._outcome, response)
        batch = self._batch
        if len(self._sent) == 1:
            suspect = batch.suspects.setdefault(self._sent[0], Suspect(self._state.accepted))
            struck = suspect.note(self._state.accepted)
            if suspect.strikes >= PATIENCE:
                self._drop(self._sent[0], REJECTED, "HTTP 500 to this event alone")
            if struck:
                return
        if batch.searching:
            batch.searching = self._requests < self._budget or bool(self._outcome.delivered)
        else:
            batch.server_errors += 1
            batch.searching = batch.server_errors % PATIENCE == 0
        if not batch.searching:
            self._stop()
        elif len(self._sent) > 1:
            self._split()


def cut_largest_field(ready: ReadyEvent) -> Event | None:
    """Cut the largest payload of an event to an eighth, or replace a small one. None if there is nothing to cut."""
    event = in_full(ready)
    payloads = {name: value for name, value in event.fields.items() if isinstance(value, bytes)}
    name = max(payloads, key=lambda name: len(payloads[name]), default=None)
    if name is None or len(payloads[name]) < SMALLEST_FIELD:
        return None
    size = len(payloads[name])
    start = payloads[name][: size // 8].decode("utf-8", "ignore") if size > 8 * SMALLEST_FIELD else ""
    note = dumps(f"{start}…[cut: {size} bytes of JSON, more than the backend takes]").encode()
    return event._replace(
        fields={**event.fields, name: note, "truncated": united(event.fields.get("truncated"), [name])}
    )
