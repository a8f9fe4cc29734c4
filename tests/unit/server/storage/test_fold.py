"""Patches fold to the same run or step in whatever order, number and company they come."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.protocols.agentscope.decode import Patch, decode_batch
from agentscope.protocols.token_usage import Tokens
from agentscope.server.storage.fold import fold, run_view
from agentscope.server.storage.rows import duration_ms, row_fields, step_row
from agentscope.server.storage.summary import summary_of
from agentscope.server.storage.tree import attach
from tests.support.receiver import at, envelope, run_end, run_start, step


def patches(*events: dict[str, Any]) -> list[Patch]:
    batch = decode_batch(json.dumps(envelope(*events)).encode())
    assert not batch.rejected
    return batch.patches


def changed(second: float, **fields: Any) -> dict[str, Any]:
    """A step.update of the one step of these tests, which sets nothing else."""
    head = {"id": f"e{second}", "seq": 0, "time": at(second), "type": "step.update", "run_id": "r", "step_id": "s"}
    return {**head, "parent_id": None, **fields}


def test_the_last_writer_wins_field_by_field() -> None:
    folded = fold(patches(changed(2, name="b"), changed(1, name="a", status="running"), changed(3, output=1)))
    assert (folded["name"], folded["status"], folded["output"], folded["first_at"]) == ("b", "running", 1, at(1))


def test_an_explicit_null_overwrites_and_an_absent_field_does_not() -> None:
    folded = fold(patches(changed(1, input=1, output=1), changed(2, input=None)))
    assert (folded["input"], folded["output"]) == (None, 1)


def test_meta_data_objects_are_merged_and_anything_else_replaces_them() -> None:
    one, two, three = changed(1, meta_data={"a": 1, "b": 1}), changed(2, meta_data={"b": 2}), changed(3, meta_data=5)
    assert fold(patches(two, one))["meta_data"] == {"a": 1, "b": 2}
    assert fold(patches(two, one, three))["meta_data"] == 5


def test_a_null_parent_does_not_replace_one_named_before() -> None:
    assert fold(patches(changed(1, parent_id="p"), changed(2)))["parent_id"] == "p"


def test_truncated_fields_add_up() -> None:
    folded = fold(patches(changed(1, truncated=["output"]), changed(2, truncated=["input"]), changed(3, truncated=[])))
    assert folded["truncated"] == ["input", "output"]


def test_session_then_sequence_then_id_decide_between_equal_times() -> None:
    low, high = patches(changed(1, name="low"), {**changed(1, name="high"), "id": "other", "seq": 1})
    assert fold([high, low])["name"] == "high"
    assert fold([high._replace(session_id="a"), low._replace(session_id="b")])["name"] == "low"
    assert fold([high._replace(seq=0), low])["name"] == "high"


payload = st.none() | st.integers(-5, 5) | st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=3)
fields = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y", None]),
        "status": st.sampled_from(["running", "completed", "failed", None]),
        "input": payload,
        "error": payload,
        "meta_data": payload,
        "tokens_used": st.none() | st.integers(0, 9),
        "parent_id": st.sampled_from(["s0", "s1", "s2", "gone", None]),
        "truncated": st.lists(st.sampled_from(["input", "output"])),
    },
)


@given(st.lists(st.tuples(st.sampled_from(["s0", "s1", "s2", None]), fields), min_size=1), st.randoms())
def test_shuffled_and_repeated_events_fold_to_the_same_run(
    written: list[tuple[str | None, dict[str, Any]]], chance: random.Random
) -> None:
    events = []
    for number, (step_id, values) in enumerate(written):
        kind = "run.update" if step_id is None else "step.update"
        head = {"id": f"e{number}", "seq": number % 3, "time": at(number % 7), "type": kind, "run_id": "r"}
        events.append({**head, "step_id": step_id, "parent_id": None, **values})
    in_order = patches(*events)
    shuffled = in_order + [chance.choice(in_order) for _ in range(3)]
    chance.shuffle(shuffled)
    assert run_view("r", shuffled) == run_view("r", in_order)


@given(st.lists(st.tuples(fields, st.randoms()), min_size=1))
def test_a_step_split_into_single_fields_folds_to_the_same(written: list[tuple[dict[str, Any], random.Random]]) -> None:
    whole, split = [], []
    for number, (values, _) in enumerate(written):
        whole.append({**changed(number), **values})
        for part, (name, value) in enumerate(values.items()):
            split.append({**changed(number), "id": f"{number}-{part}", "seq": part, name: value})
        split.append({**changed(number), "id": f"{number}-end", "seq": 99})
    written[0][1].shuffle(split)
    assert fold(patches(*split)) == fold(patches(*whole))


def test_a_step_of_one_event_has_the_row_of_its_fold() -> None:
    (patch,) = patches(step(step_type="llm_call", error={"message": "no"}, usage={"total_tokens": 7}))
    row = step_row(patch.fields)
    assert row == step_row(fold([patch]))
    assert (row.name, row.step_type, row.status, row.failed) == ("search", "llm_call", "failed", True)
    assert row.account == (Tokens(total=7), None)


@pytest.mark.parametrize(
    ("values", "tokens"),
    [
        ({}, None),
        ({"tokens_used": 5, "usage": {"total_tokens": 7}}, 5),
        ({"tokens_used": 0}, 0),
        ({"tokens_used": -3}, None),
        ({"tokens_used": -1, "usage": {"total_tokens": 7}}, 7),
        ({"tokens_used": 10**30}, 10**12),
        ({"tokens_used": None, "usage": {"total_tokens": 7.0}}, 7),
        ({"usage": {"input_tokens": 3, "output_tokens": 4}}, 7),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, 7),
        ({"usage": {"output_tokens": 4}}, 4),
        ({"usage": {"input_tokens": "many", "total_tokens": True}}, None),
        ({"usage": [1]}, None),
        ({"usage": {}}, None),
    ],
)
def test_tokens_of_a_step_come_from_its_count_or_else_its_usage(values: dict[str, Any], tokens: int | None) -> None:
    assert step_row({"time": at(1), **values}).account.tokens.total == tokens


@pytest.mark.parametrize(
    ("cost", "counted"),
    [(0.5, 0.5), (2, 2.0), (-1, None), (float("inf"), 1e6), (float("nan"), None), ("1", None), (None, None)],
)
def test_the_cost_of_a_step_is_a_number_within_bounds(cost: Any, counted: float | None) -> None:
    assert step_row({"time": at(1), "cost_usd": cost}).account.cost == counted


def test_a_cost_in_the_usage_of_a_step_counts_where_it_has_no_other() -> None:
    usage = {"input_tokens": 3, "total_cost": 0.25}
    assert step_row({"time": at(1), "usage": usage}).account.cost == 0.25
    assert step_row({"time": at(1), "usage": usage, "cost_usd": 0.5}).account.cost == 0.5
    assert step_row(fold(patches(changed(1, usage=usage)))).account.cost == 0.25


def test_fields_of_another_type_which_an_earlier_version_stored_unchecked_are_left_out_of_a_row() -> None:
    fields = {"environment": 5, "release": ["x"], "tags": [1, "a"], "agent_name": "a" * 1001}
    row = summary_of("r", {"begun": True, **row_fields(fields)}, {}).row
    assert (row["environment"], row["release"], row["tags"]) == (None, None, ["a"])
    assert step_row({"time": at(1), "model": {"name": "m"}}).model is None
    assert summary_of("r", {"begun": True, "tags": "a"}, {}).row["tags"] == []


def test_usage_is_shown_in_one_spelling_whatever_the_senders() -> None:
    sent = {"promptTokens": 3, "completion_tokens": 4, "totalTokens": 7, "service_tier": "x"}
    details = {
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1, "audio": 0},
    }
    view = run_view("r", patches(step("r", usage={**sent, **details}), run_start("r", usage={"prompt_tokens": 1})))
    shown = view["steps"][0]["usage"]
    counts = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "cache_read_tokens": 2, "reasoning_tokens": 1}
    assert shown == {**counts, "service_tier": "x", "completion_tokens_details": {"audio": 0}}
    assert view["usage"] == {"input_tokens": 1}


@pytest.mark.parametrize("usage", [None, 5, [1], {}, {"prompt_tokens": "many", "x_details": {}}])
def test_a_usage_without_counts_is_shown_as_it_was_sent(usage: Any) -> None:
    assert run_view("r", patches(step("r", usage=usage)))["steps"][0]["usage"] == usage


@pytest.mark.parametrize(
    ("values", "status", "failed"),
    [
        ({}, "running", False),
        ({"ended": True}, "completed", False),
        ({"ended": True, "error": "x"}, "failed", True),
        ({"status": "failed"}, "failed", True),
        ({"status": "error"}, "error", True),
        ({"status": "cancelled", "ended": True}, "cancelled", False),
        ({"status": "cancelled", "error": {"type": "CancelledError"}}, "cancelled", False),
        ({"status": "completed", "error": {}}, "completed", False),
    ],
)
def test_the_status_is_that_of_the_sender_else_derived_from_the_events(
    values: dict[str, Any], status: str, failed: bool
) -> None:
    row = summary_of("r", {"begun": True, **values}, {}).row
    assert (row["status"], row["failed"]) == (status, failed)


def test_a_run_is_shown_with_its_steps_in_the_order_they_started() -> None:
    late = step("r", step_id="late", started_at=at(5), ended_at=at(6.5))
    early = step("r", step_id="early", time=at(30), started_at=at(1), parent_id="late", latency_ms=3)
    view = run_view("r", patches(late, early, run_end("r"), run_start("r", input="hi", tags=["t"])))
    assert [(found["id"], found["step_index"], found["latency_ms"]) for found in view["steps"]] == [
        ("early", 0, 3),
        ("late", 1, 1500.0),
    ]
    assert (view["agent_name"], view["status"], view["duration_ms"], view["tags"]) == (
        "tester",
        "completed",
        60000,
        ["t"],
    )
    assert (view["input"], view["step_count"], view["error_count"], view["tokens_used"]) == ("hi", 2, 0, None)


def test_an_unknown_parent_is_shown_as_unattached_and_kept() -> None:
    (shown,) = run_view("r", patches(step("r", parent_id="gone")))["steps"]
    assert (shown["parent_id"], shown["unattached_parent_id"]) == (None, "gone")
    (top,) = run_view("r", patches(step("r")))["steps"]
    assert "unattached_parent_id" not in top


@pytest.mark.parametrize(
    ("parents", "attached"),
    [
        ({"a": None, "b": "a"}, {"a": None, "b": "a"}),
        ({"a": "a"}, {"a": None}),
        ({"a": "b", "b": "a"}, {"a": None, "b": "a"}),
        ({"x": "a", "a": "b", "b": "c", "c": "a"}, {"x": "a", "a": None, "b": "c", "c": "a"}),
    ],
)
def test_parents_that_lead_back_to_their_step_are_cut_once(parents: Any, attached: Any) -> None:
    assert attach(parents) == attached


@given(st.dictionaries(st.integers(0, 20).map(str), st.none() | st.integers(0, 25).map(str)))
def test_every_step_is_reachable_from_the_top(parents: dict[str, str | None]) -> None:
    attached = attach(parents)
    assert attached.keys() == parents.keys()
    for start in attached:
        here: str | None = start
        for _ in range(len(attached)):
            here = attached[here] if here is not None else None
        assert here is None


def test_a_duration_is_never_negative_and_none_while_an_end_is_missing() -> None:
    assert duration_ms(at(1), at(2.5)) == 1500
    assert duration_ms(at(2), at(1)) == 0
    assert duration_ms(at(2), None) is None
    assert duration_ms(None, at(2)) is None


@pytest.mark.parametrize("told", [[1], {"a": 1}, 5, None])
def test_a_span_id_that_is_none_hides_no_run(told: Any) -> None:
    start, *others = patches(run_start("r"), step("r"))
    view = run_view("r", [start._replace(fields={**start.fields, "span_id": told}), *others])
    assert (view["id"], view["step_count"]) == ("r", 1)
