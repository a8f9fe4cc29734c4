"""The tables as aligned Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.field.adapters import EVERYBODY, KINDS
from benchmarks.field.numbers import Spread, spread
from benchmarks.field.rows import Limit, Line, Row, with_net_cpu
from benchmarks.field.runner import Sample

HEAD = ("measure", "of", "measured (least–most)", "compared with", "ratio (least–most)", "target", "")
_OF = {"agentscope": "core", "agentscope-fast": "fast", "agentscope-plain": "core", "receiver": "receiver"}


class Figure(NamedTuple):
    """A line of the table of all SDKs."""

    title: str
    measure: str
    name: str
    unit: str


FIGURES: Sequence[Figure] = (
    Figure("step all-in, paced", "paced", "all_in", "µs"),
    Figure("step p50, paced", "paced", "step_p50", "µs"),
    Figure("step p99, paced", "paced", "step_p99", "µs"),
    Figure("step p99, burst", "burst", "step_p99", "µs"),
    Figure("step p99, burst of 4 threads", "burst4", "step_p99", "µs"),
    Figure("step with 100 KB, p50", "large", "step_p50", "µs"),
    Figure("CPU an event that was tracked", "burst", "cpu", "µs"),
    Figure("CPU an event that arrived", "burst", "cpu_whole", "µs"),
    Figure("events/s", "burst", "per_second", ""),
    Figure("events/s, 4 threads", "burst4", "per_second", ""),
    Figure("lost, burst", "burst", "lost", "%"),
    Figure("lost, burst of 4 threads", "burst4", "lost", "%"),
    Figure("lost at 1 000 steps/s, slow backend", "slow", "lost", "%"),
    Figure("peak memory, burst", "burst", "peak_mb", "MB"),
    Figure("peak memory, backend gone", "gone", "peak_mb", "MB"),
    Figure("exit, healthy", "exit_ok", "exit_seconds", "s"),
    Figure("arrived of 200 at that exit", "exit_ok", "whole", ""),
    Figure("exit, backend hangs", "exit_hang", "exit_seconds", "s"),
    Figure("exit, connections refused", "exit_gone", "exit_seconds", "s"),
    Figure("import", "import", "import_ms", "ms"),
    Figure("from nothing to a first run", "first", "first_ms", "ms"),
    Figure("bytes on the wire an event", "burst", "wire_bytes", "B"),
    Figure("another thread's 100 µs, longer by", "gil", "longer", "µs"),
)


def table(lines: Iterable[Line]) -> str:
    """The table of the targets."""
    return aligned([HEAD, *(_cells(line) for line in lines)])


def _cells(line: Line) -> tuple[str, ...]:
    row, limit = line.row, line.limit
    against = ratio = ""
    if limit is not None and limit.of and line.peer is not None and line.compared is not None:
        name = " or ".join(KINDS[peer].label for peer in limit.of)
        against = f"{name} {number(line.peer.median, row.unit)}"
        ratio = range_of(line.compared, "×")
    verdict = {True: "met", False: _missed(line), None: "" if limit is None else "–"}[line.met]
    return (
        row.title,
        _OF[line.subject],
        "–" if line.value is None else range_of(line.value, row.unit),
        against,
        ratio,
        "" if limit is None else target(row, limit),
        f"{verdict}: {line.why}" if line.why and verdict else line.why or verdict,
    )


def target(row: Row, limit: Limit) -> str:
    sign = "≥" if row.more_is_better else "≤"
    if limit.of:
        return f"{sign} {limit.at:g} ×"
    return "0" if limit.at == 0 else f"{sign} {number(limit.at, row.unit)}"


def range_of(values: Spread, unit: str) -> str:
    least, most = number(values.low, unit, bare=True), number(values.high, unit, bare=True)
    return number(values.median, unit) + (f" ({least}–{most})" if least != most else "")


def number(value: float, unit: str, *, bare: bool = False) -> str:
    """A value with about three significant digits and its unit; with `%` the value is a share."""
    if unit == "%":
        value *= 100
    size = abs(value)
    digits = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2 if size >= 0.1 else 3
    text = f"{value:,.{digits}f}".replace(",", " ")
    return text if bare or not unit else f"{text} {unit}"


def summary(lines: Sequence[Line], samples: Sequence[Sample], *, quick: bool = False) -> str:
    """The number of targets met, and the conditions of the measurement."""
    if quick:
        return "A quick run shows that everything works. Its figures mean nothing."
    judged = [line for line in lines if line.met is not None]
    missed = [line for line in judged if not line.met]
    said = [f"{len(judged) - len(missed)} of {len(judged)} targets met."]
    unmeasured = [line for line in lines if line.limit is not None and line.met is None]
    if unmeasured:
        said.append(
            f"{len(unmeasured)} could not be judged: a peer or the extra is not installed; see benchmarks/README.md."
        )
    return "\n".join(line for line in (*said, busy(samples)) if line)


def busy(samples: Iterable[Sample]) -> str:
    """The cores that other processes used during the measures; an empty text where the system does not tell."""
    others = [sample.others for sample in samples if sample.others is not None]
    if not others:
        return ""
    return (
        f"Others used {statistics.median(others):.2f} cores meanwhile, and {max(others):.2f} at the worst; "
        "with more than 0.3 the figures are not worth much."
    )


def field_table(samples: Iterable[Sample]) -> str:
    """The medians of `FIGURES` for all measured SDKs, one column for each."""
    given = with_net_cpu(samples)
    names = [name for name in EVERYBODY if any(sample.subject == name for sample in given)]
    texts = [("", *(KINDS[name].label for name in names))]
    for figure in FIGURES:
        medians = [_median(figure, name, given) for name in names]
        if any(medians):
            texts.append((figure.title, *(median or "–" for median in medians)))
    return aligned(texts)


def _median(figure: Figure, subject: str, samples: Iterable[Sample]) -> str:
    """The median as text; empty if the figure was not measured."""
    found = spread(
        sample.figures[figure.name]
        for sample in samples
        if sample.measure == figure.measure and sample.subject == subject and figure.name in sample.figures
    )
    return "" if found is None else number(found.median, figure.unit)


def aligned(texts: list[tuple[str, ...]]) -> str:
    """A Markdown table with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    texts.insert(1, tuple("-" * width for width in widths))
    return "\n".join(f"| {' | '.join(map(str.ljust, row, widths))} |" for row in texts)


def _missed(line: Line) -> str:
    """MISSED, with the distance to the limit as a share of it if the value is the reason."""
    if line.limit is None or line.compared is None or not line.limit.at or line.why:
        return "MISSED"
    return f"MISSED by {abs(line.compared.median / line.limit.at - 1):.0%}"
