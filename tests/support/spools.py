"""Sessions with a spool, without threads, network or clock: the test makes each move, at the time that it passes."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from agentscope.config import Config
from agentscope.events import RUN_START, STEP, Event, Session
from agentscope.pipeline.delivery import Attempts
from agentscope.pipeline.ledger import Ledger
from agentscope.pipeline.queue import UNIT
from agentscope.pipeline.spool import database as spoolfile
from agentscope.pipeline.spool import directory as spooldir
from agentscope.pipeline.spool import manager
from agentscope.pipeline.spool.manager import Spooling
from agentscope.pipeline.spool.recovery import Recovery
from agentscope.pipeline.spool.spool import Place
from agentscope.pipeline.states import EventStates
from agentscope.protocols.base import BUSY, Batch, Outcome
from agentscope.protocols.ids import new_id

DESTINATION = "AgentScopeExporter http://localhost:8000"
LONG = 1_000.0
"""Seconds after which every retry is due."""


def event(seq: int, size: int = UNIT - 1, run_id: str = "run", **fields: Any) -> Event:
    """A step, unless `type` says otherwise."""
    type_ = fields.pop("type", STEP)
    step_id = None if type_ == RUN_START else f"step-{seq}"
    return Event(type_, seq, 0, run_id, step_id, None, {"name": f"step {seq}", **fields}, size)


class Backend:
    """An exporter with a store that knows event ids, so that an event sent twice is stored once."""

    protocol: str | None = "agentscope-batch"

    def __init__(self) -> None:
        self.stored: Counter[str] = Counter()
        """The number of acknowledgements or commits of each event id."""
        self.order: list[str] = []
        self.batches: list[list[int]] = []
        self.plan: list[Callable[[Batch], Outcome]] = []
        """The functions for the next batches. Later batches are delivered."""

    def export(self, batch: Batch, timeout: float) -> Outcome:
        self.batches.append([event.seq for event in batch.events])
        return self.plan.pop(0)(batch) if self.plan else self.deliver(batch)

    def keep(self, batch: Batch, seqs: list[int]) -> int:
        """Commit these. Returns the number of duplicates."""
        ids = [batch.session.event_id(seq) for seq in seqs]
        known = sum(id_ in self.stored for id_ in ids)
        self.order += [id_ for id_ in ids if id_ not in self.stored]
        self.stored.update(ids)
        return known

    def deliver(self, batch: Batch) -> Outcome:
        seqs = [event.seq for event in batch.events]
        return Outcome(delivered=seqs, duplicates=self.keep(batch, seqs), reported=True)

    def fail(self, batch: Batch) -> Outcome:
        return Outcome(problem="busy", kind=BUSY)

    def lose_answer(self, batch: Batch) -> Outcome:
        """Commit everything, and lose the acknowledgement."""
        self.deliver(batch)
        return self.fail(batch)

    def warm_up(self) -> None:
        """Do nothing: there is nothing to import."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


class Bench:
    """A session with its spool in `directory`."""

    def __init__(
        self,
        directory: Path | str,
        backend: Backend | None = None,
        redact: Callable[[Event], Event] = lambda event: event,
        *,
        destination: str = DESTINATION,
        key_mark: str = "mark",
        spool_max_bytes: int = 64 << 20,
        **options: Any,
    ) -> None:
        self.directory = Path(directory)
        self.backend = backend or Backend()
        self.session = Session(new_id(), f"{new_id()[:24]}")
        self.ledger = Ledger()
        self.config = Config(**{"batch_size": 10, "spool_max_bytes": spool_max_bytes, **options})
        self.place = Place(str(directory), spool_max_bytes, destination, key_mark, frozenset({"agentscope-batch"}))
        self.states = EventStates(self.config, self.ledger)
        self.attempts = Attempts(self.config, self.session, self.states, self.backend, redact)
        self.spooling = Spooling(self.config, self.place, self.session, self.states, self.backend, redact)
        self.attempts.refill = self.spooling.refill
        self.spool = self.spooling.spool
        self.seq = 0
        self.refusals: set[int] = set()
        self.now = 100.0

    # ---- moves of a process ------------------------------------------------------------------------------------------

    def put(self, number: int = 1, size: int = UNIT - 1, **fields: Any) -> list[int]:
        """Track `count` events. Returns the accepted ones."""
        accepted = []
        for _ in range(number):
            self.seq += 1
            refusal = self.states.queue.put(event(self.seq, size, **fields), urgent=True)
            if refusal is None:
                accepted.append(self.seq)
            else:
                self.refusals.add(self.seq)
                self.ledger.refused.add(refusal)
        self.check()
        return accepted

    def store(self) -> None:
        """Write all events that wait for the disk, if it works."""
        with self.clock():
            for _ in range(1_000):
                more = self.spooling.store(self.now)
                self.check()
                if not more:
                    return
        raise AssertionError("the storer never comes to an end")

    def send(self) -> Outcome:
        """Make one attempt, at the batch in flight or the next one."""
        with self.clock():
            self.attempts.collect(self.now)
            self.attempts.load(self.now)
            self.check()
            outcome = self.attempts.attempt(1.0, self.now) if self.states.in_flight else Outcome()
            self.spooling.note(outcome)
        self.check()
        return outcome

    def send_all(self) -> None:
        """Deliver everything, with writes to disk in between."""
        for _ in range(10_000):
            self.store()
            if not self.states.busy:
                return
            before = self.ledger.settled()
            self.send()
            if self.ledger.settled() == before:
                self.now += LONG
        raise AssertionError(f"still not sent: {self.states.counts()}")

    def end(self) -> None:
        """Shut down like a worker."""
        with self.clock():
            self.store()
            self.states.abandon()
            self.check()
            self.spooling.close()
        self.check()

    @contextmanager
    def clock(self) -> Iterator[None]:
        with patch.object(manager, "monotonic", lambda: self.now):
            yield

    # ---- observations ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check the ledger's identity, and the counts of the queue."""
        counts = self.states.counts()
        assert counts.accepted == self.seq, counts
        total = counts.delivered + sum(counts.dropped.values()) + counts.spooled + counts.pending
        assert counts.accepted == total, counts
        assert counts.pending >= 0, counts
        assert counts.spooled >= 0, counts

    def ids(self, seqs: Any = None) -> set[str]:
        """The event ids, by default of all tracked events."""
        return {self.session.event_id(seq) for seq in (range(1, self.seq + 1) if seqs is None else seqs)}

    @property
    def file(self) -> Path:
        """The only database."""
        (only,) = self.directory.glob("*.db")
        return only

    def rows(self) -> list[int]:
        """The events on disk, as another reader sees them."""
        return rows(self.file)


def rows(database: Path) -> list[int]:
    """The numbers of the events in a file. This process must not have it open: POSIX locks end when any reader closes."""
    with connected(database) as db:
        return [seq for (seq,) in db.execute("SELECT seq FROM events ORDER BY seq")]


@contextmanager
def connected(database: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(database)
    try:
        yield db
    finally:
        db.close()


def kill(bench: Bench) -> None:
    """Leave the files as SIGKILL does: nothing more is written, and the locks are gone."""
    spool = bench.spool
    claim, spool._claim = spool._claim, None
    file, spool._file = spool._file, None
    orphan, bench.spooling.recovery._orphan = bench.spooling.recovery._orphan, None
    pairs = [(claim, file)] + ([(orphan._claim, orphan._file)] if orphan is not None else [])
    for claim, file in pairs:
        if file is not None:
            cut(file)
        if claim is not None:
            claim.release()


def cut(file: spoolfile.SpoolFile) -> None:
    """Close without a checkpoint: all files are put back as they were, the log included."""
    kept = {path: Path(path).read_bytes() for path in spoolfile.parts(file.path)[:2] if os.path.exists(path)}
    file.close()
    for path, content in kept.items():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            target.write(content)


def recover(bench: Bench, most: int = 10_000) -> Recovery:
    """Let this session send all events of dead sessions."""
    recovery = bench.spooling.recovery
    for _ in range(most):
        bench.now += LONG
        if recovery.step(1.0, bench.now, lambda: bench.now) is None:
            return recovery
    raise AssertionError("the recovery never comes to an end")


def left(directory: Path | str) -> list[str]:
    """The names of all files."""
    return sorted(entry.name for entry in os.scandir(directory))


class Disk:
    """The disk under SQLite. `mode` can be set at any time."""

    def __init__(self) -> None:
        self.mode = ""
        """The fault: `full`, `broken`, `locked`, or `doubtful`, in which a commit succeeds and raises."""

    @contextmanager
    def under(self) -> Iterator[Disk]:
        """Put all files that are opened meanwhile on this disk."""
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                if disk.mode == "full" and sql.startswith(("COMMIT", "CREATE", "INSERT")) and self.in_transaction:
                    raise sqlite3.OperationalError("database or disk is full")
                if disk.mode == "broken":
                    raise sqlite3.OperationalError("disk I/O error")
                if disk.mode == "locked" and sql.startswith("BEGIN"):
                    raise sqlite3.OperationalError("database is locked")
                cursor = super().execute(sql, *arguments)
                if disk.mode == "doubtful" and sql.startswith("COMMIT"):
                    raise sqlite3.OperationalError("disk I/O error")
                return cursor

        def connect(path: str) -> sqlite3.Connection:
            return sqlite3.connect(path, timeout=0.1, isolation_level=None, check_same_thread=False, factory=Connection)

        with patch.object(spoolfile, "_connect", connect):
            yield self


def forget_locks() -> None:
    """Reset the module state, as in a new process."""
    spooldir._owned.clear()
