"""Sealed payloads: copies made at the call, of which the worker makes the JSON that the call would have made."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import Event
from agentscope.pipeline.pipeline import MOST_SEALED
from agentscope.pipeline.redaction.redactor import Redactor
from agentscope.pipeline.redaction.sanitize import clean
from agentscope.serialization import snapshot
from agentscope.serialization.fallback import MAX_DEPTH
from agentscope.serialization.snapshot import encode, is_sealed, opened, seal
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
def test_what_is_opened_is_what_the_call_would_have_encoded(value: Any) -> None:
    sealed = seal(value, 1 << 20)
    if sealed is not None:
        assert opened(sealed) == encode(value)


@given(VALUES, st.integers(0, 2000))
def test_what_is_sealed_never_opens_to_more_than_the_limit(value: Any, limit: int) -> None:
    sealed = seal(value, limit)
    if sealed is not None:
        assert len(opened(sealed)[0]) <= limit


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
def test_the_least_limit_under_which_something_is_sealed_holds_it(value: Any) -> None:
    limit = next(limit for limit in range(0, 100_000, 8) if seal(value, limit) is not None)
    assert len(opened(seal(value, limit) or b"")[0]) <= limit


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
def test_what_is_not_plain_is_not_sealed(value: Any) -> None:
    assert seal(value, 1 << 20) is None


def test_what_is_as_deep_as_may_be_is_sealed() -> None:
    assert opened(seal(deep(MAX_DEPTH), 1 << 20) or b"") == encode(deep(MAX_DEPTH))


def test_what_holds_itself_is_not_sealed() -> None:
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
def test_what_is_large_is_not_even_copied(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "marshal", None)
    assert seal(value, 1 << 20) is None


def test_a_sealed_payload_cannot_be_taken_for_json() -> None:
    assert not any(is_sealed(encode(value)[0]) for value in ("\x80", "é", [], {}, None, 1))
    assert not is_sealed(b"")
    assert opened(b'{"a":1}') == (b'{"a":1}', False)


@pytest.mark.parametrize("value", [{}, [], (), "", "é", 1, 1.5, True, None], ids=repr)
def test_what_marshal_does_not_tell_from_json_is_left_to_the_encoder(value: Any) -> None:
    sealed = seal(value, 1 << 20)
    assert sealed is None or is_sealed(sealed)
    assert (sealed is None) == (value is True or value is None)


def test_with_orjson_nothing_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_seals", None)
    assert seal({"a": 1}, 1 << 20) is None
    assert encode({"a": 1}) == (b'{"a":1}', False)


def test_without_orjson_the_first_value_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orjson", None)
    monkeypatch.setattr(snapshot, "_seals", None)
    assert opened(seal({"a": 1}, 1 << 20) or b"") == (b'{"a":1}', False)


# ---- on its way


def test_what_is_changed_after_the_call_is_sent_as_it_was() -> None:
    with recorded() as recording, recording.tracker.track_run("agent"):
        given: dict[str, Any] = {"messages": [{"role": "user"}]}
        with recording.tracker.track_step_context("step", input_data=given) as step:
            given["messages"][0]["role"] = "changed"
            step.output = given
        given["messages"].clear()
        told = recording.step()
    assert told["input"] == {"messages": [{"role": "user"}]}
    assert told["output"] == {"messages": [{"role": "changed"}]}


def queued(seconds: float) -> list[dict[str, Any]]:
    """The fields of more steps than are sealed, as they are queued, when so long passes between two calls."""
    with recorded() as recording:
        worker = recording.tracker._pipeline._worker
        worker.running = True  # as far as anybody can see; the flush at the end starts it
        with freeze_time("2026-01-31T12:00:00Z") as clock, recording.tracker.track_run("agent"):
            for number in range(MOST_SEALED + 10):
                recording.tracker.track_step("step", input_data={"n": number})
                clock.tick(seconds)
        fields = [event.fields for event in worker.queue.events if event.type == "step"]
        worker.running = False
    return fields


def test_payloads_are_sealed_while_few_events_are_queued_and_encoded_at_the_call_under_load() -> None:
    sealed = [is_sealed(fields["input"]) for fields in queued(seconds=1e-5)]
    assert sealed[0]
    assert not sealed[-1]
    assert sealed == sorted(sealed, reverse=True)
    assert MOST_SEALED - 2 <= sum(sealed) <= MOST_SEALED


def test_payloads_are_sealed_however_many_are_queued_while_they_come_slowly() -> None:
    assert all(is_sealed(fields["input"]) for fields in queued(seconds=1e-3))


def test_redaction_sees_json_and_what_was_lost_is_marked() -> None:
    fields = {"input": seal({"password": "swordfish"}, 9999), "output": seal([math.nan], 9999), "name": "step"}
    event = Event("step", 1, 0, "run", "step", None, fields, 100)
    cleaned = clean(event, Redactor(True))
    assert isinstance(cleaned, Event)
    assert cleaned.fields == {
        "input": b'{"password":"[redacted]"}',
        "output": b'["NaN"]',
        "name": "step",
        "truncated": ["output"],
    }
    assert is_sealed(fields["input"]), "an event is never changed"
