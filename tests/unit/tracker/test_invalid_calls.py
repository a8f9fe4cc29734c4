"""Invalid calls are counted and logged once, and do not raise into the agent."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentscope import AgentScopeError, APIError, AuthenticationError, FlushResult, Run, Stats, Step, Tracker
from tests.support.hostile_objects import HOSTILE, FailingObject
from tests.support.recording import Recording, current_scope, make, recorded
from tests.support.wait import until

SECRET = "hunter2 in a payload"


@pytest.fixture
def tracker(recording: Recording) -> Tracker:
    return recording.tracker


@pytest.fixture
def loud() -> Iterator[Recording]:
    """A tracker with `fail_silently=False`."""
    with recorded(fail_silently=False) as found:
        yield found


# ---- each misuse ---------------------------------------------------------------------------------------------------

Misuse = Callable[[Tracker], Any]


def ended_twice(tracker: Tracker) -> Any:
    run_id = tracker.start_run("agent")
    assert tracker.end_run(run_id=run_id)
    return tracker.end_run(run_id=run_id)


def in_thread(function: Callable[[], Any]) -> Any:
    """Call `work` in a thread without the context. Returns its result, or raises its exception."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(function())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def ambiguous(tracker: Tracker) -> Any:
    with tracker.track_run("a"), tracker.track_run("b"):
        return in_thread(lambda: tracker.track_step("lost"))


def within_a_run(function: Callable[[Any], Any]) -> Misuse:
    def misuse(tracker: Any) -> Any:
        with tracker.track_run("agent"):
            return function(tracker)

    return misuse


def shut_down(function: Callable[[Any], Any]) -> Misuse:
    def misuse(tracker: Any) -> Any:
        tracker.shutdown()
        return function(tracker)

    return misuse


def step_ended_twice(tracker: Tracker) -> bool:
    with tracker.track_run("agent"):
        step = tracker.start_step(SECRET)
        step.end()
        return step.end(SECRET)


def reused(tracker: Tracker) -> Any:
    step = tracker.track_step_context("step")
    with tracker.track_run("agent"):
        with step:
            pass
        with step:
            pass


def odd_tokens(tracker: Any) -> Any:
    with tracker.track_run("agent"), tracker.track_step_context("step") as step:
        step.tokens_used = SECRET


# The call, its result when nothing is raised, its kind, and words of the log line.
MISUSES: dict[str, tuple[Misuse, Any, str, str]] = {
    "a step before any run": (lambda t: t.track_step("x", "other", SECRET), False, "no_run", "start_run() first"),
    "an end before any run": (lambda t: t.end_run(), False, "no_run", "start_run() first"),
    "a run ended twice": (ended_twice, False, "run_ended", "has ended"),
    "an unknown run": (lambda t: t.track_step("x", run_id=SECRET), True, "unknown_run", "sent all the same"),
    "an end of an unknown run": (
        lambda t: t.end_run(run_id=f"{SECRET} {uuid4()}"),
        True,
        "unknown_run",
        "sent all the same",
    ),
    "an unknown step type": (
        within_a_run(lambda t: t.track_step("x", SECRET)),
        True,
        "unknown_step_type",
        "agent, llm_call, memory",
    ),
    "an unknown status": (
        within_a_run(lambda t: t.end_run(SECRET)),
        True,
        "unknown_status",
        "completed, failed or cancelled",
    ),
    "a run that ends as running": (within_a_run(lambda t: t.end_run("running")), True, "unknown_status", "completed"),
    "a name that is no text": (within_a_run(lambda t: t.track_step(5)), True, "wrong_type", "name takes a str"),
    "no name": (within_a_run(lambda t: t.track_step(None)), True, "wrong_type", "name takes a str"),
    "tokens that are no number": (
        within_a_run(lambda t: t.track_step("x", tokens_used=SECRET)),
        True,
        "wrong_type",
        "tokens_used takes a number",
    ),
    "a duration that is no number": (
        within_a_run(lambda t: t.track_step("x", latency_ms=float("nan"))),
        True,
        "wrong_type",
        "latency_ms takes a number",
    ),
    "tokens set on a step": (odd_tokens, None, "wrong_type", "tokens_used takes a number"),
    "a step after shutdown": (shut_down(lambda t: t.track_step("x")), False, "after_shutdown", "after shutdown()"),
    "a step of a named run after shutdown": (
        lambda t: [r := t.start_run("a"), t.shutdown(), t.track_step("x", run_id=r)][2],
        False,
        "after_shutdown",
        "after shutdown()",
    ),
    "a thread among several runs": (ambiguous, False, "ambiguous_run", "tracker.propagate()"),
    "a block entered again": (reused, None, "block_reused", "a call of its own"),
    "a timeout that is no number": (lambda t: bool(t.flush("soon")), True, "wrong_type", "number of seconds"),
    "a timeout that is none": (lambda t: bool(t.shutdown(float("nan"))), True, "wrong_type", "number of seconds"),
    "a step ended twice": (step_ended_twice, False, "ended_twice", "step that is not open"),
    "an argument that the function does not have": (
        lambda t: t.observe(ambiguous, capture_input=["tracker", SECRET]).__name__,
        "ambiguous",
        "unknown_argument",
        "capture_input names an argument",
    ),
    "a class observed": (lambda t: t.observe(Recording), Recording, "not_observable", "takes functions"),
}


@pytest.mark.parametrize("what", MISUSES)
def test_an_invalid_call_is_counted_each_time_and_logged_once_without_payload(recording: Recording, what: str) -> None:
    misuse, gives, kind, words = MISUSES[what]
    assert misuse(recording.tracker) == gives
    assert recording.invalid_calls == {kind: 1}
    if kind != "after_shutdown":
        assert misuse(recording.tracker) == gives
        assert recording.invalid_calls == {kind: 2}
    (line,) = recording.said
    assert words in line
    assert SECRET not in line


def test_an_invalid_call_is_a_warning_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    tracker = make([])
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            assert tracker.track_step("before any run", run_id=None) is False
        until(lambda: "no run is open" in caplog.text)
        assert tracker.shutdown()
    (record,) = [record for record in caplog.records if "no run is open" in record.message]
    assert (record.name, record.levelname) == ("agentscope", "WARNING")


@pytest.mark.parametrize("what", MISUSES)
def test_an_invalid_call_raises_with_fail_silently_off(loud: Recording, what: str) -> None:
    misuse, _, kind, words = MISUSES[what]
    with pytest.raises(AgentScopeError) as caught:
        misuse(loud.tracker)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
    assert loud.invalid_calls == {kind: 1}


WRONG_CALLS: dict[str, Callable[[Any], Any]] = {
    "start_run": lambda t: t.start_run(),
    "end_run": lambda t: t.end_run(1, 2, 3, 4, 5),
    "track_run": lambda t: t.track_run(name="agent"),
    "track_step": lambda t: t.track_step(),
    "track_step_context": lambda t: t.track_step_context(),
    "start_step": lambda t: t.start_step(),
    "observe": lambda t: t.observe(len, colour="red"),
    "propagate": lambda t: t.propagate(len, len),
    "instrument": lambda t: t.instrument(),
    "lambda_handler": lambda t: t.lambda_handler(len, colour="red"),
    "inject": lambda t: t.inject({}, {}),
    "extract": lambda t: t.extract(),
    "flush": lambda t: t.flush(1, 2),
    "shutdown": lambda t: t.shutdown(wait=True),
    "stats": lambda t: t.stats(1),
    "redact_preview": lambda t: t.redact_preview(),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_call_that_does_not_fit_its_signature_is_counted_and_logged_in_pythons_words(
    recording: Recording, name: str
) -> None:
    WRONG_CALLS[name](recording.tracker)
    assert recording.invalid_calls == {"wrong_call": 1}
    assert re.match(rf"{name}\(\) was called wrongly: ((Tracker|Face)\.)?{name}\(\) ", recording.said[0])


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_call_that_does_not_fit_its_signature_raises_type_error_if_that_is_asked_for(
    loud: Recording, name: str
) -> None:
    with pytest.raises(TypeError, match=rf"{name}\(\)"):
        WRONG_CALLS[name](loud.tracker)


def test_every_public_method_is_among_the_wrong_calls_of_this_test() -> None:
    methods = {name for name, member in inspect.getmembers(Tracker) if inspect.isfunction(member) and name[0] != "_"}
    assert methods == {*WRONG_CALLS, "aflush", "ashutdown"}


def test_a_wrong_call_gives_what_the_agent_can_go_on_with(recording: Recording) -> None:
    tracker: Any = recording.tracker
    assert isinstance(tracker.start_run(), str)
    assert tracker.end_run(1, 2, 3, 4, 5) is False
    assert tracker.track_step() is False
    with tracker.track_run() as run, tracker.track_step_context() as step:
        assert isinstance(run, Run)
        assert isinstance(step, Step)
        run.output = step.output = 1
        assert step.run_id is None
    assert tracker.observe(len, colour="red") is len
    assert tracker.observe(colour="red")(len) is len
    assert tracker.propagate(len, len) is len
    assert tracker.instrument()() is None
    assert tracker.lambda_handler(len, colour="red") is len
    assert tracker.propagate()(5) == 5
    assert isinstance(tracker.flush(1, 2), FlushResult)
    assert isinstance(tracker.stats(1), Stats)
    assert isinstance(asyncio.run(tracker.aflush(1, 2)), FlushResult)
    assert isinstance(asyncio.run(tracker.ashutdown(1, 2)), FlushResult)
    assert isinstance(tracker.shutdown(1, 2), FlushResult)
    assert recording.events() == []
    assert current_scope() is None


# ---- anything at all -----------------------------------------------------------------------------------------------


def boxed(value: Any) -> Callable[[], Any]:
    return lambda: value


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.recursive(st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5),
)
# Factories, because hypothesis would inspect the objects themselves.
ANYTHING = st.one_of(st.builds(boxed, PLAIN), st.sampled_from(HOSTILE))
METHODS = ["start_run", "end_run", "track_run", "track_step", "track_step_context", "observe", "propagate", "stats"]
ARGUMENTS = st.tuples(
    st.lists(ANYTHING, max_size=12),
    st.dictionaries(
        st.sampled_from(["name", "step_type", "run_id", "status", "input_data", "error", "meta_data", "colour"]),
        ANYTHING,
        max_size=3,
    ),
)
QUIET = settings(suppress_health_check=list(HealthCheck), deadline=None)


def call(target: Any, name: str, given: Any) -> Any:
    positional, named = given
    return getattr(target, name)(*(make() for make in positional), **{key: make() for key, make in named.items()})


@QUIET
@given(st.lists(st.tuples(st.sampled_from(METHODS), ARGUMENTS), min_size=1, max_size=6))
def test_no_call_of_a_tracker_raises_for_any_argument_and_its_neighbours_arrive(calls: Any) -> None:
    with recorded() as recording:
        tracker = recording.tracker
        with tracker.track_run("agent", {"number": 1}) as run, tracker.track_step_context("before"):
            for name, given_ in calls:
                given_result = call(tracker, name, given_)
                if name in ("track_run", "track_step_context"):
                    with given_result:
                        tracker.track_step("inside")
            assert tracker.track_step("last", run_id=run)
        names = [step["name"] for step in recording.steps()]
        assert "before" in names
        assert "last" in names
        assert recording.events("run.end")


@QUIET
@given(
    st.dictionaries(
        st.sampled_from(["output", "error", "meta_data", "usage", "tokens_used", "latency_ms", "name", "step_type"]),
        ANYTHING,
    )
)
def test_whatever_is_set_on_a_handle_nothing_raises_and_it_is_recorded(
    attributes: dict[str, Callable[[], Any]],
) -> None:
    with recorded() as recording:
        with recording.tracker.track_run("agent") as run, recording.tracker.track_step_context("step") as step:
            for name, make_one in attributes.items():
                setattr(step, name, make_one())
                setattr(run, name, make_one())
        assert len(recording.steps()) == len(recording.events("run.end")) == 1


@pytest.mark.parametrize("maker", HOSTILE)
@pytest.mark.parametrize("name", ["flush", "shutdown"])
def test_no_timeout_breaks_the_end(recording: Recording, maker: Callable[[], Any], name: str) -> None:
    recording.tracker.start_run("agent")
    assert getattr(recording.tracker, name)(maker())
    assert len(recording.raw) == 1


@pytest.mark.parametrize("timeout", [0, -1, True, 1e300, float("inf"), -float("inf"), 10**400])
def test_any_number_is_a_timeout(recording: Recording, timeout: float) -> None:
    recording.tracker.start_run("agent")
    assert isinstance(recording.tracker.flush(timeout), FlushResult)
    recording.tracker.shutdown(max(timeout, 1))
    assert recording.invalid_calls == {}


class TrapFunction:
    """A callable whose attributes all raise."""

    def __call__(self, *args: Any) -> Any:
        return args

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


DECORATORS: list[Callable[[Tracker], Callable[[Any], Any]]] = [
    lambda tracker: tracker.observe,
    lambda tracker: tracker.observe(name="a"),
    lambda tracker: tracker.observe(name=FailingObject()),  # type: ignore[call-overload]
    lambda tracker: tracker.propagate,
    lambda tracker: tracker.lambda_handler,
    lambda tracker: tracker.lambda_handler(timeout=1),
    lambda tracker: tracker.lambda_handler(margin=FailingObject(), timeout=FailingObject()),  # type: ignore[call-overload]
]


@pytest.mark.parametrize("decorator", DECORATORS)
@pytest.mark.parametrize("maker", [*HOSTILE, TrapFunction])
def test_no_object_breaks_a_decorator(
    tracker: Tracker, decorator: Callable[[Tracker], Callable[[Any], Any]], maker: Callable[[], Any]
) -> None:
    decorator(tracker)(maker())


@pytest.mark.parametrize("decorator", DECORATORS)
@pytest.mark.parametrize("maker", HOSTILE)
def test_a_decorated_function_takes_and_returns_any_object(
    tracker: Tracker, decorator: Callable[[Tracker], Callable[[Any], Any]], maker: Callable[[], Any]
) -> None:
    value = maker()
    result = decorator(tracker)(lambda given: [given])(value)
    assert len(result) == 1
    assert result[0] is value
    decorator(tracker)(lambda given: given)(value)


class Traps(dict[Any, Any]):
    """Headers whose methods all raise."""

    def _fail(self, *_: object, **__: object) -> Any:
        raise TimeoutError("from the headers")

    __getitem__ = __iter__ = __len__ = __contains__ = __setitem__ = get = items = keys = values = _fail  # type: ignore[assignment]


@pytest.mark.parametrize(
    "maker", [*HOSTILE, Traps, lambda: {FailingObject: FailingObject()}, lambda: [FailingObject()]]
)
def test_no_headers_break_a_call(tracker: Tracker, maker: Callable[[], Any]) -> None:
    with tracker.track_run("agent"), tracker.extract(maker()):
        headers = maker()
        assert tracker.inject(headers) is headers


def test_exceptions_of_arguments_are_raised_only_with_fail_silently_false() -> None:
    with recorded(fail_silently=False) as recording:
        with pytest.raises(TimeoutError, match="from the headers"):
            recording.tracker.extract(Traps({"traceparent": "x"}))
        with pytest.raises(RuntimeError):
            recording.tracker.lambda_handler(timeout=1)(TrapFunction())


@pytest.mark.parametrize("maker", HOSTILE)
def test_no_exception_of_the_agent_is_lost_over_how_it_looks(recording: Recording, maker: Callable[[], Any]) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError("str")

        __repr__ = __str__

    error = Odd(maker())
    with pytest.raises(Odd) as caught, recording.tracker.track_run("agent"):
        raise error
    assert caught.value is error
    assert recording.end()["status"] == "failed"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_what_is_no_exception_goes_through_a_call(tracker: Tracker, error: type[BaseException]) -> None:
    class Slow:
        def __repr__(self) -> str:
            raise error

    with pytest.raises(error):
        tracker.start_run("agent", Slow())


# ---- fail_silently=False ---------------------------------------------------------------------------------------------


def test_the_agents_exception_goes_before_the_trackers_own(loud: Recording) -> None:
    error = LookupError("mine")
    tracker: Any = loud.tracker
    with pytest.raises(LookupError) as caught, tracker.track_run("agent"), tracker.track_step_context("step") as step:
        step.tokens_used = "many"
        raise error
    assert caught.value is error
    assert error.__context__ is None
    assert loud.invalid_calls == {"wrong_type": 1}
    assert (loud.step()["status"], loud.step()["error"]["message"]) == ("failed", "mine")


def test_a_step_whose_handle_was_used_wrongly_is_still_recorded(loud: Recording) -> None:
    tracker: Any = loud.tracker
    with tracker.track_run("agent"):
        with pytest.raises(AgentScopeError, match="step_type"), tracker.track_step_context("step", "guess"):
            tracker.track_step("child")
        assert tracker.track_step("sibling")
    assert loud.parents() == {"step": None, "child": "step", "sibling": None}


def test_a_call_that_raises_records_nothing_and_leaves_the_run_as_it_was(loud: Recording) -> None:
    tracker: Any = loud.tracker
    with pytest.raises(AgentScopeError):
        tracker.start_run(5)
    assert tracker.current_run_id is None
    run_id = tracker.start_run("agent")
    with pytest.raises(AgentScopeError):
        tracker.track_step("step", "guess")
    with pytest.raises(AgentScopeError):
        tracker.end_run("finished")
    assert tracker.current_run_id == run_id
    assert tracker.end_run()
    assert [event["type"] for event in loud.events()] == ["run.start", "run.end"]


def test_a_run_that_ends_after_shutdown_is_open_no_longer(loud: Recording) -> None:
    tracker = loud.tracker
    run = tracker.track_run("agent")
    run.__enter__()
    started = tracker.start_run("other")
    tracker.shutdown()
    with pytest.raises(AgentScopeError, match="after shutdown"):
        tracker.end_run()
    with pytest.raises(AgentScopeError, match="after shutdown"):
        run.__exit__(None, None, None)
    assert not tracker._recorder.runs.is_open(started)
    assert tracker._recorder.runs.count() == 0
    assert current_scope() is None


def test_failed_delivery_raises_from_flush_and_shutdown(loud: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = loud.tracker
    failed = FlushResult(pending=2, dropped=1, problem="the backend refuses the API key (HTTP 401): check api_key")
    monkeypatch.setattr(tracker._pipeline, "flush", lambda timeout: failed)
    monkeypatch.setattr(tracker._pipeline, "aflush", lambda timeout: asyncio.sleep(0, failed))
    with pytest.raises(AuthenticationError, match=r"refuses the API key.*\(2 events pending, 1 dropped\)"):
        tracker.flush()
    with pytest.raises(AuthenticationError):
        asyncio.run(tracker.aflush())
    monkeypatch.setattr(tracker._pipeline, "flush", lambda timeout: FlushResult(dropped=1))
    with pytest.raises(APIError, match="not everything was delivered"):
        tracker.flush()
    monkeypatch.undo()


def test_failed_delivery_raises_at_the_end_of_a_trackers_block_but_not_over_the_agents_own(
    loud: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = loud.tracker
    with monkeypatch.context() as patched:
        patched.setattr(tracker._pipeline, "shutdown", lambda timeout: FlushResult(pending=1))

        async def failing(error: Exception | None) -> None:
            async with tracker:
                if error is not None:
                    raise error

        with pytest.raises(APIError), tracker:
            pass
        with pytest.raises(LookupError, match="mine"), tracker:
            raise LookupError("mine")
        with pytest.raises(APIError):
            asyncio.run(failing(None))
        with pytest.raises(LookupError, match="mine"):
            asyncio.run(failing(LookupError("mine")))


def test_failed_delivery_is_silent_otherwise(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = FlushResult(pending=1)
    with monkeypatch.context() as patched:
        patched.setattr(recording.tracker._pipeline, "flush", lambda timeout: failed)
        assert recording.tracker.flush() is failed


# ---- after the end -------------------------------------------------------------------------------------------------


def test_handles_work_silently_after_the_shutdown_of_their_tracker(recording: Recording) -> None:
    tracker = recording.tracker

    @tracker.observe
    def function() -> int:
        return 5

    @tracker.observe
    def items() -> Iterator[int]:
        yield 1
        yield 2

    with tracker.track_run("agent") as run, tracker.track_step_context("step") as step:
        reading = items()
        assert next(reading) == 1
        tracker.shutdown()
        run.output = step.output = 1
        assert list(reading) == [2]
        assert function() == 5
    with tracker.track_run("late"), tracker.track_step_context("late"):
        assert tracker.track_step("late") is False
        assert function() == 5
    assert [event["type"] for event in recording.events()] == ["run.start"]
    assert set(recording.invalid_calls) == {"after_shutdown"}
    stats = tracker.stats()
    assert stats.accepted == 1 + stats.dropped["shutdown"]
    assert current_scope() is None


def test_a_tracker_may_be_shut_down_twice(recording: Recording) -> None:
    recording.tracker.start_run("agent")
    assert recording.tracker.shutdown()
    assert recording.tracker.shutdown()
    assert recording.tracker.flush()


def test_nothing_of_a_callable_full_of_traps_is_needed_to_carry_a_context(tracker: Tracker) -> None:
    trap: Any = FailingObject()
    assert tracker.propagate(trap) is trap
