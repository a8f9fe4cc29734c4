"""From what a caller passed to the fields of an event."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.tracker.fields import LONGEST_NAME, Encoded, Fields
from agentscope.types import RUN_STATUSES, STEP_TYPES
from tests.support.hostile_objects import HOSTILE, OddDict, Trap


class Word(str, enum.Enum):
    TOOL = "tool_call"
    FAILED = "failed"


@pytest.fixture
def fields() -> Fields:
    return Fields(1 << 20, {})


def kinds(fields: Fields) -> list[str]:
    return [kind for kind, _ in fields.mended]


def test_a_payload_is_encoded_as_it_is_at_this_moment(fields: Fields) -> None:
    value = {"a": [1]}
    fields.payload("input", value)
    value["a"].append(2)
    assert fields.values == {"input": b'{"a":[1]}'}
    assert fields.size == 9


def test_none_is_not_set(fields: Fields) -> None:
    fields.payload("input", None)
    fields.error(None)
    fields.number("tokens_used", None)
    fields.milliseconds("latency_ms", None)
    fields.name("external_id", None)
    assert fields.values == {}
    assert fields.mended == []


def test_a_payload_that_lost_something_is_marked(fields: Fields) -> None:
    fields.payload("input", float("nan"))
    fields.payload("output", "whole")
    fields.payload("usage", float("inf"))
    assert fields.values["truncated"] == ["input", "usage"]


def test_a_payload_is_cut_to_the_limit() -> None:
    fields = Fields(256, {})
    fields.payload("input", "x" * 10_000)
    assert len(fields.values["input"]) <= 256
    assert fields.values["truncated"] == ["input"]


def test_what_was_encoded_before_is_taken_as_it_is(fields: Fields) -> None:
    fields.payload("output", Encoded(b"[1]", False))
    fields.payload("input", Encoded(b"[2]", True))
    assert fields.values == {"output": b"[1]", "input": b"[2]", "truncated": ["input"]}


def test_an_exception_is_told_by_type_message_and_traceback(fields: Fields) -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        fields.error(error)
    told = json.loads(fields.values["error"])
    assert (told["type"], told["message"]) == ("ValueError", "no")
    assert "test_fields.py" in told["traceback"]


def test_any_other_error_is_a_payload(fields: Fields) -> None:
    fields.error({"code": 5})
    assert fields.values["error"] == b'{"code":5}'


@pytest.mark.parametrize(
    ("value", "told", "mended"),
    [
        ("search", "search", []),
        ("", "", []),
        (Word.TOOL, "tool_call", []),
        ("nul\0 and \ud800", "nul� and �", []),
        (5, "5", ["wrong_type"]),
        (["a"], "['a']", ["wrong_type"]),
        (b"a", "b'a'", ["wrong_type"]),
    ],
)
def test_a_name_is_a_text_or_made_one(fields: Fields, value: Any, told: str, mended: list[str]) -> None:
    fields.name("name", value)
    assert fields.values == {"name": told}
    assert type(fields.values["name"]) is str
    assert kinds(fields) == mended


def test_a_name_is_read_past_what_its_class_makes_of_it(fields: Fields) -> None:
    fields.name("name", Trap("search"))
    assert fields.values == {"name": "search"}
    assert fields.mended == []


def test_a_long_name_is_cut_and_charged(fields: Fields) -> None:
    fields.name("name", "x" * 100_000)
    assert len(fields.values["name"]) == LONGEST_NAME == fields.size


def test_a_name_that_must_be_there_gets_its_default_and_that_is_said(fields: Fields) -> None:
    fields.name("agent_name", None, default="unknown")
    assert fields.values == {"agent_name": "unknown"}
    assert kinds(fields) == ["wrong_type"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, 0),
        (42, 42),
        (-1, -1),
        (2**63 - 1, 2**63 - 1),
        (41.6, 42),
        (numpy.int64(7), 7),
        (numpy.float64(7.2), 7),
        (numpy.float32(7.5), 8),
        (Decimal("7.9"), 8),
        (Fraction(7, 2), 4),
        (enum.IntEnum("Count", {"SEVEN": 7})["SEVEN"], 7),
    ],
)
def test_a_number_of_any_kind_is_a_whole_number(fields: Fields, value: Any, told: int) -> None:
    fields.number("tokens_used", value)
    assert fields.values == {"tokens_used": told}
    assert type(fields.values["tokens_used"]) is int
    assert fields.mended == []


@pytest.mark.parametrize(
    "value",
    [
        *(True, "7", b"7", [7], {}, 7j, 2**63, -(2**63), 1e300, float("nan"), float("inf"), Decimal("sNaN"), object()),
        *(numpy.array([1, 2]), numpy.array([])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_number_is_left_out_and_that_is_said(fields: Fields, value: Any) -> None:
    fields.number("tokens_used", value)
    fields.milliseconds("latency_ms", value)
    assert fields.values == {}
    assert kinds(fields) == ["wrong_type", "wrong_type"]


@pytest.mark.parametrize("make", HOSTILE)
def test_nothing_breaks_whatever_the_number_is(fields: Fields, make: Callable[[], Any]) -> None:
    fields.number("tokens_used", make())
    fields.milliseconds("latency_ms", make())
    assert fields.values.get("tokens_used", 1) == 1


@pytest.mark.parametrize("error", [SystemExit, ValueError, GeneratorExit])
def test_a_number_that_raises_is_left_out(fields: Fields, error: type[BaseException]) -> None:
    class Number:
        def __index__(self) -> int:
            raise error

    fields.number("tokens_used", Number())
    assert kinds(fields) == ["wrong_type"]


def test_only_ctrl_c_gets_through_a_number(fields: Fields) -> None:
    class Number:
        def __float__(self) -> float:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fields.number("tokens_used", Number())


@pytest.mark.parametrize(("value", "told"), [(12, 12), (0.0125, 0.013), (3.14159, 3.142), (numpy.float32(0.5), 0.5)])
def test_a_duration_is_kept_to_the_microsecond(fields: Fields, value: Any, told: float) -> None:
    fields.milliseconds("latency_ms", value)
    assert fields.values == {"latency_ms": told}


@pytest.mark.parametrize("value", sorted(STEP_TYPES))
def test_every_step_type_is_kept(fields: Fields, value: str) -> None:
    fields.step_type(value, {"a": 1})
    assert fields.values == {"step_type": value, "meta_data": b'{"a":1}'}


def test_a_member_of_an_enumeration_is_the_text_it_holds(fields: Fields) -> None:
    fields.step_type(Word.TOOL, None)
    fields.status(Word.FAILED, failed=False)
    assert fields.values == {"step_type": "tool_call", "status": "failed"}
    assert [type(value) for value in fields.values.values()] == [str, str]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: None, {"step_type": "guess"}),
        (lambda: {"a": 1}, {"a": 1, "step_type": "guess"}),
        (lambda: OddDict(a=1), {"a": 1, "step_type": "guess"}),
        (lambda: ["a"], {"value": ["a"], "step_type": "guess"}),
    ],
)
def test_an_unknown_step_type_becomes_other_and_is_kept_in_the_meta_data(
    fields: Fields, make: Callable[[], Any], told: Any
) -> None:
    fields.step_type("guess", make())
    assert fields.values["step_type"] == "other"
    assert json.loads(fields.values["meta_data"]) == told
    assert kinds(fields) == ["unknown_step_type"]
    assert "llm_call" in fields.mended[0][1]


@pytest.mark.parametrize(("error", "told"), [(SystemExit, ["step_type", "value"]), (KeyboardInterrupt, None)])
def test_a_key_that_raises_costs_no_more_than_itself(
    fields: Fields, error: type[BaseException], told: list[str] | None
) -> None:
    class Key:
        armed = False

        def __hash__(self) -> int:
            if self.armed:
                raise error
            return 1

    key = Key()
    meta_data = {key: 1}
    key.armed = True
    if told is None:
        with pytest.raises(error):
            fields.step_type("guess", meta_data)
    else:
        fields.step_type("guess", meta_data)
        assert sorted(json.loads(fields.values["meta_data"])) == told


def test_the_callers_meta_data_is_not_changed(fields: Fields) -> None:
    meta_data = {"a": 1}
    fields.step_type("guess", meta_data)
    assert meta_data == {"a": 1}


@pytest.mark.parametrize("make", [*HOSTILE, lambda: None, lambda: 5, lambda: ["llm_call"], lambda: "LLM_CALL"])
def test_a_step_type_of_any_kind_becomes_other(fields: Fields, make: Callable[[], Any]) -> None:
    fields.step_type(make(), make())
    assert fields.values["step_type"] == "other"


@pytest.mark.parametrize("value", sorted(RUN_STATUSES - {"running"}))
def test_a_run_ends_as_it_is_said(fields: Fields, value: str) -> None:
    fields.status(value, failed=False)
    assert fields.values == {"status": value}
    assert fields.mended == []


@pytest.mark.parametrize("value", sorted(RUN_STATUSES - {"running"}))
def test_a_run_with_an_error_has_failed(fields: Fields, value: str) -> None:
    fields.status(value, failed=True)
    assert fields.values == {"status": "failed"}
    assert fields.mended == []


@pytest.mark.parametrize("make", [*HOSTILE, lambda: "running", lambda: "done", lambda: None])
@pytest.mark.parametrize(("failed", "told"), [(True, "failed"), (False, "completed")])
def test_a_run_that_ends_as_anything_else_ends_as_what_fits(
    fields: Fields, make: Callable[[], Any], failed: bool, told: str
) -> None:
    fields.status(make(), failed=failed)
    assert fields.values == {"status": told}
    assert kinds(fields) == ["unknown_status"]


def test_a_step_has_all_of_its_parts(fields: Fields) -> None:
    fields.step("search", "tool_call", {"hits": 3}, "broken", 5, {"a": 1})
    assert fields.values == {
        "name": "search",
        "step_type": "tool_call",
        "output": b'{"hits":3}',
        "error": b'"broken"',
        "tokens_used": 5,
        "meta_data": b'{"a":1}',
    }


@given(st.text())
def test_any_text_is_a_name_that_can_be_sent(text: str) -> None:
    fields = Fields(1024, {})
    fields.name("name", text)
    assert len(fields.values["name"]) <= LONGEST_NAME
    assert "\0" not in fields.values["name"]
    fields.values["name"].encode()
