"""The rows of the table: a figure of a measure, and its targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.field.numbers import Spread, spread
from benchmarks.field.runner import Sample


@dataclass(frozen=True)
class Limit:
    """at: the greatest value, or the least if more is better. of: `at` is a multiple of the best of these peers."""

    at: float
    of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """core, fast: the targets without and with the extra `fast`; a row without limits has no target.

    also: another figure and the value that it must have, such as 0 for lost events.
    """

    key: str
    title: str
    measure: str
    figure: str
    unit: str
    core: tuple[Limit, ...] = ()
    fast: tuple[Limit, ...] | None = None
    more_is_better: bool = False
    subjects: tuple[str, ...] = ("agentscope", "agentscope-fast")
    also: tuple[str, float] | None = None

    def limits(self, subject: str) -> tuple[Limit, ...]:
        return self.fast if subject == "agentscope-fast" and self.fast is not None else self.core


_OTEL, _LIBHONEY = ("otel",), ("libhoney",)
_EITHER = ("otel", "libhoney")
_RECEIVER = ("receiver",)

ROWS: Sequence[Row] = (
    Row(
        "step",
        "step all-in on the caller, paced",
        "paced",
        "all_in",
        "µs",
        core=(Limit(0.25, _OTEL), Limit(0.40, _LIBHONEY)),
        fast=(Limit(0.15, _OTEL), Limit(0.22, _LIBHONEY)),
    ),
    Row("plain", "the same by track_step", "paced", "all_in", "µs", subjects=("agentscope-plain",)),
    Row("p99", "step p99, burst of 1 thread", "burst", "step_p99", "µs", (Limit(0.25, _OTEL),), (Limit(0.10, _OTEL),)),
    Row(
        "p99-4",
        "step p99, burst of 4 threads",
        "burst4",
        "step_p99",
        "µs",
        (Limit(0.10, _OTEL),),
        (Limit(0.05, _OTEL),),
    ),
    Row("p999", "step p99.9, burst of 1 thread", "burst", "step_p999", "µs", (Limit(1000),), (Limit(300),)),
    Row("start", "run start, p50", "paced", "start_p50", "µs", core=(Limit(10),)),
    Row("end", "run end, p50", "paced", "end_p50", "µs", core=(Limit(10),)),
    Row("100k", "step with 100 KB, p50", "large", "step_p50", "µs", (Limit(0.40, _OTEL),), (Limit(0.25, _OTEL),)),
    Row("cpu", "CPU an event that was tracked", "burst", "cpu", "µs", (Limit(0.42, _EITHER),), (Limit(0.25, _EITHER),)),
    Row("cpu-delivered", "CPU an event that arrived", "burst", "cpu_whole", "µs"),
    Row(
        "rate",
        "events/s end to end, 1 thread",
        "burst",
        "per_second",
        "/s",
        (Limit(2, _LIBHONEY),),
        (Limit(3, _LIBHONEY),),
        more_is_better=True,
    ),
    Row(
        "rate-4",
        "events/s end to end, 4 threads",
        "burst4",
        "per_second",
        "/s",
        (Limit(2, _LIBHONEY),),
        (Limit(3, _LIBHONEY),),
        more_is_better=True,
    ),
    Row("loss", "lost of 20 000, burst of 1 thread", "burst", "lost", "%", core=(Limit(0),)),
    Row("loss-4", "lost of 20 000, burst of 4 threads", "burst4", "lost", "%", core=(Limit(0),)),
    Row("loss-slow", "lost at 1 000 steps/s, backend takes 200 ms", "slow", "lost", "%", core=(Limit(0),)),
    Row("memory", "peak memory, burst", "burst", "peak_mb", "MB", core=(Limit(64),)),
    Row("memory-gone", "peak memory, 60 000 steps, backend gone", "gone", "peak_mb", "MB", core=(Limit(64),)),
    Row("exit", "exit, backend healthy", "exit_ok", "exit_seconds", "s", also=("whole", 200), core=(Limit(0.06),)),
    Row("exit-hang", "exit, backend hangs", "exit_hang", "exit_seconds", "s", core=(Limit(2.1),)),
    Row("exit-gone", "exit, connections refused", "exit_gone", "exit_seconds", "s", core=(Limit(0.2),)),
    Row("import", "import, net of Python", "import", "import_ms", "ms", core=(Limit(40),)),
    Row("first", "from nothing to the end of a first run", "first", "first_ms", "ms"),
    Row("wire", "bytes on the wire an event", "burst", "wire_bytes", "B", (Limit(620),), (Limit(500),)),
    Row("slow", "step p50, backend takes 200 ms, to healthy", "calm", "change_delay", "×", core=(Limit(1.1),)),
    Row("hang", "step p50, backend hangs, to healthy", "calm", "change_hang", "×", core=(Limit(1.1),)),
    Row("gone", "step p50, backend gone, to healthy", "calm", "change_gone", "×", core=(Limit(1.1),)),
    Row("gil", "another thread's 100 µs, p99.9 longer by", "gil", "longer", "µs", core=(Limit(1000),)),
    Row(
        "receiver",
        "receiver, events/s stored",
        "receiver",
        "stored_per_second",
        "/s",
        (Limit(20_000),),
        more_is_better=True,
        subjects=_RECEIVER,
    ),
    Row(
        "receiver-memory",
        "receiver, memory at the end to early",
        "receiver",
        "rss_grown",
        "×",
        (Limit(1.2),),
        subjects=_RECEIVER,
    ),
    Row(
        "receiver-runs",
        "receiver, CPU an event, 1 000 and 100 000 steps to 10",
        "receiver",
        "grown",
        "×",
        (Limit(1.2),),
        subjects=_RECEIVER,
    ),
    Row(
        "load",
        "CPU an event, load 10 and 100 times as large",
        "growth",
        "grown",
        "×",
        also=("lost", 0),
        core=(Limit(1.2),),
    ),
    Row(
        "runs",
        "CPU an event, runs of 1 000 and 100 000 steps to 10",
        "lengths",
        "grown",
        "×",
        also=("lost", 0),
        core=(Limit(1.2),),
    ),
)


@dataclass(frozen=True)
class Line:
    """One row of the table, for one subject and one limit."""

    row: Row
    subject: str
    value: Spread | None
    """None if the row was not measured."""
    limit: Limit | None = None
    compared: Spread | None = None
    """The spread that is compared with the limit: of the ratios to the best peer, or of the value itself."""
    peer: Spread | None = None
    """The values of the best peer."""
    met: bool | None = None
    """None without a limit, or without a measurement."""
    why: str = ""
    """The reason why there is no value, or why the limit is missed in spite of the value."""


def with_net_cpu(samples: Iterable[Sample]) -> list[Sample]:
    """Add `cpu` and `cpu_whole` to the samples: CPU µs for each tracked and each arrived event, less the loop without an SDK."""
    given = list(samples)
    loops: dict[str, list[float]] = {}
    for sample in given:
        if sample.subject == "nothing" and "cpu_seconds" in sample.figures:
            loops.setdefault(sample.measure, []).append(sample.figures["cpu_seconds"])
    found = []
    for sample in given:
        figures = sample.figures
        if sample.measure in loops and "cpu_seconds" in figures:
            net = max(0.0, figures["cpu_seconds"] - statistics.median(loops[sample.measure])) * 1e6
            more = {"cpu": net / figures["tracked"]}
            if figures["whole"]:
                more["cpu_whole"] = net / figures["whole"]
            sample = replace(sample, figures={**figures, **more})
        found.append(sample)
    return found


def lines(samples: Iterable[Sample], rows: Iterable[Row] = ROWS) -> list[Line]:
    """The lines of the table. A ratio is taken within a round, and the median over the rounds is judged."""
    values: dict[tuple[str, str], dict[int, Sample]] = {}
    for sample in with_net_cpu(samples):
        values.setdefault((sample.measure, sample.subject), {})[sample.round] = sample
    found = []
    for row in rows:
        for subject in row.subjects:
            taken = values.get((row.measure, subject), {})
            for limit in row.limits(subject) or (None,):
                found.append(_line(row, subject, limit, taken, values))
    return found


def _line(
    row: Row,
    subject: str,
    limit: Limit | None,
    taken: Mapping[int, Sample],
    values: Mapping[tuple[str, str], Mapping[int, Sample]],
) -> Line:
    own = _by_round(row, taken)
    value = spread(own.values())
    errors = [sample.error for sample in taken.values() if sample.error]
    if value is None or errors:
        return Line(
            row, subject, value, limit, met=False if errors else None, why=errors[0] if errors else "not measured"
        )
    if limit is None:
        return Line(row, subject, value)
    why = _also(row, taken)
    if not limit.of:
        return Line(row, subject, value, limit, value, met=not why and _within(row, value.median, limit.at), why=why)
    peers = [_by_round(row, values.get((row.measure, peer), {})) for peer in limit.of]
    absent = [peer for peer, figures in zip(limit.of, peers, strict=True) if not figures]
    if absent:
        return Line(row, subject, value, limit, why=f"no {' and no '.join(absent)} to compare with")
    choose = max if row.more_is_better else min
    shared = set.intersection(*(set(figures) for figures in peers))
    best = {number: choose(figures[number] for figures in peers) for number in shared}
    ratios = spread(own[number] / best[number] for number in own if best.get(number))
    if ratios is None:
        return Line(row, subject, value, limit, why="no round that has both")
    met = not why and _within(row, ratios.median, limit.at)
    return Line(row, subject, value, limit, ratios, spread(best.values()), met, why)


def _by_round(row: Row, samples: Mapping[int, Sample]) -> dict[int, float]:
    return {number: sample.figures[row.figure] for number, sample in samples.items() if row.figure in sample.figures}


def _also(row: Row, samples: Mapping[int, Sample]) -> str:
    """The failure of the row's `also` condition; an empty text if it holds."""
    if row.also is None:
        return ""
    name, wanted = row.also
    found = [sample.figures.get(name, 0.0) for sample in samples.values()]
    wrong = next((figure for figure in found if figure != wanted), None)
    return "" if wrong is None else f"{name} is {wrong:g}, not {wanted:g}"


def _within(row: Row, value: float, limit: float) -> bool:
    return value >= limit if row.more_is_better else value <= limit


def chosen(keys: Iterable[str]) -> list[Row]:
    """The rows with these keys, or all rows without keys. Raises `ValueError` for an unknown key."""
    wanted = list(keys)
    known = {row.key: row for row in ROWS}
    unknown = [key for key in wanted if key not in known]
    if unknown:
        raise ValueError(f"no row {', '.join(unknown)}; there are {', '.join(known)}")
    return [row for row in ROWS if not wanted or row.key in wanted]
