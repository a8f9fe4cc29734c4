"""The words that a step's type and a run's status are told in."""

from __future__ import annotations

from typing import Literal, get_args

StepType = Literal["llm_call", "tool_call", "agent", "memory", "retrieval", "reasoning", "other"]
RunStatus = Literal["running", "completed", "failed"]

STEP_TYPES: frozenset[str] = frozenset(get_args(StepType))
RUN_STATUSES: frozenset[str] = frozenset(get_args(RunStatus))
