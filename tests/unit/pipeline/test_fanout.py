"""Several destinations at once: each event goes to all of them, and none waits for another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agentscope.config import Config
from agentscope.events import STEP, Event
from agentscope.pipeline.fanout import FanOut
from agentscope.pipeline.pipeline import Pipeline
from agentscope.protocols.base import BUSY, Batch, Outcome
from agentscope.types import Stats
from tests.support.recording import Memory, balanced
from tests.support.wait import until

CONFIG = Config.load({"api_key": "ask_test", "flush_interval": 0.0}, {})


class Down(Memory):
    """An exporter whose backend does not answer in time until it is released."""

    def __init__(self) -> None:
        super().__init__([])
        self.asked = threading.Event()

    def export(self, batch: Batch, timeout: float) -> Outcome:
        self.asked.set()
        return Outcome(problem="nobody is at home", kind=BUSY)


def pipeline(exporter: Memory, config: Config = CONFIG) -> Pipeline:
    return Pipeline(config, lambda: exporter, lambda event: event)


def step(fan: FanOut, name: str = "step") -> bool:
    return fan.put(STEP, "run", fan.new_step_id(), None, {"name": name}, len(name), urgent=False)


def each_balanced(stats: Stats) -> bool:
    return balanced(stats) and all(map(balanced, stats.exporters))


def test_every_event_goes_to_every_destination() -> None:
    one: list[Event] = []
    other: list[Event] = []
    fan = FanOut([pipeline(Memory(one)), pipeline(Memory(other))])
    assert [step(fan, name) for name in "abc"] == [True] * 3
    assert fan.flush(60)
    assert [event.fields["name"] for event in one] == [event.fields["name"] for event in other] == ["a", "b", "c"]
    stats = fan.stats()
    assert (stats.accepted, stats.delivered, [each.delivered for each in stats.exporters]) == (6, 6, [3, 3])
    assert each_balanced(stats)
    fan.shutdown(1)


def test_a_destination_that_is_down_does_not_delay_another() -> None:
    kept: list[Event] = []
    down = Down()
    fan = FanOut([pipeline(down), pipeline(Memory(kept))])
    step(fan)
    assert down.asked.wait(60)
    until(lambda: fan.stats().problem and [each.pending for each in fan.stats().exporters] == [1, 0])
    result = fan.flush(0.2)
    assert (result.pending, result.dropped, result.problem) == (1, 0, "nobody is at home")
    assert len(kept) == 1
    stats = fan.stats()
    assert [each.pending for each in stats.exporters] == [1, 0]
    assert stats.problem == "nobody is at home"
    assert not fan.shutdown(0.1)
    assert fan.stats().dropped == {"shutdown": 1}
    assert each_balanced(fan.stats())


class Late(Memory):
    """An exporter whose backend answers when it is released."""

    def __init__(self) -> None:
        super().__init__([])
        self.let = threading.Event()

    def export(self, batch: Batch, timeout: float) -> Outcome:
        self.let.wait(60)
        return super().export(batch, timeout)


def test_a_flush_does_not_count_events_that_come_while_it_waits() -> None:
    late, other = Late(), Late()
    slow, fast = pipeline(late), pipeline(other)
    fan = FanOut([slow, fast])
    step(fan)
    other.let.set()
    assert fast.flush(60)
    other.let.clear()
    waits = [each.begin_flush() for each in (slow, fast)]
    step(fan)
    late.let.set()
    assert [wait(60).pending for wait in waits] == [0, 0]
    other.let.set()
    assert fan.shutdown(60)


def test_each_destination_has_its_own_queue_bound() -> None:
    kept: list[Event] = []
    small = replace(CONFIG, max_queue_bytes=64 * 1024)
    fan = FanOut([pipeline(Down(), small), pipeline(Memory(kept))])
    taken = [step(fan) for _ in range(200)]
    assert all(taken)  # by the second one
    until(lambda: len(kept) == 200)
    first, second = fan.stats().exporters
    assert first.dropped["queue_full"] > 0
    assert second.dropped == {}
    fan.shutdown(0.1)
    assert each_balanced(fan.stats())


def test_an_invalid_call_is_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    fan = FanOut([pipeline(Memory([])), pipeline(Memory([]))])
    fan.invalid_call("no_run", "no run is open")
    assert fan.stats().invalid_calls == {"no_run": 1}
    fan.retire()


def test_an_event_that_is_sampled_out_is_counted_by_every_destination() -> None:
    kept: list[Event] = []
    config = replace(CONFIG, sample_rate=0.0)
    fan = FanOut([pipeline(Memory(kept), config), pipeline(Memory(kept), config)])
    assert not step(fan)
    assert fan.flush(60)
    assert (kept, fan.stats().sampled_out, fan.stats().accepted) == ([], 2, 0)
    fan.retire()


def test_after_the_end_no_destination_accepts_an_event() -> None:
    fan = FanOut([pipeline(Memory([])), pipeline(Memory([]))])
    assert not fan.closed
    assert fan.shutdown(1)
    assert fan.closed
    assert not step(fan)
    assert fan.stats().dropped == {"shutdown": 2}
    assert each_balanced(fan.stats())


class Shared(list[Callable[[], object]]):
    """A list that another thread empties between a look at it and a change."""

    def pop(self, *at: Any) -> Callable[[], object]:
        self.clear()
        return super().pop(*at)

    def remove(self, item: Callable[[], object]) -> None:
        self.clear()
        super().remove(item)


def test_a_hook_that_another_thread_has_called_is_not_called_again() -> None:
    called: list[int] = []
    stopping = pipeline(Memory([]))
    stopping._before_stop = Shared([lambda: called.append(1)])
    assert stopping.shutdown(1)
    assert called == []  # by this one
