"""The current run and step in other threads: functions that carry them, and threads and pools that inherit them."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import wraps
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from .context import Scope, current, renewed, restored


def propagated(function: Any) -> Any:
    """Return the function bound to the run and step that are current now; unbound if there are none."""
    scope = current()
    return function if scope is None else bound(function, scope)


def bound(function: Any, scope: Scope | None) -> Any:
    """Return the function bound to a scope. What it returns is bound too if it runs later: a coroutine or a generator."""
    if not callable(function):
        return _carried(function, scope)

    def call(*args: Any, **kwargs: Any) -> Any:
        with restored(renewed(scope)):
            result = function(*args, **kwargs)
        return _carried(result, scope)

    async def call_async(*args: Any, **kwargs: Any) -> Any:
        with restored(renewed(scope)):
            return await function(*args, **kwargs)

    form: Callable[..., Any] = call_async if inspect.iscoroutinefunction(function) else call
    return wraps(function)(form) if hasattr(function, "__name__") else form


def _carried(value: Any, scope: Scope | None) -> Any:
    kind = type(value)
    if kind is GeneratorType:
        return _CarriedGenerator(value, scope)
    if kind is AsyncGeneratorType:
        return _CarriedAsyncGenerator(value, scope)
    return _awaited(value, scope) if kind is CoroutineType else value


async def _awaited(coroutine: Coroutine[Any, Any, Any], scope: Scope | None) -> Any:
    with restored(renewed(scope)):
        return await coroutine


class _CarriedGenerator(Generator[Any, Any, Any]):
    """A generator whose body has its own scope. Between the items the scope of the consumer is current."""

    def __init__(self, generator: Generator[Any, Any, Any], scope: Scope | None) -> None:
        self._generator = generator
        self._scope = scope

    def send(self, value: Any) -> Any:
        return self._proceed(self._generator.send, value)

    def throw(self, *error: Any) -> Any:
        return self._proceed(self._generator.throw, *error)

    def _proceed(self, proceed: Callable[..., Any], *values: Any) -> Any:
        with restored(renewed(self._scope)):
            try:
                return proceed(*values)
            finally:
                self._scope = current()


class _CarriedAsyncGenerator(AsyncGenerator[Any, Any]):
    """An async generator whose body has its own scope. Between the items the scope of the consumer is current."""

    def __init__(self, generator: AsyncGenerator[Any, Any], scope: Scope | None) -> None:
        self._generator = generator
        self._scope = scope

    async def asend(self, value: Any) -> Any:
        return await self._proceed(self._generator.asend, value)

    async def athrow(self, *error: Any) -> Any:
        return await self._proceed(self._generator.athrow, *error)

    async def _proceed(self, proceed: Callable[..., Coroutine[Any, Any, Any]], *values: Any) -> Any:
        with restored(renewed(self._scope)):
            try:
                return await proceed(*values)
            finally:
                self._scope = current()
