"""Encode OTLP in JSON: protobuf's JSON mapping, but with ids in hexadecimal digits and enums as numbers.

The rules: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring as _standard_quote
from math import isfinite

from agentscope.serialization.text import replace_surrogates

from .json_decode import decode_response
from .limits import DEEPEST_SENT, HIGHEST_INT, LOWEST_INT, as_text, digits, in_time
from .model import Span, SpanEvent, Value

__all__ = [
    "CONTENT_TYPE",
    "decode_response",
    "encode_request",
    "encode_response",
    "encode_span",
    "encode_status",
]

CONTENT_TYPE = "application/json"

_KEYS: dict[str, str] = {}
"""The encoded beginning of a `KeyValue` by attribute name. A program sends few different names."""
_MOST_KEYS, _LONGEST_KEY = 1024, 64


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
    return _utf8(",".join(parts) + "}")


def encode_request(spans: Sequence[bytes], resource: Mapping[str, Value], scope_name: str, scope_version: str) -> bytes:
    """Encode an `ExportTraceServiceRequest` of one resource and one scope around spans from `encode_span`."""
    scope = f'{{"name":{_quote(scope_name)},"version":{_quote(scope_version)}}}'
    about = f'{{"attributes":[{_attributes(resource)}]}}'
    head = f'{{"resourceSpans":[{{"resource":{about},"scopeSpans":[{{"scope":{scope},"spans":['
    return b"%b%b]}]}]}" % (_utf8(head), b",".join(spans))


def encode_response(rejected: int, message: str) -> bytes:
    """Encode an `ExportTraceServiceResponse` that tells how many spans were rejected, and why."""
    if not rejected and not message:
        return b"{}"
    partial = f'"rejectedSpans":"{rejected}","errorMessage":{_quote(message)}'
    return _utf8(f'{{"partialSuccess":{{{partial}}}}}')


def encode_status(message: str) -> bytes:
    """Encode a `google.rpc.Status`, the body of an error in OTLP. Its code is left out, since senders must ignore it."""
    return _utf8(f'{{"message":{_quote(message)}}}')


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


def _quote(text: str) -> str:
    quoted: str = _standard_quote(text)
    return quoted


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return replace_surrogates(text).encode()
