"""Folds of the runs and steps that were written last, so that what comes next need not be folded from the start again.

A fold can be brought up to date with patches that come after all it was made of. Most do; the others have the fold made
anew from everything that is stored. What is kept is bounded, and is a copy: the tables stay the truth.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from agentscope.protocols.agentscope.decode import Patch
from agentscope.server.storage.fold import extend, fold, place
from agentscope.server.storage.rows import row_fields

_MOST = 4096  # folds; the one that was used longest ago is forgotten first
_LONGEST = 200  # characters of a text in a fold that is kept


class _Kept(NamedTuple):
    last: tuple[str, str, int, str]
    """The place of the last patch that the fold was made of."""
    fields: dict[str, Any]


class HotFolds:
    """The folds of one database, for what rows are made of. Used by the writer's thread only."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._kept: dict[tuple[int, str | None], _Kept] = {}
        self._db: sqlite3.Connection | None = None
        self._seen: tuple[int, ...] | None = None

    def begin(self, db: sqlite3.Connection) -> None:
        """To be called first in a transaction: forgets all unless the tables are as `end` saw them last.

        They are not after a rollback, after somebody else wrote through this connection or another one, and in another
        file.
        """
        if self._db is not db or self._seen != _state(db):
            self._kept.clear()
            self._db = db
        self._seen = None  # until the end; an error in between leaves folds that nobody knows the worth of

    def end(self) -> None:
        """To be called when everything that was folded since `begin` has been written, before the commit."""
        assert self._db is not None
        self._seen = _state(self._db)

    def folded(
        self, run: int, step_id: str | None, patches: Iterable[Patch], stored: Callable[[], Iterable[Patch]] | None
    ) -> dict[str, Any]:
        """The fields for the row of a run, or of one of its steps, with these patches, which are new.

        `stored` reads what came before; None says that there is nothing.
        """
        name = run, step_id
        kept = self._kept.pop(name, None)
        fresh = sorted((patch._replace(fields=row_fields(patch.fields), body="") for patch in patches), key=place)
        if kept is not None and place(fresh[0]) > kept.last:
            fields, last = kept.fields, place(fresh[-1])
            extend(fields, fresh)
        else:
            together = [*stored(), *fresh] if stored is not None else fresh
            fields, last = fold(together), max(map(place, together))
        if not any(type(value) is str and len(value) > _LONGEST for value in fields.values()):
            if len(self._kept) >= self._most:
                del self._kept[next(iter(self._kept))]
            self._kept[name] = _Kept(last, fields)
        return fields


def _state(db: sqlite3.Connection) -> tuple[int, ...]:
    """Changes with every commit of another connection, every change through this one, and every rollback of events."""
    version = db.execute("PRAGMA data_version").fetchone()[0]
    newest = db.execute("SELECT coalesce(max(key), 0) FROM events").fetchone()[0]
    return version, db.total_changes, newest
