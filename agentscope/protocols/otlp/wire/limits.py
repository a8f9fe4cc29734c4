"""The rules that both encodings of OTLP share: ranges, texts, ids, and the depth of values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agentscope.protocols.json_decode import Rejected
from agentscope.serialization.text import replace_surrogates

from .model import Span, Value

LOWEST_INT, HIGHEST_INT = -(1 << 63), (1 << 63) - 1
"""The range of `AnyValue.int_value`."""
HIGHEST_TIME = (1 << 64) - 1
"""Nanoseconds since the epoch."""
HIGHEST_COUNT = (1 << 32) - 1
"""The range of the counts of dropped attributes, events and links."""
DEEPEST_SENT = 24
"""Levels of lists and mappings in a value that is sent. Protobuf libraries refuse 100 levels of messages; a mapping takes 3."""
DEEPEST_READ = 56
"""Levels of lists and mappings in a value that is read. A span with a deeper one is refused, as its event would be."""

LONGEST_SHOWN_ID = 32

_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16


class Form(Protocol):
    """An encoding of OTLP: the interface of the modules `protobuf_form` and `json_form`, which document the functions."""

    CONTENT_TYPE: str

    def encode_span(self, span: Span) -> bytes: ...
    def encode_request(
        self, spans: Sequence[bytes], resource: Mapping[str, Value], scope_name: str, scope_version: str
    ) -> bytes: ...
    def encode_response(self, rejected: int, message: str, what: str = ...) -> bytes: ...
    def decode_response(self, body: bytes) -> tuple[int, str] | None: ...
    def encode_status(self, message: str) -> bytes: ...


def digits(value: int) -> str:
    """Write an integer as text: in hexadecimal digits if it is longer than Python's limit for decimal ones."""
    try:
        return str(value)
    except ValueError:
        return hex(value)


def as_text(value: object) -> str:
    """Write a value as text, for values that OTLP cannot hold: nested too deep, or of a foreign type."""
    if isinstance(value, (Mapping, Sequence)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def utf8(text: str) -> bytes:
    """Encode a text. Lone surrogates, which UTF-8 cannot hold, are replaced."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return replace_surrogates(text).encode()


def in_time(time_ns: int) -> int:
    """Clamp a time in nanoseconds to the range of a span's times."""
    return min(max(time_ns, 0), HIGHEST_TIME)


def check_ids(trace_id: str, span_id: str, parent_span_id: str) -> tuple[str, str, str]:
    """Check the hexadecimal ids of a span, and return them. A parent id of zeros becomes empty. Raises `Rejected`."""
    if len(trace_id) != len(_NO_TRACE) or trace_id == _NO_TRACE:
        raise Rejected("its trace id must be 16 bytes, and not all zero")
    if len(span_id) != len(_NO_SPAN) or span_id == _NO_SPAN:
        raise Rejected("its span id must be 8 bytes, and not all zero")
    if parent_span_id in ("", _NO_SPAN):
        return trace_id, span_id, ""
    if len(parent_span_id) != len(_NO_SPAN):
        raise Rejected("its parent's span id must be 8 bytes, or empty")
    return trace_id, span_id, parent_span_id


def shown_id(given: Any) -> str:
    """Clean a received span id for an answer. The result is short and printable, or empty."""
    if type(given) is not str:
        return ""
    return "".join(char for char in given[:LONGEST_SHOWN_ID] if char.isascii() and char.isprintable())
