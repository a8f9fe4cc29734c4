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

from agentscope.serialization.foreign import called, is_hosts

from .recorder import Recorder


def flushing(function: Callable[..., Any], recorder: Recorder, margin: float, timeout: float) -> Any:
    """Wrap `function` with a flush after each call, of at most `timeout` seconds, ending `margin` seconds before the limit."""

    def seconds(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        left = _remaining(args, kwargs)
        return timeout if left is None else max(min(timeout, left - margin), 0.0)

    def deliver(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        called(
            lambda: recorder.flush(seconds(args, kwargs)), None
        )  # the function's own result or exception is what counts

    async def finish(call: Coroutine[Any, Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        closed = False
        try:
            return await call
        except GeneratorExit:
            closed = True  # its event loop has ended: nothing can be awaited any more
            raise
        finally:
            if not closed:
                await deliver_async(args, kwargs)

    async def deliver_async(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            await recorder.aflush(seconds(args, kwargs))
        except Exception as error:
            if is_hosts(error):
                raise

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
