"""The current run and step: scopes, the runs of a destination, ids and sampling."""

from __future__ import annotations

import asyncio
import contextvars
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.protocols.ids import new_id, sampled
from agentscope.tracker import context
from agentscope.tracker.context import (
    STARTED,
    Place,
    Runs,
    RunState,
    Scope,
    current,
    leave,
    leave_run,
    make_current,
    renewed,
    restored,
    runs_of,
    switch,
)


@pytest.fixture(autouse=True)
def _nothing_is_current() -> Iterator[None]:
    before = switch(None)
    yield
    switch(before)


T = TypeVar("T")


def in_thread(call: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.fixture
def runs() -> Runs:
    return Runs()


def started(runs: Runs, run_id: str) -> Scope:
    """Open a scope like `start_run`."""
    runs.opened(run_id)
    return runs.enter(run_id, sort=STARTED)


def begun(runs: Runs, run_id: str) -> Scope:
    """Open a scope like `track_run`."""
    runs.opened(run_id)
    return runs.enter(run_id)


def chain() -> list[tuple[str, str | None]]:
    """The scopes that count in this context, the innermost first."""
    links, scope = [], current()
    while scope is not None:
        if not scope.left and not scope.run.ended:
            links.append((scope.run_id, scope.step_id))
        scope = scope.outer
    return links


def length() -> int:
    """The number of scopes that this context keeps alive."""
    number, scope = 0, current()
    while scope is not None:
        number, scope = number + 1, scope.outer
    return number


def test_nothing_is_current_at_first(runs: Runs) -> None:
    assert runs.place() is None
    assert runs.count() == 0


def test_the_innermost_scope_is_the_place(runs: Runs) -> None:
    run = runs.enter("run")
    assert runs.place() == Place("run", None)
    step = runs.enter("run", "step")
    assert runs.place() == Place("run", "step")
    leave(step)
    assert runs.place() == Place("run", None)
    leave(run)
    assert runs.place() is None


def test_a_scope_of_another_destination_does_not_count(runs: Runs) -> None:
    runs.enter("run", "step")
    Runs().enter("other", "other step")
    assert runs.place() == Place("run", "step")
    assert Runs().place() is None


def test_scopes_may_be_left_in_any_order(runs: Runs) -> None:
    outer, middle, inner = runs.enter("run"), runs.enter("run", "a"), runs.enter("run", "b")
    leave(middle)
    assert chain() == [("run", "b"), ("run", None)]
    leave(inner)
    assert chain() == [("run", None)]
    leave(inner)
    leave(outer)
    leave(outer)
    assert chain() == []


def test_blocks_inside_one_that_is_left_stay_in_order(runs: Runs) -> None:
    outer = runs.enter("run")
    runs.enter("run", "a")
    inner = runs.enter("run", "b")
    leave(outer)
    assert chain() == [("run", "b"), ("run", "a")]
    leave(inner)
    assert chain() == [("run", "a")]


def test_leaving_in_another_context_leaves_that_context_as_it_was(runs: Runs) -> None:
    scope = contextvars.Context().run(runs.enter, "elsewhere")
    leave(scope)
    assert chain() == []
    runs.enter("here")
    leave(scope)
    assert chain() == [("here", None)]


@given(st.data())
def test_scopes_left_in_any_order_leave_the_others_in_order(data: st.DataObject) -> None:
    switch(None)
    runs = Runs()
    entered = [runs.enter("run", str(number)) for number in range(data.draw(st.integers(1, 8)))]
    left = list(entered)
    for scope in data.draw(st.permutations(entered)):
        leave(scope)
        left.remove(scope)
        assert [step for _, step in reversed(chain())] == [scope.step_id for scope in left]


def test_a_started_run_counts_until_it_ends(runs: Runs) -> None:
    started(runs, "run")
    assert runs.place() == Place("run", None)
    runs.ended("run")
    assert runs.place() is None
    assert runs.has_ended("run")
    assert not runs.is_open("run")


def test_a_block_counts_only_while_its_run_is_open(runs: Runs) -> None:
    begun(runs, "outer")
    begun(runs, "run")
    runs.enter("run", "step")
    runs.ended("run")
    assert runs.place() == Place("outer", None)
    runs.ended("outer")
    assert runs.place() is None
    assert runs.innermost() is None


def test_a_context_whose_own_run_has_ended_does_not_use_the_sole_open_run(runs: Runs) -> None:
    begun(runs, "own")
    runs.ended("own")
    runs.opened("another")
    assert runs.sole() == "another"
    assert runs.place() is None
    assert contextvars.Context().run(runs.place) == Place("another", None)


def test_a_block_entered_by_the_id_of_a_run_that_has_ended_counts_until_it_is_left(runs: Runs) -> None:
    runs.opened("run")
    runs.ended("run")
    late = runs.enter("run", "late step")
    assert runs.place() == Place("run", "late step")
    leave(late)
    assert runs.place() is None


def test_a_block_left_in_another_context_no_longer_counts_in_its_own(runs: Runs) -> None:
    begun(runs, "run")
    step = runs.enter("run", "step")
    contextvars.copy_context().run(leave, step)
    assert runs.place() == Place("run", None)
    later = runs.enter("run", "later")
    contextvars.Context().run(leave, later)
    assert runs.place() == Place("run", None)


def test_a_block_left_where_it_was_entered_stays_the_parent_in_contexts_copied_inside_it(runs: Runs) -> None:
    begun(runs, "run")
    step = runs.enter("run", "step")
    inside = contextvars.copy_context()
    leave(step)
    assert runs.place() == Place("run", None)
    assert inside.run(runs.place) == Place("run", "step")


def test_leaving_a_block_twice_changes_nothing(runs: Runs) -> None:
    begun(runs, "run")
    outer, inner = runs.enter("run", "outer"), runs.enter("run", "inner")
    leave(inner)
    leave(inner)
    assert runs.place() == Place("run", "outer")
    leave(outer)
    leave(inner)
    assert runs.place() == Place("run", None)


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_exception_of_a_signal_handler_goes_through_and_a_second_call_leaves(
    runs: Runs, kind: type[BaseException], elsewhere: bool
) -> None:
    def leave_interrupted(scope: Scope, line: int) -> bool:
        lines = 0

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal lines
            if frame.f_code is not leave.__code__:
                return None
            lines += event == "line"
            if lines == line and event == "line":
                raise kind("of the host")
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            leave(scope)
            return False
        except kind as error:
            assert str(error) == "of the host"  # noqa: PT017 - not every call raises
            return True
        finally:
            sys.settrace(before)
            leave(scope)

    interrupted = 0
    for line in range(1, 20):
        run = begun(runs, str(line))
        step = enter_step(runs, "step")
        where = contextvars.copy_context() if elsewhere else None
        if where is not None:
            interrupted += where.run(leave_interrupted, step, line)
        else:
            interrupted += leave_interrupted(step, line)
        assert runs.place() == Place(str(line), None)
        leave(run)
        runs.ended(str(line))
    assert interrupted >= 4


def enter_below(runs: Runs, step_id: str) -> Scope | None:
    """Enter a step as the handle of a block does, if a run is current."""
    outer = runs.surrounding(None)
    if outer is None:
        return None
    scope = Scope(outer.run, outer.run_id, step_id, outer)
    scope.token = make_current(scope)
    return scope


def enter_step(runs: Runs, step_id: str) -> Scope:
    return enter_below(runs, step_id) or runs.enter("run", step_id)


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("late", [0, 1, 3])
def test_blocks_that_are_left_elsewhere_do_not_pile_up(runs: Runs, copied: bool, late: int) -> None:
    begun(runs, "run")
    entered: list[Scope] = []
    for number in range(200):
        entered.append(enter_step(runs, str(number)))
        if len(entered) > late:
            (contextvars.copy_context() if copied else contextvars.Context()).run(leave, entered.pop(0))
        assert length() <= late + 3
    assert chain()[-1] == ("run", None)


def test_runs_whose_blocks_are_left_elsewhere_do_not_pile_up(runs: Runs) -> None:
    for number in range(200):
        scope = begun(runs, str(number))
        enter_step(runs, "left open")
        contextvars.Context().run(leave, scope)
        runs.ended(str(number))
        assert runs.place() is None
        assert length() <= 4


def test_what_a_block_left_open_inside_it_does_not_outlive_its_run(runs: Runs) -> None:
    outer = begun(runs, "outer")
    inner = begun(runs, "inner")
    runs.enter("inner", "of an abandoned generator")
    leave(inner)
    runs.ended("inner")
    assert runs.place() == Place("outer", None)
    run = runs.to_end()
    assert run is outer.run
    leave(outer)


def test_the_run_to_end_is_the_contexts_own_though_it_has_ended(runs: Runs) -> None:
    assert runs.to_end() is None
    begun(runs, "outer")
    inner = begun(runs, "inner")
    runs.enter("inner", "step")
    runs.ended("inner")
    assert runs.to_end() is inner.run


def test_a_carried_scope_counts_after_the_end_of_its_run(runs: Runs) -> None:
    begun(runs, "run")
    scope = runs.enter("run", "step")
    assert renewed(scope) is scope
    runs.ended("run")
    with restored(renewed(scope)):
        assert runs.place() == Place("run", "step")
    assert runs.place() is None
    assert renewed(None) is None


def test_a_run_started_inside_another_gives_way_to_it_when_it_ends(runs: Runs) -> None:
    started(runs, "outer")
    started(runs, "inner")
    assert runs.place() == Place("inner", None)
    runs.ended("inner")
    leave_run(runs, "inner")
    assert runs.place() == Place("outer", None)


def test_leaving_a_run_takes_only_what_was_started_for_it(runs: Runs) -> None:
    started(runs, "run")
    runs.opened("block")
    runs.enter("block")
    leave_run(runs, "block")
    leave_run(Runs(), "run")
    assert chain() == [("block", None), ("run", None)]
    leave_run(runs, "run")
    assert chain() == [("block", None)]


def test_runs_that_end_elsewhere_do_not_pile_up(runs: Runs) -> None:
    for number in range(1000):
        started(runs, str(number))
        contextvars.Context().run(leave_run, runs, str(number))
        runs.ended(str(number))
    assert length() == 1
    assert chain() == []


def test_runs_that_nobody_ends_do_not_pile_up_and_take_no_block_with_them(runs: Runs) -> None:
    runs.enter("block")
    for number in range(5000):
        started(runs, str(number))
        assert runs.place() == Place(str(number), None)
    assert len(chain()) <= context.MOST_STACKED + 2
    assert chain()[-1] == ("block", None)


class Lineage:
    """A context, and the runs that were entered in it or in the contexts that it is a copy of."""

    def __init__(self, context: contextvars.Context, runs: set[str]) -> None:
        self.context = context
        self.runs = runs


@given(st.data())
def test_no_order_of_calls_in_any_contexts_finds_a_run_that_is_not_its_own(data: st.DataObject) -> None:
    runs = Runs()
    lineages = [Lineage(contextvars.Context(), set()) for _ in range(2)]
    blocks: list[tuple[Scope, str | None]] = []  # with the run that ends with it
    opened: list[str] = []
    runs._is_concurrent = True  # no guesses
    for name in map(str, range(data.draw(st.integers(1, 40)))):
        here = data.draw(st.sampled_from(lineages))
        call = data.draw(st.sampled_from(("run", "start", "step", "late step", "copy", "leave", "end", "end by id")))
        if call in ("run", "start"):
            runs.opened(name)
            sort = STARTED if call == "start" else "block"
            scope = here.context.run(runs.enter, name, sort=sort)
            here.runs = {*here.runs, name}
            opened.append(name)
            if call == "run":
                blocks.append((scope, name))
        elif call == "step":
            scope_below = here.context.run(enter_below, runs, name)
            place = here.context.run(runs.place)
            if scope_below is not None:
                blocks.append((scope_below, None))
            elif place is not None:
                blocks.append((here.context.run(runs.enter, place.run_id, name), None))
        elif call == "late step" and opened:
            run_id = data.draw(st.sampled_from(opened))
            if run_id in here.runs:
                blocks.append((here.context.run(runs.enter, run_id, name), None))
        elif call == "copy":
            lineages.append(Lineage(here.context.copy(), here.runs))
        elif call == "leave" and blocks:
            scope, run_id_of_block = blocks.pop(data.draw(st.integers(0, len(blocks) - 1)))
            here.context.run(leave, scope)
            if run_id_of_block is not None:
                runs.ended(run_id_of_block)
        elif call in ("end", "end by id"):
            state = here.context.run(runs.to_end)
            run_id = state.own_id if state is not None else None
            if call == "end by id" and opened:
                run_id = data.draw(st.sampled_from(opened))
            if run_id is not None:
                runs.ended(run_id)
                here.context.run(leave_run, runs, run_id)
        for lineage in lineages:
            place, state = lineage.context.run(runs.place), lineage.context.run(runs.to_end)
            assert place is None or place.run_id in lineage.runs
            assert state is None or state.own_id in lineage.runs
            surrounding = lineage.context.run(runs.surrounding, None)
            assert surrounding is None or (surrounding.run_id, surrounding.step_id) == place


def test_an_open_run_knows_when_it_began(runs: Runs) -> None:
    runs.opened("run", 5)
    assert (runs.started_at("run"), runs.started_at("unknown")) == (5, 0)
    runs.ended("run")
    assert runs.started_at("run") == 0


def test_runs_that_nobody_ends_are_forgotten_the_oldest_first(runs: Runs) -> None:
    for number in range(context.MOST_OPEN_RUNS + 1):
        runs.opened(str(number))
    assert not runs.is_open("0")
    assert not runs.has_ended("0"), "it may well go on: a block of it still has to tell of its end"
    assert runs.is_open(str(context.MOST_OPEN_RUNS))
    assert context.MOST_OPEN_RUNS * 0.9 <= runs.count() <= context.MOST_OPEN_RUNS


def test_only_the_last_ends_are_remembered(runs: Runs) -> None:
    for number in range(context.MOST_ENDED_RUNS + 1):
        runs.ended(str(number))
    assert not runs.has_ended("0")
    assert runs.has_ended("1000")


def test_the_sole_open_run_is_the_place_where_nothing_is_current(runs: Runs) -> None:
    for name in ("a", "b", "c"):
        runs.opened(name)
        assert runs.place() == Place(name, None)
        assert in_thread(runs.place) == Place(name, None)
        runs.ended(name)
    assert runs.place() is None


def test_from_the_first_overlap_on_no_open_run_is_guessed(runs: Runs) -> None:
    runs.opened("a")
    runs.opened("b")
    assert runs.place() is None
    assert runs.count() == 2
    runs.ended("a")
    assert runs.place() is None
    runs.ended("b")
    runs.opened("c")
    assert runs.place() is None


def test_a_run_that_is_a_step_of_the_open_one_is_no_overlap(runs: Runs) -> None:
    runs.opened("a")
    runs.joined("inner", Place("a", None))
    runs.opened("inner")
    runs.ended("inner")
    assert runs.place() == Place("a", None)


def test_a_run_that_is_a_step_counts_no_longer_than_the_run_around_it(runs: Runs) -> None:
    begun(runs, "outer")
    for name in ("first", "second"):
        runs.joined(name, Place("outer", None))
        runs.opened(name)
        runs.ended("first")
    runs.enter("outer", "second", own_id="second")
    assert runs.place() == Place("outer", "second")
    runs.ended("outer")
    assert runs.place() is None
    assert runs.is_open("second"), "its end is still to be told"


def test_where_runs_begin_in_several_threads_no_open_run_is_guessed(runs: Runs) -> None:
    in_thread(lambda: runs.opened("a"))
    in_thread(lambda: runs.ended("a"))
    runs.opened("b")
    assert runs.place() is None
    assert in_thread(runs.place) is None


def test_a_thread_that_is_older_than_the_second_run_does_not_guess_it(runs: Runs) -> None:
    with ThreadPoolExecutor(1) as pool:
        runs.opened("a")
        assert pool.submit(runs.place).result() == Place("a", None)
        runs.ended("a")
        runs.opened("b")
        assert pool.submit(runs.place).result() is None
        assert in_thread(runs.place) == Place("b", None)


def test_another_task_of_the_loop_does_not_guess_the_second_run(runs: Runs) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def made_outside() -> Place | None:
            await go.wait()
            return runs.place()

        task = asyncio.create_task(made_outside())
        begun(runs, "a")
        runs.ended("a")
        begun(runs, "b")
        go.set()
        assert await task is None

    asyncio.run(main())


def test_the_sole_run_survives_another_thread_ending_it_meanwhile(runs: Runs) -> None:
    class Vanishing(dict[str, RunState]):
        def items(self) -> Any:
            return ()

    runs.opened("a")
    runs._open = Vanishing(runs._open)
    assert runs.sole() is None


def test_the_parent_in_a_run_is_its_innermost_step(runs: Runs) -> None:
    runs.enter("run", "step")
    runs.enter("other", "other step")
    assert runs.parent_in("run") == "step"
    assert runs.parent_in("other") == "other step"
    assert runs.parent_in("unknown") is None
    assert Runs().parent_in("run") is None


def test_the_current_scopes_can_be_restored_in_another_thread(runs: Runs) -> None:
    scope = runs.enter("run", "step")

    def elsewhere() -> None:
        runs.enter("own")
        with restored(scope):
            assert chain() == [("run", "step")]
            runs.enter("left open")
        assert chain() == [("own", None)]
        with pytest.raises(ValueError, match="mine"), restored(None):
            raise ValueError("mine")
        assert chain() == [("own", None)]

    contextvars.Context().run(elsewhere)


def test_trackers_of_one_destination_share_their_runs() -> None:
    shared = runs_of("http://a.test", "ask_key")
    assert runs_of("http://a.test", "ask_key") is shared
    assert runs_of("http://a.test", "ask_other") is not shared
    assert runs_of("http://b.test", "ask_key") is not shared


def test_no_destination_keeps_a_key_in_memory() -> None:
    kept = runs_of("http://a.test", "ask_hidden")
    assert kept in context._destinations.values()
    assert "ask_hidden" not in repr(list(context._destinations))


def test_ids_are_random_uuids_and_leave_the_users_random_sequence_alone() -> None:
    state = random.getstate()
    ids = {new_id() for _ in range(1000)}
    assert random.getstate() == state
    assert len(ids) == 1000
    for text in ids:
        assert str(UUID(text)) == text
        assert (UUID(text).version, UUID(text).variant) == (4, "specified in RFC 4122")


@given(st.binary(min_size=16, max_size=16))
def test_an_id_of_any_sixteen_bytes_is_a_uuid_of_version_4(raw: bytes) -> None:
    assert new_id(raw) == str(UUID(bytes=raw, version=4))


def test_a_rate_of_one_records_all_and_of_zero_none() -> None:
    ids = [new_id() for _ in range(500)]
    assert all(sampled(run_id, 1.0) for run_id in ids)
    assert not any(sampled(run_id, 0.0) for run_id in ids)


def test_about_that_share_of_runs_is_recorded() -> None:
    ids = [new_id(number.to_bytes(2, "big") * 8) for number in range(4000)]
    assert 0.27 < sum(sampled(run_id, 0.3) for run_id in ids) / len(ids) < 0.33


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_what_a_lower_rate_records_a_higher_one_records_too(run_id: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert sampled(run_id, high) or not sampled(run_id, low)


def test_another_process_decides_the_same_for_every_run() -> None:
    ids = [new_id() for _ in range(50)]
    program = f"from agentscope.protocols.ids import sampled; print([sampled(i, 0.5) for i in {ids!r}])"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert re.findall("True|False", told) == [str(sampled(run_id, 0.5)) for run_id in ids]
