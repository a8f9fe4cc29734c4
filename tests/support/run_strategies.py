"""Hypothesis strategies for whole runs as events of a client, and their form after the batch call."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from agentscope.events import RUN_END, RUN_START, RUN_UPDATE, STEP, STEP_END, STEP_START, STEP_UPDATE, Event
from agentscope.protocols.agentscope.decode import decode_batch
from agentscope.protocols.json_encode import event_json
from agentscope.server.storage.fold import run_view
from tests.support.events import NOON, SESSION
from tests.support.receiver import envelope

KEYS = ["a", "snake_key", "camelKey", "usage", "error", "agentscope", "id", "agentId", "displayName", "_", "x__y", "ü"]
TYPES = ["llm_call", "tool_call", "agent", "memory", "retrieval", "reasoning", "other", "of their own"]
ENDS = ["completed", "failed", "cancelled", "unfinished", "of their own"]

words = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | words, inner, max_size=4),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(KEYS), values, max_size=4)
counts = st.fixed_dictionaries(
    {}, optional={"prompt_tokens": st.integers(0, 99), "output_tokens": st.integers(0, 9), "total_tokens": values}
)


def encoded(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return strategy.map(lambda value: json.dumps(value, ensure_ascii=False).encode())


names = st.sampled_from(["search", "Plan trip", "ü"]) | words.filter(bool)
some = {
    "input": encoded(objects | values),
    "output": encoded(objects | values),
    "error": encoded(objects | values | st.just({"type": "E", "message": "m", "traceback": "t"})),
    "usage": encoded(counts | values),
    "meta_data": encoded(objects | values),
    "truncated": st.lists(st.sampled_from(["input", "output"]), unique=True),
}
moments = st.integers(0, 10**12).map(lambda number: NOON + number)
run_starts = st.fixed_dictionaries(
    {"agent_name": names, "status": st.just("running"), "started_at": moments},
    optional={
        "external_id": words,
        "user_id": words,
        "conversation_id": words,
        "source": st.just("voltagent"),
        "tags": st.lists(words, max_size=3),
        "environment": words,
        "release": words,
        **{name: some[name] for name in ("input", "meta_data", "truncated")},
    },
)
run_updates = st.fixed_dictionaries({}, optional={"status": st.just("running"), "tags": st.lists(words), **some})
run_ends = st.fixed_dictionaries({"status": st.sampled_from(ENDS), "ended_at": moments}, optional=some)
step_starts = st.fixed_dictionaries(
    {"name": names, "step_type": st.sampled_from(TYPES), "status": st.just("running"), "started_at": moments},
    optional={name: some[name] for name in ("input", "meta_data", "truncated")},
)
step_updates = st.fixed_dictionaries(
    {}, optional={"status": st.sampled_from(["running", *ENDS]), "level": st.sampled_from(["INFO", "odd"]), **some}
)
step_ends = st.fixed_dictionaries(
    {"status": st.sampled_from(ENDS), "ended_at": moments},
    optional={
        "tokens_used": st.integers(0, 10**6),
        "latency_ms": st.floats(0, 1e6) | st.integers(0, 9),
        "model": words,
        "provider": words,
        "cost_usd": st.floats(0, 1e6) | st.integers(0, 9),
        "first_token_ms": st.floats(0, 1e6),
        **some,
    },
)


@st.composite
def whole_runs(draw: st.DrawFn) -> list[Event]:
    """All events of a run, in order. Nested steps are a start and an end, or one event at their end."""
    events: list[tuple[str, str | None, str | None, dict[str, Any]]] = [(RUN_START, None, None, draw(run_starts))]
    open_steps: list[tuple[str, str | None, dict[str, Any], bool]] = []
    # Steps that start at the same time would be shown in order of arrival, so no two do here.
    starts = draw(st.permutations(range(8)))
    for number in range(draw(st.integers(0, 8))):
        if open_steps and draw(st.booleans()):
            end_step(draw, events, open_steps.pop(draw(st.integers(0, len(open_steps) - 1))))
        step_id = f"step-{number}"
        parent = draw(st.sampled_from([None, "lost", *(f"step-{earlier}" for earlier in range(number))]))
        whole = draw(st.booleans())
        start = {**draw(step_starts), "started_at": NOON + starts[number] * 1_000_000}
        if not whole:
            events.append((STEP_START, step_id, parent, start))
        if not whole and draw(st.booleans()):
            events.append((STEP_UPDATE, step_id, parent, draw(step_updates)))
        if draw(st.booleans()):
            events.append((RUN_UPDATE, None, None, draw(run_updates)))
        open_steps.append((step_id, parent, start, whole))
    for step in open_steps[: draw(st.integers(0, len(open_steps)))]:
        end_step(draw, events, step)
    if draw(st.booleans()):
        events.append((RUN_END, None, None, draw(run_ends)))
    return [
        Event(type_, seq, NOON + seq * 1000, "run-1", step_id, parent, fields, 100)
        for seq, (type_, step_id, parent, fields) in enumerate(events, 1)
    ]


def end_step(draw: st.DrawFn, events: list[Any], step: tuple[str, str | None, dict[str, Any], bool]) -> None:
    step_id, parent, start, whole = step
    end = draw(step_ends)
    repeated = {name: start[name] for name in ("name", "step_type", "started_at")}
    events.append((STEP if whole else STEP_END, step_id, parent, {**(start if whole else repeated), **end}))


def by_batch(events: list[Event]) -> dict[str, Any]:
    """The run as the receiver folds it after the batch call."""
    items = [json.loads(event_json(event, SESSION)) for event in events]
    decoded = decode_batch(json.dumps(envelope(*items)).encode())
    assert decoded.rejected == []
    return run_view("run-1", decoded.patches)
