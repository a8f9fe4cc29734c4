"""Serverless functions are flushed before they return, within their remaining time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agentscope import Tracker, create_tracker
from agentscope.server.receiver import Receiver
from tests.support.proxy import FaultProxy
from tests.support.stored import stored_steps
from tests.support.wait import until


class Context:
    """The context object of a serverless platform."""

    def __init__(self, left: object) -> None:
        self.left = left

    def get_remaining_time_in_millis(self) -> object:
        if isinstance(self.left, Exception):
            raise self.left
        return self.left


@pytest.fixture
def tracker(receiver: Receiver) -> Iterator[Tracker]:
    with create_tracker("ask_test", receiver.url, flush_interval=600) as tracker:
        yield tracker
        stats = tracker.stats()
        assert stats.accepted == stats.delivered + stats.spooled + stats.pending + sum(stats.dropped.values())


@pytest.fixture
def hanging() -> Iterator[Tracker]:
    with FaultProxy(mode="hang") as proxy:
        tracker = create_tracker("ask_test", proxy.url, flush_interval=600, fail_silently=False)
        yield tracker
        tracker._pipeline.shutdown(0.0)


def track(tracker: Tracker) -> None:
    tracker.track_step("step", run_id=tracker.start_run("agent"))


def test_what_a_function_recorded_is_stored_when_it_returns(tracker: Tracker, receiver: Receiver) -> None:
    @tracker.lambda_handler
    def handler(event: dict[str, int], context: object) -> int:
        """Doubles."""
        track(tracker)
        return event["n"] * 2

    assert handler({"n": 2}, Context(3_000)) == 4
    until(lambda: stored_steps(receiver.url) == ["step"])  # until now, except on a busy machine
    assert (handler.__name__, handler.__doc__) == ("handler", "Doubles.")


def test_a_functions_own_exception_goes_on_after_the_flush(tracker: Tracker, receiver: Receiver) -> None:
    @tracker.lambda_handler(timeout=60)
    def handler(event: object, context: object) -> None:
        track(tracker)
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        handler({}, Context(90_000))
    assert stored_steps(receiver.url) == ["step"]


def test_a_coroutine_is_flushed_when_it_is_over_and_blocks_no_event_loop(tracker: Tracker, receiver: Receiver) -> None:
    @tracker.lambda_handler(timeout=60)
    async def handler(event: object, context: object) -> str:
        await asyncio.sleep(0)  # a real wait in the coroutine
        track(tracker)
        return "done"

    assert inspect.iscoroutinefunction(handler)
    assert asyncio.run(handler({}, None)) == "done"
    assert stored_steps(receiver.url) == ["step"]


def test_an_object_that_gives_a_coroutine_is_flushed_when_that_is_over(tracker: Tracker, receiver: Receiver) -> None:
    async def inner() -> str:
        track(tracker)
        return "done"

    handler = tracker.lambda_handler(timeout=60)(lambda event, context: inner())
    assert asyncio.run(handler({}, None)) == "done"
    assert stored_steps(receiver.url) == ["step"]


def test_a_coroutine_that_is_closed_by_its_event_loop_waits_for_nothing(hanging: Tracker) -> None:
    @hanging.lambda_handler(timeout=60)
    async def handler(event: object, context: object) -> None:
        track(hanging)
        await asyncio.sleep(60)  # its loop is closed before

    call = handler({}, None)

    async def begin() -> None:
        call.send(None)

    asyncio.run(begin())
    call.close()


def test_a_flush_ends_a_margin_before_the_time_is_over(hanging: Tracker) -> None:
    @hanging.lambda_handler(margin=0.5, timeout=90)
    def handler(event: object, context: object) -> str:
        track(hanging)
        return "done"

    began = time.monotonic()
    assert handler({}, Context(1_000)) == "done"
    assert 0.4 < time.monotonic() - began < 45  # half a second, with a margin for a busy machine


@pytest.mark.parametrize("left", [100, 0, -5_000], ids=["less than the margin", "none", "less than none"])
def test_a_function_without_time_left_is_not_held_up(hanging: Tracker, left: int) -> None:
    @hanging.lambda_handler(timeout=90)
    def handler(event: object, context: object) -> str:
        track(hanging)
        return "done"

    began = time.monotonic()
    assert handler({}, Context(left)) == "done"
    assert time.monotonic() - began < 45


@pytest.mark.parametrize(
    "context",
    [
        None,
        object(),
        {},
        Context(RuntimeError()),
        Context("soon"),
        Context(None),
        Context(float("nan")),
        Context(10**9),
    ],
    ids=["none", "another's", "a dict", "raising", "text", "nothing", "not a number", "years"],
)
def test_a_context_that_tells_no_time_leaves_the_timeout(hanging: Tracker, context: object) -> None:
    @hanging.lambda_handler(timeout=0.3)
    def handler(event: object, context: object) -> str:
        track(hanging)
        return "done"

    began = time.monotonic()
    assert handler({}, context) == "done"
    assert 0.25 < time.monotonic() - began < 45


def test_methods_and_named_arguments_find_their_context(hanging: Tracker) -> None:
    class Service:
        @hanging.lambda_handler(timeout=90)
        def handle(self, event: object, *, context: object) -> str:
            track(hanging)
            return "done"

    began = time.monotonic()
    assert Service().handle({}, context=Context(600)) == "done"
    assert time.monotonic() - began < 45


def test_a_wrong_limit_is_counted_and_the_default_used(tracker: Tracker) -> None:
    wrong: Any = "soon"
    handler = tracker.lambda_handler(lambda event, context: "done", margin=wrong)
    assert handler({}, None) == "done"
    assert tracker.stats().invalid_calls == {"wrong_type": 1}


def test_a_tracker_that_is_switched_off_flushes_nothing_and_changes_nothing() -> None:
    handler = create_tracker(enabled=False).lambda_handler(lambda event, context: event)
    assert handler(1, None) == 1
