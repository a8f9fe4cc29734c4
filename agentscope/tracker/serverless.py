"""Serverless functions, which a platform freezes between two calls: their events are delivered before they return.

https://docs.aws.amazon.com/lambda/latest/dg/python-context.html
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import iscoroutinefunction
from math import nan
from types import CoroutineType
from typing import Any

from agentscope.pipeline.process import awaiting
from agentscope.serialization.foreign import called

Flush = Callable[[float], object]
"""Delivers the pending events, for at most the given seconds."""


def flushing(function: Callable[..., Any], flush: Flush, margin: float, timeout: float) -> Any:
    """Wrap `function` with a flush after each call, of at most `timeout` seconds, ending `margin` seconds before the limit."""

    def seconds(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        left = _remaining(args, kwargs)
        return timeout if left is None else max(min(timeout, left - margin), 0.0)

    def deliver(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        called(lambda: flush(seconds(args, kwargs)), None)  # the function's own result or exception is what counts

    async def finish(call: Coroutine[Any, Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return await call
        finally:
            await awaiting.awaited(lambda: deliver(args, kwargs), "agentscope-flush")

    @wraps(function)
    async def call_async(*args: Any, **kwargs: Any) -> Any:
        return await finish(function(*args, **kwargs), args, kwargs)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = None
        try:
            result = function(*args, **kwargs)
        finally:
            if not issubclass(type(result), CoroutineType):
                deliver(args, kwargs)
        return finish(result, args, kwargs) if issubclass(type(result), CoroutineType) else result

    return call_async if iscoroutinefunction(function) else call


def _remaining(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """Return the seconds that the platform leaves this call, from the context among its arguments; None without one."""
    for value in (*reversed(args), *kwargs.values()):
        left = called(lambda: float(value.get_remaining_time_in_millis()), nan)  # noqa: B023 - called at once
        if left == left:  # else it is another argument, or another platform's context
            return left / 1000
    return None
