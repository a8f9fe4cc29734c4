"""The classic calls, which every deployed platform has: one record a request, and ids made by the server.

Records are such that no platform answers 422 or 500: a value that does not fit is cut or replaced, and `meta_data` notes it.
`agentscope_cut` names each such field with its length before (characters of a text, bytes of a payload), or with the value itself
if that was a number or a time; `step_type` keeps a step type that a platform does not know. A field of the table that the calls
have no place for is in `meta_data` under its name with `META_PREFIX`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from agentscope.events import RUN_END, RUN_FIELDS, RUN_START, RUN_UPDATE, STEP, STEP_FIELDS, Event
from agentscope.protocols.base import Batch, Request
from agentscope.protocols.json_encode import dumps, naive_utc, plain
from agentscope.protocols.sequential_lane import Remembered, SingleLane, SingleState, record_request

from .decode import META_PREFIX
from .fields import normal_time

MOST_RUNS = 10_000
"""The most ids of runs that are remembered. The least recently used is forgotten first."""
STEP_TYPES = frozenset({"llm_call", "tool_call", "retrieval", "custom", "error"})
"""The step types that a deployed platform takes."""

MAX_TEXT = 255
"""The most characters in a platform's text columns."""

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1
_NOTABLE = range(-(2**63), 2**63)
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class ClassicState(SingleState):
    """The ids that a platform gave to the runs of this process."""

    def __init__(self) -> None:
        super().__init__()
        self._run_ids: Remembered[str, str] = Remembered(MOST_RUNS)

    def server_id(self, run_id: str) -> str:
        """Return the platform's id of a run. The id of a run that was not started here is taken for the platform's own."""
        return self._run_ids.get(run_id) or run_id

    def learn(self, run_id: str, server_id: str) -> None:
        self._run_ids.put(run_id, server_id)


class ClassicLane(SingleLane):
    """The events of one run, in order, each in its own request."""

    api = "AgentScope API"

    def __init__(self, state: ClassicState, batch: Batch, events: list[Event]) -> None:
        super().__init__(state, batch, events)
        self._runs = state

    def _request(self, event: Event) -> Request | None:
        table = RUN_FIELDS if event.step_id is None else STEP_FIELDS
        extra: dict[str, object] = {
            META_PREFIX + name: plain(name, value)
            for name, value in event.fields.items()
            if name in table and not table[name].classic and value is not None
        }
        key, path = self._id(event), "/api/ingest/run"
        if event.type == RUN_START:
            extra["agentscope_run_id"] = event.run_id
            return record_request("POST", path, run_record(event.fields, extra), key)
        path = f"{path}/{quote(self._runs.server_id(event.run_id), safe='')}"
        if event.type in (RUN_END, RUN_UPDATE):
            return record_request("PATCH", path, update_record(event.fields), key)
        if event.type == STEP:
            extra["agentscope_step_id"] = event.step_id
            if event.parent_id is not None:
                extra["agentscope_parent_id"] = event.parent_id
            return record_request("POST", f"{path}/step", step_record(event.fields, extra), key)
        return None

    def _learn(self, event: Event, answer: Mapping[str, Any]) -> bool:
        if event.type == RUN_START:
            server_id = answer.get("id")
            if type(server_id) not in (str, int) or server_id == "":
                return False
            self._runs.learn(event.run_id, str(server_id))
        return True

    def _creates(self, event: Event) -> bool:
        # A repeated update changes nothing; a repeated creation makes a second run or step.
        return event.type in (RUN_START, STEP)


# ---- records --------------------------------------------------------------------------------------------------------


def run_record(fields: Mapping[str, Any], extra_meta: Mapping[str, Any] = _NOTHING) -> bytes:
    """Return the body of `POST /api/ingest/run`.

    fields: `agent_name` and `external_id` (str), `input` and `meta_data` (JSON as bytes); None is the same as absent.
    extra_meta: keys that are put over those of `meta_data`; values are JSON as bytes, or plain values. Its
    `agentscope_run_id` stands in for an `external_id` that is missing.
    """
    record = _Record(fields)
    record.text("agent_name", default="unknown")
    record.text("external_id", default=extra_meta.get("agentscope_run_id"))
    record.payload("input")
    return record.with_meta(extra_meta)


def step_record(fields: Mapping[str, Any], extra_meta: Mapping[str, Any] = _NOTHING) -> bytes:
    """Return the body of `POST /api/ingest/run/{id}/step`.

    fields: `name` and `step_type` (str); `input`, `output`, `error` and `meta_data` (JSON as bytes); `tokens_used` and
    `latency_ms` (a number); `started_at` and `ended_at` (nanoseconds since the epoch, or ISO 8601 text, without a zone
    in UTC). extra_meta: as in `run_record`.
    """
    record = _Record(fields)
    record.text("name", default="step")
    step_type = fields.get("step_type") or "other"
    if step_type not in STEP_TYPES:
        extra_meta = {"step_type": _fitting(step_type), **extra_meta}
        step_type = "custom"
    record.put("step_type", dumps(step_type).encode())
    for name in ("input", "output", "error"):
        record.payload(name)
    for name in ("tokens_used", "latency_ms"):
        record.number(name)
    for name in ("started_at", "ended_at"):
        record.time(name)
    return record.with_meta(extra_meta)


def update_record(fields: Mapping[str, Any]) -> bytes:
    """Return the body of `PATCH /api/ingest/run/{id}`, which has no `meta_data` and so carries no other field of the run.

    fields: `status` (str), `output` and `error` (JSON as bytes), `ended_at` (as in `step_record`).
    """
    record = _Record(fields)
    record.text("status")
    record.payload("output")
    record.payload("error")
    record.time("ended_at")
    return record.body()


class _Record:
    """A body that is being built, and the notes about values that did not fit."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self._parts: list[bytes] = []
        self._cut: dict[str, Any] = {}

    def put(self, name: str, encoded: bytes) -> None:
        self._parts.append(b'"%b":%b' % (name.encode(), encoded))

    def text(self, name: str, default: str | None = None) -> None:
        value = self._fields.get(name)
        if value is None:
            value = default
        if value is not None:
            fitting = _fitting(value)
            if fitting != value:
                self._cut[name] = len(value)
            self.put(name, dumps(fitting).encode())

    def payload(self, name: str) -> None:
        value = self._fields.get(name)
        if value is not None and value != b"null":
            self.put(name, self._object(name, value))

    def number(self, name: str) -> None:
        value = self._fields.get(name)
        if value is None:
            return
        try:
            whole = round(value)
        except (OverflowError, TypeError, ValueError):  # an infinity, or no number
            self._cut[name] = _fitting(str(value))
            return
        fitting = min(max(whole, _LOWEST), _HIGHEST)
        if fitting != whole:
            self._cut[name] = whole if whole in _NOTABLE else "more than 64 bits"
        self.put(name, b"%d" % fitting)

    def time(self, name: str) -> None:
        value = self._fields.get(name)
        if value is None:
            return
        time = _naive(value)
        if time is None:
            self._cut[name] = _fitting(str(value))
        else:
            self.put(name, b'"%b"' % time.encode())

    def with_meta(self, extra: Mapping[str, Any]) -> bytes:
        meta = self._fields.get("meta_data")
        own = b"{}" if meta is None or meta == b"null" else self._object("meta_data", meta)
        if self._cut:
            extra = {**extra, "agentscope_cut": self._cut}
        merged = _merged(own, extra)
        if merged != b"{}" or meta is not None:
            self.put("meta_data", merged)
        return self.body()

    def body(self) -> bytes:
        return b"{%b}" % b",".join(self._parts)

    def _object(self, name: str, value: bytes) -> bytes:
        # The bytes are searched without parsing: payloads are large, and this package encoded them.
        if b"\\u0000" in value:
            original, value = value, _NUL.sub(rb"\1", value)
            if value != original:
                self._cut[name] = len(original)
        value = value.strip()
        return value if value.startswith(b"{") else b'{"value":%b}' % value


def _merged(meta: bytes, extra: Mapping[str, Any]) -> bytes:
    encoded = {name: value if isinstance(value, bytes) else dumps(value).encode() for name, value in extra.items()}
    if any(b'"%b"' % name.encode() in meta for name in encoded):
        # A name that stands twice has another value for each reader.
        theirs = json.loads(meta)
        return dumps({**theirs, **{name: json.loads(value) for name, value in encoded.items()}}).encode()
    additions = b",".join(b'"%b":%b' % (name.encode(), value) for name, value in encoded.items())
    own = meta[1:-1].strip()
    return b"{%b}" % b",".join(part for part in (own, additions) if part)


def _fitting(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text).replace("\0", "")[:MAX_TEXT]


def _naive(value: object) -> str | None:
    """Return a time in UTC without a zone, or None for a value that is no time."""
    try:
        return naive_utc(value) if isinstance(value, int) else normal_time(str(value))[:-1]
    except (OverflowError, ValueError):
        return None
