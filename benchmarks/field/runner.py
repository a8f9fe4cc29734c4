"""The run of all measures, in rounds, with a fresh process and a fresh sink for each sample, in shuffled order."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from benchmarks.field import without_sink
from benchmarks.field.adapters import PEERS
from benchmarks.field.measures import MEASURES, STATES, Measure, Work
from benchmarks.field.programs import Found, OtherLoad, run
from benchmarks.field.sink_client import SinkProcess
from benchmarks.field.subjects import Subject, has


@dataclass(frozen=True)
class Sample:
    """One measure of one subject in one round."""

    measure: str
    subject: str
    round: int
    figures: Mapping[str, float] = field(default_factory=dict)
    """Empty if there is an error."""
    error: str = ""
    version: str = ""
    others: float | None = None
    """Cores that other processes kept busy meanwhile; None if that is unknown."""


@dataclass(frozen=True)
class Turn:
    """A sample that has to be taken."""

    measure: str
    subject: Subject
    round: int
    work: Work
    limit: float


def turns(
    subjects: Mapping[str, Subject], measures: Iterable[str], rounds: int, share: float, dice: random.Random
) -> Iterator[Turn]:
    """The samples to take: by round, then by measure, then by subject in random order.

    share: the part of the work that is done. If it is less than 1, exits of peers that take seconds are left out.
    """
    chosen = list(measures)
    for number in range(rounds):
        for name in chosen:
            measure = MEASURES[name]
            present = [
                subject
                for subject in measure.subjects
                if subject in subjects and number < _rounds(measure, subject, share)
            ]
            dice.shuffle(present)
            for subject in present:
                yield Turn(name, subjects[subject], number, measure.work.smaller(share), measure.limit)


def _rounds(measure: Measure, subject: str, share: float) -> int:
    if subject not in PEERS:
        return measure.rounds
    return measure.peer_rounds if share == 1 or measure.peer_rounds > 1 else 0


class Runner:
    """Takes samples. Its sinks understand every compression that a subject may use."""

    def __init__(self, subjects: Mapping[str, Subject]) -> None:
        pythons = [sys.executable, *(subject.python for subject in subjects.values())]
        self._sink_python = next((python for python in pythons if has(python, ["zstandard"])), sys.executable)

    def take(self, turn: Turn) -> Sample:
        other_load = OtherLoad()
        if turn.work.kind == "beside":
            found = self._beside(turn)
        elif turn.work.kind in _ALONE:
            found = _ALONE[turn.work.kind](turn.subject, turn.work, turn.limit)
        else:
            found = self._with_sink(turn.subject, turn.work, turn.limit)
        others = other_load.cores()
        return Sample(turn.measure, turn.subject.name, turn.round, found.figures, found.error, found.version, others)

    def _with_sink(self, subject: Subject, work: Work, limit: float) -> Found:
        with SinkProcess(self._sink_python) as sink:
            task = {
                "subject": subject.name,
                "port": sink.port,
                "commands": sink.command_port,
                "blocked": subject.blocked,
                "work": work.as_json(),
            }
            ended = run([subject.python, "-m", "benchmarks.field.worker", json.dumps(task)], limit, subject.directory)
            document = ended.document()
            if not isinstance(document, dict):
                return Found(error=ended.failure())
            figures: dict[str, float] = document["figures"]
            if work.kind == "leave":
                figures["exit_seconds"] = (ended.end_ns - figures.pop("left_ns")) / 1e9
                figures["whole"] = float(sink.ask("report")["whole"])
            return Found(figures, version=document["version"])

    def _beside(self, turn: Turn) -> Found:
        """Run the same load against a backend in each state, all at once, so that the machine slows all of them alike."""
        works = {state: replace(turn.work, kind="load", backend=state) for state in STATES}
        with ThreadPoolExecutor(len(works)) as pool:
            jobs = {
                state: pool.submit(self._with_sink, turn.subject, work, turn.limit) for state, work in works.items()
            }
        found = {state: job.result() for state, job in jobs.items()}
        errors = [one.error for one in found.values() if one.error]
        if errors:
            return Found(error=errors[0])
        medians = {state: one.figures["step_p50"] for state, one in found.items()}
        return Found(
            {f"p50_{state}": median for state, median in medians.items()}
            | {f"change_{state}": median / medians["ok"] for state, median in medians.items()}
        )


_ALONE: Mapping[str, Callable[[Subject, Work, float], Found]] = {
    "import": without_sink.imported,
    "receiver": without_sink.receiver,
}
