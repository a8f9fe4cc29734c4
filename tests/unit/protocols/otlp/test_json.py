"""OTLP in JSON: protobuf's JSON mapping reads the encoder's output, the decoder reads its output, and all variants of senders."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from agentscope.protocols.json_decode import DecodeError
from agentscope.protocols.otlp.wire import json_form
from agentscope.protocols.otlp.wire import protobuf_form as protobuf
from agentscope.protocols.otlp.wire.json_form import decode_request
from agentscope.protocols.otlp.wire.limits import DEEPEST_READ, DEEPEST_SENT
from agentscope.protocols.otlp.wire.model import Span, SpanEvent, SpanGroup, Unreadable
from tests.support.otlp import (
    SPAN_ID,
    TRACE_ID,
    attempt,
    base64_of,
    foreign_groups,
    groups,
    groups_of,
    hex_of,
    message_of,
    read_request,
    span,
    with_ids_as,
)

IDS = {"traceId": TRACE_ID, "spanId": SPAN_ID}


def encoded(group: SpanGroup) -> bytes:
    pieces = [json_form.encode_span(each) for each in group.spans if isinstance(each, Span)]
    return json_form.encode_request(pieces, group.resource, group.scope_name, group.scope_version)


def request_of(*items: Any) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(items)}]}]}


def decoded(*items: Any) -> list[Span | Unreadable]:
    (group,) = decode_request(json.dumps(request_of(*items)).encode())
    return list(group.spans)


def read(**fields: Any) -> Span:
    """A span with these fields beside its ids."""
    (found,) = decoded({**IDS, **fields})
    assert isinstance(found, Span), found
    return found


def value(**members: Any) -> Any:
    """The decoded value of an attribute with this `AnyValue`."""
    return read(attributes=[{"key": "k", "value": members}]).attributes["k"]


def reason(**fields: Any) -> str:
    """The reason of the refusal of a span with these fields; its neighbour must be accepted."""
    bad, good = decoded({**IDS, **fields}, IDS)
    assert isinstance(good, Span)
    assert isinstance(bad, Unreadable), bad
    return bad.reason


def refusal(body: bytes) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode_request(body)
    return caught.value


@given(groups)
def test_the_library_reads_the_encoders_output(group: SpanGroup) -> None:
    document = with_ids_as(json.loads(encoded(group)), base64_of)
    message = json_format.ParseDict(document, ExportTraceServiceRequest())
    assert repr(groups_of(message)) == repr([group])


@given(st.lists(foreign_groups, max_size=2), st.booleans())
def test_the_librarys_output_is_read_with_both_kinds_of_names(found: list[SpanGroup], original: bool) -> None:
    document = json_format.MessageToDict(message_of(found), preserving_proto_field_name=original)
    assert repr(decode_request(json.dumps(with_ids_as(document, hex_of)).encode())) == repr(found)


@given(groups)
def test_both_encodings_say_the_same(group: SpanGroup) -> None:
    pieces = [protobuf.encode_span(each) for each in group.spans if isinstance(each, Span)]
    body = protobuf.encode_request(pieces, group.resource, group.scope_name, group.scope_version)
    assert repr(decode_request(encoded(group))) == repr(read_request(protobuf, body))


@given(
    st.text(st.characters(), max_size=40),
    st.recursive(
        st.integers() | st.text(st.characters(), max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=9), inner, max_size=3)
        ),
    ),
)
def test_both_encodings_mend_the_same_way_what_neither_can_hold(name: str, attribute: Any) -> None:
    sent = span(name=name, attributes={name: attribute}, start_ns=-1, end_ns=1 << 64)
    one = decode_request(json_form.encode_request([json_form.encode_span(sent)], {}, "", ""))
    other = read_request(protobuf, protobuf.encode_request([protobuf.encode_span(sent)], {}, "", ""))
    assert one == other


def test_the_form_is_the_one_of_the_specification() -> None:
    sent = span(
        parent_span_id="00f067aa0ba902b7",
        kind=3,
        start_ns=1,
        end_ns=2,
        attributes={"text": 'a"\n\x00é', "whole": 5, "flag": True, "part": 0.5, "data": b"\x00\xff", "none": None},
        status=2,
        status_message="why",
        events=[SpanEvent("exception", 3, {"list": [1, "x", {"k": False}]})],
        trace_state="a=b",
    )
    assert json.loads(json_form.encode_request([json_form.encode_span(sent)], {"service.name": "s"}, "scope", "1")) == {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "s"}}]},
                "scopeSpans": [
                    {
                        "scope": {"name": "scope", "version": "1"},
                        "spans": [
                            {
                                "traceId": TRACE_ID,
                                "spanId": SPAN_ID,
                                "traceState": "a=b",
                                "parentSpanId": "00f067aa0ba902b7",
                                "name": "a span",
                                "kind": 3,
                                "startTimeUnixNano": "1",
                                "endTimeUnixNano": "2",
                                "attributes": [
                                    {"key": "text", "value": {"stringValue": 'a"\n\x00é'}},
                                    {"key": "whole", "value": {"intValue": "5"}},
                                    {"key": "flag", "value": {"boolValue": True}},
                                    {"key": "part", "value": {"doubleValue": 0.5}},
                                    {"key": "data", "value": {"bytesValue": "AP8="}},
                                    {"key": "none", "value": {}},
                                ],
                                "events": [
                                    {
                                        "timeUnixNano": "3",
                                        "name": "exception",
                                        "attributes": [
                                            {
                                                "key": "list",
                                                "value": {
                                                    "arrayValue": {
                                                        "values": [
                                                            {"intValue": "1"},
                                                            {"stringValue": "x"},
                                                            {
                                                                "kvlistValue": {
                                                                    "values": [
                                                                        {"key": "k", "value": {"boolValue": False}}
                                                                    ]
                                                                }
                                                            },
                                                        ]
                                                    }
                                                },
                                            }
                                        ],
                                    }
                                ],
                                "status": {"code": 2, "message": "why"},
                            }
                        ],
                    }
                ],
            }
        ]
    }


def test_numbers_that_json_does_not_know_are_names() -> None:
    sent = json_form.encode_span(
        span(attributes={"n": float("nan"), "i": float("inf"), "j": -float("inf"), "huge": 10**5000})
    )
    members = [item["value"] for item in json.loads(sent)["attributes"]]
    assert members[:3] == [{"doubleValue": name} for name in ("NaN", "Infinity", "-Infinity")]
    assert members[3] == {"stringValue": hex(10**5000)}


def test_a_value_of_a_foreign_type_goes_out_as_text() -> None:
    foreign: Any = Decimal("1.50")
    (attribute,) = json.loads(json_form.encode_span(span(attributes={"k": foreign})))["attributes"]
    assert attribute["value"] == {"stringValue": "1.50"}


def test_lone_surrogates_are_replaced_and_pairs_are_joined() -> None:
    broken, mended = "a\ud800b\ud83d\ude00", "a\ufffdb\U0001f600"
    sent = span(name=broken, attributes={broken: broken}, status_message=broken)
    (group,) = decode_request(json_form.encode_request([json_form.encode_span(sent)], {}, broken, broken))
    found = group.spans[0]
    assert isinstance(found, Span)
    assert (found.name, found.attributes, found.status_message) == (mended, {mended: mended}, mended)
    assert (group.scope_name, group.scope_version) == (mended, mended)


def test_many_different_names_of_attributes_are_not_all_remembered() -> None:
    json_form.encode_span(span(attributes={f"name {number}": 1 for number in range(3000)}))
    json_form.encode_span(span(attributes={"x" * 1000: 1}))
    assert len(json_form._KEYS) <= 1024
    assert max(map(len, json_form._KEYS)) <= 64


def test_ids_may_be_in_capitals_and_are_read_in_small_letters() -> None:
    found = read(traceId=TRACE_ID.upper(), spanId=SPAN_ID.upper(), parentSpanId="00F067AA0BA902B7")
    assert found[:3] == (TRACE_ID, SPAN_ID, "00f067aa0ba902b7")


@pytest.mark.parametrize("given_parent", [None, "", "0" * 16])
def test_no_parent_is_null_or_empty_or_zeros(given_parent: str | None) -> None:
    assert read(parentSpanId=given_parent).parent_span_id == ""


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"traceId": ""}, "trace id"),
        ({"traceId": "0" * 32}, "trace id"),
        ({"traceId": TRACE_ID[1:]}, "trace id"),
        ({"traceId": " " * 32}, "traceId"),
        ({"traceId": "W47/95gDgQPSabYzgT/GDA=="}, "traceId"),
        ({"traceId": 5}, "traceId"),
        ({"spanId": None}, "span id"),
        ({"spanId": "0" * 16}, "span id"),
        ({"spanId": SPAN_ID + "00"}, "span id"),
        ({"parentSpanId": "12"}, "parent"),
        ({"name": 5}, "name"),
        ({"name": "\ud800"}, "Unicode"),
        ({"kind": []}, "kind"),
        ({"kind": 1 << 40}, "kind"),
        ({"kind": True}, "kind"),
        ({"startTimeUnixNano": "-1"}, "startTimeUnixNano"),
        ({"startTimeUnixNano": "1.5"}, "startTimeUnixNano"),
        ({"startTimeUnixNano": "9" * 5000}, "startTimeUnixNano"),
        ({"endTimeUnixNano": 1 << 64}, "endTimeUnixNano"),
        ({"endTimeUnixNano": 1.5}, "endTimeUnixNano"),
        ({"endTimeUnixNano": True}, "endTimeUnixNano"),
        ({"attributes": {}}, "attributes"),
        ({"attributes": [5]}, "attribute"),
        ({"attributes": [{"key": 5}]}, "key"),
        ({"attributes": [{"key": "k", "value": "bare"}]}, "value"),
        ({"events": [None]}, "event"),
        ({"events": [{"timeUnixNano": "x"}]}, "timeUnixNano"),
        ({"status": 2}, "status"),
        ({"status": {"message": []}}, "message"),
    ],
)
def test_a_span_with_a_field_that_cannot_be_is_refused_alone(fields: dict[str, Any], named: str) -> None:
    assert named in reason(**fields)


@pytest.mark.parametrize("item", [None, 5, [], "text"])
def test_a_span_that_is_no_object_is_refused_alone(item: Any) -> None:
    bad, good = decoded(item, IDS)
    assert bad == Unreadable("", "a span must be an object")
    assert isinstance(good, Span)


def test_the_id_of_a_refused_span_is_reported_short_and_printable() -> None:
    (found,) = decoded({"traceId": TRACE_ID, "spanId": "no\nhex\x1b€" + "x" * 1000})
    assert isinstance(found, Unreadable)
    assert found.span_id == ("nohex" + "x" * 24)
    (found,) = decoded({"traceId": TRACE_ID, "spanId": ["x"]})
    assert isinstance(found, Unreadable)
    assert found.span_id == ""


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"stringValue": ""}, ""),
        ({"string_value": "x"}, "x"),
        ({"boolValue": False}, False),
        ({"intValue": "-9223372036854775808"}, -(1 << 63)),
        ({"intValue": 7}, 7),
        ({"intValue": 7.0}, 7),
        ({"int_value": "7"}, 7),
        ({"doubleValue": 7}, 7.0),
        ({"doubleValue": "1.5e3"}, 1500.0),
        ({"doubleValue": "-Infinity"}, -float("inf")),
        ({"doubleValue": "Infinity"}, float("inf")),
        ({"bytesValue": "AP8="}, b"\x00\xff"),
        ({"bytesValue": "AP8"}, b"\x00\xff"),
        ({"bytesValue": "-_-_"}, b"\xfb\xff\xbf"),
        ({"arrayValue": {}}, []),
        ({"arrayValue": {"values": [{"intValue": 1}, {}, None]}}, [1, None, None]),
        ({"kvlistValue": {"values": None}}, {}),
        (
            {"kvlistValue": {"values": [{"key": "a", "value": {"stringValue": "b"}}, {"key": "c"}]}},
            {"a": "b", "c": None},
        ),
        ({"stringValue": None, "intValue": "1"}, 1),
        ({"unheardOf": 1}, None),
        ({}, None),
    ],
)
def test_a_value_is_read_in_every_form_that_the_mapping_allows(members: dict[str, Any], expected: Any) -> None:
    assert repr(value(**members)) == repr(expected)


def test_not_a_number_is_read_by_its_name() -> None:
    assert repr(value(doubleValue="NaN")) == "nan"


@pytest.mark.parametrize(
    "members",
    [
        {"stringValue": 5},
        {"boolValue": "true"},
        {"intValue": "9223372036854775808"},
        {"intValue": "1e3"},
        {"intValue": ""},
        {"intValue": True},
        {"doubleValue": "nan"},
        {"doubleValue": "1_0"},
        {"doubleValue": "9" * 5000},
        {"doubleValue": True},
        {"doubleValue": []},
        {"bytesValue": "!"},
        {"bytesValue": "A"},
        {"bytesValue": 5},
        {"arrayValue": []},
        {"kvlistValue": {"values": {}}},
        {"arrayValue": {"values": ["bare"]}},
    ],
)
def test_a_value_in_another_form_refuses_its_span(members: dict[str, Any]) -> None:
    assert reason(attributes=[{"key": "k", "value": members}])


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [
        ("SPAN_KIND_CLIENT", "STATUS_CODE_ERROR", (3, 2)),
        ("SPAN_KIND_INTERNAL", "STATUS_CODE_OK", (1, 1)),
        ("SPAN_KIND_OF_TOMORROW", "STATUS_CODE_OF_TOMORROW", (0, 0)),
        (5, 2, (5, 2)),
        (99, 99, (99, 99)),
        (None, None, (0, 0)),
    ],
)
def test_enums_may_be_numbers_or_names(kind: Any, code: Any, expected: tuple[int, int]) -> None:
    found = read(kind=kind, status={"code": code})
    assert (found.kind, found.status) == expected


def test_times_may_be_texts_or_numbers() -> None:
    found = read(startTimeUnixNano="1700000000000000000", end_time_unix_nano=1700000000000000001)
    assert (found.start_ns, found.end_ns) == (1700000000000000000, 1700000000000000001)


def test_unknown_fields_and_null_fields_are_ignored() -> None:
    plain = {"name": None, "kind": None, "status": None, "attributes": None, "events": None, "startTimeUnixNano": None}
    assert read(**plain, links=None, flags=257, whatever={"a": [1]}) == read()


def test_a_lone_surrogate_refuses_its_span_alone() -> None:
    body = json.dumps(request_of({**IDS, "name": "\ud800"}, {**IDS, "name": "\ud83d\ude00"})).encode()
    (group,) = decode_request(body)
    assert group.spans[0] == Unreadable(SPAN_ID, "a text is not valid Unicode")
    assert isinstance(group.spans[1], Span)
    assert group.spans[1].name == "\U0001f600"


def nested(levels: int) -> Any:
    inner: Any = {"stringValue": "core"}
    for _ in range(levels):
        inner = {"arrayValue": {"values": [inner]}}
    return inner


def test_a_value_nested_too_deep_refuses_its_span_and_no_other() -> None:
    items = [{**IDS, "attributes": [{"key": "k", "value": nested(DEEPEST_READ + more)}]} for more in (0, 1)]
    good, bad = decoded(*items)
    assert isinstance(good, Span)
    assert bad == Unreadable(SPAN_ID, f"a value is nested deeper than {DEEPEST_READ} levels")


def test_a_depth_bomb_is_malformed() -> None:
    bomb = b'{"arrayValue":{"values":[' * 50_000
    head = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[{"key":"k","value":'
    assert refusal(head + bomb).status == 400
    assert refusal(head + bomb + b"{}" + b"]}}" * 50_000 + b"}]}]}]}]}").status == 400


def test_what_is_nested_too_deep_for_the_libraries_is_sent_as_json_from_there_on() -> None:
    deep: Any = "core"
    for _ in range(DEEPEST_SENT + 3):
        deep = [deep]
    found = decode_request(encoded(SpanGroup({}, "", "", [span(attributes={"k": deep})])))[0].spans[0]
    assert isinstance(found, Span)
    inner: Any = found.attributes["k"]
    for _ in range(DEEPEST_SENT):
        (inner,) = inner
    assert inner == '[[["core"]]]'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"nonsense",
        b'{"resourceSpans": [NaN]}',
        b'"\xff"',
        b'{"resourceSpans": {}}',
        b'{"resourceSpans": [null]}',
        b'{"resourceSpans": [{"resource": []}]}',
        b'{"resourceSpans": [{"resource": {"attributes": [{"key": 1}]}}]}',
        b'{"resourceSpans": [{"resource": {"attributes": [{"key": "\\ud800"}]}}]}',
        b'{"resourceSpans": [{"scopeSpans": "x"}]}',
        b'{"resourceSpans": [{"scopeSpans": ["x"]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"scope": {"name": 5}}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": {}}]}]}',
    ],
)
def test_an_invalid_request_refuses_the_body(body: bytes) -> None:
    problem = refusal(body)
    assert problem.status == 400
    assert str(problem).endswith(".")


@pytest.mark.parametrize("body", [b"{}", b'{"resourceSpans": null}', b'{"resourceSpans": [], "more": 1}'])
def test_a_request_may_hold_no_spans(body: bytes) -> None:
    assert decode_request(body) == []


def test_too_many_values_are_refused_as_too_large() -> None:
    body = json.dumps(request_of(*[{}] * 300_000)).encode()
    assert refusal(body).status == 413


documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["attributes", "key", "value", "values", "arrayValue", "kvlistValue", "intValue", "status"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(documents, st.sampled_from(["resourceSpans", "scopeSpans", "spans", "attributes", "value"]))
def test_any_json_is_refused_or_read(part: Any, place: str) -> None:
    document: Any = {place: part}
    for name, within in (
        ("attributes", "value"),
        ("spans", "attributes"),
        ("scopeSpans", "spans"),
        ("resourceSpans", "scopeSpans"),
    ):
        if place == within:
            document, place = {name: [document]}, name
    body = json.dumps(document, allow_nan=False).encode()
    found = attempt(decode_request, body)
    assert found == 400 or isinstance(found, list)
    json_form.decode_response(body)


@pytest.mark.parametrize(
    ("rejected", "message"), [(0, ""), (3, 'span x: "why"\ud800'), (0, "a warning"), (1 << 40, "")]
)
def test_answers_are_read_by_the_library_and_by_us(rejected: int, message: str) -> None:
    body = json_form.encode_response(rejected, message)
    theirs = json_format.Parse(body, ExportTraceServiceResponse()).partial_success
    told = message.replace("\ud800", "\ufffd")
    assert (theirs.rejected_spans, theirs.error_message) == (rejected, told)
    assert json_form.decode_response(body) == (rejected, told)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", (0, "")),
        (b'{"partialSuccess": null}', (0, "")),
        (b'{"partialSuccess": {"rejectedSpans": 2, "errorMessage": "why"}}', (2, "why")),
        (b'{"partial_success": {"rejected_spans": "2"}}', (2, "")),
        (b'{"partialSuccess": {"rejectedSpans": -1}}', None),
        (b'{"partialSuccess": []}', None),
        (b'{"partialSuccess": {"errorMessage": 5}}', None),
        (b"[]", None),
        (b"", None),
        (b"<html></html>", None),
    ],
)
def test_answers_of_others_are_believed_only_if_they_are_answers(body: bytes, expected: Any) -> None:
    assert json_form.decode_response(body) == expected


def test_an_error_is_a_status_message() -> None:
    assert json.loads(json_form.encode_status('Too "large".')) == {"message": 'Too "large".'}
