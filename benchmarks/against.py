"""This checkout beside another one: calls, CPU time, events a second, import, memory and exit, with the ratio of each.

    python -m benchmarks.against ../before
    python -m benchmarks.against ../before --rounds 9 --measures paced,burst

Both do the work of `benchmarks.field` by the public API, each time in a process of its own and with a backend of its own. In
every round each measure is taken of both, one directly after the other, and the order changes from round to round. A ratio is
taken within a round; its median is shown with the least and the most. A ratio whose range contains 1 shows no difference.

The extra `fast` is hidden, unless --fast is given. Run it on a quiet machine: the last line says how busy it was otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.field.measures import MEASURES, QUICK
from benchmarks.field.numbers import Spread, spread
from benchmarks.field.rows import with_net_cpu
from benchmarks.field.runner import Runner, Sample, Turn
from benchmarks.field.subjects import EXTRA, ROOT, Subject, checkout
from benchmarks.field.table import FIGURES, Figure, aligned, busy, range_of

BEFORE, NOW, LOOP = "before", "now", "nothing"
COMPARED = ("paced", "burst", "burst4", "gone", "exit_ok", "import", "first")
"""The measures that are taken; `receiver`, `large`, `gil` and the others of `measures` can be asked for."""
MORE = (
    Figure("run start, p50", "paced", "start_p50", "µs"),
    Figure("run end, p50", "paced", "end_p50", "µs"),
    Figure("CPU of the caller for a step, p50", "paced", "step_cpu_p50", "µs"),
    Figure("step p50, burst", "burst", "step_p50", "µs"),
    Figure("receiver, events/s stored", "receiver", "stored_per_second", ""),
    Figure("receiver, CPU an event", "receiver", "cpu", "µs"),
    Figure("receiver, peak memory", "receiver", "peak_mb", "MB"),
)
MORE_IS_BETTER = {"per_second", "whole", "stored_per_second"}
NOISE = 0.02
"""A median that differs by less is no difference, whatever the rounds say."""


def take(other: Path, measures: Sequence[str], rounds: int, *, fast: bool, share: float) -> list[Sample]:
    """The samples of both checkouts, and those of the loop without an SDK, whose CPU time is taken off."""
    samples = []
    with ExitStack() as stack:
        blocked = () if fast else EXTRA
        kind = "agentscope-fast" if fast else "agentscope"
        here = Subject(kind, sys.executable, blocked)
        subjects = {
            BEFORE: replace(here, directory=stack.enter_context(checkout(other))),
            NOW: here,
            LOOP: Subject(LOOP, sys.executable),
        }
        runner = Runner(subjects)
        for number in range(rounds):
            for measure in measures:
                for name in order(measure, number):
                    turn = Turn(
                        measure, subjects[name], number, MEASURES[measure].work.smaller(share), MEASURES[measure].limit
                    )
                    sample = replace(runner.take(turn), subject=name)
                    said = f": {sample.error}" if sample.error else ""
                    print(f"round {number + 1} of {rounds}: {measure}, {name}{said}", file=sys.stderr, flush=True)
                    samples.append(sample)
    return samples


def order(measure: str, number: int) -> list[str]:
    """The names that are measured, in the order for this round."""
    pair = [BEFORE, NOW] if number % 2 == 0 else [NOW, BEFORE]
    return [*([LOOP] if LOOP in MEASURES[measure].subjects else []), *pair]


def table(samples: Iterable[Sample], measures: Iterable[str]) -> str:
    """One line for each figure of the measures: both values, and the ratio of the new one to the old one."""
    found: dict[tuple[str, str], dict[int, Mapping[str, float]]] = {}
    for sample in with_net_cpu(samples):
        found.setdefault((sample.measure, sample.subject), {})[sample.round] = sample.figures
    lines: list[tuple[str, ...]] = [("measure", BEFORE, NOW, "ratio (least–most)", "")]
    for figure in (*FIGURES, *MORE):
        if figure.measure in measures:
            old, new = (by_round(figure, found.get((figure.measure, name), {})) for name in (BEFORE, NOW))
            ratios = spread(new[number] / old[number] for number in sorted(old.keys() & new.keys()) if old[number])
            values = (value and range_of(value, figure.unit) for value in (spread(old.values()), spread(new.values())))
            lines.append(
                (
                    figure.title,
                    *(value or "–" for value in values),
                    range_of(ratios, "×") if ratios else "–",
                    verdict(figure, ratios),
                )
            )
    return aligned(lines)


def by_round(figure: Figure, figures: Mapping[int, Mapping[str, float]]) -> dict[int, float]:
    return {number: found[figure.name] for number, found in figures.items() if figure.name in found}


def verdict(figure: Figure, ratios: Spread | None) -> str:
    """`better` or `worse` if every round says so, and by more than `NOISE`; else nothing."""
    if ratios is None or ratios.low <= 1 <= ratios.high or abs(ratios.median - 1) < NOISE:
        return ""
    return "better" if (ratios.low > 1) == (figure.name in MORE_IS_BETTER) else "worse"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", type=Path, metavar="PATH", help="the root of the other checkout")
    parser.add_argument("--measures", default=",".join(COMPARED), metavar="NAME,…", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="how often each measure is taken (default: %(default)s)")
    parser.add_argument("--fast", action="store_true", help="with orjson and zstandard, the extra `fast`")
    parser.add_argument("--quick", action="store_true", help="little of the work: shows that everything works")
    asked = parser.parse_args(arguments)
    measures = [name for name in asked.measures.split(",") if name]
    unknown = [name for name in measures if name not in MEASURES]
    if unknown:
        parser.error(f"no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    share = QUICK if asked.quick else 1.0
    samples = take(asked.checkout, measures, asked.rounds, fast=asked.fast, share=share)
    print(f"before: {asked.checkout.resolve()}\nnow: {ROOT}\n")
    print(table(samples, measures))
    print(f"\n{busy(samples)}")
    errors = [f"{sample.measure} of {sample.subject}: {sample.error}" for sample in samples if sample.error]
    if errors:
        raise SystemExit("\n".join(errors))


if __name__ == "__main__":
    main()
