"""The current run and step, and the open runs. No lock is taken here, because a signal handler may call.

A `Scope` is one link of a chain that hangs on a ContextVar, so tasks don't mix and nested blocks nest by themselves. Trackers
of one destination share their runs: a step tracked in one module lands in the run that another module opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

MOST_OPEN_RUNS = 10_000
"""Runs that are never ended must not grow without bound: beyond this the oldest is forgotten."""
MOST_ENDED_RUNS = 1_000
MOST_STACKED = 100
"""Runs begun by `start_run` on top of each other in one context, of which none has ended."""


BLOCK, HANDLE, REMOTE = "block", "handle", "remote"
"""Sorts of scopes: of a block or `start_run`, of a handle with methods of its own (VoltAgent's), of another process."""


class Scope(NamedTuple):
    """One open run or step in this context. Compared by `is` or `is_same`, never by what it holds."""

    runs: Runs
    run_id: str
    step_id: str | None
    outer: Scope | None
    """The scope that was current before."""
    loose: bool
    """Opened by `start_run`, which no block closes: it counts only as long as its run is open."""
    original: Scope | None
    """The scope that this one is a copy of, on another chain."""
    opened_as: str
    """The id under which `start_run` gave it: not the run's if it is a run within another."""
    sort: str = BLOCK
    height: int = 0
    """How many loose scopes it stands on."""

    def is_same(self, other: Scope) -> bool:
        """Return whether both are the same scope, or copies of it."""
        return (self.original or self) is (other.original or other)


_new = tuple.__new__
"""The function that the constructor of a named tuple calls."""

_current: ContextVar[Scope | None] = ContextVar("agentscope_scope", default=None)


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

    __slots__ = ("__weakref__", "_address", "_ended", "_family", "_open", "_within")

    def __init__(self, address: str = "", family: str = "") -> None:
        self._address = address
        self._family = family
        self._open: dict[str, int] = {}
        self._ended: dict[str, None] = {}
        self._within: dict[str, Within] = {}

    def knows(self, scope: Scope) -> bool:
        """Return whether this scope is of this destination, or of the other face with the same address."""
        runs = scope.runs
        near = runs is self or (runs._address == self._address and runs._family != self._family)
        return near and (not scope.loose or scope.opened_as in runs._open)

    def joined(self, own_id: str, place: Place, name: str = "") -> None:
        """A run that is recorded as a step of another one: steps that name it belong below that step."""
        self._within[own_id] = Within(place, name)
        if len(self._within) > MOST_OPEN_RUNS:
            # Open runs stay: their ends would not be found.
            over = [known for known in list(self._within) if known not in self._open and known != own_id]
            for known in (over or list(self._within))[: max(MOST_OPEN_RUNS // 10, 1)]:
                self._within.pop(known, None)

    def within(self, own_id: str) -> Within | None:
        """Return the place and name of a run that is a step of another run; None for a run of its own."""
        return self._within.get(own_id)

    def placed(self, run_id: str) -> Place:
        """Return the place of steps that name this run."""
        within = self._within.get(run_id)
        return _new(Place, (run_id, None)) if within is None else Place(within.place.run_id, run_id)

    def opened(self, run_id: str, started_at: int = 0) -> None:
        """`started_at` is in nanoseconds since the epoch."""
        self._open[run_id] = started_at
        if len(self._open) > MOST_OPEN_RUNS:
            bounded(self._open, MOST_OPEN_RUNS)

    def ended(self, run_id: str) -> None:
        self._open.pop(run_id, None)
        self._ended[run_id] = None
        if len(self._ended) > MOST_ENDED_RUNS:
            bounded(self._ended, MOST_ENDED_RUNS)

    def started_at(self, run_id: str) -> int:
        """Return when an open run began, in nanoseconds since the epoch; 0 for a run that is not open here."""
        return self._open.get(run_id, 0)

    def is_open(self, run_id: str) -> bool:
        return run_id in self._open

    def has_ended(self, run_id: str) -> bool:
        return run_id in self._ended

    def count(self) -> int:
        return len(self._open)

    def sole(self) -> str | None:
        """The one run that is open, if there is exactly one."""
        if len(self._open) != 1:
            return None
        for run_id in list(self._open):
            return run_id
        return None

    def place(self) -> Place | None:
        """The innermost run in this context, and the step within it; else the sole open run of this destination."""
        scope = self.innermost()
        if scope is not None:
            return Place(scope.run_id, scope.step_id)
        run_id = self.sole()
        return None if run_id is None else self.placed(run_id)

    def to_end(self, place: Place) -> str | None:
        """Return the run that an `end_run()` without an id ends here; None if the run belongs to another process."""
        link = scope = self.innermost()
        if scope is None:
            return self.sole() or place.run_id
        while link is not None and link.opened_as == scope.opened_as:
            if link.sort == REMOTE:
                return None
            link = link.outer
        return scope.opened_as

    def innermost(self) -> Scope | None:
        """Return the innermost scope of this destination in this context."""
        scope = _current.get()
        while scope is not None and not self.knows(scope):
            scope = scope.outer
        return scope

    def below(self, run_id: str, step_id: str | None) -> str | None:
        """Return the parent of a step that a handle adds to this step (None: to the run itself) in this context.

        The parent is the step of the handle, unless blocks of the other face have been entered inside it.
        """
        innermost = scope = self.innermost()
        while scope is not None and scope.run_id == run_id:
            if scope.sort == HANDLE and innermost is not None:
                return innermost.step_id if scope.step_id == step_id else step_id
            scope = scope.outer
        return step_id

    def surrounding(self, run_id: Any) -> Scope | None:
        """Return the scope directly around a step in the ordinary case: no run is named, or the current one.

        None in every other case, and for an id that is no plain str. `place` handles those.
        """
        scope = _current.get()
        if scope is None or scope.runs is not self or (scope.loose and scope.opened_as not in self._open):
            return None
        if run_id is None or (type(run_id) is str and run_id == scope.run_id and run_id in self._open):
            return scope
        return None

    def enter_below(self, run_id: Any, step_id: str) -> Scope | None:
        """Make a step the current one, right below the scope that `surrounding` gives; None if there is none."""
        outer = self.surrounding(run_id)
        if outer is None:
            return None
        scope = _new(Scope, (self, outer.run_id, step_id, outer, False, None, outer.opened_as, BLOCK, 0))
        _current.set(scope)
        return scope

    def parent_in(self, run_id: str) -> str | None:
        """The innermost step of this very run in this context."""
        scope = _current.get()
        while scope is not None:
            if scope.run_id == run_id and self.knows(scope):
                return scope.step_id
            scope = scope.outer
        return None

    def enter(
        self,
        run_id: str,
        step_id: str | None = None,
        loose: bool = False,
        opened_as: str | None = None,
        sort: str = BLOCK,
    ) -> Scope:
        """Make a run, or a step of a run, the current one."""
        outer = _current.get()
        if loose:
            # Runs started one after the other in one context must not pile up behind each other,
            while outer is not None and outer.loose and outer.opened_as not in outer.runs._open:
                outer = outer.outer
            # nor runs that are never ended.
            if outer is not None and outer.height >= MOST_STACKED:
                outer = _floor(outer)
        height = outer.height + 1 if loose and outer is not None and outer.loose else 0
        scope = _new(Scope, (self, run_id, step_id, outer, loose, None, opened_as or run_id, sort, height))
        _current.set(scope)
        return scope


def _floor(scope: Scope) -> Scope | None:
    """Return the scope below a stack of scopes that `start_run` opened."""
    below: Scope | None = scope
    while below is not None and below.loose:
        below = below.outer
    return below


def bounded(ids: dict[Any, Any], most: int) -> None:
    """Remove the oldest tenth of a mapping that is too long. One at a time would copy all keys each time."""
    if len(ids) > most:
        for run_id in list(ids)[: max(most // 10, 1)]:
            ids.pop(run_id, None)


def current() -> Scope | None:
    """Return the current scope of this context, for `restored`."""
    return _current.get()


def switch(scope: Scope | None) -> Scope | None:
    """Make another scope current, and return the one before."""
    before = _current.get()
    _current.set(scope)
    return before


@contextmanager
def restored(scope: Scope | None) -> Iterator[None]:
    """Make a scope of another context current in this one."""
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
    """Take a scope out of this context, if it is there: a block may be left in another context than it was entered in."""
    current = _current.get()
    if current is None:
        return
    if current is scope or current.is_same(scope):
        _current.set(current.outer)
    else:
        _current.set(_without(current, scope))


def leave_run(runs: Runs, run_id: str) -> None:
    """Take the scope that `start_run` made for this run out of this context, if it is there."""
    scope = _current.get()
    while scope is not None:
        if scope.loose and scope.runs is runs and scope.opened_as == run_id:
            leave(scope)
            return
        scope = scope.outer


def _without(chain: Scope, gone: Scope) -> Scope | None:
    kept = []
    link: Scope | None = chain
    while link is not None and not link.is_same(gone):
        kept.append(link)
        link = link.outer
    if link is None:
        return chain
    rest = link.outer
    for link in reversed(kept):
        height = rest.height + 1 if link.loose and rest is not None and rest.loose else 0
        rest = link._replace(outer=rest, original=link.original or link, height=height)
    return rest


_destinations: WeakValueDictionary[tuple[object, ...], Runs] = WeakValueDictionary()


def runs_of(address: str, credentials: object, family: str = "") -> Runs:
    """The runs of a destination, shared by all its trackers. `family` is the face whose backend it is."""
    key = (address, hash(credentials), family)
    runs = _destinations.get(key)
    if runs is None:
        runs = _destinations.setdefault(key, Runs(address, family))
    return runs
