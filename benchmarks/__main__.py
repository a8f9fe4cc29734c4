"""Measurement of this SDK and its peers at the same work, and the comparison with the targets.

    python -m benchmarks                                  with the peers that are installed here
    python -m benchmarks --install .benchmarks            with peers, each in an environment that pip makes
    python -m benchmarks --rows step,cpu --rounds 5       some of the table, more often
    python -m benchmarks --from a.json b.json c.json      the table of earlier measurements, taken together

README.md beside this file says how to read the table. The exit status is 1 if a measure failed; with --quick also if an event
of this SDK was lost. A missed target is no failure: it depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.field.adapters import KINDS, OWN, PEERS
from benchmarks.field.chart import picture
from benchmarks.field.measures import MEASURES, QUICK
from benchmarks.field.record import document, read, versions
from benchmarks.field.rows import ROWS, Line, Row, chosen, lines
from benchmarks.field.runner import Runner, Sample, turns
from benchmarks.field.subjects import Subject, find, install
from benchmarks.field.table import field_table, summary, table


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="This SDK and its peers at the same work.", epilog="Rows: " + _keys()
    )
    parser.add_argument("--rows", type=_names, default=(), metavar="NAME,…", help="only these rows of the table")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="once, and little of it: whether everything works and nothing is lost"
    )
    parser.add_argument(
        "--peers",
        type=_names,
        default=PEERS,
        metavar="NAME,…",
        help=f"of {', '.join(PEERS)} (default: all that are there; '' for none)",
    )
    parser.add_argument(
        "--install",
        type=Path,
        metavar="DIR",
        help="make an environment in DIR for this SDK with and without its extra, and for each peer, where it is not there yet",
    )
    parser.add_argument(
        "--peer-python",
        action="append",
        type=_interpreter,
        default=[],
        metavar="NAME=PYTHON",
        help="the interpreter that has an SDK; NAME may also be agentscope or agentscope-fast",
    )
    parser.add_argument(
        "--from", type=Path, nargs="+", metavar="FILE", dest="files", help="read this instead of measuring"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the comparison there")
    asked = parser.parse_args(arguments)
    unknown = [name for name in (*asked.peers, *(name for name, _ in asked.peer_python)) if name not in KINDS]
    if unknown:
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(name for name in KINDS if name != 'nothing')}")
    try:
        asked.rows = chosen(asked.rows)
    except ValueError as error:
        parser.error(str(error))
    return asked


def _keys() -> str:
    return ", ".join(row.key for row in ROWS)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _interpreter(text: str) -> tuple[str, str]:
    name, _, python = text.partition("=")
    if not python:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=PYTHON")
    return name, python


def subjects(asked: argparse.Namespace) -> dict[str, Subject]:
    """The SDKs that were asked for and can be imported."""
    pythons: dict[str, str] = {}
    if asked.install:
        wanted = [
            name for name, kind in KINDS.items() if kind.requirements and (name not in PEERS or name in asked.peers)
        ]
        pythons.update(install(asked.install, wanted))
    pythons.update(asked.peer_python)
    return find(pythons, asked.peers)


def measure(asked: argparse.Namespace) -> list[Sample]:
    """Take all samples. Progress goes to standard error."""
    found = subjects(asked)
    absent = [KINDS[name].label for name in (*OWN, *asked.peers, "receiver") if name not in found]
    if absent:
        print(f"not installed, so not measured: {', '.join(absent)}", file=sys.stderr)
    needed = {row.measure for row in asked.rows}
    measures = [name for name in MEASURES if name in needed]
    rounds, share = (1, QUICK) if asked.quick else (asked.rounds, 1.0)
    waiting = list(turns(found, measures, rounds, share, random.Random()))
    runner = Runner(found)
    samples = []
    began = time.monotonic()
    for number, turn in enumerate(waiting, 1):
        sample = runner.take(turn)
        samples.append(sample)
        spent = time.monotonic() - began
        said = f": {sample.error}" if sample.error else ""
        print(
            f"{number} of {len(waiting)}, {spent:.0f} s: {turn.measure} {turn.subject.name}{said}",
            file=sys.stderr,
            flush=True,
        )
    return samples


def losses(samples: Iterable[Sample]) -> list[str]:
    """The measures in which events of this SDK were lost."""
    return [
        f"{sample.subject} lost {sample.figures['lost']:.1%} in {sample.measure}"
        for sample in samples
        if sample.subject.startswith("agentscope") and sample.figures.get("lost")
    ]


def subtitle(samples: Iterable[Sample]) -> str:
    named = ", ".join(f"{KINDS[name].label} {version}" for name, version in versions(samples).items())
    return f"Steps with 1 KB in and 1 KB out, default settings, one machine{f'; {named}' if named else ''}"


def tell(rows: Sequence[Row], samples: Sequence[Sample], *, quick: bool) -> list[Line]:
    """Print the tables."""
    found = lines(samples, rows)
    print(table(found))
    print()
    print(field_table(samples))
    print()
    print(summary(found, samples, quick=quick))
    return found


def main() -> None:
    asked = options()
    samples = read(asked.files) if asked.files else measure(asked)
    found = tell(asked.rows, samples, quick=asked.quick)
    if asked.json:
        share = QUICK if asked.quick else 1.0
        asked.json.write_text(json.dumps(document(samples, found, share=share), indent=1) + "\n", encoding="utf-8")
    if asked.svg:
        asked.svg.write_text(picture(samples, subtitle(samples)), encoding="utf-8")
    wrong = [f"{sample.measure} of {sample.subject}: {sample.error}" for sample in samples if sample.error]
    if asked.quick:
        wrong += losses(samples)
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
