"""Names and values of the history API and their counterparts in events, for both directions."""

from __future__ import annotations

from typing import Any

NOTE = "agentscope"
"""Key in `metadata` of the note that carries the fields that the API lacks. `records.py` describes its form."""
RESERVED = frozenset({NOTE, "usage", "error"})
"""Keys of `metadata` with a meaning of their own, which users' metadata must not set."""

EVENT_TYPES = {"agent": "agent", "tool_call": "tool", "memory": "memory", "retrieval": "retriever"}
"""Event type by step type. Other step types are sent as `OTHER_TYPE`, with the step type in the note."""
OTHER_TYPE = "tool"
STEP_TYPES = {event_type: step_type for step_type, event_type in EVENT_TYPES.items()}

RUN_STATUSES = {"running": "working", "completed": "completed", "failed": "error"}
STEP_STATUSES = {"running": "running", "completed": "completed", "failed": "error"}
CANCELLED = "cancelled"
"""Status of an event that neither succeeded nor failed."""
LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR"})

_VERDICTS = {"start", "success", "error"}


def text_or_none(value: Any) -> str | None:
    """Return a text that is not empty, or None."""
    return value if isinstance(value, str) and value else None


def level_or_none(value: Any) -> str | None:
    """Return a level of the API, or None."""
    return value if isinstance(value, str) and value in LEVELS else None


def event_name(event_type: str, verb: str) -> str:
    """Return the event name of a start, a success or an error."""
    return f"{event_type}:write_{verb}" if event_type == "memory" else f"{event_type}:{verb}"


def verb_of(name: str) -> str | None:
    """Return `start`, `success` or `error` from an event's name, else None. `memory:error` means `memory:write_error`."""
    verb = name.rpartition(":")[2].removeprefix("write_")
    return verb if verb in _VERDICTS else None


def camel_case(name: str) -> str:
    """Convert snake_case to camelCase. A name without underscores stays as it is."""
    first, *others = name.split("_")
    return (first + "".join(part.capitalize() for part in others)) or name


_MAX_KEYS = 10_000
_MAX_DEPTH = 50  # deeper dicts are cut from a payload anyway


def camel_case_metadata(
    metadata: dict[Any, Any], depth: int = _MAX_DEPTH, keys_left: list[int] | None = None
) -> dict[Any, Any]:
    """Return a new dict with keys in camelCase, in nested dicts too, as the published package does. Lists stay as they are.

    Beyond 10 000 keys, or 50 levels, keys stay as they are: a dict may contain itself.
    """
    keys_left = keys_left or [_MAX_KEYS]
    items = list(metadata.items())  # in one call, since another thread may change the dict
    keys_left[0] -= len(items)
    if depth == 0 or keys_left[0] < 0:
        return metadata
    return {
        camel_case(key) if type(key) is str and "_" in key else key: (
            camel_case_metadata(value, depth - 1, keys_left) if type(value) is dict else value
        )
        for key, value in items
    }
