"""Bodies of the history calls: known fields have a field of the API, and the note holds the others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import RUN_END, RUN_START, RUN_UPDATE, STEP_UPDATE, Event
from agentscope.protocols.json_encode import UNENCODABLE
from agentscope.protocols.voltagent.records import (
    Place,
    Record,
    event_update,
    history_record,
    history_update,
    start_record,
    verdict_record,
)
from agentscope.protocols.voltagent.vocabulary import camel_case, camel_case_metadata
from tests.support.events import NOON, event, strict
from tests.support.history import ended, started

PLACE = Place("srv", "above", "Helper")
NOON_TEXT = "2026-01-31T12:00:00.000000+00:00"


def body(record: Record) -> dict[str, Any]:
    """A body without its note."""
    found: dict[str, Any] = strict(record.body)
    found["metadata"].pop("agentscope")
    return found


def note(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = strict(record.body)["metadata"]["agentscope"]
    return found


def run_start(**fields: Any) -> Event:
    return event(1, RUN_START, "run-1", status="running", **fields)


# ---- runs --------------------------------------------------------------------------------------------------------------


def test_the_start_of_a_run_is_a_history_under_the_id_of_the_run() -> None:
    record = history_record(
        run_start(
            started_at=NOON,
            user_id="u",
            conversation_id="c",
            tags=["t"],
            input=b'{"q":1}',
            source="voltagent",
            meta_data=b'{"team":"a"}',
        )
    )
    assert body(record) == {
        "id": "run-1",
        "agent_id": "agent",
        "userId": "u",
        "conversationId": "c",
        "startTime": NOON_TEXT,
        "status": "working",
        "tags": ["t"],
        "input": {"q": 1},
        "metadata": {"agentId": "agent", "team": "a"},
    }
    assert note(record) == {
        "type": "run.start",
        "runId": "run-1",
        "fields": {
            "agent_name": "agent",
            "status": "running",
            "started_at": "2026-01-31T12:00:00.000000Z",
            "user_id": "u",
            "conversation_id": "c",
            "tags": ["t"],
            "source": "voltagent",
        },
        "added": ["agentId"],
    }
    assert json.loads(record.metadata) == {"agentId": "agent", "team": "a"}


def test_fields_that_an_event_does_not_set_are_not_in_the_body() -> None:
    assert body(history_record(run_start())) == {
        "id": "run-1",
        "agent_id": "agent",
        "status": "working",
        "metadata": {"agentId": "agent"},
    }
    assert body(history_update(event(1, RUN_UPDATE))) == {"metadata": {}}
    assert body(event_update(event(1, STEP_UPDATE, name=None))) == {"metadata": {}}


def test_version_level_and_completion_start_of_a_trace_have_fields_of_their_own() -> None:
    meta_data = b'{"version":"1","level":"DEBUG","completionStartTime":"2026-01-31T12:00:00Z"}'
    found = body(history_record(run_start(meta_data=meta_data)))
    assert (found["version"], found["level"], found["completionStartTime"]) == ("1", "DEBUG", "2026-01-31T12:00:00Z")
    odd = body(history_record(run_start(meta_data=b'{"version":1,"level":"odd"}')))
    assert not odd.keys() & {"version", "level"}


@pytest.mark.parametrize(
    ("status", "sent", "error"),
    [("completed", "completed", None), ("failed", "error", None), ("unfinished", "error", "unfinished")],
)
def test_a_run_ends_well_or_badly_and_what_is_neither_says_what_it_is(status: str, sent: str, error: Any) -> None:
    record = history_update(
        event(1, RUN_END, status=status, ended_at=NOON, output=b'{"a":1}', usage=b'{"total_tokens":3}')
    )
    found = body(record)
    assert (found["status"], found["metadata"].get("error")) == (sent, error)
    assert (found["end_time"], found["output"], found["usage"]) == (NOON_TEXT, {"a": 1}, {"total_tokens": 3})
    assert note(record)["fields"]["status"] == status


@pytest.mark.parametrize(
    ("error", "status"), [(None, "completed"), (b"null", "completed"), (b"{}", "completed"), (b'"no"', "error")]
)
def test_an_end_that_does_not_say_how_has_the_outcome_that_the_receiver_gives_it(error: Any, status: str) -> None:
    fields = {} if error is None else {"error": error}
    assert body(history_update(event(1, RUN_END, **{"status": None, **fields})))["status"] == status
    step = body(verdict_record(ended(1, "s", **{"status": None, **fields}), PLACE))
    assert (step["status"], step["event_name"]) == (status, "tool:success" if status == "completed" else "tool:error")


def test_an_update_says_only_a_status_that_the_api_knows() -> None:
    assert body(history_update(event(1, RUN_UPDATE, status="running")))["status"] == "working"
    assert "status" not in body(history_update(event(1, RUN_UPDATE, status="thinking")))


# ---- steps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step_type", "event_type", "start", "success", "error"),
    [
        ("agent", "agent", "agent:start", "agent:success", "agent:error"),
        ("tool_call", "tool", "tool:start", "tool:success", "tool:error"),
        ("memory", "memory", "memory:write_start", "memory:write_success", "memory:write_error"),
        ("retrieval", "retriever", "retriever:start", "retriever:success", "retriever:error"),
        ("llm_call", "tool", "tool:start", "tool:success", "tool:error"),
        ("reasoning", "tool", "tool:start", "tool:success", "tool:error"),
        ("of their own", "tool", "tool:start", "tool:success", "tool:error"),
    ],
)
def test_the_names_of_events_are_those_of_the_api(
    step_type: str, event_type: str, start: str, success: str, error: str
) -> None:
    first = start_record(started(1, "s", step_type=step_type), PLACE)
    good = verdict_record(ended(2, "s", step_type=step_type), PLACE)
    bad = verdict_record(ended(2, "s", step_type=step_type, status="failed"), PLACE)
    assert [body(record)["event_name"] for record in (first, good, bad)] == [start, success, error]
    assert {body(record)["event_type"] for record in (first, good, bad)} == {event_type}
    assert note(first)["fields"]["step_type"] == step_type


def test_a_step_begins_with_a_start_below_its_parent() -> None:
    record = start_record(
        started(1, "s", parent_id="p", started_at=NOON, input=b'{"q":1}', meta_data=b'{"k":1}', level="DEBUG"), PLACE
    )
    assert body(record) == {
        "history_id": "srv",
        "event_type": "tool",
        "event_name": "tool:start",
        "parent_event_id": "above",
        "start_time": NOON_TEXT,
        "status": "running",
        "level": "DEBUG",
        "input": {"q": 1},
        "metadata": {"displayName": "s", "id": "s", "agentId": "Helper", "k": 1},
    }
    assert (note(record)["stepId"], note(record)["parentId"]) == ("s", "p")


def test_a_step_ends_with_a_success_at_the_time_of_its_end() -> None:
    event = ended(1, "s", started_at=NOON - 1, ended_at=NOON, output=b'{"a":1}', usage=b'{"total_tokens":2}')
    assert body(verdict_record(event, PLACE, {"displayName": "mine", "instructions": "be kind"})) == {
        "history_id": "srv",
        "event_type": "tool",
        "event_name": "tool:success",
        "parent_event_id": "above",
        "start_time": NOON_TEXT,
        "end_time": NOON_TEXT,
        "status": "completed",
        "level": "INFO",
        "output": {"a": 1},
        "metadata": {
            "displayName": "mine",
            "id": "s",
            "agentId": "Helper",
            "instructions": "be kind",
            "usage": {"total_tokens": 2},
        },
    }


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (b'{"type":"E","message":"no"}', {"type": "E", "message": "no"}),
        (b'"no"', "no"),
        (b"[1]", {"value": [1]}),
        (None, None),
    ],
)
def test_an_error_is_the_status_message_of_its_event(error: Any, message: Any) -> None:
    found = body(verdict_record(ended(1, "s", status="failed", error=error), PLACE))
    assert (found["status"], found["level"], found.get("status_message")) == ("error", "ERROR", message)
    run = body(history_update(event(1, RUN_END, status="failed", error=error)))
    assert run["metadata"].get("error") == message


def test_a_step_that_was_never_ended_is_cancelled_and_says_why() -> None:
    found = body(verdict_record(ended(1, "s", status="unfinished"), PLACE))
    assert (found["status"], found["status_message"], found["level"]) == ("cancelled", "unfinished", "WARNING")


@pytest.mark.parametrize(
    ("status", "sent", "message"),
    [
        ("running", "running", None),
        ("completed", "completed", None),
        ("failed", "error", {"message": "no"}),
        ("odd", "cancelled", "odd"),
    ],
)
def test_an_update_of_a_step_carries_what_it_sets(status: str, sent: str, message: Any) -> None:
    update = event(1, STEP_UPDATE, status=status, output=b"{}", error=b'{"message":"no"}', ended_at=NOON, level="ERROR")
    found = body(event_update(update, "Helper", {"displayName": "s"}))
    assert (found["status"], found.get("status_message"), found["end_time"]) == (sent, message, NOON_TEXT)
    assert (found["output"], found["level"]) == ({}, "ERROR")
    assert found["metadata"] == {"displayName": "s", "agentId": "Helper"}


# ---- payloads and metadata ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"[1]", b'"text"', b"7", b"null", b" [1]"])
def test_a_payload_that_is_no_object_is_wrapped(payload: bytes) -> None:
    record = start_record(started(1, "s", input=payload), PLACE)
    assert body(record)["input"] == {"value": json.loads(payload)}
    assert note(record)["wrapped"] == ["input"]


def test_payloads_are_left_as_they_are() -> None:
    payload = b'{"snake_case": {"inner_key": 1.50}, "n":1e3}'
    assert payload in start_record(started(1, "s", input=payload), PLACE).body


def test_keys_of_metadata_are_camel_cased_and_the_note_keeps_them_as_they_were() -> None:
    meta_data = {"model_parameters": {"max_tokens": 1}, "list_of": [{"as_is": 1}]}
    record = start_record(started(1, "s", meta_data=json.dumps(meta_data).encode()), PLACE)
    own = {"displayName": "s", "id": "s", "agentId": "Helper"}
    assert body(record)["metadata"] == {
        **own,
        "modelParameters": {"maxTokens": 1},
        "listOf": [{"as_is": 1}],
    }
    assert note(record)["metaData"] == meta_data
    camel = start_record(started(1, "s", meta_data=b'{"modelParameters":{"maxTokens":1}}'), PLACE)
    assert "metaData" not in note(camel), "there is nothing to keep"


def test_the_users_own_keys_count_over_those_that_are_added() -> None:
    record = start_record(started(1, "s", meta_data=b'{"displayName":"mine","agentId":"theirs"}'), PLACE)
    assert body(record)["metadata"] == {"displayName": "mine", "id": "s", "agentId": "theirs"}
    assert note(record)["added"] == ["id"]


def test_keys_that_mean_something_to_readers_are_not_set_by_metadata() -> None:
    record = verdict_record(ended(1, "s", meta_data=b'{"usage":"much","error":"big","agentscope":1}'), Place("srv"))
    assert body(record)["metadata"] == {"displayName": "s", "id": "s"}
    assert note(record)["metaData"] == {"usage": "much", "error": "big", "agentscope": 1}


@pytest.mark.parametrize("meta_data", [b"[1]", b'"cut"', b"null", b"{}"])
def test_metadata_that_is_no_object_with_keys_is_kept_in_the_note(meta_data: bytes) -> None:
    record = start_record(started(1, "s", meta_data=meta_data), Place("srv"))
    assert body(record)["metadata"] == {"displayName": "s", "id": "s"}
    assert note(record)["metaData"] == json.loads(meta_data)


def test_payloads_without_a_place_are_kept_in_the_note() -> None:
    record = start_record(started(1, "s", usage=b'{"total_tokens":1}', error=b'"odd"', tokens_used=4), PLACE)
    fields = note(record)["fields"]
    assert (fields["usage"], fields["error"], fields["tokens_used"]) == ({"total_tokens": 1}, "odd", 4)
    odd = verdict_record(ended(1, "s", usage=b"[1]"), PLACE)
    assert "usage" not in body(odd)["metadata"]
    assert note(odd)["fields"]["usage"] == [1]


@pytest.mark.parametrize(
    "fields",
    [{"input": 7}, {"output": "text"}, {"meta_data": 3}, {"error": []}, {"usage": {}}, {"latency_ms": float("nan")}],
)
def test_what_a_hook_has_made_of_a_field_raises_what_the_lane_expects(fields: dict[str, Any]) -> None:
    with pytest.raises(UNENCODABLE):
        verdict_record(ended(1, "s", status="failed", **fields), PLACE).body.decode()


# ---- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("snake", "camel"),
    [
        ("model", "model"),
        ("model_parameters", "modelParameters"),
        ("a_b_c", "aBC"),
        ("camelCase", "camelCase"),
        ("with_ID", "withId"),
        ("_private", "Private"),
        ("_", "_"),
        ("", ""),
    ],
)
def test_names_are_camel_cased_as_by_the_published_sdk(snake: str, camel: str) -> None:
    assert camel_case(snake) == camel


@given(st.recursive(st.none(), lambda inner: st.dictionaries(st.text("a_B"), inner), max_leaves=9))
def test_camel_casing_again_changes_nothing(value: Any) -> None:
    once = camel_case_metadata({"k": value})
    assert camel_case_metadata(once) == once
