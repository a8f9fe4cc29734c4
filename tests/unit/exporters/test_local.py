"""The exporters to a stream and to memory."""

from __future__ import annotations

import io
from typing import Any

import pytest

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


def drawn(*events: EventRecord, stream: Any = None) -> list[str]:
    """The lines that the console prints for these events of a run."""
    stream = stream or io.StringIO()
    ended = event("run.end", "r", 999, agent_name="agent", status="completed")
    assert ConsoleExporter(stream).export([*events, ended], 1.0) is None
    return stream.getvalue().splitlines()


def step(seq: int, name: str, parent: str | None = None, **fields: Any) -> EventRecord:
    return event(
        "step", "r", seq, name, parent, **{"name": name, "step_type": "other", "status": "completed", **fields}
    )


def test_children_stand_below_their_parents_and_orphans_at_the_top() -> None:
    steps = [step(1, "a"), step(2, "b", "a"), step(3, "c", "b"), step(4, "d", "a"), step(5, "e", "unknown")]
    lines = [line.partition("  other")[0].rstrip() for line in drawn(*steps)[1:]]
    assert lines == ["├─ ✓ a", "│  ├─ ✓ b", "│  │  └─ ✓ c", "│  └─ ✓ d", "└─ ✓ e"]


def test_steps_that_are_each_others_parent_do_not_hang_the_tree() -> None:
    assert len(drawn(step(1, "a"), step(2, "b", "c"), step(3, "c", "b"), step(4, "d", "d"))) == 3


def test_a_step_shows_type_duration_model_and_tokens() -> None:
    told = {"step_type": "llm_call", "latency_ms": 1234, "model": "a-model", "usage": {"totalTokens": 7}}
    assert drawn(step(1, "a", **told))[1] == "└─ ✓ a  llm_call    1.2 s  a-model · 7 tokens"


def test_a_failed_step_shows_its_error_and_the_run_counts_it() -> None:
    head, line = drawn(step(1, "a", status="failed", error={"type": "OSError", "message": "no\nway"}))
    assert head.endswith("· 1 step · 1 failed")
    assert line == "└─ ✗ a  other              OSError: no way"


def test_control_characters_of_data_do_not_reach_the_stream() -> None:
    hostile = "\x1b[31mred\x07\u202e\x9b2J"
    text = "".join(drawn(step(1, hostile, step_type=hostile, model=hostile, status=hostile, error=hostile)))
    assert text.isprintable()


def test_an_encoding_without_line_art_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    ConsoleExporter(stream).export([step(1, "é"), event("run.end", "r", 2, status="completed")], 1.0)
    assert raw.getvalue().decode("ascii").splitlines()[1].startswith("`- + ?")


def test_long_names_are_cut_to_the_width() -> None:
    assert max(map(len, drawn(step(1, "n" * 300, model="m" * 300)))) <= 110


def test_only_so_many_steps_of_a_run_are_printed() -> None:
    lines = drawn(*(step(seq, f"s{seq}") for seq in range(205)))
    assert (len(lines), lines[-1]) == (202, "… 5 more steps")
    assert "205 steps" in lines[0]


def test_fields_of_any_type_do_not_stop_the_console() -> None:
    odd = {"status": ["x"], "latency_ms": "soon", "tokens_used": {}, "error": 7, "usage": [1], "started_at": "x"}
    assert (
        len(drawn(step(1, "a", step_type=None, **odd), event("run.update", "r", 2, started_at="y", ended_at="z"))) == 2
    )


def test_standard_error_is_looked_up_when_a_run_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleExporter().export([event("run.end", "r", 1, agent_name="late", status="completed")], 1.0)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "✓ late  completed · 0 steps\n")


def test_a_forked_child_does_not_print_the_open_runs_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = ConsoleExporter(stream)
    console.export([event("run.start", "r", 1, agent_name="of the parent")], 1.0)
    monkeypatch.setattr("os.getpid", lambda: -1)
    console.close()
    console.export([event("run.end", "own", 2, agent_name="own", status="completed")], 1.0)
    console.close()
    assert stream.getvalue() == "✓ own  completed · 0 steps\n"
