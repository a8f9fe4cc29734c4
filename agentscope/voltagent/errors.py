"""Errors of the published package, raised by the direct client and the typed records, never by recording."""

from __future__ import annotations

from typing import Any

from agentscope.errors import AgentScopeError

__all__ = ["APIError", "TimeoutError", "ValidationError", "VoltAgentError"]


class VoltAgentError(AgentScopeError):
    """Base class of the errors of the VoltAgent face."""


class APIError(VoltAgentError):
    """The API could not be reached, or refused a request.

    `status_code` is the HTTP status, 0 without an answer, or None. `response_data` is the JSON object of the answer, or None.
    """

    def __init__(
        self, message: str, status_code: int | None = None, response_data: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.response_data = response_data


class TimeoutError(VoltAgentError):  # noqa: A001 - the published name
    """The API did not answer in time."""


class ValidationError(VoltAgentError):
    """A record lacks a field, or has one of a wrong type. The message names the field, never its value."""
