"""Signals that end a process: pending events are delivered first. Opt-in, by `flush_on_signal=True`.

A handler interrupts the main thread, which may hold any lock, so it takes no lock. Another thread delivers, and then sends the
signal once more.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from _thread import get_ident
from types import FrameType
from typing import Any

from agentscope.pipeline.process.clock import monotonic

from .process import lifecycle, threads
from .reporting import say

NAMES = ("SIGTERM", "SIGHUP")

MOMENT = 0.25
"""Seconds that the main thread waits for delivery. Then it goes on, since it may hold a lock that delivery needs, such as that
of an import or a logging handler."""
LAST_SIGNAL = 5.0
"""Seconds that the exit waits, after all is delivered, for the signal to be sent again."""
HURRY = 30.0
"""Seconds after a signal that the application handles itself, in which events are sent at once."""
PAUSE = 0.05
"""Seconds between two sends after such a signal."""


class _Process:
    """The state of this process, and of the one that it was forked from."""

    previous: dict[int, Any] = {}  # noqa: RUF012 - of the process, as the handlers are
    """The earlier handler of each signal. A fork keeps them, as it keeps the handlers."""
    said = False
    ending = 0
    """The id of the process that a signal is ending. A child that it forks meanwhile has another."""
    hurry_until = 0.0
    hurrying = 0
    """The id of the process with a thread that sends at once."""
    wakeup_fd = -1
    """The descriptor that Python writes each signal to, in a child that `_look_out` watches."""


_process = _Process()
_held_back: dict[int, set[int]] = {}
"""The signals that a thread holds back while it forks."""


def install() -> None:
    """Install handlers of SIGTERM and SIGHUP, once a process. Ignored signals, and handlers outside Python, stay."""
    for name in NAMES:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is None or number in _process.previous:
            continue
        previous = signal.getsignal(number)
        if previous is None or previous == signal.SIG_IGN:
            continue
        _process.previous[number] = previous
        try:
            signal.signal(number, _handle)
        except ValueError:
            del _process.previous[number]
            if not _process.said:
                _process.said = True
                say("flush_on_signal has no effect: Python takes signal handlers from the main thread only")
            return


def _ends(number: int) -> bool:
    """Return whether the signal ends the process, and no handler of the application is called."""
    return signal.getsignal(number) is _handle and not callable(_process.previous.get(number))


def _hold_back() -> None:
    """Hold signals back while the process forks: Python forgets a signal that a child gets before it has run."""
    numbers = {number for number in _process.previous if _ends(number)}
    _held_back[get_ident()] = numbers.difference(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _held_back.pop(get_ident(), ()))


def _begin_child() -> None:
    """Begin in a forked child. In one that may belong to a pool, a thread sees to it that no signal is missed.

    Such a child waits for a semaphore. If that is released just before a signal comes, and taken by another process, the C
    library goes on waiting, and Python calls no handler until another signal interrupts it.
    """
    try:
        fd = signal.set_wakeup_fd(-1)  # the parent would take signals of this process for its own
        if fd != _process.wakeup_fd:
            signal.set_wakeup_fd(fd)  # an event loop's
        elif "multiprocessing.synchronize" in sys.modules and any(map(_ends, _process.previous)):
            reads, _process.wakeup_fd = os.pipe()
            os.set_blocking(_process.wakeup_fd, False)
            signal.set_wakeup_fd(_process.wakeup_fd, warn_on_full_buffer=False)
            threads.start(lambda: _look_out(reads), "agentscope-signal", ours=False)
    finally:
        _let_through()


def _look_out(reads: int) -> None:
    """Send a signal again if its handler has not been called after a moment."""
    while number := os.read(reads, 1):
        if _ends(number[0]):
            time.sleep(PAUSE)  # time for the handler
            if _process.ending != os.getpid():
                os.kill(os.getpid(), number[0])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_begin_child)


def _handle(number: int, frame: FrameType | None) -> None:
    previous = _process.previous.get(number)
    if callable(previous):
        _hurry()
        previous(number, frame)  # it may raise, or not return
        return
    try:
        if _process.ending != os.getpid():
            _process.ending = os.getpid()
            halfway = _in_pipeline(frame)
            if threads.start(lambda: _end(number, halfway), "agentscope-signal", ours=False):
                if not halfway:
                    time.sleep(MOMENT)  # a signal ends it
                return
            lifecycle.stop_all()  # no thread can be had, as at the end of the interpreter
    except KeyboardInterrupt:
        pass  # a second signal, too
    except BaseException:
        return  # the sleep, where a library has made it a switch to other tasks: the thread goes on
    _die(number)


def _in_pipeline(frame: FrameType | None) -> bool:
    """Return whether the signal interrupted a call of this package. The call goes on: it may be starting the worker."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(__package__):
            return True
        frame = frame.f_back
    return False


def _end(number: int, halfway: bool) -> None:
    """Deliver within the limits of a shutdown, then send the signal again, which ends the process."""
    try:
        if halfway:
            time.sleep(PAUSE)  # no bell: the interrupted code may hold any lock
        lifecycle.stop_all()
    finally:
        while True:  # one that comes just before the main thread goes to sleep does not wake it
            os.kill(os.getpid(), number)
            time.sleep(PAUSE)  # no bell: the interrupted code may hold any lock


def _wait_for_signal() -> None:
    """Wait at exit until `_end` has sent the signal: the main thread may have come to its own end meanwhile."""
    until = monotonic() + LAST_SIGNAL
    while _process.ending == os.getpid() and monotonic() < until:
        time.sleep(PAUSE)  # the signal ends it


lifecycle.after_exit.append(_wait_for_signal)


def _die(number: int) -> None:
    """End the process by the signal itself, so that its parent sees the signal."""
    signal.signal(number, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    # The first process of a container is spared by signals it has no handler for.
    time.sleep(PAUSE)  # no bell: the interrupted code may hold any lock
    os._exit(128 + number)


def _hurry() -> None:
    """Send pending events, and new ones for a while: the application's own handler is likely to end the process soon."""
    try:
        _process.hurry_until = monotonic() + HURRY
        if _process.hurrying != os.getpid():
            _process.hurrying = os.getpid()
            if not threads.start(_send, "agentscope-signal", ours=False):
                _process.hurrying = 0
    except Exception:
        return  # the application's handler is called after any exception of ours


def _send() -> None:
    try:
        while monotonic() < _process.hurry_until and not threads.ending():
            for wait in [pipeline.hurry() for pipeline in lifecycle.living()]:
                wait(1.0)
            time.sleep(PAUSE)  # no bell: the interrupted code may hold any lock
    finally:
        _process.hurrying = 0
