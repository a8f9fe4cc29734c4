"""Runs by calls and as blocks, in threads, tasks and other contexts."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from freezegun import freeze_time

from agentscope import AgentScopeClient, AgentScopeError, Run, Tracker, create_tracker
from agentscope.events import Event
from agentscope.tracker.context import switch
from tests.support.recording import Recording, balanced, current_scope, make, recorded
from tests.support.wait import until

ENDINGS = [ValueError, asyncio.CancelledError, KeyboardInterrupt, SystemExit, StopIteration, BaseException]


@pytest.fixture
def tracker(recording: Recording) -> Tracker:
    return recording.tracker


def in_thread(function: Callable[[], Any]) -> Any:
    """Call `work` in a thread without the context, and return its result."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(contextvars.Context().run(function)))
    thread.start()
    thread.join(60)
    return found[0]


# ---- calls ---------------------------------------------------------------------------------------------------------


def test_a_run_is_recorded_as_its_start_its_steps_and_its_end(recording: Recording, tracker: Tracker) -> None:
    run_id = tracker.start_run("agent", {"q": 1}, external_id="mine", meta_data={"v": 2})
    assert tracker.track_step("search")
    assert tracker.end_run("completed", output={"a": 1})
    start, step, end = recording.events()
    assert (start["type"], start["run_id"], start["status"]) == ("run.start", run_id, "running")
    assert (start["agent_name"], start["input"]) == ("agent", {"q": 1})
    assert (start["external_id"], start["meta_data"]) == ("mine", {"v": 2})
    assert (step["type"], step["run_id"], step["parent_id"]) == ("step", run_id, None)
    assert (end["type"], end["run_id"], end["status"], end["output"]) == ("run.end", run_id, "completed", {"a": 1})
    assert start["started_at"] <= step["ended_at"] <= end["ended_at"]
    assert recording.invalid_calls == {}


def test_the_id_of_a_run_is_a_plain_uuid(tracker: Tracker) -> None:
    run_id = tracker.start_run("agent")
    assert type(run_id) is str
    assert str(UUID(run_id)) == run_id


def test_what_is_not_given_is_not_sent(recording: Recording, tracker: Tracker) -> None:
    tracker.start_run("agent")
    tracker.end_run()
    start, end = recording.events()
    assert set(start) == {"type", "run_id", "step_id", "parent_id", "agent_name", "status", "started_at"}
    assert set(end) == {"type", "run_id", "step_id", "parent_id", "status", "ended_at"}


def test_a_run_may_end_as_failed_with_an_exception(recording: Recording, tracker: Tracker) -> None:
    tracker.start_run("agent")
    tracker.end_run("failed", error=ValueError("no"))
    assert recording.end()["status"] == "failed"
    assert recording.end()["error"]["type"] == "ValueError"


@pytest.mark.parametrize("status", [{}, {"status": "completed"}, {"status": "failed"}, {"status": "odd"}], ids=str)
def test_a_run_that_ends_with_an_error_has_failed_whatever_its_status(status: Any) -> None:
    with recorded() as recording:
        run_id = recording.tracker.start_run("agent")
        recording.tracker.end_run(**status, error="no more money", run_id=run_id)
        assert (recording.end()["status"], recording.end()["error"]) == ("failed", "no more money")


def test_a_run_that_was_named_may_be_ended_from_anywhere(recording: Recording, tracker: Tracker) -> None:
    run_id = tracker.start_run("agent")
    tracker.start_run("other")
    assert in_thread(lambda: tracker.end_run(run_id=run_id))
    assert recording.end()["run_id"] == run_id
    assert recording.invalid_calls == {}


def test_an_empty_run_id_means_the_current_run(recording: Recording, tracker: Tracker) -> None:
    run_id = tracker.start_run("agent")
    assert tracker.track_step("step", run_id="", parent_id="")
    assert tracker.end_run(run_id="")
    assert {event["run_id"] for event in recording.events()} == {run_id}
    assert recording.step()["parent_id"] is None


def test_the_current_run_is_the_one_that_steps_go_to(tracker: Tracker) -> None:
    assert tracker.current_run_id is None
    outer = tracker.start_run("outer")
    inner = tracker.start_run("inner")
    assert tracker.current_run_id == inner
    tracker.end_run()
    assert tracker.current_run_id == outer
    tracker.end_run()
    assert tracker.current_run_id is None


def test_runs_one_after_the_other_leave_nothing_behind(recording: Recording, tracker: Tracker) -> None:
    for number in range(300):
        tracker.start_run(f"agent {number}")
        assert tracker.end_run()
    assert current_scope() is None
    assert len({event["run_id"] for event in recording.events()}) == 300


def test_snapshots_are_taken_at_the_call(recording: Recording, tracker: Tracker) -> None:
    given: dict[str, Any] = {"list": [1]}
    tracker.start_run("agent", given, meta_data=given)
    given["list"].append(2)
    tracker.end_run(output=given, error=given)
    given.clear()
    start, end = recording.events()
    assert start["input"] == start["meta_data"] == {"list": [1]}
    assert end["output"] == end["error"] == {"list": [1, 2]}


# ---- blocks --------------------------------------------------------------------------------------------------------


def test_a_block_is_a_run_and_gives_its_id(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("agent", {"q": 1}, external_id="mine", meta_data={"v": 2}) as run:
        assert isinstance(run, Run)
        assert isinstance(run, str)
        assert run == run.id == tracker.current_run_id
        run.output = {"a": 1}
        run.meta_data = {"cost": 3}
    start, end = recording.events()
    assert (start["input"], start["external_id"], start["meta_data"]) == ({"q": 1}, "mine", {"v": 2})
    assert (end["status"], end["output"], end["meta_data"]) == ("completed", {"a": 1}, {"cost": 3})
    assert start["run_id"] == end["run_id"] == run
    assert type(start["run_id"]) is str
    assert "error" not in end
    assert tracker.current_run_id is None


def test_a_block_may_be_asynchronous(recording: Recording, tracker: Tracker) -> None:
    async def main() -> None:
        async with tracker.track_run("agent") as run:
            await asyncio.sleep(0)
            run.output = 1

    asyncio.run(main())
    assert recording.end()["output"] == 1


@pytest.mark.parametrize("kind", ENDINGS)
def test_an_exception_fails_or_cancels_the_run_and_goes_on_unchanged(
    recording: Recording, tracker: Tracker, kind: type[BaseException]
) -> None:
    error = kind("no")
    with pytest.raises(kind) as caught, tracker.track_run("agent") as run:
        run.error = "replaced by what happened"
        raise error
    assert caught.value is error
    assert [entry.name for entry in caught.traceback] == [inspect.stack()[0].function]
    assert error.__context__ is None
    told = recording.end()
    assert told["status"] == ("cancelled" if kind is asyncio.CancelledError else "failed")
    assert told["error"]["type"].rpartition(".")[2] == kind.__name__
    assert told["error"]["message"] == "no"
    assert "test_runs.py" in told["error"]["traceback"]


@pytest.mark.parametrize("kind", ENDINGS)
def test_an_exception_fails_an_asynchronous_run_too(
    recording: Recording, tracker: Tracker, kind: type[BaseException]
) -> None:
    async def agent() -> None:
        async with tracker.track_run("agent"):
            raise kind("no")

    awaiting = agent()
    # Python turns a StopIteration that leaves a coroutine into a RuntimeError.
    with pytest.raises((kind, RuntimeError)):
        awaiting.send(None)
    assert recording.end()["error"]["message"] == "no"


def test_a_traceback_is_bounded(recording: Recording, tracker: Tracker) -> None:
    def fall(depth: int) -> None:
        if depth == 0:
            raise ValueError("x" * 100_000)
        fall(depth - 1)

    with pytest.raises(ValueError, match="x"), tracker.track_run("agent"):
        fall(500)
    told = recording.end()["error"]
    assert max(len(part) for part in told.values()) <= 8192
    assert "…[cut: " in told["traceback"]


def test_a_block_that_is_closed_from_outside_is_no_failure(recording: Recording, tracker: Tracker) -> None:
    def agent() -> Iterator[int]:
        with tracker.track_run("agent"):
            yield 1

    running = agent()
    next(running)
    running.close()
    assert recording.end()["status"] == "completed"
    assert "error" not in recording.end()


def test_an_error_that_is_set_fails_the_run(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("agent") as run:
        run.error = {"code": 7}
    assert (recording.end()["status"], recording.end()["error"]) == ("failed", {"code": 7})


def test_a_run_may_be_ended_inside_its_block(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("agent") as run:
        assert tracker.end_run("failed", output=1)
        run.output = 2
        assert not tracker.end_run(error="again")
        assert not tracker.track_step("afterwards")
        assert tracker.track_step("named", run_id=run)
    assert (recording.end()["status"], recording.end()["output"]) == ("failed", 1)
    assert recording.step()["run_id"] == run
    assert recording.invalid_calls == {"run_ended": 2}
    assert current_scope() is None


def test_a_run_started_inside_a_block_may_outlive_it(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("block"):
        started = tracker.start_run("started")
    assert tracker.current_run_id == started
    assert tracker.end_run()
    assert tracker.current_run_id is None


def test_a_block_tells_of_its_end_however_many_runs_were_opened_meanwhile(
    recording: Recording, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentscope.tracker.context.MOST_OPEN_RUNS", 20)
    runs = [tracker.track_run(f"agent {number}") for number in range(50)]
    for run in runs:
        run.__enter__()
    for run in reversed(runs):
        run.__exit__(None, None, None)
    assert len(recording.events("run.end")) == 50
    assert current_scope() is None


def test_a_block_may_be_left_in_another_context(recording: Recording, tracker: Tracker) -> None:
    elsewhere = contextvars.Context()
    run = tracker.track_run("agent")
    elsewhere.run(run.__enter__)
    assert tracker.current_run_id == run, "it is the sole open run"
    run.__exit__(None, None, None)
    assert current_scope() is None
    assert tracker.current_run_id is None
    assert recording.end()["run_id"] == run


def test_a_block_that_is_entered_again_is_recorded_once(recording: Recording, tracker: Tracker) -> None:
    run = tracker.track_run("agent")
    with run, run:
        pass
    with run:
        pass
    assert [event["type"] for event in recording.events()] == ["run.start", "run.end"]
    assert recording.invalid_calls == {"block_reused": 2}


def test_a_block_that_was_never_entered_ends_without_a_word(recording: Recording, tracker: Tracker) -> None:
    tracker.track_run("agent").__exit__(None, None, None)
    assert recording.events() == []
    assert recording.invalid_calls == {}


def test_a_run_handle_works_everywhere_as_its_id(tracker: Tracker) -> None:
    run = tracker.track_run("agent")
    assert json.dumps({"run": run}) == json.dumps({"run": run.id})
    assert f"{run}" == run.id
    assert {run.id: 1}[run] == 1


# ---- threads and tasks ---------------------------------------------------------------------------------------------


def test_a_thread_that_inherits_nothing_uses_the_sole_open_run(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("agent") as run, tracker.track_step_context("not its parent"):
        assert in_thread(lambda: tracker.track_step("in thread"))
    assert recording.parents()["in thread"] is None
    assert {step["run_id"] for step in recording.steps()} == {run}


def test_with_several_open_runs_such_a_thread_records_nothing(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("a"), tracker.track_run("b") as run:
        assert in_thread(lambda: tracker.track_step("lost")) is False
        assert in_thread(lambda: tracker.track_step("lost")) is False
        assert in_thread(lambda: tracker.end_run()) is False
        assert in_thread(lambda: tracker.track_step("named", run_id=run)) is True
    assert [step["name"] for step in recording.steps()] == ["named"]
    assert recording.invalid_calls == {"ambiguous_run": 3}


def test_tasks_do_not_mix(recording: Recording, tracker: Tracker) -> None:
    async def agent(number: int) -> None:
        async with tracker.track_run(f"agent {number}", {"number": number}) as run:
            await asyncio.sleep(0)
            async with tracker.track_step_context(f"outer {number}"):
                await asyncio.sleep(0)
                tracker.track_step(f"inner {number}")
            assert tracker.current_run_id == run

    async def main() -> None:
        await asyncio.gather(*(agent(number) for number in range(100)))

    asyncio.run(main())
    numbers = {event["run_id"]: event["input"]["number"] for event in recording.events("run.start")}
    assert len(numbers) == 100
    assert all(step["name"].endswith(f" {numbers[step['run_id']]}") for step in recording.steps())
    assert all(recording.parents()[f"inner {number}"] == f"outer {number}" for number in range(100))
    assert len(recording.events("run.end")) == 100
    assert recording.invalid_calls == {}


def test_threads_do_not_mix(recording: Recording, tracker: Tracker) -> None:
    barrier = threading.Barrier(8)

    def agent(number: int) -> None:
        barrier.wait(60)
        for turn in range(20):
            tracker.start_run("agent", {"number": number})
            tracker.track_step(f"{number} {turn}")
            tracker.end_run()

    threads = [threading.Thread(target=agent, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    numbers = {event["run_id"]: event["input"]["number"] for event in recording.events("run.start")}
    assert len(numbers) == 160
    assert all(int(step["name"].split()[0]) == numbers[step["run_id"]] for step in recording.steps())
    assert len(recording.steps()) == len(recording.events("run.end")) == 160


def test_a_task_inherits_the_run_it_was_made_in(recording: Recording, tracker: Tracker) -> None:
    async def child(name: str) -> None:
        await asyncio.sleep(0)
        with tracker.track_step_context(name):
            await asyncio.sleep(0)
            tracker.track_step(f"in {name}")

    async def main() -> None:
        with tracker.track_run("a"), tracker.track_step_context("parent"):
            await asyncio.gather(child("one"), child("two"), asyncio.to_thread(tracker.track_step, "three"))

    asyncio.run(main())
    assert recording.parents() == {
        "one": "parent",
        "two": "parent",
        "three": "parent",
        "in one": "one",
        "in two": "two",
        "parent": None,
    }


def test_a_function_carries_its_context_into_a_thread(recording: Recording, tracker: Tracker) -> None:
    def work(name: str, *, suffix: str = "") -> str:
        """Its documentation."""
        tracker.track_step(name + suffix)
        return name

    with tracker.track_run("a"), tracker.track_run("b"), tracker.track_step_context("parent"):
        carried = tracker.propagate(work)
    assert in_thread(lambda: carried("child", suffix="!")) == "child"
    assert recording.parents()["child!"] == "parent"
    assert (carried.__name__, carried.__doc__) == ("work", "Its documentation.")
    assert current_scope() is None


def test_a_coroutine_carries_its_context_into_another_loop(recording: Recording, tracker: Tracker) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        tracker.track_step("child")

    with tracker.track_run("a"), tracker.track_run("b"), tracker.track_step_context("parent"):
        carried = tracker.propagate(work)
    assert asyncio.iscoroutinefunction(carried) if sys.version_info < (3, 12) else inspect.iscoroutinefunction(carried)
    in_thread(lambda: asyncio.run(carried()))
    assert recording.parents()["child"] == "parent"


def test_an_exception_of_a_carried_function_goes_on_and_the_context_comes_back(tracker: Tracker) -> None:
    class Work:
        def __call__(self) -> None:
            raise LookupError("mine")

    with tracker.track_run("a"):
        carried = tracker.propagate(Work())
    with tracker.track_run("b") as run:
        with pytest.raises(LookupError, match="mine"):
            carried()
        assert tracker.current_run_id == run


# ---- trackers ------------------------------------------------------------------------------------------------------


def test_a_step_of_another_tracker_of_one_destination_lands_in_the_run() -> None:
    key = f"ask_{uuid4()}"
    kept: list[Event] = []
    with recorded(api_key=key) as recording:
        other = make(kept, api_key=key)
        with recording.tracker.track_run("agent") as run, recording.tracker.track_step_context("parent") as step:
            assert other.track_step("child")
        assert other.flush()
        assert (kept[0].run_id, kept[0].parent_id) == (run, step.id)
        assert balanced(other.stats())
        other.shutdown()


def test_trackers_of_two_destinations_do_not_mix(recording: Recording, tracker: Tracker) -> None:
    with recorded() as second, tracker.track_run("a") as run:
        with second.tracker.track_run("b") as other:
            tracker.track_step("first")
            second.tracker.track_step("second")
        assert (recording.step()["run_id"], second.step()["run_id"]) == (run, other)


def test_a_tracker_is_a_block_that_shuts_down(recording: Recording) -> None:
    with recording.tracker as tracker:
        tracker.start_run("agent")
    assert len(recording.raw) == 1
    assert tracker.start_run("late")
    assert tracker.stats().dropped == {"shutdown": 1}
    assert recording.said == ["a call came after shutdown() and is not recorded"]


def test_a_tracker_is_an_asynchronous_block_too(recording: Recording) -> None:
    async def main() -> None:
        async with recording.tracker as tracker:
            tracker.start_run("agent")

    asyncio.run(main())
    assert len(recording.raw) == 1
    assert recording.tracker._pipeline.closed


def test_flush_and_shutdown_have_asynchronous_forms(recording: Recording, tracker: Tracker) -> None:
    async def main() -> None:
        tracker.start_run("agent")
        assert await tracker.aflush(timeout=60)
        assert len(recording.raw) == 1
        tracker.end_run()
        assert await tracker.ashutdown(timeout=60)

    asyncio.run(main())
    assert len(recording.raw) == 2


def test_they_work_where_no_asyncio_loop_runs(recording: Recording, tracker: Tracker) -> None:
    tracker.start_run("agent")
    with pytest.raises(StopIteration) as ended:
        tracker.aflush().send(None)  # like the event loop of another library
    assert ended.value.value
    assert len(recording.raw) == 1


def held_run(tracker: Tracker) -> Callable[[], object]:
    run = tracker.track_run("agent")
    return lambda: [run.__enter__(), run.__exit__(None, None, None)]


def held_step(tracker: Tracker) -> Callable[[], object]:
    step = tracker.track_step_context("step", run_id=tracker.start_run("agent"))
    return lambda: [step.__enter__(), step.__exit__(None, None, None)]


def held_function(tracker: Tracker) -> Callable[[], object]:
    return tracker.observe(lambda: None)


@pytest.mark.parametrize("hold", [held_run, held_step, held_function])
def test_a_tracker_goes_on_as_long_as_something_records_by_it(
    hold: Callable[[Tracker], Callable[[], object]],
) -> None:
    kept: list[Event] = []

    def begin() -> tuple[Callable[[], object], weakref.ref[Tracker]]:
        tracker = make(kept)
        return hold(tracker), weakref.ref(tracker)

    before = switch(None)
    use, gone = begin()
    gc.collect()
    assert gone() is None
    use()
    del use
    gc.collect()
    until(lambda: len(kept) == 2)
    switch(before)


@pytest.mark.parametrize("show", [repr, str, "{0}".format, "{0!r}".format])
def test_no_text_of_a_tracker_shows_its_key(show: Callable[[object], str]) -> None:
    with recorded(api_key="ask_do_not_tell") as recording:
        assert show(recording.tracker) == "<Tracker to http://memory.test>"
        with recording.tracker.track_run("agent") as run, recording.tracker.track_step_context("step") as step:
            assert "ask_do_not_tell" not in show(run) + show(step)
            assert show(step) == f"<Step {step.id}>"


def test_a_tracker_takes_a_client_as_the_seed_document_has_it() -> None:
    client = AgentScopeClient("ask_lent", "http://lent.test")
    tracker = make([], lambda **_: Tracker(client, enabled=False))
    assert tracker.client is client
    assert repr(tracker) == "<Tracker to http://lent.test>"
    client.close()


# ---- sampling, switching off, time ---------------------------------------------------------------------------------


def test_sampling_takes_whole_runs_or_nothing_of_them() -> None:
    with recorded(sample_rate=0.4) as recording:
        tracker = recording.tracker
        for _ in range(100):
            with tracker.track_run("agent"), tracker.track_step_context("step"):
                tracker.track_step("inner")
        counts: dict[str, int] = {}
        for event in recording.events():
            counts[event["run_id"]] = counts.get(event["run_id"], 0) + 1
        assert set(counts.values()) == {4}
        assert 10 < len(counts) < 80
        stats = tracker.stats()
        assert stats.sampled_out == 400 - 4 * len(counts)
        assert stats.accepted == 4 * len(counts)
        assert recording.invalid_calls == {}


def test_a_rate_of_zero_records_nothing_and_says_false() -> None:
    with recorded(sample_rate=0) as recording:
        recording.tracker.start_run("agent")
        assert recording.tracker.track_step("step") is False
        assert recording.tracker.end_run() is False
        assert recording.events() == []
        assert recording.tracker.stats().sampled_out == 3


def test_a_disabled_tracker_records_nothing_needs_no_key_and_starts_no_thread() -> None:
    before = threading.active_count()
    for fail_silently in (True, False):
        tracker = create_tracker(enabled=False, fail_silently=fail_silently)
        assert tracker.start_run("agent")
        assert tracker.track_step("step", "no such type", tokens_used="many") is False
        with tracker.track_run("agent") as run, tracker.track_step_context("step") as step:
            run.output = step.output = 1
            assert step.run_id is None
            assert tracker.current_run_id is None
        with run, step:
            assert tracker.end_run() is False

        @tracker.observe
        def function(number: int) -> int:
            return number

        assert function(3) == 3
        assert tracker.propagate(function)(4) == 4
        assert tracker.flush()
        assert tracker.shutdown()
        stats = tracker.stats()
        assert (stats.accepted, stats.sampled_out, dict(stats.invalid_calls)) == (0, 0, {})
    assert threading.active_count() <= before  # a thread of an earlier test may have ended meanwhile
    assert current_scope() is None


def test_a_frozen_clock_stamps_the_events_and_does_not_stop_delivery(recording: Recording, tracker: Tracker) -> None:
    with freeze_time("2021-03-04T05:06:07Z") as clock:
        with tracker.track_run("agent"), tracker.track_step_context("step"):
            clock.tick(1.5)
        tracker.end_run(run_id="unknown")
        assert tracker.flush(timeout=60)
    moment = int(datetime(2021, 3, 4, 5, 6, 7, tzinfo=timezone.utc).timestamp()) * 10**9
    start, step, end, _ = recording.events()
    assert start["started_at"] == moment
    assert (step["started_at"], step["ended_at"], step["latency_ms"]) == (moment, moment + 1_500_000_000, 1500)
    assert end["ended_at"] == moment + 1_500_000_000
    assert {event.time_ns for event in recording.raw} == {moment, moment + 1_500_000_000}


def test_another_process_records_the_same_runs() -> None:
    ids = [str(uuid4()) for _ in range(40)]
    with recorded(sample_rate=0.5) as recording:
        kept = [recording.tracker.track_step("step", run_id=run_id) for run_id in ids]
    program = (
        "import sys; from tests.support.recording import recorded\n"
        "with recorded(sample_rate=0.5) as r: print([r.tracker.track_step('s', run_id=i) for i in sys.argv[1:]])"
    )
    told = subprocess.run([sys.executable, "-c", program, *ids], capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(kept)
    assert {True, False} == set(kept)


# ---- ids -----------------------------------------------------------------------------------------------------------


def test_the_id_of_every_run_is_a_random_uuid_of_its_own(tracker: Tracker) -> None:
    ids = [tracker.start_run("agent") for _ in range(100)]
    assert len(set(ids)) == 100
    assert {(UUID(run_id).version, str(UUID(run_id)) == run_id) for run_id in ids} == {(4, True)}


# ---- the fields of the table -----------------------------------------------------------------------------------------

CONTEXT: dict[str, Any] = {
    "user_id": "u",
    "conversation_id": "c",
    "tags": ["a", "b"],
    "environment": "production",
    "release": "1.2.3",
}


def test_a_run_has_its_user_conversation_tags_environment_and_release(recording: Recording, tracker: Tracker) -> None:
    tracker.start_run("by call", **CONTEXT)
    tracker.end_run()
    with tracker.track_run("by keywords", **CONTEXT):
        pass
    for start in recording.events("run.start"):
        assert {name: start[name] for name in CONTEXT} == CONTEXT
    assert len(recording.events("run.start")) == 2
    assert recording.invalid_calls == {}


def test_a_run_may_learn_of_its_user_while_it_goes_on(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("agent") as run:
        for name, value in CONTEXT.items():
            setattr(run, name, value)
        run.usage = {"total_tokens": 5}
    end = recording.end()
    assert {name: end[name] for name in CONTEXT} == CONTEXT
    assert end["usage"] == {"total_tokens": 5}


def test_a_misspelt_attribute_of_a_run_is_counted_and_logged_with_the_right_name(
    recording: Recording, tracker: Tracker
) -> None:
    with tracker.track_run("agent") as run:
        run.outputs = "hunter2"  # type: ignore[attr-defined]  # misspelt
    assert recording.end()["status"] == "completed"
    assert recording.invalid_calls == {"unknown_field": 1}
    assert "did you mean 'output'?" in recording.said[0]
    assert "hunter2" not in recording.said[0]


def test_a_misspelt_attribute_raises_after_the_end_is_recorded_if_that_is_asked_for() -> None:
    with recorded(fail_silently=False) as loud:
        with pytest.raises(AgentScopeError, match="did you mean 'output'"), loud.tracker.track_run("agent") as run:
            run.outputs = 1  # type: ignore[attr-defined]  # misspelt
        assert loud.end()["status"] == "completed"


def test_a_run_can_end_as_cancelled(recording: Recording, tracker: Tracker) -> None:
    tracker.start_run("agent")
    tracker.end_run("cancelled")
    assert recording.end()["status"] == "cancelled"
    assert recording.invalid_calls == {}
