"""OTLP in JSON: protobuf's JSON mapping, but with ids in hexadecimal digits and enums as numbers.

The rules: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding. What is read must be strict JSON, and senders have
the freedoms of the mapping: names in camelCase or as in the .proto files, 64-bit integers as texts or numbers, enums as numbers
or names, null for a field that is not set, unknown fields. A fault of one span refuses that span, any other fault the body.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from json.encoder import encode_basestring as _quote
from math import isfinite
from typing import Any

from agentscope.protocols.json_decode import DecodeError, Rejected, is_text, parse

from .limits import (
    DEEPEST_READ,
    DEEPEST_SENT,
    HIGHEST_COUNT,
    HIGHEST_INT,
    HIGHEST_TIME,
    LOWEST_INT,
    as_text,
    check_ids,
    digits,
    in_time,
    shown_id,
    utf8,
)
from .model import LogRecord, Span, SpanEvent, SpanGroup, SpanLink, Unreadable, Value

CONTENT_TYPE = "application/json"

_KEYS: dict[str, str] = {}
"""The encoded beginning of a `KeyValue` by attribute name. A program sends few different names."""
_MOST_KEYS, _LONGEST_KEY = 1024, 64
_HEX = re.compile(r"[0-9a-fA-F]*")
_WHOLE = re.compile(r"-?[0-9]{1,20}")
_DECIMAL = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,9})?")
_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_KIND_NAMES = {f"SPAN_KIND_{name}": number for number, name in enumerate(_KINDS)}
_CODE_NAMES = {"STATUS_CODE_UNSET": 0, "STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": 2}
_NUMBERS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


# ---- writing --------------------------------------------------------------------------------------------------------


def encode_span(span: Span) -> bytes:
    """Encode one span as a JSON object."""
    times = f'"startTimeUnixNano":"{in_time(span.start_ns)}","endTimeUnixNano":"{in_time(span.end_ns)}"'
    parts = [f'{{"traceId":"{span.trace_id}","spanId":"{span.span_id}"']
    if span.trace_state:
        parts.append(f'"traceState":{_quote(span.trace_state)}')
    if span.parent_span_id:
        parts.append(f'"parentSpanId":"{span.parent_span_id}"')
    parts.append(f'"name":{_quote(span.name)},"kind":{span.kind:d},{times}')
    if span.attributes:
        parts.append(f'"attributes":[{_attributes(span.attributes)}]')
    if span.events:
        parts.append(f'"events":[{",".join(map(_event, span.events))}]')
    if span.status or span.status_message:
        message = f',"message":{_quote(span.status_message)}' if span.status_message else ""
        parts.append(f'"status":{{"code":{span.status:d}{message}}}')
    return utf8(",".join(parts) + "}")


def encode_request(spans: Sequence[bytes], resource: Mapping[str, Value], scope_name: str, scope_version: str) -> bytes:
    """Encode an `ExportTraceServiceRequest` of one resource and one scope around spans from `encode_span`."""
    scope = f'{{"name":{_quote(scope_name)},"version":{_quote(scope_version)}}}'
    about = f'{{"attributes":[{_attributes(resource)}]}}'
    head = f'{{"resourceSpans":[{{"resource":{about},"scopeSpans":[{{"scope":{scope},"spans":['
    return b"%b%b]}]}]}" % (utf8(head), b",".join(spans))


def encode_response(rejected: int, message: str, what: str = "Spans") -> bytes:
    """Encode an `ExportTraceServiceResponse` that tells how many spans were rejected, and why.

    what: `LogRecords` or `DataPoints` for the response to logs or metrics.
    """
    if not rejected and not message:
        return b"{}"
    partial = f'"rejected{what}":"{rejected}","errorMessage":{_quote(message)}'
    return utf8(f'{{"partialSuccess":{{{partial}}}}}')


def encode_status(message: str) -> bytes:
    """Encode a `google.rpc.Status`, the body of an error in OTLP. Its code is left out, since senders must ignore it."""
    return utf8(f'{{"message":{_quote(message)}}}')


def _attributes(attributes: Mapping[str, Value], depth: int = 1) -> str:
    parts = []
    for name, value in attributes.items():
        key = _KEYS.get(name) or _key(name)
        if type(value) is str:
            parts.append(f'{key}"stringValue":{_quote(value)}}}}}')
        else:
            parts.append(f"{key}{_member(value, depth)}}}}}")
    return ",".join(parts)


def _member(value: Value, depth: int) -> str:
    """Encode the member of an `AnyValue`. `depth` is its level if it is a list or a mapping."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f'"stringValue":{_quote(value)}'
    if isinstance(value, bool):
        return '"boolValue":true' if value else '"boolValue":false'
    if isinstance(value, int):
        return f'"{"intValue" if LOWEST_INT <= value <= HIGHEST_INT else "stringValue"}":"{digits(value)}"'
    if isinstance(value, float):
        return f'"doubleValue":{_number(value)}'
    if isinstance(value, bytes):
        return f'"bytesValue":"{b64encode(value).decode()}"'
    if isinstance(value, (Mapping, Sequence)) and depth <= DEEPEST_SENT:
        if isinstance(value, Mapping):
            return f'"kvlistValue":{{"values":[{_attributes(value, depth + 1)}]}}'
        items = ",".join([f"{{{_member(item, depth + 1)}}}" for item in value])
        return f'"arrayValue":{{"values":[{items}]}}'
    return f'"stringValue":{_quote(as_text(value))}'


def _event(event: SpanEvent) -> str:
    attributes = f',"attributes":[{_attributes(event.attributes)}]' if event.attributes else ""
    return f'{{"timeUnixNano":"{in_time(event.time_ns)}","name":{_quote(event.name)}{attributes}}}'


def _key(name: str) -> str:
    """Encode the beginning of a `KeyValue`, up to the member of its value."""
    key = f'{{"key":{_quote(name)},"value":{{'
    if len(name) <= _LONGEST_KEY and len(_KEYS) < _MOST_KEYS:
        _KEYS[name] = key
    return key


def _number(value: float) -> str:
    if isfinite(value):
        return float.__repr__(value)
    return '"NaN"' if value != value else '"Infinity"' if value > 0 else '"-Infinity"'


# ---- reading --------------------------------------------------------------------------------------------------------


def decode_request(body: bytes) -> list[SpanGroup]:
    """Decode an `ExportTraceServiceRequest`, to one group for each `ScopeSpans`.

    A span that cannot be read becomes `Unreadable`. Raises `DecodeError`: 400 for a body that is no such message, 413
    for too many values.
    """
    document = parse(body)[0]
    del body
    groups = []
    try:
        for part in _list(_object(document, "the body"), "resourceSpans"):
            outer = _object(part, "an item of resourceSpans")
            resource = _read_attributes(_field(outer, "resource"))
            for inner in _list(outer, "scopeSpans"):
                item = _object(inner, "an item of scopeSpans")
                scope = _field(item, "scope")
                name, version = _text(scope, "name"), _text(scope, "version")
                spans = [_span(span) for span in _list(item, "spans")]
                groups.append(SpanGroup(resource, name, version, spans, _read_attributes(scope)))
    except Rejected as wrong:  # in a resource or scope, which all its spans share
        raise DecodeError(400, f"The body is not OTLP: {wrong}.") from None
    return groups


def decode_logs(body: bytes) -> list[LogRecord | None]:
    """Decode an `ExportLogsServiceRequest`, to None for a record that cannot be read. Raises as `decode_request` does."""
    found: list[LogRecord | None] = []
    for item in _items(body, "resourceLogs", "scopeLogs", "logRecords"):
        try:
            found.append(_log_record(_object(item, "a log record")))
        except Rejected:
            found.append(None)
    return found


def count_points(body: bytes) -> int:
    """Count the data points of an `ExportMetricsServiceRequest`. Raises as `decode_request` does."""
    count = 0
    for metric in _items(body, "resourceMetrics", "scopeMetrics", "metrics"):
        members = metric.values() if type(metric) is dict else ()
        data = (_get(member, "dataPoints") for member in members if type(member) is dict)
        count += sum(len(points) for points in data if type(points) is list)
    return count


def _items(body: bytes, *path: str) -> list[Any]:
    """Read the items of the lists at the end of a path of lists in a body."""
    items = [parse(body)[0]]
    try:
        for name in path:
            items = [inner for item in items for inner in _list(_object(item, "the body or an item of it"), name)]
    except Rejected as wrong:
        raise DecodeError(400, f"The body is not OTLP: {wrong}.") from None
    return items


def decode_response(body: bytes) -> tuple[int, str] | None:
    """Return how many spans an `ExportTraceServiceResponse` rejects and why, or None for a body that is no such message."""
    try:
        partial = _field(_object(parse(body)[0], "the body"), "partialSuccess")
        return _whole(partial, "rejectedSpans", 0, HIGHEST_INT), _text(partial, "errorMessage")
    except (DecodeError, Rejected):
        return None


def _span(item: Any) -> Span | Unreadable:
    try:
        return _sound_span(_object(item, "a span"))
    except Rejected as wrong:
        given = _get(item, "spanId") if type(item) is dict else None
        return Unreadable(shown_id(given), str(wrong))


def _sound_span(item: dict[str, Any]) -> Span:
    ids = check_ids(_id(item, "traceId"), _id(item, "spanId"), _id(item, "parentSpanId"))
    status = _field(item, "status")
    return Span(
        *ids,
        _text(item, "name"),
        _enum(item, "kind", _KIND_NAMES),
        _whole(item, "startTimeUnixNano", 0, HIGHEST_TIME),
        _whole(item, "endTimeUnixNano", 0, HIGHEST_TIME),
        _read_attributes(item),
        _enum(status, "code", _CODE_NAMES),
        _text(status, "message"),
        [_read_event(_object(event, "an event")) for event in _list(item, "events")],
        _text(item, "traceState"),
        [_read_link(_object(link, "a link")) for link in _list(item, "links")],
        *(_count(item, f"dropped{what}Count") for what in ("Attributes", "Events", "Links")),
    )


def _log_record(item: dict[str, Any]) -> LogRecord:
    time_ns, observed_ns = (_whole(item, name, 0, HIGHEST_TIME) for name in ("timeUnixNano", "observedTimeUnixNano"))
    ids = _id(item, "traceId"), _id(item, "spanId")
    body, attributes = _any(_get(item, "body"), 1), _read_attributes(item)
    return LogRecord(*ids, time_ns or observed_ns, _text(item, "eventName"), body, attributes)


def _read_event(item: dict[str, Any]) -> SpanEvent:
    time_ns = _whole(item, "timeUnixNano", 0, HIGHEST_TIME)
    return SpanEvent(_text(item, "name"), time_ns, _read_attributes(item), _count(item, "droppedAttributesCount"))


def _read_link(item: dict[str, Any]) -> SpanLink:
    ids = _text(item, "traceId").lower(), _text(item, "spanId").lower()
    state, dropped = _text(item, "traceState"), _count(item, "droppedAttributesCount")
    return SpanLink(*ids, _read_attributes(item), state, dropped)


def _count(item: dict[str, Any], name: str) -> int:
    return _whole(item, name, 0, HIGHEST_COUNT)


def _read_attributes(holder: dict[str, Any], name: str = "attributes", depth: int = 1) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for part in _list(holder, name):
        item = _object(part, "an attribute")
        found[_text(item, "key")] = _any(item.get("value"), depth)
    return found


def _any(item: Any, depth: int) -> Value:
    """Read an `AnyValue`. `depth` is its level if it is a list or a mapping."""
    if item is None:
        return None
    members = _object(item, "a value")
    text = _get(members, "stringValue")
    if text is not None:
        return _checked(text, "stringValue")
    if _get(members, "intValue") is not None:
        return _whole(members, "intValue", LOWEST_INT, HIGHEST_INT)
    flag = _get(members, "boolValue")
    if flag is not None:
        if type(flag) is not bool:
            raise Rejected("boolValue must be true or false")
        return flag
    number = _get(members, "doubleValue")
    if number is not None:
        return _double(number)
    data = _get(members, "bytesValue")
    if data is not None:
        return _bytes(data)
    nested = next((name for name in ("arrayValue", "kvlistValue") if _get(members, name) is not None), None)
    if nested is None:
        return None
    if depth > DEEPEST_READ:
        raise Rejected(f"a value is nested deeper than {DEEPEST_READ} levels")
    holder = _field(members, nested)
    if nested == "kvlistValue":
        return _read_attributes(holder, "values", depth + 1)
    return [_any(value, depth + 1) for value in _list(holder, "values")]


def _get(holder: dict[str, Any], name: str) -> Any:
    """The member of this name in camelCase, or as in the .proto files; None if it is not set."""
    value = holder.get(name)
    return holder.get(_snake_case(name)) if value is None else value


@cache
def _snake_case(name: str) -> str:
    return re.sub("([A-Z])", r"_\1", name).lower()


def _object(value: Any, what: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise Rejected(f"{what} must be an object")
    return value


def _field(holder: dict[str, Any], name: str) -> dict[str, Any]:
    value = _get(holder, name)
    return {} if value is None else _object(value, name)


def _list(holder: dict[str, Any], name: str) -> list[Any]:
    value = _get(holder, name)
    if value is None:
        return []
    if type(value) is not list:
        raise Rejected(f"{name} must be a list")
    return value


def _text(holder: dict[str, Any], name: str) -> str:
    value = _get(holder, name)
    return "" if value is None else _checked(value, name)


def _checked(value: Any, name: str) -> str:
    if type(value) is not str:
        raise Rejected(f"{name} must be a text")
    if not value.isascii() and not is_text(value):
        raise Rejected("a text is not valid Unicode")
    return value


def _id(holder: dict[str, Any], name: str) -> str:
    value = _text(holder, name)
    if not _HEX.fullmatch(value):
        raise Rejected(f"{name} must be hexadecimal digits")
    return value.lower()


def _whole(holder: dict[str, Any], name: str, lowest: int, highest: int) -> int:
    value = _get(holder, name)
    if value is None:
        return 0
    if (type(value) is str and _WHOLE.fullmatch(value)) or (type(value) is float and value.is_integer()):
        value = int(value)
    if type(value) is not int or not lowest <= value <= highest:
        raise Rejected(f"{name} must be a whole number from {lowest} to {highest}")
    return value


def _enum(holder: dict[str, Any], name: str, names: dict[str, int]) -> int:
    """Read an enum. An unknown number is kept. An unknown name counts as 0, so that the span is not lost."""
    value = holder.get(name)
    if value is None:
        return 0
    if type(value) is str:
        return names.get(value, 0)
    if type(value) is not int or not -(1 << 31) <= value < 1 << 31:
        raise Rejected(f"{name} must be a number of 32 bits or a name")
    return value


def _double(value: Any) -> float:
    if type(value) is str:
        if value in _NUMBERS:
            return _NUMBERS[value]
        if _DECIMAL.fullmatch(value):
            return float(value)
    elif type(value) is float or (type(value) is int and LOWEST_INT <= value <= HIGHEST_TIME):
        return float(value)
    raise Rejected("doubleValue must be a number")


def _bytes(value: Any) -> bytes:
    """Read base64 of either alphabet, with or without padding."""
    text = _checked(value, "bytesValue").replace("-", "+").replace("_", "/")
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise Rejected("bytesValue must be base64") from None
