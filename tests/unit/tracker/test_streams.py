"""Results of observed functions that are consumed after the call: their step ends when they do."""

from __future__ import annotations

import asyncio
import collections.abc
import concurrent.futures
import contextlib
import copy
import gc
import inspect
import io
import threading
import types
import warnings
import weakref
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from agentscope import Tracker
from tests.support.recording import Recording, current_scope, recorded


def only(recording: Recording, name: str = "call") -> dict[str, Any]:
    """The only step of this name."""
    (found,) = [step for step in recording.steps() if step["name"] == name]
    return found


def called(tracker: Tracker, result: Any) -> Any:
    """The result of an observed function that is no generator function and no coroutine function."""
    return tracker.observe(lambda: result, name="call")()


async def waits() -> None:
    await asyncio.sleep(0)


class Stream:
    """Items like those of the clients of models: an iterator, a context manager, closable, with attributes of its own."""

    def __init__(self, items: Any, tracker: Tracker | None = None) -> None:
        self._items = iter(items)
        self._tracker = tracker
        self.response = "response"
        self.closed = 0
        self.text = (str(item) for item in self._items)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Any:
        if self._tracker is not None:
            self._tracker.track_step("inside")
        return next(self._items)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed += 1


class AsyncStream:
    def __init__(self, items: Any, tracker: Tracker | None = None) -> None:
        self._items = iter(items)
        self._tracker = tracker
        self.closed = 0

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Any:
        await waits()
        if self._tracker is not None:
            self._tracker.track_step("inside")
        for item in self._items:
            return item
        raise StopAsyncIteration

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        await waits()
        self.closed += 1


class Manager:
    """Gives a stream only inside `with` or `async with`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __enter__(self) -> Any:
        return self._stream

    def __exit__(self, *error: Any) -> None:
        self._stream.close()

    async def __aenter__(self) -> Any:
        await waits()
        return self._stream

    async def __aexit__(self, *error: Any) -> None:
        await self._stream.close()


class Awaitable:
    def __init__(self, result: Any, error: Exception | None = None) -> None:
        self._result, self._error = result, error

    def __await__(self) -> Any:
        yield from waits().__await__()
        if self._error is not None:
            raise self._error
        return self._result


def words(tracker: Tracker, *items: Any) -> Iterator[Any]:
    for item in items:
        tracker.track_step("inside")
        yield item


async def async_words(tracker: Tracker, *items: Any) -> Any:
    for item in items:
        await waits()
        tracker.track_step("inside")
        yield item


async def gathered(stream: Any) -> list[Any]:
    return [item async for item in stream]


# ---- generators that an ordinary function returns --------------------------------------------------------------------


def test_a_returned_generator_keeps_the_step_open_until_it_is_exhausted(recording: Recording, tracker: Tracker) -> None:
    stream = called(tracker, words(tracker, "Hello ", "world"))
    assert recording.steps() == []
    assert next(stream) == "Hello "
    tracker.track_step("consumer")
    assert list(stream) == ["world"]
    tracker.track_step("after")
    told = only(recording)
    assert (told["status"], told["output"]) == ("completed", "Hello world")
    steps = recording.steps()
    assert {step["parent_id"] for step in steps if step["name"] == "inside"} == {told["step_id"]}
    assert {step["parent_id"] for step in steps if step["name"] in ("consumer", "after")} == {None}


@pytest.mark.parametrize("function", ["def", "async def", "method", "partial", "lambda handler"])
def test_whatever_the_function_is_its_generator_is_followed(
    recording: Recording, tracker: Tracker, function: str
) -> None:
    def plain() -> Any:
        return words(tracker, "a", "b")

    async def coroutine() -> Any:
        await waits()
        return async_words(tracker, "a", "b")

    class Client:
        @tracker.observe(name="call")
        def create(self) -> Any:
            return words(tracker, "a", "b")

    if function == "async def":

        async def main() -> list[Any]:
            return await gathered(await tracker.observe(coroutine, name="call")())

        assert asyncio.run(main()) == ["a", "b"]
    else:
        observed: dict[str, Any] = {
            "def": tracker.observe(plain, name="call"),
            "method": Client().create,
            "partial": tracker.observe(partial(plain), name="call"),
            "lambda handler": tracker.lambda_handler(tracker.observe(plain, name="call")),
        }
        assert list(observed[function]()) == ["a", "b"]
    assert only(recording)["output"] == "ab"
    assert [step["parent_id"] for step in recording.steps()] == [only(recording)["step_id"]] * 2 + [None]


def test_a_returned_generator_stays_a_generator(tracker: Tracker) -> None:
    def talk() -> Any:
        heard = yield "hello"
        try:
            yield heard * 2
        except ValueError:
            yield "caught"
        return "result"

    def outer() -> Any:
        return (yield from called(tracker, talk()))

    stream = outer()
    assert inspect.isgenerator(called(tracker, talk()))
    assert called(tracker, talk()).__name__ == "talk"
    assert (next(stream), stream.send(4), stream.throw(ValueError())) == ("hello", 8, "caught")
    with pytest.raises(StopIteration) as ended:
        next(stream)
    assert ended.value.value == "result"
    fresh = called(tracker, talk())
    with pytest.raises(TypeError, match="just-started"):
        fresh.send(1)


def test_an_error_in_a_returned_generator_fails_the_step_with_what_it_gave(
    recording: Recording, tracker: Tracker
) -> None:
    def breaks() -> Any:
        yield "so far"
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        list(called(tracker, breaks()))
    told = only(recording)
    assert (told["status"], told["output"], told["error"]["message"]) == ("failed", "so far", "gone")
    assert current_scope() is not None


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda tracker: words(tracker, "a", "b"),
        lambda tracker: Stream("ab"),
        lambda tracker: iter(["a", "b"]),
        lambda tracker: map(str.lower, "AB"),
    ],
    ids=["generator", "stream", "iterator of a list", "map"],
)
def test_a_stream_that_is_closed_or_collected_early_ends_the_step(
    recording: Recording, tracker: Tracker, make: Any, close: bool, begun: bool
) -> None:
    stream = called(tracker, make(tracker))
    if begun:
        assert next(stream) == "a"
    if close and hasattr(stream, "close"):
        stream.close()
    if not (close and begun and hasattr(stream, "close")):
        del stream  # from Python 3.12 on `close` of a generator that has not begun only marks it
    told = only(recording)
    assert told["status"] == "completed"
    if begun:
        assert told["output"] == "a"


def test_an_async_generator_that_is_never_read_ends_the_step_when_it_is_collected(
    recording: Recording, tracker: Tracker
) -> None:
    called(tracker, async_words(tracker, "a"))
    assert (only(recording)["status"], "output" in only(recording)) == ("completed", False)


def test_a_generator_that_others_hold_is_not_closed_by_what_took_its_place(
    recording: Recording, tracker: Tracker
) -> None:
    shared = words(tracker, 1, 2, 3)
    stream = called(tracker, shared)
    assert next(stream) == 1
    del stream
    assert list(shared) == [2, 3]
    assert only(recording)["output"] == [1]
    other = words(tracker, 1, 2)
    stream = called(tracker, other)
    next(stream)
    stream.close()
    assert list(other) == []


def test_the_end_of_a_collected_generator_runs_inside_its_step(recording: Recording, tracker: Tracker) -> None:
    def resource() -> Any:
        try:
            yield 1
        finally:
            tracker.track_step("inside")

    stream = called(tracker, resource())
    next(stream)
    del stream
    assert recording.parents() == {"inside": "call", "call": None}


def test_a_stream_outside_of_a_run_is_a_run(recording: Recording) -> None:
    assert "".join(called(recording.tracker, words(recording.tracker, "a", "b"))) == "ab"
    start, *steps, end = recording.events()
    assert (start["agent_name"], end["output"]) == ("call", "ab")
    assert {step["run_id"] for step in steps} == {start["run_id"]}
    assert current_scope() is None


def test_a_stream_may_be_read_in_another_thread(recording: Recording, tracker: Tracker) -> None:
    stream = called(tracker, Stream("ab", tracker))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(stream))
    thread.start()
    thread.join()
    assert found == ["a", "b"]
    assert {step["parent_id"] for step in recording.steps() if step["name"] == "inside"} == {only(recording)["step_id"]}


def test_nested_observed_functions_each_record_the_stream(recording: Recording, tracker: Tracker) -> None:
    inner = tracker.observe(lambda: words(tracker, "a", "b"), name="inner")
    outer = tracker.observe(lambda: inner(), name="outer")
    assert "".join(outer()) == "ab"
    assert recording.parents() == {"inside": "inner", "inner": "outer", "outer": None}
    assert only(recording, "inner")["output"] == only(recording, "outer")["output"] == "ab"


# ---- what can be awaited ---------------------------------------------------------------------------------------------


def awaitables(tracker: Tracker, result: Any, error: Exception | None) -> dict[str, Any]:
    async def coroutine() -> Any:
        await waits()
        tracker.track_step("inside")
        if error is not None:
            raise error
        return result

    @types.coroutine
    def old_coroutine() -> Any:
        return (yield from coroutine().__await__())

    class Object:
        def __await__(self) -> Any:
            return coroutine().__await__()

    return {
        "coroutine": lambda: called(tracker, coroutine()),
        "coroutine function": tracker.observe(coroutine, name="call"),
        "types.coroutine": lambda: called(tracker, old_coroutine()),
        "types.coroutine function": tracker.observe(old_coroutine, name="call"),
        "object": lambda: called(tracker, Object()),
        "task": lambda: tracker.observe(lambda: asyncio.ensure_future(coroutine()), name="call")(),
        "coroutine of a coroutine": lambda: called(tracker, awaited(coroutine())),
    }


async def awaited(inner: Any) -> Any:
    return await inner


KINDS = pytest.mark.parametrize("kind", list(awaitables(Tracker(enabled=False), None, None)))


@KINDS
def test_an_awaitable_keeps_the_step_open_until_its_result(recording: Recording, tracker: Tracker, kind: str) -> None:
    async def main() -> Any:
        before = current_scope()
        waiting = awaitables(tracker, {"a": 1}, None)[kind]()
        assert inspect.isawaitable(waiting)
        assert recording.steps() == []
        found = await waiting
        await waits()
        assert current_scope() is before
        tracker.track_step("after")
        return found

    assert asyncio.run(main()) == {"a": 1}
    assert (only(recording)["status"], only(recording)["output"]) == ("completed", {"a": 1})
    assert recording.parents() == {"inside": "call", "call": None, "after": None}


@KINDS
def test_the_exception_of_an_awaitable_fails_the_step(recording: Recording, tracker: Tracker, kind: str) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="the model refused"):
            await awaitables(tracker, None, ValueError("the model refused"))[kind]()
        await waits()

    asyncio.run(main())
    assert (only(recording)["status"], only(recording)["error"]["message"]) == ("failed", "the model refused")


@pytest.mark.parametrize("kind", [kind for kind in awaitables(Tracker(enabled=False), None, None) if kind != "task"])
def test_a_stream_that_is_awaited_keeps_the_step_open(recording: Recording, tracker: Tracker, kind: str) -> None:
    async def main() -> list[Any]:
        stream = await awaitables(tracker, AsyncStream("ab", tracker), None)[kind]()
        assert isinstance(stream, AsyncStream)
        assert "call" not in recording.parents()
        return await gathered(stream)

    assert asyncio.run(main()) == ["a", "b"]
    assert only(recording)["output"] == "ab"
    assert recording.parents() == {"inside": "call", "call": None}


def test_a_cancelled_awaitable_is_cancelled(recording: Recording, tracker: Tracker) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        for make in (forever, lambda: asyncio.ensure_future(forever())):
            task = asyncio.ensure_future(tracker.observe(make, name="call")())
            await waits()
            task.cancel()
            await asyncio.wait([task])
        await waits()

    asyncio.run(main())
    assert [step["status"] for step in recording.steps()] == ["cancelled", "cancelled"]


def test_a_future_is_given_on_as_it_is(recording: Recording, tracker: Tracker) -> None:
    future: concurrent.futures.Future[str] = concurrent.futures.Future()
    assert called(tracker, future) is future
    assert recording.steps() == []
    future.set_result("done")
    failing: concurrent.futures.Future[str] = concurrent.futures.Future()
    called(tracker, failing)
    failing.set_exception(ValueError("no"))
    ended: concurrent.futures.Future[str] = concurrent.futures.Future()
    ended.cancel()
    called(tracker, ended)
    called(tracker, concurrent.futures.Future())  # collected
    assert [(step["status"], step.get("output")) for step in recording.steps()] == [
        ("completed", "done"),
        ("failed", None),
        ("cancelled", None),
        ("completed", None),
    ]


def test_asyncio_still_tells_of_an_exception_that_nobody_looked_at(recording: Recording, tracker: Tracker) -> None:
    told: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["message"]))

        async def fails() -> None:
            raise ValueError("unseen")

        task = called(tracker, asyncio.ensure_future(fails()))
        await waits()
        await waits()
        del task
        gc.collect()

    asyncio.run(main())
    assert told == ["Task exception was never retrieved"]
    assert only(recording)["status"] == "failed"


def test_a_coroutine_that_is_never_awaited_is_warned_of_once(recording: Recording, tracker: Tracker) -> None:
    async def forgotten() -> None: ...

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        called(tracker, forgotten())
        gc.collect()
    told = [str(each.message).rpartition(".")[2] for each in found]
    found.clear()  # a warning holds its coroutine
    assert told == ["forgotten' was never awaited"]
    assert only(recording)["status"] == "completed"


# ---- stream objects --------------------------------------------------------------------------------------------------


def test_a_stream_object_keeps_the_step_open_until_it_is_exhausted(recording: Recording, tracker: Tracker) -> None:
    stream = called(tracker, Stream("abc", tracker))
    assert next(stream) == "a"
    tracker.track_step("consumer")
    assert list(stream) == ["b", "c"]
    assert only(recording)["output"] == "abc"
    assert recording.parents() == {"inside": "call", "consumer": None, "call": None}


def test_an_async_stream_object_keeps_the_step_open_until_it_is_exhausted(
    recording: Recording, tracker: Tracker
) -> None:
    async def main() -> None:
        stream = called(tracker, AsyncStream("abc", tracker))
        assert await anext(stream) == "a"
        tracker.track_step("consumer")
        assert await gathered(stream) == ["b", "c"]

    asyncio.run(main())
    assert only(recording)["output"] == "abc"
    assert recording.parents() == {"inside": "call", "consumer": None, "call": None}


def test_a_block_over_a_stream_ends_the_step(recording: Recording, tracker: Tracker) -> None:
    inner = Stream("abc")
    with called(tracker, inner) as stream:
        assert isinstance(stream, Stream)
        assert next(stream) == "a"
        tracker.track_step("consumer")
    assert inner.closed == 1
    assert only(recording)["output"] == "a"
    assert recording.parents()["consumer"] is None


def test_a_stream_behind_a_context_manager_is_followed(recording: Recording, tracker: Tracker) -> None:
    with called(tracker, Manager(Stream("ab", tracker))) as stream:
        assert recording.steps() == []
        assert (next(stream), stream.response) == ("a", "response")
    assert only(recording)["output"] == "a"

    async def main() -> None:
        async with tracker.observe(lambda: Manager(AsyncStream("ab")), name="async")() as stream:
            assert isinstance(stream, AsyncStream)
            assert await gathered(stream) == ["a", "b"]

    asyncio.run(main())
    assert only(recording, "async")["output"] == "ab"


def test_a_context_manager_made_of_a_generator_is_followed(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe(name="call")
    @contextlib.contextmanager
    def request() -> Iterator[dict[str, int]]:
        tracker.track_step("open")
        yield {"code": 200}
        tracker.track_step("close")

    with request() as response:
        assert response == {"code": 200}
        tracker.track_step("consumer")
    assert recording.parents() == {"open": "call", "consumer": None, "close": "call", "call": None}
    assert only(recording)["output"] == {"code": 200}


@pytest.mark.parametrize("where", ["__enter__", "__next__", "__exit__", "body", "swallowed"])
def test_an_exception_in_a_block_over_a_stream_fails_the_step_unless_it_is_swallowed(
    recording: Recording, tracker: Tracker, where: str
) -> None:
    class Breaking(Stream):
        def __enter__(self) -> Stream:
            if where == "__enter__":
                raise ValueError(where)
            return self

        def __next__(self) -> Any:
            if where == "__next__":
                raise ValueError(where)
            return super().__next__()

        def __exit__(self, *error: object) -> Any:
            if where == "__exit__":
                raise ValueError(where)
            return where == "swallowed"

    raised = contextlib.nullcontext() if where == "swallowed" else pytest.raises(ValueError, match=where)
    with raised, called(tracker, Breaking("ab")) as stream:
        next(stream)
        if where in ("body", "swallowed"):
            raise ValueError(where)
    assert only(recording)["status"] == ("completed" if where == "swallowed" else "failed")
    if where != "swallowed":
        assert only(recording)["error"]["message"] == where


def test_closing_a_stream_ends_the_step(recording: Recording, tracker: Tracker) -> None:
    inner = Stream("ab")
    stream = called(tracker, inner)
    next(stream)
    stream.close()
    assert inner.closed == 1
    assert only(recording)["output"] == "a"

    async def main() -> None:
        stream = tracker.observe(lambda: AsyncStream("ab"), name="async")()
        await anext(stream)
        assert inspect.iscoroutinefunction(stream.close)
        await stream.close()
        assert stream.closed == 1

    asyncio.run(main())
    assert only(recording, "async")["output"] == "a"


def test_an_object_that_is_awaited_or_entered_is_followed_both_ways(recording: Recording, tracker: Tracker) -> None:
    class Request(Awaitable):
        async def __aenter__(self) -> Any:
            return await self

        async def __aexit__(self, *error: object) -> None: ...

    async def main() -> None:
        assert await tracker.observe(lambda: Request("answer"), name="awaited")() == "answer"
        async with tracker.observe(lambda: Request("answer"), name="entered")() as answer:
            assert answer == "answer"
            assert [step["name"] for step in recording.steps()] == ["awaited"]

    asyncio.run(main())
    assert [step["output"] for step in recording.steps()] == ["answer", "answer"]


def test_an_iterable_that_runs_a_generator_and_can_be_closed_is_a_stream(
    recording: Recording, tracker: Tracker
) -> None:
    class Events:
        def __iter__(self) -> Iterator[str]:
            tracker.track_step("inside")
            yield "a"
            yield "b"

        def close(self) -> None: ...

    assert list(called(tracker, Events())) == ["a", "b"]
    assert recording.parents() == {"inside": "call", "call": None}
    assert only(recording)["output"] == "ab"


def test_a_generator_that_a_stream_keeps_as_an_attribute_is_read_into_the_step(
    recording: Recording, tracker: Tracker
) -> None:
    stream = called(tracker, Stream("abc"))
    assert next(stream.text) == "a"
    gc.collect()
    assert list(stream.text) == ["b", "c"]
    assert only(recording)["output"] == "abc"


def test_an_iterator_that_can_be_read_both_ways_stays_so(recording: Recording, tracker: Tracker) -> None:
    class Both(Stream, AsyncStream):
        pass

    async def main() -> None:
        stream = called(tracker, Both("ab"))
        assert next(stream) == "a"
        assert await gathered(stream) == ["b"]

    asyncio.run(main())
    assert only(recording)["output"] == "ab"


class Full:
    """An object with many special methods."""

    kind = "full"

    def __init__(self) -> None:
        self.items = ["a"]

    def __next__(self) -> str:
        if not self.items:
            raise StopIteration
        return self.items.pop()

    def __iter__(self) -> Full:
        return self

    def __len__(self) -> int:
        return 7

    def __bool__(self) -> bool:
        return False

    def __getitem__(self, key: int) -> int:
        return key * 2

    def __contains__(self, key: object) -> bool:
        return key == 3

    def __call__(self, word: str) -> str:
        return word * 2

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Full)

    def __hash__(self) -> int:
        return 11

    def __repr__(self) -> str:
        return "Full()"

    def method(self) -> str:
        return self.kind


def test_what_takes_the_place_of_a_stream_behaves_as_it_does(tracker: Tracker) -> None:
    inner = Full()
    stream = called(tracker, inner)
    assert isinstance(stream, Full)
    assert isinstance(stream, collections.abc.Iterator)
    assert not isinstance(stream, collections.abc.AsyncIterator)
    assert not inspect.isawaitable(stream)
    assert not hasattr(type(stream), "__enter__")
    assert stream.__class__ is Full
    assert type(stream).__name__ == "Full"
    assert (len(stream), bool(stream), stream[4], 3 in stream, stream("a")) == (7, False, 8, True, "aa")
    assert (repr(stream), str(stream), hash(stream)) == ("Full()", "Full()", 11)
    assert stream == inner
    assert stream.method() == "full"
    stream.kind = "other"
    assert inner.kind == "other"
    del stream.kind
    assert inner.kind == "full"
    assert set(dir(stream)) == set(dir(inner))
    assert vars(stream) is vars(inner)
    assert weakref.ref(stream)() is stream
    assert type(copy.copy(stream)) is Full
    with pytest.raises(AttributeError, match="missing"):
        _ = stream.missing


def test_after_the_end_a_stream_goes_on_working_without_being_recorded(recording: Recording, tracker: Tracker) -> None:
    stream = called(tracker, Stream([], tracker))
    assert list(stream) == []
    stream._items = iter("ab")
    assert list(stream) == ["a", "b"]
    with stream:
        pass
    assert only(recording)["status"] == "completed"
    assert "output" not in only(recording)


def test_bytes_of_a_stream_are_joined_before_they_are_read_as_text(recording: Recording, tracker: Tracker) -> None:
    text = "grün".encode()
    stream = called(tracker, Stream([text[:3], text[3:]]))
    assert b"".join(stream) == text
    tracker.track_step("same", output_data=text)
    assert only(recording)["output"] == only(recording, "same")["output"]


def test_a_stream_of_texts_and_bytes_is_a_list(recording: Recording, tracker: Tracker) -> None:
    list(called(tracker, Stream(["a", b"b", "c"])))
    assert [only(recording)["output"][place] for place in (0, 2)] == ["a", "c"]
    assert len(only(recording)["output"]) == 3


# ---- what is no stream -----------------------------------------------------------------------------------------------


class Lock:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...
    def acquire(self) -> None: ...
    def close(self) -> None: ...


class Record:
    """As pydantic's models: iterable, but no stream."""

    def __iter__(self) -> Iterator[Any]:
        yield from vars(self).items()


class Response:
    """As the one of requests: its content is there."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"a"])

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *error: object) -> None: ...
    def json(self) -> None: ...
    def close(self) -> None: ...


class Query:
    """As the one of an ORM: a container that may be iterated, also asynchronously."""

    def __len__(self) -> int:
        raise AssertionError("a query ran")

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("a query ran")

    def __aiter__(self) -> Any:
        raise AssertionError("a query ran")

    def __repr__(self) -> str:
        return "Query()"


@pytest.mark.parametrize(
    "make",
    [
        lambda: [1],
        lambda: {"a": iter("b")},
        lambda: range(3),
        lambda: io.StringIO("text"),
        lambda: threading.Lock(),
        Lock,
        Record,
        Response,
        Query,
        lambda: Stream,
        lambda: SimpleNamespace(close=print),
    ],
    ids=range(11),
)
def test_a_result_that_is_there_is_the_same_object(recording: Recording, tracker: Tracker, make: Any) -> None:
    value = make()
    assert called(tracker, value) is value
    assert only(recording)["output"] is not None


def test_an_argument_that_is_returned_is_the_same_object(recording: Recording, tracker: Tracker) -> None:
    class Chain(Stream):
        @tracker.observe(name="call")
        def configured(self) -> Any:
            return self

        __iter__ = tracker.observe(Stream.__iter__, name="iter")

    chain = Chain("ab")
    assert chain.configured() is chain
    assert list(chain) == ["a", "b"]
    stream = words(tracker, 1)
    assert tracker.observe(lambda **given: given["stream"], name="keyword")(stream=stream) is stream
    assert [step["name"] for step in recording.steps()] == ["call", "iter", "keyword"]


def test_a_handle_that_is_returned_is_the_same_object(recording: Recording, tracker: Tracker) -> None:
    step, run = tracker.start_step("step"), tracker.track_run("run")
    assert called(tracker, step) is step
    assert called(tracker, run) is run
    step.end()


def test_a_disabled_tracker_replaces_nothing() -> None:
    with recorded(enabled=False) as recording:
        stream = Stream("ab")
        assert called(recording.tracker, stream) is stream


def test_results_that_are_not_recorded_are_followed_all_the_same(recording: Recording, tracker: Tracker) -> None:
    observed = tracker.observe(lambda: Stream(["hunter2"], tracker), name="call", capture_output=False)
    assert list(observed()) == ["hunter2"]
    assert "output" not in only(recording)
    assert recording.parents() == {"inside": "call", "call": None}


# ---- tokens ----------------------------------------------------------------------------------------------------------


class Slots:
    __slots__ = ("usage",)

    def __init__(self, usage: Any) -> None:
        self.usage = usage


COUNTS = {"input_tokens": 3, "output_tokens": 4}


@pytest.mark.parametrize(
    "result",
    [
        {"usage": COUNTS},
        SimpleNamespace(usage=SimpleNamespace(**COUNTS)),
        Slots(COUNTS),
        SimpleNamespace(usage_metadata=COUNTS),
        {"usageMetadata": COUNTS},
        collections.OrderedDict(usage=COUNTS),
    ],
    ids=range(6),
)
def test_token_counts_are_taken_from_a_result_that_carries_them(
    recording: Recording, tracker: Tracker, result: Any
) -> None:
    async def ask() -> Any:
        return result

    called(tracker, result)
    asyncio.run(awaited(tracker.observe(ask)()))
    asyncio.run(awaited(called(tracker, ask())))
    assert [step["usage"] for step in recording.steps()] == [COUNTS] * 3


def test_token_counts_of_pydantic_models_are_found(recording: Recording, tracker: Tracker) -> None:
    from pydantic import BaseModel

    class Usage(BaseModel):
        prompt_tokens: int = 5
        completion_tokens: int = 6

    class Answer(BaseModel):
        usage: Usage = Usage()

    class Open(BaseModel, extra="allow"):
        text: str = "a"

    called(tracker, Answer())
    called(tracker, Open(usage=Usage()))  # type: ignore[call-arg]
    assert [step["usage"] for step in recording.steps()] == [{"prompt_tokens": 5, "completion_tokens": 6}] * 2


@pytest.mark.parametrize(
    "result",
    [
        {"usage": "usage: ask QUESTION"},
        {"usage": None},
        {"usage": {"disk": 4}},
        {"other": 1},
        SimpleNamespace(usage=print),
        "usage",
        [COUNTS],
    ],
    ids=range(7),
)
def test_what_is_no_token_count_is_not_taken_for_one(recording: Recording, tracker: Tracker, result: Any) -> None:
    called(tracker, result)
    assert "usage" not in only(recording)


def test_no_code_of_a_result_runs_to_find_token_counts(recording: Recording, tracker: Tracker) -> None:
    class Lazy:
        @property
        def usage(self) -> Any:
            raise AssertionError("a query ran")

        def __getattr__(self, name: str) -> Any:
            raise AssertionError("a query ran")

        def __repr__(self) -> str:
            return "Lazy()"

    called(tracker, Lazy())
    assert only(recording)["output"] == "Lazy()"


def test_token_counts_of_a_stream_are_those_of_its_items_together(recording: Recording, tracker: Tracker) -> None:
    list(called(tracker, Stream([{"text": "a", "usage": None}, {"text": "", "usage": COUNTS}])))
    started = SimpleNamespace(message=SimpleNamespace(usage={"input_tokens": 3, "output_tokens": 1}))
    ended = SimpleNamespace(usage=SimpleNamespace(input_tokens=None, output_tokens=4))
    list(called(tracker, Stream([started, ended])))
    list(called(tracker, Stream([SimpleNamespace(response={"usage": COUNTS})])))
    assert [step["usage"] for step in recording.steps()] == [COUNTS] * 3


def test_a_function_may_find_the_token_counts_and_they_may_be_left_out(recording: Recording, tracker: Tracker) -> None:
    answer = {"usage": COUNTS, "billed": 9}
    tracker.observe(lambda: answer, capture_usage=lambda result: {"total_tokens": result["billed"]})()
    list(tracker.observe(lambda: iter([answer]), capture_usage=lambda item: {"total_tokens": item["billed"]})())
    tracker.observe(lambda: answer, capture_usage=False)()
    tracker.observe(lambda: answer, capture_usage=lambda result: result["missing"])()
    assert [step.get("usage") for step in recording.steps()] == [{"total_tokens": 9}] * 2 + [None] * 2
    assert recording.invalid_calls == {"wrong_call": 1}


def test_the_token_counts_of_an_outermost_call_are_those_of_its_run(recording: Recording) -> None:
    called(recording.tracker, {"usage": COUNTS})
    assert recording.end()["usage"] == COUNTS
