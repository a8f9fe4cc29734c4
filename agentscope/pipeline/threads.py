"""Starting threads from code that may run inside a signal handler, and knowing which threads are ours."""

from __future__ import annotations

import _thread
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ours: set[int] = set()
_in_callbacks: set[int] = set()

NOISY = ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry", "charset_normalizer")
"""Loggers with a line for every request: a handler that tracks what is logged would feed on its own delivery."""


def is_ours() -> bool:
    """Whether this code runs in a thread of this package."""
    return _thread.get_ident() in _ours


def in_callback() -> bool:
    """Whether this code was called by a hook that runs for events: what is tracked there would feed on itself.

    A thread of ours is no reason by itself: the garbage collector runs anybody's finalizers in it.
    """
    return _thread.get_ident() in _in_callbacks


@contextmanager
def callback() -> Iterator[None]:
    """Around a call of a user's hook."""
    ident = _thread.get_ident()
    _in_callbacks.add(ident)
    try:
        yield
    finally:
        _in_callbacks.discard(ident)


def _from_elsewhere(record: logging.LogRecord) -> bool:
    return not is_ours()


def hush() -> None:
    """Keep what the HTTP library logs in threads of ours out of the user's handlers."""
    for name in NOISY:
        logging.getLogger(name).addFilter(_from_elsewhere)


def own(target: Callable[[], object]) -> Callable[[], None]:
    """`target`, run as a thread of ours."""

    def run() -> None:
        ident = _thread.get_ident()
        _ours.add(ident)
        try:
            target()
        finally:
            _ours.discard(ident)

    return run


def start(target: Callable[[], object], name: str) -> bool:
    """Run `target` in a daemon thread of ours. False if this machine, or this interpreter, gives no more threads.

    `threading.Thread.start` takes locks of the threading module, which the code that a signal handler interrupted may hold.
    A bare thread takes none; it starts the proper one, which debuggers and profilers see under its name.
    """

    def bootstrap() -> None:
        try:
            threading.Thread(target=own(target), name=name, daemon=True).start()
        except RuntimeError:
            own(target)()

    try:
        _thread.start_new_thread(bootstrap, ())
    except RuntimeError:
        return False
    return True


class _Gate:
    """Held around the worker's first imports. A fork waits for it: the child would find modules half imported, for ever."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.held_by_fork = False


_gate = _Gate()


@contextmanager
def warm_up() -> Iterator[None]:
    """Around imports in a thread of ours."""
    with _gate.lock:
        yield


def before_fork() -> None:
    """Wait for imports under way, but not for ever."""
    _gate.held_by_fork = not is_ours() and _gate.lock.acquire(timeout=5.0)


def after_fork_in_parent() -> None:
    if _gate.held_by_fork:
        _gate.held_by_fork = False
        _gate.lock.release()


def after_fork_in_child() -> None:
    """None of the parent's threads live on, and their numbers may be given anew."""
    _gate.lock, _gate.held_by_fork = threading.Lock(), False
    _ours.clear()
    _in_callbacks.clear()
