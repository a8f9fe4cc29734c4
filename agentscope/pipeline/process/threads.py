"""The threads of the package: started even from a signal handler, and recognised."""

from __future__ import annotations

import _thread
import logging
import os
import sys
import threading
from _thread import get_ident, start_new_thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

_ours: set[int] = set()
callbacks: set[int] = set()
"""Threads that are inside a hook."""


NOISY = ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry", "charset_normalizer")
"""Loggers with a line for every request. A log handler that records events would record its own delivery."""


def is_ours() -> bool:
    """Return whether this code runs in a thread of this package."""
    return get_ident() in _ours


def in_callback() -> bool:
    """Return whether this code runs inside a hook for events. An event recorded there would cause another one, without end.

    `is_ours` is no proof: the garbage collector may run finalizers of the user's objects in a thread of this package.
    """
    return get_ident() in callbacks


@contextmanager
def callback() -> Iterator[None]:
    """Mark a call of a user's hook, for `in_callback`. OpenTelemetry does not trace it, as it is part of delivery."""
    ident = get_ident()
    # Imported by the application, or not at all.
    tracing: Any = sys.modules.get("opentelemetry.context")
    key = getattr(tracing, "_SUPPRESS_INSTRUMENTATION_KEY", None)
    token = None if key is None else tracing.attach(tracing.set_value(key, True))
    callbacks.add(ident)
    try:
        yield
    finally:
        callbacks.discard(ident)
        if token is not None:
            tracing.detach(token)


def _from_elsewhere(record: logging.LogRecord) -> bool:
    return not is_ours()


def hush() -> None:
    """Suppress log records of the HTTP library in threads of this package."""
    for name in NOISY:
        logging.getLogger(name).addFilter(_from_elsewhere)


def own(target: Callable[[], object]) -> Callable[[], None]:
    """Wrap `target` so that its thread counts as one of this package."""

    def run() -> None:
        ident = get_ident()
        _ours.add(ident)
        try:
            target()
        finally:
            _ours.discard(ident)

    return run


_BORN = os.getpid()


def _in_uwsgi_master() -> bool:
    """Return whether this is uWSGI's master. It forks without Python's hooks, so a lock held by a thread blocks the child."""
    uwsgi = sys.modules.get("uwsgi")
    return uwsgi is not None and os.getpid() == _BORN and uwsgi.worker_id() == 0


def start(target: Callable[[], object], name: str, ours: bool = True) -> bool:
    """Run `target` in a daemon thread. False if no thread can be started. `ours`: the thread counts as one of this package.

    A bare thread is started first, and starts the `threading.Thread`, which debuggers and profilers see under its name:
    `Thread.start` takes locks, which the code that a signal handler interrupted may hold.

    If gevent or eventlet patches threads after the import of this module, the bare thread does the work. A green thread would
    block the whole program in a lock that was made before the patch.
    """

    begun = Lock()
    begun.acquire()

    def begin() -> None:
        begun.release()
        target()

    work, again = (own(begin), own(target)) if ours else (begin, target)

    def bootstrap() -> None:
        if _thread.start_new_thread is not start_new_thread:
            work()
        elif not _begins(work, name, begun):
            again()

    if _in_uwsgi_master():
        return False
    try:
        start_new_thread(bootstrap, ())
    except RuntimeError:
        return False
    return True


LOOKS, LOOK = 200, 0.05
"""Number of checks whether a thread has begun, and seconds between two of them."""


def _begins(work: Callable[[], None], name: str, begun: Lock) -> bool:
    """Run `work` in a `threading.Thread`. False if the thread never starts, or ends before its work has begun.

    The threading module may be patched, and a trace or profile function that raises ends a thread before its first line.
    """
    turn = Lock()

    def run() -> None:
        if turn.acquire(blocking=False):
            work()

    try:
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
    except RuntimeError:
        return False  # no more threads can be had
    except Exception as error:
        _say_replaced(name, type(error).__name__)
        return False
    for _ in range(LOOKS):
        if begun.acquire(timeout=LOOK):
            return True
        alive: object = thread.is_alive()
        if alive is False and not begun.locked():
            return True
        if alive is not True:
            break
    if thread.is_alive() is not False and not turn.acquire(blocking=False):
        return True  # it began late, and works
    _say_replaced(name, "it never began")
    return False


def _say_replaced(name: str, why: str) -> None:
    if _process.replaced:
        return
    _process.replaced = True
    sentence = "the thread %s could not be started by the threading module (%s): another one does its work"
    try:
        logging.getLogger("agentscope").warning(sentence, name, why)
    except Exception:  # logging asks the threading module for the thread
        return


FORK_PATIENCE = 5.0
"""Seconds that a fork waits for work that must not be interrupted."""


class _Gate:
    """A lock around work that a fork waits for."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.held_by_fork = False
        self.torn = False
        """True if the parent held the lock when this child was forked."""

    def close_for_fork(self) -> None:
        """Wait for the work, within a limit."""
        self.held_by_fork = not is_ours() and self.lock.acquire(timeout=FORK_PATIENCE)

    def after_fork_in_parent(self) -> None:
        if self.held_by_fork:
            self.held_by_fork = False
            self.lock.release()

    def after_fork_in_child(self) -> None:
        # Without fork hooks `close_for_fork` was not called, so the lock may be held at the fork.
        self.torn = self.torn or (self.lock.locked() and not self.held_by_fork)
        self.lock, self.held_by_fork = Lock(), False


class _Process:
    ending = False
    replaced = False
    """True once the log line about a replaced thread was written."""


_imports = _Gate()
"""Held around imports. A child that is forked during an import keeps a partly imported module."""
_disk = _Gate()
"""Held around work on the spool. A child that is forked during it keeps SQLite's process-wide locks locked."""
_gates = (_imports, _disk)
_process = _Process()


@contextmanager
def warm_up() -> Iterator[None]:
    """Hold `_imports` around imports in a thread of this package."""
    with _imports.lock:
        yield


@contextmanager
def disk(timeout: float = -1.0) -> Iterator[bool]:
    """Hold `_disk` around work on the spool. Gives False, for no work, if another thread holds it or held it at a fork."""
    gate = _disk.lock
    held = not _disk.torn and gate.acquire(timeout=timeout)
    try:
        yield held
    finally:
        if held:
            gate.release()


def ending() -> bool:
    """Return whether the exit handlers of the process have begun."""
    return _process.ending


def end() -> None:
    """Record that the exit handlers have begun."""
    _process.ending = True


def before_fork() -> None:
    for gate in _gates:
        gate.close_for_fork()


def after_fork_in_parent() -> None:
    for gate in _gates:
        gate.after_fork_in_parent()


def after_fork_in_child() -> None:
    """Forget the threads of the parent: they do not exist here, and their ids may be reused."""
    _process.ending = False
    for gate in _gates:
        gate.after_fork_in_child()
    _ours.clear()
    callbacks.clear()
