"""The conformance suite: the behaviour that every store has to show, whatever engine is behind it.

A subject is a module with a class that inherits from `Conformance` and a fixture `open_store`, a function without arguments
that opens a store. Calls after the first open the same data again where the engine keeps any.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentscope.protocols.agentscope.decode import Batch, decode_batch
from agentscope.server.storage.base import (
    RUN_DELETED,
    SETTLING,
    RunCursor,
    RunQuery,
    StepQuery,
    Store,
    StoredEvent,
    Unavailable,
)
from agentscope.server.storage.fold import run_view
from tests.support.receiver import at, envelope, run_end, run_start, step

OpenStore = Callable[[], Store]
LARGE = 1 << 30
COLUMNS = (
    *("id", "agent_name", "status", "external_id", "user_id", "conversation_id", "source", "failed"),
    *("tags", "environment", "release"),
    *("started_at", "ended_at", "duration_ms", "step_count", "error_count", "tokens_used", "total_usage", "cost_usd"),
    *("agents", "is_root_missing"),
)
EXAMPLES = count()

usage = (
    st.none()
    | st.dictionaries(
        st.sampled_from(["total_tokens", "input_tokens", "cached_tokens", "cost", "x"]), st.integers(0, 9)
    )
    | st.just([1])
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "agent_name": st.sampled_from(["a", "b" * 1001, None]),
        "external_id": st.sampled_from(["x", "nul \0", None]),
        "tags": st.sampled_from([["a", "b"], ["nul \0"], [], None]),
        "environment": st.sampled_from(["prod", None]),
        "model": st.sampled_from(["m", None]),
        "name": st.sampled_from(["planner", None]),
        "source": st.sampled_from(["one", "other"]),
        "parent_id": st.sampled_from([None, "s0", "s1", "s2", "f0", "gone"]),
        "span_id": st.sampled_from(["f0", "f1"]),
        "step_type": st.sampled_from(["llm_call", "agent", "other", None]),
        "status": st.sampled_from(["running", "failed", None]),
        "started_at": st.sampled_from([at(1), at(2), None]),
        "ended_at": st.sampled_from([at(3), None]),
        "error": st.sampled_from([None, {}, {"message": "no"}]),
        "usage": usage,
        "tokens_used": st.none() | st.integers(0, 10**12),
        "cost_usd": st.sampled_from([0.1, 0.2, 7, -1, 1e6, None]),
    },
)
items = st.tuples(st.sampled_from(["r0", "r1"]), st.sampled_from([None, "s0", "s1", "s2"]))
logs = st.lists(
    st.tuples(items, st.sampled_from(["start", "update", "end"]), st.integers(0, 6), fields), min_size=1, max_size=12
)


def batch(*events: Any, **head: Any) -> Batch:
    return decode_batch(json.dumps(envelope(*events, **head)).encode())


def all_events(store: Store, run_id: str, size: int = LARGE) -> list[StoredEvent]:
    """The events of a run, page by page."""
    page = store.events(run_id, size=size)
    found = page.events
    while page.next is not None:
        page = store.events(run_id, after=page.next, size=size)
        found = found + page.events
    return found


def all_runs(store: Store, query: RunQuery = RunQuery()) -> list[str]:
    """The ids of the runs that match, page by page."""
    page = store.list_runs(query)
    found = [run["id"] for run in page.runs]
    while page.next is not None:
        page = store.list_runs(query._replace(after=page.next))
        found += [run["id"] for run in page.runs]
    return found


def statuses(store: Store) -> dict[str, list[str]]:
    """The ids of the runs by the status that selects them, which is the one that is shown."""
    found: dict[str, list[str]] = {}
    for run in store.list_runs(RunQuery()).runs:
        assert all_runs(store, RunQuery(status=run["status"])).count(run["id"]) == 1
        found.setdefault(run["status"], []).append(run["id"])
    return found


def all_steps(store: Store, run_id: str, query: StepQuery) -> list[dict[str, Any]]:
    """The steps of a run, page by page."""
    page = store.steps(run_id, query)
    assert page is not None
    found = page.steps
    while page.next is not None:
        page = store.steps(run_id, query._replace(after=page.next, skip=0))
        assert page is not None
        found = found + page.steps
    return found


def assert_rows_equal_fold(store: Store) -> None:
    for listed in store.list_runs(RunQuery(limit=500)).runs:
        view = run_view(listed["id"], [event.patch() for event in all_events(store, listed["id"])])
        assert {name: listed[name] for name in COLUMNS} == {name: view[name] for name in COLUMNS}


def differences(one: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    """The values of two runs that are not the same, by their names."""
    known = one or {}
    return {name: (known.get(name), other.get(name)) for name in {*known, *other} if known.get(name) != other.get(name)}


def _by_id(step: dict[str, Any]) -> str:
    return str(step["id"])


def _indexes(store: Store, run_id: str, steps: list[dict[str, Any]]) -> list[int]:
    """The places of steps: those that began at the same moment may be in any order."""
    page = store.steps(run_id, StepQuery())
    assert page is not None
    places = {step["id"]: step["step_index"] for step in page.steps}
    assert sorted(places.values()) == [*range(len(steps))]
    return [places[step["id"]] for step in steps]


class Conformance:
    """The tests of any engine."""

    @pytest.fixture
    def open_store(self) -> OpenStore:
        raise NotImplementedError

    @pytest.fixture
    def store(self, open_store: OpenStore) -> Iterator[Store]:
        opened = open_store()
        yield opened
        opened.close()

    def let_pass(self, store: Any, seconds: float) -> None:
        """Set the clock of a store forward."""
        raise NotImplementedError

    @given(logs, st.data())
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors])
    def test_any_order_split_and_repetition_of_events_ends_in_rows_that_equal_the_fold(
        self, store: Store, log: list[Any], data: st.DataObject
    ) -> None:
        prefix = next(EXAMPLES)  # the examples share a store, and each has runs of its own
        events = []
        for number, ((run, item), kind, second, values) in enumerate(log):
            head = {"id": f"{prefix}-{number}", "seq": number % 3, "time": at(second), "run_id": f"{prefix}-{run}"}
            kind = f"{'run' if item is None else 'step'}.{kind}"
            events.append({**head, "step_id": item, "type": kind, "parent_id": None, **values})
        order = data.draw(st.permutations([*events, *events[:3]]))
        accepted = 0
        while order:
            size = data.draw(st.integers(1, len(order)))
            accepted += store.ingest(batch(*order[:size])).result().accepted
            order = order[size:]
        assert accepted == len(events)
        for run_id in {event["run_id"] for event in events}:
            sent = [event for event in events if event["run_id"] == run_id]
            found = [json.loads(event.body) for event in all_events(store, run_id)]
            assert sorted(found, key=lambda event: event["id"]) == sorted(sent, key=lambda event: event["id"])
            view = run_view(run_id, [event.patch() for event in all_events(store, run_id)])
            steps = view.pop("steps")
            assert not (wrong := differences(store.run(run_id), view)), wrong
            shown = sorted(all_steps(store, run_id, StepQuery(1)), key=_by_id)
            expected = sorted(
                (
                    {**step, "step_index": index}
                    for step, index in zip(steps, _indexes(store, run_id, steps), strict=True)
                ),
                key=_by_id,
            )
            assert [each["id"] for each in shown] == [each["id"] for each in expected]
            in_circle = {each["id"] for each in steps} & {each.get("unattached_parent_id") for each in steps}
            for one, other in zip(shown, expected, strict=True):
                wrong = differences(one, other)
                if in_circle:  # the store may cut a circle at another place
                    wrong = {name: pair for name, pair in wrong.items() if not name.endswith("parent_id")}
                assert not wrong, (one["id"], wrong)
        assert_rows_equal_fold(store)

    def test_writers_at_once_store_every_event_once(self, store: Store) -> None:
        events = [step(f"run-{number % 5}", step_id=f"s{number}", tokens_used=1) for number in range(60)]

        def write(start: int) -> int:
            order = events[start:] + events[:start]
            batches = [batch(*order[at : at + 7]) for at in range(0, 60, 7)]
            return sum(store.ingest(each).result(60).accepted for each in batches)

        with ThreadPoolExecutor(3) as pool:
            assert sum(pool.map(write, (0, 20, 40))) == 60
        assert store.health()["duplicates"] == 120
        assert sum(run["tokens_used"] for run in store.list_runs(RunQuery()).runs) == 60
        assert_rows_equal_fold(store)

    def test_a_batch_is_counted_by_new_and_repeated_events_and_new_runs(self, store: Store) -> None:
        first, second, other = run_start("a"), step("a"), step("b")
        assert store.ingest(batch(first, second)).result() == (2, 0, 0, 1)
        assert store.ingest(batch(first, second, other, other)).result() == (1, 3, 0, 1)
        assert store.ingest(batch()).result() == (0, 0, 0, 0)

    def test_the_first_of_two_events_with_one_id_is_kept_and_the_other_counts_as_a_conflict(self, store: Store) -> None:
        first = step(input="first")
        counts = store.ingest(batch(first, {**first, "input": "second"})).result()
        again = store.ingest(batch({**first, "input": "third"})).result()
        assert (counts.conflicts, again.conflicts) == (1, 1)
        assert [json.loads(event.body)["input"] for event in all_events(store, "run-1")] == ["first"]
        assert store.event(first["id"]) == first
        assert store.health()["conflicts"] == 2

    def test_health_counts_what_is_stored_and_a_repeated_batch_once(self, store: Store) -> None:
        drops = [{"reason": "queue_full", "count": 2}, {"reason": "shutdown", "count": 1}]
        again = batch(run_start("a"), step("b"), batch_id="one", dropped=drops)
        store.ingest(again).result()
        store.ingest(again).result()
        store.ingest(batch(dropped=drops[:1])).result()
        assert store.health() == {
            "events": 2,
            "runs": 2,
            "batches": 2,
            "duplicates": 2,
            "conflicts": 0,
            "dropped": {"queue_full": 4, "shutdown": 1},
        }

    def test_events_come_in_the_order_received_page_by_page(self, store: Store) -> None:
        sent = [step(time=at(60 - number), input="x" * 100 * (number % 4)) for number in range(12)]
        for start in range(0, 12, 3):
            store.ingest(batch(*sent[start : start + 3], step("another"))).result()
        for size in (1, 500, 1000, LARGE):
            found = all_events(store, "run-1", size)
            assert [json.loads(event.body) for event in found] == sent
            assert {event.session_id for event in found} == {"session-1"}
        page = store.events("run-1", size=1000)
        assert 1 < len(page.events) < 12
        assert sum(len(event.body) for event in page.events) <= 1000

    def test_events_that_come_while_a_run_is_read_are_on_a_later_page(self, store: Store) -> None:
        sent = [step(step_id=f"s{number}") for number in range(6)]
        store.ingest(batch(*sent[:4])).result()
        page = store.events("run-1", size=1)
        store.ingest(batch(*sent[4:])).result()
        found = list(page.events)
        while page.next is not None:
            page = store.events("run-1", after=page.next, size=1)
            found += page.events
        assert [json.loads(event.body)["step_id"] for event in found] == [f"s{number}" for number in range(6)]

    def test_an_event_larger_than_a_page_has_one_to_itself(self, store: Store) -> None:
        store.ingest(batch(step(), step(input="é" * 1_000_000), step())).result()
        page = store.events("run-1", size=1000)
        assert len(page.events) == 1
        assert len(store.events("run-1", after=page.next, size=1000).events) == 1
        assert len(all_events(store, "run-1", 1000)) == 3

    def test_the_events_of_one_step_and_of_the_run_itself_are_found(self, store: Store) -> None:
        start, first, end = run_start(), step(step_id="s", input="é"), run_end()
        late = {**step(step_id="s"), "type": "step.update", "output": None}
        store.ingest(batch(start, first)).result()
        store.ingest(batch(late, end, step(step_id="t"), step("another", step_id="s"))).result()
        assert [json.loads(event.body) for event in store.item_events("run-1", "s")] == [first, late]
        assert [json.loads(event.body) for event in store.item_events("run-1", None)] == [start, end]
        assert store.item_events("run-1", "u") == store.item_events("unknown", None) == []

    def test_the_events_of_one_item_can_be_chosen_and_bounded(self, store: Store) -> None:
        for session in ("one", "two"):
            sent = [
                step(step_id="s", time=at(number), input=f"{session} {number}", id=f"{session}-{number}")
                for number in range(3)
            ]
            store.ingest(batch(*sent, session_id=session)).result()
        every = store.item_events("run-1", "s")
        assert len(every) == 6
        assert store.item_events("run-1", "s", session_id="two") == every[3:]
        assert store.item_events("run-1", "s", session_id="two", holding="two 1") == every[4:5]
        assert (
            store.item_events("run-1", "s", holding="no such text")
            == store.item_events("run-1", "s", session_id="no")
            == []
        )
        assert store.item_events("run-1", "s", most=0) == every[:1]
        assert store.item_events("run-1", "s", most=len(every[0].body)) == every[:2]
        assert store.item_events("run-1", "s", most=len(every[0].body) - 1) == every[:1]

    def test_a_run_is_known_once_anything_of_it_is_stored(self, store: Store) -> None:
        assert (store.has_run("run-1"), store.run_size("run-1"), store.event("e")) == (False, None, None)
        assert store.events("run-1", size=1) == ([], None)
        store.ingest(batch(step())).result()
        assert store.has_run("run-1")
        store.ingest(batch(step(input="é" * 100))).result()
        assert store.run_size("run-1") == sum(len(event.body) for event in all_events(store, "run-1"))

    def test_an_explicit_null_is_a_value_and_survives_what_comes_late(self, store: Store) -> None:
        store.ingest(batch(run_start(user_id="ann", time=at(1)))).result()
        store.ingest(batch({**run_start(user_id=None, time=at(3)), "type": "run.update"})).result()
        store.ingest(batch({**run_start(user_id="bob", time=at(2)), "type": "run.update"})).result()
        assert store.list_runs(RunQuery()).runs[0]["user_id"] is None
        assert_rows_equal_fold(store)

    def test_texts_of_any_kind_come_back_as_they_were_sent(self, store: Store) -> None:
        odd = "nul \0, quote ', ü, \U0001f600, \u2028"
        sent = [
            run_start("r'\u2028", agent_name=odd, external_id=odd),
            step("r'\u2028", step_id="ü'", output={odd: odd}),
        ]
        store.ingest(batch(*sent)).result()
        assert [json.loads(event.body) for event in all_events(store, "r'\u2028")] == sent
        assert [run["agent_name"] for run in store.list_runs(RunQuery(agent=odd)).runs] == [odd]
        assert len(store.item_events("r'\u2028", "ü'")) == 1

    def test_a_run_of_many_steps_and_many_tokens_is_counted_whole(self, store: Store) -> None:
        steps = [step(step_id=f"s{number}", tokens_used=10**12, step_type="llm_call") for number in range(3000)]
        store.ingest(batch(*steps[:2900])).result()
        store.ingest(batch(*steps[2900:])).result()
        self.let_pass(store, 60)  # a store may count a run of very many steps a little later
        (run,) = store.list_runs(RunQuery()).runs
        assert (run["step_count"], run["tokens_used"]) == (3000, 3000 * 10**12)
        assert len(all_events(store, "run-1")) == 3000

    def test_pages_of_runs_are_newest_first_and_neither_repeat_nor_skip_while_runs_come(self, store: Store) -> None:
        events = [run_start(f"r{number}", time=at(number // 3)) for number in range(12)]  # three begin together
        store.ingest(batch(*events)).result()
        page = store.list_runs(RunQuery(limit=2))
        found = list(page.runs)
        while page.next is not None:
            store.ingest(batch(run_start(f"new {len(found)}", time=at(100 + len(found))))).result()
            page = store.list_runs(RunQuery(limit=2, after=page.next))
            found += page.runs
        assert sorted(run["id"] for run in found) == sorted(f"r{number}" for number in range(12))
        times = [run["started_at"] for run in found]
        assert times == sorted(times, reverse=True)

    def test_a_run_without_a_start_is_listed_by_its_earliest_event(self, store: Store) -> None:
        store.ingest(batch(step("a", time=at(5)), run_start("b", time=at(4)), step("c", time=at(6)))).result()
        store.ingest(batch(step("c", time=at(3)))).result()
        page = store.list_runs(RunQuery(limit=1))
        assert (all_runs(store), page.next) == (["a", "b", "c"], RunCursor(at(5), "a"))

    def test_the_cursor_of_a_run_that_was_never_there_still_has_runs_after_it(self, store: Store) -> None:
        store.ingest(batch(run_start("a", time=at(1)), run_start("b", time=at(9)))).result()
        assert all_runs(store, RunQuery(after=RunCursor(at(5), "gone"))) == ["a"]

    def test_runs_are_found_by_status_agent_and_a_part_of_a_name_or_id(self, store: Store) -> None:
        store.ingest(
            batch(
                run_start("a", agent_name="planner", external_id="order_1%", time=at(1)),
                run_end("a", status="failed"),
                run_start("b", agent_name="Writer", conversation_id="c\\7", time=at(2)),
                run_start("c", agent_name="writer", user_id="zoe", time=at(3)),
            )
        ).result()
        for query, expected in (
            (RunQuery(status="failed"), ["a"]),
            (RunQuery(status="running", agent="writer"), ["c"]),
            (RunQuery(agent="write"), []),
            (RunQuery(q="RITER"), ["c", "b"]),
            (RunQuery(q="order_1%"), ["a"]),
            (RunQuery(q="order%1"), []),
            (RunQuery(q="_"), ["a"]),
            (RunQuery(q="zoe"), ["c"]),
            (RunQuery(q="\\"), ["b"]),
            (RunQuery(q="' OR 1=1--"), []),
            (RunQuery(q="RITER", limit=1), ["c", "b"]),
        ):
            assert all_runs(store, query) == expected, query

    def test_a_run_is_found_by_its_trace_id_whole_or_in_part(self, store: Store) -> None:
        run_id = "5b8efff7-9803-8103-d269-b633813fc60c"
        store.ingest(batch(run_start(run_id), run_start("x" * 12))).result()
        for q in ("5b8efff798038103d269b633813fc60c", "5B8EFFF798038103D269B633813FC60C", "8103d269b633", run_id):
            assert all_runs(store, RunQuery(q=q)) == [run_id], q
        assert all_runs(store, RunQuery(q="0" * 32)) == []

    def test_runs_are_found_by_user_conversation_tag_environment_release_and_the_model_of_a_step(
        self, store: Store
    ) -> None:
        store.ingest(
            batch(
                run_start("a", user_id="u", tags=["red", "blue"], environment="prod", time=at(1)),
                run_start("b", user_id="u", conversation_id="c", release="2.0", tags=["blue"], time=at(2)),
                run_start("c", user_id="U", tags=['"red"', "re"], time=at(3)),
                step("a", step_id="s", model="small"),
                step("a", step_id="t", model="large"),
                step("b", step_id="s", model="small"),
                step("c", step_id="s"),
            )
        ).result()
        for query, expected in (
            (RunQuery(user_id="u"), ["b", "a"]),
            (RunQuery(conversation_id="c"), ["b"]),
            (RunQuery(tag="red"), ["a"]),
            (RunQuery(tag="blue"), ["b", "a"]),
            (RunQuery(environment="prod"), ["a"]),
            (RunQuery(release="2.0"), ["b"]),
            (RunQuery(model="small"), ["b", "a"]),
            (RunQuery(model="large", user_id="u", tag="blue"), ["a"]),
            (RunQuery(model="large", conversation_id="c"), []),
        ):
            assert all_runs(store, query) == expected, query

    def test_each_tag_of_a_run_is_found_though_a_list_of_runs_shows_only_the_first(self, store: Store) -> None:
        tags = [f"tag {number}" for number in range(300)]
        store.ingest(batch(run_start("r", tags=tags), run_start("other", tags=tags[:7]))).result()
        assert all_runs(store, RunQuery(tag="tag 299")) == all_runs(store, RunQuery(tag="tag 60")) == ["r"]
        (run,) = store.list_runs(RunQuery(tag="tag 50")).runs
        assert run["tags"] == tags[:50]
        store.ingest(batch(run_end("r", tags=tags[100:]))).result()
        assert all_runs(store, RunQuery(tag="tag 60")) == []
        assert all_runs(store, RunQuery(tag="tag 299")) == ["r"]

    def test_tokens_and_cost_of_a_run_are_counted_once_along_each_line_of_its_steps(self, store: Store) -> None:
        steps = [step("r", step_id=f"s{number}", parent_id="top", cost_usd=0.1) for number in range(10)]
        store.ingest(batch(*steps, run_start("free"), run_start("r"))).result()
        assert {run["id"]: run["cost_usd"] for run in store.list_runs(RunQuery()).runs} == {"r": 1.0, "free": None}
        top = step("r", step_id="top", step_type="agent", cost_usd=1.5, usage={"input_tokens": 3, "cached_tokens": 2})
        store.ingest(batch(top)).result()
        store.ingest(batch(step("r", step_id="llm", step_type="llm_call", parent_id="top", tokens_used=7))).result()
        (run,) = (run for run in store.list_runs(RunQuery()).runs if run["id"] == "r")
        assert (run["cost_usd"], run["tokens_used"], run["total_usage"]) == (1.5, 7, {"total_tokens": 7})
        assert_rows_equal_fold(store)

    def test_a_filter_sees_the_last_value_of_a_field(self, store: Store) -> None:
        store.ingest(batch(run_start("r", user_id="u", tags=["old"]), step("r", step_id="s", model="old"))).result()
        store.ingest(batch(run_end("r", user_id="v", tags=["new"]))).result()
        store.ingest(batch({**step("r", step_id="s", model="new"), "time": at(50)})).result()
        assert all_runs(store, RunQuery(user_id="u")) == all_runs(store, RunQuery(tag="old")) == []
        assert all_runs(store, RunQuery(model="old")) == []
        assert all_runs(store, RunQuery(user_id="v", tag="new", model="new")) == ["r"]

    def test_a_run_left_open_by_a_session_that_missed_four_heartbeats_is_interrupted(self, store: Store) -> None:
        self.let_pass(store, SETTLING)
        start = {"id": "e1", "seq": 1, "type": "step.start", "run_id": "run-1", "step_id": "s1", "time": at(2)}
        store.ingest(batch(run_start(), start, heartbeat_seconds=15)).result()

        self.let_pass(store, 59)
        assert statuses(store) == {"running": ["run-1"]}
        assert store.silence("run-1") == {"session-1": False}
        self.let_pass(store, 2)
        assert statuses(store) == {"interrupted": ["run-1"]}
        view = run_view("run-1", [event.patch() for event in all_events(store, "run-1")], store.silence("run-1"))
        assert (view["status"], view["steps"][0]["status"]) == ("interrupted", "interrupted")

    def test_a_heartbeat_or_a_later_event_makes_an_interrupted_run_right_again(self, store: Store) -> None:
        self.let_pass(store, SETTLING)
        store.ingest(batch(run_start(), heartbeat_seconds=15)).result()
        self.let_pass(store, 3600)
        assert statuses(store) == {"interrupted": ["run-1"]}

        counts = store.ingest(batch(batch_id="beat", heartbeat_seconds=15)).result()
        assert counts == (0, 0, 0, 0)
        assert statuses(store) == {"running": ["run-1"]}
        assert store.health()["batches"] == 1, "a heartbeat leaves nothing in the log"

        self.let_pass(store, 3600)
        store.ingest(batch(run_end(), batch_id="end", heartbeat_seconds=15)).result()
        self.let_pass(store, 3600)
        assert statuses(store) == {"completed": ["run-1"]}

    def test_a_session_that_promises_no_heartbeats_never_counts_as_silent(self, store: Store) -> None:
        self.let_pass(store, SETTLING)
        store.ingest(batch(run_start())).result()
        self.let_pass(store, 10**6)
        assert statuses(store) == {"running": ["run-1"]}

    def test_a_run_is_running_while_any_session_with_events_of_it_lives(self, store: Store) -> None:
        self.let_pass(store, SETTLING)
        store.ingest(batch(run_start(), session_id="parent", heartbeat_seconds=15)).result()
        store.ingest(batch(step(), session_id="child", heartbeat_seconds=15)).result()

        self.let_pass(store, 3600)
        store.ingest(batch(session_id="parent", heartbeat_seconds=15)).result()
        assert store.silence("run-1") == {"parent": False, "child": True}
        assert statuses(store) == {"running": ["run-1"]}
        self.let_pass(store, 61)
        assert statuses(store) == {"interrupted": ["run-1"]}

    def test_a_run_is_interrupted_by_the_silence_of_its_own_session_whatever_else_sent_finished_steps(
        self, store: Store
    ) -> None:
        self.let_pass(store, SETTLING)
        store.ingest(batch(run_start(), heartbeat_seconds=15)).result()
        store.ingest(batch(step(), session_id="other")).result()
        store.ingest(batch(step("run-2"), session_id="guest", heartbeat_seconds=15)).result()
        self.let_pass(store, 61)
        assert statuses(store) == {"interrupted": ["run-1"], "completed": ["run-2"]}, "all of the second run ended"

    def test_no_session_counts_as_silent_right_after_the_start_of_the_store(self, store: Store) -> None:
        store.ingest(batch(run_start(), heartbeat_seconds=1)).result()
        self.let_pass(store, SETTLING - 1)
        assert statuses(store) == {"running": ["run-1"]}
        self.let_pass(store, 2)
        assert statuses(store) == {"interrupted": ["run-1"]}

    def test_a_closed_store_stores_nothing_more_and_can_be_closed_again(self, open_store: OpenStore) -> None:
        store = open_store()
        handed_in = [store.ingest(batch(step())) for _ in range(5)]
        store.close()
        assert [future.result(0).accepted for future in handed_in] == [1] * 5
        with pytest.raises(Unavailable):
            store.ingest(batch(step())).result(60)
        store.close()

    def test_a_cancelled_future_leaves_the_store_in_order(self, store: Store) -> None:
        futures = [store.ingest(batch(step(f"run-{number}"))) for number in range(20)]
        cancelled = [future.cancel() for future in futures]
        assert store.ingest(batch(step("last"))).result(60).accepted == 1
        assert store.health()["events"] == 1 + cancelled.count(False)

    def test_projects_with_the_same_ids_never_see_each_other(self, store: Store) -> None:
        self.let_pass(store, SETTLING)
        drops = [{"reason": "queue_full", "count": 2}]
        start = run_start("r", agent_name="ours", user_id="u", tags=["t"])
        beat = {"batch_id": "b", "heartbeat_seconds": 15}
        store.ingest(batch(start, step("r", step_id="s", model="m"), dropped=drops, **beat), project="ours").result()
        theirs = {**start, "agent_name": "theirs"}
        assert store.ingest(batch(theirs, **beat), project="theirs").result() == (1, 0, 0, 1)
        assert store.ingest(batch(theirs, batch_id="b"), project="theirs").result() == (0, 1, 0, 0)
        assert store.ingest(batch(run_start("only theirs")), project="theirs").result().new_runs == 1

        for project, event, runs in (("ours", start, ["r"]), ("theirs", theirs, ["only theirs", "r"])):
            assert store.event(start["id"], project=project) == event
            assert sorted(run["id"] for run in store.list_runs(RunQuery(), project=project).runs) == runs
            assert json.loads(store.events("r", size=1, project=project).events[0].body) == event
            assert [json.loads(each.body) for each in store.item_events("r", None, project=project)] == [event]
            assert store.has_run("only theirs", project=project) is (project == "theirs")
            size = sum(len(each.body) for each in store.events("r", size=LARGE, project=project).events)
            assert store.run_size("r", project=project) == size
        assert [run["id"] for run in store.list_runs(RunQuery(model="m", tag="t"), project="ours").runs] == ["r"]
        assert store.list_runs(RunQuery(model="m"), project="theirs").runs == []
        assert store.health(project="ours") == {
            "events": 2,
            "runs": 1,
            "batches": 1,
            "duplicates": 0,
            "conflicts": 0,
            "dropped": {"queue_full": 2},
        }
        assert store.health(project="theirs") == {
            "events": 2,
            "runs": 2,
            "batches": 2,
            "duplicates": 1,
            "conflicts": 0,
            "dropped": {},
        }
        assert store.health()["events"] == 0
        assert not store.has_run("r")

        self.let_pass(store, 3600)
        store.ingest(batch(batch_id="beat", heartbeat_seconds=15), project="theirs").result()
        assert store.silence("r", project="ours") == {"session-1": True}
        assert store.silence("r", project="theirs") == {"session-1": False}
        assert [run["status"] for run in store.list_runs(RunQuery(), project="ours").runs] == ["interrupted"]
        assert {run["status"] for run in store.list_runs(RunQuery(), project="theirs").runs} == {"running"}

    def test_an_event_of_another_session_with_a_guessed_id_hides_nothing(self, store: Store) -> None:
        true = run_start(agent_name="true", time=at(2))
        guess = {**true, "agent_name": "guess", "time": at(1)}
        store.ingest(batch(guess, batch_id="b", session_id="stranger")).result()
        drops = [{"reason": "queue_full", "count": 2}]
        assert store.ingest(batch(true, batch_id="b", dropped=drops)).result() == (1, 0, 0, 0)
        assert store.event(true["id"], "session-1") == true
        assert store.event(true["id"], "stranger") == store.event(true["id"]) == guess
        assert [run["agent_name"] for run in store.list_runs(RunQuery()).runs] == ["true"]
        assert store.health()["dropped"] == {"queue_full": 2}, "nor does a batch with a guessed id"

    def test_a_deleted_run_is_gone_as_a_whole_and_no_other_is(self, store: Store) -> None:
        first, second = run_start("a", user_id="u"), step("a", step_id="s", model="m", tokens_used=3)
        store.ingest(batch(first, second, run_start("b"), step("b", step_id="s"))).result()
        store.ingest(batch(first, second), project="other").result()
        assert store.delete_runs(RunQuery(run_id="a")) == 1
        assert store.delete_runs(RunQuery(run_id="a")) == 0
        assert all_runs(store) == ["b"]
        assert (store.has_run("a"), store.run_size("a"), store.events("a", size=LARGE)) == (False, None, ([], None))
        assert store.item_events("a", "s") == []
        assert all_runs(store, RunQuery(model="m")) == []
        assert (store.health()["events"], store.health()["runs"]) == (2, 1)
        assert len(all_events(store, "b")) == 2
        assert store.health(project="other")["events"] == 2

    def test_late_events_of_a_deleted_run_stay_out_and_are_counted(self, store: Store) -> None:
        sent = [run_start("a"), step("a", step_id="s")]
        store.ingest(batch(*sent)).result()
        store.delete_runs(RunQuery(run_id="a"))
        late = batch(*sent, step("a"), run_start("b"), dropped=[{"reason": "queue_full", "count": 1}])
        assert store.ingest(late).result() == (1, 3, 0, 1)
        assert store.ingest(late).result() == (0, 4, 0, 0)
        assert all_runs(store) == ["b"]
        assert store.health()["dropped"] == {RUN_DELETED: 3, "queue_full": 1}
        assert store.ingest(batch(step("a")), project="other").result().accepted == 1

    def test_runs_are_deleted_by_each_filter_of_a_list_and_never_without_one(self, store: Store) -> None:
        runs = [
            *(run_start(f"u{number}", user_id="u", conversation_id="c") for number in range(3)),
            run_start("v", user_id="v", conversation_id="c", tags=["t"]),
            run_start("w", agent_name="a", environment="e"),
            run_start("x"),
        ]
        store.ingest(batch(*runs, step("x", model="m"), run_start("y"), run_end("y", status="failed"))).result()
        assert store.delete_runs(RunQuery(user_id="u", tag="t")) == 0
        for query, left in (
            (RunQuery(limit=1, user_id="u"), ["v", "w", "x", "y"]),
            (RunQuery(conversation_id="c"), ["w", "x", "y"]),
            (RunQuery(status="failed"), ["w", "x"]),
            (RunQuery(model="m"), ["w"]),
            (RunQuery(q="A"), []),
        ):
            assert store.delete_runs(query) > 0
            assert sorted(all_runs(store)) == left
        with pytest.raises(ValueError, match="filter"):
            store.delete_runs(RunQuery())

    def test_runs_may_be_deleted_while_they_are_written(self, store: Store) -> None:
        with ThreadPoolExecutor(2) as pool:
            writing = pool.submit(
                lambda: [store.ingest(batch(step(f"r{number % 7}"))).result(60) for number in range(70)]
            )
            deleted = 0
            while not writing.done():
                deleted += sum(store.delete_runs(RunQuery(run_id=run)) for run in ("r1", "r3", "r5"))
            writing.result()
        deleted += sum(store.delete_runs(RunQuery(run_id=run)) for run in ("r1", "r3", "r5"))
        assert deleted == 3
        assert sorted(all_runs(store)) == ["r0", "r2", "r4", "r6"]
        assert_rows_equal_fold(store)
        assert {run["step_count"] for run in store.list_runs(RunQuery()).runs} == {10}

    @pytest.mark.parametrize("year", ["9999-12-31T23:59:59.999999Z", "2999-01-01T00:00:00.000000Z"])
    def test_an_event_from_the_future_outranks_nothing_that_comes_later(self, store: Store, year: str) -> None:
        future = run_start(agent_name="pinned", user_id="u", started_at=year, time=year)
        store.ingest(batch(future, session_id="z")).result()
        self.let_pass(store, 1)
        (first,) = store.list_runs(RunQuery()).runs
        assert (first["agent_name"], first["started_at"]) == ("pinned", year)
        self.let_pass(store, 7200)
        now = json.loads(all_events(store, "run-1")[0].body)["time"]
        later = now[:20] + "999999Z"
        store.ingest(
            batch({**run_start(agent_name="true", time=later, started_at=at(1)), "type": "run.update"})
        ).result()
        assert store.list_runs(RunQuery()).runs[0]["agent_name"] == "true"
        assert_rows_equal_fold(store)

    def test_a_run_from_the_future_is_listed_by_the_time_at_which_it_came(self, store: Store) -> None:
        year = "9999-12-31T23:59:59.999999Z"
        store.ingest(batch(run_start("pinned", started_at=year, time=year))).result()
        store.ingest(batch(run_start("claimed", started_at=year, time=at(1)))).result()
        (event,) = all_events(store, "pinned")
        came = json.loads(event.body)["time"]
        assert json.loads(event.body)["sent_time"] == year
        store.ingest(batch(run_start("young", started_at=came[:20] + "999999Z", time=came[:20] + "999999Z"))).result()
        assert all_runs(store, RunQuery(limit=1)) == ["young", "pinned", "claimed"]

    def test_an_event_from_the_future_that_is_repeated_is_no_conflict(self, store: Store) -> None:
        event = run_start(time="9999-12-31T23:59:59.999999Z")
        counts = []
        for change in ({}, {}, {"agent_name": "another"}):
            counts.append(store.ingest(batch({**event, **change})).result())
            self.let_pass(store, 1)
        assert counts == [(1, 0, 0, 1), (0, 1, 0, 0), (0, 1, 1, 0)]

    def test_a_clock_that_is_somewhat_ahead_is_believed(self, store: Store) -> None:
        store.ingest(batch(step(time="9999-12-31T23:59:59.999999Z"))).result()
        came = json.loads(all_events(store, "run-1")[0].body)["time"]
        ahead = (datetime.fromisoformat(came[:-1]) + timedelta(minutes=50)).isoformat(timespec="microseconds") + "Z"
        store.ingest(batch(step("r", time=ahead))).result()
        assert json.loads(all_events(store, "r")[0].body)["time"] == ahead

    def test_the_steps_of_a_run_come_page_by_page_by_their_start(self, store: Store) -> None:
        steps = [
            step(step_id=f"s{number}", started_at=at(number), parent_id=f"s{number - 1}", input="x" * 100)
            for number in range(25)
        ]
        failed = step(step_id="f", started_at=at(7.5), status="failed")
        store.ingest(batch(run_start(input="the input"), *reversed(steps), failed)).result()
        view = run_view("run-1", [event.patch() for event in all_events(store, "run-1")])
        expected = view.pop("steps")
        assert store.run("run-1") == view
        for query in (StepQuery(), StepQuery(limit=7), StepQuery(size=1), StepQuery(size=1000)):
            assert all_steps(store, "run-1", query) == expected
        page = store.steps("run-1", StepQuery(limit=3, skip=20))
        assert page is not None
        assert page.steps == expected[20:23]
        assert [each["id"] for each in all_steps(store, "run-1", StepQuery(failed=True))] == ["f"]
        assert (store.steps("unknown", StepQuery()), store.run("unknown")) == (None, None)

    def test_a_page_of_a_fixed_number_of_steps_leaves_out_payloads_and_no_step(self, store: Store) -> None:
        steps = [step(step_id=f"s{number}", started_at=at(number), input="x" * 1000) for number in range(9)]
        store.ingest(batch(*steps)).result()
        page = store.steps("run-1", StepQuery(limit=6, size=2500, is_whole=True))
        assert page is not None
        assert [each["id"] for each in page.steps] == [f"s{number}" for number in range(6)]
        assert page.steps[0]["input"] == "x" * 1000
        assert page.next is not None
        assert page.next.position == 5

    def test_parents_that_lead_in_a_circle_are_told_as_unattached(self, store: Store) -> None:
        pairs = (("a", "b"), ("b", "a"), ("self", "self"), ("c", "a"), ("orphan", "nowhere"))
        steps = [step(step_id=one, parent_id=other, started_at=at(number)) for number, (one, other) in enumerate(pairs)]
        store.ingest(batch(*steps)).result()
        found = {each["id"]: each["parent_id"] for each in all_steps(store, "run-1", StepQuery())}
        assert (found["self"], found["c"], found["orphan"]) == (None, "a", None)
        assert None in (found["a"], found["b"])

    def test_readers_and_writers_do_not_wait_for_each_other(self, store: Store) -> None:
        store.ingest(batch(run_start())).result()
        over = threading.Event()

        def read() -> int:
            reads = 0
            while not over.is_set():
                assert_rows_equal_fold_of(store, "run-1")
                reads += 1
            return reads

        with ThreadPoolExecutor(2) as pool:
            reader = pool.submit(read)
            try:
                for _ in range(20):
                    store.ingest(batch(step())).result(60)
            finally:
                over.set()
            assert reader.result(60) > 0
        assert store.list_runs(RunQuery()).runs[0]["step_count"] == 20


class DurableConformance(Conformance):
    """The tests of an engine whose data outlives the store object as well."""

    def test_stored_events_survive_a_restart(self, open_store: OpenStore) -> None:
        first = open_store()
        sent = [run_start("a"), step("a")]
        first.ingest(batch(*sent, batch_id="one")).result()
        first.close()
        second = open_store()
        assert second.ingest(batch(*sent, run_start("b"), batch_id="one")).result() == (1, 2, 0, 1)
        assert sorted(all_runs(second)) == ["a", "b"]
        assert_rows_equal_fold(second)
        second.close()

    def test_two_stores_on_the_same_data_see_each_others_events(self, open_store: OpenStore) -> None:
        one, other = open_store(), open_store()
        try:
            sent = [run_start(time=at(1)), {**run_start(agent_name="late", time=at(5)), "type": "run.update"}]
            one.ingest(batch(sent[0])).result()
            assert other.ingest(batch(*sent)).result()[:2] == (1, 1)
            one.ingest(batch({**run_start(agent_name="early", time=at(2)), "type": "run.update"})).result()
            assert [run["agent_name"] for run in other.list_runs(RunQuery()).runs] == ["late"]
        finally:
            one.close()
            other.close()


def assert_rows_equal_fold_of(store: Store, run_id: str) -> None:
    """The steps of a run's row lie between those of the events read before and after it."""
    before = len(all_events(store, run_id))
    (listed,) = [run for run in store.list_runs(RunQuery()).runs if run["id"] == run_id]
    assert before <= listed["step_count"] + 1 <= len(all_events(store, run_id))
