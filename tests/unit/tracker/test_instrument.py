"""`instrument("threads")`: threads, pools, timers and greenlets inherit the run and step that are current."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest

from agentscope import AgentScopeError, Tracker
from tests.support.recording import Recording, current_scope, recorded


@pytest.fixture
def recording() -> Iterator[Recording]:
    with recorded() as recording:
        with recording.tracker.track_run("another"), recording.tracker.track_run("overlaps"):
            pass  # no run is guessed from here on
        yield recording


@pytest.fixture
def tracker(recording: Recording) -> Iterator[Tracker]:
    undo = recording.tracker.instrument("threads")
    yield recording.tracker
    undo()


class Worker(threading.Thread):
    """A thread with a method of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self._call = call

    def run(self) -> None:
        self._call()


def joined(thread: threading.Thread) -> None:
    thread.start()
    thread.join(60)


def executed(call: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()


def mapped(call: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        list(pool.map(lambda _: call(), [1]))


def in_loop(call: Callable[[], Any]) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, call)

    asyncio.run(main())


def pooled(method: str, *items: Any, name: str = "") -> Callable[[Callable[[], Any]], None]:
    def run(call: Callable[[], Any]) -> None:
        with ThreadPool(1) as pool:

            def function(*_: Any) -> Any:
                return call()

            result = getattr(pool, method)(**{name: function}) if name else getattr(pool, method)(function, *items)
            if hasattr(result, "get"):
                result.get(60)
            list(result) if hasattr(result, "__next__") else None

    return run


STARTS: dict[str, Callable[[Callable[[], Any]], None]] = {
    "a thread": lambda call: joined(threading.Thread(target=call)),
    "a thread's subclass": lambda call: joined(Worker(call)),
    "a daemon": lambda call: joined(threading.Thread(target=call, daemon=True)),
    "a timer": lambda call: joined(threading.Timer(0, call)),
    "an executor": executed,
    "an executor's map": mapped,
    "the executor of a loop": in_loop,
    "apply": pooled("apply"),
    "apply_async": pooled("apply_async"),
    "apply_async by name": pooled("apply_async", name="func"),
    "map": pooled("map", [1]),
    "map_async": pooled("map_async", [1]),
    "starmap": pooled("starmap", [(1,)]),
    "imap": pooled("imap", [1]),
    "imap_unordered": pooled("imap_unordered", [1]),
}


@pytest.mark.parametrize("start", STARTS)
def test_what_is_started_inside_a_step_is_below_it(recording: Recording, tracker: Tracker, start: str) -> None:
    def work() -> None:
        with tracker.track_step_context("block"):
            tracker.track_step("inside")

    with tracker.track_run("a"), tracker.track_step_context("parent"):
        STARTS[start](work)
        tracker.track_step("afterwards")
    assert recording.parents() == {"parent": None, "block": "parent", "inside": "block", "afterwards": "parent"}
    assert recording.invalid_calls == {}


@pytest.mark.parametrize("start", STARTS)
def test_what_is_started_outside_of_a_run_inherits_none(recording: Recording, tracker: Tracker, start: str) -> None:
    STARTS[start](lambda: tracker.track_step("lost"))
    assert recording.steps() == []
    assert recording.invalid_calls == {"no_run": 1}


@pytest.mark.parametrize("start", STARTS)
def test_after_undoing_nothing_is_inherited(recording: Recording, start: str) -> None:
    tracker = recording.tracker
    tracker.instrument("threads")()
    with tracker.track_run("a"):
        STARTS[start](lambda: tracker.track_step("lost"))
    assert recording.steps() == []
    assert recording.invalid_calls == {"ambiguous_run": 1}


@pytest.mark.parametrize("make", [lambda: ThreadPoolExecutor(1), lambda: ThreadPool(1)], ids=["executor", "pool"])
def test_the_threads_of_a_pool_inherit_from_each_task_and_not_from_who_made_them(
    recording: Recording, tracker: Tracker, make: Any
) -> None:
    def submit(name: str) -> Any:
        if isinstance(pool, ThreadPoolExecutor):
            return pool.submit(tracker.track_step, name).result(60)
        return pool.apply(tracker.track_step, (name,))

    runs = {}
    with tracker.track_run("a") as runs["a"]:
        pool = make()
        submit("of a")
    with pool:
        with (
            tracker.track_run("b") as runs["b"],
            tracker.track_run("c"),
            tracker.track_step_context("x", run_id=runs["b"]),
        ):
            submit("of b")
        assert submit("of nobody") is False
    found = {step["name"]: step["run_id"] for step in recording.steps()}
    assert (found["of a"], found["of b"]) == (runs["a"], runs["b"])
    assert "of nobody" not in found


def test_the_items_of_a_pool_are_made_in_the_context_of_their_maker(recording: Recording, tracker: Tracker) -> None:
    with ThreadPool(1) as pool, tracker.track_run("a"):
        assert pool.map(bool, (tracker.track_step(str(number)) for number in range(3))) == [True] * 3


def test_an_inherited_run_counts_while_it_is_open(recording: Recording, tracker: Tracker) -> None:
    go = threading.Event()
    found = []
    with tracker.track_run("a"):
        thread = threading.Thread(target=lambda: (go.wait(60), found.append(tracker.track_step("late"))))
        thread.start()
    with tracker.track_run("b"):
        go.set()
        thread.join(60)
    assert found == [False]
    assert recording.invalid_calls == {"run_ended": 1}


def test_the_patches_are_removed_with_the_last_user_and_undone_once(recording: Recording) -> None:
    before = {owner: dict(vars(owner)) for owner in (threading.Thread, ThreadPoolExecutor, ThreadPool)}
    first, second = recording.tracker.instrument("threads"), recording.tracker.instrument("threads")
    assert threading.Thread.start is not before[threading.Thread]["start"]
    first()
    first()
    assert threading.Thread.start is not before[threading.Thread]["start"]
    second()
    assert {owner: dict(vars(owner)) for owner in before} == before


def test_a_patch_over_ours_stays_and_ours_passes_calls_on(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = recording.tracker
    original = threading.Thread.start
    undo = tracker.instrument("threads")
    ours = threading.Thread.start

    def theirs(thread: threading.Thread) -> None:
        ours(thread)

    monkeypatch.setattr(threading.Thread, "start", theirs)
    undo()
    assert threading.Thread.start is theirs
    with tracker.track_run("a"):
        joined(threading.Thread(target=lambda: tracker.track_step("lost")))
    monkeypatch.setattr(threading.Thread, "start", original)
    assert recording.steps() == []


def test_a_thread_does_not_keep_itself_alive(tracker: Tracker) -> None:
    with tracker.track_run("a"):
        thread = Worker(lambda: None)
        joined(thread)
    gone = weakref.ref(thread)
    gc.disable()
    try:
        del thread
        assert gone() is None
    finally:
        gc.enable()


def test_a_thread_that_cannot_start_raises_as_ever(tracker: Tracker) -> None:
    with tracker.track_run("a"):
        thread = threading.Thread(target=lambda: None)
        joined(thread)
        with pytest.raises(RuntimeError, match="once"):
            thread.start()
        assert "run" not in vars(thread)
        with ThreadPoolExecutor(1) as pool, pytest.raises(TypeError):
            pool.submit()  # type: ignore[call-arg]


def test_the_signatures_stay(tracker: Tracker) -> None:
    assert list(inspect.signature(ThreadPoolExecutor.submit).parameters)[:2] == ["self", "fn"]
    assert threading.Thread.start.__name__ == "start"


def test_anything_else_is_an_invalid_call(recording: Recording) -> None:
    undo = recording.tracker.instrument("openai")  # type: ignore[arg-type]
    undo()
    assert recording.invalid_calls == {"not_instrumentable": 1}
    with recorded(fail_silently=False) as loud, pytest.raises(AgentScopeError, match="threads"):
        loud.tracker.instrument("openai")  # type: ignore[arg-type]


# ---- worker threads of anyio, and greenlets ------------------------------------------------------------------------


def test_a_run_that_a_worker_thread_of_anyio_opens_is_current_in_its_task_until_it_is_closed_there(
    recording: Recording, tracker: Tracker
) -> None:
    to_thread = pytest.importorskip("anyio.to_thread")

    async def request(number: int) -> None:
        run = tracker.track_run(f"run {number}")
        await to_thread.run_sync(run.__enter__)
        await asyncio.sleep(0)
        with tracker.track_step_context(f"block {number}"):
            assert await to_thread.run_sync(tracker.track_step, f"inside {number}")
        assert tracker.current_run_id == run.id
        await to_thread.run_sync(run.__exit__, None, None, None)
        assert tracker.current_run_id is None

    async def main() -> None:
        await asyncio.gather(*(request(number) for number in range(4)))
        assert current_scope() is None

    asyncio.run(main())
    names = {event["run_id"]: event["agent_name"] for event in recording.events("run.start")}
    for step in recording.steps():
        assert names[step["run_id"]].split()[1] == step["name"].split()[1]
    assert {name: parent for name, parent in recording.parents().items() if parent} == {
        f"inside {number}": f"block {number}" for number in range(4)
    }
    assert recording.invalid_calls == {}


def test_what_a_worker_thread_of_anyio_raises_goes_on(tracker: Tracker) -> None:
    to_thread = pytest.importorskip("anyio.to_thread")

    def fail() -> None:
        raise LookupError("mine")

    async def main() -> None:
        with pytest.raises(LookupError, match="mine"):
            await to_thread.run_sync(fail)
        with pytest.raises(TypeError):
            await to_thread.run_sync()

    asyncio.run(main())
