"""The fields of an event, made of the values that a caller passed."""

from __future__ import annotations

import ast
import asyncio
import enum
import inspect
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentscope.events
from agentscope import Run, Step
from agentscope.events import RUN_FIELDS, STEP_FIELDS, Field
from agentscope.tracker.fields import LONGEST_NAME, Encoded, Fields, outcome
from agentscope.types import RUN_STATUSES, STEP_TYPES
from tests.support.hostile_objects import HOSTILE, FailingText, OddDict


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
    fields.give(STEP_FIELDS, "latency_ms", None)
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


def test_an_encoded_payload_is_kept_unchanged(fields: Fields) -> None:
    fields.payload("output", Encoded(b"[1]", False))
    fields.payload("input", Encoded(b"[2]", True))
    assert fields.values == {"output": b"[1]", "input": b"[2]", "truncated": ["input"]}


def test_an_exception_is_recorded_with_type_message_and_traceback(fields: Fields) -> None:
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
    fields.name("name", FailingText("search"))
    assert fields.values == {"name": "search"}
    assert fields.mended == []


def test_a_long_name_is_cut_and_charged(fields: Fields) -> None:
    fields.name("name", "x" * 100_000)
    assert len(fields.values["name"]) == LONGEST_NAME == fields.size


def test_a_missing_required_name_gets_its_default_with_a_log_line(fields: Fields) -> None:
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
def test_an_invalid_number_is_left_out_with_a_log_line(fields: Fields, value: Any) -> None:
    fields.number("tokens_used", value)
    fields.give(STEP_FIELDS, "latency_ms", value)
    assert fields.values == {}
    assert kinds(fields) == ["wrong_type", "wrong_type"]


@pytest.mark.parametrize("make", HOSTILE)
def test_nothing_breaks_whatever_the_number_is(fields: Fields, make: Callable[[], Any]) -> None:
    fields.number("tokens_used", make())
    fields.give(STEP_FIELDS, "latency_ms", make())
    assert fields.values.get("tokens_used", 1) == 1


@pytest.mark.parametrize("error", [TimeoutError, ValueError])
def test_a_number_that_raises_is_left_out(fields: Fields, error: type[Exception]) -> None:
    class Number:
        def __index__(self) -> int:
            raise error

    fields.number("tokens_used", Number())
    assert kinds(fields) == ["wrong_type"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_goes_through_a_number(fields: Fields, error: type[BaseException]) -> None:
    class Number:
        def __float__(self) -> float:
            raise error

    with pytest.raises(error):
        fields.number("tokens_used", Number())


@pytest.mark.parametrize(("value", "told"), [(12, 12), (0.0125, 0.013), (3.14159, 3.142), (numpy.float32(0.5), 0.5)])
def test_a_duration_is_kept_to_the_microsecond(fields: Fields, value: Any, told: float) -> None:
    fields.give(STEP_FIELDS, "latency_ms", value)
    assert fields.values == {"latency_ms": told}


@pytest.mark.parametrize("value", sorted(STEP_TYPES))
def test_every_step_type_is_kept(fields: Fields, value: str) -> None:
    fields.step_type(value, {"a": 1})
    assert fields.values == {"step_type": value, "meta_data": b'{"a":1}'}


def test_a_member_of_an_enumeration_is_the_text_it_holds(fields: Fields) -> None:
    fields.step_type(Word.TOOL, None)
    fields.status(Word.FAILED, None)
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


@pytest.mark.parametrize(("error", "told"), [(ValueError, ["step_type", "value"]), (SystemExit, None)])
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
def test_a_run_ends_with_the_given_status(fields: Fields, value: str) -> None:
    fields.status(value, None)
    assert fields.values == {"status": value}
    assert fields.mended == []


@pytest.mark.parametrize(("value", "told"), [("completed", "failed"), ("failed", "failed"), ("cancelled", "cancelled")])
def test_a_run_with_an_error_has_failed_unless_it_was_cancelled(fields: Fields, value: str, told: str) -> None:
    fields.status(value, "an error")
    assert fields.values == {"status": told}
    assert fields.mended == []


@pytest.mark.parametrize("make", [*HOSTILE, lambda: "running", lambda: "done", lambda: None])
@pytest.mark.parametrize(("failed", "told"), [(True, "failed"), (False, "completed")])
def test_a_run_that_ends_as_anything_else_ends_as_what_fits(
    fields: Fields, make: Callable[[], Any], failed: bool, told: str
) -> None:
    fields.status(make(), "an error" if failed else None)
    assert fields.values == {"status": told}
    assert kinds(fields) == ["unknown_status"]


def test_a_step_has_a_name_a_type_and_meta_data(fields: Fields) -> None:
    fields.step("search", "tool_call", {"a": 1})
    assert fields.values == {"name": "search", "step_type": "tool_call", "meta_data": b'{"a":1}'}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("model", "gpt-5", "gpt-5"),
        ("provider", "openai", "openai"),
        ("usage", {"input_tokens": 3}, b'{"input_tokens":3}'),
        ("cost_usd", 0.0123456789012, 0.012345679),
        ("cost_usd", 1, 1),
        ("first_token_ms", 12.34567, 12.346),
        ("tokens_used", 4.0, 4),
        ("output", None, None),
    ],
)
def test_a_field_is_recorded_by_the_type_that_the_table_has_for_it(
    fields: Fields, name: str, value: Any, told: Any
) -> None:
    fields.give(STEP_FIELDS, name, value)
    assert fields.values == ({} if told is None else {name: told})
    assert fields.mended == []


@pytest.mark.parametrize(
    ("name", "value", "told", "words"),
    [
        ("model", 5, "5", "model takes a str"),
        ("cost_usd", "cheap", None, "cost_usd takes a number"),
        ("cost_usd", float("inf"), None, "cost_usd takes a number"),
        ("first_token_ms", [1], None, "first_token_ms takes a number"),
    ],
)
def test_a_value_of_a_wrong_type_is_converted_or_left_out_with_a_log_line(
    fields: Fields, name: str, value: Any, told: Any, words: str
) -> None:
    fields.give(STEP_FIELDS, name, value)
    assert fields.values == ({} if told is None else {name: told})
    assert kinds(fields) == ["wrong_type"]
    assert fields.mended[0][1].startswith(words)


@pytest.mark.parametrize("name", [name for name, field in {**STEP_FIELDS, **RUN_FIELDS}.items() if field.given])
@pytest.mark.parametrize("make", HOSTILE)
def test_no_field_breaks_whatever_its_value_is(fields: Fields, name: str, make: Callable[[], Any]) -> None:
    fields.give(STEP_FIELDS if name in STEP_FIELDS else RUN_FIELDS, name, make())
    assert set(fields.values) <= {name, "truncated"}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (["a", "b"], ["a", "b"]),
        (("a",), ["a"]),
        ("a", ["a"]),
        ([1, None], ["1", "None"]),
        ([], []),
        (["x" * 2000], ["x" * 1023 + "…"]),
    ],
)
def test_tags_are_a_bounded_list_of_texts(fields: Fields, value: Any, told: list[str]) -> None:
    fields.give(RUN_FIELDS, "tags", value)
    assert fields.values == {"tags": told}


def test_an_invalid_list_of_texts_is_left_out_with_a_log_line(fields: Fields) -> None:
    fields.give(RUN_FIELDS, "tags", 5)
    assert fields.values == {}
    assert fields.mended == [("wrong_type", "tags takes a list of str; another value is left out")]


@pytest.mark.parametrize(
    ("table", "name", "meant"),
    [
        (STEP_FIELDS, "outputs", "output"),
        (STEP_FIELDS, "tokens", "tokens_used"),
        (STEP_FIELDS, "cost", "cost_usd"),
        (RUN_FIELDS, "user", "user_id"),
        (RUN_FIELDS, "conversation", "conversation_id"),
    ],
)
def test_a_misspelt_field_is_noted_with_the_nearest_right_name(
    fields: Fields, table: Mapping[str, Field], name: str, meant: str
) -> None:
    fields.give(table, name, 1)
    assert fields.values == {}
    assert kinds(fields) == ["unknown_field"]
    assert fields.mended[0][1].endswith(f"did you mean {meant!r}?")


@pytest.mark.parametrize("name", ["status", "started_at", "span_id", "qqq"])
def test_fields_that_callers_cannot_set_are_counted_as_unknown(fields: Fields, name: str) -> None:
    fields.give(RUN_FIELDS, name, 1)
    assert fields.values == {}
    assert kinds(fields) == ["unknown_field"]


@pytest.mark.parametrize(
    ("error", "told"),
    [(None, "completed"), (ValueError(), "failed"), ("broken", "failed"), (asyncio.CancelledError(), "cancelled")],
)
def test_the_status_of_an_end_follows_from_its_error(error: Any, told: str) -> None:
    assert outcome(error) == told


@pytest.mark.parametrize(("kind", "table"), [("RunFields", RUN_FIELDS), ("StepFields", STEP_FIELDS)])
def test_every_keyword_is_a_field_of_the_table(kind: str, table: Mapping[str, Field]) -> None:
    source = ast.parse(inspect.getsource(agentscope.events))  # only a type checker sees the class itself
    (found,) = [node for node in ast.walk(source) if isinstance(node, ast.ClassDef) and node.name == kind]
    names = [
        node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    assert names
    assert [name for name in names if not table[name].given] == []


@pytest.mark.parametrize(("kind", "table"), [(Run, RUN_FIELDS), (Step, STEP_FIELDS)])
def test_every_field_that_callers_set_is_an_attribute_of_its_handle(kind: type, table: Mapping[str, Field]) -> None:
    assert {name for name, field in table.items() if field.given and getattr(kind, name, 0) is not None} == set()


@pytest.mark.parametrize("name", ["name", "step_type", "started_at", "input", "output"])
def test_a_plain_step_has_fields_of_the_table(name: str) -> None:
    assert name in STEP_FIELDS


@given(st.text())
def test_any_text_is_a_name_that_can_be_sent(text: str) -> None:
    fields = Fields(1024, {})
    fields.name("name", text)
    assert len(fields.values["name"]) <= LONGEST_NAME
    assert "\0" not in fields.values["name"]
    fields.values["name"].encode()
