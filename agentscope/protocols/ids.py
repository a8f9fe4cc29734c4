"""Ids of the W3C trace context and of OTLP, and how our own ids become them. Every process comes to the same answer.

A run is a trace and a step is a span. A run id that is a UUID is the trace id, without its dashes, and back; any other id is
hashed. The run itself is a span too, the root: its span id is made of the run's id.
"""

from __future__ import annotations

import os
import re
import zlib

_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16


def trace_id_of(run_id: str) -> str:
    """32 hexadecimal digits, never all zero."""
    if _UUID.fullmatch(run_id):
        digits = run_id.replace("-", "").lower()
        if digits != _NO_TRACE:
            return digits
    return _hashed(run_id, 16)


def span_id_of(own_id: str) -> str:
    """16 hexadecimal digits, never all zero, for the id of a step or, as the root, of a run.

    A step that came as a foreign span has its span id for an id, and keeps it.
    """
    if _SPAN_ID.fullmatch(own_id) and own_id != _NO_SPAN:
        return own_id
    return _hashed(own_id, 8)


def run_id_of(trace_id: str) -> str:
    """The run of a trace id of 32 hexadecimal digits: the same digits as a UUID."""
    digits = trace_id.lower()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _hashed(text: str, size: int) -> str:
    from hashlib import blake2b  # it brings OpenSSL, and most programs never need it

    digits = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size, person=b"agentscope").hexdigest()
    return digits if int(digits, 16) else "1" * (2 * size)


def new_id(raw: bytes | None = None) -> str:
    """A random UUID (version 4). It never touches the `random` module, whose sequence belongs to the user."""
    digits = (os.urandom(16) if raw is None else raw).hex()
    return (
        f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{'89ab'[int(digits[16], 16) & 3]}{digits[17:20]}-{digits[20:]}"
    )


def sampled(run_id: str, rate: float) -> bool:
    """Whether a run is recorded at this sample rate: the same answer in every process."""
    if rate >= 1.0:
        return True
    return zlib.crc32(run_id.encode("utf-8", "replace")) < rate * 2**32
