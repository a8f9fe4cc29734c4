"""Separate ids for spans that share one: after a fork that copied the random state, or if client and server use one id."""

from __future__ import annotations

import threading
from hashlib import blake2b

from agentscope.protocols.otlp.semantic_conventions import RUN_ID
from agentscope.protocols.otlp.wire.model import Span

SHARED = "shared_span_id"
"""The attribute with the id under which a span was sent, if it got another one."""
_MOST = 20_000  # ids of each project that are remembered
_MOST_ALIKE = 16  # spans of one id that are remembered


class SpanIds:
    """The spans that came last, by their ids. A span with the id of another one gets an id of its own, so that both are kept.

    Spans are the same if they started at the same moment under the same name. A span may come again, with its end.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._lock = threading.Lock()  # bodies are decoded in several threads
        self._seen: dict[str, dict[tuple[str, str], list[tuple[int, bytes | None]]]] = {}
        """By project: by trace and span id, the start and the digest of the name of each span. Names may be very long."""

    def own(self, span: Span, project: str) -> Span:
        """Return the span, with an id of its own if another span of its trace came with the same one."""
        if RUN_ID in span.attributes:  # of this SDK, whose starts, updates and ends of a step share an id
            return span
        # A span may be renamed until it ends.
        name = blake2b(span.name.encode("utf-8", "replace"), digest_size=8).digest() if span.end_ns else None
        key = span.trace_id, span.span_id
        with self._lock:
            seen = self._seen.setdefault(project, {})
            spans = seen.pop(key, [])
            place = next((at for at, other in enumerate(spans) if _is_same(other, span.start_ns, name)), len(spans))
            if place < len(spans):
                name = name or spans[place][1]
            if place < _MOST_ALIKE:
                spans[place : place + 1] = [(span.start_ns, name)]
            seen[key] = spans
            if len(seen) > self._most:
                del seen[next(iter(seen))]
        if place == 0:
            return span
        digest = blake2b(f"{span.start_ns} ".encode() + (name or b""), digest_size=6).hexdigest()
        attributes = {**span.attributes, SHARED: span.span_id}
        return span._replace(span_id=f"{span.span_id}-{digest}", attributes=attributes)


def _is_same(other: tuple[int, bytes | None], start_ns: int, name: bytes | None) -> bool:
    return other[0] == start_ns and (name is None or other[1] in (None, name))
