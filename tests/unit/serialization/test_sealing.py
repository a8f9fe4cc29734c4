"""Sealed payloads: the copies that calls make of plain values, and the JSON that the worker makes of them."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import Event, PlainStep
from agentscope.pipeline.pipeline import MOST_SEALED
from agentscope.pipeline.redaction.redactor import Redactor, redacted, redacted_all
from agentscope.serialization import snapshot
from agentscope.serialization.depth import MAX_DEPTH
from agentscope.serialization.snapshot import encode, is_sealed, seal, unsealed
from tests.support.recording import recorded


@pytest.fixture(autouse=True)
def standard_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_dumps", snapshot._standard_dumps())
    monkeypatch.setattr(snapshot, "_seals", True)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**66), 2**66)
    | st.floats()
    | st.text(st.characters(codec=None), max_size=30)
)
KEYS = st.text(max_size=10) | st.binary(max_size=3) | st.integers() | st.tuples(st.integers())
VALUES = st.recursive(
    SCALARS | st.binary(max_size=10) | st.sets(st.integers(), max_size=2),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_the_json_of_a_sealed_payload_is_the_json_of_its_value(value: Any) -> None:
    sealed = seal(value, 1 << 20)
    if sealed is not None:
        assert unsealed(sealed) == encode(value)


@given(VALUES, st.integers(0, 2000))
def test_the_json_of_a_sealed_payload_keeps_to_the_limit(value: Any, limit: int) -> None:
    sealed = seal(value, limit)
    if sealed is not None:
        assert len(unsealed(sealed)[0]) <= limit


@pytest.mark.parametrize(
    "value",
    [
        "\0" * 100,
        [0.1234567890123456] * 100,
        [-(2**63)] * 100,
        [False] * 100,
        [math.nan] * 100,
        {str(i): None for i in range(100)},
        [[]] * 40,
        ["\ud800"] * 100,
    ],
    ids=["control characters", "floats", "integers", "constants", "not numbers", "keys", "lists", "surrogates"],
)
def test_the_least_limit_at_which_a_value_is_sealed_has_room_for_its_json(value: Any) -> None:
    limit = next(limit for limit in range(0, 100_000, 8) if seal(value, limit) is not None)
    assert len(unsealed(seal(value, limit) or b"")[0]) <= limit


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


class Word(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [{1, 2}, b"bytes", object(), {1: 2}, 2**64, -(2**63) - 1, Word("x"), [Word("x")], 1j, ..., deep(MAX_DEPTH + 1)],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_is_not_plain_json_is_not_sealed(value: Any) -> None:
    assert seal(value, 1 << 20) is None


def test_a_value_of_the_greatest_depth_is_sealed() -> None:
    assert unsealed(seal(deep(MAX_DEPTH), 1 << 20) or b"") == encode(deep(MAX_DEPTH))


def test_a_value_that_contains_itself_is_not_sealed() -> None:
    items: list[Any] = []
    items.append(items)
    named: dict[str, Any] = {}
    named["self"] = named
    assert seal(items, 1 << 20) is None
    assert seal(named, 1 << 20) is None


@pytest.mark.parametrize(
    "value",
    [
        "x" * (1 << 20),
        {"a": [{"b": "x" * (1 << 20)}]},
        {"k" * (1 << 20): 1},
        [0] * (1 << 20),
        [["x" * 9_999] * 99] * 99,
    ],
    ids=["string", "nested string", "key", "list", "shared"],
)
def test_a_large_value_is_not_copied(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "marshal", None)
    assert seal(value, 1 << 20) is None


def test_json_is_not_taken_for_a_sealed_payload() -> None:
    assert not any(is_sealed(encode(value)[0]) for value in ("\x80", "é", [], {}, None, 1))
    assert not is_sealed(b"")
    assert unsealed(b'{"a":1}') == (b'{"a":1}', False)


@pytest.mark.parametrize("value", [{}, [], (), "", "é", 1, 1.5, True, None], ids=repr)
def test_a_value_whose_copy_looks_like_json_is_not_sealed(value: Any) -> None:
    sealed = seal(value, 1 << 20)
    assert sealed is None or is_sealed(sealed)
    assert (sealed is None) == (value is True or value is None)


def test_nothing_is_sealed_with_orjson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_dumps", snapshot._choose_dumps)
    snapshot.prepare()
    assert seal({"a": 1}, 1 << 20) is None
    assert encode({"a": 1}) == (b'{"a":1}', False)


def test_values_are_sealed_without_orjson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orjson", None)
    monkeypatch.setattr(snapshot, "_dumps", snapshot._choose_dumps)
    snapshot.prepare()
    assert unsealed(seal({"a": 1}, 1 << 20) or b"") == (b'{"a":1}', False)


# ---- from the call to the worker


def sealed_inputs(seconds: float) -> list[bool]:
    """Queue more steps than are sealed, so many seconds apart. Tell of the input of each if it is sealed."""
    with recorded() as recording:
        worker = recording.tracker._pipeline._worker
        worker.running = True  # else the first call starts it; the flush at the end does
        with freeze_time("2026-01-31T12:00:00Z") as clock, recording.tracker.track_run("agent"):
            for number in range(MOST_SEALED + 10):
                recording.tracker.track_step("step", input_data={"n": number})
                clock.tick(seconds)
        sealed = [is_sealed(event.fields["input"]) for event in worker.queue.events if event.type == "step"]
        worker.running = False
    return sealed


def test_payloads_are_sealed_while_few_events_are_queued_and_encoded_at_the_call_under_load() -> None:
    sealed = sealed_inputs(seconds=1e-5)
    assert sealed[0]
    assert not sealed[-1]
    assert sealed == sorted(sealed, reverse=True)
    assert MOST_SEALED - 2 <= sum(sealed) <= MOST_SEALED


def test_payloads_that_come_slowly_are_sealed_however_many_are_queued() -> None:
    assert all(sealed_inputs(seconds=1e-3))


def test_a_sealed_payload_is_redacted_and_a_loss_in_it_is_marked() -> None:
    fields: dict[str, Any] = {
        "input": seal({"password": "swordfish"}, 9999),
        "output": seal([math.nan], 9999),
        "name": "step",
    }
    event = Event("step", 1, 0, "run", "step", None, fields, 100)
    masked = redacted(event, Redactor(True))
    assert isinstance(masked, Event)
    assert masked.fields == {
        "input": b'{"password":"[redacted]"}',
        "output": b'["NaN"]',
        "name": "step",
        "truncated": ["output"],
    }
    assert is_sealed(fields["input"]), "an event is never changed"


def plain(seq: int, given: bytes | None, output: bytes | None) -> PlainStep:
    return PlainStep(seq, "run", f"step {seq}", None, 100, "step", "other", 5, 6, given, output)


def test_a_plain_step_with_sealed_payloads_stays_a_plain_step() -> None:
    events = [plain(1, b'{"a":1}', None), plain(2, seal({"a": 1}, 9999), b"2"), plain(3, None, seal([1], 9999))]
    made = [event for _, event in redacted_all(events, Redactor(True), (), lambda: None)]
    assert made == [events[0], plain(2, b'{"a":1}', b"2"), plain(3, None, b"[1]")]


def test_a_plain_step_whose_payload_loses_something_becomes_an_event_that_says_so() -> None:
    ((_, made),) = redacted_all([plain(1, seal([math.nan], 9999), None)], Redactor(True), (), lambda: None)
    assert isinstance(made, Event)
    assert (made.fields["input"], made.fields["truncated"]) == (b'["NaN"]', ["input"])


def test_an_event_whose_sealed_payload_is_broken_is_dropped_and_its_neighbours_are_not() -> None:
    events = [plain(1, b"1", None), plain(2, b"\x80broken", None), plain(3, b"3", None)]
    made = [event for _, event in redacted_all(events, Redactor(True), (), lambda: None)]
    assert [event if isinstance(event, str) else event.seq for event in made] == [1, "encode_error", 3]
