"""The errors this package raises. All of them derive from `AgentScopeError`."""

from __future__ import annotations

__all__ = ["APIError", "AgentScopeError", "AuthenticationError", "ConfigurationError"]


class AgentScopeError(Exception):
    """Base of every error of this package; also raised for a wrong call when `fail_silently=False`."""


class AuthenticationError(AgentScopeError):
    """The backend refused the API key (HTTP 401 or 403)."""


class APIError(AgentScopeError):
    """The backend could not be reached, or refused a request.

    `status_code` is the HTTP status, or None when no answer came.
    """

    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code

    def __reduce__(self) -> tuple[type[APIError], tuple[str, int | None]]:
        # Exception's own __reduce__ would lose the status.
        return type(self), (str(self), self.status_code)


class ConfigurationError(AgentScopeError):
    """An option has a value that cannot work. Raised at once, whatever `fail_silently` says."""
