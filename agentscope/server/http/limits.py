"""The bounds of the receiver, and the refusal of a request that breaks one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The bounds. Sizes are in bytes, times in seconds."""

    body_bytes: int = 64 << 20
    """Size of a body before it is inflated."""
    inflated_bytes: int = 64 << 20
    """Size of a body after it is inflated."""
    held_bytes: int = 128 << 20
    """Size of all bodies together that are being received or stored."""
    body_seconds: float = 10.0
    """Time from the head of a request to the end of its body."""
    head_seconds: float = 10.0
    """Time from the first byte of a request, or the opening of a connection, to the end of the request's head."""
    connections: int = 256
    """Number of open connections. Beyond it, the oldest one that waits for a request or for its body is ended."""
    send_seconds: float = 10.0
    """Time in which a client has to read a part of an answer. All of it has a second more for each megabyte."""
    view_bytes: int = 16 << 20
    """Size of the events of a run that is shown as a whole. Of a larger one a part of the steps is shown, of about this size."""
    view_steps: int = 10_000
    """Steps of a run that is shown as a whole."""


def limits_of(body_bytes: int, inflated_bytes: int) -> Limits:
    """Return the bounds with these sizes of one body, and room for two such bodies at once."""
    return Limits(body_bytes, inflated_bytes, max(Limits.held_bytes, 2 * body_bytes))


class Refused(Exception):
    """A request that is answered with `status` and one sentence."""

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None, close: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if close:
            self.headers["Connection"] = "close"
