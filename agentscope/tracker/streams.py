"""Results that are consumed after the call that returned them: generators, coroutines, awaitables, futures, streams.

`Reading` keeps the step of such a call open. The result is replaced by one of the same kind, or by a proxy. It makes the step
current while the result works, records the items, and ends the step when the result is exhausted, closed or collected.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Generator
from functools import lru_cache, partial, wraps
from inspect import CO_ITERABLE_COROUTINE, iscoroutinefunction, isgeneratorfunction
from io import IOBase
from types import AsyncGeneratorType, CoroutineType, GeneratorType, coroutine
from typing import Any
from weakref import ref

from agentscope.serialization.foreign import is_hosts
from agentscope.serialization.snapshot import encode

from .context import _current, renewed
from .fields import Encoded
from .handles import InProcess, Run
from .steps import Step
from .token_counts import UsageOf, merged, usage_in, usage_in_item

_scope, _switch = _current.get, _current.set
"""Bound once for speed, since they are called twice for each item."""
MOST_ITEMS = 1_000
"""Items of a stream that are recorded one by one; the others are counted."""
_NOTE_ROOM = 160
"""Bytes for the brackets of a list, the note at its end, and the smallest form of an item that is cut."""

Start = Callable[..., "tuple[Reading, Any]"]
"""Begins a step and calls its function, with the arguments of the function."""


class Items:
    """The items of a stream, encoded one by one, within a bound. Texts are joined, and bytes; other items make a list."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._room = limit - _NOTE_ROOM
        self._kind: type | None = None
        """`str` or `bytes` as long as all items are of that type; `list` once they are not."""
        self._texts: list[Any] = []
        self._encoded: list[bytes] = []
        self._lossy = False
        self._more = 0

    def add(self, item: Any) -> None:
        kind = type(item)
        if self._room <= 0:
            self._more += 1
        elif kind is self._kind and kind is not list:
            self._texts.append(item)
            self._room -= len(item) + 1
        elif self._kind is None and (kind is str or kind is bytes):
            self._kind = kind
            self.add(item)
        else:
            if self._texts:
                self._room = self._limit - _NOTE_ROOM
                for text in self._texts:
                    self._encode(text)
                self._texts = []
            self._kind = list
            self._encode(item)

    def _encode(self, item: Any) -> None:
        if self._room <= 0 or len(self._encoded) >= MOST_ITEMS:
            self._more += 1
            return
        data, lossy = encode(item, self._room)
        self._encoded.append(data)
        self._lossy = self._lossy or lossy
        self._room -= len(data) + 1

    def output(self) -> Encoded | None:
        """Return the items as one payload; None if there was none."""
        note = f"…[cut: {self._more} more items]"
        if self._kind is list:
            noted = [*self._encoded, encode(note)[0]] if self._more else self._encoded
            return Encoded(b"[%b]" % b",".join(noted), self._lossy or self._more > 0)
        if self._kind is None:
            return None
        joined = self._kind().join(self._texts)
        if self._more:
            joined += note if self._kind is str else note.encode()
        data, lossy = encode(joined, self._limit)
        return Encoded(data, lossy or self._more > 0)


class Reading:
    """The open step of a call whose result is consumed later. It ends once, at the latest when this object is collected."""

    __slots__ = ("_inside", "_items", "_open", "_unread", "_usage", "_usage_of", "_wrapper")

    def __init__(self, block: Run | Step, limit: int, usage_of: UsageOf | None) -> None:
        """Take the block out of the current context. limit: bytes of its output, 0 for none."""
        inside = _scope()
        self._open: dict[str, Run | Step] = {"block": block} if block.suspend() else {}
        """Empty after the end, or if nothing is recorded."""
        self._inside = inside
        self._items = Items(limit) if limit else None
        self._usage_of = usage_in_item if usage_of is usage_in else usage_of
        self._usage: dict[str, Any] | None = None
        self._unread: Any = None
        """The original coroutine, which another one replaces."""
        self._wrapper: Any = None
        """A weak reference to the generator that replaces the original one."""

    def inside(self) -> Inside:
        """A block in which the step is current. An exception in it ends the step, as does the end of an iteration."""
        return Inside(self)

    def proceed(self, call: Callable[[], Any]) -> Any:
        """Return the next item of an iterator, and record it."""
        inside = Inside(self)
        try:
            inside.__enter__()
            item = call()
        except BaseException as error:
            inside.__exit__(type(error), error, None)
            raise
        inside.__exit__(None, None, None)
        self.add(item)
        return item

    def add(self, item: Any) -> None:
        if self._open:
            if self._items is not None:
                self._items.add(item)
            if self._usage_of is not None and (type(item) is not str or self._usage_of is not usage_in_item):
                self._usage = merged(self._usage, self._usage_of(item))

    def settle(self, result: Any) -> Any:
        """Return the result of an awaitable. Record it and end the step, unless the result is a stream or an awaitable."""
        replace = replacement_of(result) if self._open else None
        if replace is not None:
            return replace(self, result)
        if self._open:
            block = self._open["block"]
            if self._items is not None:
                block.output = result
            if self._usage_of is not None:
                self._usage = merged(self._usage, self._usage_of(result))
        self.end()
        return result

    def hand_out(self, value: Any) -> Any:
        """Return the value that a stream returns in its place. A stream is wrapped for this step, another value is the output."""
        replace = replacement_of(value) if self._open else None
        if replace is not None:
            return replace(self, value)
        if self._open and self._items is not None:
            self._open["block"].output = value
        return value

    def end(self, error: BaseException | None = None) -> None:
        block = self._open.get("block")
        if block is None:
            return
        try:
            output = None if self._items is None else self._items.output()
            if output is not None:
                block.output = output
            if self._usage is not None:
                block.usage = self._usage
        finally:
            block.finish(error)  # once, in whatever threads
        self._open.clear()
        self._inside = self._unread = None
        self.__class__ = Reading

    def is_let_go(self, error: BaseException) -> bool:
        """Return whether this exception comes from the garbage collection of the wrapper, and not from `close`."""
        return isinstance(error, GeneratorExit) and self._wrapper is not None and self._wrapper() is None

    def follow(self, future: Any) -> None:
        """End with a future: asyncio's, or one of `concurrent.futures`."""
        try:
            # `exception()` would tell asyncio that the program has looked at the exception, and silence its warning.
            error = future._exception if hasattr(future, "_exception") else future.exception()
            if future.cancelled():
                error = _cancelled()
            if error is None:
                self.settle(future.result())
            else:
                self.end(error)
        except Exception as failure:  # a future of others
            self.end()
            if is_hosts(failure):
                raise


class OpenReading(Reading):
    """A reading before its end, with a finalizer. A finalizer swallows exceptions of the host, so an ended reading has none."""

    __slots__ = ()

    def __del__(self) -> None:
        try:
            if self._unread is not None:
                self._unread.close()  # its wrapper has warned already that it was never awaited
            self.end()
        except Exception:  # there is no caller; `fail_silently=False` raises
            pass


class Inside:
    """A block in which the step of a reading is current. It may be entered again after its end."""

    __slots__ = ("_outside", "_reading")

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._outside = _scope()

    def __enter__(self) -> None:
        self._outside = outside = _scope()
        try:
            reading = self._reading
            if reading._open:
                _switch(renewed(reading._inside))
        except BaseException:
            _switch(outside)
            raise

    # In one line, so that an exception of the host's that comes at the first line of this method is caught, too.

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try: self._leave(error)  # noqa: E701  # fmt: skip
        except BaseException:
            _switch(self._outside)
            raise

    def _leave(self, error: BaseException | None) -> None:
        reading, inside = self._reading, _scope()
        _switch(self._outside)
        if reading._open:
            reading._inside = inside
            if error is not None:
                reading.end(None if isinstance(error, (StopIteration, StopAsyncIteration)) else error)


# ---- generators and coroutines ---------------------------------------------------------------------------------------


def reader(start: Start) -> Callable[..., Any]:
    """Return a generator function that reads the generator of `start`."""

    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        reading, inner = start(*args, **kwargs)
        proceed, value = inner.send, None
        inside = reading.inside()
        try:
            while True:
                with inside:
                    item = proceed(value)
                reading.add(item)
                try:
                    value = yield item
                    proceed = inner.send
                except BaseException as error:
                    if reading.is_let_go(error):
                        with inside:
                            del proceed, inner  # closed here, unless the program holds it
                        reading.end()
                        return None
                    proceed, value = inner.throw, as_thrown(error)
        except StopIteration as stop:
            return stop.value
        finally:
            value = None  # an exception that was thrown in would keep this frame alive

    return call


def async_reader(start: Start) -> Callable[..., Any]:
    """Return an async generator function that reads the async generator of `start`."""

    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        reading, inner = start(*args, **kwargs)
        proceed, value = partial(begun, inner), None
        inside = reading.inside()
        try:
            while True:
                with inside:
                    item = await proceed(value)
                reading.add(item)
                try:
                    value = yield item
                    proceed = inner.asend
                except BaseException as error:
                    proceed, value = inner.athrow, as_thrown(error)
        except StopAsyncIteration:
            return
        finally:
            value = None

    return call


def as_thrown(error: BaseException) -> BaseException:
    """Return the exception without the frame of this module, as the consumer threw it in."""
    trace = error.__traceback__
    return error.with_traceback(None if trace is None else trace.tb_next)


def begun(inner: AsyncGenerator[Any, Any], first: Any) -> Any:
    """Start an async generator that only its wrapper ends.

    An event loop that ends closes every async generator that was started in it with hooks. This one is started without hooks.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return inner.asend(first)
    finally:
        sys.set_asyncgen_hooks(*hooks)


async def _awaited(reading: Reading, inner: Any) -> Any:
    with reading.inside():
        result = await inner
    return reading.settle(result)


def _driven(reading: Reading, inner: Any) -> Generator[Any, Any, Any]:
    with reading.inside():
        result = yield from inner
    return reading.settle(result)


@coroutine
def _driven_coroutine(reading: Reading, inner: Any) -> Generator[Any, Any, Any]:
    return (yield from _driven(reading, inner))


def _in_place_of_generator(reading: Reading, inner: Any) -> Any:
    if inner.gi_code.co_flags & CO_ITERABLE_COROUTINE:
        return _named(
            _driven_coroutine(reading, inner), inner
        )  # of `types.coroutine`: it is awaited, and gives no items
    wrapper = _named(reader([(reading, inner)].pop)(), inner)
    reading._wrapper = ref(wrapper)
    return wrapper


def _in_place_of_async_generator(reading: Reading, inner: Any) -> Any:
    return _named(async_reader([(reading, inner)].pop)(), inner)


def _in_place_of_coroutine(reading: Reading, inner: Any) -> Any:
    reading._unread = inner
    return _named(_awaited(reading, inner), inner)


def _in_place_of_future(reading: Reading, future: Any) -> Any:
    future.add_done_callback(reading.follow)
    return future


def _named(wrapper: Any, inner: Any) -> Any:
    wrapper.__name__, wrapper.__qualname__ = inner.__name__, inner.__qualname__
    return wrapper


def _cancelled() -> BaseException:
    from asyncio import CancelledError  # a future that was cancelled has imported it, or `concurrent.futures` alone

    return CancelledError()


# ---- other objects ---------------------------------------------------------------------------------------------------


class Proxy:
    """An object in place of a stream, an awaitable or a context manager. It has the special methods of that object's class.

    All attributes are those of the object. `__class__` is its class, so that `isinstance` holds.
    """

    __slots__ = ("__weakref__", "_agentscope_given", "_agentscope_inner", "_agentscope_reading")

    def __init__(self, inner: Any, reading: Reading) -> None:
        set_slot = object.__setattr__
        set_slot(self, "_agentscope_inner", inner)
        set_slot(self, "_agentscope_reading", reading)
        set_slot(self, "_agentscope_given", {})

    @property  # type: ignore[misc]  # `isinstance` asks for the class by this name
    def __class__(self) -> Any:
        return self._agentscope_inner.__class__

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._agentscope_inner, name)
        if name in ("close", "aclose") and callable(value):
            return _closing(self._agentscope_reading, value)
        if type(value) is GeneratorType or type(value) is AsyncGeneratorType:
            # The object keeps the generator, so that its replacement is kept as well: collected, it would close the generator.
            given = self._agentscope_given
            if id(value) not in given:
                given[id(value)] = self._agentscope_reading.hand_out(value)
            return given[id(value)]
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._agentscope_inner, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._agentscope_inner, name)

    def _agentscope_handed(self, value: Any) -> Any:
        return self if value is self._agentscope_inner else self._agentscope_reading.hand_out(value)


def _closing(reading: Reading, close: Any) -> Any:
    @wraps(close)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            with reading.inside():
                return close(*args, **kwargs)
        finally:
            reading.end()

    @wraps(close)
    async def call_async(*args: Any, **kwargs: Any) -> Any:
        try:
            with reading.inside():
                return await close(*args, **kwargs)
        finally:
            reading.end()

    return call_async if iscoroutinefunction(close) else call


def _next(self: Any) -> Any:
    return self._agentscope_reading.proceed(self._agentscope_inner.__next__)


async def _anext(self: Any) -> Any:
    reading = self._agentscope_reading
    with reading.inside():
        item = await self._agentscope_inner.__anext__()
    reading.add(item)
    return item


def _iter(self: Any) -> Any:
    return self._agentscope_handed(self._agentscope_inner.__iter__())


def _aiter(self: Any) -> Any:
    return self._agentscope_handed(self._agentscope_inner.__aiter__())


def _await(self: Any) -> Any:
    return _driven(self._agentscope_reading, self._agentscope_inner.__await__())


def _enter(self: Any) -> Any:
    with self._agentscope_reading.inside():
        entered = self._agentscope_inner.__enter__()
    return self._agentscope_handed(entered)


def _exit(self: Any, kind: Any, error: Any, trace: Any) -> Any:
    with self._agentscope_reading.inside():
        suppressed = self._agentscope_inner.__exit__(kind, error, trace)
    self._agentscope_reading.end(None if suppressed else error)
    return suppressed


async def _aenter(self: Any) -> Any:
    with self._agentscope_reading.inside():
        entered = await self._agentscope_inner.__aenter__()
    return self._agentscope_handed(entered)


async def _aexit(self: Any, kind: Any, error: Any, trace: Any) -> Any:
    with self._agentscope_reading.inside():
        suppressed = await self._agentscope_inner.__aexit__(kind, error, trace)
    self._agentscope_reading.end(None if suppressed else error)
    return suppressed


_RECORDED = {
    "__next__": _next,
    "__anext__": _anext,
    "__iter__": _iter,
    "__aiter__": _aiter,
    "__await__": _await,
    "__enter__": _enter,
    "__exit__": _exit,
    "__aenter__": _aenter,
    "__aexit__": _aexit,
}
_OF_THE_PROXY = frozenset({"__class__", "__init__", "__new__", "__del__", "__init_subclass__", "__subclasshook__"}) | {
    f"__{verb}__" for verb in ("getattribute", "getattr", "setattr", "delattr", "class_getitem")
}


def _forwarded(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._agentscope_inner, name)(*args, **kwargs)

    return method


def _proxy_class(kind: type) -> type[Proxy]:
    """Make a proxy for objects of a class, with exactly the special methods that they have."""
    namespace: dict[str, Any] = {
        "__slots__": (),
        "__doc__": kind.__doc__,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
    }
    for name in dir(kind):
        special = name.startswith("__") and name.endswith("__") and name not in _OF_THE_PROXY
        if special and callable(getattr(kind, name, None)):
            namespace[name] = _RECORDED.get(name) or _forwarded(name)
    return type(kind.__name__, (Proxy,), namespace)


# ---- which results -----------------------------------------------------------------------------------------------------

Replacement = Callable[[Reading, Any], Any]


def replacement_of(result: Any) -> Replacement | None:
    """Return a function that replaces a result which is consumed later; None for a result that is complete."""
    try:
        return _cached_replacement(type(result))
    except Exception as error:  # a metaclass is foreign code
        if is_hosts(error):
            raise
        return None


def _replacement(kind: type) -> Replacement | None:
    if kind in _NATIVE:
        return _NATIVE[kind]
    if issubclass(kind, (InProcess, Run, IOBase)):
        return None  # handles work by themselves; a file is no stream of results
    has = partial(hasattr, kind)
    if not has("__next__") and not has("__anext__"):
        if has("add_done_callback"):
            return _in_place_of_future
        if not has("__await__") and not _is_stream(kind) and not _only_manages(kind):
            return None
    proxy = _proxy_class(kind)
    return lambda reading, result: proxy(result, reading)


_cached_replacement: Callable[[type], Replacement | None] = lru_cache(maxsize=128)(_replacement)

_NATIVE: dict[type, Replacement] = {
    GeneratorType: _in_place_of_generator,
    AsyncGeneratorType: _in_place_of_async_generator,
    CoroutineType: _in_place_of_coroutine,
}


def _is_stream(kind: type) -> bool:
    """Return whether instances are iterable once: asynchronously, or by a generator and closable. A container has a length."""
    if any(hasattr(kind, name) for name in ("__len__", "__getitem__", "__contains__")):
        return False
    closable = hasattr(kind, "close") or hasattr(kind, "__exit__")
    return hasattr(kind, "__aiter__") or (closable and isgeneratorfunction(getattr(kind, "__iter__", None)))


def _only_manages(kind: type) -> bool:
    """Return whether the class is a context manager without other public methods, unlike a lock or a connection."""
    enters = hasattr(kind, "__enter__") or hasattr(kind, "__aenter__")
    return enters and {name for name in dir(kind) if not name.startswith("_")} <= {"close", "aclose"}
