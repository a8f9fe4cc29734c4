"""What the worker tells of its events. Values only."""

from __future__ import annotations

from typing import NamedTuple


class Counts(NamedTuple):
    """What became of all events so far, at one moment."""

    accepted: int
    delivered: int
    pending: int
    """In memory only."""
    dropped: dict[str, int]
    """By reason."""
    spooled: int
    """On disk."""


class Left(NamedTuple):
    """What a flush found unsettled when its time was over."""

    pending: int = 0
    spooled: int = 0
