"""Steps that are open for long: their start is announced once, and their end tells everything all the same."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import patch

import pytest

from agentscope.events import Session, in_full
from agentscope.pipeline.open_items import AGE, OpenItems, StepStart, Watch
from agentscope.protocols.agentscope.decode import Batch, decode_batch
from agentscope.protocols.json_encode import event_json
from agentscope.server.storage.fold import run_view
from tests.support.recording import Recording, balanced, recorded

SESSION = Session("session-1", "00000000-0000-8000-8000-")


def look(recording: Recording, after: float = 1.5, told: bool | None = True) -> int | None:
    """A look of the worker, so many seconds later."""
    watch = recording.tracker._pipeline._worker.watch
    return watch.look(0.0, told, time.perf_counter_ns() + int(after * 1e9))


def received(recording: Recording) -> Batch:
    """The delivered events, as a receiver decodes them."""
    recording.events()
    events = b",".join(event_json(in_full(event), SESSION) for event in recording.raw)
    return decode_batch(b'{"batch_id":"b","session_id":"session-1","events":[' + events + b"]}")


def starts(recording: Recording) -> list[str]:
    return [event["name"] for event in recording.events("step.start")]


def test_a_step_that_is_open_for_a_second_is_announced_with_its_input_its_place_and_its_start(
    recording: Recording,
) -> None:
    tracker = recording.tracker
    with tracker.track_run("agent") as run, tracker.track_step_context("plan", "agent", {"task": "x"}) as outer:
        given = {"url": "http://slow"}
        with tracker.track_step_context("fetch", "tool_call", given, meta_data={"try": 1}, model="m") as inner:
            given["url"] = "changed later"
            assert look(recording) is not None
            plan, fetch = recording.events("step.start")
    assert (plan["step_id"], plan["parent_id"], plan["input"], plan["run_id"]) == (
        outer.id,
        None,
        {"task": "x"},
        run.id,
    )
    assert (fetch["step_id"], fetch["parent_id"], fetch["input"]) == (inner.id, outer.id, {"url": "http://slow"})
    assert (fetch["name"], fetch["step_type"], fetch["status"]) == ("fetch", "tool_call", "running")
    assert (fetch["meta_data"], fetch["model"]) == ({"try": 1}, "m")
    assert fetch["started_at"] == next(step for step in recording.steps() if step["name"] == "fetch")["started_at"]


def test_a_step_is_announced_once_however_long_it_takes(recording: Recording) -> None:
    tracker = recording.tracker
    with tracker.track_run("agent"), tracker.track_step_context("slow"):
        for second in range(2, 20):
            look(recording, second)
        assert starts(recording) == ["slow"]
    assert len(recording.steps()) == 1


def test_a_short_step_is_one_event(recording: Recording) -> None:
    tracker = recording.tracker
    with tracker.track_run("agent"):
        for _ in range(5):
            with tracker.track_step_context("short"):
                look(recording, 0.1)
        look(recording)
    assert starts(recording) == []
    assert recording.tracker.stats().accepted == 5 + 2


def test_steps_that_began_together_are_announced_together() -> None:
    items = OpenItems()
    told: list[str] = []
    watch = Watch(items, lambda start: told.append(start.step_id or "") or len(told))
    steps = [Opened("first", 0), Opened("second", 200), Opened("third", 900)]
    items.steps.update((step.name, lambda step=step: step) for step in steps)  # type: ignore[misc]
    assert watch.look(0.0, True, 900_000_000) is None
    assert watch.next == pytest.approx(0.1), "the next look is when the oldest step is a second old"
    assert watch.look(0.1, True, 1_000_000_000) == 1
    assert told == ["first", "second"]
    watch.look(1.1, True, 2_000_000_000)
    assert told == ["first", "second", "third"]


class Opened:
    """A step that is open since so many milliseconds."""

    def __init__(self, name: str, began: int) -> None:
        self.name, self._began = name, began * 1_000_000

    def open_since(self) -> int:
        return self._began

    def start_event(self) -> StepStart:
        return StepStart("run", self.name, None, {}, 0, self._began)


def test_nothing_is_announced_to_a_destination_that_takes_only_whole_steps(recording: Recording) -> None:
    tracker = recording.tracker
    with tracker.track_run("agent"), tracker.track_step_context("slow"):
        assert look(recording, told=False) is None
        assert look(recording, told=None) == 0, "what waits is sent, to learn what the destination takes"
    assert starts(recording) == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_announcement_and_the_end_fold_to_the_ended_step_in_any_order(
    recording: Recording, order: tuple[int, ...]
) -> None:
    tracker = recording.tracker
    with tracker.track_run("agent") as run, tracker.track_step_context("slow", "tool_call", "in") as step:
        look(recording)
        step.output = "out"
    patches = received(recording).patches
    of_step = [each for each in patches if each.step_id is not None]
    (told,) = run_view(run.id, [of_step[index] for index in order])["steps"]
    assert (told["status"], told["input"], told["output"]) == ("completed", "in", "out")
    assert told["ended_at"] >= told["started_at"]


def test_an_announcement_that_is_made_while_the_step_ends_does_not_open_it_again(recording: Recording) -> None:
    tracker = recording.tracker
    with tracker.track_run("agent") as run:
        step = tracker.track_step_context("slow")
        with step:
            start = step.start_event()
        assert start is not None
        assert tracker._pipeline.announce(start) is not None
    (told,) = run_view(run.id, received(recording).patches)["steps"]
    assert told["status"] == "completed"


def test_a_wall_clock_that_is_set_back_leaves_no_announced_step_running(recording: Recording) -> None:
    tracker = recording.tracker
    with tracker.track_run("agent") as run, tracker.track_step_context("slow") as step:
        look(recording)
        recording.events()
        now = time.time_ns()
        clock = patch("time.time_ns", lambda: now - 3600 * 10**9)
        step.error = "no"
        with clock:
            step.__exit__(None, None, None)
    (told,) = run_view(run.id, received(recording).patches)["steps"]
    assert told["status"] == "failed"


def test_a_started_step_is_announced_until_it_is_ended(recording: Recording) -> None:
    tracker = recording.tracker
    with tracker.track_run("agent"):
        ended, waiting = tracker.start_step("ended"), tracker.start_step("waiting")
        ended.end()
        look(recording)
        assert starts(recording) == ["waiting"]
        waiting.end()


def test_steps_of_runs_that_are_sampled_out_are_neither_announced_nor_counted_again() -> None:
    with recorded(sample_rate=0.0) as recording:
        tracker = recording.tracker
        with tracker.track_run("agent"), tracker.track_step_context("slow"):
            look(recording)
            look(recording, 5)
        assert recording.events() == []
        assert tracker.stats().sampled_out == 3


def test_an_announcement_that_finds_no_room_is_made_later_and_drops_nothing() -> None:
    with recorded(max_queue_bytes=64 * 1024, flush_interval=600) as recording:
        tracker = recording.tracker
        queue = tracker._pipeline._worker.queue
        with tracker.track_run("agent"), tracker.track_step_context("slow"):
            with patch.object(queue, "put", lambda *_: "crowded"):
                assert look(recording) is None
            assert balanced(tracker.stats())
            assert not tracker.stats().dropped
            assert look(recording) is not None
        assert starts(recording) == ["slow"]


def test_a_forked_child_announces_none_of_its_parents_steps(recording: Recording) -> None:
    tracker = recording.tracker
    with tracker.track_run("agent"), tracker.track_step_context("of_parent"):
        items = tracker._recorder.open_items
        before = dict(items.steps), dict(items.runs)
        items.clear()  # as `Pipeline.after_fork_in_child` does
        assert look(recording) is None
        assert not tracker._pipeline._worker.watch.is_open()
        with tracker.track_step_context("of_child"):
            look(recording)
            assert starts(recording) == ["of_child"]
        items.steps.update(before[0])
        items.runs.update(before[1])


def test_a_block_that_is_abandoned_is_forgotten(recording: Recording) -> None:
    tracker = recording.tracker
    with tracker.track_run("agent"):
        step = tracker.track_step_context("abandoned")
        step.__enter__()
        step._opened = None
        look(recording)
        with tracker.track_step_context("collected") as kept:
            pass
        del kept
        assert tracker._recorder.open_items.steps == {}
    assert starts(recording) == []
    step._scope = None


def test_a_first_open_step_asks_the_worker_to_look_and_the_following_ones_do_not(recording: Recording) -> None:
    tracker = recording.tracker
    calls: list[None] = []
    with tracker.track_run("agent"), patch.object(tracker._pipeline, "watch", lambda: calls.append(None)):
        tracker._recorder.open_items.watched = False
        with tracker.track_step_context("first"):
            assert calls == [None]
            look(recording, 0.1)
            with tracker.track_step_context("second"):
                assert calls == [None]


def test_steps_that_come_and_go_wake_the_worker_once_a_second_and_not_each_time() -> None:
    items = OpenItems()
    watch = Watch(items, lambda start: 1)
    items.watched, watch.next = True, 0.0  # as the first step asks
    assert watch.look(10.0, True) is None
    assert items.watched, "the next step asks for nothing"
    assert watch.wait(10.0, 15.0) == AGE
    assert watch.look(10.0 + AGE, True) is None
    assert not items.watched
    assert watch.wait(10.0 + AGE, 15.0) is None, "while nothing is recorded the worker sleeps"


def test_a_session_is_open_while_a_run_or_a_step_of_it_is(recording: Recording) -> None:
    tracker = recording.tracker
    watch = tracker._pipeline._worker.watch
    assert not watch.is_open()
    with tracker.track_run("agent") as run:
        assert watch.is_open()
        step = tracker.start_step("slow")
    assert watch.is_open()
    step.end()
    assert not watch.is_open()
    assert watch.wait(0.0, 15.0) is None or watch.wait(0.0, 15.0) <= AGE
    tracker.start_run("left")
    assert watch.is_open()
    tracker.end_run()
    assert not watch.is_open(), run


def test_a_value_that_raises_spoils_no_other_announcement(recording: Recording) -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError

    tracker = recording.tracker
    name: Any = Hostile()
    with tracker.track_run("agent"), tracker.track_step_context(name), tracker.track_step_context("slow"):
        look(recording)
        assert "slow" in starts(recording)
