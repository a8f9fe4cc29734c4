"""The current run and step, and the open runs. No lock is taken here, because a signal handler may call.

A `Scope` is one link of a chain that hangs on a ContextVar, so tasks don't mix and nested blocks nest by themselves. A scope
counts only while its run is open, whoever opened it. Trackers of one destination share their runs: a step tracked in one
module lands in the run that another module opened.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from agentscope.serialization.foreign import is_hosts

MOST_OPEN_RUNS = 10_000
"""Bound on open runs, since some are never ended. Beyond it the oldest is forgotten."""
MOST_ENDED_RUNS = 1_000
MOST_STACKED = 100
"""Runs begun by `start_run` on top of each other in one context, of which none has ended."""


BLOCK, STARTED, HANDLE, REMOTE = "block", "started", "handle", "remote"
"""The origin of a scope: a block, `start_run`, a handle of the VoltAgent face, the headers of another process."""


class RunState:
    """The state of a run, shared by all scopes in it."""

    ended = False
    """True after the end of the run. Stays False for a run of another process, or one that had ended when it was entered."""
    inner: tuple[RunState, ...] = ()
    """The runs that are steps of this one. Their scopes count only while it is open."""
    is_remote = False
    """True for the run of another process, from the headers of a request."""
    older_threads: Sequence[int | None] = ()
    """The threads that were alive when it began; empty for the first run of a destination."""

    def __init__(self, runs: Runs, own_id: str, started_at: int = 0) -> None:
        self.runs = runs
        self.own_id = own_id
        """The id under which it was begun. The scopes of a run within another one have the id of the outer run as `run_id`."""
        self.started_at = started_at
        """Nanoseconds since the epoch."""


class Scope:
    """A run or step that was made current in a context. Contexts that are copied share it."""

    __slots__ = ("left", "outer", "run", "run_id", "sort", "step_id", "token")

    def __init__(self, run: RunState, run_id: str, step_id: str | None, outer: Scope | None, sort: str = BLOCK) -> None:
        self.run = run
        self.run_id = run_id
        self.step_id = step_id
        self.outer = outer
        """The scope that was current before."""
        self.sort = sort
        self.left = False
        """True after it was left in another context than it was entered in, or while another scope was current."""
        self.token: Token[Scope | None] | None = None
        """The token of the context that it was entered in."""


_new = tuple.__new__
"""The function that the constructor of a named tuple calls."""

_current: ContextVar[Scope | None] = ContextVar("agentscope_scope", default=None)
current: Callable[[], Scope | None] = _current.get
"""Return the current scope of this context, for `restored`."""
make_current: Callable[[Scope], Token[Scope | None]] = _current.set
"""Make a new scope the current one. The result becomes its `token`."""


class Place(NamedTuple):
    """The run and the parent of a step."""

    run_id: str
    parent_id: str | None


class Within(NamedTuple):
    """A run that is a step of another one."""

    place: Place
    name: str


class Runs:
    """The open runs of one destination in this process, and the ids of the runs that ended last."""

    __slots__ = (
        "__weakref__",
        "_address",
        "_ended",
        "_family",
        "_here",
        "_home",
        "_is_concurrent",
        "_main_thread",
        "_open",
        "_threads",
        "_within",
        "has_ended",
        "is_open",
        "within",
    )

    def __init__(self, address: str = "", family: str = "") -> None:
        import threading  # `import agentscope` alone does not pay for it

        self._here: Callable[[], int] = threading.get_ident
        self._main_thread: Callable[[], threading.Thread] = threading.main_thread
        self._threads: dict[int, Any] = threading._active  # type: ignore[attr-defined]  # `enumerate` takes a lock
        self._address = address
        self._family = family
        self._open: dict[str, RunState] = {}
        self._ended: dict[str, None] = {}
        self._within: dict[str, Within] = {}
        # Methods of the dicts, since a function around each would cost more than they do.
        self.is_open: Callable[[str], bool] = self._open.__contains__
        self.has_ended: Callable[[str], bool] = self._ended.__contains__
        self.within: Callable[[str], Within | None] = self._within.get
        """Return the place and name of a run that is a step of another run; None for a run of its own."""
        self._home: int | None = None
        """The main thread if the first run began there, else 0. None before the first run."""
        self._is_concurrent = False
        """True once two runs were open at once, or several began in other threads than the main one."""

    def joined(self, own_id: str, place: Place, name: str = "") -> None:
        """Register a run that is recorded as a step of another one. Steps with its run id become children of that step."""
        self._within[own_id] = Within(place, name)
        if len(self._within) > MOST_OPEN_RUNS:
            # Open runs stay: their ends would not be found.
            over = [known for known in list(self._within) if known not in self._open and known != own_id]
            for known in (over or list(self._within))[: max(MOST_OPEN_RUNS // 10, 1)]:
                self._within.pop(known, None)

    def placed(self, run_id: str) -> Place:
        """Return the place of steps that name this run."""
        within = self._within.get(run_id)
        return _new(Place, (run_id, None)) if within is None else Place(within.place.run_id, run_id)

    def opened(self, run_id: str, started_at: int = 0) -> RunState:
        """`started_at` is in nanoseconds since the epoch."""
        run = RunState(self, run_id, started_at)
        outer = None
        if self._within and run_id in self._within:
            outer = self._open.get(self._within[run_id].place.run_id)
            if outer is not None:
                outer.inner = (*(known for known in outer.inner if not known.ended), run)
        if not self._is_concurrent:
            here = self._here()
            if (here == self._home or self._is_at_home(here)) and (outer is not None or not self._open):
                run.older_threads = list(self._threads)
            elif self._home is None:
                self._home = here if self._is_main_thread(here) else 0
            else:
                self._is_concurrent = True
        self._open[run_id] = run
        if len(self._open) > MOST_OPEN_RUNS:
            bounded(self._open, MOST_OPEN_RUNS)
        return run

    def _is_at_home(self, here: int) -> bool:
        """Return whether the first run began in the main thread, and this is it. A fork may make another thread the main one."""
        if not self._home or not self._is_main_thread(here):
            return False
        self._home = here
        return True

    def _is_main_thread(self, ident: int) -> bool:
        return ident == self._main_thread().ident

    def ended(self, run_id: str) -> None:
        run = self._open.pop(run_id, None)
        if run is not None:
            run.ended = True
            for inner in run.inner:
                inner.ended = True
        self._ended[run_id] = None
        if len(self._ended) > MOST_ENDED_RUNS:
            bounded(self._ended, MOST_ENDED_RUNS)

    def started_at(self, run_id: str) -> int:
        """Return when an open run began, in nanoseconds since the epoch; 0 for a run that is not open here."""
        run = self._open.get(run_id)
        return 0 if run is None else run.started_at

    def count(self) -> int:
        return len(self._open)

    def sole(self) -> str | None:
        """Return the only open run, for a thread without a current run; None if the thread may work for another run.

        It is returned only in a program whose runs never overlap and all begin in the main thread. A thread that is older than
        the run, or another task of the event loop, may still work for an earlier run.
        """
        if self._is_concurrent or len(self._open) != 1:
            return None
        for run_id, run in list(self._open.items()):
            here = self._here()
            is_older = here in run.older_threads
            return None if is_older and (not self._is_main_thread(here) or _is_in_other_task()) else run_id
        return None

    def place(self) -> Place | None:
        """Return the innermost run in this context, and the step within it; else the sole open run of this destination.

        A context whose own run has ended has no place, whatever other runs are open.
        """
        scope = self.nearest()
        if scope is not None:
            return None if scope.run.ended else Place(scope.run_id, scope.step_id)
        run_id = self.sole()
        return None if run_id is None else self.placed(run_id)

    def nearest(self) -> Scope | None:
        """Return the innermost scope whose run is open; else the innermost one whose run has ended; None without any."""
        ended = None
        scope = _top()
        while scope is not None:
            if not scope.left and self._knows(scope):
                if not scope.run.ended:
                    return scope
                ended = ended or scope
            scope = scope.outer
        return ended

    def innermost(self) -> Scope | None:
        """Return the innermost scope of this destination in this context."""
        scope = self.nearest()
        return None if scope is None or scope.run.ended else scope

    def to_end(self) -> RunState | None:
        """Return the run that `end_run()` without an id ends, even if it has ended; None in a context without a run."""
        scope = _top()
        while scope is not None:
            # A step of a run that has ended may be left over from a generator that is never closed.
            if not scope.left and self._knows(scope) and not (scope.run.ended and _is_inside(scope)):
                return scope.run
            scope = scope.outer
        # An `await` in a cell of a notebook makes the cell a task of its own.
        run_id = self.sole() if _is_notebook() and self._is_main_thread(self._here()) else None
        return None if run_id is None else self._open.get(run_id)

    def _knows(self, scope: Scope) -> bool:
        """Return whether this scope is of this destination, or of the other face with the same address."""
        runs = scope.run.runs
        return runs is self or (runs._address == self._address and runs._family != self._family)

    def below(self, run_id: str, step_id: str | None) -> str | None:
        """Return the parent, in this context, of a step that a handle adds below this step (None: below the run itself).

        The parent is the step of the handle, unless blocks of the other face have been entered inside it.
        """
        innermost = scope = self.innermost()
        while scope is not None and scope.run_id == run_id:
            if scope.sort == HANDLE and not scope.left and innermost is not None:
                return innermost.step_id if scope.step_id == step_id else step_id
            scope = scope.outer
        return step_id

    def surrounding(self, run_id: Any) -> Scope | None:
        """Return the current scope if its run is open, and `run_id` is None or names it. `place` handles all other cases."""
        scope = _current.get()
        if scope is None or scope.left:
            return None
        run = scope.run
        if run.ended or run.runs is not self:
            return None
        if run_id is None or (type(run_id) is str and run_id == scope.run_id and run_id in self._open):
            return scope
        return None

    def enter_run(self, run: RunState, sort: str = BLOCK) -> Scope:
        """Make a run that has just begun here the current one."""
        run_id, step_id = self.placed(run.own_id) if self._within else (run.own_id, None)
        outer = _current.get()
        if outer is not None or "greenlet" in sys.modules:
            outer = _below(sort)
        scope = Scope(run, run_id, step_id, outer, sort)
        scope.token = make_current(scope)
        return scope

    def parent_in(self, run_id: str) -> str | None:
        """Return the innermost step of this run in this context."""
        scope = _top()
        while scope is not None:
            if scope.run_id == run_id and not scope.left and self._knows(scope):
                return scope.step_id
            scope = scope.outer
        return None

    def enter(self, run_id: str, step_id: str | None = None, *, own_id: str | None = None, sort: str = BLOCK) -> Scope:
        """Make a run, or a step of a run, the current one. `own_id` is the id under which the run was begun, if it is another."""
        outer = _below(sort)
        own_id = own_id or run_id
        run = outer.run if outer is not None and outer.run.own_id == own_id else self._open.get(own_id)
        if run is None or run.runs is not self or sort == REMOTE:
            run = RunState(self, own_id)
            run.is_remote = sort == REMOTE
        scope = Scope(run, run_id, step_id, outer, sort)
        scope.token = make_current(scope)
        return scope


def _is_in_other_task() -> bool:
    asyncio = sys.modules.get("asyncio")  # a program without it runs no event loop of it
    return asyncio is not None and asyncio._get_running_loop() is not None and not _is_notebook()


def _is_notebook() -> bool:
    """Return whether this process is the kernel of a notebook. Its cells run one after the other, as in a script."""
    kernel = sys.modules.get("ipykernel.kernelapp")
    return kernel is not None and kernel.IPKernelApp.initialized() is True


def _is_inside(scope: Scope) -> bool:
    """Return whether the scope is a step inside a scope of the same run."""
    return scope.outer is not None and scope.outer.run is scope.run


def _not_left(scope: Scope | None) -> Scope | None:
    """Return the first scope, from this one outwards, that was not left."""
    while scope is not None and scope.left:
        scope = scope.outer
    return scope


def _below(sort: str) -> Scope | None:
    """Return the scope below the one that is entered now."""
    outer = _top()
    # Drop runs that were ended elsewhere.
    while outer is not None and (outer.left or outer.run.ended):
        outer = outer.outer
    # Bound the stack of runs that are never ended.
    return _unstacked(outer) if sort == STARTED else outer


def _unstacked(scope: Scope | None) -> Scope | None:
    """Return the scope below a stack of scopes of `start_run` that is too high; else the scope itself."""
    below, height = scope, 0
    while below is not None and below.sort == STARTED:
        below, height = below.outer, height + 1
    return below if height > MOST_STACKED else scope


def bounded(ids: dict[Any, Any], most: int) -> None:
    """Remove the oldest tenth of a mapping that is too long. One at a time would copy all keys each time."""
    if len(ids) > most:
        for run_id in list(ids)[: max(most // 10, 1)]:
            ids.pop(run_id, None)


def _top() -> Scope | None:
    """Return the current scope of this context. A greenlet without a context of its own has that of the one it was made in."""
    scope = _current.get()
    if scope is None and "greenlet" in sys.modules:
        getcurrent = getattr(sys.modules["greenlet"], "getcurrent", None)  # not yet while it is being imported
        parent = None if getcurrent is None else getcurrent().parent
        inherited = None if parent is None else parent.gr_context
        scope = None if inherited is None else inherited.get(_current)
    return scope


def switch(scope: Scope | None) -> Scope | None:
    """Make another scope current, and return the previous one."""
    before = _current.get()
    _current.set(scope)
    return before


def renewed(scope: Scope | None) -> Scope | None:
    """Return the scope; if its run has ended, a copy that stays valid, for code that is bound to this run."""
    if scope is None or not scope.run.ended:
        return scope
    return Scope(RunState(scope.run.runs, scope.run.own_id), scope.run_id, scope.step_id, None, scope.sort)


def enter_again(scope: Scope) -> Scope:
    """Make a step current in this context after it was left in this or another one."""
    scope = renewed(scope) or scope
    scope = Scope(scope.run, scope.run_id, scope.step_id, _current.get(), scope.sort)
    scope.token = make_current(scope)
    return scope


@contextmanager
def restored(scope: Scope | None) -> Iterator[None]:
    """Make a scope current inside a block."""
    before = _current.get()
    try:
        try:
            _current.set(scope)
            yield
        finally:
            _current.set(before)
    except BaseException:
        _current.set(before)  # an exception of the host's may have come before the line above
        raise


def leave(scope: Scope) -> None:
    """Take a scope out of this context. A second call changes nothing.

    A block that is left in another context than it was entered in, or before a block inside it, is marked as left everywhere.
    """
    if _current.get() is scope:
        token, scope.token = scope.token, None
        if token is not None:
            try:
                _current.reset(token)
                if scope.outer is not None and scope.outer.left:
                    _current.set(_not_left(scope.outer))
                return
            except (ValueError, RuntimeError) as error:  # entered in another context
                if is_hosts(error):
                    raise
    elif scope.token is None:
        return
    scope.left = True
    scope.token = None
    scope.outer = _not_left(
        scope.outer
    )  # no block may keep the scopes of others in memory, in whatever order they are left
    _current.set(_not_left(_current.get()))


def leave_run(runs: Runs, run_id: str) -> None:
    """Take the scope that `start_run` made for this run out of this context, if it is there."""
    scope = _current.get()
    while scope is not None:
        if scope.sort == STARTED and scope.run.runs is runs and scope.run.own_id == run_id:
            leave(scope)
            return
        scope = scope.outer


_destinations: WeakValueDictionary[tuple[object, ...], Runs] = WeakValueDictionary()


def runs_of(address: str, credentials: object, family: str = "") -> Runs:
    """The runs of a destination, shared by all its trackers. `family` is the face whose backend it is."""
    key = (address, hash(credentials), family)
    runs = _destinations.get(key)
    if runs is None:
        runs = _destinations.setdefault(key, Runs(address, family))
    return runs
