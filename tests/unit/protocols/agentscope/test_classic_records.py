"""Classic records: the body is valid for a deployed platform, whatever the fields hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.protocols.agentscope.classic import STEP_TYPES, run_record, step_record, update_record


def run(extra: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return json.loads(run_record({"agent_name": "a", **fields}, extra or {}))


def step(extra: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return json.loads(step_record({"name": "n", "step_type": "llm_call", **fields}, extra or {}))


def test_a_run_carries_exactly_the_fields_that_are_set():
    assert run() == {"agent_name": "a"}
    assert run(external_id="e", input=b'{"q":1}', meta_data=b'{"k":2}') == {
        "agent_name": "a",
        "external_id": "e",
        "input": {"q": 1},
        "meta_data": {"k": 2},
    }


def test_a_step_carries_exactly_the_fields_that_are_set():
    fields = {
        "input": b'{"a":1}',
        "output": b'{"b":2}',
        "error": b'{"message":"m"}',
        "tokens_used": 3,
        "latency_ms": 12.6,
        "started_at": 1_769_860_800_123_456_789,
        "ended_at": "2026-01-31T12:00:01Z",
    }
    assert step(**fields) == {
        "name": "n",
        "step_type": "llm_call",
        "input": {"a": 1},
        "output": {"b": 2},
        "error": {"message": "m"},
        "tokens_used": 3,
        "latency_ms": 13,
        "started_at": "2026-01-31T12:00:00.123456",
        "ended_at": "2026-01-31T12:00:01.000000",
    }


def test_an_update_carries_exactly_the_fields_that_are_set():
    assert json.loads(update_record({})) == {}
    fields = {"status": "failed", "output": b'"text"', "error": b'{"m":1}', "ended_at": 0}
    assert json.loads(update_record(fields)) == {
        "status": "failed",
        "output": {"value": "text"},
        "error": {"m": 1},
        "ended_at": "1970-01-01T00:00:00.000000",
    }


def test_required_names_have_a_stand_in():
    assert json.loads(run_record({})) == {"agent_name": "unknown"}
    assert json.loads(step_record({"name": None})) == {
        "name": "step",
        "step_type": "custom",
        "meta_data": {"step_type": "other"},
    }


@pytest.mark.parametrize("payload", [b"[1,2]", b'"text"', b"1", b" [] "])
def test_a_payload_that_is_no_object_is_wrapped(payload):
    assert run(input=payload)["input"] == {"value": json.loads(payload)}


def test_null_is_the_same_as_absent():
    assert run(input=b"null", external_id=None) == {"agent_name": "a"}


@pytest.mark.parametrize("step_type", sorted(STEP_TYPES))
def test_a_step_type_that_platforms_know_is_kept(step_type):
    assert step(step_type=step_type)["step_type"] == step_type


@pytest.mark.parametrize("step_type", ["reasoning", "other", "agent", "memory", "mine"])
def test_any_other_step_type_goes_out_as_custom_and_is_kept_in_the_meta_data(step_type):
    sent = step(step_type=step_type, meta_data=b'{"mine":1}')
    assert (sent["step_type"], sent["meta_data"]) == ("custom", {"mine": 1, "step_type": step_type})


def test_extra_meta_data_is_put_over_the_users_own():
    extra = {"agentscope_run_id": "r", "agentscope_truncated": ["input"], "usage": b'{"total":3}'}
    assert run(extra, meta_data=b'{"mine":1}')["meta_data"] == {
        "mine": 1,
        "agentscope_run_id": "r",
        "agentscope_truncated": ["input"],
        "usage": {"total": 3},
    }


def test_extra_meta_data_stands_alone_when_there_is_none_of_the_users():
    for meta in (None, b"null", b"{}", b"{ }"):
        assert run({"x": 1}, meta_data=meta)["meta_data"] == {"x": 1}


def test_empty_meta_data_of_the_users_stays():
    assert run(meta_data=b"{}")["meta_data"] == {}


def test_a_name_in_both_meta_data_appears_once():
    body = step_record({"step_type": "mine", "meta_data": b'{"step_type":"theirs","k":[1]}'}, {})
    assert body.count(b'"step_type"') == 2  # the field, and the key in meta_data
    assert json.loads(body)["meta_data"] == {"step_type": "mine", "k": [1]}


def test_the_clients_run_id_stands_in_for_a_missing_external_id():
    extra = {"agentscope_run_id": "r"}
    assert run(extra)["external_id"] == "r"
    assert run(extra, external_id="mine")["external_id"] == "mine"


def test_texts_are_cut_to_255_characters_and_their_length_noted():
    sent = run(agent_name="é" * 300, external_id="x" * 256)
    assert (sent["agent_name"], sent["external_id"]) == ("é" * 255, "x" * 255)
    assert sent["meta_data"] == {"agentscope_cut": {"agent_name": 300, "external_id": 256}}
    assert "meta_data" not in run(agent_name="é" * 255)


def test_nul_and_lone_surrogates_do_not_travel_in_texts():
    sent = step(name="a\0b\ud800c")
    assert sent["name"] == "ab\ufffdc"
    assert sent["meta_data"] == {"agentscope_cut": {"name": 5}}


def test_a_nul_is_removed_from_a_payload_and_the_length_noted():
    payload = json.dumps({"k\0": ["\0\0", "\\u0000", "\\\0"]}).encode()
    sent = run(input=payload)
    assert sent["input"] == {"k": ["", "\\u0000", "\\"]}
    assert sent["meta_data"] == {"agentscope_cut": {"input": len(payload)}}


def test_an_escaped_backslash_before_u0000_is_no_nul():
    assert run(input=rb'{"k":"\\u0000"}') == {"agent_name": "a", "input": {"k": "\\u0000"}}


@given(st.recursive(st.text("\0\\u0", max_size=8), lambda inner: st.lists(inner, max_size=3)))
def test_removing_nul_from_encoded_json_equals_removing_it_from_the_values(value):
    def without(value):
        return [without(item) for item in value] if isinstance(value, list) else value.replace("\0", "")

    assert run(input=json.dumps(value).encode())["input"] == {"value": without(value)}


@pytest.mark.parametrize(
    ("number", "sent", "note"),
    [
        (2**31 - 1, 2**31 - 1, None),
        (2**31, 2**31 - 1, 2**31),
        (-(2**40), -(2**31), -(2**40)),
        pytest.param(10**5000, 2**31 - 1, "more than 64 bits", id="5000 digits"),
        (1e18, 2**31 - 1, 10**18),
        (float("inf"), None, "inf"),
        (float("nan"), None, "nan"),
        ("12", None, "12"),
        (True, 1, None),
    ],
)
def test_numbers_are_held_within_32_bits_and_the_original_noted(number, sent, note):
    got = step(tokens_used=number)
    assert got.get("tokens_used") == sent
    assert got.get("meta_data") == (None if note is None else {"agentscope_cut": {"tokens_used": note}})


def test_numbers_inside_payloads_are_left_alone():
    assert step(input=b'{"n":1099511627776}')["input"] == {"n": 2**40}


@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        ("2026-01-31T12:00:00.123456Z", "2026-01-31T12:00:00.123456"),
        ("2026-01-31T12:00:00.123456789z", "2026-01-31T12:00:00.123456"),
        ("2026-01-31T12:00:00.5+02:00", "2026-01-31T10:00:00.500000"),
        ("2026-01-31 12:00:00-0130", "2026-01-31T13:30:00.000000"),
        ("2026-01-31T12:00:00", "2026-01-31T12:00:00.000000"),
        (1_769_860_800_000_000_000, "2026-01-31T12:00:00.000000"),
    ],
)
def test_times_go_out_in_utc_without_a_zone(moment, sent):
    assert step(ended_at=moment)["ended_at"] == sent


@pytest.mark.parametrize("moment", ["soon", "2026-02-31T12:00:00", "0001-01-01T00:00:00+05:00", 10**30])
def test_a_time_that_is_none_is_left_out_and_noted(moment):
    got = step(ended_at=moment)
    assert "ended_at" not in got
    assert got["meta_data"] == {"agentscope_cut": {"ended_at": str(moment)}}
