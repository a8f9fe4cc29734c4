"""No value of any field, in any protocol, is stored that a later request cannot add up, list, show or count."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope.events import FIELDS, MILLISECONDS, NUMBER, RUN_FIELDS, STEP_FIELDS, WHOLE
from agentscope.protocols.agentscope.decode import MOST_REASONS, Batch, decode_batch
from agentscope.protocols.agentscope.fields import MAX_COST, MAX_MILLISECONDS, MAX_TEXT, MAX_TEXTS, MAX_TOKENS
from agentscope.protocols.otlp.inbound.attribute_names import ALIASES
from agentscope.server.app import create_app
from agentscope.server.storage.base import Store
from agentscope.server.storage.sqlite.store import SQLiteStore
from tests.support.receiver import envelope, run_start, step
from tests.unit.server.storage.memory_store import MemoryStore

KEYS = {"x-agentscope-key": "k", "x-public-key": "p", "x-secret-key": "s"}
BOUNDS = {WHOLE: MAX_TOKENS, NUMBER: MAX_COST, MILLISECONDS: MAX_MILLISECONDS}
NUMBERS = (10**400, -(10**400), 1 << 53, 1 << 63, -(1 << 63), 1e308, -1e308, 1.7976931348623157e308, 5e-324, -0.0)
VALUES = (
    *NUMBERS,
    *(None, True, False, "", "x" * 5000, "\0", "\u202e\u2066", "..", "a/b", "2" * 400, "1e999", "-1"),
    *("9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z", "0000-00-00T00:00:00Z", "9999-12-31T23:59:59-23:59"),
    *([], {}, [1], ["t"] * 1001, ["t" * 5000], {"total_tokens": 10**400}, {"input_tokens": -(10**400)}, {"a": []}),
    *({"prompt_tokens_details": {"cached_tokens": 10**400}}, {"type": 1, "message": [], "traceback": {}}, [[[[]]]]),
)
values = st.sampled_from(VALUES) | st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


class Call(NamedTuple):
    """One request, and the names of the members of its body that take any value."""

    method: str
    path: str
    names: tuple[str, ...]
    body: Callable[[dict[str, Any]], Any]


def _event(kind: str, **head: Any) -> Callable[[dict[str, Any]], Any]:
    plain = {"id": "e", "seq": 1, "time": "2026-01-31T12:00:00Z", "type": kind, "run_id": "r", **head}
    return lambda given: envelope({**plain, **given})


def _attribute(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_attribute(item) for item in value]}}
    return {"stringValue": value if isinstance(value, str) else json.dumps(value)}


def _spans(given: dict[str, Any]) -> Any:
    times = {"startTimeUnixNano": "1769860800000000000", "endTimeUnixNano": "1769860801000000000"}
    attributes = [{"key": name, "value": _attribute(value)} for name, value in given.items()]
    ids = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331"}
    child = {**ids, "spanId": "b7ad6b7169203332", "parentSpanId": ids["spanId"], "name": "child", **times}
    spans = [{**ids, "name": "root", **times, "attributes": attributes}, {**child, "attributes": attributes}]
    return {"resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": [{"spans": spans}]}]}


def _span(given: dict[str, Any]) -> Any:
    ids = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331"}
    span = {**ids, "name": "x", "startTimeUnixNano": "1769860800000000000", "endTimeUnixNano": "1769860801000000000"}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [{**span, **given}]}]}]}


def _history(**needed: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda given: {**needed, **given}


_OF_SPANS = ("traceId", "spanId", "parentSpanId", "name", "kind", "startTimeUnixNano", "endTimeUnixNano")
_MORE_OF_SPANS = ("attributes", "events", "links", "status", "flags", "traceState", "droppedAttributesCount")
_ATTRIBUTES = sorted(
    {attribute for field in FIELDS.values() for attribute in field.attributes}
    | {name for names in ALIASES.values() for name in names}
    | {"gen_ai.usage.input_tokens", "llm.token_count.prompt", "gen_ai.response.time_to_first_chunk"}
    | {"input.value", "output.value", "metadata", "agentscope.usage", "agentscope.started_at", "agentscope.ended_at"}
    | {"agentscope.run.id", "agentscope.step.id", "agentscope.parent.id", "agentscope.step.type"}
)
_OF_HISTORY = ("agent_id", "userId", "conversationId", "status", "startTime", "endTime", "completionStartTime")
_MORE_OF_HISTORY = ("metadata", "usage", "tags", "input", "output", "level", "version", "status_message", "id")
_HISTORY = (*_OF_HISTORY, *_MORE_OF_HISTORY)
_EVENT_NAMES = (*_HISTORY, "history_id", "event_type", "event_name", "parent_event_id")
_ADDED = {"history_id": "r", "event_type": "tool", "event_name": "tool:start"}
_HEAD = ("id", "seq", "time", "type", "run_id", "step_id", "parent_id")
CALLS = {
    "batch, run": Call("POST", "/api/ingest/batch", (*_HEAD, *RUN_FIELDS), _event("run.start")),
    "batch, step": Call("POST", "/api/ingest/batch", (*_HEAD, *STEP_FIELDS), _event("step", step_id="s")),
    "batch, envelope": Call(
        "POST",
        "/api/ingest/batch",
        ("batch_id", "session_id", "dropped", "heartbeat_seconds", "sdk", "events"),
        lambda given: {**envelope(run_start("r")), **given},
    ),
    "batch, drops": Call(
        "POST",
        "/api/ingest/batch",
        ("reason", "count"),
        lambda given: envelope(dropped=[{"reason": "queue_full", "count": 1, **given}]),
    ),
    "classic, run": Call("POST", "/api/ingest/run", tuple(RUN_FIELDS), _history(agent_name="a")),
    "classic, update": Call("PATCH", "/api/ingest/run/r", tuple(RUN_FIELDS), _history()),
    "classic, step": Call("POST", "/api/ingest/run/r/step", tuple(STEP_FIELDS), _history(name="s")),
    "classic, noted": Call(
        "POST",
        "/api/ingest/run/r/step",
        tuple(STEP_FIELDS),
        lambda given: {"name": "s", "meta_data": {f"agentscope_{name}": value for name, value in given.items()}},
    ),
    "history, run": Call("POST", "/history", _HISTORY, _history(agent_id="a")),
    "history, update": Call("PATCH", "/history/r", _HISTORY, _history()),
    "history, event": Call("POST", "/history-events", _EVENT_NAMES, _history(**_ADDED)),
    "history, note": Call(
        "POST",
        "/history-events",
        tuple(STEP_FIELDS),
        lambda given: {
            **_ADDED,
            "metadata": {"agentscope": {"type": "step.start", "stepId": "s", "fields": given}},
        },
    ),
    "OTLP, attributes": Call("POST", "/v1/traces", tuple(_ATTRIBUTES), _spans),
    "OTLP, span": Call("POST", "/v1/traces", (*_OF_SPANS, *_MORE_OF_SPANS), _span),
}


ANSWERS = (200, 201, 400, 404, 413, 422)
_WATCHED = {
    *(name for name, field in FIELDS.items() if field.type in BOUNDS),
    *("usage", "status", "started_at", "endTime", "truncated", "tags", "seq", "time", "count", "heartbeat_seconds"),
}


class Receiver:
    """A receiver's application over a store with one run, without a socket."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._app = create_app(self.store, allowed_hosts=["testserver"])
        self.send("POST", "/api/ingest/batch", envelope(run_start("r"), step("r", step_id="s")))

    def send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=KEYS) as client:
                content = None if body is None else json.dumps(body)
                return await client.request(method, path, content=content, headers={"content-type": "application/json"})

        return asyncio.run(send())

    def assert_all_can_be_read(self) -> None:
        health = self.send("GET", "/health")
        assert health.status_code == 200
        assert len(health.content) < 20_000
        assert self.send("GET", "/").status_code == 200
        listed = self.send("GET", "/api/runs?limit=500").json()["runs"]
        assert listed
        for run in listed:
            name = quote(run["id"], safe="")
            for path in (f"/api/runs/{name}", f"/runs/{name}", f"/api/runs/{name}/events"):
                if run["id"] not in (".", ".."):  # clients resolve these before they send them
                    assert self.send("GET", path).status_code == 200, path
            _assert_bounded(run)
            shown = self.send("GET", f"/api/runs/{name}").json() if run["id"] not in (".", "..") else {"steps": []}
            for item in (shown, *shown["steps"]):
                _assert_bounded(item)


def _assert_bounded(item: dict[str, Any]) -> None:
    """The numbers are exact in JavaScript, too, and the texts have a bound."""
    for name, value in item.items():
        field = FIELDS.get(name)
        if value is not None and field is not None and field.type in BOUNDS and name != "cost_usd":
            assert abs(value) <= 1 << 53, name
        if isinstance(value, str) and field is not None and field.type == "text":
            assert len(value) <= MAX_TEXT, name
    usage = item.get("usage")
    for number in _numbers(usage if isinstance(usage, dict) else {}):
        assert abs(number) <= MAX_TOKENS


def _numbers(value: Any) -> Iterator[float]:
    for item in value.values() if isinstance(value, dict) else ():
        if isinstance(item, dict):
            yield from _numbers(item)
        elif type(item) in (int, float):
            yield item


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    opened = Receiver(SQLiteStore())
    yield opened
    opened.store.close()


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_each_number_takes_or_refuses_each_odd_value_and_everything_can_be_read(call: Call, receiver: Receiver) -> None:
    for value in VALUES:
        for names in [[name] for name in call.names if name in _WATCHED] or [call.names]:
            answer = receiver.send(call.method, call.path, call.body(dict.fromkeys(names, value)))
            assert answer.status_code in ANSWERS, (names, value, answer.text)
    receiver.assert_all_can_be_read()


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
@given(data=st.data())
@settings(deadline=None)
def test_any_values_of_all_fields_are_taken_or_refused_and_everything_can_be_read(
    call: Call, data: st.DataObject
) -> None:
    receiver = Receiver(MemoryStore())
    body = data.draw(st.dictionaries(st.sampled_from(call.names), values, max_size=6))
    answer = receiver.send(call.method, call.path, call.body(body))
    assert answer.status_code in ANSWERS, answer.text
    receiver.assert_all_can_be_read()


def test_rows_from_before_the_checks_are_shown(receiver: Receiver) -> None:
    names = ("started_at", "tokens_used", "latency_ms", "cost_usd", "first_token_ms", "usage", "tags", "name", "error")
    patches = []
    for number, (name, value) in enumerate(itertools.product(names, VALUES)):
        event = step("r", step_id=f"s{number}")
        (patch,) = decode_batch(json.dumps(envelope(event)).encode()).patches
        patches.append(patch._replace(body=json.dumps({**event, name: value})))
    receiver.store.ingest(decode_batch(json.dumps(envelope()).encode())._replace(patches=patches)).result()
    for future in [receiver.store.ingest(_drops("old", 1 << 53)) for _ in range(1100)]:
        future.result()
    receiver.assert_all_can_be_read()
    assert receiver.send("GET", "/health").json()["dropped"]["old"] > 1 << 52


def _drops(reason: str, count: int) -> Batch:
    return decode_batch(json.dumps(envelope()).encode())._replace(dropped={reason: count})


def test_ninety_thousand_reasons_are_told_in_a_few_lines(receiver: Receiver) -> None:
    drops = [{"reason": f"reason {number}", "count": 1} for number in range(90_000)]
    for start in range(0, 90_000, 30_000):
        assert (
            receiver.send("POST", "/api/ingest/batch", envelope(dropped=drops[start : start + 30_000])).status_code
            == 200
        )
    for start in range(0, 300, 10):
        receiver.send(
            "POST", "/api/ingest/batch", envelope(dropped=[{**drop, "count": 2} for drop in drops[start : start + 10]])
        )
    dropped = receiver.send("GET", "/health").json()["dropped"]
    assert len(dropped) <= MOST_REASONS + 1
    assert sum(dropped.values()) == 90_000 + 600


def test_counts_that_exceed_64_bits_together_leave_health_readable(receiver: Receiver) -> None:
    for _ in range(3):
        drops = [{"reason": "queue_full", "count": 1 << 53}] * 1024
        assert receiver.send("POST", "/api/ingest/batch", envelope(dropped=drops)).status_code == 200
    assert receiver.send("GET", "/health").json()["dropped"]["queue_full"] == 3 * 10**12


def test_a_name_that_is_too_long_is_cut_and_told_to_be(receiver: Receiver) -> None:
    sent = step("r", step_id="long", name="n" * 100_000, model="m" * 100_000)
    receiver.send("POST", "/api/ingest/batch", envelope(sent, run_start("r", tags=["t"] * 5000)))
    run = receiver.send("GET", "/api/runs/r").json()
    (long,) = [each for each in run["steps"] if each["id"] == "long"]
    assert (len(long["name"]), len(long["model"]), long["truncated"]) == (MAX_TEXT, MAX_TEXT, ["model", "name"])
    assert (len(run["tags"]), run["truncated"]) == (MAX_TEXTS, ["tags"])
