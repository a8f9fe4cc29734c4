"""Starts, updates and ends are merged into one event, for protocols that send runs and steps as a whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import (
    RUN,
    RUN_END,
    RUN_START,
    RUN_UPDATE,
    STEP,
    STEP_END,
    STEP_START,
    STEP_UPDATE,
    Event,
    in_full,
)
from agentscope.protocols.assemble import joined, merged
from tests.support.events import batch, event, opened, plain_step, run_of


def on(step_id: str, seq: int, type_: str, **fields: Any) -> Event:
    return event(seq, type_, **fields)._replace(step_id=step_id)


def test_a_start_waits_for_its_end() -> None:
    start, end = opened(1, 2, "a")
    assert joined(batch([start])) == ([], [1])
    sent = batch([end])
    sent.parked = {("run-1", "a"): [start]}
    (whole,), waiting = joined(sent)
    assert (whole.event.type, whole.event.step_id, whole.seqs, waiting) == (STEP, "a", (1, 2), [])
    assert whole.event.fields["started_at"] == start.fields["started_at"]
    assert whole.event.fields["status"] == "completed"


def test_a_run_is_joined_from_its_start_its_updates_and_its_end() -> None:
    update = event(2, RUN_UPDATE, tags=["a"])
    (whole,), waiting = joined(batch([event(1, RUN_START), update, event(3, RUN_END)]))
    assert (whole.event.type, whole.seqs, waiting) == (RUN, (1, 2, 3), [])
    assert whole.event.fields == {"agent_name": "agent", "tags": ["a"], "status": "completed"}


def test_a_finished_step_is_whole_by_itself() -> None:
    wholes, waiting = joined(batch(run_of(2)[1:3]))
    assert [whole.seqs for whole in wholes] == [(2,), (3,)]
    assert waiting == []


def test_a_plain_step_is_joined_in_full() -> None:
    plain = plain_step(3, b"[1]", b"2")
    for runs in (True, False):
        (whole,), _ = joined(batch([plain]), runs=runs)
        assert whole.event == in_full(plain)
        assert whole.event.fields["latency_ms"] == 0.002


def test_what_is_closed_is_sent_as_it_is() -> None:
    start, _ = opened(1, 9, "a")
    sent = batch([on("a", 3, STEP_UPDATE, input=b"1")])
    sent.parked, sent.closing = {("run-1", "a"): [start]}, {("run-1", "a")}
    (whole,), waiting = joined(sent)
    assert (whole.seqs, waiting) == ((1, 3), [])
    assert whole.event.fields["status"] == "running"


def test_runs_stay_single_where_only_steps_are_joined() -> None:
    start, end = opened(2, 3, "a")
    wholes, waiting = joined(batch([event(1, RUN_START), start, end, event(4, RUN_END)]), runs=False)
    assert [(whole.event.type, whole.seqs) for whole in wholes] == [
        (RUN_START, (1,)),
        (STEP, (2, 3)),
        (RUN_END, (4,)),
    ]
    assert waiting == []


def test_later_values_count_and_objects_in_meta_data_are_merged() -> None:
    parts = [
        on("a", 1, STEP_START, input=b"1", meta_data=b'{"a":1,"b":1}', truncated=["input"]),
        on("a", 2, STEP_UPDATE, input=b"2", meta_data=b'{"b":2}'),
        on("a", 3, STEP_END, output=b"3", truncated=["output"]),
    ]
    fields = merged(parts).fields
    assert (fields["input"], fields["output"], fields["truncated"]) == (b"2", b"3", ["input", "output"])
    assert json.loads(fields["meta_data"]) == {"a": 1, "b": 2}


@pytest.mark.parametrize(("one", "other"), [(b"[1]", b"{}"), (b"{}", b"2"), (b"{", b"{}")])
def test_meta_data_that_is_no_object_is_replaced(one: bytes, other: bytes) -> None:
    parts = [on("a", 1, STEP_START, meta_data=one), on("a", 2, STEP_END, meta_data=other)]
    assert merged(parts).fields["meta_data"] == other


def test_a_parent_that_only_one_of_them_names_is_the_parent() -> None:
    parts = [on("a", 1, STEP_START)._replace(parent_id="p"), on("a", 2, STEP_END)]
    assert merged(parts).parent_id == "p"


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([STEP_START, STEP_UPDATE, STEP_END, STEP])), max_size=12)
)
def test_every_event_is_sent_once_or_waits(steps: list[tuple[str, str]]) -> None:
    events = [on(step_id, seq, type_) for seq, (step_id, type_) in enumerate(steps)]
    wholes, waiting = joined(batch(events))
    seqs = [seq for whole in wholes for seq in whole.seqs]
    assert sorted(seqs + waiting) == [event.seq for event in events]
    ended = {step_id for step_id, type_ in steps if type_ in (STEP_END, STEP)}
    assert {whole.event.step_id for whole in wholes} == ended
