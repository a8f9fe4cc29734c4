"""Running the measures: a fresh process and a fresh sink each, in rounds, everybody in turn and in a shuffled order."""

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
from benchmarks.field.programs import Company, Found, run
from benchmarks.field.sink_client import SinkProcess
from benchmarks.field.subjects import Subject, has


@dataclass(frozen=True)
class Sample:
    """One measure of one subject in one round."""

    measure: str
    subject: str
    round: int
    figures: Mapping[str, float] = field(default_factory=dict)
    """None of them where there is an error."""
    error: str = ""
    version: str = ""
    others: float | None = None
    """Cores that were busy with something else meanwhile; None where that cannot be told."""


@dataclass(frozen=True)
class Turn:
    """A sample that is to be taken."""

    measure: str
    subject: Subject
    round: int
    work: Work
    limit: float


def turns(
    subjects: Mapping[str, Subject], measures: Iterable[str], rounds: int, share: float, dice: random.Random
) -> Iterator[Turn]:
    """Round after round, measure after measure, all subjects that it has, in an order that the dice decide.

    share: how much of the work is done. With less than all of it nobody waits for peers that take seconds to give up.
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
    """Takes samples; its sinks understand whatever one of the subjects may send."""

    def __init__(self, subjects: Mapping[str, Subject]) -> None:
        pythons = [sys.executable, *(subject.python for subject in subjects.values())]
        self._sink_python = next((python for python in pythons if has(python, ["zstandard"])), sys.executable)

    def take(self, turn: Turn) -> Sample:
        company = Company()
        if turn.work.kind == "beside":
            found = self._beside(turn)
        elif turn.work.kind in _ALONE:
            found = _ALONE[turn.work.kind](turn.subject, turn.work, turn.limit)
        else:
            found = self._with_sink(turn.subject, turn.work, turn.limit)
        others = company.cores()
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
        """The same load against backends in every state, all at once: what the machine does meanwhile, it does to all."""
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
