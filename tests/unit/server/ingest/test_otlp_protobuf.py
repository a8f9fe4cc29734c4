"""OTLP requests in protobuf: read as opentelemetry-proto writes them, within bounds, and span by span."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError as NotReadable
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1 import trace_pb2

from agentscope.protocols.json_decode import LIGHT_BODY, MAX_WEIGHT, DecodeError
from agentscope.protocols.otlp.inbound.patches import patches_of
from agentscope.protocols.otlp.wire import protobuf_form as protobuf
from agentscope.protocols.otlp.wire.limits import DEEPEST_READ, DEEPEST_SENT
from agentscope.protocols.otlp.wire.model import Span, SpanGroup, Unreadable
from agentscope.server.ingest import otlp_protobuf
from tests.support.otlp import (
    SPAN_ID,
    TRACE_ID,
    attempt,
    field,
    foreign_groups,
    groups,
    groups_of,
    message_of,
    read_request,
    request_of,
    span,
    spans,
)

GOOD = bytes.fromhex(TRACE_ID), bytes.fromhex(SPAN_ID)
IDS = field(1, GOOD[0]) + field(2, GOOD[1])
UNREADABLE = Unreadable(SPAN_ID, "it is not protobuf, has a text that is not UTF-8, or is nested too deep")


def decode_request(body: bytes) -> list[SpanGroup]:
    return read_request(protobuf, body)


def encoded(group: SpanGroup) -> bytes:
    pieces = [protobuf.encode_span(each) for each in group.spans if isinstance(each, Span)]
    return protobuf.encode_request(pieces, group.resource, group.scope_name, group.scope_version)


def decoded(*messages: bytes) -> list[Span | Unreadable]:
    (group,) = decode_request(request_of(*messages))
    return list(group.spans)


def refusal(body: bytes) -> int:
    with pytest.raises(DecodeError) as caught:
        decode_request(body)
    assert str(caught.value).endswith(".")
    return caught.value.status


@given(st.lists(foreign_groups, max_size=2))
def test_what_the_library_writes_is_read_field_by_field(found: list[SpanGroup]) -> None:
    assert repr(decode_request(message_of(found).SerializeToString())) == repr(found)


@given(spans, spans)
def test_messages_that_come_in_pieces_are_merged_as_the_library_does(one: Span, other: Span) -> None:
    bytes_of = [
        message_of([SpanGroup({}, "", "", [each])]).resource_spans[0].SerializeToString() for each in (one, other)
    ]
    scoped = b"".join(
        trace_pb2.ResourceSpans.FromString(data).scope_spans[0].spans[0].SerializeToString() for data in bytes_of
    )
    body = request_of(scoped)
    assert repr(decode_request(body)) == repr(groups_of(ExportTraceServiceRequest.FromString(body)))


def any_values(*members: bytes) -> Any:
    """What a `KeyValue` amounts to whose value comes in pieces; both readers must agree."""
    message = IDS + field(9, field(1, b"k") + b"".join(field(2, m) for m in members))
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
    message = IDS + field(15, field(2, b"why")) + field(15, b"\x18\x02")
    scoped = field(1, field(1, b"name")) + field(2, message) + field(1, field(2, b"9"))
    attributes = [field(1, field(1, field(1, name))) for name in (b"a", b"b")]
    (group,) = decode_request(field(1, attributes[0] + field(2, scoped) + attributes[1]))
    (found,) = group.spans
    assert isinstance(found, Span)
    assert (group.scope_name, group.scope_version, dict(group.resource)) == ("name", "9", {"a": None, "b": None})
    assert (found.status, found.status_message) == (2, "why")


def test_fields_that_nobody_knows_are_skipped() -> None:
    unknown = b"\xa0\x06\x05" + b"\xa1\x06" + b"x" * 8 + b"\xa5\x06" + b"x" * 4 + field(100, b"anything")
    plain = protobuf.encode_span(span(attributes={"k": 1}))
    assert decoded(unknown + plain + unknown) == decoded(plain)
    body = request_of(plain)
    assert decode_request(unknown + body + unknown) == decode_request(body)


def test_flags_are_skipped() -> None:
    message = message_of([SpanGroup({}, "", "", [span()])])
    message.resource_spans[0].scope_spans[0].spans[0].flags = 0x101
    (group,) = decode_request(message.SerializeToString())
    assert list(group.spans) == [span()]


def deep_attribute(levels: int) -> bytes:
    value = field(1, b"core")
    for _ in range(levels):
        value = field(5, field(1, value))
    return field(9, field(1, b"k") + field(2, value))


def test_a_value_nested_too_deep_for_the_library_refuses_its_span_and_no_other() -> None:
    head = IDS
    good, bad, worse = (head + deep_attribute(levels) for levels in (2 * DEEPEST_SENT, DEEPEST_READ, 5000))
    found = decoded(good, bad, worse, good)
    assert isinstance(found[0], Span)
    assert found[1] == found[2] == UNREADABLE
    assert found[3] == found[0]


def test_a_library_without_a_bound_of_its_own_leaves_the_depth_to_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_protobuf, "DEEPEST_READ", 3)
    head = IDS
    good, bad = decoded(head + deep_attribute(3), head + deep_attribute(4))
    assert isinstance(good, Span)
    assert bad == Unreadable(SPAN_ID, "a value is nested deeper than 3 levels")
    in_resource = (
        b"\x0a" + deep_attribute(4)[1:]
    )  # the attributes of a resource are its first field, those of a span its ninth
    assert refusal(field(1, field(1, in_resource))) == 400


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
def test_kinds_and_codes_that_nobody_has_named_yet_are_kept(number: int) -> None:
    sent = span(kind=number, status=number)
    body = request_of(protobuf.encode_span(sent))
    assert (
        groups_of(ExportTraceServiceRequest.FromString(body))[0].spans == decoded(protobuf.encode_span(sent)) == [sent]
    )


def test_a_parent_of_zeros_is_none() -> None:
    (found,) = decoded(IDS + field(4, b"\0" * 8))
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
    assert found == [span(), UNREADABLE, span()]


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
        b"\x4b",  # a group without an end
        b"\x4e\x01",  # wire type 6
        b"\x00\x01",  # field number 0
        b"\x80\x80\x80\x80\x80\x01\x01",  # a field number of more than 29 bits
    ],
)
def test_a_span_that_is_no_protobuf_is_refused_alone_without_its_id(message: bytes) -> None:
    good = protobuf.encode_span(span())
    found = decoded(good, IDS + message, good)
    assert found == [span(), UNREADABLE._replace(span_id=""), span()]


@pytest.mark.parametrize(
    "message",
    [
        field(9, b"\x0a\x05a"),  # cut inside of an attribute
        field(9, field(2, b"\x21\x00")),  # a double is cut
    ],
)
def test_a_span_with_a_broken_part_is_refused_alone_by_its_id(message: bytes) -> None:
    good = protobuf.encode_span(span())
    assert decoded(good, good + message, good) == [span(), UNREADABLE, span()]


@pytest.mark.parametrize(
    "message",
    [
        b"\x08\x01",  # trace_id as a number
        b"\x2d\x01\x02\x03\x04",  # name as four bytes
        b"\x32\x01\x00",  # kind as bytes
        b"\x4b\x4c",  # attributes as a group
        b"\xa3\x06\xa4\x06",  # a group that nobody knows
        field(15, b"\x1a\x00"),  # the status code as bytes
    ],
)
def test_a_field_of_another_type_counts_as_one_that_nobody_knows(message: bytes) -> None:
    assert decoded(protobuf.encode_span(span()) + message) == [span()]


@pytest.mark.parametrize(
    "body", [b"\x0a", b"\x0a\x05abc", b"{}", b"\x00", field(1, b"\x0a\x05abc"), field(1, field(2, b"\x12\x05abc"))]
)
def test_a_body_that_is_no_protobuf_around_its_spans_is_refused(body: bytes) -> None:
    assert refusal(body) == 400


@pytest.mark.parametrize("broken", [b"\x0a", b"\x0a\x05abc", b"\x30\x80", b"\x39\x01", b"\x4b", b"\x0a" + b"\xff" * 11])
def test_a_large_body_with_a_broken_part_is_refused_as_a_small_one_is(broken: bytes) -> None:
    large = IDS + field(5, b"x" * LIGHT_BODY)
    (found,) = decoded(large + b"\x35abcd")
    assert isinstance(found, Span)
    assert decoded(large + broken, large)[1] == found
    assert isinstance(decoded(large + broken)[0], Unreadable)
    assert refusal(request_of(large) + broken) == 400


def test_a_body_that_ends_early_is_refused_wherever_it_ends() -> None:
    body = encoded(SpanGroup({"a": 1}, "s", "1", [span(attributes={"k": "v" * 200}, parent_span_id=SPAN_ID)]))
    for end in range(1, len(body)):
        assert refusal(body[:end]) == 400


def test_an_empty_body_is_a_request_without_spans() -> None:
    assert decode_request(b"") == []


@pytest.mark.parametrize(
    "body",
    [
        b"\x78\x00" * (MAX_WEIGHT + 1),
        b"\x0a\x00" * MAX_WEIGHT,
        field(1, field(1, b"\x0a\x00" * (MAX_WEIGHT // 4))),
        request_of(*[b"bad"] * (MAX_WEIGHT // 4 + 2)),
        request_of(b"\x4a\x00" * MAX_WEIGHT),
        request_of(b"\x4a\x00" * MAX_WEIGHT + b"\x39"),
        request_of(b"\xa3\x06\xa4\x06" + b"\x4a\x00" * MAX_WEIGHT),
    ],
)
def test_too_many_values_are_refused_as_too_large(body: bytes) -> None:
    assert refusal(body) == 413


@pytest.mark.parametrize(
    "heavy",
    [
        IDS + field(9, field(2, field(5, b"\x0a\x00" * (MAX_WEIGHT // 4)))),
        IDS + b"\x5a\x00" * (MAX_WEIGHT // 8),
    ],
    ids=["values", "events"],
)
def test_a_span_with_too_many_values_is_refused_alone(heavy: bytes) -> None:
    good = protobuf.encode_span(span())
    assert decoded(good, heavy, good) == [span(), Unreadable(SPAN_ID, "it holds too many values"), span()]


def test_json_in_the_attributes_of_a_span_stays_text_where_it_would_be_too_many_values() -> None:
    texts = {f"key {number}": "[" + "0," * 10_000 + "0]" for number in range(100)}
    (found,) = decoded(protobuf.encode_span(span(attributes={**texts, "model_name": "[1]"})))
    assert isinstance(found, Span)
    (patch,) = patches_of(found, SpanGroup({}, "", "", []))
    assert {name: patch.fields["meta_data"][name] for name in texts} == texts


def test_many_spans_hold_as_many_values_as_they_like() -> None:
    body = request_of(*[IDS + field(9, field(1, b"%d" % number)) * 100 for number in range(2000)])
    (group,) = decode_request(body)
    assert all(isinstance(each, Span) for each in group.spans)


def test_values_in_many_pieces_cost_no_more_than_in_one() -> None:
    value = b""
    for _ in range(2 * DEEPEST_SENT - 2):
        value = field(5, field(1, b"") + field(1, value) + b"")
        value = value + field(5, b"") * 50
    found = decoded(IDS + field(9, field(2, value) * 100))
    assert isinstance(found[0], Span)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_read(body: bytes) -> None:
    found = attempt(decode_request, body)
    assert found == 400 or isinstance(found, list)


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
    mine = attempt(decode_request, bytes(body))
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


def metrics(*members: bytes) -> bytes:
    return field(1, field(2, b"".join(field(2, member) for member in members)))


def test_data_points_are_counted_up_to_the_weight_of_a_body() -> None:
    assert otlp_protobuf.count_points(metrics(field(5, field(1, b"") * 100_000), field(7, field(1, b"x")))) == 100_001


@pytest.mark.parametrize(
    "body",
    [
        b"\x08\x00" * (MAX_WEIGHT + 1),
        metrics(field(5, field(1, b"") * (MAX_WEIGHT + 1))),
        field(1, b"") * (MAX_WEIGHT // 2),
        metrics(*[b""] * (MAX_WEIGHT // 2)),
    ],
    ids=["fields", "points", "resources", "metrics"],
)
def test_metrics_with_too_many_values_are_refused(body: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        otlp_protobuf.count_points(body)
    assert caught.value.status == 413
