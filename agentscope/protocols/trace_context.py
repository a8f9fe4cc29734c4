"""W3C Trace Context (https://www.w3.org/TR/trace-context/): the run and step of a request, in its headers.

In `traceparent` the trace id is made from the run id and the parent id from the step id (`ids`). A step id cannot be derived
from a parent id, so `tracestate` carries both original ids under the key `agentscope`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from .ids import run_id_of, span_id_of, trace_id_of

PARENT = "traceparent"
STATE = "tracestate"

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KEY = "agentscope"
_MOST_MEMBERS = 32
_LONGEST_VALUE = 256
_LONGEST_ID = 255
_SAFE = "~.!*'()"
"""Characters, besides letters, digits, `-` and `_`, that a value may hold without quoting."""


class Remote(NamedTuple):
    """The run and step that a request was made in. `step_id` is None for the run itself."""

    run_id: str
    step_id: str | None
    sampled: bool


def headers_of(run_id: str, step_id: str | None, sampled: bool, state: str | None = None) -> dict[str, str]:
    """Return both headers for a request made in this step. `state` is the existing `tracestate` header, to be extended."""
    span = span_id_of(run_id if step_id is None else step_id)
    parent = f"00-{trace_id_of(run_id)}-{span}-{'01' if sampled else '00'}"
    others = [member for member in _members(state or "") if not member.startswith(f"{_KEY}=")]
    own = f"s:{quote(step_id or '', safe=_SAFE)}"
    if run_id != run_id_of(trace_id_of(run_id)):
        own += f";r:{quote(run_id, safe=_SAFE)}"
    members = [f"{_KEY}={own}", *others] if len(own) <= _LONGEST_VALUE else others
    headers = {PARENT: parent}
    if members:
        headers[STATE] = ",".join(members[:_MOST_MEMBERS])
    return headers


def remote_of(headers: Any) -> Remote | None:
    """Return the origin of a request, or None without valid headers.

    headers: a mapping, or pairs of name and value. Names may be in any case, both may be str or bytes (as in ASGI).
    """
    found = _texts(headers)
    match = _PARENT.fullmatch(found.get(PARENT, "").strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    run_id, step_id = run_id_of(trace_id), None if span_id == span_id_of(run_id_of(trace_id)) else span_id
    own = _own(found.get(STATE, ""))
    # A service in between may have passed on the state of another trace or span.
    if own is not None and trace_id_of(own[0] or run_id) == trace_id:
        run_id = own[0] or run_id
        if span_id == span_id_of(own[1] or run_id):
            step_id = own[1] or None
    return Remote(run_id, step_id, bool(int(flags, 16) & 1))


def _own(state: str) -> tuple[str, str] | None:
    """Return (run id or empty, step id or empty) from the `agentscope` member, or None."""
    for member in _members(state):
        key, _, value = member.partition("=")
        if key == _KEY:
            parts = dict(part.split(":", 1) for part in value.split(";") if ":" in part)
            run_id, step_id = unquote(parts.get("r", "")), unquote(parts.get("s", ""))
            # The header is untrusted input: events with an id that backends refuse would be lost.
            is_valid = all(len(own_id) <= _LONGEST_ID and "\0" not in own_id for own_id in (run_id, step_id))
            return (run_id, step_id) if is_valid else None
    return None


def _members(state: str) -> list[str]:
    return [member.strip() for member in state.split(",") if "=" in member]


def _texts(headers: Any) -> dict[str, str]:
    """Return both headers by lower-case name."""
    pairs: Iterable[Any] = headers.items() if isinstance(headers, Mapping) or hasattr(headers, "items") else headers
    found: dict[str, str] = {}
    for name, value in pairs:
        name, value = _text(name).lower(), _text(value)
        if name == STATE and name in found:
            found[name] += f",{value}"  # the header may be repeated
        elif name in (PARENT, STATE):
            found.setdefault(name, value)
    return found


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
