"""A short soak test, and tests of its verdict."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from agentscope.server.storage.sqlite.schema import open_writer
from benchmarks.soak.verdict import END, START, Promise, Verdict, judge
from tests.support.command import run


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.timing(reason="the machine must find the time to be killed in")
def test_what_was_promised_is_stored_once_though_everything_is_killed_and_the_network_breaks(tmp_path: Path) -> None:
    """Two seeds: `agentscope replay` empties the spool after one, a producer that goes on after the other."""
    seeds = soaked(tmp_path / "found.json", seconds=6)
    if not eventful(seeds):
        seeds = soaked(tmp_path / "found.json", seconds=40)  # the machine was too busy
    assert eventful(seeds)


def soaked(found: Path, seconds: int) -> list[dict[str, Any]]:
    """The results of all seeds, each of which must be ok."""
    # Events are on disk within a quarter of a second on a quiet machine. This one may be busy.
    options = (
        "--promise",
        "3",
        "--seeds",
        "2",
        "--seconds",
        str(seconds),
        "--events",
        "1000000",
        "--kill-every",
        "1.2",
    )
    result = run("-m", "benchmarks.soak", *options, "--json", str(found), timeout=250)
    assert result.returncode == 0, result.stdout + result.stderr
    document = json.loads(found.read_text())
    assert document["ok"] is True
    for seed in document["seeds"]:
        assert (seed["lost"], seed["twice"], seed["left"], seed["broken"]) == (0, 0, 0, [])
    seeds: list[dict[str, Any]] = document["seeds"]
    return seeds


def eventful(seeds: list[dict[str, Any]]) -> bool:
    """Whether there was something to be lost. Which moment is drawn is up to the machine, too: of one seed it may be no kill."""
    killed = [sum(seed[side] for seed in seeds) for side in ("producers_killed", "receivers_killed")]
    return min(*killed, *(seed[what] for seed in seeds for what in ("promised", "faulted", "checks"))) > 0


def judged(db: Path, stored: dict[str, Iterable[int]], *promises: Promise) -> Verdict:
    """The verdict on a database with these events of these runs."""
    connection: sqlite3.Connection = open_writer(db)
    for key, (run_id, numbers) in enumerate(stored.items(), 1):
        connection.execute(
            "INSERT INTO runs (key, id, agent_name, status, failed, first_at, began, touched_at) VALUES (?,?,'','',0,'','',0)",
            (key, run_id),
        )
        for position, number in enumerate(numbers):
            kind = {START: "run.start", END: "run.end"}.get(number, "step")
            connection.execute(
                "INSERT INTO events (id, run, session_id, received_at, body) VALUES (?,?,'',0,?)",
                (f"{run_id} {position}", key, json.dumps({"type": kind, "name": str(number)})),
            )
    connection.close()
    return judge(db, promises)


@pytest.mark.parametrize(
    ("stored", "promise", "lost", "twice", "beyond"),
    [
        ([0, 1, 2], Promise("a", 3), 0, 0, 0),
        ([0, 1, 2, 3, 4], Promise("a", 3), 0, 0, 2),
        ([0, 1, 2, END], Promise("a", 4, ended=True), 0, 0, 0),
        ([2, 0, END, 1], Promise("a", 3), 0, 0, 1),
        ([], Promise("a", 0), 0, 0, 0),
        ([0, 2], Promise("a", 3), 1, 0, 0),
        ([1, 2, 3], Promise("a", 3), 1, 0, 1),
        ([0, 1, 2], Promise("a", 4, ended=True), 1, 0, 0),
        ([], Promise("a", 3), 3, 0, 0),
        ([0, 2], Promise("a", 4, forgiven=1), 1, 0, 0),
        ([0, 2], Promise("a", 3, forgiven=1), 0, 0, 0),
        ([0, 1, 1, 2, 2, 2], Promise("a", 3), 0, 2, 0),
        ([0, 1, END, END], Promise("a", 3, ended=True), 0, 1, 0),
        ([0, 0, 2], Promise("a", 3), 1, 1, 0),
    ],
)
def test_the_verdict_finds_what_is_missing_and_what_is_there_twice(
    tmp_path: Path, stored: list[int], promise: Promise, lost: int, twice: int, beyond: int
) -> None:
    verdict = judged(tmp_path / "r.db", {"a": stored, "b": [0, 1]}, promise)
    assert (verdict.lost, verdict.twice, verdict.beyond) == (lost, twice, beyond + 2)
    assert verdict.stored == len(stored) + 2
    assert bool(verdict.examples) == bool(lost or twice)


def test_a_run_of_which_nothing_is_stored_is_lost(tmp_path: Path) -> None:
    assert judged(tmp_path / "r.db", {}, Promise("a", 5)).lost == 5
