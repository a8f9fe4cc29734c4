"""The fold of one run or step, patch by patch in the order in which they come. Pure.

Each field has the value and the place of the patch that set it last, so that a patch is added in a time that does not depend on
how many came before. `fields` equals `fold.fold` of the same patches.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Collection, Iterable
from typing import Any

from agentscope.protocols.agentscope.decode import Patch

from .fold import ENDS, OF_OWNER, ROOT_JOINS, RUN_JOINS, STARTS, STEP_JOINS, TRACE_JOINS, Joins, place, root_of

Place = tuple[str, str, int, str]
_MOST_STARTS = 64  # of one item, which has one in general; the first and the last ones are remembered


class _Merged:
    """A field that is merged key by key. Any other value than an object replaces what came before it."""

    def __init__(self) -> None:
        self.whole: tuple[Place, Any] | None = None
        self.object_at: Place | None = None
        self.keys: dict[str, tuple[Place, Any]] = {}

    def add(self, at: Place, value: Any) -> None:
        if not isinstance(value, dict):
            if self.whole is None or at > self.whole[0]:
                self.whole = at, value
                self.keys = {key: told for key, told in self.keys.items() if told[0] > at}
            return
        if self.object_at is None or at > self.object_at:
            self.object_at = at
        if self.whole is not None and at < self.whole[0]:
            return
        for key, item in value.items():
            known = self.keys.get(key)
            if known is None or at > known[0]:
                self.keys[key] = at, item

    def value(self) -> Any:
        if self.object_at is None or (self.whole is not None and self.object_at < self.whole[0]):
            return None if self.whole is None else self.whole[1]
        return {key: item for key, (_, item) in self.keys.items()}


class _Item:
    """The registers of a step, of a root, or of a run beside its roots."""

    def __init__(self) -> None:
        self.first_at = ""
        self.last: dict[str, tuple[Place, Any]] = {}
        self.merged: dict[str, _Merged] = {}
        self.united: dict[str, set[str]] = {}
        self.end: Place | None = None
        self.starts: list[tuple[Place, Any]] = []

    def add(self, patch: Patch, at: Place, joins: Joins) -> None:
        last, merged, united = joins
        event = patch.fields
        self.first_at = min(self.first_at or patch.time, patch.time)
        for name in last:
            if name not in event:
                continue
            if name == "status" and patch.type in STARTS:
                self._add_start(at, event[name])
            else:
                self._set(name, at, event[name])
        if event.get("parent_id") is not None:
            self._set("parent_id", at, event["parent_id"])
        for name in merged:
            if name in event:
                self.merged.setdefault(name, _Merged()).add(at, event[name])
        for name in united:
            if event.get(name):
                self.united.setdefault(name, set()).update(event[name])
        if patch.type in ENDS and joins is not TRACE_JOINS and (self.end is None or at < self.end):
            self.end = at

    def _set(self, name: str, at: Place, value: Any) -> None:
        known = self.last.get(name)
        if known is None or at > known[0]:
            self.last[name] = at, value

    def _add_start(self, at: Place, status: Any) -> None:
        """Remember the status of a start: it counts if no end is ordered before it."""
        index = bisect_left(self.starts, at, key=lambda start: start[0])
        if self.starts[index : index + 1] != [(at, status)]:
            self.starts.insert(index, (at, status))
        if len(self.starts) > _MOST_STARTS:
            del self.starts[1]

    def fields(self) -> dict[str, Any]:
        found = {name: value for name, (_, value) in self.last.items()}
        # A start that is ordered after the end opens nothing again.
        count = len(self.starts) if self.end is None else bisect_left(self.starts, self.end, key=lambda start: start[0])
        if count and ("status" not in self.last or self.starts[count - 1][0] > self.last["status"][0]):
            found["status"] = self.starts[count - 1][1]
        found.update((name, merged.value()) for name, merged in self.merged.items())
        found.update((name, sorted(texts)) for name, texts in self.united.items())
        return {**found, "first_at": self.first_at, "ended": self.end is not None}


class Registers:
    """The fold of the patches that were added so far. A patch that is added again changes nothing."""

    def __init__(self, patches: Iterable[Patch] = ()) -> None:
        self._own = _Item()
        self._roots: dict[str, _Item] = {}
        self._begun: bool | None = None
        self.added = 0
        """Patches that were added to these registers since they were made or read."""
        for patch in patches:
            self.add(patch)

    def add(self, patch: Patch) -> None:
        """Add a patch to the run or step that the others are of."""
        self.added += 1
        at = place(patch)
        if patch.step_id is not None:
            self._own.add(patch, at, STEP_JOINS)
            return
        root = root_of(patch)
        if root is None:
            self._own.add(patch, at, RUN_JOINS)
            self._begun = bool(self._begun) or any(name in patch.fields for name in OF_OWNER)
        else:
            self._roots.setdefault(root, _Item()).add(patch, at, ROOT_JOINS)
            self._own.add(patch, at, TRACE_JOINS)

    @property
    def is_empty(self) -> bool:
        """True before the first patch."""
        return not self._own.first_at

    @property
    def size(self) -> int:
        """The number of folds that are kept: the run or step, and the roots of a trace."""
        return 1 + len(self._roots)

    def fields(self, roots: Collection[str] | None = None) -> dict[str, Any]:
        """Return the fold; empty before the first patch. Of the roots of a trace it has these only, if any are given."""
        if self.is_empty:
            return {}
        fields = self._own.fields()
        if self._roots:
            named = self._roots if roots is None else self._roots.keys() & roots
            fields["roots"] = {root: self._roots[root].fields() for root in named}
        if self._begun is not None:
            fields["begun"] = self._begun
        return fields

    def dump(self) -> str:
        """Write the registers as JSON text, for `load`."""
        places: dict[Place, int] = {}

        def number(at: Place | None) -> int | None:
            return None if at is None else places.setdefault(at, len(places))

        def item(of: _Item) -> list[Any]:
            merged = {
                name: [
                    None if told.whole is None else [number(told.whole[0]), told.whole[1]],
                    number(told.object_at),
                    {key: [number(at), value] for key, (at, value) in told.keys.items()},
                ]
                for name, told in of.merged.items()
            }
            last = {name: [number(at), value] for name, (at, value) in of.last.items()}
            united = {name: sorted(texts) for name, texts in of.united.items()}
            starts = [[number(at), status] for at, status in of.starts]
            return [of.first_at, last, merged, united, number(of.end), starts]

        items = [item(self._own), {root: item(of) for root, of in self._roots.items()}, self._begun]
        return json.dumps([[*places], *items], ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> Registers:
        """Read what `dump` wrote."""
        listed, own, roots, begun = json.loads(text)
        places: list[Place] = [(time, session, seq, id_) for time, session, seq, id_ in listed]

        def item(told: list[Any]) -> _Item:
            of = _Item()
            of.first_at, last, merged, united, end, starts = told
            of.last = {name: (places[at], value) for name, (at, value) in last.items()}
            for name, (whole, object_at, keys) in merged.items():
                of.merged[name] = _Merged()
                of.merged[name].whole = None if whole is None else (places[whole[0]], whole[1])
                of.merged[name].object_at = None if object_at is None else places[object_at]
                of.merged[name].keys = {key: (places[at], value) for key, (at, value) in keys.items()}
            of.united = {name: set(texts) for name, texts in united.items()}
            of.end = None if end is None else places[end]
            of.starts = [(places[at], status) for at, status in starts]
            return of

        found = cls()
        found._own = item(own)
        found._roots = {root: item(told) for root, told in roots.items()}
        found._begun = begun
        return found
