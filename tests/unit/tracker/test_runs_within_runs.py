"""Runs inside runs, announced steps, and scopes of another face with the same backend."""

from __future__ import annotations

from typing import Any

import pytest

from agentscope import VoltAgentExporter
from agentscope.protocols.ids import span_id_of
from agentscope.protocols.trace_context import headers_of
from agentscope.tracker import context
from agentscope.tracker.context import HANDLE, REMOTE, Place, Runs, leave, runs_of
from tests.support.recording import Recording, recorded

RUN = "0af76519-16cd-43dd-8448-eb211c80319c"
STEP = "11111111-2222-4333-8444-555555555555"
HEADERS = headers_of(RUN, STEP, True)


def where(event: dict[str, Any]) -> tuple[Any, ...]:
    return event["type"], event["run_id"], event["step_id"], event["parent_id"]


def test_a_run_inside_another_process_is_a_step_of_its_run() -> None:
    with recorded() as recording:
        tracker = recording.tracker
        with tracker.extract(HEADERS), tracker.track_run("worker", input_data=1) as run:
            tracker.track_step("inside")
        start, step, end = recording.events()
        assert where(start) == ("step.start", RUN, run.id, STEP)
        assert (start["name"], start["step_type"], start["status"], start["input"]) == ("worker", "agent", "running", 1)
        assert where(step)[1:] == (RUN, step["step_id"], run.id)
        assert where(end) == ("step.end", RUN, run.id, STEP)
        assert (end["status"], end["step_type"], end["started_at"]) == ("completed", "agent", start["started_at"])


def test_a_run_inside_that_one_is_a_run_of_its_own() -> None:
    with recorded() as recording:
        tracker = recording.tracker
        with tracker.extract(HEADERS), tracker.track_run("worker"), tracker.track_run("another") as run:
            pass
        assert [event["run_id"] for event in recording.events("run.start")] == [run.id]


def test_a_run_started_inside_another_process_ends_by_its_id_from_anywhere() -> None:
    with recorded() as recording:
        tracker = recording.tracker
        with tracker.extract(HEADERS):
            inner = tracker.start_run("worker")
        context.switch(None)
        assert tracker.track_step("sole")  # without a context: the only open run
        assert tracker.track_step("named", run_id=inner)
        assert tracker.end_run(run_id=inner, error="no luck", status="failed")
        assert not tracker.end_run(run_id=inner)
        assert recording.parents() == {"sole": inner, "named": inner}
        (end,) = recording.events("step.end")
        assert (end["run_id"], end["step_id"], end["status"], end["error"]) == (RUN, inner, "failed", "no luck")
        assert end["name"] == "worker"


def test_end_run_without_an_id_ends_the_inner_run_and_not_the_senders() -> None:
    with recorded() as recording:
        tracker = recording.tracker
        with tracker.extract(HEADERS):
            inner = tracker.start_run("worker")
            with tracker.track_step_context("step"):
                assert tracker.end_run()
        assert [where(event)[:3] for event in recording.events() if event["type"] != "step"] == [
            ("step.start", RUN, inner),
            ("step.end", RUN, inner),
        ]


def test_a_block_of_another_process_leaves_the_context_as_it_was() -> None:
    with recorded() as recording:
        tracker = recording.tracker
        with tracker.track_run("own") as run:
            with tracker.extract(HEADERS) as remote:
                assert remote
                assert tracker.current_run_id == RUN
            assert tracker.current_run_id == run.id


def test_a_block_of_another_process_is_entered_once() -> None:
    with recorded() as recording:
        tracker = recording.tracker
        remote = tracker.extract(HEADERS)
        with remote:
            pass
        with remote:
            assert tracker.current_run_id is None
        assert recording.invalid_calls == {"block_reused": 1}


def test_what_is_injected_names_the_innermost_step() -> None:
    with recorded() as recording:
        tracker = recording.tracker
        with tracker.track_run("a") as run:
            assert tracker.inject({})["traceparent"].split("-")[2] == span_id_of(run.id)
            with tracker.track_step_context("b") as step:
                headers = tracker.inject({"Traceparent": "old", "tracestate": "vendor=1"})
        assert headers["Traceparent"].split("-")[2] == span_id_of(step.id)
        assert set(headers) == {"Traceparent", "tracestate"}
        assert headers["tracestate"].endswith(",vendor=1")


def test_a_run_that_is_sampled_out_says_so_in_its_headers() -> None:
    with recorded(sample_rate=0.0) as recording, recording.tracker.track_run("a"):
        assert recording.tracker.inject({})["traceparent"].endswith("-00")


def test_a_tracker_that_is_not_enabled_extracts_nothing() -> None:
    with recorded(enabled=False) as recording, recording.tracker.extract(HEADERS) as remote:
        assert not remote


@pytest.fixture
def announced() -> Any:
    exporter = VoltAgentExporter(base_url="http://volt.test", public_key="pk", secret_key="sk")
    with recorded(api_key=None, base_url=None, exporters=[exporter]) as recording:
        yield recording


def test_for_voltagent_a_step_is_announced_before_what_is_inside(announced: Recording) -> None:
    tracker = announced.tracker
    with tracker.track_run("a"), tracker.track_step_context("outer", step_type="agent", input_data={"x": 1}) as outer:
        tracker.track_step("inner")
        outer.output = "done"
    told = announced.events()
    assert [event["type"] for event in told] == ["run.start", "step.start", "step", "step.end", "run.end"]
    start, inner, end = told[1:4]
    assert (start["name"], start["step_type"], start["status"], start["input"]) == (
        "outer",
        "agent",
        "running",
        {"x": 1},
    )
    assert inner["parent_id"] == start["step_id"] == end["step_id"] == outer.id
    assert (end["name"], end["step_type"], end["status"], end["output"]) == ("outer", "agent", "completed", "done")
    assert "input" not in end
    assert end["started_at"] <= end["ended_at"]


def test_elsewhere_a_step_is_one_event() -> None:
    with recorded() as recording:
        with recording.tracker.track_run("a"), recording.tracker.track_step_context("b"):
            pass
        assert [event["type"] for event in recording.events()] == ["run.start", "step", "run.end"]


# ---- scopes --------------------------------------------------------------------------------------------------------


def near_and_far() -> tuple[Runs, Runs, Runs]:
    """Two faces with one destination, and a tracker with another."""
    return runs_of("http://a.test", "k", "One"), runs_of("http://a.test", "pk", "Other"), runs_of("http://b.test", "k")


def test_the_innermost_run_of_either_face_to_the_same_address_is_the_current_one() -> None:
    one, other, far = near_and_far()
    outer = one.enter("run-1")
    inner = other.enter("run-2", "step-2")
    assert one.place() == other.place() == Place("run-2", "step-2")
    assert far.place() is None
    leave(inner)
    assert other.place() == Place("run-1", None)
    leave(outer)


def test_another_key_of_the_same_face_is_another_destination() -> None:
    one, another = runs_of("http://a.test", "k", "One"), runs_of("http://a.test", "k2", "One")
    scope = one.enter("run-1")
    assert another.place() is None
    leave(scope)


def test_what_a_handle_adds_goes_below_the_blocks_inside_it_but_not_below_another_handle() -> None:
    runs = runs_of("http://a.test", "k", "One")
    trace = runs.enter("run-1", sort=HANDLE)
    agent = runs.enter("run-1", "agent", sort=HANDLE)
    assert runs.below("run-1", "agent") == "agent"
    block = runs.enter("run-1", "block")
    assert runs.below("run-1", "agent") == "block"
    assert runs.below("run-1", None) is None
    inner = runs.enter("run-1", "inner agent", sort=HANDLE)
    assert runs.below("run-1", "agent") == "agent"
    assert runs.below("run-1", "inner agent") == "inner agent"
    assert runs.below("run-2", "x") == "x"
    for scope in (inner, block, agent, trace):
        leave(scope)
    assert runs.below("run-1", "agent") == "agent"


def test_a_scope_of_another_process_counts_without_being_open_here() -> None:
    runs = runs_of("http://a.test", "k", "One")
    scope = runs.enter(RUN, STEP, sort=REMOTE)
    assert runs.place() == Place(RUN, STEP)
    leave(scope)


def test_runs_within_others_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "MOST_OPEN_RUNS", 10)
    runs = Runs()
    for number in range(30):
        runs.joined(f"inner-{number}", Place("outer", None))
    assert runs.within("inner-29") == (Place("outer", None), "")
    assert runs.within("inner-0") is None


def test_without_a_name_the_run_of_another_process_is_not_ended() -> None:
    with recorded() as recording:
        tracker = recording.tracker
        with tracker.extract(HEADERS):
            assert not tracker.end_run()
            with tracker.track_step_context("inside"):
                assert not tracker.end_run()
            inner = tracker.start_run("worker")
            assert tracker.end_run()
            assert not tracker.end_run()
        assert [event["step_id"] for event in recording.events("step.end")] == [inner]
        assert not recording.events("run.end")
        assert tracker.stats().invalid_calls == {"foreign_run": 3}


def test_of_runs_within_others_those_that_are_open_are_forgotten_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "MOST_OPEN_RUNS", 10)
    runs = Runs()
    runs.joined("long", Place(RUN, None))
    runs.opened("long")
    for number in range(50):
        runs.joined(f"run-{number}", Place(RUN, None))
        runs.opened(f"run-{number}")
        runs.ended(f"run-{number}")
    assert runs.placed("long") == Place(RUN, "long")
    assert runs.placed("run-49") == Place(RUN, "run-49")
    assert runs.placed("run-0") == Place("run-0", None)
