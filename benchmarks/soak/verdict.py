"""The comparison of the promised events with the stored ones."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

START, END = 0, -1
"""The numbers of the start and the end of a run; its steps are numbered from 1."""


@dataclass(frozen=True)
class Promise:
    """A promise that the first `count` events of a run are stored; with `ended` the last of them is its end.

    forgiven: the number that may be missing, because the producer reported them as dropped.
    """

    run_id: str
    count: int
    ended: bool = False
    forgiven: int = 0

    def numbers(self) -> Iterator[int]:
        yield from range(self.count - self.ended)
        if self.ended:
            yield END


@dataclass
class Verdict:
    """Numbers of events by outcome."""

    promised: int = 0
    stored: int = 0
    lost: int = 0
    twice: int = 0
    beyond: int = 0
    """Stored, and not promised, which is allowed."""
    forgiven: int = 0
    """Not stored, and reported as dropped by the producer."""
    examples: list[str] = field(default_factory=list)
    """The first few errors."""

    def note(self, example: str) -> None:
        if len(self.examples) < 20:
            self.examples.append(example)


def judge(db: Path, promises: Iterable[Promise]) -> Verdict:
    """Compare the promises with the receiver's database, run by run."""
    verdict = Verdict()
    by_run = {promise.run_id: promise for promise in promises}
    connection = sqlite3.connect(db)
    try:
        whole = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if whole != "ok":
            verdict.note(f"the database is broken: {whole}")
            verdict.lost += 1
        for run_id, numbers in _stored(connection):
            promise = by_run.pop(run_id, Promise(run_id, 0))
            _compare(verdict, promise, numbers)
    finally:
        connection.close()
    for promise in by_run.values():
        _compare(verdict, promise, ())
    return verdict


def _compare(verdict: Verdict, promise: Promise, numbers: Iterable[int]) -> None:
    seen = bytearray()
    ended = 0
    for number in numbers:
        verdict.stored += 1
        if number == END:
            ended += 1
        else:
            if number >= len(seen):
                seen.extend(bytes(number + 1024 - len(seen)))
            seen[number] = min(seen[number] + 1, 2)
    twice = seen.count(2) + max(ended - 1, 0)
    verdict.twice += twice
    if twice:
        verdict.note(f"run {promise.run_id}: {twice} stored twice, first number {seen.find(2)}")
    found = len(seen) - seen.count(0) + bool(ended)
    missing = [n for n in promise.numbers() if not (ended if n == END else n < len(seen) and seen[n])]
    forgiven = min(len(missing), promise.forgiven)
    verdict.promised += promise.count
    verdict.forgiven += forgiven
    verdict.lost += len(missing) - forgiven
    verdict.beyond += found - (promise.count - len(missing))
    if len(missing) > forgiven:
        shown = ", ".join(map(str, missing[:3])) + (f" … {missing[-1]}" if len(missing) > 3 else "")
        verdict.note(f"run {promise.run_id}: {len(missing)} of {promise.count} are missing: {shown}")


def _stored(connection: sqlite3.Connection) -> Iterator[tuple[str, Iterator[int]]]:
    rows = connection.execute(
        "SELECT runs.id, json_extract(events.body, '$.type'), json_extract(events.body, '$.name')"
        " FROM events JOIN runs ON runs.key = events.run ORDER BY events.run"
    )
    for run_id, group in groupby(rows, key=lambda row: row[0]):
        yield run_id, (_number(type_, name) for _, type_, name in group)


def _number(type_: str, name: str | None) -> int:
    if type_ == "run.start":
        return START
    return END if type_ == "run.end" else int(name or 0)
