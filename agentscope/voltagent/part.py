"""What the end of a run or a step has to know of its start."""

from __future__ import annotations

import os


class Part:
    """One run or step: what its end has to know."""

    __slots__ = (
        "_open",
        "id",
        "is_trace",
        "name",
        "parent_id",
        "pid",
        "run_id",
        "started_at",
        "status",
        "step_id",
        "step_type",
    )

    def __init__(
        self, run_id: str, step_id: str | None, parent_id: str | None, name: str, step_type: str, started_at: int
    ) -> None:
        self.id = step_id or run_id
        self.is_trace = False
        self.run_id = run_id
        self.step_id = step_id
        """None for a run of its own."""
        self.parent_id = parent_id
        self.name = name
        self.step_type = step_type
        self.started_at = started_at
        """Nanoseconds since the epoch."""
        self.status: str | None = None
        """How it ends if nobody says otherwise: what the last update said."""
        self.pid = os.getpid()
        self._open = [True]

    @property
    def ended(self) -> bool:
        return not self._open

    def claim(self) -> bool:
        """Whether it is the caller who ends it: true once, whatever threads do."""
        try:
            return self._open.pop()
        except IndexError:
            return False
