"""Calls of foreign code, and the origin of an exception.

An `Exception` that this package or foreign code raised is kept from the agent. One that interrupted them is the host's, and goes
through: a signal handler, a trace function or another thread (`PyThreadState_SetAsyncExc`) has put it there. The traceback is the
only evidence, and is read only when something was raised.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import CodeType, FrameType, FunctionType, MethodType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")

_RAISING = frozenset({"RAISE_VARARGS", "RERAISE"})
_HARMLESS = frozenset({"RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE", "NOP"})
"""Instructions that raise nothing themselves, but at which the interpreter calls signal handlers."""
_STUB = 6
"""Bytes of the code in frames that extensions make for a traceback (`PyCode_NewEmpty`)."""
_WITHOUT_ARGUMENTS = (MemoryError, StopIteration, StopAsyncIteration)
"""Classes that Python's own C code raises without arguments; and `Empty`, whose module takes long to import."""
_VARARGS = 0x04
"""`inspect.CO_VARARGS`. The module is slow to import."""
_opname: Sequence[str] = ()
"""The names of the interpreter's instructions, from `prepare` on."""
_args: Callable[[BaseException], tuple[Any, ...]] = BaseException.__dict__["args"].__get__
_traceback: Callable[[BaseException], TracebackType | None] = BaseException.__dict__["__traceback__"].__get__
"""Getters of the base class, since a subclass may define properties of these names."""


def prepare() -> None:
    """Import what `is_hosts` needs, for a program that makes a tracker: a call may come while an import goes on."""
    global _opname
    from opcode import opname  # `import agentscope` alone does not pay for it

    _opname = opname


def called(call: Callable[[], T], otherwise: U) -> T | U:
    """Call foreign code. Return `otherwise` if it raises an `Exception`."""
    try:
        return call()
    except Exception as error:
        if is_hosts(error):
            raise
        return otherwise


def is_hosts(error: BaseException) -> bool:
    """Return True if the host put this exception into the code that was running, and False if that code raised it.

    Any exception that is no `Exception` counts as the host's.
    """
    if not issubclass(type(error), Exception):
        return True
    trace = last = _traceback(error)
    interrupted: FrameType | None = None
    while trace is not None:
        if interrupted is not None and _interrupts(trace.tb_frame, interrupted):
            return True
        last, interrupted, trace = trace, trace.tb_frame, trace.tb_next
    return last is not None and _came_from_outside(last, error)


def _interrupts(frame: FrameType, interrupted: FrameType) -> bool:
    """Return True for the frame of a signal handler or trace function. Each is called with the frame that it interrupts."""
    code = frame.f_code
    number = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & _VARARGS)
    if number < 2 and not code.co_flags & _VARARGS:
        return False
    local = frame.f_locals
    given = [local.get(name) for name in code.co_varnames[:number]]
    if type(given[-1]) is tuple:
        given += given[-1]
    return any(value is interrupted or value is interrupted.f_code for value in given) or code in _signal_handlers()


def _signal_handlers() -> Iterator[CodeType]:
    signal: Any = sys.modules.get("signal")  # a program without it has no handlers in Python
    for number in () if signal is None else signal.valid_signals():
        handler: Any = signal.getsignal(number)
        while isinstance(handler, (partial, MethodType)):
            handler = handler.func if isinstance(handler, partial) else handler.__func__
        if isinstance(handler, FunctionType):
            yield handler.__code__


def _came_from_outside(last: TracebackType, error: BaseException) -> bool:
    """Return True if the last instruction of a traceback cannot have raised the exception, as far as that can be told.

    After a call of a C function the exception may come from the function or from another thread. One from another thread has no
    arguments.
    """
    if not _opname:
        prepare()
    code = last.tb_frame.f_code.co_code
    if not code or (len(code) == _STUB and _opname[code[-2]] == "RAISE_VARARGS"):
        return False  # the frame of an extension, such as Cython's: its code never runs
    if last.tb_lasti < 0:
        return True  # before the first instruction
    instruction = _opname[code[last.tb_lasti]]
    if instruction in _HARMLESS:
        return True
    if instruction in _RAISING or issubclass(type(error), _WITHOUT_ARGUMENTS):
        return False
    if type(error) is getattr(sys.modules.get("queue"), "Empty", None):
        return False
    init = next(base.__dict__["__init__"] for base in type(error).__mro__ if "__init__" in base.__dict__)
    if type(init) is FunctionType:
        return init.__code__.co_argcount - len(init.__defaults__ or ()) <= 1
    return _args(error) == ()
