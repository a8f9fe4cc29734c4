"""The exporters to a stream and to memory."""

from __future__ import annotations

import io
from typing import Any

from agentscope import ConsoleExporter, InMemoryExporter, Tracker, create_tracker
from agentscope.exporters import EventRecord
from tests.support.recording import balanced


def tracker_to(exporter: Any, **options: Any) -> Tracker:
    return create_tracker(exporters=[exporter], flush_interval=0.0, **options)


def event(
    type_: str, run: str, seq: int, step: str | None = None, parent: str | None = None, **fields: Any
) -> EventRecord:
    time = f"2026-01-31T12:00:00.{seq:06}Z"
    return EventRecord(f"{run}{seq}", type_, time, "session", seq, run, step, parent, fields)


def test_memory_has_runs_with_their_steps_as_plain_dicts() -> None:
    memory = InMemoryExporter()
    tracker = tracker_to(memory)
    with tracker.track_run("agent", input_data={"a": 1}) as run:
        tracker.track_step("think", "reasoning", output_data=["b"])
        run.output = "c"
    assert tracker.flush(60)
    (found,) = memory.runs
    assert (found["agent_name"], found["status"], found["input"], found["output"]) == (
        "agent",
        "completed",
        {"a": 1},
        "c",
    )
    (step,) = found["steps"]
    assert (step["name"], step["step_type"], step["output"], step["run_id"]) == (
        "think",
        "reasoning",
        ["b"],
        found["id"],
    )
    assert memory.steps == [step]
    assert balanced(tracker.stats())
    tracker.shutdown(60)


def test_memory_is_empty_after_clear() -> None:
    memory = InMemoryExporter()
    memory.export([event("run.start", "r", 1)], 1.0)
    memory.clear()
    assert (memory.runs, memory.steps, memory.events) == ([], [], [])


def test_memory_keeps_an_event_that_comes_twice_once() -> None:
    memory = InMemoryExporter()
    memory.export([event("run.start", "r", 1)], 1.0)
    memory.export([event("run.start", "r", 1)], 1.0)
    assert len(memory.events) == 1


def test_memory_forgets_the_oldest_events_beyond_its_bound() -> None:
    memory = InMemoryExporter(max_events=2)
    memory.export([event("run.start", "r", seq) for seq in range(5)], 1.0)
    assert [kept.seq for kept in memory.events] == [3, 4]


def test_memory_merges_objects_of_metadata_and_takes_the_last_of_other_values() -> None:
    memory = InMemoryExporter()
    memory.export(
        [
            event("run.start", "r", 1, meta_data={"a": 1, "b": 1}, status="running"),
            event("run.update", "r", 2, meta_data={"b": 2}),
            event("run.end", "r", 3, status="failed"),
        ],
        1.0,
    )
    (run,) = memory.runs
    assert (run["meta_data"], run["status"]) == ({"a": 1, "b": 2}, "failed")


def test_the_console_prints_a_run_when_it_ends() -> None:
    stream = io.StringIO()
    console = ConsoleExporter(stream)
    console.export([event("run.start", "r", 1, agent_name="agent")], 1.0)
    console.export([event("step", "r", 2, "s", name="think", status="completed", latency_ms=5)], 1.0)
    assert stream.getvalue() == ""
    console.export([event("run.end", "r", 3, status="completed")], 1.0)
    assert stream.getvalue().splitlines()[0] == "✓ agent  completed · 1 step"
    assert stream.getvalue().splitlines()[1].startswith("└─ ✓ think")


def test_the_console_prints_open_runs_at_the_end_of_the_tracker() -> None:
    stream = io.StringIO()
    tracker = tracker_to(ConsoleExporter(stream))
    tracker.start_run("agent")
    assert tracker.flush(60)
    assert stream.getvalue() == ""
    assert tracker.shutdown(60)
    assert "agent  " in stream.getvalue()
    assert balanced(tracker.stats())


def test_the_console_prints_the_run_that_is_open_longest_beyond_its_bound(monkeypatch: Any) -> None:
    monkeypatch.setattr("agentscope.exporters.console.MOST_EVENTS", 2)
    stream = io.StringIO()
    console = ConsoleExporter(stream)
    console.export([event("run.start", name, seq, agent_name=name) for seq, name in enumerate("abc")], 1.0)
    assert [line[2] for line in stream.getvalue().splitlines()] == ["a"]


def test_events_for_a_closed_stream_are_counted_as_rejected() -> None:
    stream = io.StringIO()
    stream.close()
    tracker = tracker_to(ConsoleExporter(stream, color=False))
    with tracker.track_run("agent"):
        pass
    tracker.flush(60)
    stats = tracker.stats()
    assert stats.dropped["rejected"] > 0
    assert balanced(stats)
    tracker.shutdown(60)


def test_the_console_prints_no_payload() -> None:
    stream = io.StringIO()
    console = ConsoleExporter(stream)
    console.export(
        [
            event("step", "r", 1, "s", name="think", input="secret in", output="secret out"),
            event("run.end", "r", 2, status="completed", output="secret end"),
        ],
        1.0,
    )
    assert "secret" not in stream.getvalue()


def test_colour_may_be_chosen() -> None:
    stream = io.StringIO()
    ConsoleExporter(stream, color=True).export([event("run.end", "r", 1, status="completed")], 1.0)
    assert "\x1b[32m" in stream.getvalue()
