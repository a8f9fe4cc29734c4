"""The batch call: many events in a request, a verdict for each, and no event stored twice."""

from __future__ import annotations

from collections.abc import Iterator

from agentscope._version import __version__
from agentscope.events import ReadyEvent
from agentscope.protocols.base import Failure, Response
from agentscope.protocols.batched_lane import PieceLane
from agentscope.protocols.drop_reasons import REJECTED
from agentscope.protocols.json_encode import dumps, event_json
from agentscope.protocols.responses import clean, is_denial, json_object, note_refusal

PATH = "/api/ingest/batch"

HEARTBEAT = 15.0
"""Seconds between two requests of a session in which something is open: after four times as long it counts as dead."""

_HEAD = (
    '{{"batch_id":"{}","sdk":{{"name":"agentscope-python","version":"{}"}},"session_id":"{}",'
    '"heartbeat_seconds":{},"events":['
)


class BatchLane(PieceLane):
    """The lane of the batch call."""

    _path = PATH

    def _line_up(self) -> None:
        super()._line_up()
        if self._batch.is_heartbeat:
            self._pieces.append([])

    def _settle(self, reply: Response | Failure) -> None:
        if not self._batch.is_heartbeat:
            super()._settle(reply)

    def _item(self, event: ReadyEvent) -> bytes:
        return event_json(event, self._batch.session)

    def _body(self, portions: Iterator[list[bytes]]) -> Iterator[bytes]:
        carries_report = bool(self._batch.dropped) and not self._outcome.reported
        # The receiver counts a report once for each batch id, so a piece without one goes by another id.
        name = self._batch.id if carries_report else f"{self._batch.id[:-4]}{self._requests:04x}"
        head = _HEAD.format(name, __version__, self._batch.session.id, HEARTBEAT).encode()
        tail = b"]}"
        if carries_report:
            report = [{"reason": reason, "count": count} for reason, count in self._batch.dropped.items()]
            tail = f'],"dropped":{dumps(report)}}}'.encode()
        parts = next(portions)
        parts[:1] = [head + b"".join(parts[:1])]
        yield b",".join(parts)
        for portion in portions:
            yield b",".join((b"", *portion))
        yield tail

    def _acknowledge(self, response: Response) -> None:
        """Believe the answer only if it parses and its counts add up to what was sent."""
        answer = json_object(response) or {}
        accepted, duplicates, rejected = answer.get("accepted"), answer.get("duplicates", 0), answer.get("rejected", [])
        by_id = {self._batch.session.event_id(seq): seq for seq in self._sent} if rejected else {}
        believable = (
            not is_denial(answer)
            and type(accepted) is int
            and type(duplicates) is int
            and isinstance(rejected, list)
            and accepted >= 0
            and duplicates >= 0
            and accepted + duplicates + len(rejected) == len(self._sent)
            and all(isinstance(item, dict) and type(item.get("id")) is str and item["id"] in by_id for item in rejected)
            and len({item["id"] for item in rejected}) == len(rejected)
        )
        if not believable:
            self._stop()
            note_refusal(self._outcome, response)
            return
        refused = {by_id[item["id"]]: item.get("reason") for item in rejected}
        for seq, reason in refused.items():
            self._drop(seq, REJECTED, clean(reason) if isinstance(reason, str) else "no reason given")
        self._deliver([seq for seq in self._sent if seq not in refused] if refused else self._sent)
        self._outcome.duplicates += duplicates
        self._confirm(accepted + duplicates)
        self._outcome.reported = self._outcome.reported or bool(self._batch.dropped)
