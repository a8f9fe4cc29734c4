"""The VoltAgent SDK: its options, delivery inside and outside of an event loop, calls by id, and shutdown."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import warnings
import weakref
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest

import agentscope.pipeline.factory
from agentscope import AgentScopeError, ConfigurationError, FlushResult, Tracker
from agentscope.config import Config
from agentscope.exporters.agentscope import AgentScopeExporter
from agentscope.pipeline.fanout import FanOut
from agentscope.pipeline.pipeline import Pipeline
from agentscope.pipeline.process.awaiting import Ongoing, finished
from agentscope.voltagent import VoltAgentConfig, VoltAgentSDK
from agentscope.voltagent.config import load
from tests.support.copies import another_process
from tests.support.recording import URL, Memory, balanced, decoded
from tests.support.voltagent import Traced, make, traced

KEYS = {"public_key": "pk_test", "secret_key": "sk_test"}
SECRET = "hunter2 in a payload"


@pytest.fixture
def volt() -> Iterator[Traced]:
    with traced() as found:
        yield found


@pytest.fixture
def sdk(volt: Traced) -> VoltAgentSDK:
    return volt.sdk


def configured(
    environ: dict[str, str] | None = None, given: Any = None, **options: Any
) -> tuple[Config, VoltAgentConfig]:
    names = list(VoltAgentSDK.__init__.__kwdefaults__)
    return load({**dict.fromkeys(names), **options}, given, environ or {})


# ---- options ---------------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_documents_but_for_retries() -> None:
    config, published = configured(**KEYS)
    assert published == VoltAgentConfig(base_url="https://api.voltagent.dev", **KEYS, flush_interval=5.0, timeout=30.0)
    assert (config.flush_interval, config.timeout, config.max_retries, config.retry_delay) == (5.0, 30.0, None, 1.0)


def test_every_option_of_the_document_is_honoured() -> None:
    options = {"base_url": f"{URL}/", "flush_interval": 2, "timeout": 7, "max_retries": 3, "retry_delay": 0.25}
    config, published = configured(**KEYS, **options, headers={"X-FailingObject": "1"})
    assert (config.flush_interval, config.timeout, config.max_retries, config.retry_delay) == (2.0, 7.0, 3, 0.25)
    (exporter,) = config.exporters
    assert (exporter.url, exporter.secrets) == (URL, ("sk_test", "pk_test"))
    assert published == VoltAgentConfig(**{**options, **KEYS, "base_url": URL, "headers": {"X-FailingObject": "1"}})


def test_without_auto_flush_nothing_goes_out_on_an_interval() -> None:
    config, published = configured(**KEYS, auto_flush=False, flush_interval=2)
    assert config.flush_interval == 3600.0
    assert (published.auto_flush, published.flush_interval) == (False, 2.0)


def test_every_option_of_the_document_comes_from_the_environment_too() -> None:
    environ = {
        "VOLTAGENT_BASE_URL": URL,
        "VOLTAGENT_PUBLIC_KEY": "pk_env",
        "VOLTAGENT_SECRET_KEY": "sk_env",
        "VOLTAGENT_AUTO_FLUSH": "false",
        "VOLTAGENT_FLUSH_INTERVAL": "2.5",
        "VOLTAGENT_TIMEOUT": "9",
        "VOLTAGENT_MAX_RETRIES": "4",
        "VOLTAGENT_RETRY_DELAY": "0.5",
    }
    _, published = configured(environ)
    assert published.model_dump() == {
        "base_url": URL,
        "public_key": "pk_env",
        "secret_key": "sk_env",
        "auto_flush": False,
        "flush_interval": 2.5,
        "timeout": 9.0,
        "max_retries": 4,
        "retry_delay": 0.5,
        "headers": None,
    }


def test_an_argument_goes_over_a_config_and_that_over_the_environment() -> None:
    environ = {"VOLTAGENT_TIMEOUT": "1", "VOLTAGENT_RETRY_DELAY": "1", "VOLTAGENT_FLUSH_INTERVAL": "1"}
    given = VoltAgentConfig(base_url=URL, **KEYS, timeout=2, retry_delay=2)
    _, published = configured(environ, given, timeout=3)
    assert (published.timeout, published.retry_delay, published.flush_interval) == (3.0, 2.0, 1.0)


def test_a_config_may_carry_our_own_options_and_may_be_a_dict() -> None:
    for given in (VoltAgentConfig(base_url=URL, **KEYS, batch_size=7), {"base_url": URL, **KEYS, "batch_size": 7}):
        config, published = configured(given=given)
        assert (config.batch_size, config.address, published.base_url) == (7, URL, URL)


def test_our_own_options_are_a_trackers() -> None:
    config, _ = configured({"AGENTSCOPE_SAMPLE_RATE": "0.5"}, **KEYS, fail_silently=False, max_queue_bytes=1 << 20)
    assert (config.fail_silently, config.sample_rate, config.max_queue_bytes) == (False, 0.5, 1 << 20)


@pytest.mark.parametrize(
    ("options", "environ", "sentence"),
    [
        ({}, {}, "public_key is missing: pass public_key=… or set VOLTAGENT_PUBLIC_KEY"),
        ({"public_key": "p"}, {}, "secret_key is missing: pass secret_key=… or set VOLTAGENT_SECRET_KEY"),
        ({**KEYS, "base_url": "ftp://x"}, {}, "base_url (from argument) must be an http"),
        ({**KEYS, "timeout": SECRET}, {}, "timeout (from argument) must be a number from 0.05 to 600"),
        (KEYS, {"VOLTAGENT_TIMEOUT": "soon"}, "timeout (from environment variable VOLTAGENT_TIMEOUT) must be a number"),
        (
            KEYS,
            {"VOLTAGENT_AUTO_FLUSH": "maybe"},
            "auto_flush (from environment variable VOLTAGENT_AUTO_FLUSH) must be",
        ),
        ({**KEYS, "headers": 5}, {}, "headers (from argument) must be a mapping"),
        ({**KEYS, "max_retries": -1}, {}, "max_retries (from argument) must be a whole number from 0"),
        ({"given": 5}, {}, "config (from argument) must be a VoltAgentConfig or a dict, not int"),
        ({"given": {**KEYS, "flush": 5}}, {}, "config (from argument) has an option that does not exist: flush"),
    ],
)
def test_a_value_that_cannot_work_is_named_with_its_source(
    options: dict[str, Any], environ: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configured(environ, **options)
    assert str(caught.value).startswith(sentence)


def test_an_option_that_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'flush'"):
        VoltAgentSDK(**KEYS, flush=5)


def test_the_repr_shows_the_address_and_no_key() -> None:
    sdk = make([], secret_key=SECRET.replace(" ", "_"))
    assert repr(sdk) == f"<VoltAgentSDK to {URL}>"
    assert "hunter2" not in repr(sdk.config) + repr(sdk.client) + repr(vars(sdk.config).keys())


def test_other_destinations_may_be_named_and_then_there_is_no_client() -> None:
    with patch.object(
        agentscope.pipeline.factory, "pipeline_for", lambda config: Pipeline(config, lambda: Memory([]), lambda e: e)
    ):
        sdk = VoltAgentSDK(exporters=[AgentScopeExporter(api_key="ask_test", base_url=URL)])
    assert sdk.config.base_url == URL
    with pytest.raises(ConfigurationError, match="does not send to a VoltAgent backend"):
        _ = sdk.client


# ---- switched off ----------------------------------------------------------------------------------------------------


def test_an_sdk_that_is_switched_off_needs_no_key_and_records_nothing() -> None:
    sdk = VoltAgentSDK(enabled=False)
    with sdk.trace(agentId="a", input=SECRET) as trace, trace.add_agent({"name": "A"}) as agent:
        assert trace.agent_id == "a"
        assert len({trace.id, agent.id, agent.add_tool({"name": "t"}).id}) == 3
        assert sdk.tracker.current_run_id is None
        for call in (agent.add_event("e").success(), agent.error("x"), trace.update(status="error"), trace.end()):
            assert not call
    event = sdk.add_event_to_trace(sdk.create_trace(agentId="b").id, {"name": "n", "type": "t"})
    assert not event.success()
    assert not sdk.update_trace("x", status="completed")
    assert sdk.flush()
    assert (sdk.stats().accepted, sdk.stats().invalid_calls) == (0, {})


def test_the_options_of_an_sdk_that_is_switched_off_are_not_checked() -> None:
    assert VoltAgentSDK(enabled=False, base_url=5).config.base_url == "https://api.voltagent.dev"


def test_traces_that_are_sampled_out_are_counted_and_nothing_of_them_is_kept() -> None:
    with traced(sample_rate=0.0) as volt:
        with volt.sdk.trace(agentId="a") as trace:
            trace.add_tool("t").success()
        assert volt.events() == []
        assert volt.sdk.stats().sampled_out == 4


# ---- flush and shutdown ----------------------------------------------------------------------------------------------


def test_a_flush_outside_of_an_event_loop_waits_and_tells_the_truth(sdk: VoltAgentSDK) -> None:
    sdk.trace(agentId="a").end()
    flushed = sdk.flush()
    assert isinstance(flushed, FlushResult)
    assert flushed
    assert (flushed.pending, flushed.dropped, flushed.problem) == (0, 0, None)
    assert flushed.result() == FlushResult()
    assert sdk.stats().delivered == 2


def test_a_flush_outside_of_an_event_loop_can_be_run_as_a_coroutine(sdk: VoltAgentSDK) -> None:
    sdk.trace(agentId="a").end()
    assert asyncio.run(sdk.flush()) == FlushResult()
    assert asyncio.run(sdk.shutdown()) == FlushResult()
    assert sdk.stats().delivered == 2


@pytest.mark.parametrize("inside", [False, True])
def test_a_flush_that_leaves_events_on_disk_is_false(sdk: VoltAgentSDK, inside: bool) -> None:
    async def flush() -> Any:
        flushing = sdk.flush()
        await flushing
        return flushing

    left = FlushResult(spooled=2)
    with (
        patch.object(sdk._pipeline, "flush", lambda timeout: left),
        patch.object(sdk._pipeline, "flushing", lambda timeout: finished(left)),
    ):
        flushed = asyncio.run(flush()) if inside else sdk.flush()
    assert not flushed
    assert (flushed.pending, flushed.spooled) == (0, 2)
    assert flushed.result() == FlushResult(spooled=2)


def test_a_flush_can_be_run_as_a_coroutine_more_than_once(sdk: VoltAgentSDK) -> None:
    flushed: Any = sdk.flush()
    assert asyncio.run(flushed) == asyncio.run(flushed) == FlushResult()


def test_a_flush_inside_an_event_loop_does_not_block_it(sdk: VoltAgentSDK) -> None:
    ongoing: Ongoing[FlushResult] = Ongoing()

    async def main() -> FlushResult:
        with patch.object(sdk._pipeline, "flushing", lambda timeout: ongoing):
            flushing = sdk.flush()
            assert not flushing
            assert flushing.pending >= 1
            asyncio.get_running_loop().call_soon(ongoing.settle, FlushResult)  # reached only if the loop runs
            assert await flushing == FlushResult()
            assert flushing
            assert flushing.pending == 0
            return await flushing  # repeated calls are allowed

    assert asyncio.run(main()) == FlushResult()


def test_a_flush_inside_an_event_loop_begins_without_being_awaited(volt: Traced) -> None:
    async def main() -> FlushResult:
        volt.sdk.trace(agentId="a").end()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return volt.sdk.flush().result(10)

    assert asyncio.run(main()) == FlushResult()
    assert len(volt.raw) == 2


def test_a_flush_inside_an_event_loop_can_be_a_task_and_be_cancelled(sdk: VoltAgentSDK) -> None:
    ongoing: Ongoing[FlushResult] = Ongoing()

    async def main() -> None:
        assert await asyncio.create_task(sdk.flush()) == FlushResult()
        assert await asyncio.wait_for(sdk.flush(), 10) == FlushResult()
        with patch.object(sdk._pipeline, "flushing", lambda timeout: ongoing):
            task = asyncio.create_task(sdk.flush())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            flushing = sdk.flush()
            task = asyncio.create_task(flushing)
            await asyncio.sleep(0)  # let the task start
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            begun = sdk.flush()
            begun.close()
            begun.send(None)
            begun.close()
        ongoing.settle(FlushResult)
        assert flushing.result(10) == FlushResult()  # the delivery itself continued
        assert await begun == FlushResult()

    asyncio.run(main())


def test_a_failed_delivery_raises_where_that_was_asked_for() -> None:
    failed = FlushResult(3, 0, "nobody listens there")
    with (
        traced(fail_silently=False) as volt,
        patch.object(volt.sdk._pipeline, "flush", lambda timeout: failed),
        patch.object(volt.sdk._pipeline, "flushing", lambda timeout: finished(failed)),
    ):
        with pytest.raises(AgentScopeError, match="nobody listens there"):
            volt.sdk.flush()

        async def main() -> None:
            flushing = volt.sdk.flush()
            with pytest.raises(AgentScopeError, match="nobody listens there"):
                await flushing
            assert not flushing
            assert "nobody listens there" in str(flushing.problem)

        asyncio.run(main())


def test_a_flush_called_wrongly_flushes_all_the_same(volt: Traced) -> None:
    volt.sdk.trace(agentId="a").end()
    assert volt.sdk.flush(1, 2, 3)
    assert volt.sdk.flush("soon")
    assert set(volt.invalid_calls) == {"wrong_call", "wrong_type"}
    assert len(volt.raw) == 2


def test_after_shutdown_nothing_is_recorded_and_nothing_raises(volt: Traced) -> None:
    trace = volt.sdk.trace(agentId="a")
    assert volt.sdk.shutdown()
    with volt.sdk.trace(agentId="late") as late, late.add_agent("A") as agent:
        agent.add_tool("t").success()
        agent.add_tool("u")  # never ended
    trace.add_agent("B").success()
    del late, agent
    gc.collect()
    assert [event["type"] for event in volt.events()] == ["run.start", "run.end"]
    assert volt.invalid_calls["after_shutdown"] == 9
    assert volt.sdk.stats().dropped == {"shutdown": 9}


@pytest.mark.parametrize("how", ["with", "with in a loop", "async with"])
def test_a_block_delivers_at_its_end(how: str) -> None:
    kept: list[Any] = []

    async def asynchronous() -> None:
        async with make(kept) as sdk:
            sdk.trace(agentId="a").end()

    async def synchronous() -> None:
        with make(kept) as sdk:
            sdk.trace(agentId="a").end()

    if how == "with":
        with make(kept) as sdk:
            sdk.trace(agentId="a").end()
    else:
        asyncio.run(asynchronous() if how == "async with" else synchronous())
    assert [event.type for event in kept] == ["run.start", "run.end"]


@pytest.mark.parametrize("how", ["with", "async with"])
def test_what_leaves_the_block_of_an_sdk_goes_on_even_where_delivery_fails(how: str) -> None:
    class Problem(Exception):
        pass

    def failing() -> VoltAgentSDK:
        sdk = make([], fail_silently=False)
        sdk._pipeline.shutdown = lambda timeout: FlushResult(1, 0, "nobody listens there")
        return sdk

    async def asynchronous(error: Exception | None) -> None:
        async with failing():
            if error is not None:
                raise error

    def synchronous(error: Exception | None) -> None:
        with failing():
            if error is not None:
                raise error

    for error, expected in ((Problem(), Problem), (None, AgentScopeError)):
        with pytest.raises(expected):
            synchronous(error) if how == "with" else asyncio.run(asynchronous(error))


# ---- handles that were never ended -----------------------------------------------------------------------------------


def test_what_was_never_ended_is_closed_as_unfinished_at_shutdown_the_innermost_first(volt: Traced) -> None:
    trace = volt.sdk.trace(agentId="a")
    agent = trace.add_agent("A")
    tool = agent.add_tool("t")
    done = agent.add_tool("done")
    done.success()
    assert volt.sdk.shutdown()
    assert volt.outcomes() == {"a": "unfinished", "A": "unfinished", "t": "unfinished", "done": "completed"}
    ends = [event for event in volt.events() if event["type"].endswith(".end")]
    assert [event.get("name") for event in ends] == ["done", "t", "A", None]
    assert volt.invalid_calls == {}
    del tool


def test_a_handle_is_closed_with_the_status_set_before(volt: Traced) -> None:
    trace = volt.sdk.trace(agentId="a")
    trace.update(status="error")
    volt.sdk.shutdown()
    assert volt.outcomes() == {"a": "failed"}


def test_shutdown_with_fail_silently_off_closes_everything_too() -> None:
    with traced(fail_silently=False) as volt:
        trace = volt.sdk.trace(agentId="a")
        trace.add_agent("A")
        volt.sdk.shutdown()
        assert volt.outcomes() == {"a": "unfinished", "A": "unfinished"}


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_what_was_never_ended_is_closed_when_the_sdk_and_its_handles_are_collected(in_a_cycle: bool) -> None:
    kept: list[Any] = []
    sdk = make(kept)
    pipeline = sdk._pipeline
    trace = sdk.trace(agentId="a")
    agent = trace.add_agent("A")
    created = sdk.create_trace(agentId="b").id
    gone = weakref.ref(sdk._recorder)
    cycle: list[Any] = [sdk, trace, agent]
    if in_a_cycle:
        cycle.append(cycle)
    del sdk, trace, agent, cycle
    assert (gone() is None) != in_a_cycle
    gc.collect()
    assert gone() is None
    pipeline.wait_until_stopped()
    ends = [(event.type, event.fields["status"]) for event in kept if event.type.endswith("end")]
    assert sorted(ends) == [("run.end", "unfinished"), ("run.end", "unfinished"), ("step.end", "unfinished")]
    assert created in {event.run_id for event in kept if event.type == "run.end"}
    assert pipeline.closed
    assert balanced(pipeline.stats())
    assert pipeline.stats().dropped == {}


def test_the_process_end_closes_what_was_never_ended_of_several_destinations_at_once() -> None:
    first: list[Any] = []
    second: list[Any] = []

    def fan_out(config: Config) -> FanOut:
        return FanOut([Pipeline(config, lambda kept=kept: Memory(kept), lambda e: e) for kept in (first, second)])

    with patch.object(agentscope.pipeline.factory, "pipeline_for", fan_out):
        sdk = VoltAgentSDK(base_url=URL, **KEYS)
    trace = sdk.trace(agentId="a")
    for pipeline in sdk._pipeline._pipelines:
        pipeline.ask_to_stop()  # as at exit
    for pipeline in sdk._pipeline._pipelines:
        pipeline.wait_until_stopped()
    for kept in (first, second):
        assert [(event.type, event.fields["status"]) for event in kept] == [
            ("run.start", "running"),
            ("run.end", "unfinished"),
        ]
    assert trace.id == first[0].run_id


def test_a_forked_child_closes_nothing_of_its_parent(volt: Traced) -> None:
    trace = volt.sdk.trace(agentId="a")
    with patch.object(os, "getpid", lambda: -1):
        del trace
        gc.collect()
        volt.sdk._registry.close_all()
        volt.sdk._registry._closed = False
    assert [event["type"] for event in volt.events()] == ["run.start"]


# ---- by id -----------------------------------------------------------------------------------------------------------


def test_a_trace_can_be_led_by_its_id_alone(volt: Traced) -> None:
    sdk = volt.sdk
    trace_id = sdk.create_trace(agent_id="a", input={"q": 1}).id
    event_id = sdk.add_event_to_trace(trace_id, {"name": "look", "type": "tool", "input": {"x": 1}}).id
    gc.collect()
    assert sdk.update_event(event_id, output={"y": 2}, status="completed", metadata={"took_ms": 5})
    assert sdk.update_trace(trace_id, metadata={"my_key": 1})
    assert sdk.update_trace(trace_id, status="error", status_message="too late", usage={"total_tokens": 3})
    run, step = volt.wholes()
    assert (step["run_id"], step["step_id"], step["parent_id"]) == (trace_id, event_id, None)
    assert (step["status"], step["output"], step["meta_data"]) == ("completed", {"y": 2}, {"tookMs": 5})
    assert (run["status"], run["error"], run["usage"]) == ("failed", {"message": "too late"}, {"total_tokens": 3})
    assert run["meta_data"] == {"agentId": "a", "myKey": 1}
    assert [event["type"] for event in volt.events()].count("run.end") == 1
    assert volt.invalid_calls == {}


def test_a_trace_that_goes_on_is_known_by_its_id(sdk: VoltAgentSDK) -> None:
    trace = sdk.trace(agentId="a")
    found = sdk.get_trace(trace.id).value
    assert found is not None
    assert (found.id, found.agent_id, found.status.value) == (trace.id, "a", "working")
    assert found.start_time is not None
    assert found.start_time.endswith("Z")
    assert sdk.get_trace(trace.add_agent("A").id).value is None
    trace.end()
    assert not sdk.get_trace(trace.id)
    assert asyncio.run(sdk.get_trace("unknown")) is None


def test_an_unknown_id_is_logged_once(volt: Traced) -> None:
    sdk = volt.sdk
    assert not sdk.update_event("unknown", status="completed")
    assert sdk.update_trace("elsewhere", metadata={"a": 1})  # another process may have started it
    sdk.add_event_to_trace("elsewhere", {"name": "n", "type": "t"}).success()
    assert volt.invalid_calls == {"unknown_event": 1, "unknown_run": 2}
    assert len(volt.said) == 2
    assert {event["run_id"] for event in volt.events()} == {"elsewhere"}


def test_a_trace_that_has_ended_is_not_updated_by_its_id(volt: Traced) -> None:
    trace = volt.sdk.trace(agentId="a")
    trace.end()
    assert not volt.sdk.update_trace(trace.id, status="error")
    assert volt.invalid_calls == {"updated_after_end": 1}
    assert volt.outcomes() == {"a": "completed"}


# ---- others ----------------------------------------------------------------------------------------------------------


def test_the_tracker_is_one_and_records_by_the_same_pipeline(volt: Traced) -> None:
    tracker = volt.sdk.tracker
    assert type(tracker) is Tracker
    assert volt.sdk.tracker is tracker
    assert tracker.client is None
    with volt.sdk.trace(agentId="a") as trace:
        assert tracker.current_run_id == trace.id
        tracker.track_step("step")
    assert volt.tree() == {"step": "a"}
    assert tracker.stats() == volt.sdk.stats()


def test_a_tracker_goes_on_without_its_sdk() -> None:
    kept: list[Any] = []
    tracker = make(kept).tracker
    gc.collect()
    with tracker.track_run("a"):
        tracker.track_step("step")
    assert tracker.flush()
    assert [decoded(event)["type"] for event in kept] == ["run.start", "step", "run.end"]


def test_an_sdk_is_its_own_copy(sdk: VoltAgentSDK) -> None:
    assert copy.copy(sdk) is sdk
    assert copy.deepcopy([sdk])[0] is sdk
    assert pickle.loads(pickle.dumps(sdk)) is sdk
    assert pickle.loads(pickle.dumps(sdk.tracker))._recorder is sdk._recorder


def test_an_sdk_in_another_process_has_the_options_and_the_keys_of_that_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sdk = VoltAgentSDK(
        {"base_url": "http://volt.test", "flush_interval": 7}, public_key="pk_mine", secret_key="sk_mine", timeout=3
    )
    data, of_tracker = pickle.dumps(sdk), pickle.dumps(sdk.tracker)
    assert b"k_mine" not in data
    with another_process():
        monkeypatch.setenv("VOLTAGENT_PUBLIC_KEY", "pk_there")
        monkeypatch.setenv("VOLTAGENT_SECRET_KEY", "sk_there")
        there = pickle.loads(data)
        assert (there.config.base_url, there.config.public_key) == ("http://volt.test", "pk_there")
        assert (there.config.flush_interval, there.config.timeout) == (7.0, 3.0)
        assert pickle.loads(of_tracker)._recorder is there._recorder
        there.shutdown()
    sdk.shutdown()


def test_a_thread_that_cannot_be_had_makes_a_flush_wait(sdk: VoltAgentSDK) -> None:
    sdk.trace(agentId="a").end()

    async def main() -> FlushResult:
        with patch("agentscope.pipeline.process.threads.start", lambda *_, **__: False):
            return await sdk.flush()

    assert asyncio.run(main()) == FlushResult()
