"""Delivery beside users' hooks, event loops, other trackers and late exit handlers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from agentscope import AgentScopeExporter, FlushResult, Tracker, create_tracker
from agentscope.server.receiver import Receiver
from agentscope.tracker.base import Face
from agentscope.voltagent import VoltAgentSDK
from agentscope.voltagent.awaitables import Delivery
from tests.support.platform import DeployedPlatform
from tests.support.program import run_program
from tests.support.proxy import FaultProxy
from tests.support.recording import balanced
from tests.support.stored import stored_runs, stored_steps
from tests.support.wait import until


class Panic(BaseException):
    """A `BaseException` that is no `Exception`, as extension modules raise."""


def picky(fields: dict[str, Any]) -> dict[str, Any]:
    if fields.get("name") == "poison":
        raise Panic("secret payload")
    return fields


def test_a_hook_that_panics_drops_its_event_and_no_other(receiver: Receiver) -> None:
    with create_tracker("ask_test", receiver.url, redact=picky) as tracker:
        with tracker.track_run("agent"):
            for name in ("before", "poison", "after"):
                tracker.track_step(name)
        assert not tracker.flush()
        stats = tracker.stats()
        assert (stats.accepted, stats.delivered, dict(stats.dropped)) == (5, 4, {"redaction_error": 1})
    assert stored_steps(receiver.url) == ["before", "after"]


def test_calls_from_a_redaction_hook_record_no_event(receiver: Receiver) -> None:
    def tracking(fields: dict[str, Any]) -> dict[str, Any]:
        assert tracker.track_step("from the hook", run_id=run_id) is False
        return fields

    with create_tracker("ask_test", receiver.url, redact=tracking) as tracker:
        run_id = tracker.start_run("agent")
        tracker.track_step("step")
        assert tracker.flush()
        assert tracker.stats().invalid_calls["inside_callback"] == 2
    assert stored_steps(receiver.url) == ["step"]


def test_a_callback_for_drops_that_panics_does_not_end_the_worker() -> None:
    def panic(reason: str, number: int) -> None:
        raise Panic

    tracker = create_tracker("ask_test", "http://127.0.0.1:9", on_drop=panic)
    tracker.start_run("agent")
    assert tracker.shutdown().dropped == 1
    assert tracker._pipeline._worker.finished


def test_of_two_flushes_at_once_both_tell_of_a_drop(receiver: Receiver) -> None:
    with create_tracker("ask_test", receiver.url, redact=picky, flush_interval=60) as tracker:
        run_id = tracker.start_run("agent")
        assert tracker.flush()
        tracker.track_step("poison", run_id=run_id)
        gate = threading.Barrier(3)
        found: list[FlushResult] = []

        def flush() -> None:
            gate.wait()
            found.append(tracker.flush())

        threads = [threading.Thread(target=flush) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert any(not result for result in found)
        assert tracker.flush()


def test_a_flush_that_is_cancelled_holds_up_no_event_loop() -> None:
    with FaultProxy(mode="hang") as proxy:
        tracker = create_tracker("ask_test", proxy.url, timeout=60)
        tracker.start_run("agent")

        async def impatient() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(tracker.aflush(timeout=60), 0.2)

        began = time.monotonic()
        asyncio.run(impatient())
        assert time.monotonic() - began < 45  # a minute if the loop's own executor did the work
        tracker.shutdown(0.1)


def _handled(face: Face) -> Awaitable[object]:
    assert isinstance(face, Tracker)

    @face.lambda_handler(timeout=60)
    async def handler(event: object, context: object) -> None:
        """Nothing more is recorded."""

    return handler({}, None)


def _delivered(face: Face, call: str) -> Awaitable[object]:
    delivery = getattr(face, call)(60)
    assert isinstance(delivery, Delivery)
    return delivery


AWAITED: dict[str, Callable[[Face], Awaitable[object]]] = {
    "aflush": lambda face: face.aflush(timeout=60),
    "ashutdown": lambda face: face.ashutdown(timeout=60),
    "lambda_handler": _handled,
    "flush": lambda face: _delivered(face, "flush"),
    "shutdown": lambda face: _delivered(face, "shutdown"),
}


@pytest.mark.parametrize("destinations", [1, 2])
@pytest.mark.parametrize(
    ("make", "call"),
    [
        (create_tracker, "aflush"),
        (create_tracker, "ashutdown"),
        (create_tracker, "lambda_handler"),
        (VoltAgentSDK, "aflush"),
        (VoltAgentSDK, "ashutdown"),
        (VoltAgentSDK, "flush"),
        (VoltAgentSDK, "shutdown"),
    ],
)
def test_deliveries_that_are_awaited_and_cancelled_share_one_thread_at_most(
    destinations: int, make: Callable[..., Face], call: str
) -> None:
    with FaultProxy(mode="hang") as proxy:
        exporters = [AgentScopeExporter(api_key="ask_test", base_url=proxy.url) for _ in range(destinations)]
        face = make(exporters=exporters, timeout=60)
        tracker = face if isinstance(face, Tracker) else face.tracker  # type: ignore[attr-defined]  # the other face
        tracker.start_run("agent")
        pipelines = face._pipeline._pipelines
        until(lambda: all(pipeline._worker.running for pipeline in pipelines))
        names = {thread.name for thread in threading.enumerate()}

        async def impatient() -> None:
            waits = [asyncio.ensure_future(AWAITED[call](face)) for _ in range(200)]
            await asyncio.sleep(0.2)  # the deliveries are under way
            began = [thread.name for thread in threading.enumerate() if thread.name == "agentscope-flush"]
            assert len(began) == (call in ("shutdown", "ashutdown"))
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

        asyncio.run(impatient())
        if call in ("aflush", "lambda_handler"):
            assert [len(pipeline._worker._flushes._waiting) for pipeline in pipelines] == [0] * destinations
        assert balanced(face.stats())
        tracker.shutdown(0.1)
        until(lambda: "agentscope-flush" not in {thread.name for thread in threading.enumerate()} - names)


def test_all_that_ask_for_a_shutdown_at_the_same_time_get_its_result(receiver: Receiver) -> None:
    async def agent() -> list[FlushResult]:
        async with tracker.track_run("agent"):
            tracker.track_step("step")
        return await asyncio.gather(*(tracker.ashutdown(60) for _ in range(20)))

    tracker = create_tracker("ask_test", receiver.url)
    assert all(asyncio.run(agent()))
    assert stored_steps(receiver.url) == ["step"]


def test_a_flush_that_nothing_waits_for_is_forgotten_when_its_time_is_over() -> None:
    async def agent() -> Delivery:
        sdk.trace(agentId="a").end()
        return sdk.flush(timeout=0.2)

    with FaultProxy(mode="refuse") as proxy:
        sdk = VoltAgentSDK(exporters=[AgentScopeExporter(api_key="ask_test", base_url=proxy.url)])
        flushing = asyncio.run(agent())
        until(lambda: not sdk._pipeline._pipelines[0]._worker._flushes._waiting)
        assert flushing.pending == 2
        assert not flushing.result()
        sdk.shutdown(0.1)


def test_a_flush_of_the_voltagent_face_does_not_block_trio(receiver: Receiver) -> None:
    async def agent() -> FlushResult:
        with sdk.trace(agentId="a") as trace, trace.add_agent({"name": "A"}):
            pass
        flushing = sdk.flush(60)
        assert not flushing
        return await flushing

    sdk = VoltAgentSDK(exporters=[AgentScopeExporter(api_key="ask_test", base_url=receiver.url)])
    assert trio.run(agent)
    assert stored_steps(receiver.url) == ["A"]
    sdk.shutdown()


def test_an_awaited_flush_ends_in_time_and_tells_what_is_left() -> None:
    with FaultProxy(mode="hang") as proxy:
        tracker = create_tracker("ask_test", proxy.url, timeout=60)
        tracker.start_run("agent")
        result = asyncio.run(tracker.aflush(timeout=0.1))
        assert (bool(result), result.pending) == (False, 1)
        tracker.shutdown(0.1)


def test_trio_goes_on_while_a_flush_and_a_shutdown_are_awaited(receiver: Receiver) -> None:
    async def agent() -> tuple[FlushResult, FlushResult]:
        with tracker.track_run("agent"):
            tracker.track_step("step")
        return await tracker.aflush(60), await tracker.ashutdown(60)

    tracker = create_tracker("ask_test", receiver.url)
    assert all(trio.run(agent))
    assert stored_steps(receiver.url) == ["step"]


def test_a_flush_in_trio_holds_up_no_other_task_and_can_be_cancelled() -> None:
    seen = []

    async def count() -> None:
        while True:
            seen.append(1)
            await trio.sleep(0.01)  # a turn of the loop

    async def agent() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            with trio.move_on_after(0.3) as limit:
                await tracker.aflush(60)
            assert limit.cancelled_caught
            assert not await tracker.aflush(0.1)
            nursery.cancel_scope.cancel()

    with FaultProxy(mode="hang") as proxy:
        tracker = create_tracker("ask_test", proxy.url, timeout=60)
        tracker.start_run("agent")
        trio.run(agent)
        assert len(seen) > 5
        tracker.shutdown(0.1)


def test_in_another_event_loop_a_flush_blocks_and_that_is_said_once(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = create_tracker("ask_test", receiver.url)
    for _ in range(2):
        with tracker.track_run("agent"):
            tracker.track_step("step")
        with pytest.raises(StopIteration) as ended:
            tracker.aflush(60).send(None)
        assert ended.value.value
    with pytest.raises(StopIteration) as ended:
        tracker.ashutdown(60).send(None)
    until(lambda: [record for record in caplog.records if "knows asyncio and trio" in record.getMessage()])
    assert len([record for record in caplog.records if "knows asyncio and trio" in record.getMessage()]) == 1


def test_an_awaited_flush_tells_what_a_plain_one_tells(receiver: Receiver) -> None:
    async def agent() -> tuple[FlushResult, FlushResult]:
        async with tracker.track_run("agent"):
            tracker.track_step("step")
        return await tracker.aflush(), await tracker.ashutdown()

    tracker = create_tracker("ask_test", receiver.url)
    assert all(asyncio.run(agent()))
    assert stored_steps(receiver.url) == ["step"]


def test_a_second_tracker_of_a_platform_adds_to_the_runs_of_the_first() -> None:
    with (
        DeployedPlatform() as platform,
        create_tracker("ask_test", platform.url, flush_interval=0.0, timeout=60) as first,
        create_tracker("ask_test", platform.url, flush_interval=0.0, timeout=60) as second,
    ):
        with first.track_run("agent"):
            assert first.flush()
            second.track_step("by the second")
            assert second.flush()
        assert first.flush()
        assert [step["name"] for step in platform.only_run().steps] == ["by the second"]


@pytest.mark.parametrize("code", [404, 405])
def test_a_backend_with_the_batch_call_is_not_given_up_for_one_404(receiver: Receiver, code: int) -> None:
    with FaultProxy(receiver.url) as proxy, create_tracker("ask_test", proxy.url, flush_interval=0.0) as tracker:
        with tracker.track_run("agent"):
            tracker.track_step("before")
            assert tracker.flush()
            proxy.plan([("status", {"code": code})])
            tracker.track_step("after")
            until(lambda: tracker.stats().delivered >= 3)
        assert tracker.flush()
        assert tracker.stats().protocol == "agentscope-batch"
    assert stored_steps(receiver.url) == ["before", "after"]


def test_calls_from_a_late_exit_handler_are_refused_counted_and_logged(receiver: Receiver) -> None:
    source = """
        import atexit
        def late():   # runs after ours, which was registered later
            tracker.start_run("late")
            print(dict(tracker.stats().dropped), tracker.stats().pending)
        atexit.register(late)
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        first = create_tracker("ask_test", {url!r})
        first.start_run("early")
        tracker = create_tracker("ask_test", {url!r})
    """
    result = run_program(source.format(url=receiver.url), timeout=120)
    assert result.stdout == "{'shutdown': 1} 0\n"
    assert "after shutdown()" in result.stderr
    assert [run["agent_name"] for run in stored_runs(receiver.url)] == ["early"]


def test_a_child_of_multiprocessing_registers_its_end_once(receiver: Receiver) -> None:
    source = """
        import multiprocessing
        from agentscope import create_tracker
        def child():
            from multiprocessing import util
            for i in range(5):
                with create_tracker("ask_test", {url!r}) as tracker:
                    tracker.start_run("agent")
            print(len([key for key in util._finalizer_registry if key[0] == 10]))
        if __name__ == "__main__":
            process = multiprocessing.get_context("spawn").Process(target=child)
            process.start()
            process.join()
    """
    result = run_program(source.format(url=receiver.url), timeout=180)
    assert result.stdout == "1\n", result.stderr
