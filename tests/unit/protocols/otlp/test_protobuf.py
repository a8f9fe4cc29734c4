"""OTLP in protobuf: what we write is what opentelemetry-proto writes and the receiver reads, and answers are read by hand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from agentscope.protocols.otlp.wire import protobuf_form as protobuf
from agentscope.protocols.otlp.wire.limits import DEEPEST_SENT
from agentscope.protocols.otlp.wire.model import Span, SpanEvent, SpanGroup, Unreadable
from tests.support.otlp import field, groups, groups_of, message_of, read_request, request_of, span


def encoded(group: SpanGroup) -> bytes:
    pieces = [protobuf.encode_span(each) for each in group.spans if isinstance(each, Span)]
    return protobuf.encode_request(pieces, group.resource, group.scope_name, group.scope_version)


def decoded(*messages: bytes) -> list[Span | Unreadable]:
    (group,) = read_request(protobuf, request_of(*messages))
    return list(group.spans)


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
    (group,) = read_request(
        protobuf, protobuf.encode_request([protobuf.encode_span(sent)], {broken: broken}, broken, broken)
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
        assert groups_of(ExportTraceServiceRequest.FromString(body)) == read_request(protobuf, body)
        assert b"core" in body
    assert b'"core"' not in protobuf.encode_span(span(attributes={"k": nested(DEEPEST_SENT)}))
    assert b'{"k": "core"}' in protobuf.encode_span(span(attributes={"k": nested(DEEPEST_SENT + 1)}))


def test_a_value_of_a_foreign_type_goes_out_as_text() -> None:
    foreign: Any = Decimal("1.50")
    (found,) = decoded(protobuf.encode_span(span(attributes={"k": foreign, "list": (foreign,)})))
    assert isinstance(found, Span)
    assert found.attributes == {"k": "1.50", "list": ["1.50"]}


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


@given(st.binary(max_size=300))
def test_random_bytes_are_no_answer_or_one_with_a_count(body: bytes) -> None:
    answer = protobuf.decode_response(body)
    assert answer is None or answer[0] >= 0


@pytest.mark.parametrize("unknown", [b"\xa0\x06\x05", b"\xa1\x06" + b"x" * 8, b"\xa5\x06xxxx", field(100, b"x")])
def test_unknown_fields_of_an_answer_are_skipped(unknown: bytes) -> None:
    body = protobuf.encode_response(3, "why")
    assert protobuf.decode_response(unknown + body + unknown) == (3, "why")


def test_the_parts_of_an_answer_are_merged() -> None:
    assert protobuf.decode_response(field(1, b"\x08\x02") + field(1, field(2, b"why"))) == (2, "why")
