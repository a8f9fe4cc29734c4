"""Exceptions of the host at any line of a call of the AgentScope face: each comes out, and leaves nothing wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from agentscope import Tracker
from agentscope.events import Event
from agentscope.pipeline.pipeline import Pipeline
from agentscope.pipeline.process import lifecycle
from tests.support.interruptions import KINDS, at_every_line, ended, interrupted, place, run
from tests.support.recording import Recording, make, recorded
from tests.support.wait import until

pytestmark = pytest.mark.timing(
    reason="the worker goes on beside the call, and may finish at the line that is interrupted"
)

HEADERS = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}


@dataclass
class Value:
    """A payload that takes the careful way."""

    number: int = 1
    text: str = "x"


class FailingValue:
    """A payload whose own exceptions are contained."""

    def __repr__(self) -> str:
        raise ValueError("from the value")


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with recorded() as recording:
        tracker = recording.tracker
        with tracker.track_run("outer") as outer:
            yield Host(recording, tracker, outer.id)


@dataclass
class Host:
    """A program with an open run."""

    recording: Recording
    tracker: Tracker
    run_id: str

    def start_run(self) -> Callable[[], object]:
        return lambda: ended(self.tracker, self.tracker.start_run("a", {"x": 1}, "id", Value(), tags=["a"]))

    def end_run(self) -> Callable[[], object]:
        run_id = self.tracker.start_run("a")
        return lambda: ended(self.tracker, run_id, output=[Value(), FailingValue()])

    def failed_run(self) -> Callable[[], object]:
        run_id = self.tracker.start_run("a")
        return lambda: ended(self.tracker, run_id, error=ValueError("x"))

    def track_step(self) -> Callable[[], object]:
        return lambda: self.tracker.track_step(
            "s",
            "tool_call",
            {"q": 1},
            Value(),
            tokens_used=1,
            latency_ms=2.0,
            meta_data={"a": b"x"},
            run_id=self.run_id,
        )

    def odd_step(self) -> Callable[[], object]:
        value: Any = FailingValue()
        return lambda: self.tracker.track_step(
            value, value, value, {"a": value}, ValueError(value), value, meta_data=value, run_id=self.run_id, model="m"
        )

    def blocks(self) -> Callable[[], object]:
        def call() -> None:
            with self.tracker.track_step_context("outer", "tool_call", {"q": 1}, run_id=self.run_id) as step:
                step.output = {"a": 1}
                with self.tracker.track_step_context("inner", "unknown", Value(), meta_data=Value()) as inner:  # type: ignore[arg-type]
                    inner.output, inner.model = Value(), "m"
                    self.tracker.track_step("innermost")

        return call

    def failing_block(self) -> Callable[[], object]:
        def call() -> None:
            with self.tracker.track_step_context("s", run_id=self.run_id):
                raise LookupError

        def caught() -> None:
            try:
                call()
            except LookupError:
                pass

        return caught

    def runs(self) -> Callable[[], object]:
        def call() -> None:
            with self.tracker.track_run("a", Value(), user_id="u") as inner:
                inner.output = Value()
                with self.tracker.track_step_context("s"):
                    self.tracker.track_step("inner")
                self.tracker.track_step("after")

        return call

    def async_blocks(self) -> Callable[[], object]:
        async def call() -> None:
            async with self.tracker.track_run("a"), self.tracker.track_step_context("s"):
                self.tracker.track_step("inner")

        return lambda: run(call())

    def observed_functions(self) -> Callable[[], object]:
        @self.tracker.observe
        def outer(value: object) -> object:
            return inner(value)

        @self.tracker.observe(name="inner", step_type="llm_call")
        def inner(value: object) -> object:
            return Value()

        return lambda: outer(Value())

    def observed_coroutines(self) -> Callable[[], object]:
        @self.tracker.observe
        async def outer(value: object) -> object:
            return await inner(value)

        @self.tracker.observe
        async def inner(value: object) -> object:
            return Value()

        return lambda: run(outer(Value()))

    def observed_generators(self) -> Callable[[], object]:
        @self.tracker.observe
        def items(value: object) -> Iterator[object]:
            yield "a"
            yield value

        return lambda: list(items(Value()))

    def observed_async_generators(self) -> Callable[[], object]:
        @self.tracker.observe
        async def items(value: object) -> AsyncIterator[object]:
            yield "a"
            yield value

        async def call() -> object:
            return [item async for item in items(Value())]

        return lambda: run(call())

    def observed_streams(self) -> Callable[[], object]:
        class Stream:
            def __init__(self) -> None:
                self.items = iter(["a", Value()])

            def __iter__(self) -> Stream:
                return self

            def __next__(self) -> object:
                return next(self.items)

            def __enter__(self) -> Stream:
                return self

            def __exit__(self, *error: object) -> None: ...

        @self.tracker.observe
        def items(value: object) -> Any:
            return Stream()

        @self.tracker.observe
        def generator(value: object) -> Any:
            return (each for each in [value])

        def call() -> None:
            with items(1) as stream:
                list(stream)
            list(generator(Value()))

        return call

    def observed_awaitables(self) -> Callable[[], object]:
        @self.tracker.observe
        def asked(value: object) -> Any:
            async def answer() -> object:
                return value

            return answer()

        return lambda: run(asked(Value()))

    def started_steps(self) -> Callable[[], object]:
        kept = []  # the last thing to be collected is no part of the call

        def call() -> None:
            kept.append(self.tracker.start_step("s", "tool_call", Value(), run_id=self.run_id, model="m"))
            kept[0].end(Value(), tokens_used=1)
            kept.append(self.tracker.start_step("block", run_id=self.run_id))
            with kept[1]:
                self.tracker.track_step("inside")

        return call

    def decorating(self) -> Callable[[], object]:
        def plain(value: object) -> object:
            return value

        def call() -> None:
            self.tracker.observe(plain)
            self.tracker.observe(name="x")(staticmethod(plain))
            self.tracker.propagate(plain)(1)
            self.tracker.lambda_handler(plain)(1)
            self.tracker.lambda_handler(margin=1)(plain)(1)

        return call

    def decorating_coroutines(self) -> Callable[[], object]:
        async def plain(value: object) -> object:
            return value

        return lambda: run(self.tracker.propagate(plain)(1))

    def headers(self) -> Callable[[], object]:
        def call() -> None:
            with self.tracker.extract(HEADERS):
                self.tracker.inject({"a": "b"})
                with self.tracker.track_run("within"):
                    self.tracker.track_step("s")

        return call

    def delivery(self) -> Callable[[], object]:
        def call() -> None:
            self.tracker.track_step("s", run_id=self.run_id)
            self.tracker.flush()
            self.tracker.stats()
            _ = self.tracker.current_run_id

        return call


CALLS = [name for name in vars(Host) if not name.startswith("_")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_an_exception_of_the_host_at_any_line_of_a_call_comes_out_and_leaves_nothing_wrong(
    host: Host, call: str, kind: type[BaseException]
) -> None:
    assert at_every_line(host.recording, getattr(host, call), kind) == []


def test_an_exception_of_the_host_comes_out_with_fail_silently_false_too() -> None:
    with recorded(fail_silently=False) as recording, recording.tracker.track_run("outer") as outer:
        host = Host(recording, recording.tracker, outer.id)
        for call in (host.track_step, host.runs, host.start_run):
            assert at_every_line(recording, call, TimeoutError) == []


def another_event(tracker: Tracker) -> None:
    assert tracker.track_step("second", run_id="r")


def a_flush(tracker: Tracker) -> None:
    assert tracker.flush(60)


def a_shutdown(tracker: Tracker) -> None:
    assert tracker.shutdown(60)


def the_exit(tracker: Tracker) -> None:
    pipeline = tracker._pipeline
    assert isinstance(pipeline, Pipeline)
    pipeline.ask_to_stop()
    assert lifecycle._started.get(id(pipeline)) is pipeline or not tracker.stats().accepted
    pipeline.wait_until_stopped()


@pytest.mark.parametrize("after", [another_event, a_flush, a_shutdown, the_exit])
def test_an_exception_of_the_host_at_any_line_of_the_first_call_leaves_a_tracker_that_delivers(
    after: Callable[[Tracker], None],
) -> None:
    for line in count(1):
        with recorded(flush_interval=0.05) as recording:
            tracker, error = recording.tracker, SystemExit("the host's")
            interrupted(lambda: tracker.track_step("first", run_id="r"), line, error)
            after(tracker)
            until(lambda: tracker.stats().delivered == tracker.stats().accepted, what=place(error))
            assert tracker.stats().dropped == {}
        if not place(error):
            assert line > 20
            break


def test_an_exception_of_the_host_at_any_line_of_the_first_call_loses_nothing_of_a_tracker_that_is_collected() -> None:
    def begin(kept: list[Event], error: BaseException, line: int) -> tuple[str, int]:
        tracker = make(kept)
        interrupted(lambda: tracker.track_step("first", run_id="r"), line, error)
        where, error.__traceback__ = place(error), None
        return where, tracker.stats().accepted

    for line in count(1):
        kept: list[Event] = []
        where, accepted = begin(kept, SystemExit("the host's"), line)
        until(lambda: len(kept) == accepted, what=where)
        if not where:
            break


def test_a_step_whose_end_the_host_interrupts_is_recorded_as_failed() -> None:
    with recorded() as recording, recording.tracker.track_run("outer"):

        class Slow:
            def __repr__(self) -> str:
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError), recording.tracker.track_step_context("s", "tool_call") as step:
            step.output = Slow()
        told = recording.step()
        assert (told["name"], told["step_type"], told["status"]) == ("s", "tool_call", "cancelled")


def test_a_run_whose_end_the_host_interrupts_ends_as_its_caller_said() -> None:
    class Slow:
        def __repr__(self) -> str:
            raise SystemExit

    with recorded() as recording:
        run_id = recording.tracker.start_run("a")
        with pytest.raises(SystemExit):
            recording.tracker.end_run("cancelled", output=Slow(), run_id=run_id)
        assert recording.end()["status"] == "cancelled"
        with pytest.raises(SystemExit), recording.tracker.track_run("b") as run_:
            run_.output = Slow()
        assert [end["status"] for end in recording.events("run.end")] == ["cancelled", "failed"]
