"""The base of both faces: configuration, pipeline and recorder, and the calls that deliver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from agentscope.errors import AgentScopeError, APIError, AuthenticationError

from .copies import Origin
from .handles import InProcess
from .never_raise import safe
from .recorder import Recorder

if TYPE_CHECKING:
    from agentscope.config import Config
    from agentscope.types import FlushResult, Stats

T = TypeVar("T")

LONGEST_WAIT = 4_000_000.0
"""The longest timeout in seconds. Operating systems refuse much longer ones."""


class Face(InProcess):
    """Records to the destinations of its configuration. It lives in one process; a pickle of it makes another one there."""

    def __init__(self, config: Config, options: Mapping[str, Any]) -> None:
        """options: as they were given, for a tracker that another process makes from a pickle."""
        self._config = config
        from agentscope.pipeline.factory import (
            pipeline_for,  # imported late: `import agentscope` alone does not pay for it
        )

        self._pipeline = pipeline_for(config)
        self._recorder = Recorder(config, self._pipeline)
        self._recorder.origin = origin = Origin(self, config, options)
        origin.known_as(origin.token, self._recorder)
        if config.flush_on_signal and config.enabled:
            from agentscope.pipeline import signals

            signals.install()

    # ---- delivery --------------------------------------------------------------------------------------------------

    @safe(lambda self, *_: self._pipeline.flush(30.0))
    def flush(self, timeout: float = 30.0) -> FlushResult:
        """Wait until everything accepted so far is delivered, for `timeout` seconds at most.

        The result is true only if all of it was acknowledged and nothing was dropped since the last flush. With
        `fail_silently=False` anything else raises `AuthenticationError` or `APIError`.
        """
        return self._checked(self._pipeline.flush(self._seconds(timeout, 30.0)))

    @safe(lambda self, *_: self._pipeline.shutdown(10.0))
    def shutdown(self, timeout: float = 10.0) -> FlushResult:
        """Deliver pending events and end the worker. Nothing can be recorded afterwards. Called at exit automatically.

        Delivery goes on for `timeout` seconds at most, and gives up after 2 s without an acknowledgement. Events that are left
        then are counted as dropped.
        """
        return self._checked(self._pipeline.shutdown(self._seconds(timeout, 10.0)))

    @safe(lambda self, *_: self._pipeline.aflush(30.0))
    async def aflush(self, timeout: float = 30.0) -> FlushResult:
        """`flush` without blocking the event loop, in asyncio and trio. In another event loop it blocks."""
        return self._checked(await self._pipeline.aflush(self._seconds(timeout, 30.0)))

    @safe(lambda self, *_: self._pipeline.shutting_down(10.0).wait())
    async def ashutdown(self, timeout: float = 10.0) -> FlushResult:
        """`shutdown` without blocking the event loop, in asyncio and trio. In another event loop it blocks."""
        return self._checked(await self._pipeline.shutting_down(self._seconds(timeout, 10.0)).wait())

    @safe(lambda self, *_: self._pipeline.stats())
    def stats(self) -> Stats:
        """The ledger at this moment."""
        return self._pipeline.stats()

    @safe(lambda self, *_: None)
    def redact_preview(self, value: object) -> Any:
        """Return `value` as it would be sent as the input of a step, with its secrets masked. Nothing is recorded.

        The result is plain JSON values; None if nothing would be sent, for example because the `redact` function raises.
        """
        return self._pipeline.preview(value)

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.shutdown()
        except AgentScopeError:
            if error is None:
                raise  # the block's own exception goes first

    async def __aenter__(self: T) -> T:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        try:
            await self.ashutdown()
        except AgentScopeError:
            if error is None:
                raise

    def __reduce__(self) -> Any:
        return self._recorder.origin.of_face(type(self))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self._config.address}>"

    def _failed(self, call: str, error: Exception) -> None:
        self._recorder._failed(call, error)

    def _seconds(self, value: Any, default: float) -> float:
        if not issubclass(type(value), (int, float)) or value != value:
            self._recorder.invalid_call("wrong_type", "a timeout is a number of seconds; the default is used instead")
            return default
        return float(min(max(value, 0), LONGEST_WAIT))

    def _checked(self, result: FlushResult) -> FlushResult:
        if result or self._config.fail_silently:
            return result
        problem = result.problem or "not everything was delivered"
        spooled = f", {result.spooled} in the spool" if result.spooled else ""
        sentence = f"{problem} ({result.pending} events pending{spooled}, {result.dropped} dropped)"
        raise AuthenticationError(sentence) if "API key" in problem else APIError(sentence)
