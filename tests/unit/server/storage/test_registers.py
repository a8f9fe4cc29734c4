"""Registers are the fold, whatever order the patches come in, how often, and where they are written down in between."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentscope.protocols.agentscope.decode import decode_batch
from agentscope.server.storage.fold import fold
from agentscope.server.storage.registers import Registers
from tests.support.receiver import at, envelope

statuses = st.sampled_from(["running", "failed", "completed", None])
fields = st.fixed_dictionaries(
    {},
    optional={
        "status": statuses,
        "agent_name": st.sampled_from(["a", "b", None]),
        "name": st.sampled_from(["n", None]),
        "started_at": st.sampled_from([at(1), None]),
        "parent_id": st.sampled_from(["p", "q", None]),
        "input": st.sampled_from([1, {}, None]),
        "meta_data": st.none() | st.just([1]) | st.dictionaries(st.sampled_from("xyz"), st.integers(0, 3), max_size=3),
        "tags": st.sampled_from([["a"], ["b", "c"], [], None]),
        "truncated": st.sampled_from([["a"], ["b", "c"], [], None]),
        "user_id": st.sampled_from(["u", None]),
        "span_id": st.sampled_from(["1" * 16, "2" * 16]),
        "step_type": st.sampled_from(["agent", "other"]),
        "usage": st.sampled_from([{"total_tokens": 3}, None]),
    },
)
logs = st.lists(
    st.tuples(st.sampled_from(["start", "update", "end"]), st.integers(0, 5), fields), min_size=1, max_size=10
)


@given(logs, st.sampled_from([None, "s"]), st.data())
def test_registers_equal_the_fold_of_the_same_patches_in_any_order(
    log: list[Any], step_id: str | None, data: st.DataObject
) -> None:
    events = [
        {
            "id": f"e{number}",
            "seq": number % 3,
            "time": at(second),
            "run_id": "r",
            "step_id": step_id,
            "type": f"{'run' if step_id is None else 'step'}.{kind}",
            "parent_id": None,
            **values,
        }
        for number, (kind, second, values) in enumerate(log)
    ]
    batch = decode_batch(json.dumps(envelope(*events)).encode())
    assert not batch.rejected
    order = data.draw(st.permutations([*batch.patches, *batch.patches[:2]]))
    registers = Registers()
    for patch in order:
        registers.add(patch)
        if data.draw(st.booleans()):
            registers = Registers.load(registers.dump())
    assert registers.fields() == fold(batch.patches)


def test_nothing_is_the_fold_of_no_patch() -> None:
    assert Registers().fields() == Registers.load(Registers().dump()).fields() == {}


@given(st.permutations(range(40)))
def test_a_step_that_starts_and_ends_many_times_has_the_status_of_its_fold(order: list[int]) -> None:
    kinds = ["step.start", "step.end", "step.start", "step.update"]
    events = [
        {
            "id": f"e{number}",
            "seq": number,
            "time": at(number),
            "run_id": "r",
            "step_id": "s",
            "parent_id": None,
            "type": kinds[number % 4],
            **({"status": f"s{number % 7}"} if number % 3 else {}),
        }
        for number in order
    ]
    patches = decode_batch(json.dumps(envelope(*events)).encode()).patches
    assert Registers(patches).fields() == fold(patches)
