"""W3C Trace Context: runs continue in other processes."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.protocols.ids import new_id, run_id_of, span_id_of, trace_id_of
from agentscope.protocols.trace_context import Remote, headers_of, remote_of

RUN = "0af76519-16cd-43dd-8448-eb211c80319c"
STEP = "11111111-2222-4333-8444-555555555555"
FOREIGN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
IDS = st.one_of(
    st.uuids().map(str), st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=40)
)
"""Run ids for the property tests, without NUL, which no recorder makes or accepts."""


def test_the_trace_is_the_run_and_the_parent_its_step() -> None:
    headers = headers_of(RUN, STEP, True)
    assert headers["traceparent"] == f"00-0af7651916cd43dd8448eb211c80319c-{span_id_of(STEP)}-01"
    assert headers["tracestate"] == f"agentscope=s:{STEP}"


def test_a_run_that_is_not_recorded_says_so() -> None:
    assert headers_of(RUN, None, False)["traceparent"].endswith("-00")


@given(IDS, st.none() | IDS, st.booleans())
def test_a_run_arrives_unchanged(run_id: str, step_id: str | None, sampled: bool) -> None:
    headers = headers_of(run_id, step_id, sampled)
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", headers["traceparent"])
    if "tracestate" in headers:  # otherwise the ids were too long
        assert headers["tracestate"].isascii()
        assert len(headers["tracestate"]) <= 256 + len("agentscope=")
        told = remote_of(headers)
        assert told is not None
        assert (trace_id_of(told.run_id), told.sampled) == (trace_id_of(run_id), sampled)
        # An id that is a UUID in another spelling comes back in the usual one.
        assert told.run_id in (run_id, run_id_of(trace_id_of(run_id)))
        assert told.step_id == step_id


def test_a_foreign_parent_is_the_step_of_that_span_id() -> None:
    assert remote_of({"traceparent": FOREIGN}) == Remote(RUN, "b7ad6b7169203331", True)


def test_our_own_ids_in_the_state_do_not_count_once_another_service_has_put_a_span_between() -> None:
    headers = {"traceparent": FOREIGN, "tracestate": f"agentscope=s:{STEP}"}
    assert remote_of(headers) == Remote(RUN, "b7ad6b7169203331", True)


def test_entries_of_others_in_tracestate_are_kept() -> None:
    headers = headers_of(RUN, None, True, f"rojo=1, agentscope=s:{STEP},congo=t61")
    assert headers["tracestate"] == "agentscope=s:,rojo=1,congo=t61"


@pytest.mark.parametrize(
    "headers",
    [
        {"Traceparent": FOREIGN},
        {"TRACEPARENT": f" {FOREIGN} "},
        [("traceparent", FOREIGN)],
        [(b"host", b"a.test"), (b"traceparent", FOREIGN.encode())],
    ],
)
def test_headers_come_in_every_form(headers: object) -> None:
    assert remote_of(headers) == Remote(RUN, "b7ad6b7169203331", True)


def test_the_state_may_come_in_several_headers() -> None:
    sent = headers_of("not a uuid", STEP, True)
    pairs = [("traceparent", sent["traceparent"]), ("tracestate", "a=1"), ("tracestate", sent["tracestate"])]
    assert remote_of(pairs) == Remote("not a uuid", STEP, True)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        FOREIGN[:-1],
        FOREIGN + "-more",
        FOREIGN.replace("00-", "ff-", 1),
        FOREIGN.upper(),
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
    ],
)
def test_invalid_headers_name_no_parent(value: str) -> None:
    assert remote_of({"traceparent": value}) is None


def test_a_later_version_may_say_more() -> None:
    assert remote_of({"traceparent": FOREIGN.replace("00-", "cc-", 1) + "-what-comes"}) is not None


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_headers_whatever_raise(parent: str, state: str) -> None:
    remote_of({"traceparent": parent, "tracestate": state})
    headers_of(new_id(), parent or None, True, state)


@given(st.text(max_size=60))
def test_ids_are_never_all_zero_and_always_the_same(own: str) -> None:
    assert re.fullmatch("[0-9a-f]{32}", trace_id_of(own))
    assert re.fullmatch("[0-9a-f]{16}", span_id_of(own))
    assert int(trace_id_of(own), 16)
    assert int(span_id_of(own), 16)
    assert span_id_of(own) == span_id_of(own)


def test_a_run_id_without_a_single_bit_is_no_trace_id() -> None:
    assert int(trace_id_of("00000000-0000-0000-0000-000000000000"), 16)


def test_a_step_that_came_as_a_foreign_span_keeps_its_span_id() -> None:
    assert span_id_of("b7ad6b7169203331") == "b7ad6b7169203331"


@pytest.mark.parametrize("run_id", ["r" * 256, "a\0b"])
def test_ids_that_no_backend_takes_are_not_taken_from_anybody(run_id: str) -> None:
    parent = f"00-{trace_id_of(run_id)}-{span_id_of(run_id)}-01"
    found = remote_of({"traceparent": parent, "tracestate": f"agentscope=s:;r:{quote(run_id)}"})
    assert found is not None
    assert found.run_id == run_id_of(trace_id_of(run_id))
