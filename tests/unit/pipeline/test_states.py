"""The states of events under random interleavings of moves, with threads that die at any line of a move.

After each rule the ledger's identity holds, every event is in one state, and the queue's bound charges what it should.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import agentscope.pipeline.delivery
import agentscope.pipeline.ledger
import agentscope.pipeline.queue
import agentscope.pipeline.states
from agentscope.config import Config
from agentscope.events import RUN_START, Session
from agentscope.pipeline.delivery import Attempts, Flushes
from agentscope.pipeline.ledger import Ledger
from agentscope.pipeline.queue import UNIT, units
from agentscope.pipeline.states import EventStates
from agentscope.protocols.base import BUSY, Batch, Dropped, Outcome
from tests.support.spools import LONG, Backend, Bench, Disk, event

FILES = frozenset(
    str(module.__file__)
    for module in (
        agentscope.pipeline.states,
        agentscope.pipeline.queue,
        agentscope.pipeline.ledger,
        agentscope.pipeline.delivery,
    )
)
SMALL: dict[str, Any] = {"max_queue_bytes": 40 * UNIT, "batch_size": 4}
"""Room for 40 events, and for ten that are on disk as well."""
MOODS = ("deliver", "fail", "partly", "reject", "park", "release", "raise")
DEATH = st.none() | st.integers(1, 120)
"""The number of the line at which a thread dies, or none."""


class Death(BaseException):
    """The end of a thread in the middle of its work."""


def until_death(line: int | None, work: Callable[[], Any]) -> bool:
    """Run `work` as a thread that dies at a given line of the files above. Returns True if it came to its end."""
    if line is None:
        work()
        return True
    left = line

    def trace(frame: FrameType, what: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in FILES:
            return None
        if what == "line" and left:
            left -= 1
            if not left:
                raise Death
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except Death:
        return False
    finally:
        sys.settrace(before)
    return True


class Moody(Backend):
    """An exporter whose next outcome is set by the rules."""

    mood = "deliver"

    def export(self, batch: Batch, timeout: float) -> Outcome:
        parts = {(event.run_id, event.step_id) for event in batch.events}
        seqs = [event.seq for part in parts for event in batch.parked.get(part, ())]
        seqs += [event.seq for event in batch.events]
        if self.mood == "raise":
            raise ZeroDivisionError
        if self.mood == "fail":
            return Outcome(problem="busy", kind=BUSY)
        if self.mood == "park":
            parked = [e.seq for e in batch.events if e.step_id is None and (e.run_id, None) not in batch.closing]
            delivered = [seq for seq in seqs if seq not in parked] if not parked else []
            return Outcome(delivered=delivered, parked=parked)
        if self.mood == "reject":
            return Outcome(delivered=seqs[1:], dropped=[Dropped(seqs[0], "rejected", "")])
        if self.mood == "partly":
            return Outcome(delivered=seqs[: (len(seqs) + 1) // 2], problem="busy", kind=BUSY)
        return Outcome(delivered=seqs, released=self.mood == "release")


class InMemory:
    """A session without a spool, with the interface of `Bench`."""

    def __init__(self, backend: Moody) -> None:
        config = Config(**SMALL)
        self.backend = backend
        self.ledger = Ledger()
        self.states = EventStates(config, self.ledger)
        self.attempts = Attempts(config, Session("s", "p-"), self.states, backend, lambda event: event)
        self.seq = 0
        self.now = 100.0

    def put(self, number: int, **fields: Any) -> None:
        for _ in range(number):
            self.seq += 1
            refusal = self.states.queue.put(event(self.seq, **fields), urgent=True)
            if refusal is not None:
                self.ledger.refused.add(refusal)

    def check(self) -> None:
        counts = self.states.counts()
        assert counts.accepted == self.seq
        assert counts.accepted == counts.delivered + sum(counts.dropped.values()) + counts.spooled + counts.pending


class Machine(RuleBasedStateMachine):
    """The state machine: one session after the other, with a spool or without."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="states-")
        self.stack = ExitStack()
        self.disk = self.stack.enter_context(Disk().under())
        self.now = 100.0

    @initialize(spool=st.booleans(), protocol=st.sampled_from(["agentscope-batch", "classic"]))
    def begin(self, spool: bool, protocol: str) -> None:
        self.spool, self.protocol = spool, protocol
        self.new_session()

    def new_session(self) -> None:
        backend = Moody()
        backend.protocol = self.protocol
        self.bench: Any = Bench(self.directory, backend, **SMALL) if self.spool else InMemory(backend)

    @property
    def states(self) -> EventStates:
        states: EventStates = self.bench.states
        return states

    # ---- queued ----------------------------------------------------------------------------------------------------

    @rule(number=st.integers(1, 12))
    def put(self, number: int) -> None:
        self.bench.put(number)

    @rule(run=st.integers(1, 3))
    def put_a_start(self, run: int) -> None:
        self.bench.put(1, type=RUN_START, run_id=f"run-{run}")

    # ---- the thread that delivers ----------------------------------------------------------------------------------

    @rule(death=DEATH)
    def collect(self, death: int | None) -> None:
        until_death(death, lambda: self.bench.attempts.collect(self.now))

    @rule(death=DEATH)
    def begin_batch(self, death: int | None) -> None:
        until_death(death, lambda: self.bench.attempts.load(self.now))

    @precondition(lambda self: self.states.in_flight)
    @rule(mood=st.sampled_from(MOODS), death=DEATH)
    def attempt(self, mood: str, death: int | None) -> None:
        self.bench.backend.mood = mood
        until_death(death, lambda: self.bench.attempts.attempt(1.0, self.now))

    @rule(mood=st.sampled_from(MOODS))
    def deliver(self, mood: str) -> None:
        """Deliver in a row: collect, begin, attempt. Random rules seldom do."""
        self.collect(None)
        self.begin_batch(None)
        if self.states.in_flight:
            self.attempt(mood, None)

    @rule(death=DEATH)
    def close(self, death: int | None) -> None:
        until_death(death, lambda: self.states.close_all(self.now))

    @precondition(lambda self: self.states.in_flight)
    @rule(death=DEATH)
    def give_up(self, death: int | None) -> None:
        until_death(death, lambda: self.bench.attempts.give_up("retry_limit"))

    @precondition(lambda self: not self.states.closing)
    @rule()
    def flush(self) -> None:
        """A flush is over exactly when all earlier events are settled or incomplete, or have been incomplete."""
        flushes = Flushes(self.states)
        mark = flushes.add(self.states.counts(), self.bench.seq + 1)
        counts = self.states.counts()
        over = counts.pending + counts.spooled == len(self.states.incomplete)
        assert self.states.is_settled(mark.target, mark.seq) == over

    # ---- the thread that writes ------------------------------------------------------------------------------------

    @precondition(lambda self: self.spool)
    @rule(death=DEATH)
    def store(self, death: int | None) -> None:
        until_death(death, lambda: self.bench.spooling.store(self.now))

    @precondition(lambda self: self.spool)
    @rule(mode=st.sampled_from(["", "", "full", "broken", "doubtful"]))
    def disk_becomes(self, mode: str) -> None:
        self.disk.mode = mode

    @rule()
    def time_goes_by(self) -> None:
        self.now += LONG

    # ---- the end ---------------------------------------------------------------------------------------------------

    @rule(death=DEATH)
    def shut_down(self, death: int | None) -> None:
        if not until_death(death, self.states.abandon):
            self.holds()
            self.states.abandon()
        self.holds()
        assert self.states.counts().pending == 0
        if self.spool:
            self.bench.spooling.close()
        self.new_session()

    @invariant()
    def holds(self) -> None:
        self.bench.check()
        states = self.states
        assert not states.number & 1
        queued = list(states.queue.events)
        taken = [*states.batched, *states.in_flight.values(), *states.incomplete]
        taken += [*states._writing, *states._fresh, *states.old]
        doubled = [seq for seq, times in Counter(event.seq for event in (*queued, *taken)).items() if times > 1]
        assert not doubled
        assert states.queue.bytes == UNIT * units([*queued, *taken])
        assert states.incomplete.bytes == sum(event.size for event in states.incomplete)
        assert states._fresh_bytes == sum(event.size for event in states._fresh)
        assert states.ledger.taken == states.ledger.settled() + states.unsettled
        assert states._over or "spool_error" not in states.ledger._dropped  # which would be events that were on disk

    def teardown(self) -> None:
        try:
            self.disk.mode = ""
            self.now += LONG
            for _ in range(200):
                if self.spool:
                    self.store(None)
                    self.now += LONG
                self.deliver("deliver")
                self.holds()
                if not self.states.busy:
                    self.close(None)
                if not self.states.unsettled and not self.states.queue.events:
                    break
            counts = self.states.counts()
            assert (counts.pending, counts.spooled) == (0, 0)
            assert self.states.queue.bytes == 0
        finally:
            if self.spool:
                self.states.abandon()
                self.bench.spooling.close()
            self.stack.close()
            shutil.rmtree(self.directory)


Machine.TestCase.settings = settings(
    max_examples=int(os.environ.get("AGENTSCOPE_TEST_EXAMPLES", "100")) // 2 + 1, stateful_step_count=40, deadline=None
)
TestStates = Machine.TestCase


@pytest.mark.parametrize("spool", [False, True])
def test_a_move_is_whole_wherever_its_thread_dies(tmp_path: Path, spool: bool) -> None:
    """One thread dies at each line in turn from queued to settled. With a spool it is every third line: files are slow."""
    for line in range(1, 1_000, 3 if spool else 1):
        machine = Machine()
        machine.begin(spool, "agentscope-batch")

        def work(machine: Machine = machine) -> None:
            if machine.spool:
                machine.store(None)
            machine.deliver("park")
            machine.deliver("reject")
            machine.close(None)
            machine.deliver("release")

        machine.put(6)
        machine.put_a_start(1)
        machine.put(3)
        ended = until_death(line, work)
        machine.holds()
        machine.teardown()
        if ended:
            return
    raise AssertionError("it never came to its end")
