"""Decorated functions are recorded, and otherwise behave as before."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import inspect
import pickle
import sys
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from functools import lru_cache, partial, partialmethod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope import Tracker
from agentscope.tracker.observe import Arguments
from agentscope.tracker.streams import MOST_ITEMS
from tests.support.hostile_objects import HOSTILE, FailingObject
from tests.support.recording import Recording, current_scope, recorded


def only(recording: Recording, name: str) -> dict[str, Any]:
    """The only step of this name."""
    (found,) = [step for step in recording.steps() if step["name"] == name]
    return found


# ---- functions -----------------------------------------------------------------------------------------------------


def test_a_call_is_a_step_with_its_arguments_and_its_result(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe(step_type="tool_call")
    def search(query: str, /, limit: int = 3, *more: int, deep: bool = False, **options: Any) -> list[str]:
        tracker.track_step("inner")
        return [query] * limit

    assert search("a", 2, 7, 8, deep=True, lang="en") == ["a", "a"]
    assert search("b", limit=1) == ["b"]
    first, second = [step for step in recording.steps() if step["name"] != "inner"]
    assert first["name"].endswith(".search")
    assert "<locals>" not in first["name"]
    assert (first["step_type"], first["status"]) == ("tool_call", "completed")
    assert first["input"] == {"query": "a", "limit": 2, "more": [7, 8], "deep": True, "lang": "en"}
    assert first["output"] == ["a", "a"]
    assert second["input"] == {"query": "b", "limit": 1, "deep": False}
    assert recording.parents()["inner"] == first["name"]
    assert recording.invalid_calls == {}


def test_a_function_without_arguments_or_result_has_no_input_and_no_output(
    recording: Recording, tracker: Tracker
) -> None:
    tracker.observe(lambda: None, name="nothing")()
    assert {"input", "output"} & set(recording.step()) == set()


def test_excluded_arguments_and_results_are_not_recorded(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe(name="secret", capture_input=False, capture_output=False)
    def function(word: str) -> str:
        return word

    @tracker.observe(name="secret items", capture_input=False, capture_output=False)
    def items(word: str) -> Iterator[str]:
        yield word

    @tracker.observe(name="secret coroutine", capture_input=False, capture_output=False)
    async def coroutine(word: str) -> str:
        return word

    @tracker.observe(name="secret async items", capture_input=False, capture_output=False)
    async def async_items(word: str) -> AsyncIterator[str]:
        yield word

    async def main() -> list[str]:
        return [await coroutine("hunter2"), *[item async for item in async_items("hunter2")]]

    assert function("hunter2") == "hunter2"
    assert list(items("hunter2")) == ["hunter2"]
    assert asyncio.run(main()) == ["hunter2", "hunter2"]
    assert len(recording.steps()) == 4
    assert "hunter2" not in str(recording.events())
    assert all({"input", "output"} & set(step) == set() for step in recording.steps())


def test_an_exception_fails_the_step_and_is_the_same(recording: Recording, tracker: Tracker) -> None:
    error = LookupError("mine")

    @tracker.observe(name="failing")
    def failing() -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        failing()
    assert caught.value is error
    assert caught.traceback[-1].name == "failing"
    assert (recording.step()["status"], recording.step()["error"]["message"]) == ("failed", "mine")


def test_the_outermost_call_is_a_run_and_the_calls_in_it_are_its_steps(recording: Recording) -> None:
    tracker = recording.tracker

    @tracker.observe(name="inner")
    def inner(number: int) -> int:
        return number + 1

    @tracker.observe(name="outer")
    def outer(number: int) -> int:
        return inner(number) * 2

    assert outer(1) == 4
    start, step, end = recording.events()
    assert (start["type"], start["agent_name"], start["input"]) == ("run.start", "outer", {"number": 1})
    assert (step["name"], step["run_id"], step["parent_id"]) == ("inner", start["run_id"], None)
    assert (end["type"], end["status"], end["output"]) == ("run.end", "completed", 4)
    assert current_scope() is None


def test_an_exception_fails_that_run(recording: Recording) -> None:
    @recording.tracker.observe
    def failing() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        failing()
    assert recording.end()["status"] == "failed"


def test_recursion_is_a_chain_of_steps(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe(name="fall")
    def fall(depth: int) -> int:
        return 0 if depth == 0 else 1 + fall(depth - 1)

    assert fall(3) == 3
    steps = {step["step_id"]: step for step in recording.steps()}
    for step in steps.values():
        depth = step["input"]["depth"]
        assert (steps[step["parent_id"]]["input"]["depth"] == depth + 1) if depth < 3 else step["parent_id"] is None


def test_methods_are_recorded_without_their_object(recording: Recording, tracker: Tracker) -> None:
    class Agent:
        secret = "hunter2"

        def __repr__(self) -> str:
            return self.secret

        @tracker.observe(name="method")
        def method(self, goal: str) -> str:
            assert isinstance(self, Agent)
            return goal

        @tracker.observe(name="over class")
        @classmethod
        def over_class(cls, goal: str) -> str:
            assert cls is Agent
            return goal

        @classmethod
        @tracker.observe(name="under class")
        def under_class(cls, goal: str) -> str:
            assert cls is Agent
            return goal

        @tracker.observe(name="over static")
        @staticmethod
        def over_static(goal: str) -> str:
            return goal

        @staticmethod
        @tracker.observe(name="under static")
        def under_static(goal: str) -> str:
            return goal

    agent: Any = Agent()
    for method in (agent.method, agent.over_class, Agent.under_class, agent.over_static, Agent.under_static):
        assert method("win") == "win"
    assert agent.method(goal="win") == "win"
    assert len(recording.steps()) == 6
    assert all(step["input"] == {"goal": "win"} for step in recording.steps())


def test_a_coroutine_is_recorded_from_its_first_await_to_its_end(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe(name="fetch")
    async def fetch(url: str) -> str:
        await asyncio.sleep(0)
        tracker.track_step("inner")
        return url.upper()

    async def main() -> None:
        never = fetch("never awaited")
        never.close()
        assert await asyncio.gather(fetch("a"), fetch("b")) == ["A", "B"]

    assert inspect.iscoroutinefunction(fetch)
    asyncio.run(main())
    told = [step for step in recording.steps() if step["name"] == "fetch"]
    assert [(step["input"]["url"], step["output"]) for step in told] == [("a", "A"), ("b", "B")]
    inner = {step["parent_id"] for step in recording.steps() if step["name"] == "inner"}
    assert inner == {step["step_id"] for step in told}


def test_a_cancelled_coroutine_is_recorded_as_cancelled(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe
    async def wait() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), 0.001)

    asyncio.run(main())
    assert recording.step()["status"] == "cancelled"
    assert recording.step()["error"]["type"].endswith("CancelledError")


# ---- arguments -------------------------------------------------------------------------------------------------------


def recorded_input(recording: Recording) -> Any:
    return recording.steps()[-1].get("input")


def test_a_keyword_named_as_a_positional_only_argument_is_recorded_beside_it(
    recording: Recording, tracker: Tracker
) -> None:
    @tracker.observe
    def function(x: int, y: int = 0, /, **options: Any) -> None: ...

    function(1, x=2)
    assert recorded_input(recording) == {"x": 1, "options": {"x": 2}, "y": 0}
    function(1, x=2, z=3)
    assert recorded_input(recording) == {"x": 1, "options": {"x": 2, "z": 3}, "y": 0}
    function(1, 5, z=3)
    assert recorded_input(recording) == {"x": 1, "y": 5, "z": 3}


def test_a_keyword_named_as_the_rest_is_recorded_beside_it(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe
    def function(first: int = 0, *args: int, **options: Any) -> None: ...

    function(1, 2, args=3)
    assert recorded_input(recording) == {"first": 1, "args": [2], "options": {"args": 3}}
    function(first=1, args=3)
    assert recorded_input(recording) == {"first": 1, "options": {"args": 3}}
    function(1, 2, options=3)
    assert recorded_input(recording) == {"first": 1, "args": [2], "options": 3}


def test_a_keyword_named_self_is_recorded_and_the_object_is_not(recording: Recording, tracker: Tracker) -> None:
    class Agent:
        @tracker.observe
        def method(self, /, **options: Any) -> None: ...

    Agent().method(self="given", cls=1)
    assert recorded_input(recording) == {"options": {"self": "given", "cls": 1}}


def test_arguments_that_are_not_given_have_their_defaults(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe
    def function(query: str, k: int = 5, *rest: int, deep: bool = False, near: str | None = None) -> None: ...

    function("tea")
    assert recorded_input(recording) == {"query": "tea", "k": 5, "deep": False, "near": None}
    function("tea", 1, 2, deep=True)
    assert recorded_input(recording) == {"query": "tea", "k": 1, "rest": [2], "deep": True, "near": None}


def test_a_default_that_changes_is_recorded_as_it_is_at_the_call(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe
    def collect(seen: list[int] = []) -> None:
        seen.append(len(seen))

    collect()
    collect()
    assert [step["input"] for step in recording.steps()] == [{"seen": []}, {"seen": [0]}]


def test_a_default_that_is_an_object_is_rendered_once(recording: Recording, tracker: Tracker) -> None:
    rendered = []

    class Client:
        def __repr__(self) -> str:
            rendered.append(self)
            return "Client()"

    @tracker.observe
    def ask(query: str, client: Any = Client()) -> None: ...

    for query in ("a", "b", "c"):
        ask(query)
    assert [step["input"] for step in recording.steps()] == [
        {"query": query, "client": "Client()"} for query in ("a", "b", "c")
    ]
    assert len(rendered) == 1


def test_a_default_that_tells_nothing_is_left_out(recording: Recording, tracker: Tracker) -> None:
    missing = object()

    @tracker.observe
    def ask(query: str, timeout: Any = missing, hook: Any = print, form: str = "<p>") -> None: ...

    ask("tea")
    assert recorded_input(recording) == {"query": "tea", "form": "<p>"}
    ask("tea", timeout=5)
    assert recorded_input(recording) == {"query": "tea", "timeout": 5, "form": "<p>"}


@pytest.mark.parametrize("make", HOSTILE)
def test_no_default_breaks_a_function(recording: Recording, tracker: Tracker, make: Callable[[], Any]) -> None:
    value = make()
    observed = tracker.observe(lambda given=value: given is value, name="same")
    assert observed() is True
    assert recording.step()["name"] == "same"


@pytest.mark.parametrize("names", [["query", "k"], ("query", "k"), {"query", "k"}, frozenset({"query", "k"})])
def test_only_the_named_arguments_are_recorded(recording: Recording, tracker: Tracker, names: Any) -> None:
    @tracker.observe(capture_input=names)
    def ask(client: object, query: str, k: int = 5, key: str = "hunter2") -> None: ...

    ask(object(), "tea")
    assert recorded_input(recording) == {"query": "tea", "k": 5}
    ask(client=None, query="tea", k=1, key="hunter2")
    assert recorded_input(recording) == {"query": "tea", "k": 1}
    assert recording.invalid_calls == {}


def test_one_name_and_names_of_free_keywords_are_enough(recording: Recording, tracker: Tracker) -> None:
    tracker.observe(lambda query, key: None, capture_input="query")("tea", "hunter2")
    assert recorded_input(recording) == {"query": "tea"}
    tracker.observe(lambda *rest, **options: None, capture_input=["model", "rest"])(1, model="small", key="hunter2")
    assert recorded_input(recording) == {"rest": [1], "model": "small"}
    tracker.observe(lambda query: None, capture_input=[])("hunter2")
    assert recorded_input(recording) is None
    assert recording.invalid_calls == {}


def test_a_function_chooses_what_is_recorded_of_the_arguments(recording: Recording, tracker: Tracker) -> None:
    seen: list[dict[str, Any]] = []

    def choose(arguments: dict[str, Any]) -> Any:
        seen.append(arguments)
        return {"words": len(arguments["query"].split())}

    class Agent:
        @tracker.observe(capture_input=choose)
        def ask(self, query: str, k: int = 5) -> str:
            return query

    assert Agent().ask("one two") == "one two"
    assert seen == [{"query": "one two", "k": 5}]
    assert recorded_input(recording) == {"words": 2}


def test_a_function_that_fails_to_choose_keeps_the_arguments_out(recording: Recording, tracker: Tracker) -> None:
    function = tracker.observe(lambda query: query, capture_input=lambda arguments: arguments["missing"])
    assert function("hunter2") == "hunter2"
    assert recorded_input(recording) is None
    assert recording.invalid_calls == {"wrong_call": 1}
    assert "hunter2" not in str(recording.said)


# ---- attributes of the function --------------------------------------------------------------------------------------


def sample(first: int, *, second: str = "b") -> str:
    """Its documentation."""
    return f"{first}{second}"


sample.tag = ["kept"]


def test_name_documentation_signature_and_attributes_are_kept(tracker: Tracker) -> None:
    observed: Any = tracker.observe(sample)
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__", "tag"):
        assert getattr(observed, attribute) == getattr(sample, attribute)
    assert observed.__wrapped__ is sample
    assert inspect.signature(observed) == inspect.signature(sample)


def importable() -> None:
    """A function that pickle finds under its own name."""


def test_an_observed_function_is_pickled_by_its_name(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    observed = tracker.observe(importable)
    monkeypatch.setattr(sys.modules[__name__], "importable", observed)
    assert pickle.loads(pickle.dumps(observed)) is observed


def test_frameworks_see_what_kind_of_function_it_is(tracker: Tracker) -> None:
    def plain() -> None: ...

    async def coroutine() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    for function in (plain, coroutine, generator, async_generator):
        observed = tracker.observe(function)
        for question in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
            assert question(observed) == question(function)


def test_an_observed_generator_makes_a_context_manager(recording: Recording, tracker: Tracker) -> None:
    @contextlib.contextmanager
    @tracker.observe(name="resource")
    def resource() -> Iterator[str]:
        try:
            yield "open"
        except ValueError:
            yield_after.append("seen")

    yield_after: list[str] = []
    with resource() as state:
        assert state == "open"
        tracker.track_step("user's")
        raise ValueError("swallowed by the resource")
    assert yield_after == ["seen"]
    assert recording.parents() == {"user's": None, "resource": None}
    assert only(recording, "resource")["status"] == "completed"


# ---- other callables -----------------------------------------------------------------------------------------------


def test_a_partial_is_recorded_under_the_name_of_its_function(recording: Recording, tracker: Tracker) -> None:
    assert tracker.observe(partial(partial(sample, 1), second="c"))() == "1c"
    assert recording.step()["name"] == "sample"
    assert recording.step()["output"] == "1c"


def test_callable_objects_are_recorded_under_the_name_of_their_class(recording: Recording, tracker: Tracker) -> None:
    class Tool:
        def __call__(self, word: str) -> str:
            return word * 2

    class AsyncTool:
        async def __call__(self, word: str) -> str:
            await asyncio.sleep(0)
            return word * 2

    class Stream:
        def __call__(self, word: str) -> Iterator[str]:
            yield from word

    class AsyncStream:
        async def __call__(self, word: str) -> AsyncIterator[str]:
            for letter in word:
                yield letter

    async def main() -> None:
        assert await tracker.observe(AsyncTool())("ab") == "abab"
        assert [letter async for letter in tracker.observe(AsyncStream())("ab")] == ["a", "b"]

    assert tracker.observe(Tool())("ab") == "abab"
    assert list(tracker.observe(Stream())("ab")) == ["a", "b"]
    asyncio.run(main())
    assert [(step["name"], step["input"], step["output"]) for step in recording.steps()] == [
        ("Tool", {"word": "ab"}, "abab"),
        ("Stream", {"word": "ab"}, "ab"),
        ("AsyncTool", {"word": "ab"}, "abab"),
        ("AsyncStream", {"word": "ab"}, "ab"),
    ]


def test_builtins_are_recorded_with_the_known_names_of_their_arguments(recording: Recording, tracker: Tracker) -> None:
    assert tracker.observe(len)([1, 2]) == 2
    assert tracker.observe(max)(1, 2) == 2
    first, second = recording.steps()
    assert (first["name"], first["input"]) == ("len", {"obj": [1, 2]})
    assert (second["name"], second["input"]) == ("max", {"args": [1, 2]})


def test_a_bound_method_may_be_observed(recording: Recording, tracker: Tracker) -> None:
    items: list[int] = []
    tracker.observe(items.append)(5)
    assert items == [5]
    assert recording.step()["name"] == "list.append"


class Tool:
    """A callable with attributes."""

    name = "tool"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *args: int) -> int:
        self.calls += 1
        return sum(args)

    def reset(self) -> None:
        self.calls = 0


def test_an_observed_callable_binds_as_the_callable_does(recording: Recording, tracker: Tracker) -> None:
    @lru_cache
    def same(self: Any, number: int) -> int:
        return number

    class Agent:
        builtin, builtin_seen = len, tracker.observe(len, name="builtin")
        bound, bound_seen = [1].count, tracker.observe([1].count, name="bound")
        tool, tool_seen = Tool(), tracker.observe(Tool(), name="tool")
        cached, cached_seen = same, tracker.observe(same, name="cached")
        method, method_seen = partialmethod(same, 7), tracker.observe(partialmethod(same, 7), name="method")
        static_seen = tracker.observe(staticmethod(partial(max, 1)), name="static")
        wrapped_seen = staticmethod(tracker.observe(partial(max, 1), name="wrapped"))

    agent: Any = Agent()
    assert agent.builtin([1]) == agent.builtin_seen([1]) == Agent.builtin_seen([1]) == 1
    assert agent.bound(1) == agent.bound_seen(1) == 1
    assert agent.tool(1, 2) == agent.tool_seen(1, 2) == 3
    assert agent.cached(5) == agent.cached_seen(5) == Agent.cached_seen(agent, 5) == 5
    assert agent.method() == agent.method_seen() == 7
    assert agent.static_seen(2) == agent.wrapped_seen(2) == 2
    inputs = {step["name"]: step.get("input") for step in recording.steps()}
    assert inputs["builtin"] == {"obj": [1]}
    assert inputs["tool"] == {"args": [1, 2]}
    assert inputs["cached"] == {"number": 5}
    assert inputs["method"] == {"number": 7}
    assert inputs["static"] == {"args": [1, 2]}


def test_an_observed_partial_binds_as_a_partial_does(recording: Recording, tracker: Tracker) -> None:
    class Agent:
        half, half_seen = partial(max, 1), tracker.observe(partial(max, 1))

    agent: Any = Agent()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # from Python 3.13 on a partial says that it will bind
        assert agent.half(2) == agent.half_seen(2) == 2
    assert recorded_input(recording) == {"args": [1, 2]}


def test_a_descriptor_of_c_binds_as_it_does(recording: Recording, tracker: Tracker) -> None:
    class Word(str):
        loud = tracker.observe(str.upper, name="loud")

    assert Word("a").loud() == "A"
    assert Word.loud("b") == "B"
    assert [step["name"] for step in recording.steps()] == ["loud", "loud"]


def test_an_observed_callable_has_the_attributes_of_the_callable(tracker: Tracker) -> None:
    tool = Tool()
    observed: Any = tracker.observe(tool)
    assert observed(1, 2) == 3
    assert (observed.name, observed.calls, observed.__wrapped__) == ("tool", 1, tool)
    observed.reset()
    assert observed.calls == tool.calls == 0
    cached: Any = tracker.observe(lru_cache(lambda number: number))
    cached(1)
    cached(1)
    assert cached.cache_info().hits == 1
    assert inspect.signature(tracker.observe(len)) == inspect.signature(len)
    assert copy.copy(observed)(1) == 1


def test_a_partial_of_each_kind_of_function_keeps_its_kind_and_arguments(
    recording: Recording, tracker: Tracker
) -> None:
    async def coroutine(a: int, b: int) -> int:
        return a + b

    def generator(a: int, b: int) -> Iterator[int]:
        yield a + b

    seen: Any = tracker.observe(partial(coroutine, 1), name="coroutine")
    assert inspect.iscoroutinefunction(seen)
    assert (seen.args, seen.keywords) == ((1,), {})
    assert asyncio.run(seen(2)) == 3
    given = tracker.observe(partial(generator, b=2), name="generator")
    assert inspect.isgeneratorfunction(given)
    assert inspect.signature(given) == inspect.signature(partial(generator, b=2))
    assert list(given(1)) == [3]
    assert [(step["input"], step["output"]) for step in recording.steps()] == [
        ({"a": 1, "b": 2}, 3),
        ({"a": 1, "b": 2}, [3]),
    ]


def test_a_partial_of_a_class_is_recorded_as_a_function(recording: Recording, tracker: Tracker) -> None:
    assert tracker.observe(partial(dict, a=1))(b=2) == {"a": 1, "b": 2}
    assert recording.step()["name"] == "dict"


@pytest.mark.parametrize(
    "value", [5, int, Recording, property(lambda self: 5), None.__class__], ids=lambda value: type(value).__name__
)
def test_a_class_or_a_value_is_returned_unchanged_with_a_log_line(
    recording: Recording, tracker: Tracker, value: Any
) -> None:
    assert tracker.observe()(value) is value
    assert recording.invalid_calls == {"not_observable": 1}


def test_a_text_in_place_of_the_function_is_taken_as_its_name_with_a_log_line(
    recording: Recording, tracker: Tracker
) -> None:
    decorate: Any = tracker.observe
    assert decorate("search")(sample)(1) == "1b"
    assert recording.step()["name"] == "search"
    assert recording.invalid_calls == {"not_observable": 1}


def test_a_callable_full_of_traps_is_given_back_as_it_is(recording: Recording, tracker: Tracker) -> None:
    trap: Any = FailingObject()
    assert tracker.observe(trap) is trap
    assert tracker.observe()(trap) is trap
    assert recording.invalid_calls == {"wrong_call": 2}


@pytest.mark.parametrize("make", HOSTILE)
def test_no_argument_and_no_result_breaks_a_call(
    recording: Recording, tracker: Tracker, make: Callable[[], Any]
) -> None:
    value = make()
    observed = tracker.observe(lambda *args, **kwargs: args[0], name="same")
    assert observed(value, key=value) is value
    assert recording.step()["name"] == "same"


def test_a_wrong_call_of_the_function_raises_what_it_raises_undecorated(tracker: Tracker) -> None:
    observed: Any = tracker.observe(sample)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'first'"):
        observed()
    with pytest.raises(TypeError, match="unexpected keyword argument 'third'"):
        observed(1, third=3)


def test_a_signature_that_cannot_be_read_leaves_the_arguments_without_names() -> None:
    def odd() -> None: ...

    odd.__signature__ = 5
    assert Arguments(odd)((1, 2), {"a": 3}) == {"args": (1, 2), "a": 3}


# ---- generators ----------------------------------------------------------------------------------------------------


def collect(tracker: Tracker, kind: str, items: list[Any], **options: Any) -> list[Any]:
    """The items of a decorated generator of either kind."""
    if kind == "sync":

        @tracker.observe(name="gen", **options)
        def generator() -> Iterator[Any]:
            yield from items

        return list(generator())

    @tracker.observe(name="gen", **options)
    async def async_generator() -> AsyncIterator[Any]:
        for item in items:
            yield item

    async def main() -> list[Any]:
        return [item async for item in async_generator()]

    return asyncio.run(main())


BOTH = pytest.mark.parametrize("kind", ["sync", "async"])


@BOTH
@pytest.mark.parametrize(
    ("items", "output"),
    [
        (["a", "b", "c"], "abc"),
        ([1, 2], [1, 2]),
        (["a", "b", 1, "c"], ["a", "b", 1, "c"]),
        ([{"a": 1}, None], [{"a": 1}, None]),
        ([""], ""),
        ([[]], [[]]),
    ],
)
def test_the_texts_of_a_generator_are_joined_and_other_items_make_a_list(
    recording: Recording, tracker: Tracker, kind: str, items: list[Any], output: Any
) -> None:
    assert collect(tracker, kind, items) == items
    assert recording.step()["output"] == output
    assert "truncated" not in recording.step()


@BOTH
def test_a_generator_that_gives_nothing_has_no_output(recording: Recording, tracker: Tracker, kind: str) -> None:
    assert collect(tracker, kind, []) == []
    assert "output" not in recording.step()


@BOTH
def test_items_are_recorded_as_they_were_when_they_came(recording: Recording, tracker: Tracker, kind: str) -> None:
    item = [0]

    def items() -> Iterator[Any]:
        for number in range(3):
            item[0] = number
            yield item

    collect(tracker, kind, items())
    assert recording.step()["output"] == [[0], [1], [2]]


@BOTH
def test_items_beyond_the_bound_are_counted(recording: Recording, tracker: Tracker, kind: str) -> None:
    items = list(range(MOST_ITEMS + 5))
    assert collect(tracker, kind, items) == items
    assert recording.step()["output"] == [*range(MOST_ITEMS), "…[cut: 5 more items]"]
    assert recording.step()["truncated"] == ["output"]


@pytest.mark.parametrize(
    "items",
    [
        ["x" * 300] * 10,
        ["y"] * 5000,
        [["x" * 600]] * 10,
        [*["a" * 10] * 30, 1, *["b" * 10] * 60],
        [*["c"] * 5000, 1],
        ["\x01" * 900],
        [["x" * 850], ["y" * 10_000]],
        [list(range(5000))],
    ],
    ids=range(8),
)
def test_the_items_together_keep_to_the_limit_of_one_payload(items: list[Any]) -> None:
    with recorded(max_payload_bytes=1024) as recording, recording.tracker.track_run("agent"):
        assert collect(recording.tracker, "sync", items) == items
        assert recording.step()["truncated"] == ["output"]
        (raw,) = [event.fields["output"] for event in recording.raw if event.type == "step"]
        assert len(raw) <= 1024


@BOTH
def test_the_steps_of_the_consumer_are_not_children_of_the_generators_step(
    recording: Recording, tracker: Tracker, kind: str
) -> None:
    if kind == "sync":

        @tracker.observe(name="gen")
        def generator() -> Iterator[int]:
            tracker.track_step("inside before")
            with tracker.track_step_context("block in gen"):
                yield 1
                tracker.track_step("inside block")
            yield 2
            tracker.track_step("inside after")

        for number in generator():
            tracker.track_step(f"consumer {number}")
    else:

        @tracker.observe(name="gen")
        async def async_generator() -> AsyncIterator[int]:
            tracker.track_step("inside before")
            with tracker.track_step_context("block in gen"):
                yield 1
                tracker.track_step("inside block")
            yield 2
            tracker.track_step("inside after")

        async def main() -> None:
            async for number in async_generator():
                tracker.track_step(f"consumer {number}")

        asyncio.run(main())
    assert recording.parents() == {
        "gen": None,
        "inside before": "gen",
        "block in gen": "gen",
        "inside block": "block in gen",
        "inside after": "gen",
        "consumer 1": None,
        "consumer 2": None,
    }


def test_two_generators_may_be_read_by_turns(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe(name="gen")
    def generator(name: str) -> Iterator[int]:
        for number in range(3):
            tracker.track_step(f"{name} {number}")
            yield number

    with tracker.track_step_context("consumer"):
        assert list(zip(generator("a"), generator("b"), strict=True)) == [(0, 0), (1, 1), (2, 2)]
    steps = {step["step_id"]: step for step in recording.steps()}
    for step in steps.values():
        if step["name"][:2] in ("a ", "b "):
            assert steps[step["parent_id"]]["input"]["name"] == step["name"][0]
    assert current_scope() is not None
    assert recording.parents()["gen"] == "consumer"


def test_the_outermost_generator_is_a_run(recording: Recording) -> None:
    @recording.tracker.observe(name="stream")
    def stream() -> Iterator[str]:
        recording.tracker.track_step("inside")
        yield "a"

    assert list(stream()) == ["a"]
    start, step, end = recording.events()
    assert (start["agent_name"], step["run_id"], end["output"]) == ("stream", start["run_id"], "a")
    assert current_scope() is None


def test_a_generator_that_is_left_early_is_completed_with_what_it_gave(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe(name="gen")
    def generator() -> Iterator[int]:
        yield 1
        yield 2

    for number in generator():
        assert number == 1
        break
    gc.collect()
    assert (recording.step()["status"], recording.step()["output"]) == ("completed", [1])


def test_a_generator_that_is_never_started_is_not_recorded(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe
    def generator() -> Iterator[int]:
        yield 1

    generator().close()
    del generator
    assert recording.steps() == []


def test_a_generator_that_raises_is_failed_with_what_it_gave(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe
    def generator() -> Iterator[int]:
        yield 1
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(generator())
    assert (recording.step()["status"], recording.step()["output"]) == ("failed", [1])


def test_an_async_generator_that_is_left_early_ends_with_its_loop(recording: Recording, tracker: Tracker) -> None:
    closed: list[str] = []

    @tracker.observe(name="gen")
    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append("closed")

    kept: list[Any] = []
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        kept.append(generator())
        async for _ in kept[0]:
            break

    asyncio.run(main())
    assert complaints == []
    assert closed == ["closed"]
    assert (recording.step()["status"], recording.step()["output"]) == ("completed", [1])


# ---- a decorated generator and its undecorated twin -------------------------------------------------------------------

ERRORS: dict[str, type[BaseException]] = {
    "value": ValueError,
    "key": KeyError,
    "stop": StopIteration,
    "async stop": StopAsyncIteration,
    "exit": GeneratorExit,
    "cancel": asyncio.CancelledError,
}
REACTIONS = st.sampled_from(["pass on", "swallow", "replace", "answer", "return", "stop"])
BODIES = st.lists(st.tuples(st.integers(0, 9), REACTIONS), max_size=5)
ACTIONS = st.lists(
    st.one_of(
        st.just(("next", "")),
        st.tuples(st.just("send"), st.sampled_from(["a", "b"])),
        st.tuples(st.just("throw"), st.sampled_from(sorted(ERRORS))),
        st.just(("close", "")),
    ),
    max_size=8,
)
Body = list[tuple[int, str]]


def body(script: Body, log: list[Any]) -> Generator[Any, Any, Any]:
    """Yield an item for each line of the script. The line is the reaction to an exception that is thrown in."""
    try:
        for number, reaction in script:
            try:
                log.append((yield number))
            except BaseException as error:
                log.append(repr(error))
                if reaction == "pass on":
                    raise
                if reaction == "replace":
                    raise RuntimeError("replaced") from error
                if reaction == "stop":
                    raise StopIteration("bad") from None
                if reaction == "answer":
                    log.append((yield f"answer {number}"))
                if reaction == "return":
                    return f"returned {number}"
        return "end"
    finally:
        log.append("closed")


async def async_body(script: Body, log: list[Any]) -> AsyncGenerator[Any, Any]:
    """The asynchronous form of the generator above."""
    try:
        for number, reaction in script:
            try:
                log.append((yield number))
            except BaseException as error:
                log.append(repr(error))
                if reaction == "pass on":
                    raise
                if reaction == "replace":
                    raise RuntimeError("replaced") from error
                if reaction == "stop":
                    raise StopIteration("bad") from None
                if reaction == "answer":
                    log.append((yield f"answer {number}"))
                if reaction == "return":
                    return
    finally:
        log.append("closed")


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return ("gave", call())
    except BaseException as error:
        causes = [repr(error.__cause__), error.__suppress_context__]
        return ("raised", repr(error), getattr(error, "value", None), causes)


def driven(generator: Any, actions: list[tuple[str, str]]) -> list[Any]:
    """The outcome of each action of a consumer."""
    found = []
    for action, what in actions:
        if action == "next":
            found.append(outcome(partial(next, generator)))
        elif action == "send":
            found.append(outcome(partial(generator.send, what)))
        elif action == "throw":
            found.append(outcome(partial(generator.throw, ERRORS[what]("thrown"))))
        else:
            found.append(outcome(generator.close))
    return found


def async_driven(generator: Any, actions: list[tuple[str, str]]) -> list[Any]:
    """The outcomes for an asynchronous generator. It never waits, so the first step of each awaitable is its last."""
    found = []
    for action, what in actions:
        if action == "next":
            waiting = generator.asend(None)
        elif action == "send":
            waiting = generator.asend(what)
        elif action == "throw":
            waiting = generator.athrow(ERRORS[what]("thrown"))
        else:
            waiting = generator.aclose()
        found.append(outcome(partial(waiting.send, None)))
    return found


@given(BODIES, ACTIONS)
def test_a_decorated_generator_cannot_be_told_from_its_twin(script: Body, actions: list[tuple[str, str]]) -> None:
    with recorded() as recording, recording.tracker.track_run("agent"):
        plain_log: list[Any] = []
        log: list[Any] = []
        before = current_scope()
        # Both stay alive, because collection would send GeneratorExit once to the twin, and twice inside the wrapper.
        twin, observed = body(script, plain_log), recording.tracker.observe(body)(script, log)
        assert driven(observed, actions) == driven(twin, actions)
        assert log == plain_log
        assert current_scope() is before
        assert recording.invalid_calls == {}


@given(BODIES, ACTIONS)
def test_a_decorated_async_generator_cannot_be_told_from_its_twin(script: Body, actions: list[tuple[str, str]]) -> None:
    with recorded() as recording, recording.tracker.track_run("agent"):
        plain_log: list[Any] = []
        log: list[Any] = []
        before = current_scope()
        # Both stay alive, because collection would send GeneratorExit once to the twin, and twice inside the wrapper.
        twin, observed = async_body(script, plain_log), recording.tracker.observe(async_body)(script, log)
        assert async_driven(observed, actions) == async_driven(twin, actions)
        assert log == plain_log
        assert current_scope() is before
        assert recording.invalid_calls == {}


def test_what_a_generator_returns_is_given_on(tracker: Tracker) -> None:
    @tracker.observe
    def inner() -> Generator[int, str, str]:
        got = yield 1
        return got * 2

    def outer() -> Generator[int, str, str]:
        return (yield from inner())

    running = outer()
    assert next(running) == 1
    with pytest.raises(StopIteration) as ended:
        running.send("ab")
    assert ended.value.value == "abab"


def test_a_thrown_exception_is_the_same_one_with_its_traceback(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe
    def generator() -> Iterator[int]:
        yield 1

    running: Any = generator()
    next(running)
    error = ValueError("thrown")
    with pytest.raises(ValueError, match="thrown") as caught:
        running.throw(error)
    assert caught.value is error
    assert caught.traceback[-1].name == "generator"
    assert error.__context__ is None
    assert recording.step()["status"] == "failed"


def test_a_finished_generator_keeps_no_exception_and_no_item_alive(tracker: Tracker) -> None:
    @tracker.observe
    def generator() -> Iterator[int]:
        yield 1

    class Thrown(Exception):
        pass

    def alive() -> int:
        return sum(type(thing) is Thrown for thing in gc.get_objects())

    running: Any = generator()
    next(running)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(Thrown):
            running.throw(Thrown())
        assert alive() == 0
    finally:
        gc.enable()
