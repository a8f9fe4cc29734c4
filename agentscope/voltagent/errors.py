"""The errors that the published package names. Recording never raises them: the direct client and the typed records do."""

from __future__ import annotations

from typing import Any

from agentscope.errors import AgentScopeError

__all__ = ["APIError", "TimeoutError", "ValidationError", "VoltAgentError"]


class VoltAgentError(AgentScopeError):
    """Base of the errors of this face."""


class APIError(VoltAgentError):
    """The API could not be reached, or refused a request.

    `status_code` is the HTTP status, 0 when no answer came, or None; `response_data` the answer's JSON object, if it had one.
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
    """A record has a field of the wrong type, or lacks one. The message names the field, never its value."""
