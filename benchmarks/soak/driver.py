"""The driver of one seed: it starts and kills processes, and compares the stored events with the promises."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.soak.children import Child, ProducerProcess, ReceiverProcess, free_port
from benchmarks.soak.producer import Options
from benchmarks.soak.resources import Sample, Series, sample
from benchmarks.soak.verdict import Promise, judge
from tests.support.fault_plans import Chaos
from tests.support.proxy import FaultProxy

TICK = 0.02
"""Seconds between two checks of all processes."""
GIVEN_UP = 120.0
"""Seconds after the end of the faults in which the rest must be delivered."""


@dataclass(frozen=True)
class Settings:
    seed: int
    events: int
    """The approximate number of tracked events."""
    seconds: float | None = None
    """Seconds after which the tracking ends, even with fewer events."""
    producers: int = 3
    rate: float = 6000.0
    """The greatest number of events a second, of all producers together."""
    kill_every: float = 3.0
    """Mean seconds between two kills on one side."""
    faulted: float = 0.35
    """The share of requests that a fault hits."""
    spool: bool = True
    promise: float = 1.0
    """Seconds. An event tracked this long before a SIGKILL must be stored. A quarter suffices on a quiet machine."""


@dataclass
class Result:
    """The result of one seed. `ok` is the verdict."""

    seed: int
    ok: bool = False
    tracked: int = 0
    promised: int = 0
    stored: int = 0
    lost: int = 0
    twice: int = 0
    beyond: int = 0
    forgiven: int = 0
    left: int = 0
    """Files left in the spool."""
    seconds: float = 0.0
    draining: float = 0.0
    """Seconds from the end of the faults to the delivery of everything."""
    producers_killed: int = 0
    receivers_killed: int = 0
    ended: int = 0
    """Producers that ended by a shutdown."""
    requests: int = 0
    faulted: int = 0
    checks: int = 0
    """The number of ledger checks."""
    broken: list[str] = field(default_factory=list)
    """Failed ledger checks, and other broken invariants."""
    producer: dict[str, Any] = field(default_factory=dict)
    receiver: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return asdict(self)


Progress = Callable[[Result, float], None]
"""A callback for progress, called a few times a second with the events so far and the seconds so far."""


class Seed:
    """Runs one seed. `run` returns the result."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._chance = random.Random(settings.seed)
        self._folder = Path(tempfile.mkdtemp(prefix="soak-"))
        self._db = self._folder / "receiver.db"
        self._spool = self._folder / "spool"
        self._port = free_port()
        self._result = Result(settings.seed)
        self._promises: list[Promise] = []
        self._living: list[ProducerProcess] = []
        self._born = 0
        self._receiver: ReceiverProcess | None = None
        self._samples: dict[type[Child], list[Sample]] = {ProducerProcess: [], ReceiverProcess: []}
        self._tracked_before = 0
        self._proxy: FaultProxy

    def run(self) -> Result:
        result = self._result
        began = time.monotonic()
        with FaultProxy(f"http://127.0.0.1:{self._port}", remember=False) as self._proxy:
            try:
                self._start_receiver()
                self._proxy.plan(Chaos(self._settings.seed, self._settings.faulted))
                self._rage(began)
                self._proxy.set("pass")
                self._count_requests()
                calm = time.monotonic()
                self._drain(began)
                result.draining = time.monotonic() - calm
                self._receiver_process.end()
            finally:
                self._kill_all()
        result.seconds = time.monotonic() - began
        self._judge()
        return result

    # ---- with faults -------------------------------------------------------------------------------------------------

    def _rage(self, began: float) -> None:
        """Restart dead processes and kill others, until enough events are tracked."""
        settings, chance = self._settings, self._chance
        births: list[float] = [began] * settings.producers
        producer_dies, receiver_dies = self._next(began), self._next(began)
        looked = told = began
        while not self._enough(began):
            now = time.monotonic()
            for birth in [birth for birth in births if birth <= now]:
                births.remove(birth)
                self._start_producer()
            for producer in [producer for producer in self._living if not producer.running]:
                births.append(now)
                self._bury(producer)
            if now >= producer_dies:
                for victim in self._victims():
                    if self._strike(victim):
                        births.append(now + chance.uniform(0.0, 1.0))
                producer_dies = self._next(now)
            receiver = self._receiver_process
            if receiver.ready_at is not None and now >= max(receiver_dies, receiver.ready_at + chance.uniform(0, 1)):
                receiver.kill()
                self._result.receivers_killed += 1
                # Outages of different lengths, some longer than a retry.
                time.sleep(chance.choice((0.0, 0.1, 0.5)))  # the length of the outage
                self._start_receiver()
                receiver_dies = self._next(now)
            if now - looked >= 0.5:
                looked = now
                self._look()
            if now - told >= 0.25:
                told = now
                self._count_requests()
                self._tell(began)
            time.sleep(TICK)  # between two checks

    def _enough(self, began: float) -> bool:
        limit = self._settings.seconds
        return self._tracked() >= self._settings.events or (limit is not None and time.monotonic() - began >= limit)

    def _next(self, now: float) -> float:
        return now + self._chance.uniform(0.3, 1.7) * self._settings.kill_every

    def _tracked(self) -> int:
        return self._tracked_before + sum(producer.count for producer in self._living)

    def _victims(self) -> list[ProducerProcess]:
        """A random choice of living producers: often one, sometimes all."""
        known = [producer for producer in self._living if not producer.asked_to_end]
        return self._chance.sample(known, self._chance.randint(1, len(known))) if known else []

    def _strike(self, victim: ProducerProcess) -> bool:
        """Kill a producer, or ask it to shut down: always without a spool, else sometimes. Return True if it was killed."""
        if not self._settings.spool or self._chance.random() < 0.1:
            victim.ask_to_end()
            return False
        victim.kill()
        self._result.producers_killed += 1
        self._bury(victim)
        return True

    def _bury(self, producer: ProducerProcess) -> None:
        if producer.killed_at is None:
            code = producer.wait()
            self._result.ended += 1
            if code or not (producer.asked_to_end or producer.farewell):
                self._result.broken.append(f"a producer ended by itself, with status {code}")
        self._living.remove(producer)
        self._tracked_before += producer.count
        self._result.checks += producer.checks
        self._result.broken += producer.broken
        promise = producer.promise()
        if promise is not None:
            self._promises.append(promise)

    # ---- without faults ----------------------------------------------------------------------------------------------

    def _drain(self, began: float) -> None:
        """Let the living producers deliver their events, and a new one the events of the dead."""
        self._wait_for_receiver()
        for producer in self._living:
            producer.ask_to_end()
        for producer in list(self._living):
            producer.wait(GIVEN_UP)
            self._bury(producer)
            self._tell(began)
        if not self._settings.spool:
            return
        by_hand = self._settings.seed % 2 == 1
        end = time.monotonic() + GIVEN_UP
        while self._left() and time.monotonic() < end:
            if by_hand:
                self._replay()
            else:
                self._start_producer(drain=True)
                drainer = self._living[-1]
                drainer.wait(2 * GIVEN_UP)
                self._bury(drainer)
            self._tell(began)

    def _left(self) -> int:
        return len(list(self._spool.glob("*.db")))

    def _replay(self) -> None:
        command = ["-m", "agentscope", "replay", "--spool-dir", str(self._spool), "--base-url", self._proxy.url]
        with (self._folder / "replay.log").open("ab") as log:
            subprocess.run(
                [sys.executable, *command, "--api-key", "ask_soak"], stdout=log, stderr=log, timeout=GIVEN_UP
            )

    def _judge(self) -> None:
        result = self._result
        verdict = judge(self._db, self._promises)
        result.tracked = self._tracked()
        result.promised, result.stored, result.lost = verdict.promised, verdict.stored, verdict.lost
        result.twice, result.beyond, result.forgiven = verdict.twice, verdict.beyond, verdict.forgiven
        result.left = self._left()
        result.broken += verdict.examples
        result.producer = Series(self._samples[ProducerProcess]).summary()
        result.receiver = Series(self._samples[ReceiverProcess]).summary()
        result.ok = not (result.lost or result.twice or result.left or result.broken)
        if result.ok:
            shutil.rmtree(self._folder)
        else:
            result.broken.append(f"what there is to look at was kept in {self._folder}")

    # ---- processes -------------------------------------------------------------------------------------------------

    @property
    def _receiver_process(self) -> ReceiverProcess:
        assert self._receiver is not None
        return self._receiver

    def _start_receiver(self) -> None:
        self._receiver = ReceiverProcess(self._port, self._db, self._folder / "receiver.log")

    def _wait_for_receiver(self) -> None:
        end = time.monotonic() + 30
        while self._receiver_process.ready_at is None and time.monotonic() < end:
            time.sleep(TICK)  # between two checks

    def _start_producer(self, drain: bool = False) -> None:
        self._born += 1
        options = Options(
            url=self._proxy.url,
            name=f"producer {self._born}",
            spool_dir=str(self._spool) if self._settings.spool else "",
            rate=self._settings.rate / self._settings.producers,
            drain=drain,
            patience=GIVEN_UP / 2 if drain else 0.0,
        )
        self._living.append(ProducerProcess(options, self._folder / "producer.log", self._settings.promise))

    def _kill_all(self) -> None:
        for child in (*self._living, self._receiver):
            if child is not None and child.running:
                child.kill()

    def _look(self) -> None:
        for child in (*self._living, self._receiver_process):
            # Before that it is still being made.
            found = sample(child.pid) if child.age > 1.5 else None
            if found is not None:
                self._samples[type(child)].append(found)

    def _count_requests(self) -> None:
        counts = self._proxy.counts.copy()
        self._result.requests = sum(counts.values())
        self._result.faulted = self._result.requests - counts["pass"]

    def _tell(self, began: float) -> None:
        self._result.tracked = self._tracked()
        self._progress(self._result, time.monotonic() - began)
