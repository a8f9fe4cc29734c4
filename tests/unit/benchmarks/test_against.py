"""`benchmarks.against` compares two checkouts: whose code runs where, ratios round by round, and what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.against import BEFORE, COMPARED, LOOP, MORE, NOW, main, order, table, verdict
from benchmarks.field.measures import MEASURES
from benchmarks.field.numbers import Spread
from benchmarks.field.runner import Sample
from benchmarks.field.subjects import ROOT, checkout, environment
from benchmarks.field.table import FIGURES, Figure

LESS = Figure("a call", "burst", "step_p50", "µs")
MORE_OF_IT = Figure("events/s", "burst", "per_second", "")


def row_of(text: str, title: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {title}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_another_checkout_runs_its_own_package_and_the_benchmarks_of_this_one(tmp_path: Path) -> None:
    (tmp_path / "agentscope").mkdir()
    (tmp_path / "agentscope" / "__init__.py").write_text("")
    (tmp_path / "benchmarks.py").write_text("raise SystemExit('the wrong benchmarks')")
    program = "import agentscope, benchmarks.field; print(agentscope.__file__, benchmarks.__file__, sep='\\n')"
    with checkout(tmp_path) as directory:
        ended = subprocess.run(
            [sys.executable, "-c", program],
            cwd=directory,
            env=environment(directory),
            capture_output=True,
            text=True,
            check=True,
        )
        package, benchmarks = map(Path, ended.stdout.split())
        assert package.samefile(tmp_path / "agentscope" / "__init__.py")
    assert benchmarks == ROOT / "benchmarks" / "__init__.py"
    assert not directory.exists()


def test_this_checkout_runs_where_it_is() -> None:
    with checkout(ROOT) as directory:
        assert directory == ROOT
    assert "PYTHONPATH" not in environment(ROOT)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is no checkout"), checkout(tmp_path):
        pass


def test_the_order_changes_from_round_to_round() -> None:
    assert order("burst", 0) == [LOOP, BEFORE, NOW]
    assert order("burst", 1) == [LOOP, NOW, BEFORE]
    assert order("import", 2) == [BEFORE, NOW]


def test_a_ratio_is_taken_within_a_round() -> None:
    values = {BEFORE: [10.0, 20.0, 40.0], NOW: [11.0, 20.0, 36.0]}
    samples = [
        Sample("burst", name, number, {"step_p50": value, "lost": 0.0})
        for name, found in values.items()
        for number, value in enumerate(found)
    ]
    told = table(samples, ["burst"])
    assert row_of(told, "step p50, burst")[1:4] == ["20 µs (10–40)", "20 µs (11–36)", "1 × (0.90–1.10)"]
    assert row_of(told, "lost, burst  ")[3] == "–"
    assert "import" not in told


def test_the_loop_alone_is_taken_off_the_cpu_time() -> None:
    whole = {"tracked": 1000.0, "whole": 1000.0}
    costs = {LOOP: 0.25, BEFORE: 0.75, NOW: 0.5}
    samples = [Sample("burst", name, 0, {"cpu_seconds": cost, **whole}) for name, cost in costs.items()]
    assert row_of(table(samples, ["burst"]), "CPU an event that was tracked")[1:4] == ["500 µs", "250 µs", "0.50 ×"]


@pytest.mark.parametrize(
    ("figure", "ratios", "said"),
    [
        (LESS, Spread(1.1, 1.05, 1.2), "worse"),
        (LESS, Spread(0.8, 0.7, 0.9), "better"),
        (MORE_OF_IT, Spread(1.1, 1.05, 1.2), "better"),
        (MORE_OF_IT, Spread(0.8, 0.7, 0.9), "worse"),
        (LESS, Spread(1.1, 0.99, 1.2), ""),
        (LESS, Spread(1.01, 1.005, 1.03), ""),
        (LESS, None, ""),
    ],
)
def test_a_difference_is_one_that_every_round_shows(figure: Figure, ratios: Spread | None, said: str) -> None:
    assert verdict(figure, ratios) == said


def test_every_measure_that_is_taken_has_a_figure_that_is_shown() -> None:
    assert set(COMPARED) <= {figure.measure for figure in (*FIGURES, *MORE)} <= set(MEASURES)


def test_an_unknown_measure_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([".", "--measures", "speed"])
    assert "no measure speed; there are paced, " in capsys.readouterr().err
