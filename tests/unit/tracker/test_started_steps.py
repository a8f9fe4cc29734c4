"""Steps that `start_step` begins and `end` ends, and steps that are named by the caller."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest

from agentscope import Tracker
from agentscope.errors import AgentScopeError
from agentscope.tracker import steps
from tests.support.recording import Recording, current_scope, recorded


def in_thread(call) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_a_started_step_is_recorded_when_it_is_ended_in_any_thread(recording: Recording, tracker: Tracker) -> None:
    given = {"question": "tea?"}
    step = tracker.start_step("ask", "llm_call", given, {"try": 1}, model="small")
    given["question"] = "changed later"
    assert recording.steps() == []
    in_thread(lambda: step.end("yes", tokens_used=7, usage={"total_tokens": 7}))
    told = recording.step()
    assert (told["name"], told["step_type"], told["status"]) == ("ask", "llm_call", "completed")
    assert (told["input"], told["output"], told["meta_data"]) == ({"question": "tea?"}, "yes", {"try": 1})
    assert (told["model"], told["tokens_used"], told["usage"]) == ("small", 7, {"total_tokens": 7})
    assert told["ended_at"] >= told["started_at"]
    assert told["step_id"] == step.id


def test_a_started_step_is_not_the_current_one_and_children_name_it(recording: Recording, tracker: Tracker) -> None:
    before = current_scope()
    step = tracker.start_step("outer")
    assert current_scope() is before
    tracker.track_step("beside")
    inner = tracker.start_step("inner", parent_id=step.id)
    tracker.track_step("leaf", parent_id=inner.id)
    assert step.end()
    assert inner.end()
    assert recording.parents() == {"beside": None, "leaf": "inner", "outer": None, "inner": "outer"}
    assert current_scope() is before


def test_a_block_of_a_started_step_makes_it_current_and_ends_it(recording: Recording, tracker: Tracker) -> None:
    step = tracker.start_step("outer")
    tracker.track_step("before")
    with step as entered:
        assert entered is step
        tracker.track_step("inside")
    assert recording.parents() == {"before": None, "inside": "outer", "outer": None}
    assert not step.end()
    assert recording.invalid_calls == {"ended_twice": 1}


def test_a_started_step_belongs_to_the_run_in_which_it_was_started(recording: Recording) -> None:
    tracker = recording.tracker
    with tracker.track_run("first") as first:
        step = tracker.start_step("late")
    with tracker.track_run("second"):
        step.end()
    assert recording.step()["run_id"] == first.id


def test_an_error_at_the_end_fails_the_step(recording: Recording, tracker: Tracker) -> None:
    tracker.start_step("raised").end(error=ValueError("no"))
    tracker.start_step("told").end(error={"code": 7})
    raised, told = recording.steps()
    assert (raised["status"], raised["error"]["type"], raised["error"]["message"]) == ("failed", "ValueError", "no")
    assert (told["status"], told["error"]) == ("failed", {"code": 7})


def test_fields_may_be_set_on_the_handle_and_an_unknown_one_is_reported(recording: Recording, tracker: Tracker) -> None:
    step = tracker.start_step("ask", colour="red")  # type: ignore[call-arg]
    step.output, step.latency_ms = {"a": 1}, 12.5
    assert step.end(shape="round", _opened=None)  # type: ignore[call-arg]
    assert (recording.step()["output"], recording.step()["latency_ms"]) == ({"a": 1}, 12.5)
    assert recording.invalid_calls == {"unknown_field": 2}


def test_only_the_first_of_many_ends_counts(recording: Recording, tracker: Tracker) -> None:
    step = tracker.start_step("ask")
    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(lambda number: step.end(number), range(50)))
    assert sum(ends) == 1
    assert recording.step()["output"] == ends.index(True)
    assert recording.invalid_calls == {"ended_twice": 49}


def test_end_inside_a_block_ends_it_early(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_step_context("block") as step:
        assert step.end("done")
        tracker.track_step("after")
    assert recording.parents() == {"block": None, "after": None}
    assert recording.steps()[0]["output"] == "done"
    assert not tracker.track_step_context("never entered").end()
    assert recording.invalid_calls == {"ended_twice": 1}


def test_a_started_step_that_is_collected_without_its_end_is_cancelled(recording: Recording, tracker: Tracker) -> None:
    step = tracker.start_step("lost")
    step.output = "so far"
    del step
    assert (recording.step()["status"], recording.step()["output"]) == ("cancelled", "so far")
    ended = tracker.start_step("ended")
    ended.end()
    del ended
    assert [step["status"] for step in recording.steps()] == ["cancelled", "completed"]


def test_the_copy_of_a_started_step_in_a_forked_process_records_nothing(recording: Recording, tracker: Tracker) -> None:
    step = tracker.start_step("the parent's")
    with patch.object(steps.os, "getpid", lambda: 0):
        del step
    assert recording.steps() == []


def test_where_no_run_is_open_a_started_step_is_reported_once(recording: Recording) -> None:
    assert not recording.tracker.start_step("lost").end()
    assert recording.invalid_calls == {"no_run": 1}


def test_a_started_step_of_a_disabled_tracker_does_nothing() -> None:
    with recorded(enabled=False) as recording:
        step = recording.tracker.start_step("ask", step_id="mine")
        assert step.id
        assert not step.end("x")
        with recording.tracker.start_step("ask"):
            pass


def test_a_second_end_raises_where_failures_are_wanted() -> None:
    with recorded(fail_silently=False) as recording, recording.tracker.track_run("agent"):
        step = recording.tracker.start_step("ask")
        assert step.end()
        with pytest.raises(AgentScopeError, match="step that is not open"):
            step.end()


def test_a_step_named_by_the_caller_can_be_a_parent_before_it_is_recorded(
    recording: Recording, tracker: Tracker
) -> None:
    assert tracker.track_step("child", parent_id="call-1")
    assert tracker.track_step("parent", step_id="call-1")
    with tracker.track_step_context("block", step_id="call-2") as block:
        assert block.id == "call-2"
        tracker.track_step("inner")
    assert tracker.start_step("started", step_id="call-3", parent_id="call-2").end()
    assert recording.parents() == {
        "child": "parent",
        "parent": None,
        "inner": "block",
        "block": None,
        "started": "block",
    }
    assert [step["step_id"] for step in recording.steps() if step["name"] == "started"] == ["call-3"]


@pytest.mark.parametrize("given", [None, "", 17, object(), "x" * 1000, "a\0b", "ü"])
def test_any_value_given_as_the_id_of_a_step_gives_a_usable_id(
    recording: Recording, tracker: Tracker, given: object
) -> None:
    assert tracker.track_step("plain", step_id=given)  # type: ignore[arg-type]
    assert tracker.start_step("started", step_id=given).end()  # type: ignore[arg-type]
    for step in recording.steps():
        assert step["step_id"]
        assert len(step["step_id"]) <= 255
