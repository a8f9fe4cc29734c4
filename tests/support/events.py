"""Events, batches and answers, two backends in memory, and a delivery loop like that of the pipeline."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import unquote

import zstandard

from agentscope.events import RUN_END, RUN_START, STEP, STEP_END, STEP_START, Event, PlainStep, Session
from agentscope.protocols.base import (
    PATIENCE,
    Batch,
    Dropped,
    Failure,
    Lane,
    Outcome,
    Part,
    Request,
    Response,
    WireProtocol,
)

SESSION = Session("5e550000-0000-4000-8000-000000000001", "ab12cd34-0000-8000-8000-")
NOON = 1_769_860_800_000_000_000
"""2026-01-31T12:00:00Z, in nanoseconds since the epoch."""

Backend = Callable[[Request], Response | Failure]


def event(seq: int, type_: str = STEP, run_id: str = "run-1", size: int = 100, **fields: Any) -> Event:
    """An event with the fields that its type needs. Its id and its time follow from `seq`."""
    defaults: dict[str, dict[str, Any]] = {
        RUN_START: {"agent_name": "agent"},
        RUN_END: {"status": "completed"},
        STEP: {"name": f"step {seq}", "step_type": "llm_call"},
    }
    step_id = f"step-{seq}" if type_.startswith("step") else None
    return Event(type_, seq, NOON + seq * 1000, run_id, step_id, None, {**defaults.get(type_, {}), **fields}, size)


def plain_step(
    seq: int,
    given: bytes | None = None,
    output: bytes | None = None,
    name: str = "search",
    started_at: int = 1_000,
    elapsed: int = 2_000,
) -> PlainStep:
    """A step in the short form that most calls put into the queue."""
    return PlainStep(seq, "run-1", f"step-{seq}", "parent", 100, name, "tool_call", started_at, elapsed, given, output)


def run_of(steps: int, run_id: str = "run-1", first: int = 1, **fields: Any) -> list[Event]:
    """The start of a run, `steps` steps, and its end."""
    inner = [event(first + i, run_id=run_id, **fields) for i in range(1, steps + 1)]
    return [event(first, RUN_START, run_id), *inner, event(first + steps + 1, RUN_END, run_id)]


def opened(first: int, last: int, step_id: str, run_id: str = "run-1", **fields: Any) -> tuple[Event, Event]:
    """The start and the end of a step, with these `seq`."""
    start = event(first, STEP_START, run_id, name=step_id, step_type="tool_call", status="running", started_at=NOON)
    end = event(last, STEP_END, run_id, status="completed", ended_at=NOON + 1_000_000, **fields)
    return start._replace(step_id=step_id), end._replace(step_id=step_id)


def batch(events: Iterable[Event], dropped: Mapping[str, int] | None = None) -> Batch:
    return Batch("ba7c4000-0000-4000-8000-00000000ffff", SESSION, list(events), dropped or {})


def event_id(seq: int) -> str:
    return SESSION.event_id(seq)


def answer(status: int, body: object = b"", **headers: str) -> Response:
    """`body` is bytes, or a value that is written as JSON; `retry_after="3"` is the header `retry-after`."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def acknowledged(accepted: int, duplicates: int = 0, rejected: Sequence[object] = (), **headers: str) -> Response:
    body = {"accepted": accepted, "duplicates": duplicates, "rejected": list(rejected)}
    return answer(200, body, **headers)


def strict(body: bytes) -> Any:
    """Parse JSON strictly: NaN, invalid UTF-8 and duplicate keys raise."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), f"a key twice: {pairs}"
        return dict(pairs)

    return json.loads(body.decode("utf-8"), parse_constant=refuse, object_pairs_hook=once)


def inflated(request: Request) -> bytes:
    encoding = request.headers.get("Content-Encoding")
    if encoding == "gzip":
        return gzip.decompress(request.body)
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(request.body)
    assert encoding is None
    return request.body


@dataclass
class BatchBackend:
    """A backend with the batch call, like a receiver. Its sets hold the `seq` of events."""

    unacceptable: set[int] = field(default_factory=set)
    """Events whose whole batch is answered 422."""
    crashing: set[int] = field(default_factory=set)
    """Events whose whole batch is answered 500."""
    rejected: set[int] = field(default_factory=set)
    limit: int = 1 << 62
    """The most bytes of a body; a larger one is answered 413."""
    announces: str = ""
    stored: Counter[int] = field(default_factory=Counter)
    reports: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The events by batch id, each batch counted once."""
    requests: list[Any] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        assert (request.method, request.path) == ("POST", "/api/ingest/batch")
        assert request.headers["Content-Type"] == "application/json"
        body = inflated(request)
        document = strict(body)
        self.requests.append(document)
        events = {item["seq"]: item for item in document["events"]}
        headers = {"accept_encoding": self.announces} if self.announces else {}
        if len(body) > self.limit:
            return answer(413, **headers)
        if events.keys() & self.unacceptable:
            return answer(422, {"detail": "no"}, **headers)
        if events.keys() & self.crashing:
            return answer(500, **headers)
        refused = events.keys() & self.rejected
        taken = events.keys() - refused
        duplicates = sum(seq in self.stored for seq in taken)
        self.stored.update(seq for seq in taken if seq not in self.stored)
        if "dropped" in document:
            self.reports.setdefault(document["batch_id"], document["dropped"])
        verdicts = [{"id": event_id(seq), "reason": "bad"} for seq in sorted(refused)]
        return acknowledged(len(taken) - duplicates, duplicates, verdicts, **headers)


@dataclass
class ClassicBackend:
    """A backend with the classic calls, like a deployed platform: it makes the ids, and has no idempotency."""

    unacceptable: set[int] = field(default_factory=set)
    crashing: set[int] = field(default_factory=set)
    limit: int = 1 << 62
    runs: dict[str, list[int]] = field(default_factory=dict)
    """The `seq` of the stored events by the server id of their run, in order of arrival."""
    names: dict[str, str] = field(default_factory=dict)
    """The client id of each run by its server id."""
    asked: list[int] = field(default_factory=list)
    """The `seq` of every request."""

    def __call__(self, request: Request) -> Response:
        if request.path == "/api/ingest/batch":
            return answer(404, {"detail": "Not Found"})
        seq = int(request.headers["Idempotency-Key"].removeprefix(SESSION.event_prefix), 16)
        body = strict(request.body)
        self.asked.append(seq)
        if len(request.body) > self.limit:
            return answer(413)
        if seq in self.unacceptable:
            return answer(422, {"detail": [{"msg": "no"}]})
        if seq in self.crashing:
            return answer(500)
        if (request.method, request.path) == ("POST", "/api/ingest/run"):
            server_id = f"srv/{len(self.runs)}"
            self.runs[server_id] = [seq]
            self.names[server_id] = body["meta_data"]["agentscope_run_id"]
            return answer(200, {"id": server_id, "status": "running"})
        match = re.fullmatch(r"/api/ingest/run/([^/]+)(/step)?", request.path)
        assert match is not None
        assert request.method == ("POST" if match[2] else "PATCH")
        server_id = unquote(match[1])
        if server_id not in self.runs:
            return answer(404, {"detail": "Run not found"})
        self.runs[server_id].append(seq)
        return answer(200, {"message": "ok"})


@dataclass
class Ending:
    """The verdicts on all events."""

    delivered: list[int] = field(default_factory=list)
    dropped: dict[int, Dropped] = field(default_factory=dict)
    possibly_duplicated: int = 0
    duplicates: int = 0
    attempts: int = 0
    left: list[int] = field(default_factory=list)
    parked: list[int] = field(default_factory=list)
    """The events that wait for the end of their run or step."""
    last: Outcome = field(default_factory=Outcome)

    @property
    def reasons(self) -> dict[int, str]:
        return {seq: dropped.reason for seq, dropped in self.dropped.items()}


def attempt(protocol: WireProtocol, sent: Batch, backend: Backend, requests: int = 1 << 30) -> Outcome:
    """One export with parallel lanes. requests: the most in one round."""
    delivery = protocol.begin(sent)
    while lanes := delivery.lanes():
        budget = count()
        going: list[Lane] = list(lanes)
        while going:
            for lane in list(going):
                request = lane.next() if next(budget) < requests else None
                if request is None:
                    going.remove(lane)
                else:
                    lane.answer(backend(request))
    return delivery.outcome


def deliver(
    protocol: WireProtocol,
    sent: Batch,
    backend: Backend,
    *,
    requests: int = 1 << 30,
    attempts: int = 1000,
    more: Iterable[list[Event]] = (),
) -> Ending:
    """Make attempts until all events are settled, like the pipeline. more: events that fill up a batch after a 500."""
    ending = Ending()
    company = iter(more)
    while sent.events and ending.attempts < attempts:
        if sent.server_errors >= PATIENCE:
            sent.events = [*sent.events, *next(company, [])]
        ending.attempts += 1
        ending.last = outcome = attempt(protocol, sent, backend, requests)
        settled = [*outcome.delivered, *(dropped.seq for dropped in outcome.dropped)]
        held = {event.seq for event in sent.events}
        waiting = {event.seq for events in sent.parked.values() for event in events}
        assert len(set(settled)) == len(settled), "settled twice"
        assert (held | waiting).issuperset(settled), "settled what was not sent"
        assert held.issuperset(outcome.parked)
        assert not set(settled) & set(outcome.parked)
        sent.parked = parked_after(sent, outcome)
        ending.delivered += outcome.delivered
        ending.dropped.update((dropped.seq, dropped) for dropped in outcome.dropped)
        ending.possibly_duplicated += outcome.possibly_duplicated
        ending.duplicates += outcome.duplicates
        if outcome.reported:
            sent.dropped = {}
        gone = {*settled, *outcome.parked}
        sent.events = [event for event in sent.events if event.seq not in gone]
        assert (outcome.problem is None) == (outcome.kind is None)
        assert outcome.problem is None or sent.events, "a problem, but nothing is left"
    ending.left = [event.seq for event in sent.events]
    ending.parked = sorted(event.seq for events in sent.parked.values() for event in events)
    return ending


def parked_after(sent: Batch, outcome: Outcome) -> dict[Part, list[Event]]:
    """The incomplete events after this outcome of an attempt."""
    settled = {*outcome.delivered, *(dropped.seq for dropped in outcome.dropped)}
    parked: dict[Part, list[Event]] = {}
    for event in [*(event for events in sent.parked.values() for event in events), *sent.events]:
        known = event in sent.parked.get((event.run_id, event.step_id), ())
        if event.seq not in settled and (known or event.seq in outcome.parked):
            parked.setdefault((event.run_id, event.step_id), []).append(event)
    return parked
