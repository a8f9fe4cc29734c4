"""Bounds of the receiver, and the refusal that a request beyond them is answered with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    body_bytes: int = 8 << 20
    """A body as it comes over the wire."""
    inflated_bytes: int = 32 << 20
    """A body without its content encoding."""
    held_bytes: int = 64 << 20
    """All bodies that are being received or stored, together."""
    body_seconds: float = 10.0
    """From the head of a request to the end of its body."""
    head_seconds: float = 10.0
    """From the first byte of a request, or the opening of a connection, to the end of the request's head."""
    connections: int = 256
    """Open connections; beyond that, one that waits for a request or for more of it is ended, the oldest first."""
    send_seconds: float = 10.0
    """In which some of an answer must be taken by who asked for it; all of it in that and a second a megabyte."""
    view_bytes: int = 128 << 20
    """The events of a run that is shown as a whole; a larger one is told by its events only."""


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
