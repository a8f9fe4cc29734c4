"""OTLP in protobuf: what we write, opentelemetry-proto reads, and the other way round; and nothing that comes can hurt."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from google.protobuf.message import DecodeError as NotReadable
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2

from agentscope.protocols.json_decode import MAX_WEIGHT, DecodeError
from agentscope.protocols.otlp.wire import protobuf_encode as protobuf
from agentscope.protocols.otlp.wire.limits import DEEPEST_READ, DEEPEST_SENT
from agentscope.protocols.otlp.wire.model import Span, SpanEvent, SpanGroup, Unreadable
from tests.support.otlp import SPAN_ID, TRACE_ID, attempt, groups, groups_of, message_of, span, spans

GOOD = bytes.fromhex(TRACE_ID), bytes.fromhex(SPAN_ID)


def encoded(group: SpanGroup) -> bytes:
    pieces = [protobuf.encode_span(each) for each in group.spans if isinstance(each, Span)]
    return protobuf.encode_request(pieces, group.resource, group.scope_name, group.scope_version)


def field(number: int, data: bytes) -> bytes:
    """A field of bytes, a text or a message."""
    return protobuf._varint(number << 3 | 2) + protobuf._varint(len(data)) + data


def request_of(*messages: bytes) -> bytes:
    """A request around spans that are given as bytes."""
    return field(1, field(2, b"".join(field(2, message) for message in messages)))


def decoded(*messages: bytes) -> list[Span | Unreadable]:
    (group,) = protobuf.decode_request(request_of(*messages))
    return list(group.spans)


def refusal(body: bytes) -> int:
    with pytest.raises(DecodeError) as caught:
        protobuf.decode_request(body)
    assert str(caught.value).endswith(".")
    return caught.value.status


@given(groups)
def test_the_encoder_writes_the_same_bytes_as_the_library(group: SpanGroup) -> None:
    assert (
        ExportTraceServiceRequest.FromString(encoded(group)).SerializeToString()
        == message_of([group]).SerializeToString()
    )


@pytest.mark.parametrize("size", [*range(60, 130), 16_370, 16_383, 16_384, 2_097_140, 2_097_152])
def test_texts_of_every_length_are_written_as_the_library_writes_them(size: int) -> None:
    text = "x" * size
    group = SpanGroup({text: text}, text, text, [span(name=text, attributes={text: text, "k": text, "n": [text]})])
    assert ExportTraceServiceRequest.FromString(encoded(group)) == message_of([group])


@given(st.lists(groups, max_size=2))
def test_the_librarys_output_is_read_field_by_field(found: list[SpanGroup]) -> None:
    assert repr(protobuf.decode_request(message_of(found).SerializeToString())) == repr(found)


@given(spans, spans)
def test_messages_that_come_in_pieces_are_merged_as_the_library_does(one: Span, other: Span) -> None:
    bytes_of = [
        message_of([SpanGroup({}, "", "", [each])]).resource_spans[0].SerializeToString() for each in (one, other)
    ]
    scoped = b"".join(
        trace_pb2.ResourceSpans.FromString(data).scope_spans[0].spans[0].SerializeToString() for data in bytes_of
    )
    body = request_of(scoped)
    assert repr(protobuf.decode_request(body)) == repr(groups_of(ExportTraceServiceRequest.FromString(body)))


def any_values(*members: bytes) -> Any:
    """What a `KeyValue` amounts to whose value comes in pieces; both readers must agree."""
    message = field(1, GOOD[0]) + field(2, GOOD[1]) + field(9, field(1, b"k") + b"".join(field(2, m) for m in members))
    (mine,) = decoded(message)
    assert isinstance(mine, Span)
    assert repr([mine]) == repr(groups_of(ExportTraceServiceRequest.FromString(request_of(message)))[0].spans)
    return mine.attributes["k"]


def test_lists_that_come_in_pieces_are_joined_unless_another_member_comes_between() -> None:
    one, two, text = field(5, field(1, b"\x18\x01")), field(5, field(1, b"\x18\x02")), field(1, b"x")
    assert any_values(one, two) == any_values(one + two) == [1, 2]
    assert any_values(one, text) == "x"
    assert any_values(one + text + two) == [2]
    assert any_values(field(6, field(1, field(1, b"a"))), field(6, field(1, field(1, b"b")))) == {"a": None, "b": None}
    assert any_values(text, field(1, b"y")) == "y"
    assert any_values(text, b"") == "x"
    assert any_values() is None


def test_a_resource_a_scope_and_a_status_that_come_in_pieces_are_merged() -> None:
    message = field(1, GOOD[0]) + field(2, GOOD[1]) + field(15, field(2, b"why")) + field(15, b"\x18\x02")
    scoped = field(1, field(1, b"name")) + field(2, message) + field(1, field(2, b"9"))
    attributes = [field(1, field(1, field(1, name))) for name in (b"a", b"b")]
    (group,) = protobuf.decode_request(field(1, attributes[0] + field(2, scoped) + attributes[1]))
    (found,) = group.spans
    assert isinstance(found, Span)
    assert (group.scope_name, group.scope_version, dict(group.resource)) == ("name", "9", {"a": None, "b": None})
    assert (found.status, found.status_message) == (2, "why")


def test_unknown_fields_are_skipped() -> None:
    unknown = b"\xa0\x06\x05" + b"\xa1\x06" + b"x" * 8 + b"\xa5\x06" + b"x" * 4 + field(100, b"anything")
    plain = protobuf.encode_span(span(attributes={"k": 1}))
    assert decoded(unknown + plain + unknown) == decoded(plain)
    body = request_of(plain)
    assert protobuf.decode_request(unknown + body + unknown) == protobuf.decode_request(body)


def test_links_flags_and_counts_are_skipped() -> None:
    message = message_of([SpanGroup({}, "", "", [span()])])
    inner = message.resource_spans[0].scope_spans[0].spans[0]
    inner.links.add(trace_id=GOOD[0], span_id=GOOD[1])
    inner.flags, inner.dropped_attributes_count, inner.dropped_links_count = 0x101, 3, 4
    (group,) = protobuf.decode_request(message.SerializeToString())
    assert list(group.spans) == [span()]


def test_numbers_beyond_64_bits_go_out_as_text() -> None:
    big = {"over": 1 << 63, "under": -(1 << 63) - 1, "fits": -(1 << 63), "huge": 10**5000}
    (found,) = decoded(protobuf.encode_span(span(attributes=big)))
    assert isinstance(found, Span)
    assert found.attributes == {
        "over": str(1 << 63),
        "under": str(-(1 << 63) - 1),
        "fits": -(1 << 63),
        "huge": hex(10**5000),
    }


def test_lone_surrogates_are_replaced_and_pairs_are_joined_wherever_a_text_may_stand() -> None:
    broken, mended = "a\ud800b\ud83d\ude00", "a\ufffdb\U0001f600"
    sent = span(
        name=broken,
        trace_state=broken,
        status=2,
        status_message=broken,
        attributes={broken: broken, "nested": [broken, {broken: broken}]},
        events=[SpanEvent(broken, 1, {})],
    )
    (group,) = protobuf.decode_request(
        protobuf.encode_request([protobuf.encode_span(sent)], {broken: broken}, broken, broken)
    )
    found = group.spans[0]
    assert isinstance(found, Span)
    texts = {found.name, found.trace_state, found.status_message, found.events[0].name, group.scope_name}
    assert texts | {group.scope_version} == {mended}
    assert found.attributes == {mended: mended, "nested": [mended, {mended: mended}]}
    assert group.resource == {mended: mended}


def test_times_outside_of_64_bits_go_out_as_the_nearest_one() -> None:
    (found,) = decoded(protobuf.encode_span(span(start_ns=-5, end_ns=1 << 70)))
    assert isinstance(found, Span)
    assert (found.start_ns, found.end_ns) == (0, (1 << 64) - 1)


def test_many_different_names_of_attributes_are_not_all_remembered() -> None:
    protobuf.encode_span(span(attributes={f"name {number}": 1 for number in range(3000)}))
    protobuf.encode_span(span(attributes={"x" * 1000: 1}))
    assert len(protobuf._KEYS) <= 1024
    assert max(map(len, protobuf._KEYS)) <= 64


def nested(levels: int) -> Any:
    value: Any = "core"
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


def test_what_is_nested_too_deep_for_the_libraries_is_sent_as_json_from_there_on() -> None:
    for levels in (DEEPEST_SENT, DEEPEST_SENT + 1, 60):
        sent = span(events=[SpanEvent("e", 1, {"k": nested(levels)})])
        body = request_of(protobuf.encode_span(sent))
        assert groups_of(ExportTraceServiceRequest.FromString(body)) == protobuf.decode_request(body)
        assert b"core" in body
    assert b'"core"' not in protobuf.encode_span(span(attributes={"k": nested(DEEPEST_SENT)}))
    assert b'{"k": "core"}' in protobuf.encode_span(span(attributes={"k": nested(DEEPEST_SENT + 1)}))


def deep_attribute(levels: int) -> bytes:
    value = field(1, b"core")
    for _ in range(levels):
        value = field(5, field(1, value))
    return field(9, field(1, b"k") + field(2, value))


def test_a_value_nested_too_deep_refuses_its_span_and_no_other() -> None:
    head = field(1, GOOD[0]) + field(2, GOOD[1])
    good, bad, worse = (head + deep_attribute(levels) for levels in (DEEPEST_READ, DEEPEST_READ + 1, 5000))
    found = decoded(good, bad, worse, good)
    assert isinstance(found[0], Span)
    assert found[1] == found[2] == Unreadable(SPAN_ID, f"a value is nested deeper than {DEEPEST_READ} levels")
    assert found[3] == found[0]


@pytest.mark.parametrize(
    ("trace_id", "span_id", "parent", "named"),
    [
        (b"", GOOD[1], b"", "trace id"),
        (b"\0" * 16, GOOD[1], b"", "trace id"),
        (GOOD[0][:15], GOOD[1], b"", "trace id"),
        (GOOD[0] + b"x", GOOD[1], b"", "trace id"),
        (GOOD[0], b"", b"", "span id"),
        (GOOD[0], b"\0" * 8, b"", "span id"),
        (GOOD[0], b"x" * 1_000_000, b"", "span id"),
        (GOOD[0], GOOD[1], b"x" * 7, "parent"),
    ],
)
def test_a_span_with_an_impossible_id_is_refused_alone(
    trace_id: bytes, span_id: bytes, parent: bytes, named: str
) -> None:
    good = protobuf.encode_span(span())
    found = decoded(good, field(1, trace_id) + field(2, span_id) + field(4, parent), good)
    assert found[0] == found[2] == span()
    assert isinstance(found[1], Unreadable)
    assert found[1].span_id == span_id[:16].hex()
    assert named in found[1].reason


@pytest.mark.parametrize("number", [6, 99, -1, -(1 << 31), (1 << 31) - 1])
def test_unknown_kinds_and_codes_are_kept(number: int) -> None:
    sent = span(kind=number, status=number)
    body = request_of(protobuf.encode_span(sent))
    assert (
        groups_of(ExportTraceServiceRequest.FromString(body))[0].spans == decoded(protobuf.encode_span(sent)) == [sent]
    )


def test_a_value_of_a_foreign_type_goes_out_as_text() -> None:
    foreign: Any = Decimal("1.50")
    (found,) = decoded(protobuf.encode_span(span(attributes={"k": foreign, "list": (foreign,)})))
    assert isinstance(found, Span)
    assert found.attributes == {"k": "1.50", "list": ["1.50"]}


def test_a_parent_of_zeros_is_none() -> None:
    (found,) = decoded(field(1, GOOD[0]) + field(2, GOOD[1]) + field(4, b"\0" * 8))
    assert isinstance(found, Span)
    assert found.parent_span_id == ""


@pytest.mark.parametrize(
    "broken",
    [
        field(5, b"\xff"),
        field(3, b"\xff"),
        field(15, field(2, b"\xff")),
        field(9, field(1, b"\xff")),
        field(9, field(1, b"k") + field(2, field(1, b"\xed\xa0\x80"))),
        field(11, field(2, b"\xff")),
    ],
)
def test_a_text_that_is_no_utf8_refuses_its_span_alone(broken: bytes) -> None:
    good = protobuf.encode_span(span())
    found = decoded(good, good + broken, good)
    assert found == [span(), Unreadable(SPAN_ID, "a text is not valid UTF-8"), span()]


def test_a_text_that_is_no_utf8_in_what_all_spans_share_refuses_the_body() -> None:
    spans_of = field(2, field(2, protobuf.encode_span(span())))
    assert refusal(field(1, field(1, field(1, field(1, b"\xff"))) + spans_of)) == 400
    assert refusal(field(1, field(2, field(1, field(1, b"\xff"))))) == 400


@pytest.mark.parametrize(
    "message",
    [
        b"\x0a",  # a length is missing
        b"\x0a\x05abc",  # the field is longer than the message
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a length of 63 bits
        b"\x0a" + b"\xff" * 11,  # a length without an end
        b"\x30" + b"\x80" * 10 + b"\x01",  # a number of more than 64 bits
        b"\x30",  # a number is missing
        b"\x30\x80",  # a number is cut
        b"\x39\x01\x02",  # eight bytes are cut
        b"\x35\x01",  # four bytes are cut
        b"\x08\x01",  # trace_id as a number
        b"\x2d\x01\x02\x03\x04",  # name as four bytes
        b"\x32\x01\x00",  # kind as bytes
        b"\x4b\x4c",  # a group
        b"\xa3\x06\xa4\x06",  # a group that nobody knows
        b"\x4e\x01",  # wire type 6
        b"\x00\x01",  # field number 0
        b"\x80\x80\x80\x80\x80\x01\x01",  # a field number of more than 29 bits
        field(9, b"\x0a\x05a"),  # cut inside of an attribute
        field(15, b"\x1a\x00"),  # the status code as bytes
        field(9, field(2, b"\x21\x00")),  # a double is cut
        field(9, field(2, b"\x0d\x00\x00\x00\x00")),  # a text as four bytes
    ],
)
def test_invalid_protobuf_refuses_the_body(message: bytes) -> None:
    assert refusal(request_of(field(1, GOOD[0]) + field(2, GOOD[1]) + message)) == 400


def test_a_body_that_ends_early_is_refused_wherever_it_ends() -> None:
    body = encoded(SpanGroup({"a": 1}, "s", "1", [span(attributes={"k": "v" * 200}, parent_span_id=SPAN_ID)]))
    for end in range(1, len(body)):
        assert refusal(body[:end]) == 400


def test_an_empty_body_is_a_request_without_spans() -> None:
    assert protobuf.decode_request(b"") == []


@pytest.mark.parametrize(
    "body",
    [
        b"\x78\x00" * (MAX_WEIGHT + 1),
        request_of(*[b""] * (MAX_WEIGHT // 4 + 1)),
        request_of(field(9, field(2, field(5, b"\x0a\x00" * (MAX_WEIGHT // 4))))),
    ],
)
def test_too_many_values_are_refused_as_too_large(body: bytes) -> None:
    assert refusal(body) == 413


def test_values_in_many_pieces_cost_no_more_than_in_one() -> None:
    value = b""
    for _ in range(DEEPEST_READ):
        value = field(5, field(1, b"") + field(1, value) + b"")
        value = value + field(5, b"") * 50
    found = decoded(field(1, GOOD[0]) + field(2, GOOD[1]) + field(9, field(2, value) * 100))
    assert isinstance(found[0], Span)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_read(body: bytes) -> None:
    found = attempt(protobuf.decode_request, body)
    assert found == 400 or isinstance(found, list)
    protobuf.decode_response(body)


@given(groups, st.data())
def test_damaged_requests_are_refused_or_read_as_the_library_reads_them(group: SpanGroup, data: st.DataObject) -> None:
    body = bytearray(encoded(group))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(body) - 1)))
        what = data.draw(st.sampled_from(["change", "remove", "insert", "cut"]))
        if what == "change" and body:
            body[place] = data.draw(st.integers(0, 255))
        elif what == "remove":
            del body[place : place + data.draw(st.integers(1, 9))]
        elif what == "insert":
            body[place:place] = data.draw(st.binary(max_size=9))
        else:
            del body[place:]
    mine = attempt(protobuf.decode_request, bytes(body))
    if not isinstance(mine, list):
        assert mine == 400
        return
    try:
        theirs = groups_of(ExportTraceServiceRequest.FromString(bytes(body)))
    except NotReadable:
        return  # it also looks into fields that we skip
    if not any(isinstance(each, Unreadable) for found in mine for each in found.spans):
        zeros = repr(theirs).replace("'0000000000000000'", "''")  # a parent of zeros is none
        assert repr(mine).replace("'0000000000000000'", "''") == zeros


@pytest.mark.parametrize(("rejected", "message"), [(0, ""), (3, "span x: why\ud800"), (0, "a warning"), (1 << 40, "")])
def test_answers_are_read_by_the_library_and_by_us(rejected: int, message: str) -> None:
    body = protobuf.encode_response(rejected, message)
    theirs = ExportTraceServiceResponse.FromString(body).partial_success
    told = message.replace("\ud800", "\ufffd")
    assert (theirs.rejected_spans, theirs.error_message) == (rejected, told)
    assert protobuf.decode_response(body) == (rejected, told)
    assert body or not (rejected or message)


def test_an_answer_of_the_library_is_read() -> None:
    answer = ExportTraceServiceResponse()
    assert protobuf.decode_response(answer.SerializeToString()) == (0, "")
    answer.partial_success.rejected_spans = 2
    answer.partial_success.error_message = "why"
    assert protobuf.decode_response(answer.SerializeToString()) == (2, "why")


@pytest.mark.parametrize(
    "body",
    [b"ok", b"{}", b"<html></html>", b"\x0a", field(1, b"\x12\x01\xff"), field(1, b"\x08" + b"\xff" * 9 + b"\x01")],
)
def test_an_answer_that_is_something_else_is_not_believed(body: bytes) -> None:
    assert protobuf.decode_response(body) is None


def test_an_error_is_a_status_message() -> None:
    assert protobuf.encode_status("Too large.") == field(2, b"Too large.")


def test_json_inside_attributes_may_cost_no_more_than_a_body_of_json() -> None:
    heavy = "[" + "[],"[:3] * 40_000 + "0]"
    attributes = {f"input.{number}": heavy for number in range(30)}
    span = Span("1" * 32, "2" * 16, "", "heavy", 1, 1, 2, attributes)
    body = protobuf.encode_request([protobuf.encode_span(span)], {}, "", "")
    with pytest.raises(DecodeError) as refused:
        protobuf.decode_request(body)
    assert refused.value.status == 413
