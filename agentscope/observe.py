"""Decorated functions: every call a step, or a run if none is open. Functions, coroutines and both kinds of generator."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from functools import wraps
from typing import TYPE_CHECKING, Any

from .context import current, restored
from .handles import Run, Step
from .recording import Encoded
from .snapshot import encode

if TYPE_CHECKING:
    from .tracker import Tracker

MOST_ITEMS = 1_000
"""Items of a generator that are recorded one by one; the others are counted."""


class Arguments:
    """Names the arguments of a call, without `self` and `cls`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._names: list[str] = []
        self._rest = "args"
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            parameters = []  # some callables of C tell nothing
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                self._names.append(parameter.name)
            elif parameter.kind is parameter.VAR_POSITIONAL:
                self._rest = parameter.name
        self._bound = bool(self._names) and self._names[0] in ("self", "cls")

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        named = dict(zip(self._names, args, strict=False))
        if self._bound:
            named.pop(self._names[0], None)
        if len(args) > len(self._names):
            named[self._rest] = args[len(self._names) :]
        named.update(kwargs)
        return named


class Items:
    """What a generator gave, encoded as it came, and bounded: texts are joined, anything else makes a list."""

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._limit = limit
        self._texts: list[str] | None = []
        self._encoded: list[bytes] = []
        self._lossy = False
        self._more = 0

    def add(self, item: Any) -> None:
        if self._room <= 0 or len(self._encoded) >= MOST_ITEMS:
            self._more += 1
            return
        if self._texts is not None and type(item) is str:
            self._texts.append(item)
            self._room -= len(item) + 1
            return
        if self._texts is not None:
            earlier, self._texts = self._texts, None
            for text in earlier:
                self._encode(text)
        self._encode(item)

    def _encode(self, item: Any) -> None:
        data, lossy = encode(item, self._limit)
        self._encoded.append(data)
        self._lossy = self._lossy or lossy
        self._room -= len(data)

    def output(self) -> Any:
        note = f"…[cut: {self._more} more items]"
        if self._texts is None:
            noted = [*self._encoded, encode(note)[0]] if self._more else self._encoded
            return Encoded(b"[%b]" % b",".join(noted), self._lossy or self._more > 0)
        if not self._texts:
            return None
        data, lossy = encode("".join(self._texts) + (note if self._more else ""), self._limit)
        return Encoded(data, lossy or self._more > 0)


class Observer:
    """One decorated function's way of being recorded."""

    def __init__(
        self,
        tracker: Tracker,
        function: Any,
        name: str | None,
        step_type: Any,
        capture_input: bool,
        capture_output: bool,
    ) -> None:
        self._tracker = tracker
        self._name = name or getattr(function, "__qualname__", type(function).__name__).replace("<locals>.", "")
        self._step_type = step_type
        self._arguments = Arguments(function) if capture_input else None
        self.capture_output = capture_output

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run | Step:
        """A step of the current run; a run of its own if there is none."""
        arguments = self._arguments(args, kwargs) if self._arguments is not None else None
        if self._tracker.current_run_id is None:
            return self._tracker.track_run(self._name, arguments or None)
        return self._tracker.track_step_context(self._name, self._step_type, arguments or None)

    def items(self) -> Items:
        return Items(self._tracker.payload_limit if self.capture_output else 0)


def observed(
    tracker: Tracker, function: Any, name: str | None, step_type: Any, capture_input: bool, capture_output: bool
) -> Any:
    """The function, recorded; what is no function at all is given back as it is."""
    if isinstance(function, (staticmethod, classmethod)):
        inner = observed(tracker, function.__func__, name, step_type, capture_input, capture_output)
        return type(function)(inner)
    if not callable(function) or inspect.isclass(function):
        tracker._misused("not_observable", "observe() takes functions; a class or a value is left as it is")
        return function
    observer = Observer(tracker, function, name, step_type, capture_input, capture_output)
    if inspect.isasyncgenfunction(function):
        return _async_generator(observer, function)
    if inspect.iscoroutinefunction(function):
        return _coroutine(observer, function)
    if inspect.isgeneratorfunction(function):
        return _generator(observer, function)
    return _plain(observer, function)


def _plain(observer: Observer, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with observer.begin(args, kwargs) as block:
            result = function(*args, **kwargs)
            if observer.capture_output:
                block.output = result
            return result

    return call


def _coroutine(observer: Observer, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        with observer.begin(args, kwargs) as block:
            result = await function(*args, **kwargs)
            if observer.capture_output:
                block.output = result
            return result

    return call


def _generator(observer: Observer, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        items = observer.items()
        with observer.begin(args, kwargs) as block:
            inner = function(*args, **kwargs)
            resume = _bind(inner.send, None)
            try:
                while True:
                    item = resume()
                    items.add(item)
                    # The consumer's own steps must not become children of this one.
                    block._suspend()
                    try:
                        sent = yield item
                    except GeneratorExit:
                        block._resume()
                        inner.close()
                        raise
                    except BaseException as error:
                        block._resume()
                        resume = _bind(inner.throw, error)
                    else:
                        block._resume()
                        resume = _bind(inner.send, sent)
            except StopIteration as stop:
                return stop.value
            finally:
                if observer.capture_output:
                    block.output = items.output()

    return call


def _async_generator(observer: Observer, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        items = observer.items()
        with observer.begin(args, kwargs) as block:
            inner = function(*args, **kwargs)
            resume = _bind(inner.asend, None)
            try:
                while True:
                    item = await resume()
                    items.add(item)
                    block._suspend()
                    try:
                        sent = yield item
                    except GeneratorExit:
                        block._resume()
                        await inner.aclose()
                        raise
                    except BaseException as error:
                        block._resume()
                        resume = _bind(inner.athrow, error)
                    else:
                        block._resume()
                        resume = _bind(inner.asend, sent)
            except StopAsyncIteration:
                return
            finally:
                if observer.capture_output:
                    block.output = items.output()

    return call


def _bind(function: Callable[[Any], Any], value: Any) -> Callable[[], Any]:
    return lambda: function(value)


def propagated(function: Any) -> Any:
    """The function, with the run and step that are current now wherever it is called."""
    scope = current()
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            with restored(scope):
                return await function(*args, **kwargs)

        return call_async

    def call(*args: Any, **kwargs: Any) -> Any:
        with restored(scope):
            return function(*args, **kwargs)

    return wraps(function)(call) if hasattr(function, "__name__") else call
