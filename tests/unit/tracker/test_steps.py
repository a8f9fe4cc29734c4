"""Steps by a call afterwards, and as blocks."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import inspect
import threading
import time
from typing import Any
from uuid import UUID

import numpy
import pytest
from freezegun import freeze_time

from agentscope import AgentScopeError, Tracker
from tests.support.recording import Recording, current_scope, recorded

MS = 1_000_000


# ---- calls ---------------------------------------------------------------------------------------------------------


def test_a_step_has_all_given_fields(recording: Recording, tracker: Tracker) -> None:
    assert tracker.track_step(
        "search", "tool_call", {"q": 1}, {"hits": 3}, {"code": 5}, 50, 120, {"v": 2}, parent_id="some step"
    )
    step = recording.step()
    assert (step["name"], step["step_type"], step["status"]) == ("search", "tool_call", "failed")
    assert (step["input"], step["output"], step["error"]) == ({"q": 1}, {"hits": 3}, {"code": 5})
    assert (step["tokens_used"], step["latency_ms"], step["meta_data"]) == (50, 120, {"v": 2})
    assert (step["run_id"], step["parent_id"]) == (tracker.current_run_id, "some step")
    assert str(UUID(step["step_id"])) == step["step_id"]


@pytest.mark.parametrize(("latency_ms", "took"), [(120, 120 * MS), (1.5, 1_500_000), (1001, 1000 * MS)])
def test_a_step_began_as_long_ago_as_it_took_but_not_before_its_run(
    recording: Recording, latency_ms: float, took: int
) -> None:
    with freeze_time("2026-01-31T12:00:00Z") as clock:
        recording.tracker.start_run("agent")
        clock.tick(1)
        recording.tracker.track_step("step", latency_ms=latency_ms)
    step = recording.step()
    assert step["ended_at"] - step["started_at"] == took
    assert step["latency_ms"] == latency_ms


def test_a_step_of_a_run_of_another_process_may_have_begun_at_any_time(recording: Recording, tracker: Tracker) -> None:
    tracker.track_step("step", latency_ms=3_600_000, run_id="a run of another process")
    step = recording.step()
    assert step["ended_at"] - step["started_at"] == 3_600_000 * MS


def test_a_step_with_a_name_only_is_completed_and_took_no_time(recording: Recording, tracker: Tracker) -> None:
    before = time.time_ns()
    assert tracker.track_step("think")
    step = recording.step()
    assert before <= step["started_at"] == step["ended_at"] <= time.time_ns()
    assert set(step) == {
        *("type", "run_id", "step_id", "parent_id"),
        *("name", "step_type", "status", "started_at", "ended_at"),
    }
    assert (step["step_type"], step["status"]) == ("other", "completed")


def test_steps_have_ids_of_their_own(recording: Recording, tracker: Tracker) -> None:
    for _ in range(100):
        tracker.track_step("step")
    assert len({step["step_id"] for step in recording.steps()}) == 100


@pytest.mark.parametrize("latency_ms", [2**62, 1e18])
def test_an_impossible_duration_makes_no_impossible_time(
    recording: Recording, tracker: Tracker, latency_ms: float
) -> None:
    assert tracker.track_step("step", latency_ms=latency_ms)
    step = recording.step()
    assert 0 <= step["started_at"] <= step["ended_at"]
    assert step["latency_ms"] == latency_ms


@pytest.mark.parametrize("latency_ms", [-5, -0.001, -(2**62)])
def test_a_negative_duration_is_left_out_and_counted(recording: Recording, tracker: Tracker, latency_ms: float) -> None:
    assert tracker.track_step("step", latency_ms=latency_ms, first_token_ms=latency_ms)
    step = recording.step()
    assert step["started_at"] == step["ended_at"]
    assert not {"latency_ms", "first_token_ms"} & step.keys()
    assert tracker.stats().invalid_calls == {"negative_duration": 2}


def test_the_payloads_given_to_a_block_are_recorded_as_they_were_given(recording: Recording, tracker: Tracker) -> None:
    given = {name: {"list": [name]} for name in ("input_data", "output_data", "meta_data", "usage")}
    block = tracker.track_step_context("step", **given)  # type: ignore[arg-type]  # the names fit
    for value in given.values():
        value["list"].append("changed before the block")
    with block:
        for value in given.values():
            value["list"].append("changed in the block")
    step = recording.step()
    for field, name in (
        ("input", "input_data"),
        ("output", "output_data"),
        ("meta_data", "meta_data"),
        ("usage", "usage"),
    ):
        assert step[field] == {"list": [name]}


def test_an_attribute_that_is_set_in_the_block_replaces_what_was_given(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_step_context("step", output_data=[1], meta_data={"a": 1}) as step:
        assert (step.output, step.meta_data) == ([1], {"a": 1})
        step.output, step.meta_data = [2], {"b": 2}
    assert (recording.step()["output"], recording.step()["meta_data"]) == ([2], {"b": 2})


def test_meta_data_given_with_an_unknown_step_type_gets_it(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_step_context("step", "made up", meta_data={"a": 1}):  # type: ignore[arg-type]  # an unknown type
        pass
    assert recording.step()["meta_data"] == {"a": 1, "step_type": "made up"}


def test_the_payloads_given_to_a_run_are_recorded_as_they_were_given(recording: Recording) -> None:
    given: dict[str, Any] = {"list": [1]}
    tags = ["a"]
    block = recording.tracker.track_run("agent", given, meta_data=given, usage=given, tags=tags)
    given["list"].append(2)
    tags.append("b")
    with block:
        given["list"].append(3)
    (start,) = recording.events("run.start")
    assert [start[name] for name in ("input", "meta_data", "usage", "tags")] == [{"list": [1]}] * 3 + [["a"]]


def test_numbers_may_come_from_numpy(recording: Recording, tracker: Tracker) -> None:
    tracker.track_step("step", tokens_used=numpy.int32(5), latency_ms=numpy.float64(2.5))
    assert (recording.step()["tokens_used"], recording.step()["latency_ms"]) == (5, 2.5)
    assert recording.invalid_calls == {}


def test_a_step_type_may_be_a_member_of_an_enumeration(recording: Recording, tracker: Tracker) -> None:
    class Kind(str, enum.Enum):
        TOOL = "tool_call"

    tracker.track_step("step", Kind.TOOL)
    assert recording.step()["step_type"] == "tool_call"
    assert recording.invalid_calls == {}


def test_an_error_may_be_an_exception(recording: Recording, tracker: Tracker) -> None:
    tracker.track_step("step", error=TimeoutError("late"))
    assert recording.step()["status"] == "failed"
    assert recording.step()["error"] == {"type": "TimeoutError", "message": "late", "traceback": "TimeoutError: late"}


def test_a_step_may_name_its_run(recording: Recording, tracker: Tracker) -> None:
    with recording.tracker.track_run("other") as other:
        pass
    assert tracker.track_step("step", run_id=other)
    assert recording.step()["run_id"] == other
    assert type(recording.step()["run_id"]) is str
    assert recording.invalid_calls == {}


def test_a_step_that_names_its_run_is_part_of_the_step_of_that_run_it_is_in(
    recording: Recording, tracker: Tracker
) -> None:
    run_id = tracker.current_run_id
    with (
        tracker.track_step_context("of the first"),
        tracker.track_run("second"),
        tracker.track_step_context("of the second"),
    ):
        tracker.track_step("child", run_id=run_id)
        tracker.track_step("own child", run_id=run_id, parent_id="mine")
    assert recording.parents()["child"] == "of the first"
    assert recording.parents()["own child"] == "mine"


def test_an_id_of_any_kind_is_made_a_text(recording: Recording, tracker: Tracker) -> None:
    number = UUID(int=5)
    assert tracker.track_step("step", run_id=number, parent_id=7)
    assert (recording.step()["run_id"], recording.step()["parent_id"]) == (str(number), "7")
    assert tracker.track_step("step", run_id="x" * 1000)
    assert len(recording.steps()[1]["run_id"]) == 255


def test_snapshots_are_taken_at_the_call(recording: Recording, tracker: Tracker) -> None:
    given: dict[str, Any] = {"list": [1]}
    tracker.track_step("step", "other", given, given, given, meta_data=given)
    given["list"].append(2)
    step = recording.step()
    assert step["input"] == step["output"] == step["error"] == step["meta_data"] == {"list": [1]}


def test_what_another_thread_changes_meanwhile_never_breaks_a_call(recording: Recording, tracker: Tracker) -> None:
    given: dict[str, int] = {}
    over = threading.Event()

    def change() -> None:
        number = 0
        while not over.is_set():
            number += 1
            given[str(number % 100)] = number
            given.pop(str((number + 50) % 100), None)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        assert all(tracker.track_step("step", "unknown type", given, given, meta_data=given) for _ in range(500))
    finally:
        over.set()
        thread.join(10)
    assert len(recording.steps()) == 500
    assert recording.invalid_calls == {"unknown_step_type": 500}


# ---- blocks --------------------------------------------------------------------------------------------------------


def test_a_block_is_a_step_with_all_that_was_set_on_it(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_step_context("plan", "llm_call", {"q": 1}) as step:
        assert step.run_id == tracker.current_run_id
        step.output = {"a": 1}
        step.tokens_used = 42
        step.usage = {"input_tokens": 40, "output_tokens": 2}
        step.meta_data = {"model": "m"}
    told = recording.step()
    assert (told["name"], told["step_type"], told["status"]) == ("plan", "llm_call", "completed")
    assert (told["input"], told["output"], told["tokens_used"]) == ({"q": 1}, {"a": 1}, 42)
    assert (told["usage"], told["meta_data"]) == ({"input_tokens": 40, "output_tokens": 2}, {"model": "m"})
    assert (told["step_id"], told["run_id"]) == (step.id, step.run_id)
    assert "error" not in told


def test_what_was_passed_to_the_block_counts_until_it_is_set(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_step_context("step", "memory", None, "out", 3, 4.5, {"v": 1}):
        pass
    with tracker.track_step_context("step", "memory", None, "out", 3, 4.5, {"v": 1}) as step:
        step.name, step.step_type = "renamed", "reasoning"
        step.output, step.tokens_used, step.latency_ms, step.meta_data = "set", 5, 6.5, {"v": 2}
    first, second = recording.steps()
    names = ("name", "step_type", "output", "tokens_used", "latency_ms", "meta_data")
    assert tuple(first[name] for name in names) == ("step", "memory", "out", 3, 4.5, {"v": 1})
    assert tuple(second[name] for name in names) == ("renamed", "reasoning", "set", 5, 6.5, {"v": 2})


def test_the_duration_of_a_block_is_measured(recording: Recording, tracker: Tracker) -> None:
    begin = time.perf_counter_ns()
    with tracker.track_step_context("step"):
        inside = time.perf_counter_ns()
        while time.perf_counter_ns() - inside < 3 * MS:
            pass
    took = (time.perf_counter_ns() - begin) / MS
    step = recording.step()
    assert 2.5 <= step["latency_ms"] <= took
    assert (step["ended_at"] - step["started_at"]) / MS == pytest.approx(step["latency_ms"], abs=0.001)


def test_blocks_nest_by_themselves(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_step_context("a"):
        with tracker.track_step_context("b") as inner:
            tracker.track_step("c")
            assert inner.parent_id is not None
        tracker.track_step("d")
        with tracker.track_step_context("e", parent_id=inner.id):
            pass
    tracker.track_step("f")
    assert recording.parents() == {"a": None, "b": "a", "c": "b", "d": "a", "e": "b", "f": None}


def test_a_block_may_be_asynchronous(recording: Recording, tracker: Tracker) -> None:
    async def main() -> None:
        async with tracker.track_step_context("outer"), tracker.track_step_context("inner") as step:
            await asyncio.sleep(0)
            step.output = 1

    asyncio.run(main())
    assert recording.parents() == {"outer": None, "inner": "outer"}


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_an_exception_fails_or_cancels_the_step_and_goes_on_unchanged(
    recording: Recording, tracker: Tracker, kind: type[BaseException]
) -> None:
    error = kind("no")
    with pytest.raises(kind) as caught, tracker.track_step_context("step") as step:
        step.output = "half"
        raise error
    assert caught.value is error
    assert [entry.name for entry in caught.traceback] == [inspect.stack()[0].function]
    told = recording.step()
    assert (told["status"], told["output"]) == ("cancelled" if kind is asyncio.CancelledError else "failed", "half")
    assert told["error"]["message"] == "no"
    assert "test_steps.py" in told["error"]["traceback"]


def test_a_cancelled_task_leaves_cancelled_steps_and_the_cancellation_goes_on(
    recording: Recording, tracker: Tracker
) -> None:
    async def agent() -> None:
        async with tracker.track_step_context("outer"), tracker.track_step_context("inner"):
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(agent())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [(step["name"], step["status"]) for step in recording.steps()] == [
        ("inner", "cancelled"),
        ("outer", "cancelled"),
    ]
    assert {step["error"]["type"].rpartition(".")[2] for step in recording.steps()} == {"CancelledError"}


def test_a_block_that_is_closed_from_outside_is_no_failure(recording: Recording, tracker: Tracker) -> None:
    def items() -> Any:
        with tracker.track_step_context("step"):
            yield 1

    running = items()
    next(running)
    running.close()
    assert recording.step()["status"] == "completed"
    assert "error" not in recording.step()


def test_an_error_that_is_set_fails_the_step(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_step_context("step") as step:
        step.error = ValueError("handled")
    assert (recording.step()["status"], recording.step()["error"]["message"]) == ("failed", "handled")


def test_a_block_without_a_run_is_not_recorded_and_says_so_once(recording: Recording) -> None:
    with recording.tracker.track_step_context("step", run_id=None) as step:
        step.output = 1
        assert step.run_id is None
        assert step.parent_id is None
    assert recording.events() == []
    assert recording.invalid_calls == {"no_run": 1}
    assert current_scope() is None


def test_a_block_may_name_its_run(recording: Recording, tracker: Tracker) -> None:
    with recording.tracker.track_run("other") as other:
        pass
    with tracker.track_step_context("step", run_id=other) as step:
        tracker.track_step("child")
        assert step.run_id == other
    assert {told["run_id"] for told in recording.steps()} == {other}
    assert recording.parents()["child"] == "step"


def test_what_is_set_on_a_handle_cannot_move_its_step(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_step_context("step") as step:
        kept = (step.id, step.run_id, step.parent_id)
        anything: Any = object()
        step.id = step.run_id = step.parent_id = anything
    told = recording.step()
    assert (told["step_id"], told["run_id"], told["parent_id"]) == kept


def test_a_block_may_be_left_in_another_context(recording: Recording, tracker: Tracker) -> None:
    step = tracker.track_step_context("step")
    contextvars.copy_context().run(step.__enter__)
    step.__exit__(None, None, None)
    tracker.track_step("after")
    assert recording.parents() == {"step": None, "after": None}


def test_a_block_that_is_entered_again_is_recorded_once(recording: Recording, tracker: Tracker) -> None:
    step = tracker.track_step_context("step")
    with step:
        pass
    with step:
        pass
    assert len(recording.steps()) == 1
    assert recording.invalid_calls == {"block_reused": 1}


def test_the_input_is_as_it_was_when_the_block_began_and_the_output_as_at_its_end(
    recording: Recording, tracker: Tracker
) -> None:
    given = [1]
    with tracker.track_step_context("step", input_data=given) as step:
        given.append(2)
        step.output = given
        given.append(3)
    given.append(4)
    assert (recording.step()["input"], recording.step()["output"]) == ([1], [1, 2, 3])


def test_a_large_payload_is_cut_and_marked_and_its_neighbours_are_untouched() -> None:
    with recorded(max_payload_bytes=1024) as recording, recording.tracker.track_run("agent"):
        recording.tracker.track_step("step", "other", "x" * 10_000, {"small": 1})
        step = recording.step()
        assert step["truncated"] == ["input"]
        assert len(step["input"].encode()) <= 1024
        assert step["output"] == {"small": 1}


def test_a_block_whose_start_cannot_be_sent_leaves_nothing_current_if_it_raises() -> None:
    with recorded(fail_silently=False) as recording:
        recording.tracker.start_run("agent")
        recording.tracker._recorder.announces = True
        assert recording.tracker.shutdown(10)
        outside, block = current_scope(), recording.tracker.track_step_context("step")
        with pytest.raises(AgentScopeError, match="after shutdown"):
            block.__enter__()
        assert current_scope() is outside
        block.__exit__(None, None, None)


@pytest.mark.parametrize("name", ["tab\tand\nline", "é", "nul\0", "\ud800", "", "x" * 5_000])
def test_a_step_has_the_same_name_in_the_short_and_the_full_form(
    recording: Recording, tracker: Tracker, name: str
) -> None:
    with tracker.track_step_context(name):
        """Ordinary."""
    with tracker.track_step_context(name) as step:
        step.tokens_used = 1
    short, full = recording.steps()
    assert short["name"] == full["name"]


def test_what_is_changed_after_the_call_is_sent_as_it_was() -> None:
    with recorded() as recording, recording.tracker.track_run("agent"):
        given: dict[str, Any] = {"messages": [{"role": "user"}]}
        with recording.tracker.track_step_context("step", input_data=given) as step:
            given["messages"][0]["role"] = "changed"
            step.output = given
        given["messages"].clear()
        told = recording.step()
    assert told["input"] == {"messages": [{"role": "user"}]}
    assert told["output"] == {"messages": [{"role": "changed"}]}


# ---- the fields of the table -----------------------------------------------------------------------------------------

MODEL_CALL: dict[str, Any] = {
    "model": "gpt-5",
    "provider": "openai",
    "usage": {"input_tokens": 3, "output_tokens": 4},
    "cost_usd": 0.002,
    "first_token_ms": 120.5,
}


def test_a_call_of_a_model_says_which_what_it_cost_and_how_soon_it_answered(
    recording: Recording, tracker: Tracker
) -> None:
    with tracker.track_run("agent"):
        tracker.track_step("by call", "llm_call", **MODEL_CALL)
        with tracker.track_step_context("by keywords", "llm_call", **MODEL_CALL):
            pass
        with tracker.track_step_context("by attributes", "llm_call") as step:
            for name, value in MODEL_CALL.items():
                setattr(step, name, value)
            step.output = "told"
    steps = {step["name"]: step for step in recording.steps()}
    assert len(steps) == 3
    for step_ in steps.values():
        assert {name: step_[name] for name in MODEL_CALL} == MODEL_CALL
    assert steps["by attributes"]["output"] == "told"
    assert recording.invalid_calls == {}


def test_a_field_that_is_none_is_not_set(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("agent"), tracker.track_step_context("step", model=None) as step:
        step.cost_usd = None
        step.output = None
    assert not {"model", "cost_usd", "output"} & recording.step().keys()
    assert recording.invalid_calls == {}


@pytest.mark.parametrize(("wrong", "meant"), [("outputs", "output"), ("tokens", "tokens_used"), ("errors", "error")])
def test_a_misspelt_attribute_of_a_step_is_counted_and_logged_once_with_the_right_name(
    recording: Recording, tracker: Tracker, wrong: str, meant: str
) -> None:
    with tracker.track_run("agent"):
        for _ in range(2):
            with tracker.track_step_context("step") as step:
                setattr(step, wrong, "hunter2")
                step.output = "kept"
    assert [step_["output"] for step_ in recording.steps()] == ["kept", "kept"]
    assert recording.invalid_calls == {"unknown_field": 2}
    (said,) = recording.said
    assert f"{wrong!r}" in said
    assert f"did you mean {meant!r}?" in said
    assert "hunter2" not in said


def test_a_misspelt_attribute_alone_is_counted(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("agent"), tracker.track_step_context("step") as step:
        step.outptu = 1  # type: ignore[attr-defined]  # misspelt
    assert recording.invalid_calls == {"unknown_field": 1}
    assert recording.step()["status"] == "completed"


def test_an_attribute_of_the_callers_own_is_left_alone(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("agent") as run, tracker.track_step_context("step") as step:
        run._mine = step._mine = 1  # type: ignore[attr-defined]  # not declared
    assert recording.invalid_calls == {}


def test_a_misspelt_keyword_is_counted_and_the_step_is_recorded(recording: Recording, tracker: Tracker) -> None:
    call: Any = tracker
    with tracker.track_run("agent"):
        assert call.track_step("a", modle="gpt-5")
        with call.track_step_context("b", modle="gpt-5", id="mine") as step:
            assert step.id != "mine"
    assert [step_["name"] for step_ in recording.steps()] == ["a", "b"]
    assert recording.invalid_calls == {"unknown_field": 3}
    assert "did you mean 'model'?" in recording.said[0]


def test_fields_of_wrong_types_are_mended_and_counted(recording: Recording, tracker: Tracker) -> None:
    odd: Any = {"model": 5, "cost_usd": "much", "first_token_ms": object()}
    with tracker.track_run("agent"):
        assert tracker.track_step("step", **odd)
    assert recording.step()["model"] == "5"
    assert not {"cost_usd", "first_token_ms"} & recording.step().keys()
    assert recording.invalid_calls == {"wrong_type": 3}
