"""A batch sent in as few requests as the backend takes it in: in one if all goes well, in pieces where it refuses some."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from importlib import import_module
from math import log2
from typing import Any

from ..events import Event
from . import BUSY, PATIENCE, Batch, Dropped, Failure, Outcome, Request, Response, Suspect
from .answers import GONE, UNACCEPTABLE, detail, fail, note_failure, note_refusal
from .encoding import UNENCODABLE, dumps

SMALLEST_COMPRESSED = 1024
"""Below this many bytes compression costs more than it saves."""
SMALLEST_FIELD = 256
MOST_ABSENCES = 10
"""So often in a row a backend that had this call may answer that it has none, before that is believed."""


class PieceState:
    """What is learnt of a backend's call for batches, for as long as the process lives."""

    def __init__(self, compress: bool, largest_body: int) -> None:
        self.compress = compress
        self.encoding: str | None = None
        self.accepted = 0
        """Events that were stored so far: the sign that others get through while one does not."""
        self.largest_body = largest_body
        """Pieces of several events are kept under this."""
        self.confirmed = False
        """The call has been acknowledged before: a 404 now is more likely a proxy's than the backend's."""
        self.absences = 0
        """Answers of 404 or 405 in a row."""

    def warm_up(self) -> None:
        """Import the compressor, if it may be used."""
        if self.compress:
            _zstandard()

    def learn(self, response: Response) -> None:
        """A receiver announces what it can decode by `Accept-Encoding` in its answers (RFC 7694)."""
        announced = response.headers.get("accept-encoding")
        if self.compress and announced is not None and response.status != 415:
            known = {name.split(";")[0].strip() for name in announced.lower().split(",")}
            if "zstd" in known and _zstandard() is not None:
                self.encoding = "zstd"
            else:
                self.encoding = "gzip" if "gzip" in known else None

    def pack(self, body: bytes, content_type: str) -> tuple[bytes, dict[str, str]]:
        """The body as it is sent, and the headers that say how."""
        headers = {"Content-Type": content_type}
        if self.encoding is None or len(body) < SMALLEST_COMPRESSED:
            return body, headers
        headers["Content-Encoding"] = self.encoding
        if self.encoding == "zstd":
            compressor: Any = _zstandard()
            packed: bytes = compressor.ZstdCompressor(level=1).compress(body)
            return packed, headers
        gzip = zlib.compressobj(1, zlib.DEFLATED, 31)
        return gzip.compress(body) + gzip.flush(), headers


def _zstandard() -> Any:
    try:
        return import_module("zstandard")
    except ImportError:
        return None


class PieceLane:
    """One conversation that delivers a batch. A format says how an item, a body and an acknowledgement look."""

    def __init__(self, state: PieceState, batch: Batch, outcome: Outcome) -> None:
        self.unsupported = False
        """The backend has no such call."""
        self._state = state
        self._batch = batch
        self._outcome = outcome
        self._events: dict[int, Event] = {}
        self._items: dict[int, bytes] = {}
        self._covered: dict[int, tuple[int, ...]] = {}
        self._pieces: deque[list[int]] = deque()
        self._sent: list[int] = []
        self._requests = 0
        self._stopped = False
        self._budget = 2 * int(log2(len(batch.events) + 1)) + 4
        self._encode()
        self._line_up()

    # ---- the format ------------------------------------------------------------------------------------------------

    @property
    def _path(self) -> str:
        raise NotImplementedError

    @property
    def _content_type(self) -> str:
        return "application/json"

    def _wholes(self) -> Iterable[tuple[Event, tuple[int, ...]]]:
        """What is sent as one item each, under the `seq` of the event, and the `seq` of all that it stands for."""
        return ((event, (event.seq,)) for event in self._batch.events)

    def _item(self, event: Event) -> bytes:
        """One item as it stands in a body."""
        raise NotImplementedError

    def _body(self, piece: Sequence[int]) -> bytes:
        raise NotImplementedError

    def _acknowledge(self, reply: Response) -> None:
        """Read an answer of success, and note what was delivered or rejected; `_stop` if it is not to be believed."""
        raise NotImplementedError

    def _unsupported_media(self) -> bool:
        """HTTP 415. Whether something can be changed so that sending it again makes sense."""
        if self._state.encoding is None:
            return False
        self._state.encoding, self._state.compress = None, False
        return True

    # ---- the conversation ------------------------------------------------------------------------------------------

    def next(self) -> Request | None:
        if self._stopped or not self._pieces:
            return None
        self._sent = self._pieces.popleft()
        if len(self._sent) == 1:
            self._fit(self._sent[0])
        body, headers = self._state.pack(self._body(self._sent), self._content_type)
        self._requests += 1
        return Request("POST", self._path, headers, body)

    def answer(self, reply: Response | Failure) -> None:
        self._judge(reply)
        # This may have been the last request of the attempt: the next one goes on with what is split off by now.
        self._batch.pieces = [list(piece) for piece in self._pieces]

    def _judge(self, reply: Response | Failure) -> None:
        if isinstance(reply, Failure):
            self._stop()
            note_failure(self._outcome, reply)
            return
        self._state.learn(reply)
        if 200 <= reply.status < 300:
            self._acknowledge(reply)
        elif reply.status in GONE:
            self._stop()
            self._state.absences += 1
            self.unsupported = not self._state.confirmed or self._state.absences > MOST_ABSENCES
            if not self.unsupported:
                fail(self._outcome, BUSY, f"the backend answers HTTP {reply.status}, which it did not before")
        elif reply.status == 415 and self._unsupported_media():
            self._pieces.appendleft(self._sent)
        elif reply.status == 413:
            self._too_large()
        elif reply.status in UNACCEPTABLE:
            self._split_or_drop("rejected", detail(reply))
        elif reply.status == 500 and "retry-after" not in reply.headers:
            self._server_error(reply)
        else:
            self._stop()
            note_refusal(self._outcome, reply)

    def _encode(self) -> None:
        for event, seqs in self._wholes():
            self._covered[event.seq] = seqs
            try:
                self._items[event.seq] = self._item(event)
                self._events[event.seq] = event
            except UNENCODABLE as error:
                self._drop(event.seq, "encode_error", type(error).__name__)

    def _deliver(self, seqs: Iterable[int]) -> None:
        self._outcome.delivered += [covered for seq in seqs for covered in self._covered[seq]]

    def _drop(self, seq: int, reason: str, why: str) -> None:
        self._outcome.dropped += [Dropped(covered, reason, why) for covered in self._covered[seq]]

    def _confirm(self, number: int) -> None:
        """The backend has acknowledged so many items."""
        self._state.accepted += number
        self._state.confirmed, self._state.absences = True, 0

    def _line_up(self) -> None:
        """Queue all events: split as an earlier attempt left them, the others in pieces that the backend should take.

        Suspects are sent alone, and after others: whether those get through is what tells.
        """
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
        piece: list[int] = []
        size = 0
        for seq in rest:
            item = len(self._items[seq])
            if piece and size + item > self._state.largest_body:
                self._pieces.append(piece)
                piece, size = [], 0
            piece.append(seq)
            size += item
        if piece:
            self._pieces.append(piece)
        self._pieces.extend([seq] for seq in suspects if seq not in ripe)

    def _fit(self, seq: int) -> None:
        """Cut an event that is as large as one that was refused."""
        while len(self._items[seq]) >= self._batch.refused_size:
            smaller = cut_largest_field(self._events[seq])
            if smaller is None:
                return
            self._events[seq] = smaller
            self._items[seq] = self._item(smaller)

    def _stop(self) -> None:
        self._stopped = True
        self._pieces.appendleft(self._sent)

    def _split(self) -> None:
        middle = len(self._sent) // 2
        self._pieces.extendleft((self._sent[middle:], self._sent[:middle]))

    def _split_or_drop(self, reason: str, why: str) -> None:
        if len(self._sent) > 1:
            self._split()
        else:
            self._drop(self._sent[0], reason, why)

    def _too_large(self) -> None:
        size = sum(len(self._items[seq]) for seq in self._sent)
        if len(self._sent) > 1:
            self._state.largest_body = min(self._state.largest_body, max(size // 2, SMALLEST_COMPRESSED))
            self._split()
        elif cut_largest_field(self._events[self._sent[0]]) is None:
            self._drop(self._sent[0], "too_large", "HTTP 413 to this event alone")
        else:
            self._batch.refused_size = min(self._batch.refused_size, size)
            self._pieces.appendleft(self._sent)

    def _server_error(self, response: Response) -> None:
        """HTTP 500 may mean an outage, or one event that the backend stumbles over: then only that one is given up."""
        note_refusal(self._outcome, response)
        if len(self._sent) == 1 and self._struck(self._sent[0]):
            return
        batch = self._batch
        if batch.searching:
            batch.searching = self._requests < self._budget or bool(self._outcome.delivered)
        else:
            batch.server_errors += 1
            batch.searching = batch.server_errors % PATIENCE == 0
        if not batch.searching:
            self._stop()
        elif len(self._sent) > 1:
            self._split()

    def _struck(self, seq: int) -> bool:
        """Whether this answer speaks against the event and not against the backend, which took others meanwhile."""
        suspect = self._batch.suspects.setdefault(seq, Suspect(self._state.accepted))
        struck = suspect.note(self._state.accepted)
        if suspect.strikes >= PATIENCE:
            self._drop(seq, "rejected", "HTTP 500 to this event alone")
        return struck


def cut_largest_field(event: Event) -> Event | None:
    """The event with its largest payload cut to an eighth, or replaced if that is small; None if none is left to cut."""
    payloads = {name: value for name, value in event.fields.items() if type(value) is bytes}
    name = max(payloads, key=lambda name: len(payloads[name]), default=None)
    if name is None or len(payloads[name]) < SMALLEST_FIELD:
        return None
    size = len(payloads[name])
    start = payloads[name][: size // 8].decode("utf-8", "ignore") if size > 8 * SMALLEST_FIELD else ""
    note = dumps(f"{start}…[cut: {size} bytes of JSON, more than the backend takes]").encode()
    marked = [*event.fields.get("truncated", ()), name]
    return event._replace(fields={**event.fields, name: note, "truncated": sorted(set(marked))})
