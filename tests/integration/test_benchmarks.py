"""The benchmarks run, and this SDK loses nothing in them. Their figures are not judged here."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.command import run

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]  # 18 measures, each in new processes


def test_a_quick_run_measures_every_row_and_loses_nothing(tmp_path: Path) -> None:
    found, drawn = tmp_path / "found.json", tmp_path / "drawn.svg"
    options = ("--quick", "--peers", "", "--json", str(found), "--svg", str(drawn))
    result = run("-m", "benchmarks", *options, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    document = json.loads(found.read_text(encoding="utf-8"))
    unmeasured = {line["row"] for line in document["lines"] if line["value"] is None}
    assert unmeasured == set(), result.stderr
    assert {sample["error"] for sample in document["samples"]} == {""}
    lossless = {sample["measure"] for sample in document["samples"] if sample["figures"].get("lost") == 0}
    assert lossless >= {"burst", "burst4", "slow", "large", "growth", "lengths"}
    assert ElementTree.fromstring(drawn.read_text(encoding="utf-8")).tag.endswith("svg")
    again = run("-m", "benchmarks", "--from", str(found), "--rows", "step,wire")
    assert again.returncode == 0, again.stderr
    assert "step all-in on the caller, paced" in again.stdout
    assert "bytes on the wire an event" in again.stdout


def test_the_path_of_a_step_is_shown_from_the_call_to_the_wire() -> None:
    result = run("-m", "benchmarks.path", timeout=200)
    assert result.returncode == 0, result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[1].startswith("AgentScope     caller")
    assert lines.index("agentscope.pipeline.queue") < lines.index("agentscope.exporters.http.session")
    assert "opentelemetry.exporter.otlp.proto.http.trace_exporter" in lines


def test_two_checkouts_are_compared_by_one_command() -> None:
    result = run("-m", "benchmarks.against", ".", "--quick", "--rounds", "1", "--measures", "burst,import", timeout=200)
    assert result.returncode == 0, result.stderr
    assert "| events/s " in result.stdout
    assert "| import " in result.stdout
