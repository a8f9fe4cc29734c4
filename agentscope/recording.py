"""From what a caller passed to the fields of an event. Never raises; says what had to be mended."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .snapshot import describe_exception, encode, text
from .types import RUN_STATUSES, STEP_TYPES

LONGEST_NAME = 4096
"""Characters of a name or an external id; a platform may take fewer."""
_INT64 = 2**63 - 1


class Encoded(NamedTuple):
    """A payload that was encoded before; `lossy` if that lost something."""

    data: bytes
    lossy: bool


class Fields:
    """The fields of one event, its payloads encoded as they are at this moment."""

    __slots__ = ("limit", "mended", "size", "values")

    def __init__(self, limit: int, values: dict[str, Any]) -> None:
        self.limit = limit
        self.values = values
        self.size = 0
        """Bytes of the payloads."""
        self.mended: list[tuple[str, str]] = []
        """What the caller should know: (kind, sentence)."""

    def payload(self, name: str, value: Any) -> None:
        """Any value at all, encoded now. None is not set."""
        if value is None:
            return
        data, lossy = value if type(value) is Encoded else encode(value, self.limit)
        self.values[name] = data
        self.size += len(data)
        if lossy:
            self.values.setdefault("truncated", []).append(name)

    def error(self, value: Any) -> None:
        """An exception, or any value that tells of one."""
        self.payload("error", describe_exception(value) if isinstance(value, BaseException) else value)

    def name(self, field: str, value: Any) -> None:
        """A short text. None is not set."""
        if value is None:
            return
        if not isinstance(value, str):
            self.mended.append(("wrong_type", f"{field} takes a str; another value is recorded as its str()"))
        self.values[field] = text(value, LONGEST_NAME)

    def number(self, field: str, value: Any) -> None:
        """A whole number; a float is rounded, anything else is left out."""
        if value is None:
            return
        number: Any = value
        if isinstance(value, float):
            number = round(value) if math.isfinite(value) else None
        if isinstance(number, bool) or not isinstance(number, int) or abs(number) > _INT64:
            self.mended.append(("wrong_type", f"{field} takes a number; other values are left out"))
        else:
            self.values[field] = int(number)

    def step_type(self, value: Any, meta_data: Any) -> None:
        """One of the step types; another becomes `other`, and what it was goes into `meta_data` as `step_type`."""
        if isinstance(value, str) and value in STEP_TYPES:
            self.values["step_type"] = value
        else:
            self.values["step_type"] = "other"
            original = text(value, LONGEST_NAME)
            kept = meta_data if isinstance(meta_data, dict) else {} if meta_data is None else {"value": meta_data}
            meta_data = {**kept, "step_type": original}
            allowed = ", ".join(sorted(STEP_TYPES))
            self.mended.append(("unknown_step_type", f"an unknown step_type is recorded as other; known are {allowed}"))
        self.payload("meta_data", meta_data)

    def status(self, value: Any, failed: bool) -> None:
        """How a run ended; an unknown status becomes `failed` if there is an error, else `completed`."""
        if isinstance(value, str) and value in RUN_STATUSES and value != "running":
            self.values["status"] = value
        else:
            self.values["status"] = "failed" if failed else "completed"
            sentence = "a run ends as completed or failed; another status is recorded as the one of them that fits"
            self.mended.append(("unknown_status", sentence))
