"""Decorated functions: every call a step, or a run if none is open. Functions, coroutines and both kinds of generator."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Generator
from functools import partial, partialmethod, wraps
from operator import attrgetter
from types import CodeType, FunctionType, MethodType, coroutine
from typing import Any

from agentscope.protocols.ids import new_id
from agentscope.serialization.foreign import called, is_hosts
from agentscope.serialization.snapshot import encode

from .context import Scope, current, renewed, restored
from .handles import Run
from .recorder import Recorder
from .steps import Step
from .streams import OpenReading, Reading, async_reader, reader, replacement_of
from .token_counts import UsageOf, usage_in

_PLAIN = (str, int, float, bool, type(None))


class Arguments:
    """Names the arguments of a call, without `self` and `cls`. Arguments that are not given have their defaults."""

    def __init__(self, function: Callable[..., Any], only: frozenset[str] | None = None) -> None:
        """only: the names to record; None for all."""
        self._names: list[str] = []
        self._rest, self._options = "args", ""
        self._defaults: dict[str, Any] = {}
        self._only = only
        # Some callables of C have no signature, and `__signature__` may be anything.
        told: list[inspect.Parameter] | None = called(
            lambda: list(inspect.signature(function).parameters.values()), None
        )
        parameters = told or []
        if told is None:
            self._options = "kwargs"
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                self._names.append(parameter.name)
            elif parameter.kind is parameter.VAR_POSITIONAL:
                self._rest = parameter.name
            elif parameter.kind is parameter.VAR_KEYWORD:
                self._options = parameter.name
            if parameter.default is not parameter.empty and (only is None or parameter.name in only):
                default = _rendered(parameter.default)
                if default is not parameter.empty:
                    self._defaults[parameter.name] = default
        self._bound = bool(self._names) and self._names[0] in ("self", "cls")
        self._distinct = frozenset(
            parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_ONLY
        ) | {self._rest}
        """Names of parameters that cannot be passed by keyword. A key of `**kwargs` may have the same name."""
        self.unknown = sorted((only or frozenset()) - {parameter.name for parameter in parameters})
        """Names in `only` that the function does not have."""
        if self._options:
            self.unknown = []

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        named = dict(zip(self._names, args))  # noqa: B905 - of unequal length, and a keyword costs time
        if self._bound:
            named.pop(self._names[0], None)
        if len(args) > len(self._names):
            named[self._rest] = args[len(self._names) :]
        if kwargs:
            if self._options and not self._distinct.isdisjoint(kwargs):
                known = {name: kwargs[name] for name in self._names if name in kwargs and name not in self._distinct}
                named.update(known)
                named[self._options] = {name: value for name, value in kwargs.items() if name not in known}
            else:
                named.update(kwargs)
        for name, default in self._defaults.items():
            named.setdefault(name, default)
        if self._only is not None:
            return {name: value for name, value in named.items() if name in self._only}
        return named


def _rendered(default: Any) -> Any:
    """Return a default in its recorded form; `Parameter.empty` for an object without content, such as a "not given" marker.

    An object is rendered once, so that no call has to do it.
    """
    if type(default) in _PLAIN or type(default) in (list, dict):
        return default  # a list or dict may change
    rendered = json.loads(encode(default, 4096)[0])
    opaque = type(rendered) is str and rendered.startswith("<") and not issubclass(type(default), str)
    return inspect.Parameter.empty if opaque else rendered


class Observer:
    """The recorder of one decorated function."""

    def __init__(
        self,
        recorder: Recorder,
        function: Any,
        name: str | None,
        step_type: Any,
        capture_input: Any,
        capture_output: bool,
        capture_usage: Any,
    ) -> None:
        self._recorder = recorder
        self._name = name or _name_of(function)
        self._step_type = step_type
        self._arguments: Arguments | None = None
        self._choose: Callable[[dict[str, Any]], Any] | None = None
        self.capture_output = bool(capture_output)
        self.usage_of: UsageOf | None = usage_in if capture_usage else None
        if callable(capture_usage):
            self.usage_of = partial(self._called, capture_usage)
        if callable(capture_input):
            self._arguments, self._choose = Arguments(function), capture_input
        elif type(capture_input) in (list, tuple, set, frozenset, str):
            only = [capture_input] if type(capture_input) is str else capture_input
            self._arguments = Arguments(function, frozenset(name for name in only if type(name) is str))
            if self._arguments.unknown:
                recorder.invalid_call(
                    "unknown_argument", "capture_input names an argument that the function does not have"
                )
        elif capture_input:
            self._arguments = Arguments(function)

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run | Step:
        """Begin a step of the current run, or a run if none is current."""
        arguments: Any = self._arguments(args, kwargs) if self._arguments is not None else None
        recorder = self._recorder
        if self._choose is not None:
            arguments = self._called(self._choose, arguments)
        if recorder.runs.surrounding(None) is None and recorder.current_run_id() is None:
            return Run(recorder if recorder.enabled else None, new_id(), self._name, arguments or None)
        return Step(recorder, self._name, self._step_type, arguments or None)

    def returned(self, block: Run | Step, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record the result of a call. Return it, or what takes its place until it is consumed.

        An argument that is returned, such as `self`, belongs to the caller, and is left as it is.
        """
        replace = replacement_of(result)
        if replace is not None and block.is_open and not any(result is given for given in (*args, *kwargs.values())):
            try:
                return replace(self._reading(block), result)
            except Exception as error:  # foreign code in its class; the reading has ended when it was collected
                if is_hosts(error):
                    raise
                self._recorder._failed("observe", error)
                return result
        if result is None:
            return None
        if self.capture_output:
            block.output = result
        if self.usage_of is not None:
            usage = self.usage_of(result)
            if usage is not None:
                block.usage = usage
        return result

    def start(
        self, function: Callable[..., Any], scope: Scope | None, /, *args: Any, **kwargs: Any
    ) -> tuple[Reading, Any]:
        """Begin a step and call a generator function in it. `scope` was current when its generator was made."""
        with restored(current() if scope is None else renewed(scope)):
            block = self.begin(args, kwargs)
            try:
                with block:
                    inner = function(*args, **kwargs)
                    return self._reading(block), inner
            except BaseException as error:
                end_interrupted(block, error)
                raise

    def _reading(self, block: Run | Step) -> Reading:
        return OpenReading(block, self._recorder.limit if self.capture_output else 0, self.usage_of)

    def _called(self, function: Callable[[Any], Any], value: Any) -> Any:
        """Call a function of the user's. None if it raises."""
        try:
            return function(value)
        except Exception as error:
            if is_hosts(error):
                raise
            self._recorder._failed("observe", error)
            return None


class ObservedCallable(partial[Any]):
    """The decorated form of a callable that is no Python function. It binds as the callable does, and has its attributes."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        function = self.__wrapped__
        bind = getattr(type(function), "__get__", None)
        bound = function if bind is None else bind(function, instance, owner)
        return self if bound is function or instance is None else MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":
            raise AttributeError(name)  # a copy that is not filled yet
        return getattr(self.__wrapped__, name)

    def __reduce__(self) -> Any:
        return _decorated, (self._agentscope_observer, self.__wrapped__)


class ObservedGeneratorFunction(ObservedCallable):
    """The decorated form of a generator function. The step of a generator is in the run in which it was made, not read."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.func(current(), *args, **kwargs)

    def __reduce__(self) -> Any:
        try:
            found = attrgetter(self.__qualname__)(sys.modules[self.__module__])
        except (AttributeError, KeyError):
            found = None
        return self.__qualname__ if found is self else super().__reduce__()


def observed(
    recorder: Recorder,
    function: Any,
    name: str | None,
    step_type: Any,
    capture_input: Any,
    capture_output: bool,
    capture_usage: Any,
) -> Any:
    """Return the function wrapped to be recorded. An object that is no function is returned unchanged."""
    options = name, step_type, capture_input, capture_output, capture_usage
    kind = type(function)  # its `__class__` may be foreign code
    if issubclass(kind, (staticmethod, classmethod)):
        return kind(observed(recorder, function.__func__, *options))
    if (kind is partial or kind is partialmethod) and not issubclass(type(function.func), type):
        return kind(observed(recorder, function.func, *options), *function.args, **function.keywords)
    if not callable(function) or issubclass(kind, type):
        recorder.invalid_call("not_observable", "observe() takes functions; a class or a value is left as it is")
        return function
    try:
        return _decorated(Observer(recorder, function, *options), function)
    except Exception as error:  # a callable whose attributes are traps
        if is_hosts(error):
            raise
        recorder._failed("observe", error)
        return function


def _decorated(observer: Observer, function: Any) -> Any:
    form = _form(function)
    call, kind = form(observer, function), ObservedCallable
    if form in (_generator, _async_generator):
        kind = ObservedGeneratorFunction
    elif type(function) is FunctionType:
        return wraps(function)(call)
    found: Any = wraps(function, updated=())(kind(wraps(function, updated=())(call)))
    found._agentscope_observer = observer
    return found


def _name_of(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    return name.replace("<locals>.", "") if type(name) is str else type(function).__name__


def _form(function: Any) -> Callable[[Observer, Callable[..., Any]], Callable[..., Any]]:
    """Return the kind of a callable: function, coroutine, generator or async generator. An object is judged by its `__call__`."""
    bodies = (function, type(function).__call__)
    code = getattr(function, "__code__", None)
    if type(code) is CodeType and code.co_flags & inspect.CO_ITERABLE_COROUTINE:
        return _iterable_coroutine
    for is_one, form in (
        (inspect.isasyncgenfunction, _async_generator),
        (inspect.iscoroutinefunction, _coroutine),
        (inspect.isgeneratorfunction, _generator),
    ):
        if any(is_one(body) for body in bodies):
            return form
    return _plain


def end_interrupted(block: Run | Step, error: BaseException) -> None:
    """End a block that an exception of the host's left open: at the line of the `with` itself, or while it was suspended."""
    if block.is_open:
        block.__exit__(type(error), error, error.__traceback__)
    else:
        block.finish(error)


def _plain(observer: Observer, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        block = observer.begin(args, kwargs)
        try:
            with block:
                return observer.returned(block, function(*args, **kwargs), args, kwargs)
        except BaseException as error:
            end_interrupted(block, error)
            raise

    return call


def _coroutine(observer: Observer, function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        block = observer.begin(args, kwargs)
        try:
            with block:
                return observer.returned(block, await function(*args, **kwargs), args, kwargs)
        except BaseException as error:
            end_interrupted(block, error)
            raise

    return call


def _iterable_coroutine(observer: Observer, function: Callable[..., Any]) -> Callable[..., Any]:
    @coroutine
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        block = observer.begin(args, kwargs)
        try:
            with block:
                return observer.returned(block, (yield from function(*args, **kwargs)), args, kwargs)
        except BaseException as error:
            end_interrupted(block, error)
            raise

    return call


def _generator(observer: Observer, function: Callable[..., Any]) -> Callable[..., Any]:
    return reader(partial(observer.start, function))


def _async_generator(observer: Observer, function: Callable[..., Any]) -> Callable[..., Any]:
    return async_reader(partial(observer.start, function))
