"""`instrument("threads")`: threads, pools, timers and greenlets inherit the run and step that are current where they are started.

An inherited run counts while it is open, as in a task of asyncio. Only the run and step are inherited, no other context variable.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.pool import ThreadPool
from threading import Thread
from typing import Any

from .context import Scope, current, restored, switch

Around = Callable[[Callable[..., Any], "tuple[Any, ...]", "dict[str, Any]"], Any]
"""Calls the original, with its positional and keyword arguments."""

_POOL = ("apply_async", "map", "map_async", "imap", "imap_unordered")
_GREENLETS = (
    ("gevent", "", ("spawn", "spawn_raw", "spawn_later")),
    ("gevent.pool", "Group", ("spawn", *_POOL)),
    ("gevent.threadpool", "ThreadPool", ("spawn", *_POOL)),
    ("eventlet", "", ("spawn", "spawn_n", "spawn_after")),
    ("eventlet.greenpool", "GreenPool", ("spawn", "spawn_n", "imap", "starmap")),
)
"""(module, class or empty, names): the functions or methods that run a function in a greenlet."""

_undoings: list[Callable[[], None]] = []
"""The functions that remove the installed patches."""
_users: list[object] = []
"""One entry for each active `instrument`. Without entries, a patch that cannot be removed calls only the original."""


def inherit() -> Callable[[], None]:
    """Install the patches. Return the function that undoes it; the last one removes them."""
    user = object()
    if not _users:
        _undoings.extend(_patched(owner, name, around) for owner, name, around in _patches())
    _users.append(user)

    def undo() -> None:
        if user in _users:
            _users.remove(user)
            while _undoings and not _users:
                _undoings.pop()()

    return undo


def _patches() -> Iterable[tuple[Any, str, Around]]:
    yield Thread, "start", _start
    yield ThreadPoolExecutor, "submit", _submit
    yield ThreadPool, "__init__", _apart
    for name in (*_POOL, "starmap", "starmap_async"):
        yield ThreadPool, name, partial(_with_function, 1)
    if find_spec("anyio") is not None:
        yield import_module("anyio.to_thread"), "run_sync", _carried_back
    # A program imports these before anything else.
    for module, attribute, names in _GREENLETS:
        owner = sys.modules.get(module)
        if owner is not None and attribute:
            owner = getattr(owner, attribute)
        for name in names if owner is not None else ():
            position = (1 if attribute else 0) + (name in ("spawn_later", "spawn_after"))
            yield owner, name, partial(_with_function, position)


def _patched(owner: Any, name: str, around: Around) -> Callable[[], None]:
    """Replace an attribute of a class or module. Return the function that puts the original back."""
    original, is_own = getattr(owner, name), name in vars(owner)

    @wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return around(original, args, kwargs) if _users else original(*args, **kwargs)

    setattr(owner, name, call)

    def undo() -> None:
        if vars(owner).get(name) is not call:
            return  # others have patched over it
        if is_own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)

    return undo


def _inheriting(function: Callable[..., Any], scope: Scope | None) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with restored(scope):
            return function(*args, **kwargs)

    return call


def _start(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    scope = current()
    if scope is None or not args:
        return original(*args, **kwargs)
    thread = args[0]
    run = _inheriting(thread.run, scope)

    def run_once() -> None:
        thread.__dict__.pop("run", None)  # a thread must not keep itself alive
        run()

    thread.__dict__["run"] = run_once
    try:
        return original(*args, **kwargs)
    except BaseException:
        thread.__dict__.pop("run", None)
        raise


def _apart(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with restored(None):  # the threads of a pool work for many runs
        return original(*args, **kwargs)


def _submit(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _apart(original, *_bound(1, args, kwargs))


def _with_function(position: int, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args, kwargs = _bound(position, args, kwargs)
    return original(*args, **kwargs)


def _bound(position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments, with their function bound to the current scope."""
    if len(args) > position and callable(args[position]):
        args = (*args[:position], _inheriting(args[position], current()), *args[position + 1 :])
    elif callable(kwargs.get("func")):
        kwargs = {**kwargs, "func": _inheriting(kwargs["func"], current())}
    return args, kwargs


async def _carried_back(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a function in a thread. The scope that it leaves current there becomes the current one of the task."""
    if not args:
        return await original(*args, **kwargs)
    function, before = args[0], current()
    after: list[Scope | None] = []

    def call(*args: Any) -> Any:
        try:
            return function(*args)
        finally:
            after.append(current())

    try:
        return await original(call, *args[1:], **kwargs)
    finally:
        if after and after[0] is not before:
            switch(after[0])
