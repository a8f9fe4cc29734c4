"""The ends and the forks of a process. Everything is registered once, at import; no thread is started here."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from threading import RLock
from typing import Any, Protocol

from agentscope.pipeline.spool import directory as spooldir

from . import threads
from .clock import monotonic


class Living(Protocol):
    """An object with methods that are called at exit and after a fork."""

    def hurry(self) -> Callable[[float], object]: ...

    def ask_to_stop(self) -> None: ...

    def wait_until_stopped(self) -> None: ...

    def wait_for_thread(self, until: float) -> None: ...

    def after_fork_in_child(self) -> None: ...

    def after_restore(self) -> None: ...


LAST_GRACE = 0.1
"""Seconds that a shutdown waits for all threads together after it has closed their connections."""


class _Process:
    """The state of this process."""

    registered = False
    listening = False
    id = os.getpid()
    """The id of the process."""
    looking = RLock()


_process = _Process()

_known: dict[int, weakref.ref[Living]] = {}
"""All pipelines, for forks. A plain dict: each operation is one step, a WeakSet's are not."""
_started: dict[int, Living] = {}
"""Pipelines with something to deliver; they must outlive their trackers."""
after_exit: list[Callable[[], None]] = []
"""Functions that are called after the exit handler has stopped all pipelines."""


class _IdMark:
    """The mark on other systems than Linux. It reads the process id, which is slow."""

    def __getitem__(self, index: int) -> bool:
        return _process.id == os.getpid()

    def __setitem__(self, index: int, value: int) -> None:
        """Do nothing: the id is kept elsewhere."""


def _make_mark() -> Any:
    """Return a sequence whose first item is true in this process and false in a child that was forked without Python's hooks.

    C code forks so, as uWSGI does. Linux clears the memory of the mark in the child, and to look at it costs next to nothing.
    """
    try:
        import mmap

        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_WIPE_ON_FORK)
    except (ImportError, AttributeError, OSError, ValueError):
        return _IdMark() if "uwsgi" in sys.modules else b"\1"
    page[0] = 1
    return page


_WIPE_ON_FORK = 18  # MADV_WIPEONFORK, for which Python has no name
mark = _make_mark()


def look_for_fork() -> None:
    """Begin anew if this process was forked without Python's hooks. Any thread may call this."""
    if not mark[0] or _process.id != os.getpid():
        with _process.looking:
            if not mark[0] or _process.id != os.getpid():
                _after_fork_in_child()


def know(pipeline: Living) -> None:
    """Register a pipeline for forks and restores, by a weak reference."""
    if not _process.listening and os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        _process.listening = True
        _listen_for_restores()
    key = id(pipeline)
    _known[key] = weakref.ref(pipeline, lambda _: _known.pop(key, None))


def _listen_for_restores() -> None:
    """Let each clone of this process begin its own session. AWS Lambda makes clones from an image of the memory.

    https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-python.html
    """
    try:
        from snapshot_restore_py import register_after_restore
    except ImportError:
        return
    register_after_restore(after_restore)


def after_restore() -> None:
    """Begin new sessions. The threads of the image live on, and deliver what was queued in it."""
    for pipeline in living():
        pipeline.after_restore()


def living() -> list[Living]:
    """Return all living pipelines. Takes no lock."""
    return [pipeline for reference in list(_known.values()) if (pipeline := reference()) is not None]


def started(pipeline: Living) -> None:
    """Register a pipeline to be stopped at exit. Safe to call again, and from a signal handler."""
    if id(pipeline) in _started:
        return
    _started[id(pipeline)] = pipeline
    if not _process.registered:
        _process.registered = True
        register(at_exit)


def ended(pipeline: Living) -> None:
    """Forget a pipeline that has nothing more to deliver."""
    _started.pop(id(pipeline), None)


def at_exit() -> None:
    """Stop all pipelines at exit."""
    stop_all()
    with suppress(KeyboardInterrupt):
        for hook in after_exit:
            hook()


def stop_all() -> None:
    """Stop all pipelines at the same time, so that their delays do not add up."""
    try:
        look_for_fork()
        threads.end()
        # Events of later exit handlers could not be delivered any more. They are refused, counted and logged.
        for unused in living():
            unused.ask_to_stop()
        pipelines = list(_started.values())
        for pipeline in pipelines:
            pipeline.wait_until_stopped()
        grace = monotonic() + LAST_GRACE
        for pipeline in pipelines:
            pipeline.wait_for_thread(grace)
    except KeyboardInterrupt:
        return  # a second Ctrl-C ends the wait; the remaining events are counted already


def _after_fork_in_child() -> None:
    try:
        _begin_anew()
    except BaseException:
        # Python ignores exceptions of fork hooks, and a Ctrl-C may arrive in one.
        _begin_anew()
        raise


def _begin_anew() -> None:
    threads.after_fork_in_child()
    spooldir.after_fork_in_child()
    _process.registered = False
    _started.clear()
    for pipeline in living():
        pipeline.after_fork_in_child()
    _process.id = os.getpid()  # last: from here on other threads go ahead
    if not mark[0]:
        mark[0] = 1


atexit.register(at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=threads.before_fork,
        after_in_parent=threads.after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


def register(stop: Callable[[], None]) -> None:
    """Register `stop` for the end of a child of multiprocessing, billiard or Celery. Called once a process."""
    if _is_child("multiprocessing.process") or _is_child("billiard.process"):
        from multiprocessing.util import Finalize  # billiard's own is the same

        Finalize(None, stop, exitpriority=10)
    celery = sys.modules.get("celery.signals")
    if celery is not None:
        # The children of its pool do not run `Finalize`. `dispatch_uid` keeps a second registration from adding a second call.
        celery.worker_process_shutdown.connect(
            lambda **_: stop(), weak=False, dispatch_uid=f"{__package__}.{stop.__name__}"
        )


def _is_child(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and type(module.current_process()).__name__ != "_MainProcess"
