"""The report of the benchmarks: the tables, the chart, and the document that can be read again."""

from __future__ import annotations

import json
import random
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.__main__ import losses, options
from benchmarks.field.chart import PANELS, picture
from benchmarks.field.record import document, read, versions
from benchmarks.field.rows import ROWS, lines
from benchmarks.field.runner import Sample, turns
from benchmarks.field.subjects import Subject
from benchmarks.field.table import field_table, number, summary, table

SVG = "{http://www.w3.org/2000/svg}"
SAMPLES = [
    Sample("paced", "agentscope", 0, {"all_in": 20.0, "start_p50": 9.0, "end_p50": 12.0}, others=0.1),
    Sample("paced", "otel", 0, {"all_in": 100.0}, version="1.45", others=0.5),
    Sample("burst4", "agentscope", 0, {"step_p99": 30.0, "per_second": 25_000.0, "lost": 0.0}),
    Sample("burst4", "otel", 0, {"step_p99": 200.0, "per_second": 9_000.0, "lost": 0.125}),
]


def subject(name: str) -> Subject:
    return Subject(name, "python")


def row_of(text: str, title: str) -> list[str]:
    """The cells of the first line that begins with `title`."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {title}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_tells_value_ratio_target_and_verdict() -> None:
    told = table(lines(SAMPLES))
    assert row_of(told, "step all-in")[1:] == ["core", "20 µs", "OpenTelemetry 100 µs", "0.20 ×", "≤ 0.25 ×", "met"]
    assert row_of(told, "run end")[5:] == ["≤ 10 µs", "MISSED by 20%"]
    assert row_of(told, "step p99, burst of 4")[4:] == ["0.15 ×", "≤ 0.1 ×", "MISSED by 50%"]
    assert row_of(told, "import")[2:] == ["–", "", "", "≤ 40 ms", "–: not measured"]
    assert len({len(line) for line in told.splitlines()}) == 1


def test_several_rounds_show_their_spread() -> None:
    more = Sample("paced", "agentscope", 1, {"all_in": 30.0})
    assert row_of(table(lines([*SAMPLES, more])), "step all-in")[2] == "25 µs (20–30)"


def test_the_table_of_all_sdks_has_a_column_for_each() -> None:
    told = field_table(SAMPLES)
    assert row_of(told, " ")[1:] == ["AgentScope", "OpenTelemetry"]
    assert row_of(told, "lost, burst of 4")[1:] == ["0 %", "12.5 %"]
    assert "import" not in told


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (25_000.4, "/s", "25 000 /s"),
        (123.4, "µs", "123 µs"),
        (12.34, "µs", "12.3 µs"),
        (2.0, "×", "2 ×"),
        (0.25, "×", "0.25 ×"),
        (0.0568, "s", "0.057 s"),
        (0.0, "%", "0 %"),
        (0.007, "%", "0.70 %"),
    ],
)
def test_a_number_has_the_digits_that_count(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_the_summary_counts_and_says_how_far_the_figures_can_be_trusted() -> None:
    said = summary(lines(SAMPLES), SAMPLES)
    assert "3 of 5 targets met." in said
    assert "Others used 0.30 cores meanwhile, and 0.50 at the worst" in said
    assert "mean nothing" in summary(lines(SAMPLES), SAMPLES, quick=True)


def test_the_picture_is_well_formed_and_names_what_it_shows() -> None:
    root = ElementTree.fromstring(picture(SAMPLES, "one <machine> & more"))
    assert root.attrib["role"] == "img"
    assert {child.attrib["id"] for child in root if "id" in child.attrib} == set(root.attrib["aria-labelledby"].split())
    description = root.findtext(f"{SVG}desc") or ""
    assert "AgentScope 20 µs, OpenTelemetry 100 µs" in description
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "one <machine> & more" in texts
    assert {"20 µs", "100 µs", "12.5 %"} <= set(texts)
    assert "prefers-color-scheme: dark" in (root.findtext(f"{SVG}style") or "")


def test_bars_are_as_long_as_their_values() -> None:
    root = ElementTree.fromstring(picture(SAMPLES[:2], ""))
    own, peer = (bar for bar in root.iter(f"{SVG}rect") if bar.attrib["class"] in ("own", "peer"))
    assert float(own.attrib["width"]) / float(peer.attrib["width"]) == pytest.approx(0.2, abs=0.001)


def test_there_is_no_picture_of_nothing() -> None:
    with pytest.raises(ValueError, match="no figure"):
        picture([], "")


def test_a_panel_shows_a_figure_that_is_a_row() -> None:
    assert {(panel.measure, panel.figure) for panel in PANELS} <= {(row.measure, row.figure) for row in ROWS}


def test_documents_are_read_as_one_with_all_their_rounds(tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        path.write_text(json.dumps(document(SAMPLES, lines(SAMPLES), share=1.0)))
    found = read(paths)
    assert [sample.round for sample in found] == [0] * 4 + [1] * 4
    assert found[:4] == SAMPLES
    assert versions(found) == {"otel": "1.45"}


def test_another_document_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"other\.json was not written by --json"):
        read([path])


def test_each_sdk_is_measured_in_each_round_and_slow_peers_in_fewer() -> None:
    there = {name: subject(name) for name in ("agentscope", "otel", "nothing")}
    taken = [
        (turn.round, turn.measure, turn.subject.name)
        for turn in turns(there, ["burst", "exit_hang"], 2, 1.0, random.Random(1))
    ]
    assert sorted(taken) == [
        *((0, "burst", name) for name in ("agentscope", "nothing", "otel")),
        *((0, "exit_hang", name) for name in ("agentscope", "otel")),
        *((1, "burst", name) for name in ("agentscope", "nothing", "otel")),
        (1, "exit_hang", "agentscope"),
    ]
    quick = list(turns(there, ["exit_hang"], 1, 0.05, random.Random(1)))
    assert [turn.subject.name for turn in quick] == ["agentscope"]


def test_losses_of_this_sdk_are_named_and_those_of_peers_are_not() -> None:
    assert losses(SAMPLES) == []
    lost = Sample("slow", "agentscope-fast", 0, {"lost": 0.01})
    assert losses([*SAMPLES, lost]) == ["agentscope-fast lost 1.0% in slow"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rows", "speed"], "no row speed"),
        (["--peers", "otle"], "no otle"),
        (["--peer-python", "otel"], "otel is not NAME=PYTHON"),
        (["--peer-python", "otle=/bin/python"], "no otle"),
    ],
)
def test_a_wrong_option_says_what_there_is(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options(arguments)
    assert said in capsys.readouterr().err
