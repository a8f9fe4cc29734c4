"""Token counts in the results of model clients, read from what a result stores, without a call of its code."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from types import MemberDescriptorType
from typing import Any

from agentscope.protocols.token_usage import Tokens, tokens_of
from agentscope.serialization.foreign import called, is_hosts
from agentscope.serialization.snapshot import encode

UsageOf = Callable[[Any], Any]
"""Returns the token counts of a result, or of an item of a stream; None without any."""

_NAMES = ("usage", "usage_metadata", "usageMetadata")
_PARTS = ("message", "response", "chunk")
"""Fields of an event of a stream that hold a part of the answer."""
_NONE = Tokens()
_MOST_BYTES = 16_384


def usage_in(result: Any) -> dict[str, Any] | None:
    """Return the token counts that a result carries as `usage`."""
    try:
        storage = storage_of(type(result))
        if storage is not None:
            stored = storage(result)
            for name in _NAMES:
                usage = dict.get(stored, name)
                if usage is not None:
                    return _counts(usage)
    except Exception as error:  # a metaclass, or the keys of a dict
        if is_hosts(error):
            raise
    return None


def usage_in_item(item: Any) -> dict[str, Any] | None:
    """Return the token counts that an item of a stream carries, also in its `message`, `response` or `chunk`."""
    found = usage_in(item)
    storage = storage_of(type(item)) if found is None else None
    if storage is not None:
        for name in _PARTS:
            found = found or usage_in(called(lambda: dict.get(storage(item), name), None))  # noqa: B023 - called at once
    return found


def merged(earlier: Any, later: Any) -> Any:
    """Return the counts of two items of a stream: later ones replace earlier ones of the same name."""
    if type(earlier) is not dict or type(later) is not dict:
        return earlier if later is None else later
    return {**earlier, **{name: count for name, count in later.items() if count is not None}}


def _storage_of(kind: type) -> Callable[[Any], dict[str, Any]] | None:
    """Return a function from an instance to the dict of what it stores; None for a class whose instances store nothing."""
    if issubclass(kind, dict):
        return _itself
    slots = {name: getattr(kind, name, None) for name in (*_NAMES, *_PARTS, "__pydantic_extra__")}
    members = {name: slot for name, slot in slots.items() if type(slot) is MemberDescriptorType}
    if not members:
        return _attributes if kind.__dictoffset__ else None

    def stored(value: Any) -> dict[str, Any]:
        found = {name: getattr(value, name, None) for name in members}
        attributes = _attributes(value) if kind.__dictoffset__ else {}
        return {**attributes, **found, **(found.get("__pydantic_extra__") or {})}

    return stored


storage_of: Callable[[type], Callable[[Any], dict[str, Any]] | None] = lru_cache(maxsize=128)(_storage_of)


def _itself(value: dict[str, Any]) -> dict[str, Any]:
    return value


def _attributes(value: Any) -> Any:
    return object.__getattribute__(value, "__dict__")  # it fails for a class of C that hides it


def _counts(usage: Any) -> dict[str, Any] | None:
    found = json.loads(encode(usage, _MOST_BYTES)[0])
    return found if isinstance(found, dict) and tokens_of(found) != _NONE else None
