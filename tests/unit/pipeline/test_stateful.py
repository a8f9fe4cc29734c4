"""Sessions over one directory, under random interleavings of the acts of agents, disks, backends and operating systems.

A model of the receiver's store says what must hold: the ledgers' identity after every step, no event sent again after its
acknowledgement by the session that got it, and in the end everything that was on disk at a crash is stored.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentscope.events import RUN_START
from agentscope.pipeline.delivery import Flushes
from agentscope.protocols.base import BUSY, UNAUTHORIZED, Batch, Dropped, Outcome
from tests.support.spools import LONG, Backend, Bench, Disk, kill, left, recover, rows

SMALL = {"max_queue_bytes": 24 * 256, "batch_size": 4}
"""Room for 24 events, and for six that are on disk as well."""
MOST_SESSIONS = 3
MOODS = ("deliver", "fail", "lose_answer", "partly", "reject", "park", "release", "refuse_key")
which = st.integers(0, MOST_SESSIONS - 1)


class Moody(Backend):
    """The exporter of one session to the store that all sessions share."""

    def __init__(self, store: Backend, protocol: str) -> None:
        super().__init__()
        self.protocol = protocol
        self.stored, self.order = store.stored, store.order
        self.rejected: set[str] = set()
        self.acknowledged: set[str] = set()
        """Verdicts of either kind."""
        self.mood = "deliver"

    def export(self, batch: Batch, timeout: float) -> Outcome:
        ids = [batch.session.event_id(event.seq) for event in batch.events]
        assert len(ids) == len(set(ids))
        assert not self.acknowledged.intersection(ids), "sent again after its verdict"
        outcome = self._outcome(batch, self._with_parked(batch))
        settled = [*outcome.delivered, *(seq for seq, _, _ in outcome.dropped)]
        self.acknowledged.update(batch.session.event_id(seq) for seq in settled)
        return outcome

    def _with_parked(self, batch: Batch) -> list[int]:
        """Return the events of a batch, with the incomplete ones of the same runs and steps."""
        parts = {(event.run_id, event.step_id) for event in batch.events}
        parked = [event.seq for part in parts for event in batch.parked.get(part, ())]
        return [*parked, *(event.seq for event in batch.events)]

    def _outcome(self, batch: Batch, seqs: list[int]) -> Outcome:
        if self.mood in ("fail", "lose_answer"):
            if self.mood == "lose_answer":
                self.keep(batch, seqs)
            return Outcome(problem="busy", kind=BUSY)
        if self.mood == "refuse_key":
            return Outcome(problem="HTTP 401", kind=UNAUTHORIZED)
        if self.mood == "partly":
            half = seqs[: (len(seqs) + 1) // 2]
            self.keep(batch, half)
            return Outcome(delivered=half, problem="busy", kind=BUSY)
        if self.mood == "park":
            parked = [e.seq for e in batch.events if e.step_id is None and (e.run_id, None) not in batch.closing]
            seqs = [seq for seq in seqs if seq not in parked] if parked else seqs
            mine = {event.seq for event in batch.events}
            seqs = [seq for seq in seqs if seq in mine] if parked else seqs
            self.keep(batch, seqs)
            return Outcome(delivered=seqs, parked=parked)
        if self.mood == "reject":
            id_ = batch.session.event_id(seqs[0])
            self.rejected.add(id_)
            self.keep(batch, seqs[1:])
            return Outcome(delivered=seqs[1:], dropped=[Dropped(seqs[0], "rejected", "")])
        self.keep(batch, seqs)
        return Outcome(delivered=seqs, released=self.mood == "release")


class Machine(RuleBasedStateMachine):
    """The state machine. Each rule is an event outside of the pipeline."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="stateful-")
        self.stack = ExitStack()
        self.disk = self.stack.enter_context(Disk().under())
        self.store_ = Backend()
        self.live: list[Bench] = []
        self.backends: list[Moody] = []
        self.promised: set[str] = set()
        """What was on disk when its session ended."""
        self.now = 100.0

    @initialize(protocol=st.sampled_from(["agentscope-batch", "classic"]))
    def begin(self, protocol: str) -> None:
        self.protocol = protocol
        self.another_process()

    def bench(self, number: int) -> Bench:
        bench = self.live[number % len(self.live)]
        bench.now = self.now
        return bench

    def settled(self) -> set[str]:
        return set().union(*(backend.acknowledged for backend in self.backends))

    # ---- the application -------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.live) < MOST_SESSIONS)
    @rule()
    def another_process(self) -> None:
        """Start or fork another process."""
        backend = Moody(self.store_, self.protocol)
        self.backends.append(backend)
        self.live.append(Bench(self.directory, backend, **SMALL))

    @rule(number=which, events=st.integers(1, 12))
    def track(self, number: int, events: int) -> None:
        self.bench(number).put(events)

    @rule(number=which, run=st.integers(1, 3))
    def track_run(self, number: int, run: int) -> None:
        self.bench(number).put(1, type=RUN_START, run_id=f"run-{run}")

    @rule(number=which)
    def flush(self, number: int) -> None:
        """A flush ends exactly when all earlier events are settled or incomplete."""
        bench = self.bench(number)
        flushes = Flushes(bench.states)
        mark = flushes.add(bench.states.counts(), bench.seq + 1)
        counts = bench.states.counts()
        over = counts.pending + counts.spooled - len(bench.states.incomplete) == 0
        assert bench.states.is_settled(mark.target, mark.seq) == over

    # ---- the disk --------------------------------------------------------------------------------------------------

    @rule(number=which)
    def store(self, number: int) -> None:
        bench = self.bench(number)
        bench.store()
        if not self.disk.mode and bench.spool.problem is None:
            assert bench.states.counts().pending == 0
            unsettled = bench.ids(set(range(1, bench.seq + 1)) - bench.refusals) - self.settled()
            if bench.spool._file is not None:
                assert bench.ids(rows(Path(bench.spool._file.path))) == unsettled

    @rule(mode=st.sampled_from(["", "", "full", "broken", "locked", "doubtful"]))
    def disk_becomes(self, mode: str) -> None:
        self.disk.mode = mode

    # ---- the network -----------------------------------------------------------------------------------------------

    @rule(number=which, mood=st.sampled_from(MOODS))
    def attempt(self, number: int, mood: str) -> None:
        bench = self.bench(number)
        assert isinstance(bench.backend, Moody)
        bench.backend.mood = mood
        bench.send()

    @rule(number=which, mood=st.sampled_from(MOODS))
    def recover_a_batch(self, number: int, mood: str) -> None:
        bench = self.bench(number)
        assert isinstance(bench.backend, Moody)
        bench.backend.mood = mood
        # What an heir before this one had delivered may be sent again, if that one died or its disk did not work.
        bench.backend.acknowledged -= self.adopted_again(bench)
        bench.spooling.recovery.step(1.0, self.now, lambda: self.now)

    def adopted_again(self, bench: Bench) -> set[str]:
        if bench.spooling.recovery._orphan is not None:
            return set()
        return {id_ for id_ in bench.backend.stored if not id_.startswith(bench.session.event_prefix)}

    @rule()
    def time_goes_by(self) -> None:
        self.now += LONG

    # ---- the end ---------------------------------------------------------------------------------------------------

    def leave(self, bench: Bench) -> None:
        self.live.remove(bench)
        if not self.live:
            self.another_process()

    @rule(number=which)
    def kill(self, number: int) -> None:
        bench = self.bench(number)
        on_disk = {*bench.states._on_disk} if not bench.states.disk_only else None
        if on_disk is None:
            # Beyond memory it is only counted; what was tracked and is neither settled nor in memory alone must be there.
            alone = {event.seq for event in bench.states._unsaved.values()}
            alone |= {event.seq for event in (*bench.states._writing, *bench.states.queue.events)}
            on_disk = set(range(1, bench.seq + 1)) - alone - bench.refusals
        self.promised |= bench.ids(on_disk) - self.settled()
        kill(bench)
        self.leave(bench)

    @rule(number=which)
    def end(self, number: int) -> None:
        bench = self.bench(number)
        before = bench.states.counts().dropped
        bench.end()
        counts = bench.states.counts()
        assert counts.pending == 0
        if counts.dropped == before:
            gone = bench.refusals
            self.promised |= bench.ids(set(range(1, bench.seq + 1)) - gone) - self.settled()
        self.leave(bench)

    @invariant()
    def ledgers_add_up(self) -> None:
        for bench in self.live:
            bench.check()
            own = {id_ for id_ in bench.backend.acknowledged if id_.startswith(bench.session.event_prefix)}
            ledger = bench.ledger
            assert ledger.delivered + ledger.dropped().get("rejected", 0) == len(own)
            assert "spool_error" not in ledger._dropped  # which would be events that were on disk
            assert not bench.states.number & 1

    def teardown(self) -> None:
        try:
            self.disk.mode = ""
            self.now += LONG
            for number in range(len(self.live)):
                bench = self.bench(number)
                bench.backend.mood = "deliver"
                bench.send_all()
                bench.states.close_all(bench.now)
                bench.send_all()
                bench.end()
                counts = bench.states.counts()
                assert counts.pending == counts.spooled == 0, counts
            heir = Bench(self.directory, Backend())
            heir.backend.stored = self.store_.stored
            heir.now = self.now
            recover(heir)
            rejected = set().union(*(backend.rejected for backend in self.backends))
            lost = self.promised - set(self.store_.stored) - rejected
            assert not lost
            assert left(self.directory) == []
        finally:
            self.stack.close()
            shutil.rmtree(self.directory)


Machine.TestCase.settings = settings(
    max_examples=int(os.environ.get("AGENTSCOPE_TEST_EXAMPLES", "100")) // 2 + 1, stateful_step_count=30
)
TestSessions = Machine.TestCase
