"""Copies and pickles of trackers, handles and decorated functions."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from agentscope import (
    AgentScopeExporter,
    ConsoleExporter,
    InMemoryExporter,
    OTLPExporter,
    Tracker,
    VoltAgentExporter,
    create_tracker,
)
from agentscope.tracker import copies
from agentscope.tracker.handles import Extracted, Run
from agentscope.tracker.steps import StartedStep, Step
from tests.support.copies import another_process
from tests.support.recording import Recording, recorded

KEY = "ask_do_not_tell"
PROTOCOLS = pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))


@pytest.fixture
def recording() -> Iterator[Recording]:
    with recorded(api_key=KEY) as found:
        yield found


@pytest.fixture
def tracker(recording: Recording) -> Tracker:
    return recording.tracker


def moved(value: Any, protocol: int = pickle.DEFAULT_PROTOCOL) -> Any:
    """The value as another process gets it."""
    data = pickle.dumps(value, protocol)
    assert KEY.encode() not in data
    with another_process():
        return pickle.loads(data)


def shut(tracker: Tracker) -> Tracker:
    tracker.shutdown(1)
    return tracker


# ---- within the process ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_tracker_or_a_handle_is_the_thing_itself(tracker: Tracker, copied: Callable[[Any], Any]) -> None:
    with tracker.track_run("agent") as run, tracker.track_step_context("step") as step:
        started = tracker.start_step("started")
        for thing in (tracker, run, step, started, tracker.extract({})):
            assert copied(thing) is thing
        assert copy.deepcopy({"state": [tracker, run, step]})["state"] == [tracker, run, step]
        started.end()


def test_what_is_set_on_a_copied_run_is_recorded(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("agent") as run:
        copy.deepcopy({"run": run})["run"].output = {"answer": 42}
    assert recording.end()["output"] == {"answer": 42}


@PROTOCOLS
def test_a_pickle_that_stays_in_the_process_gives_the_tracker_itself(tracker: Tracker, protocol: int) -> None:
    assert pickle.loads(pickle.dumps({"agent": tracker}, protocol))["agent"] is tracker


# ---- handles ---------------------------------------------------------------------------------------------------------


@PROTOCOLS
def test_a_handle_in_another_process_is_an_id_and_records_nothing(
    recording: Recording, tracker: Tracker, protocol: int
) -> None:
    with tracker.track_run("agent") as run, tracker.track_step_context("step") as step:
        started = tracker.start_step("started", parent_id=step.id)
        state = moved({"run": run, "step": step, "started": started}, protocol)
        before = len(recording.events())
        assert (type(state["run"]), type(state["step"]), type(state["started"])) == (Run, Step, StartedStep)
        assert (state["run"], state["run"].id) == (run.id, run.id)
        assert (state["step"].id, state["step"].run_id) == (step.id, run.id)
        assert (state["started"].id, state["started"].parent_id) == (started.id, step.id)
        with state["run"], state["step"]:
            state["run"].output = state["step"].output = 1
        assert not state["started"].end(output=2)
        del state
        assert len(recording.events()) == before
        started.end()
    assert recording.invalid_calls == {}


def test_a_pickled_handle_holds_no_payload(tracker: Tracker) -> None:
    run = tracker.track_run("hunter2", input_data="hunter2")
    with run, tracker.track_step_context("hunter2", input_data="hunter2") as step:
        run.output = step.output = "hunter2"
        assert b"hunter2" not in pickle.dumps((run, step))


def test_the_block_of_a_request_is_an_empty_one_in_another_process(tracker: Tracker) -> None:
    with tracker.track_run("agent"):
        remote = moved(tracker.extract(tracker.inject({})))
    assert type(remote) is Extracted
    assert not remote
    with remote as entered:
        assert entered is remote


def test_a_run_handle_works_everywhere_as_its_id(tracker: Tracker) -> None:
    run = tracker.track_run("agent")
    assert json.dumps({"run": run}) == json.dumps({"run": run.id})
    assert f"{run}" == run.id
    assert {run.id: 1}[run] == 1


def test_yaml_writes_a_run_as_its_id(tracker: Tracker) -> None:
    yaml: Any = pytest.importorskip("yaml")
    run = tracker.track_run("agent")
    for dump in (yaml.safe_dump, yaml.dump):
        assert yaml.safe_load(dump({"run": run})) == {"run": run.id}


# ---- trackers --------------------------------------------------------------------------------------------------------


@PROTOCOLS
def test_a_tracker_in_another_process_has_its_options_and_the_key_of_that_process(
    protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = create_tracker(KEY, "http://backend.test", batch_size=7, redact=["pin [0-9]+"])
    monkeypatch.setenv("AGENTSCOPE_API_KEY", "ask_there")
    there = shut(moved(tracker, protocol))
    assert there is not tracker
    config = there._config
    assert (config.api_key, config.base_url, config.batch_size) == ("ask_there", "http://backend.test", 7)
    assert config.redact == tracker._config.redact
    shut(tracker)


def test_without_a_key_a_tracker_in_another_process_is_disabled_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = create_tracker(KEY, "http://backend.test")
    data = pickle.dumps(tracker)
    with another_process():
        there = pickle.loads(data)
        assert pickle.loads(data) is there
    assert not there._config.enabled
    with there.track_run("agent") as run:
        assert run
        assert not there.track_step("step")
    (record,) = caplog.records
    assert "records nothing in this process: api_key" in record.getMessage()
    assert KEY not in caplog.text
    shut(tracker)


def test_no_key_is_needed_for_a_receiver_on_the_same_machine() -> None:
    tracker = create_tracker(KEY, "http://127.0.0.1:1")
    there = shut(moved(tracker))
    assert (there._config.enabled, there._config.api_key) == (True, None)
    shut(tracker)


def test_all_pickles_of_a_tracker_find_the_same_one_and_so_do_pickles_of_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTSCOPE_API_KEY", "ask_there")
    tracker, other = create_tracker(KEY, "http://backend.test"), create_tracker(KEY, "http://backend.test")
    pickles = [pickle.dumps(value) for value in (tracker, {"agent": tracker}, tracker.observe(len), other)]
    with another_process():
        first, second, function, third = [pickle.loads(data) for data in pickles]
        assert first is second["agent"]
        assert function._agentscope_observer._recorder is first._recorder
        assert third is not first
        again = pickle.dumps(first)
        assert pickle.loads(again) is first
    shut(first)
    shut(third)
    with another_process():
        assert shut(pickle.loads(again)) is not first
    shut(tracker)
    shut(other)


def test_the_trackers_that_pickles_made_do_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MOST_REMADE", 5)
    trackers = [create_tracker(KEY, "http://127.0.0.1:1", enabled=False) for _ in range(20)]
    data = [pickle.dumps(tracker) for tracker in trackers]
    with another_process():
        for each in data:
            pickle.loads(each)
        assert len(copies._remade) <= 5


def test_a_function_for_redaction_goes_along_or_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTSCOPE_API_KEY", "ask_there")
    by_name = create_tracker(KEY, "http://backend.test", redact=redacted)
    there = shut(moved(by_name))
    assert (there._config.enabled, there._config.redact) == (True, redacted)
    local = create_tracker(KEY, "http://backend.test", redact=lambda fields: fields)
    assert not moved(local)._config.enabled
    shut(by_name)
    shut(local)


def redacted(fields: dict[str, Any]) -> dict[str, Any]:
    return fields


def test_destinations_are_made_anew_without_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTSCOPE_API_KEY", "ask_there")
    given = [
        AgentScopeExporter(api_key=KEY, base_url="http://a.test", batch_size=3),
        OTLPExporter(endpoint="http://b.test", headers={"authorization": KEY}),
        VoltAgentExporter(base_url="http://127.0.0.1:1", secret_key=KEY),
        InMemoryExporter(),
    ]
    tracker = create_tracker(exporters=given)
    there = shut(moved(tracker))
    assert [item.url for item in there._config.exporters] == [item.url for item in tracker._config.exporters[:3]]
    assert there._config.exporters[0].batch_size == 3
    assert KEY not in str([vars(item) for item in there._config.exporters])
    shut(tracker)
    for alone in ([ConsoleExporter()], [InMemoryExporter()]):
        tracker = create_tracker(exporters=alone)
        assert not moved(tracker)._config.enabled
        shut(tracker)


def test_a_callback_stays_in_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTSCOPE_API_KEY", "ask_there")
    tracker = create_tracker(KEY, "http://backend.test", on_drop=lambda reason, count: None, redact=[re.compile("a")])
    there = shut(moved(tracker))
    assert (there._config.enabled, there._config.on_drop) == (True, None)
    shut(tracker)


# ---- functions -------------------------------------------------------------------------------------------------------


def functions(tracker: Tracker) -> dict[str, Callable[[int], Any]]:
    """Functions of each kind that hold a tracker, made here, so that no other process finds them by name."""

    @tracker.observe
    def plain(x: int) -> int:
        return 2 * x

    @tracker.observe(capture_input=lambda arguments: arguments, capture_usage=lambda result: None)
    def chosen(x: int, y: Any = object) -> int:
        return 2 * x

    @tracker.observe
    async def coroutine(x: int) -> int:
        return 2 * x

    @tracker.observe
    def generator(x: int) -> Iterator[int]:
        yield 2 * x

    @tracker.observe
    def returns_generator(x: int) -> Iterator[int]:
        return (2 * x for _ in range(1))

    @tracker.lambda_handler
    def handler(x: int) -> int:
        return 2 * x

    def by_global(x: int) -> int:
        tracker.track_step("s")
        return 2 * x

    class Agent:
        def __init__(self) -> None:
            self.tracker = tracker

        @tracker.observe
        def double(self, x: int) -> int:
            return 2 * x

    return {
        "plain": plain,
        "chosen": chosen,
        "coroutine": lambda x: asyncio.run(coroutine(x)),
        "generator": lambda x: next(iter(generator(x))),
        "returned generator": lambda x: next(iter(returns_generator(x))),
        "handler": handler,
        "closure": by_global,
        "method": Agent().double,
        "partial": partial(tracker.observe(partial(max, 8)), 1),
        "builtin": tracker.observe((2).__mul__),
    }


@pytest.mark.parametrize("name", list(functions(create_tracker(enabled=False))))
def test_a_function_that_holds_a_tracker_can_be_pickled_by_value(
    recording: Recording, tracker: Tracker, name: str
) -> None:
    cloudpickle: Any = pytest.importorskip("cloudpickle")
    call = functions(tracker)[name]
    data = cloudpickle.dumps(call)
    assert KEY.encode() not in data
    with another_process():
        assert pickle.loads(data)(4) == call(4) == 8


def test_an_observed_builtin_is_pickled_with_its_tracker(recording: Recording, tracker: Tracker) -> None:
    seen = pickle.loads(pickle.dumps({"f": tracker.observe(len)}))["f"]
    with tracker.track_run("agent"):
        assert seen([1]) == 1
    assert recording.step()["name"] == "len"
