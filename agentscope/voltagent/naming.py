"""Keys of metadata in camelCase, as the API has them."""

from __future__ import annotations

from typing import Any

from ..protocols.voltagent.names import camel_case

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
