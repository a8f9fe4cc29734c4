"""Conversion of run and step ids to the trace and span ids of W3C Trace Context and OTLP, the same in every process.

A run is a trace and a step is a span. A run id that is a UUID becomes the trace id without its dashes; any other id is
hashed. The run is also the root span, with a span id made from the run id.
"""

from __future__ import annotations

import os
import re
import zlib

_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The digit of a UUID that tells its variant, of any digit."""


def trace_id_of(run_id: str) -> str:
    """Return the trace id of a run: 32 hexadecimal digits, never all zero."""
    if _UUID.fullmatch(run_id):
        digits = run_id.replace("-", "").lower()
        if digits != _NO_TRACE:
            return digits
    return _hashed(run_id, 16)


def span_id_of(own_id: str) -> str:
    """Return the span id of a step, or of a run as the root span: 16 hexadecimal digits, never all zero.

    An id that is a span id, as that of a step received by OTLP, is returned unchanged.
    """
    if _SPAN_ID.fullmatch(own_id) and own_id != _NO_SPAN:
        return own_id
    return _hashed(own_id, 8)


def run_id_of(trace_id: str) -> str:
    """Return the run id of a trace id of 32 hexadecimal digits: the same digits as a UUID."""
    digits = trace_id.lower()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _hashed(text: str, size: int) -> str:
    from hashlib import blake2b  # not at the top: it loads OpenSSL, which most programs do not need

    digits = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size, person=b"agentscope").hexdigest()
    return digits if int(digits, 16) else "1" * (2 * size)


def new_id(raw: bytes | None = None) -> str:
    """Return a random UUID (version 4). The `random` module is not used, since its sequence belongs to the user."""
    digits = (os.urandom(16) if raw is None else raw).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


def sampled(run_id: str, rate: float) -> bool:
    """Return True if a run is recorded at this sample rate, the same in every process."""
    if rate >= 1.0:
        return True
    return zlib.crc32(run_id.encode("utf-8", "replace")) < rate * 2**32
