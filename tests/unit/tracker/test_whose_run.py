"""Steps and ends that come late, from other threads, tasks and generators: none lands in a run that is not its own."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import inspect
import pickle
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from agentscope import Tracker
from agentscope.protocols.trace_context import headers_of
from tests.support.recording import Recording, current_scope

T = TypeVar("T")


def in_thread(call: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.fixture
def tracker(recording: Recording) -> Tracker:
    return recording.tracker


def runs_by_step(recording: Recording) -> dict[str, str]:
    """The name of the run of each step."""
    names = {event["run_id"]: event["agent_name"] for event in recording.events("run.start")}
    return {step["name"]: names[step["run_id"]] for step in recording.steps()}


class Late(threading.Thread):
    """A thread that waits before it works, and gives its result."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self._call = call
        self._go = threading.Event()
        self.start()

    def run(self) -> None:
        self._go.wait(60)
        self.result = self._call()

    def finish(self) -> Any:
        self._go.set()
        self.join(60)
        return self.result


# ---- late threads and tasks ----------------------------------------------------------------------------------------


def request(tracker: Tracker, name: str, within: Callable[[], Any]) -> Any:
    with tracker.track_run(name):
        return within()


@pytest.mark.parametrize("served", [in_thread, lambda call: call()], ids=["in threads", "one after the other"])
def test_a_late_thread_of_a_run_writes_nothing_into_the_next_one(
    recording: Recording, tracker: Tracker, served: Any
) -> None:
    late = served(lambda: request(tracker, "A", lambda: Late(lambda: tracker.track_step("late"))))
    assert served(lambda: request(tracker, "B", late.finish)) is False
    assert recording.steps() == []
    assert recording.invalid_calls == {"ambiguous_run": 1}


def test_a_thread_that_belongs_to_no_request_writes_into_none(recording: Recording, tracker: Tracker) -> None:
    @tracker.observe
    def cron() -> str:
        return "done"

    in_thread(lambda: request(tracker, "A", lambda: None))
    in_thread(lambda: request(tracker, "B", lambda: in_thread(cron)))
    assert recording.steps() == []
    assert len(recording.events("run.start")) == 3


def late_task(tracker: Tracker, call: Callable[[], Any]) -> Any:
    """The result of a call by a task of run A, while another task has its run B open."""

    async def main() -> Any:
        go = asyncio.Event()

        async def late() -> Any:
            await go.wait()
            return call()

        async def of_b() -> Any:
            with tracker.track_run("B") as run:
                run.output = "of B"
                go.set()
                return await task

        run = tracker.start_run("A")
        with tracker.track_step_context("spawns"):
            task = asyncio.create_task(late())
        tracker.end_run(run_id=run)
        return await asyncio.create_task(of_b())

    return asyncio.run(main())


def test_a_late_task_of_a_run_writes_nothing_into_another(recording: Recording, tracker: Tracker) -> None:
    assert late_task(tracker, lambda: tracker.track_step("late")) is False
    assert late_task(tracker, lambda: tracker.current_run_id) is None
    assert runs_by_step(recording) == {"spawns": "A"}
    assert recording.invalid_calls == {"run_ended": 1}


def test_the_block_of_a_late_task_is_not_recorded(recording: Recording, tracker: Tracker) -> None:
    def block() -> Any:
        with tracker.track_step_context("late") as step:
            tracker.track_step("inside")
            return step.run_id

    assert late_task(tracker, block) is None
    assert runs_by_step(recording) == {"spawns": "A"}
    assert recording.invalid_calls == {"run_ended": 2}


def test_an_observed_function_of_a_late_task_is_a_run_of_its_own(recording: Recording, tracker: Tracker) -> None:
    late_task(tracker, tracker.observe(name="late")(lambda: tracker.track_step("inside")))
    assert runs_by_step(recording) == {"spawns": "A", "inside": "late"}


def test_a_late_end_ends_no_other_run(recording: Recording, tracker: Tracker) -> None:
    assert late_task(tracker, lambda: tracker.end_run(error="of A")) is False
    ends = {end["run_id"]: end for end in recording.events("run.end")}
    b = next(event["run_id"] for event in recording.events("run.start") if event["agent_name"] == "B")
    assert (ends[b]["status"], ends[b]["output"]) == ("completed", "of B")
    assert recording.invalid_calls == {"run_ended": 1}


def test_a_second_end_inside_a_block_does_not_end_the_run_around_it(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("outer") as outer, tracker.track_run("inner") as inner:
        assert tracker.end_run()
        assert not tracker.end_run(error="again")
        assert tracker.track_step("in outer")
    assert runs_by_step(recording) == {"in outer": "outer"}
    assert [(end["run_id"], end["status"]) for end in recording.events("run.end")] == [
        (inner.id, "completed"),
        (outer.id, "completed"),
    ]
    assert recording.invalid_calls == {"run_ended": 1}


def test_an_end_without_an_id_never_guesses(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("only"):
        assert in_thread(lambda: tracker.track_step("guessed"))
        assert in_thread(lambda: tracker.end_run(error="of nobody")) is False
    assert recording.end()["status"] == "completed"
    assert recording.invalid_calls == {"ambiguous_run": 1}


def test_the_cells_of_a_notebook_share_their_run_though_each_is_a_task(
    recording: Recording, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = SimpleNamespace(IPKernelApp=SimpleNamespace(initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", kernel)

    async def cell(call: Callable[[], T]) -> T:
        return call()

    async def main() -> None:
        for number in range(3):
            await asyncio.create_task(cell(lambda: tracker.start_run("cells")))
            assert await asyncio.create_task(cell(lambda: tracker.track_step("step")))
            assert await asyncio.create_task(cell(lambda: in_thread(lambda: tracker.track_step("in thread"))))
            assert not await asyncio.create_task(cell(lambda: in_thread(tracker.end_run)))
            assert await asyncio.create_task(cell(lambda: tracker.end_run(output=number)))

    asyncio.run(main())
    assert [end["output"] for end in recording.events("run.end")] == [0, 1, 2]
    assert len(recording.steps()) == 6
    assert recording.invalid_calls == {"ambiguous_run": 3}


def test_only_the_run_of_the_context_goes_into_headers(tracker: Tracker) -> None:
    assert late_task(tracker, lambda: tracker.inject({})) == {}
    with tracker.track_run("only"):
        assert in_thread(lambda: tracker.inject({})) == {}
        assert tracker.inject({})


def test_a_late_task_inside_an_open_run_stays_below_the_step_that_made_it(
    recording: Recording, tracker: Tracker
) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def late() -> None:
            await go.wait()
            tracker.track_step("late")

        with tracker.track_run("A"):
            with tracker.track_step_context("spawns"):
                task = asyncio.create_task(late())
            go.set()
            await task

    asyncio.run(main())
    assert recording.parents() == {"spawns": None, "late": "spawns"}


def test_a_run_that_is_named_takes_late_steps_and_what_is_inside_them(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("A") as run:
        pass
    with tracker.track_run("B"), tracker.track_step_context("late", run_id=run):
        tracker.track_step("inside")
    assert runs_by_step(recording) == {"late": "A", "inside": "A"}
    assert recording.parents() == {"late": None, "inside": "late"}


def test_the_run_of_another_process_counts_though_its_request_is_over(recording: Recording, tracker: Tracker) -> None:
    with tracker.extract(headers_of("a" * 32, "b" * 16, True)) as remote:
        late = contextvars.copy_context()
    assert late.run(tracker.track_step, "late")
    assert recording.step()["run_id"] == remote.run_id


# ---- abandoned generators and blocks left elsewhere ----------------------------------------------------------------


def test_a_block_in_an_abandoned_async_generator_does_not_outlive_its_run(
    recording: Recording, tracker: Tracker
) -> None:
    async def stream() -> AsyncGenerator[int, None]:
        with tracker.track_step_context("stream"):
            yield 1
            yield 2

    @tracker.observe(name="B")
    async def b() -> None:
        tracker.track_step("in B")

    async def main() -> None:
        async with tracker.track_run("outer"):
            async with tracker.track_run("A"):
                generator = stream()
                async for _ in generator:
                    break
            tracker.track_step("in outer")
        assert tracker.current_run_id is None
        await b()
        async with tracker.track_run("C"):
            tracker.track_step("in C")
        del generator
        gc.collect()
        await asyncio.sleep(0)
        assert tracker.current_run_id is None

    asyncio.run(main())
    runs = runs_by_step(recording)
    del runs["stream"]
    assert runs == {"in outer": "outer", "in B": "B", "in C": "C"}
    assert recording.invalid_calls == {}


def test_an_end_without_an_id_finds_the_run_below_an_abandoned_generator(
    recording: Recording, tracker: Tracker
) -> None:
    def stream() -> Generator[int, None, None]:
        with tracker.track_step_context("stream"):
            yield 1

    outer = tracker.start_run("outer")
    with tracker.track_run("A"):
        abandoned = stream()
        next(abandoned)
    assert tracker.end_run()
    assert recording.events("run.end")[-1]["run_id"] == outer
    abandoned.close()
    assert current_scope() is None


def test_a_run_that_is_opened_and_closed_by_different_threads_leaves_nothing(
    recording: Recording, tracker: Tracker
) -> None:
    with ThreadPoolExecutor(1) as opens, ThreadPoolExecutor(1) as closes:
        for number in range(20):
            run = tracker.track_run(f"run {number}")
            step = tracker.track_step_context("step")
            opens.submit(run.__enter__).result()
            opens.submit(step.__enter__).result()
            closes.submit(step.__exit__, None, None, None).result()
            closes.submit(run.__exit__, None, None, None).result()
            assert opens.submit(tracker.track_step, "afterwards").result() is False
        assert len(recording.events("run.end")) == len(recording.steps()) == 20

        def kept() -> int:
            number, scope = 0, current_scope()
            while scope is not None:
                number, scope = number + 1, scope.outer  # type: ignore[attr-defined]
            return number

        assert opens.submit(kept).result() <= 2


# ---- functions that carry their run --------------------------------------------------------------------------------


def gathered(generator: Any) -> list[Any]:
    async def collect() -> list[Any]:
        return [item async for item in generator]

    return asyncio.run(collect()) if hasattr(generator, "__anext__") else list(generator)


def stream(tracker: Tracker) -> Callable[[], Iterator[bool]]:
    def produce() -> Iterator[bool]:
        with tracker.track_step_context("block"):
            yield tracker.track_step("first")
            yield tracker.track_step("second")

    return produce


def async_stream(tracker: Tracker) -> Callable[[], AsyncIterator[bool]]:
    async def produce() -> AsyncIterator[bool]:
        with tracker.track_step_context("block"):
            yield tracker.track_step("first")
            await asyncio.sleep(0)
            yield tracker.track_step("second")

    return produce


@pytest.mark.parametrize("make", [stream, async_stream])
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: lambda: f()], ids=["function", "returned"])
@pytest.mark.parametrize("late", [False, True])
def test_a_generator_carries_its_context_into_a_thread(
    recording: Recording, tracker: Tracker, make: Any, wrap: Any, late: bool
) -> None:
    def consume() -> None:
        assert in_thread(lambda: gathered(carried())) == [True, True]

    with tracker.track_run("other"), tracker.track_run("own"), tracker.track_step_context("parent"):
        carried = tracker.propagate(wrap(make(tracker)))
        if not late:
            consume()
    if late:
        consume()
    assert set(runs_by_step(recording).values()) == {"own"}
    assert recording.parents() == {"parent": None, "block": "parent", "first": "block", "second": "block"}


def test_the_consumer_of_a_carried_generator_keeps_its_own_run(recording: Recording, tracker: Tracker) -> None:
    with tracker.track_run("own"):
        generator = tracker.propagate(stream(tracker))()
    with tracker.track_run("consumer"):
        for _ in generator:
            tracker.track_step("consumed")
    assert runs_by_step(recording)["consumed"] == "consumer"


def test_what_is_sent_and_thrown_into_a_carried_generator_arrives(tracker: Tracker) -> None:
    def produce() -> Generator[str, str, str]:
        try:
            return "sent " + (yield "ready")
        except LookupError as error:
            yield f"caught {error}"
            return "closed"

    async def produce_async() -> AsyncGenerator[str, str]:
        try:
            yield "sent " + (yield "ready")
        except LookupError as error:
            yield f"caught {error}"

    with tracker.track_run("own"):
        carried, carried_async = tracker.propagate(produce), tracker.propagate(produce_async)
    sync = carried()
    assert next(sync) == "ready"
    with pytest.raises(StopIteration) as stopped:
        sync.send("this")
    assert stopped.value.value == "sent this"
    sync = carried()
    next(sync)
    assert sync.throw(LookupError("mine")) == "caught mine"
    sync.close()

    async def drive() -> None:
        one, other = carried_async(), carried_async()
        assert [await one.__anext__(), await one.asend("this")] == ["ready", "sent this"]
        await one.aclose()
        assert await other.__anext__() == "ready"
        assert await other.athrow(LookupError("mine")) == "caught mine"
        await other.aclose()

    asyncio.run(drive())
    assert current_scope() is None


def test_a_coroutine_that_a_plain_function_returns_carries_its_context(recording: Recording, tracker: Tracker) -> None:
    async def work() -> bool:
        return tracker.track_step("child")

    with tracker.track_run("other"), tracker.track_run("own"):
        carried = tracker.propagate(lambda: work())
        assert in_thread(lambda: asyncio.run(carried()))
    assert runs_by_step(recording) == {"child": "own"}


def test_a_function_carried_at_import_time_has_the_run_of_its_caller(recording: Recording, tracker: Tracker) -> None:
    @tracker.propagate
    def work() -> bool:
        return tracker.track_step("child")

    with tracker.track_run("other"), tracker.track_run("own"):
        assert work()
    assert runs_by_step(recording) == {"child": "own"}


def test_a_step_in_a_greenlet_belongs_to_the_run_it_was_made_in(recording: Recording, tracker: Tracker) -> None:
    greenlet = pytest.importorskip("greenlet")

    def work() -> None:
        with tracker.track_step_context("block"):
            tracker.track_step("inside")

    with tracker.track_run("other"), tracker.track_run("own"), tracker.track_step_context("parent"):
        greenlet.greenlet(work).switch()
        tracker.track_step("afterwards")
    assert recording.parents() == {"parent": None, "block": "parent", "inside": "block", "afterwards": "parent"}


# ---- observed streams ----------------------------------------------------------------------------------------------


def numbers(tracker: Tracker) -> Callable[[], Iterator[int]]:
    @tracker.observe(name="stream")
    def stream() -> Iterator[int]:
        tracker.track_step("first")
        yield 1
        with tracker.track_step_context("block"):
            tracker.track_step("second")
        yield 2

    return stream


def async_numbers(tracker: Tracker) -> Callable[[], AsyncIterator[int]]:
    @tracker.observe(name="stream")
    async def stream() -> AsyncIterator[int]:
        tracker.track_step("first")
        yield 1
        with tracker.track_step_context("block"):
            tracker.track_step("second")
        yield 2

    return stream


def returned(make: Any) -> Any:
    def wrapped(tracker: Tracker) -> Any:
        return tracker.observe(name="stream")(lambda: make(tracker).__wrapped__())

    return wrapped


@pytest.mark.parametrize("make", [numbers, async_numbers, returned(numbers), returned(async_numbers)])
@pytest.mark.parametrize("within", [False, True], ids=["in no run", "in another run"])
def test_a_stream_made_in_a_run_and_read_after_it_belongs_to_that_run(
    recording: Recording, tracker: Tracker, make: Any, within: bool
) -> None:
    stream = make(tracker)
    with tracker.track_run("own"), tracker.track_step_context("parent"):
        made = stream()
    if within:
        with tracker.track_run("another"):
            assert gathered(made) == [1, 2]
            tracker.track_step("afterwards")
        assert runs_by_step(recording).pop("afterwards") == "another"
    else:
        assert gathered(made) == [1, 2]
    parents = recording.parents()
    assert parents.pop("afterwards", None) is None
    assert parents == {"parent": None, "stream": "parent", "first": "stream", "block": "stream", "second": "block"}
    assert {run for name, run in runs_by_step(recording).items() if name != "afterwards"} == {"own"}
    assert recording.invalid_calls == {}
    assert current_scope() is None


@pytest.mark.parametrize("make", [numbers, async_numbers])
def test_a_stream_made_in_no_run_belongs_to_the_run_it_is_read_in(
    recording: Recording, tracker: Tracker, make: Any
) -> None:
    made = make(tracker)()
    with tracker.track_run("reader"):
        gathered(made)
    assert set(runs_by_step(recording).values()) == {"reader"}


def test_a_task_made_in_a_stream_stays_below_it_after_its_end(recording: Recording, tracker: Tracker) -> None:
    go = asyncio.Event()

    async def late() -> None:
        await go.wait()
        tracker.track_step("late")

    @tracker.observe(name="stream")
    async def stream() -> AsyncIterator[asyncio.Task[None]]:
        yield asyncio.create_task(late())

    async def main() -> None:
        with tracker.track_run("own"):
            async for task in stream():
                pass
            go.set()
            await task

    asyncio.run(main())
    assert recording.parents() == {"stream": None, "late": "stream"}


def module_level() -> Iterator[int]:
    yield 1


class Streams:
    """A class with a generator among its methods."""

    def items(self, number: int = 3) -> Iterator[int]:
        """Its documentation."""
        yield number


def test_an_observed_generator_function_is_used_as_the_function(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed = tracker.observe(module_level)
    monkeypatch.setitem(globals(), "module_level", observed)
    assert pickle.loads(pickle.dumps(observed)) is observed
    assert copy.deepcopy(observed) is observed
    method = tracker.observe(Streams.items)
    monkeypatch.setattr(Streams, "items", method)
    for function in (observed, method, Streams().items):
        assert inspect.isgeneratorfunction(function)
        assert callable(function)
    assert list(Streams().items()) == [3]
    assert list(Streams.items(Streams(), number=4)) == [4]
    assert (method.__name__, method.__doc__) == ("items", "Its documentation.")
    assert str(inspect.signature(Streams().items)) == "(number: 'int' = 3) -> 'Iterator[int]'"
    assert next(observed()) == 1
    assert observed().__name__ == "module_level"
