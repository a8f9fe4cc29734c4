"""Bodies of the ingest calls are decoded into patches, or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.protocols import json_decode as strict_json
from agentscope.protocols.agentscope.decode import (
    CLASSIC_SESSION,
    RESERVED_SESSIONS,
    Arrival,
    Batch,
    decode_batch,
    decode_run,
    decode_run_update,
    decode_step,
)
from agentscope.protocols.agentscope.fields import MAX_TOKENS, normal_time, time_text
from agentscope.protocols.json_decode import DecodeError
from agentscope.protocols.otlp.inbound import patches as otlp
from agentscope.protocols.voltagent import decode as history
from tests.support.receiver import TIME, envelope, run_start, step

ARRIVAL = Arrival("e", TIME, 3)


@pytest.fixture(params=["orjson", "json"], autouse=True)
def parser(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run every test with orjson and without it."""
    before = strict_json.orjson
    if request.param == "json":
        strict_json.orjson = None
    yield request.param
    strict_json.orjson = before


def decoded(*events: Any, **fields: Any) -> Batch:
    return decode_batch(json.dumps(envelope(*events, **fields)).encode())


def refusal(body: bytes) -> tuple[int, str]:
    with pytest.raises(DecodeError) as caught:
        decode_batch(body)
    return caught.value.status, str(caught.value)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def test_a_batch_becomes_patches_that_carry_their_place_in_the_order() -> None:
    first, second = run_start(id="a", seq=4), step(id="b", step_id="s", input={"q": "é"})
    batch = decoded(first, second, batch_id="B", session_id="S")
    assert (batch.batch_id, batch.session_id, batch.rejected, batch.dropped) == ("B", "S", [], {})
    assert [(patch.id, patch.type, patch.run_id, patch.step_id) for patch in batch.patches] == [
        ("a", "run.start", "run-1", None),
        ("b", "step", "run-1", "s"),
    ]
    assert (batch.patches[0].time, batch.patches[0].session_id, batch.patches[0].seq) == (TIME, "S", 4)
    assert json.loads(batch.patches[1].body) == second == batch.patches[1].fields


def test_a_session_in_an_event_gives_way_to_that_of_the_envelope() -> None:
    patch = decoded(step(session_id="mine"), session_id="S").patches[0]
    assert patch.session_id == "S"
    assert "session_id" not in json.loads(patch.body)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "id must be a string"),
        ({"id": ""}, "id must be a string"),
        ({"id": "x" * 256}, "id must be a string"),
        ({"id": "a\0b"}, "id must be a string"),
        ({"run_id": 7}, "run_id must be a string"),
        ({"type": "step.middle"}, "type must be one of"),
        ({"type": ["step"]}, "type must be one of"),
        ({"type": "run.start"}, "an event of type run.start names no step"),
        ({"step_id": None}, "step_id must be a string"),
        ({"parent_id": 1}, "parent_id must be null or a string"),
        ({"seq": True}, "seq must be a whole number"),
        ({"seq": -1}, "seq must be a whole number"),
        ({"seq": 1 << 63}, "seq must be a whole number"),
        ({"seq": 10**400}, "seq must be a whole number"),
        ({"time": None}, "time must be an RFC 3339 time"),
        ({"time": "yesterday"}, "time must be an RFC 3339 time"),
        ({"name": 1}, "name must be a string"),
        ({"started_at": 5}, "started_at must be an RFC 3339 time"),
        ({"ended_at": "2026-13-01T00:00:00Z"}, "ended_at must be an RFC 3339 time"),
        ({"tokens_used": "5"}, "tokens_used must be a whole number"),
        ({"tokens_used": True}, "tokens_used must be a whole number"),
        ({"tokens_used": 1.5}, "tokens_used must be a whole number"),
        ({"latency_ms": "quick"}, "latency_ms must be a number of milliseconds"),
        ({"tags": "a"}, "tags must be a list of strings"),
        ({"truncated": [1]}, "truncated must be a list of strings"),
    ],
)
def test_an_event_that_is_wrong_is_rejected_with_a_reason_and_its_neighbours_are_kept(
    change: dict[str, Any], reason: str
) -> None:
    wrong = step(**{"id": "wrong", **change})
    batch = decoded(step(id="a"), wrong, step(id="b"))
    assert [patch.id for patch in batch.patches] == ["a", "b"]
    assert len(batch.rejected) == 1
    assert batch.rejected[0]["id"] == wrong["id"]
    assert batch.rejected[0]["reason"].startswith(reason)


def test_an_event_that_is_no_object_is_rejected_without_an_id() -> None:
    assert decoded([1]).rejected == [{"id": None, "reason": "an event must be an object"}]


def test_nulls_are_kept_as_values_and_whole_floats_become_token_counts() -> None:
    patch = decoded(step(tokens_used=5.0, latency_ms=1.5, name=None, tags=["a"])).patches[0]
    assert (patch.fields["tokens_used"], patch.fields["latency_ms"], patch.fields["name"]) == (5, 1.5, None)
    assert type(patch.fields["tokens_used"]) is int


def test_a_token_count_beyond_64_bits_is_taken_as_the_most_that_a_step_can_have() -> None:
    assert decoded(step(tokens_used=10**30)).patches[0].fields["tokens_used"] == MAX_TOKENS


def test_times_come_out_in_one_form_that_sorts_as_text() -> None:
    patch = decoded(step(time="2026-01-31T13:00:00.5+01:00", started_at="2026-01-31 12:00:00")).patches[0]
    assert patch.time == patch.fields["time"] == "2026-01-31T12:00:00.500000Z"
    assert patch.fields["started_at"] == TIME


@pytest.mark.parametrize(
    ("given_time", "expected"),
    [
        (TIME, TIME),
        ("2026-01-31T12:00:00", TIME),
        ("2026-01-31t12:00:00z", TIME),
        ("2026-01-31T10:30:00-01:30", TIME),
        ("2026-01-31T12:00:00.123456789Z", "2026-01-31T12:00:00.123456Z"),
    ],
)
def test_naive_and_zoned_times_are_read_as_utc(given_time: str, expected: str) -> None:
    assert normal_time(given_time) == expected


@pytest.mark.parametrize(
    "text", ["", "2026-01-31", "0001-01-01T00:00:00+05:00", "２０２６-01-31T12:00:00Z", TIME + "\n"]
)
def test_an_invalid_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        normal_time(text)


@given(st.datetimes(), st.integers(-1439, 1439))
def test_any_moment_survives_being_written_with_any_offset(moment: datetime, minutes: int) -> None:
    zoned = moment.replace(tzinfo=timezone.utc)
    try:
        text = zoned.astimezone(timezone(timedelta(minutes=minutes))).isoformat()
    except OverflowError:
        return
    assert normal_time(text) == time_text(zoned)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b'{"events": [NaN]}', 400, "NaN is not a JSON number"),
        (b'{"events": [-Infinity]}', 400, "not a JSON number"),
        (b'{"events": ["\xff"]}', 400, "not valid UTF-8"),
        (b"[" * 100_000, 400, "nested deeper than 64"),
        (b'{"events":[' + b"9" * 5000 + b"]}", 400, "not JSON"),
        (b"[]", 422, "must be a JSON object"),
        (b"{}", 422, "events must be a list"),
        (b'{"events": {}}', 422, "events must be a list"),
    ],
)
def test_a_body_that_cannot_be_understood_is_refused_whole(body: bytes, status: int, words: str) -> None:
    got, detail = refusal(body)
    assert got == status
    assert words in detail


@pytest.mark.parametrize(
    "fields",
    [
        {"batch_id": 1},
        {"batch_id": ""},
        {"session_id": None},
        {"session_id": "a\0"},
        {"session_id": "\ud800"},
        {"dropped": {}},
        {"dropped": [1]},
        {"dropped": [{"reason": "", "count": 1}]},
        {"dropped": [{"reason": "\udfff", "count": 1}]},
        {"dropped": [{"reason": "queue_full", "count": -1}]},
        {"dropped": [{"reason": "queue_full", "count": 1 << 60}]},
        {"dropped": [{"reason": "queue_full", "count": 1.0}]},
    ],
)
def test_a_wrong_envelope_is_refused_whole(fields: dict[str, Any]) -> None:
    assert refusal(json.dumps(envelope(step(), **fields)).encode())[0] == 422


def test_drops_reported_by_the_sender_are_added_up_by_reason() -> None:
    reports = [{"reason": "queue_full", "count": 2}, {"reason": "shutdown", "count": 1}]
    assert decoded(dropped=[*reports, reports[0]]).dropped == {"queue_full": 4, "shutdown": 1}
    assert decoded(dropped=None).dropped == {}


@pytest.mark.parametrize("depth", [61, 62, 63, 240, 600, 970])
def test_depth_is_bounded_to_64_from_the_root_of_the_body(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    body = json.dumps(envelope(step(input="DEEP"))).replace('"DEEP"', deep).encode()
    if depth <= 61:  # the envelope, its list and the event are the other three levels
        assert decode_batch(body).patches
    else:
        assert refusal(body)[0] == 400


def test_depth_is_bounded_outside_of_the_events_too() -> None:
    assert refusal(json.dumps(envelope(sdk=nested(64))).encode())[0] == 400
    assert decoded(sdk=nested(63)).patches == []


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert len(decoded(step(input=[[]] * 500)).patches) == 1


def test_brackets_in_text_are_not_deep() -> None:
    assert len(decoded(step(input="[" * 500)).patches) == 1


def test_a_body_of_too_many_values_is_too_large() -> None:
    assert refusal(b'{"events": [' + b"{}," * 350_000 + b"{}]}")[0] == 413


def test_a_large_body_of_few_values_is_fine() -> None:
    assert len(decoded(step(input="x" * 2_000_000)).patches) == 1


def test_lone_surrogates_reject_their_event_only() -> None:
    batch = decoded(step(id="a", input="\ud800"), step(id="\udfff"), step(id="b"))
    assert [patch.id for patch in batch.patches] == ["b"]
    assert [wrong["id"] for wrong in batch.rejected] == ["a", None]


def test_numbers_beyond_a_double_reject_their_event_only() -> None:
    body = json.dumps(envelope(step(id="a", input="HUGE"), step(id="b"))).replace('"HUGE"', "1e999")
    batch = decode_batch(body.encode())
    assert [patch.id for patch in batch.patches] == ["b"]
    assert "out of range" in batch.rejected[0]["reason"]


def test_integers_beyond_64_bits_in_a_payload_are_taken() -> None:
    patch = decoded(step(input=2**100)).patches[0]
    assert json.loads(patch.body)["input"] == pytest.approx(2**100)


def test_of_keys_that_come_twice_the_last_counts_everywhere() -> None:
    body = json.dumps(envelope(step(name="first"))).replace('"name": "first"', '"name": "first", "name": "last"', 1)
    patch = decode_batch(body.encode()).patches[0]
    assert patch.fields["name"] == "last"
    assert patch.body.count('"name"') == 1


def test_keys_that_come_twice_within_a_payload_are_stored_once() -> None:
    body = json.dumps(envelope(step(input="@"))).replace('"@"', '{"a": 1, "a": 2}')
    assert json.loads(decode_batch(body.encode()).patches[0].body, object_pairs_hook=list)[-1] == ("input", [("a", 2)])


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
writings = st.fixed_dictionaries(
    {"ensure_ascii": st.booleans(), "indent": st.none() | st.just(1), "separators": st.none() | st.just((",", ":"))}
)


@given(st.lists(values, max_size=4), writings, st.permutations(["batch_id", "session_id", "events", "dropped"]))
def test_however_a_body_is_written_its_events_are_stored_as_what_they_say(
    payloads: list[Any], writing: dict[str, Any], order: list[str]
) -> None:
    events = [step(input=value, session_id="other") if n % 2 else step(input=value) for n, value in enumerate(payloads)]
    document = envelope(*events)
    body = json.dumps({name: document[name] for name in order}, **writing).encode()
    batch, lean = decode_batch(body), decode_batch(body, lean=True)
    for event, patch, thin in zip(events, batch.patches, lean.patches, strict=True):
        event.pop("session_id", None)
        assert json.loads(patch.body) == patch.fields == event
        assert (thin.body, thin.session_id) == (patch.body, patch.session_id) == (patch.body, "session-1")
        assert "input" not in thin.fields


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=20))
def test_no_event_of_any_shape_breaks_the_decoder(value: Any) -> None:
    for name in ("id", "run_id", "step_id", "parent_id", "seq", "time", "type", "name", "tokens_used", "tags"):
        try:
            batch = decoded(step(**{name: value}))
        except DecodeError:
            continue  # a value that makes the body invalid JSON
        assert len(batch.patches) + len(batch.rejected) == 1


def test_a_classic_run_is_a_start_made_by_the_server() -> None:
    body = {"agent_name": "a", "external_id": None, "input": {"q": 1}, "meta_data": {"agentscope_run_id": "mine"}}
    patch = decode_run(json.dumps(body).encode(), "r", ARRIVAL)
    assert (patch.id, patch.type, patch.run_id, patch.step_id, patch.seq) == ("e", "run.start", "r", None, 3)
    assert patch.fields["meta_data"] == {"agentscope_run_id": "mine"}
    assert (patch.fields["status"], patch.fields["started_at"]) == ("running", TIME)
    assert "external_id" not in patch.fields
    assert json.loads(patch.body) == patch.fields


def test_a_classic_step_is_one_finished_event() -> None:
    body = {"name": "s", "error": {"message": "no"}, "started_at": "2026-01-31T12:00:00", "tokens_used": None}
    patch = decode_step(json.dumps(body).encode(), "r", "s1", ARRIVAL)
    assert (patch.type, patch.step_id, patch.fields["step_type"]) == ("step", "s1", "other")
    assert (patch.fields["status"], patch.fields["started_at"]) == ("failed", TIME)
    assert "tokens_used" not in patch.fields


def test_a_classic_step_without_an_error_is_completed() -> None:
    assert decode_step(b'{"name": "s"}', "r", "s1", ARRIVAL).fields["status"] == "completed"


@pytest.mark.parametrize(
    ("body", "kind", "ended_at"),
    [
        ({"status": "completed"}, "run.end", TIME),
        ({"status": "failed", "ended_at": "2026-01-31T13:00:00"}, "run.end", "2026-01-31T13:00:00.000000Z"),
        ({"status": "running"}, "run.update", None),
        ({"output": {"a": 1}}, "run.update", None),
    ],
)
def test_a_classic_update_ends_a_run_unless_it_still_runs(body: Any, kind: str, ended_at: str | None) -> None:
    patch = decode_run_update(json.dumps(body).encode(), "r", ARRIVAL)
    assert (patch.type, patch.fields.get("ended_at")) == (kind, ended_at)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{}", 422),
        (b"[]", 422),
        (b'{"agent_name": 1}', 422),
        (b'{"agent_name": "a", "external_id": {}}', 422),
        (b'{"agent_name": "\\ud800"}', 422),
        (b'{"agent_name": "a", "input": 1e999}', 422),
        (b'{"agent_name": "a", "input": ' + b"[" * 64 + b"]" * 64 + b"}", 400),
        (b'{"agent_name": "a", "input": ' + b"[" * 100_000, 400),
        (b"nonsense", 400),
    ],
)
def test_a_wrong_classic_run_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_run(body, "r", ARRIVAL)
    assert caught.value.status == status


def test_a_classic_step_needs_a_name() -> None:
    with pytest.raises(DecodeError, match="name is required"):
        decode_step(b"{}", "r", "s1", ARRIVAL)


# ---- the fields of the table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("model", 5, "a string"),
        ("provider", ["a"], "a string"),
        ("cost_usd", "much", "a number"),
        ("cost_usd", True, "a number"),
        ("first_token_ms", "soon", "a number of milliseconds"),
        ("environment", 1, "a string"),
        ("tags", "a", "a list of strings"),
    ],
)
def test_a_field_of_a_wrong_type_rejects_its_event(field: str, value: Any, expected: str) -> None:
    batch = decoded(step(**{field: value}), step())
    assert [item["reason"] for item in batch.rejected] == [f"{field} must be {expected}"]
    assert len(batch.patches) == 1


def test_a_classic_call_has_the_fields_without_a_place_in_its_meta_data() -> None:
    noted = {
        "agentscope_model": "gpt-5",
        "agentscope_usage": {"input_tokens": 3},
        "agentscope_cost_usd": 0.5,
        "mine": 1,
    }
    body = json.dumps({"name": "chat", "step_type": "llm_call", "meta_data": noted}).encode()
    patch = decode_step(body, "r", "s", ARRIVAL)
    assert patch.fields["model"] == "gpt-5"
    assert patch.fields["usage"] == {"input_tokens": 3}
    assert patch.fields["cost_usd"] == 0.5
    assert patch.fields["meta_data"] == {"mine": 1}
    run_body = json.dumps({"agent_name": "a", "meta_data": {"agentscope_user_id": "u", "agentscope_tags": ["t"]}})
    run_patch = decode_run(run_body.encode(), "r", ARRIVAL)
    assert (run_patch.fields["user_id"], run_patch.fields["tags"]) == ("u", ["t"])


def test_a_key_of_another_sender_that_looks_like_a_field_stays_in_the_meta_data() -> None:
    body = json.dumps({"name": "chat", "meta_data": {"agentscope_cost_usd": "much"}}).encode()
    patch = decode_step(body, "r", "s", ARRIVAL)
    assert "cost_usd" not in patch.fields
    assert patch.fields["meta_data"] == {"agentscope_cost_usd": "much"}


def test_the_sessions_of_the_other_protocols_are_reserved() -> None:
    assert {CLASSIC_SESSION, history.SESSION, otlp.SESSION} == RESERVED_SESSIONS
