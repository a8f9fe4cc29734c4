"""Calls that must not raise into the agent."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar

from agentscope.serialization.foreign import is_hosts

_COROUTINE = 0x80
"""`inspect.CO_COROUTINE`. The module is slow to import."""

M = TypeVar("M", bound=Callable[..., Any])


class Guarded(Protocol):
    """An object whose calls must not raise into the agent."""

    def _failed(self, call: str, error: Exception) -> None: ...


def safe(fallback: Callable[..., Any]) -> Callable[[M], M]:
    """Wrap a method of a `Guarded`: an error in it is counted and logged, and raised only with `fail_silently=False`.

    The call then returns the result of `fallback`, which gets the object and the positional arguments. The host's own exceptions
    go through (`serialization.foreign`).
    """

    def around(method: Any) -> Any:
        @wraps(method)
        def call(self: Guarded, /, *args: Any, **kwargs: Any) -> Any:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                if is_hosts(error):
                    raise
                self._failed(method.__name__, error)
                return fallback(self, *args)

        @wraps(method)
        async def call_async(self: Guarded, /, *args: Any, **kwargs: Any) -> Any:
            try:
                return await method(self, *args, **kwargs)
            except Exception as error:
                if is_hosts(error):
                    raise
                self._failed(method.__name__, error)
                return await fallback(self, *args)

        return call_async if method.__code__.co_flags & _COROUTINE else call

    return around
