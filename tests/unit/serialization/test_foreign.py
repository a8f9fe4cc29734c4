"""The origin of an exception: a traceback tells the host's own exceptions from those of the code that was called."""

from __future__ import annotations

import _queue
import ctypes
import functools
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any
from unittest.mock import Mock

import pytest

from agentscope.serialization.foreign import called, is_hosts
from agentscope.serialization.snapshot import encode
from tests.support.hostile_objects import HOSTILE, FailingObject

DEADLINE = 0.002
"""Seconds until the signal."""


class Limit(Exception):
    """An exception of the host."""


class LimitWithText(Exception):
    def __init__(self, *_: object) -> None:
        super().__init__("the time is over")


class Slow:
    """An object whose `repr` is interrupted."""

    def __repr__(self) -> str:
        return spin()


def spin() -> Any:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        sum(range(10))


def raised(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def comes_out_as_the_hosts(handler: Any, work: Callable[[], object]) -> bool:
    def armed() -> None:
        # Once more after three seconds: an exception that comes inside a finalizer is ignored by Python.
        signal.setitimer(signal.ITIMER_REAL, DEADLINE, 3)
        work()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        return is_hosts(raised(armed))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def plain(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("the time is over")


def forgetful(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise TimeoutError("the time is over")


def deep(*args: object) -> None:
    json.loads("no JSON")


class Handler:
    def method(self, number: int, frame: FrameType | None) -> None:
        raise ValueError("the time is over")

    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise ValueError("the time is over")


@functools.wraps(plain)
def wrapped(*args: Any, **kwargs: Any) -> None:
    plain(*args, **kwargs)


HANDLERS = [
    plain,
    forgetful,
    deep,
    wrapped,
    Handler().method,
    Handler(),
    functools.partial(lambda extra, number, frame: 1 // 0, None),
    lambda *_: {}["key"],
    Mock(side_effect=OSError("the time is over")),
]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("work", [spin, lambda: time.sleep(10), lambda: repr(Slow()), lambda: encode([Slow()])])
def test_an_exception_of_a_signal_handler_is_the_hosts(handler: Any, work: Callable[[], object]) -> None:
    assert comes_out_as_the_hosts(handler, work)


def throw(kind: type[BaseException]) -> None:
    """Raise this in the calling thread as another thread does that stops it."""
    ident = threading.get_ident()

    def stop() -> None:
        time.sleep(DEADLINE)  # the thread that is stopped is in the middle of its work then
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(kind))

    threading.Thread(target=stop).start()


@pytest.mark.parametrize("kind", [Limit, TimeoutError, ValueError, LimitWithText])
@pytest.mark.parametrize("work", [spin, lambda: [spin() for _ in "a"], lambda: repr(Slow()), lambda: encode([Slow()])])
def test_an_exception_that_another_thread_puts_there_is_the_hosts(
    kind: type[Exception], work: Callable[[], object]
) -> None:
    def both() -> None:
        throw(kind)
        work()

    assert is_hosts(raised(both))


def test_an_exception_of_a_trace_function_is_the_hosts() -> None:
    def trace(frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            raise Limit
        return trace

    def traced() -> None:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            called(lambda: 1, 2)
        finally:
            sys.settrace(before)

    assert is_hosts(raised(traced))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_is_the_hosts(kind: type[BaseException]) -> None:
    assert is_hosts(kind())


def bare(_: object) -> str:
    raise TimeoutError


def worded(_: object) -> str:
    raise Limit("a text")


def converted(_: object) -> str:
    try:
        return str(1 // 0)
    except ZeroDivisionError as error:
        raise RuntimeError from error


def asserting(_: object) -> str:
    assert not HOSTILE
    return ""


def extension(_: object) -> str:
    """Raise as extensions do, which make a code of their own for the traceback."""
    make = ctypes.pythonapi.PyCode_NewEmpty
    make.restype = ctypes.py_object
    exec(make(b"module.pyx", b"function", 1))
    return ""


FAILURES: list[Callable[[Any], object]] = [
    bare,
    worded,
    converted,
    asserting,
    lambda _: 1 // 0,
    lambda _: {}["key"],
    lambda _: [].missing,  # type: ignore[attr-defined]
    lambda _: int("no number"),
    lambda _: json.loads("no JSON"),
    lambda _: "\ud800".encode(),
    lambda _: next(iter(())),
    lambda _: [next(iter(())) for _ in "a"],
    lambda _: list(map(bare, "a")),
    lambda _: sorted([1, "a"]),  # type: ignore[type-var]
    lambda _: repr(FailingObject()),
    lambda _: _queue.SimpleQueue().get_nowait(),
    lambda value: type(value).fail(value),
]


@pytest.mark.parametrize("fail", FAILURES)
def test_an_exception_of_the_code_that_was_called_is_not_the_hosts(fail: Callable[[Any], object]) -> None:
    value = type("Value", (), {"__repr__": fail, "fail": property(lambda self: fail(self))})()
    assert not is_hosts(raised(lambda: repr(value)))
    assert not is_hosts(raised(lambda: value.fail))
    assert called(lambda: value.fail, "otherwise") == "otherwise"


def test_an_exception_near_the_end_of_the_stack_is_not_the_hosts() -> None:
    def deeper() -> None:
        deeper()

    assert not is_hosts(raised(deeper))


def test_an_exception_with_false_attributes_is_judged_by_its_true_ones() -> None:
    class Liar(Exception):
        @property
        def __traceback__(self) -> Any:
            raise RuntimeError("traceback")

        args = property(__traceback__.fget)  # type: ignore[assignment,attr-defined]

    def lie() -> None:
        raise Liar

    assert not is_hosts(raised(lie))


def test_a_frame_that_is_only_looked_at_is_no_interruption() -> None:
    def look(frame: FrameType) -> None:
        raise Limit("a text")

    assert not is_hosts(raised(lambda: repr(type("Value", (), {"__repr__": lambda self: look(None)})())))  # type: ignore[arg-type]
