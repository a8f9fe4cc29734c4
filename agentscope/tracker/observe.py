"""Decorated functions: every call a step, or a run if none is open. Functions, coroutines and both kinds of generator."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial, wraps
from typing import Any

from agentscope.protocols.ids import new_id
from agentscope.serialization.foreign import called, is_hosts
from agentscope.serialization.snapshot import encode

from .context import current, restored, switch
from .fields import Encoded
from .handles import Run, Step
from .recorder import Recorder

MOST_ITEMS = 1_000
"""Items of a generator that are recorded one by one; the others are counted."""
_NOTE_ROOM = 160
"""Bytes of a list's brackets, the note at its end, and the least that an item takes when it is cut."""


class Arguments:
    """Names the arguments of a call, without `self` and `cls`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._names: list[str] = []
        self._rest = "args"
        # Some callables of C tell nothing, and `__signature__` may be anything.
        parameters: list[inspect.Parameter] = called(lambda: list(inspect.signature(function).parameters.values()), [])
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
    """The items of a generator, encoded one by one, within a bound. Texts are joined; other items make a list."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._room = limit - _NOTE_ROOM
        self._texts: list[str] | None = []
        self._encoded: list[bytes] = []
        self._lossy = False
        self._more = 0

    def add(self, item: Any) -> None:
        if self._room <= 0:
            self._more += 1
        elif self._texts is not None and type(item) is str:
            self._texts.append(item)
            self._room -= len(item) + 1
        else:
            if self._texts:
                self._room = self._limit - _NOTE_ROOM
                for text in self._texts:
                    self._encode(text)
            self._texts = None
            self._encode(item)

    def _encode(self, item: Any) -> None:
        if self._room <= 0 or len(self._encoded) >= MOST_ITEMS:
            self._more += 1
            return
        data, lossy = encode(item, self._room)
        self._encoded.append(data)
        self._lossy = self._lossy or lossy
        self._room -= len(data) + 1

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
    """The recorder of one decorated function."""

    def __init__(
        self,
        recorder: Recorder,
        function: Any,
        name: str | None,
        step_type: Any,
        capture_input: bool,
        capture_output: bool,
    ) -> None:
        self._recorder = recorder
        self._name = name or _name_of(function)
        self._step_type = step_type
        self._arguments = Arguments(function) if capture_input else None
        self.capture_output = bool(capture_output)

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run | Step:
        """Begin a step of the current run, or a run if none is current."""
        arguments = self._arguments(args, kwargs) if self._arguments is not None else None
        recorder = self._recorder
        if recorder.current_run_id() is None:
            return Run(recorder if recorder.enabled else None, new_id(), self._name, arguments or None)
        return Step(recorder, self._name, self._step_type, arguments or None)

    def items(self) -> Items:
        return Items(self._recorder.limit if self.capture_output else 0)


def observed(
    recorder: Recorder, function: Any, name: str | None, step_type: Any, capture_input: bool, capture_output: bool
) -> Any:
    """Return the function wrapped to be recorded. An object that is no function is returned unchanged."""
    kind = type(function)  # what it says of its class is foreign code
    if issubclass(kind, (staticmethod, classmethod)):
        inner = observed(recorder, function.__func__, name, step_type, capture_input, capture_output)
        return kind(inner)
    if not callable(function) or issubclass(kind, type):
        recorder.invalid_call("not_observable", "observe() takes functions; a class or a value is left as it is")
        return function
    try:
        observer = Observer(recorder, function, name, step_type, capture_input, capture_output)
        return _form(function)(observer, function)
    except Exception as error:  # a callable whose attributes are traps
        if is_hosts(error):
            raise
        recorder._failed("observe", error)
        return function


def _name_of(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    return name.replace("<locals>.", "") if type(name) is str else type(function).__name__


def _form(function: Any) -> Callable[[Observer, Callable[..., Any]], Callable[..., Any]]:
    """Return the kind of a callable: function, coroutine, generator or async generator. An object is judged by its `__call__`."""
    bodies = (function, type(function).__call__)
    for is_one, form in (
        (inspect.isasyncgenfunction, _async_generator),
        (inspect.iscoroutinefunction, _coroutine),
        (inspect.isgeneratorfunction, _generator),
    ):
        if any(is_one(body) for body in bodies):
            return form
    return _plain


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
        outside = current()
        try:
            with observer.begin(args, kwargs) as block:
                inner = function(*args, **kwargs)
                proceed, value = inner.send, None
                try:
                    while True:
                        item = proceed(value)
                        items.add(item)
                        # What is current in here is not current where the items go: the consumer's steps are its own.
                        inside = switch(outside)
                        try:
                            value = yield item
                            proceed = inner.send
                        except BaseException as error:
                            proceed, value = inner.throw, _as_thrown(error)
                        outside = switch(inside)
                except StopIteration as stop:
                    return stop.value
                finally:
                    value = None  # an exception that was thrown in would keep this frame alive
                    if observer.capture_output:
                        block.output = items.output()
        finally:
            switch(outside)

    return call


def _async_generator(observer: Observer, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        items = observer.items()
        outside = current()
        try:
            with observer.begin(args, kwargs) as block:
                inner = function(*args, **kwargs)
                proceed, value = partial(_begun, inner), None
                try:
                    while True:
                        item = await proceed(value)
                        items.add(item)
                        inside = switch(outside)
                        try:
                            value = yield item
                            proceed = inner.asend
                        except BaseException as error:
                            proceed, value = inner.athrow, _as_thrown(error)
                        outside = switch(inside)
                except StopAsyncIteration:
                    return
                finally:
                    value = None
                    if observer.capture_output:
                        block.output = items.output()
        finally:
            switch(outside)

    return call


def _as_thrown(error: BaseException) -> BaseException:
    """Return the exception without the frame of this module, as the consumer threw it in."""
    trace = error.__traceback__
    return error.with_traceback(None if trace is None else trace.tb_next)


def _begun(inner: AsyncGenerator[Any, Any], first: Any) -> Any:
    """Start an async generator that only its wrapper ends.

    An event loop closes every async generator that it knows when it ends. It must not know this one.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return inner.asend(first)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def propagated(function: Any) -> Any:
    """Return the function bound to the run and step that are current now."""
    scope = current()
    if callable(function) and inspect.iscoroutinefunction(function):

        @wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            with restored(scope):
                return await function(*args, **kwargs)

        return call_async

    def call(*args: Any, **kwargs: Any) -> Any:
        with restored(scope):
            return function(*args, **kwargs)

    return wraps(function)(call) if callable(function) and hasattr(function, "__name__") else call
