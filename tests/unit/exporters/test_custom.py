"""Exporters that are objects of the user's: the interface, the results of `export`, and the ledger."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from agentscope import (
    AgentScopeExporter,
    ConfigurationError,
    CustomExporter,
    EventExporter,
    EventRecord,
    ExportResult,
    InMemoryExporter,
    OTLPExporter,
    Tracker,
    create_tracker,
)
from agentscope.config import Config
from tests.support.recording import balanced
from tests.support.wait import until

FAST: dict[str, Any] = {"flush_interval": 0.0, "retry_delay": 0.0}


class Own:
    """An exporter whose results come from a list: a value is returned, an exception is raised, a callable is called.

    After the end of the list everything is delivered.
    """

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.calls: list[list[EventRecord]] = []
        self.closed = 0

    def export(self, events: Sequence[EventRecord], timeout: float) -> Any:
        self.calls.append(list(events))
        result = self.results.pop(0) if self.results else None
        if isinstance(result, BaseException):
            raise result
        return result(events) if callable(result) else result

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def trackers() -> Iterator[Callable[..., Tracker]]:
    made: list[Tracker] = []

    def make(*exporters: Any, **options: Any) -> Tracker:
        made.append(create_tracker(exporters=list(exporters), **{**FAST, **options}))
        return made[-1]

    yield make
    for tracker in made:
        tracker.shutdown(0)


Make = Callable[..., Tracker]


def record(tracker: Tracker) -> None:
    with tracker.track_run("agent", input_data={"q": [1, None]}):
        tracker.track_step("think", output_data="é")


def test_an_object_gets_records_of_plain_values(trackers: Make) -> None:
    own = Own()
    tracker = trackers(own)
    record(tracker)
    assert tracker.flush(60)
    events = [event for call in own.calls for event in call]
    assert [event.type for event in events] == ["run.start", "step", "run.end"]
    assert events[0].fields["input"] == {"q": [1, None]}
    assert events[1].fields["output"] == "é"
    assert events[0].time.endswith("Z")
    assert {event.run_id for event in events} == {events[0].run_id}
    assert events[1].step_id is not None
    assert balanced(tracker.stats())


def test_an_object_without_a_key_is_a_destination() -> None:
    assert Config.load({"exporters": [Own()], "base_url": None}, {}).api_key is None


def test_the_protocol_of_the_class_is_satisfied_by_any_object_with_export() -> None:
    assert isinstance(Own(), EventExporter)
    assert isinstance(InMemoryExporter(), EventExporter)


@pytest.mark.parametrize("result", [False, RuntimeError("down"), 5, "yes", ExportResult(problem="busy"), SystemExit(1)])
def test_events_not_delivered_are_exported_again_with_the_same_ids(trackers: Make, result: Any) -> None:
    own = Own(result, result)
    tracker = trackers(own)
    tracker.start_run("agent")
    assert tracker.flush(60)
    assert len(own.calls) >= 3
    assert own.calls[0][0].id == own.calls[1][0].id == own.calls[2][0].id
    stats = tracker.stats()
    assert (stats.accepted, stats.delivered, dict(stats.dropped)) == (1, 1, {})
    assert balanced(stats)


def test_a_result_names_each_event(trackers: Make) -> None:
    own = Own(lambda events: ExportResult(delivered=[events[0].id], rejected=[events[1].id]))
    tracker = trackers(own, flush_interval=600.0)
    record(tracker)
    tracker.flush(60)
    assert [event.id for event in own.calls[1]] == [own.calls[0][2].id]
    stats = tracker.stats()
    assert (stats.accepted, stats.delivered, dict(stats.dropped)) == (3, 2, {"rejected": 1})
    assert balanced(stats)


def test_retries_end_at_their_limit_and_are_counted(trackers: Make) -> None:
    tracker = trackers(Own(*[False] * 1000), max_retries=2)
    tracker.start_run("agent")
    until(lambda: tracker.stats().dropped)
    stats = tracker.stats()
    assert dict(stats.dropped) == {"retry_limit": 1}
    assert balanced(stats)


def test_the_text_of_a_foreign_exception_is_not_shown(trackers: Make) -> None:
    tracker = trackers(Own(*[RuntimeError("ask_secret")] * 1000))
    tracker.start_run("agent")
    until(lambda: tracker.stats().problem)
    assert "RuntimeError" in str(tracker.stats().problem)
    assert "ask_secret" not in str(tracker.stats())


def test_secrets_are_masked_before_an_object_gets_them(trackers: Make) -> None:
    own = Own()
    tracker = trackers(own)
    tracker.start_run("agent", input_data={"password": "hunter2"})
    assert tracker.flush(60)
    assert "hunter2" not in repr(own.calls)


def test_the_keys_of_other_destinations_are_masked_too() -> None:
    config = Config.load({"exporters": [Own(), AgentScopeExporter(api_key="ask_of_the_other")]}, {})
    assert config.secrets == ("ask_of_the_other",)


def test_the_queue_of_an_object_that_hangs_is_bounded_and_flush_returns(trackers: Make) -> None:
    hang = threading.Event()
    own = Own(lambda events: hang.wait(60) and None)
    tracker = trackers(own, max_queue_bytes=64 * 1024, max_payload_bytes=4096)
    try:
        for _ in range(200):
            tracker.track_step("think", output_data="x" * 4000, run_id="00000000-0000-4000-8000-000000000001")
        assert not tracker.flush(0.01)
        stats = tracker.stats()
        assert stats.dropped["queue_full"] > 0
        assert stats.queued_bytes <= 64 * 1024
        assert balanced(stats)
        assert not tracker.shutdown(0.01)
        assert balanced(tracker.stats())
    finally:
        hang.set()


def test_an_object_that_hangs_does_not_hold_up_another(trackers: Make) -> None:
    hang, memory = threading.Event(), InMemoryExporter()
    tracker = trackers(Own(lambda events: hang.wait(60) and None), memory)
    try:
        record(tracker)
        until(lambda: len(memory.events) == 3)
        assert all(map(balanced, tracker.stats().exporters))
    finally:
        hang.set()


def test_events_recorded_inside_export_are_refused(trackers: Make) -> None:
    box: list[Tracker] = []
    own = Own(lambda events: box[0].track_step("inside") and None)
    box.append(trackers(own))
    box[0].start_run("agent")
    assert box[0].flush(60)
    assert box[0].stats().accepted == 1


def test_an_object_is_closed_once_after_the_last_export(trackers: Make) -> None:
    own = Own()
    tracker = trackers(own)
    record(tracker)
    tracker.shutdown(60)
    tracker.shutdown(60)
    until(lambda: own.closed)
    assert own.closed == 1


def test_options_of_its_own_come_with_a_custom_exporter() -> None:
    (exporter,) = Config.load({"exporters": [CustomExporter(target=Own(), batch_size=7)]}, {}).exporters
    assert exporter.overrides() == {"batch_size": 7}


def test_lists_may_mix_all_kinds() -> None:
    given = [AgentScopeExporter(), OTLPExporter(), InMemoryExporter(), Own(), CustomExporter(target=Own())]
    kinds = [type(exporter).__name__ for exporter in Config.load({"exporters": given}, {}).exporters]
    assert kinds == ["AgentScopeExporter", "OTLPExporter", "CustomExporter", "CustomExporter", "CustomExporter"]


class Asynchronous:
    async def export(self, events: Sequence[EventRecord], timeout: float) -> None: ...


class Without:
    def export(self, events: Sequence[EventRecord]) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (object(), "not object"),
        (Own, "pass an instance"),
        (Asynchronous(), "must be a plain function"),
        (Without(), "does not take (events, timeout)"),
        (None, "not NoneType"),
    ],
)
def test_a_wrong_object_is_refused_with_what_is_expected(wrong: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Config.load({"exporters": [wrong]}, {})
    assert "an object with export(events, timeout)" in str(caught.value)
    assert reason in str(caught.value)
