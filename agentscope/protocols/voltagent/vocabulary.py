"""Words of the history API, WIRE.md section 3, and what they are in events. Both sides read them from here."""

from __future__ import annotations

from typing import Any

NOTE = "agentscope"
"""The key in `metadata` under which an event of ours says what the API has no place for: `records.py` describes it."""
RESERVED = frozenset({NOTE, "usage", "error"})
"""Keys of `metadata` that mean something to a reader, whoever wrote them."""

EVENT_TYPES = {"agent": "agent", "tool_call": "tool", "memory": "memory", "retrieval": "retriever"}
"""By step type. The API knows no others: an LLM call goes out as the use of a tool, and its note says what it was."""
OTHER_TYPE = "tool"
STEP_TYPES = {event_type: step_type for step_type, event_type in EVENT_TYPES.items()}

RUN_STATUSES = {"running": "working", "completed": "completed", "failed": "error"}
STEP_STATUSES = {"running": "running", "completed": "completed", "failed": "error"}
CANCELLED = "cancelled"
"""Status of an event that ended neither well nor badly."""
LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR"})

_VERDICTS = {"start", "success", "error"}


def event_name(event_type: str, verb: str) -> str:
    """The name of a start, a success or an error."""
    return f"{event_type}:write_{verb}" if event_type == "memory" else f"{event_type}:{verb}"


def verb_of(name: str) -> str | None:
    """`start`, `success` or `error` if the name of an event says one; `memory:error` is read like `memory:write_error`."""
    verb = name.rpartition(":")[2].removeprefix("write_")
    return verb if verb in _VERDICTS else None


def camel_case_keys(value: dict[str, Any]) -> dict[str, Any]:
    """The object with its keys, and those of objects in it, from snake_case to camelCase. Lists are left as they are."""
    return {
        camel_case(key): camel_case_keys(inner) if isinstance(inner, dict) else inner for key, inner in value.items()
    }


def camel_case(name: str) -> str:
    """`model_parameters` becomes `modelParameters`; a name without underscores stays as it is."""
    first, *others = name.split("_")
    return (first + "".join(part.capitalize() for part in others)) or name


MOST_KEYS = 10_000
"""Keys that are looked at; what lies beyond stays as it is."""
DEEPEST = 50
"""Dicts inside one another; those further in would be cut from a payload anyway."""


def camel_case_metadata(metadata: dict[Any, Any]) -> dict[Any, Any]:
    """A new dict with keys in camelCase, those of dicts in it as well. Lists, and what is in them, stay as they are.

    So it is in the published package and in the receiver. A dict that holds itself is looked into only so deep.
    """
    return _camel(metadata, DEEPEST, [MOST_KEYS])


def _camel(found: dict[Any, Any], depth: int, room: list[int]) -> dict[Any, Any]:
    items = list(found.items())  # at once: another thread may change it meanwhile
    room[0] -= len(items)
    if depth == 0 or room[0] < 0:
        return found
    return {
        camel_case(key) if type(key) is str and "_" in key else key: (
            _camel(value, depth - 1, room) if type(value) is dict else value
        )
        for key, value in items
    }
