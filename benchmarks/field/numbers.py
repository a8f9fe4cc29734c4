"""Medians and percentiles. A mean would hide the tail of a distribution."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The median, the least and the greatest of some values."""

    median: float
    low: float
    high: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least of the ordered values that `share` of them do not exceed. It is never interpolated."""
    if not ordered:
        raise ValueError("no values")
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def spread(values: Iterable[float]) -> Spread | None:
    """The spread of some values; None if there are none."""
    found = sorted(values)
    return Spread(statistics.median(found), found[0], found[-1]) if found else None


def in_microseconds(nanoseconds: Iterable[int], name: str) -> dict[str, float]:
    """`NAME_mean`, `_p50`, `_p99`, `_p999` and `_max` in µs; empty if there are no values."""
    ordered = sorted(nanoseconds)
    if not ordered:
        return {}
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {
        f"{name}_mean": sum(ordered) / len(ordered) / 1e3,
        **{f"{name}_{label}": percentile(ordered, share) / 1e3 for label, share in shares.items()},
    }
