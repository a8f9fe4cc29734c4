"""Bodies of the history calls are decoded into patches, or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.protocols import json_decode as strict_json
from agentscope.protocols.agentscope.decode import Arrival, Patch
from agentscope.protocols.json_decode import DecodeError
from agentscope.protocols.voltagent.decode import event_added, event_changed, read, run_changed, run_started
from agentscope.protocols.voltagent.responses import added_view, changed_view, history_view
from agentscope.protocols.voltagent.vocabulary import verb_of
from agentscope.server.storage.fold import fold
from tests.support.receiver import TIME, at

ARRIVAL = Arrival("e", at(9), 3)
EVENT = {"history_id": "r", "event_type": "tool", "event_name": "tool:start"}
START = {"id": "start", "run_id": "r", "step_id": "s", "type": "step.start", "event_type": "tool"}
NOTE = {"type": "step.start", "stepId": "mine"}


@pytest.fixture(params=["orjson", "json"], autouse=True)
def parser(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run every test with orjson and without it."""
    before = strict_json.orjson
    if request.param == "json":
        strict_json.orjson = None
    yield request.param
    strict_json.orjson = before


def record(**fields: Any) -> dict[str, Any]:
    return read(json.dumps(fields).encode())


def added(parent: Any = None, **fields: Any) -> Patch:
    return event_added(record(**{**EVENT, **fields}), parent, ARRIVAL)


def changed(**fields: Any) -> Patch:
    return event_changed(record(**fields), START, ARRIVAL)


def refusal(call: Any, *arguments: Any) -> tuple[int, str]:
    with pytest.raises(DecodeError) as caught:
        call(*arguments)
    return caught.value.status, str(caught.value)


# ---- bodies ------------------------------------------------------------------------------------------------------------


def test_a_record_is_what_the_body_sets_of_what_the_api_knows_in_snake_case() -> None:
    given = {"startTime": "2026-01-31T13:00:00+01:00", "userId": "u", "conversationId": None, "odd": 1, "tags": ["t"]}
    assert record(**given) == {"start_time": TIME, "user_id": "u", "tags": ["t"]}
    assert record(user_id="u", completionStartTime="2026-01-31 12:00:00") == {
        "user_id": "u",
        "completion_start_time": TIME,
    }


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "not JSON"),
        (b"[]", 422, "must be a JSON object"),
        (b'{"input": NaN}', 400, "not a JSON number"),
        (b'{"input":' + b"[" * 64 + b"]" * 64 + b"}", 400, "nested deeper"),
        (b'{"input": 1e999}', 422, "out of range"),
        (b'{"input": "\\ud800"}', 422, "not valid Unicode"),
        (b'{"id": ""}', 422, "id must be a string of 1 to 255 characters"),
        (b'{"history_id": 7}', 422, "history_id must be a string of 1 to 255 characters"),
        (b'{"parent_event_id": "a\\u0000"}', 422, "parent_event_id must be a string of 1 to 255 characters"),
        (b'{"agent_id": 1}', 422, "agent_id must be a string"),
        (b'{"userId": 1}', 422, "user_id must be a string"),
        (b'{"startTime": "noon"}', 422, "start_time must be an ISO 8601 time"),
        (b'{"end_time": 5}', 422, "end_time must be an ISO 8601 time"),
        (b'{"metadata": []}', 422, "metadata must be an object"),
        (b'{"usage": 5}', 422, "usage must be an object"),
        (b'{"tags": "t"}', 422, "tags must be a list of strings"),
        (b'{"tags": [1]}', 422, "tags must be a list of strings"),
        (b'{"level": 1}', 422, "level must be a string"),
    ],
)
def test_a_body_that_is_wrong_is_refused(body: bytes, status: int, words: str) -> None:
    found, sentence = refusal(read, body)
    assert found == status
    assert words in sentence


@pytest.mark.parametrize("status", ["odd", "working"])
def test_a_status_that_the_api_does_not_know_is_refused(status: str) -> None:
    code, sentence = refusal(event_added, record(**EVENT, status=status), None, ARRIVAL)
    assert (code, sentence) == (422, "status must be one of running, completed, error, cancelled.")
    assert refusal(event_changed, record(status=status), START, ARRIVAL)[0] == 422
    assert refusal(run_changed, record(status="interrupted"), "r", ARRIVAL)[0] == 422


@pytest.mark.parametrize("name", ["history_id", "event_type", "event_name"])
def test_an_event_needs_a_history_a_type_and_a_name(name: str) -> None:
    given = {key: value for key, value in EVENT.items() if key != name}
    assert refusal(event_added, record(**given), None, ARRIVAL) == (422, f"{name} is required.")


# ---- runs --------------------------------------------------------------------------------------------------------------


def test_a_history_is_the_start_of_a_run() -> None:
    patch = run_started(
        record(agent_id="a", userId="u", input={"q": 1}, metadata={"agentId": "a"}, version="2", startTime=TIME),
        "r",
        ARRIVAL,
    )
    assert (patch.id, patch.type, patch.run_id, patch.step_id, patch.time, patch.seq) == (
        "e",
        "run.start",
        "r",
        None,
        at(9),
        3,
    )
    fields = {"agent_name": "a", "status": "running", "started_at": TIME, "user_id": "u", "source": "voltagent"}
    meta_data = {"agentId": "a", "version": "2"}
    head = {"id": "e", "seq": 3, "time": at(9), "type": "run.start", "run_id": "r", "step_id": None, "parent_id": None}
    assert patch.fields == {**head, **fields, "input": {"q": 1}, "meta_data": meta_data}
    assert json.loads(patch.body) == patch.fields


def test_an_event_without_a_time_gets_that_of_its_arrival() -> None:
    assert run_started(record(agent_id="a"), "r", ARRIVAL).fields["started_at"] == at(9)
    assert run_changed(record(status="completed"), "r", ARRIVAL).fields["ended_at"] == at(9)
    assert added().fields["started_at"] == at(9)
    assert added(START, event_name="tool:success", status="completed").fields["ended_at"] == at(9)
    assert changed(status="completed").fields["ended_at"] == at(9)


@pytest.mark.parametrize(
    ("given", "kind", "status"),
    [
        ({"status": "completed"}, "run.end", "completed"),
        ({"status": "error"}, "run.end", "failed"),
        ({"status": "working"}, "run.update", "running"),
        ({"output": {}}, "run.update", None),
    ],
)
def test_an_update_ends_a_run_unless_it_still_works(given: Any, kind: str, status: str | None) -> None:
    patch = run_changed(record(**given), "r", ARRIVAL)
    assert (patch.type, patch.fields.get("status")) == (kind, status)
    assert ("ended_at" in patch.fields) == (kind == "run.end")


def test_the_usage_of_a_run_is_kept() -> None:
    assert run_changed(record(usage={"total_tokens": 3}), "r", ARRIVAL).fields["usage"] == {"total_tokens": 3}


@pytest.mark.parametrize(("error", "kept"), [("no", {"message": "no"}), ({"code": 1}, {"code": 1}), ([1], [1])])
def test_the_error_in_the_metadata_of_a_failed_run_is_its_error(error: Any, kept: Any) -> None:
    patch = run_changed(record(status="error", metadata={"error": error, "k": 1}), "r", ARRIVAL)
    assert (patch.fields["error"], patch.fields["meta_data"]) == (kept, {"k": 1})
    only = run_changed(record(status="error", metadata={"error": error}), "r", ARRIVAL)
    assert "meta_data" not in only.fields
    well = run_changed(record(status="completed", metadata={"error": error}), "r", ARRIVAL)
    assert ("error" in well.fields, well.fields["meta_data"]) == (False, {"error": error})


# ---- events ------------------------------------------------------------------------------------------------------------


def test_a_running_event_is_the_start_of_a_step_that_has_its_id() -> None:
    metadata = {"displayName": "search", "id": "search", "agentId": "desk", "instructions": None, "k": 1}
    patch = added(start_time=TIME, input={"q": 1}, metadata=metadata, level="INFO")
    assert (patch.type, patch.step_id, patch.fields["parent_id"]) == ("step.start", "e", None)
    assert {name: patch.fields[name] for name in ("name", "step_type", "status", "started_at", "input")} == {
        "name": "search",
        "step_type": "tool_call",
        "status": "running",
        "started_at": TIME,
        "input": {"q": 1},
    }
    assert patch.fields["meta_data"] == {"agentId": "desk", "k": 1}
    assert (patch.fields["event_type"], patch.fields["event_name"]) == ("tool", "tool:start")


@pytest.mark.parametrize(
    ("metadata", "name", "kept"),
    [
        ({"displayName": "shown", "id": "other"}, "shown", {"id": "other"}),
        ({"id": "only"}, "only", None),
        ({"displayName": 7}, "tool:start", {"displayName": 7}),
        ({"displayName": ""}, "tool:start", {"displayName": ""}),
        ({"instructions": "be kind"}, "tool:start", {"instructions": "be kind"}),
        ({}, "tool:start", None),
    ],
)
def test_the_name_of_a_step_is_that_in_its_metadata_or_else_that_of_the_event(
    metadata: Any, name: str, kept: Any
) -> None:
    fields = added(metadata=metadata).fields
    assert (fields["name"], fields.get("meta_data")) == (name, kept)


@pytest.mark.parametrize("name", ["tool:success", "tool:error", "tool:write_success"])
@pytest.mark.parametrize(
    ("status", "kept"), [("completed", "completed"), ("error", "failed"), ("cancelled", "cancelled")]
)
def test_a_verdict_ends_the_step_whose_start_it_names(name: str, status: str, kept: str) -> None:
    patch = added(START, event_name=name, status=status, start_time=TIME, output={"a": 1}, parent_event_id="start")
    assert (patch.type, patch.step_id, patch.fields["parent_id"]) == ("step.end", "s", None)
    assert (patch.fields["status"], patch.fields["ended_at"], patch.fields["output"]) == (kept, TIME, {"a": 1})
    assert not patch.fields.keys() & {"name", "step_type", "started_at"}, "they are those of the start"
    assert added(START, event_name=name, status=status, start_time=TIME, end_time=at(1)).fields["ended_at"] == at(1)


@pytest.mark.parametrize(
    ("parent", "event"),
    [
        (None, {"event_name": "tool:success"}),
        ({**START, "event_type": "agent"}, {"event_name": "tool:success"}),
        ({**START, "type": "step.end"}, {"event_name": "tool:success"}),
        ({**START, "run_id": "other"}, {"event_name": "tool:success"}),
        (START, {"event_name": "tool:start"}),
        (START, {"event_name": "tool:progress"}),
        (START, {"event_name": "done"}),
    ],
)
def test_any_other_event_that_has_ended_is_a_step_of_its_own(parent: Any, event: Any) -> None:
    patch = added(parent, status="completed", start_time=TIME, parent_event_id="start", **event)
    assert (patch.type, patch.step_id) == ("step", "e")
    assert (patch.fields["started_at"], patch.fields["ended_at"]) == (TIME, TIME)
    known = parent is not None and parent["run_id"] == "r"
    assert patch.fields["parent_id"] == ("s" if known else "start")


def test_a_verdict_that_still_runs_is_none() -> None:
    assert added(START, event_name="tool:success", status="running").type == "step.start"


def test_an_event_of_the_history_itself_has_no_parent() -> None:
    assert added(parent_event_id="r").fields["parent_id"] is None
    run_start = {"id": "x", "run_id": "r", "step_id": None, "type": "run.start"}
    assert added(run_start, parent_event_id="x").fields["parent_id"] is None


@pytest.mark.parametrize(("message", "error"), [("no", {"message": "no"}), ({"code": 1}, {"code": 1})])
def test_the_message_of_an_error_is_its_error_and_of_anything_else_a_remark(message: Any, error: Any) -> None:
    assert added(status="error", status_message=message).fields["error"] == error
    assert changed(status="error", status_message=message).fields["error"] == error
    remark = added(status="cancelled", status_message=message).fields
    assert ("error" in remark, remark["meta_data"]) == (False, {"statusMessage": message})


def test_usage_in_the_metadata_is_the_usage_of_the_step() -> None:
    fields = added(START, event_name="tool:success", status="completed", metadata={"usage": {"total_tokens": 2}}).fields
    assert (fields["usage"], "meta_data" in fields) == ({"total_tokens": 2}, False)
    assert added(metadata={"usage": "heavy"}).fields["meta_data"] == {"usage": "heavy"}


def test_what_a_step_has_no_place_for_is_in_its_meta_data() -> None:
    fields = added(event_type="own", tags=["t"], version="2", level="DEBUG").fields
    assert fields["step_type"] == "other"
    assert fields["meta_data"] == {"tags": ["t"], "version": "2", "level": "DEBUG", "eventType": "own"}
    assert "meta_data" not in added(level="ERROR").fields


def test_a_change_is_an_update_of_the_step_or_its_end() -> None:
    update = changed(output={"a": 1}, metadata={"displayName": "new", "k": 1}, start_time=TIME)
    assert (update.type, update.run_id, update.step_id) == ("step.update", "r", "s")
    assert {name: update.fields[name] for name in ("output", "name", "started_at", "meta_data")} == {
        "output": {"a": 1},
        "name": "new",
        "started_at": TIME,
        "meta_data": {"k": 1},
    }
    assert not update.fields.keys() & {"status", "ended_at", "step_type"}
    assert (changed(status="running").type, changed(status="error").type) == ("step.update", "step.end")


@pytest.mark.parametrize(
    ("name", "verb"),
    [
        ("agent:start", "start"),
        ("memory:write_success", "success"),
        ("memory:error", "error"),
        ("success", "success"),
        ("agent:progress", None),
        ("tool:successful", None),
        ("", None),
    ],
)
def test_the_name_of_an_event_says_what_it_is(name: str, verb: str | None) -> None:
    assert verb_of(name) == verb


# ---- notes -------------------------------------------------------------------------------------------------------------


def noted(note: Any, **fields: Any) -> Patch:
    return added(metadata={"displayName": "shown", "agentscope": note}, **fields)


def test_an_event_with_a_note_becomes_what_it_was() -> None:
    patch = noted({**NOTE, "parentId": "p", "fields": {"name": "n", "status": "odd"}, "added": ["displayName"]})
    assert (patch.type, patch.step_id, patch.fields["parent_id"]) == ("step.start", "mine", "p")
    assert (patch.fields["name"], patch.fields["status"]) == ("n", "odd")
    assert not patch.fields.keys() & {"step_type", "started_at", "meta_data"}


def test_a_note_does_not_decide_where_its_event_belongs() -> None:
    head = {"id": "x", "run_id": "x", "step_id": "x", "seq": 0, "time": TIME, "type": "run.end", "session_id": "x"}
    patch = noted({**NOTE, "fields": {**head, "event_name": "x"}})
    assert (patch.id, patch.run_id, patch.step_id, patch.type) == ("e", "r", "mine", "step.start")
    assert json.loads(patch.body) == patch.fields
    found = {name: patch.fields[name] for name in ("id", "run_id", "step_id", "seq", "time", "type", "event_name")}
    expected = {"id": "e", "run_id": "r", "step_id": "mine", "seq": 3, "time": at(9)}
    assert found == {**expected, "type": "step.start", "event_name": "tool:start"}
    assert "session_id" not in patch.fields


@pytest.mark.parametrize(
    "note",
    [
        None,
        "text",
        [],
        {},
        {"type": "step.start"},
        {"type": "step.start", "stepId": ""},
        {"type": "step.start", "stepId": 7},
        {"type": "step.update", "stepId": "s"},
        {"type": "run.start"},
        {"type": ["step.start"], "stepId": "s"},
        {**NOTE, "parentId": 7},
        {**NOTE, "fields": []},
        {**NOTE, "fields": {"name": 7}},
        {**NOTE, "fields": {"started_at": "noon"}},
        {**NOTE, "fields": {"tokens_used": "many"}},
        {**NOTE, "wrapped": {}},
        {**NOTE, "added": "displayName"},
    ],
)
def test_metadata_that_resembles_a_note_is_kept_as_metadata(note: Any) -> None:
    patch = noted(note)
    assert (patch.step_id, patch.fields["name"]) == ("e", "shown")
    assert patch.fields["meta_data"] == {"agentscope": note}


def test_a_note_of_a_run_names_no_step() -> None:
    metadata = {"agentscope": {"type": "run.start", "stepId": "s"}}
    assert run_started(record(agent_id="a", metadata=metadata), "r", ARRIVAL).fields["agent_name"] == "a"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    *("id", "agent_id", "userId", "startTime", "end_time", "status", "level", "version", "tags", "usage", "output"),
    *("input", "metadata", "history_id", "event_type", "event_name", "parent_event_id", "status_message"),
]


@given(
    st.dictionaries(st.sampled_from(NAMES), anything, max_size=6),
    st.dictionaries(st.sampled_from(["displayName", "id", "usage", "error", "level", "version"]), anything, max_size=4),
    st.none() | st.dictionaries(st.sampled_from(["fields", "wrapped", "added", "metaData", "parentId"]), anything),
    st.sampled_from(["run.start", "run.update", "run.end", "step.start", "step.update", "step.end", "step"]),
)
def test_no_record_of_any_shape_breaks_the_decoder_or_the_answer(
    fields: Any, metadata: Any, note: Any, kind: str
) -> None:
    good = {
        **EVENT,
        "agent_id": "a",
        "metadata": {**metadata, "agentscope": {"type": kind, "stepId": "s", **(note or {})}},
    }
    for sent in ({**good, **fields}, {**good, **{key: value for key, value in fields.items() if key != "metadata"}}):
        try:
            found = read(json.dumps(sent).encode())
            patches = [run_started(found, "r", ARRIVAL), run_changed(found, "r", ARRIVAL)]
            steps = [event_added(found, START, ARRIVAL), event_changed(found, START, ARRIVAL)]
        except DecodeError:
            continue
        assert [json.loads(patch.body) for patch in patches] == [patch.fields for patch in patches]
        json.dumps([history_view("r", fold(patches), TIME), added_view("e", found, TIME)])
        json.dumps(changed_view({**START, "time": TIME}, fold(steps), TIME))


# ---- answers -----------------------------------------------------------------------------------------------------------


def test_the_answer_to_an_event_holds_what_was_sent() -> None:
    metadata = {"displayName": "search", "agentId": "desk"}
    view = added_view("e", record(**EVENT, input={"q": 1}, metadata=metadata, level="odd"), TIME)
    assert (view["id"], view["history_id"], view["event_name"]) == ("e", "r", "tool:start")
    assert (view["metadata"], view["input"], view["output"]) == (metadata, {"q": 1}, None)
    assert (view["status"], view["level"], view["created_at"]) == ("running", "INFO", TIME)


@pytest.mark.parametrize(
    ("usage", "shown"),
    [
        ({"total_tokens": 3, "own": "x"}, {"total_tokens": 3, "own": "x"}),
        ({"total_tokens": 1.5, "prompt_tokens": True}, {}),
        ([1], None),
        (None, None),
    ],
)
def test_usage_is_answered_as_far_as_the_published_client_can_read_it(usage: Any, shown: Any) -> None:
    assert history_view("r", {"usage": usage}, TIME)["usage"] == shown


@pytest.mark.parametrize(
    ("status", "of_run", "of_step"),
    [
        ("running", "working", "running"),
        ("completed", "completed", "completed"),
        ("failed", "error", "error"),
        ("unfinished", "error", "cancelled"),
        (None, "working", "running"),
    ],
)
def test_statuses_are_answered_in_the_words_of_the_api(status: Any, of_run: str, of_step: str) -> None:
    assert history_view("r", {"status": status}, TIME)["status"] == of_run
    assert changed_view({**START, "time": TIME}, {"status": status}, TIME)["status"] == of_step


def test_the_model_of_an_event_is_that_of_its_model_parameters() -> None:
    metadata = {"displayName": "A", "modelParameters": {"model": "gpt-5", "provider": "openai", "temperature": 0}}
    patch = event_added(
        record(history_id="r", event_type="agent", event_name="agent:start", metadata=metadata), None, ARRIVAL
    )
    assert (patch.fields["model"], patch.fields["provider"]) == ("gpt-5", "openai")
    assert patch.fields["meta_data"] == {"modelParameters": metadata["modelParameters"]}


def test_a_history_can_be_cancelled() -> None:
    patch = run_changed(record(status="cancelled"), "r", ARRIVAL)
    assert (patch.type, patch.fields["status"]) == ("run.end", "cancelled")
