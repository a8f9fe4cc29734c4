"""Events as bytes: what comes back is what went in, and nothing else ever does."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import EVENT_TYPES, Event, in_full
from agentscope.pipeline.spool.codec import Damaged, pack, unpack
from agentscope.protocols.json_encode import UNENCODABLE
from tests.support.events import plain_step

NAMES = st.text(max_size=20)
PLAIN = st.one_of(
    st.text(max_size=40),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.lists(st.text(max_size=10), max_size=3),
)
EVENTS = st.builds(
    Event,
    type=st.sampled_from(sorted(EVENT_TYPES)),
    seq=st.integers(1, (1 << 63) - 1),
    time_ns=st.integers(0, 1 << 62),
    run_id=st.text(max_size=40),
    step_id=st.none() | st.text(max_size=40),
    parent_id=st.none() | st.text(max_size=40),
    fields=st.dictionaries(NAMES, PLAIN | st.binary(max_size=200), max_size=6),
    size=st.integers(0, 1 << 40),
)
SAMPLE = Event(
    "step",
    7,
    1_700_000_000_000_000_000,
    "run",
    "step",
    None,
    {"name": "search", "input": b'{"q":1}', "output": b"[]"},
    900,
)


@given(EVENTS)
def test_what_is_unpacked_is_what_was_packed(event: Event) -> None:
    assert unpack(event.seq, pack(event)) == event


@given(st.characters(categories=["Cs"]))
def test_a_lone_surrogate_comes_back_too(text: str) -> None:
    event = SAMPLE._replace(run_id=text, fields={"name": f"a {text} b"})
    assert unpack(7, pack(event)) == event


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {1, 2}, [b"bytes"]])
def test_what_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(UNENCODABLE):
        pack(SAMPLE._replace(fields={"name": value}))


@given(EVENTS, EVENTS)
def test_an_event_under_another_number_is_damaged(one: Event, other: Event) -> None:
    if one.seq != other.seq:
        with pytest.raises(Damaged):
            unpack(other.seq, pack(one))


def test_every_bit_of_a_record_counts() -> None:
    packed = pack(SAMPLE)
    for place in range(len(packed)):
        for bit in range(8):
            broken = bytearray(packed)
            broken[place] ^= 1 << bit
            with pytest.raises(Damaged):
                unpack(7, bytes(broken))


def test_every_byte_of_a_record_counts_whatever_it_becomes() -> None:
    packed = pack(SAMPLE)
    for place, byte in enumerate(packed):
        for other in {0, 255, byte ^ 0xFF} - {byte}:
            with pytest.raises(Damaged):
                unpack(7, packed[:place] + bytes([other]) + packed[place + 1 :])


def test_a_record_cut_at_any_length_or_followed_by_anything_is_damaged() -> None:
    packed = pack(SAMPLE)
    for length in range(len(packed)):
        for tail in (b"", bytes(len(packed) - length)):  # zeros, as a power cut leaves them
            if packed[:length] + tail != packed:
                with pytest.raises(Damaged):
                    unpack(7, packed[:length] + tail)
    with pytest.raises(Damaged):
        unpack(7, packed + b"\0")


@given(st.binary(max_size=100) | st.none() | st.text() | st.integers() | st.floats())
def test_garbage_is_damaged(data: object) -> None:
    with pytest.raises(Damaged):
        unpack(7, data)


@pytest.mark.parametrize("seq", [0, -1, -(1 << 63)])
def test_a_number_that_no_event_ever_had_is_damaged(seq: int) -> None:
    with pytest.raises(Damaged):
        unpack(seq, pack(SAMPLE))


def test_a_plain_step_comes_back_in_full() -> None:
    event = plain_step(7, b"[1]")
    assert unpack(event.seq, pack(event)) == in_full(event)
