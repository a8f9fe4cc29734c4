"""The nesting depth of JSON values, and the bounds of a payload."""

from __future__ import annotations

from typing import Any

MAX_DEPTH = 50
"""Containers inside one another."""
MAX_NODES = 100_000
"""Values in one payload that is plain JSON."""
_CONTAINERS = frozenset({dict, list, tuple})


def is_deeper(value: object, limit: int) -> bool:
    """Return True if containers are nested more than `limit` deep, `value` itself included."""
    level: list[Any] = [value]
    for _ in range(limit):
        # tuple(): another thread may resize the dict.
        level = [
            item
            for node in level
            if type(node) in _CONTAINERS
            for item in (tuple(node.values()) if type(node) is dict else node)
        ]
        if not level:
            return False
    return any(type(item) in _CONTAINERS for item in level)
