"""Events of dead processes for an address that is not used any more: they have an age and a share of the spool."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from agentscope.pipeline.spool import gone
from agentscope.pipeline.spool.gone import LOOK, MOST_AGE, SHARE
from tests.support.spools import Bench, kill, left, recover

GONE = "AgentScopeExporter http://gone.test:8000"
PROBLEM = "1 file of ended processes in the spool for another address or key: `agentscope replay` sends the events"


def leave(directory: Path, days: float = 0.0, size: int = 100, **options: str) -> Path:
    """Leave five events of a process that is dead for so many days, for an address that is gone. Returns their file."""
    before = set(directory.glob("*.db"))
    dead = Bench(directory, **{"destination": GONE, **options})  # type: ignore[arg-type]  # of several types
    dead.put(5, size)
    dead.store()
    kill(dead)
    gone._used.discard(dead.place.prefix)
    (file,) = set(directory.glob("*.db")) - before
    changed = time.time() - days * 86_400
    for path in directory.glob(f"{file.name}*"):
        os.utime(path, (changed, changed))
    return file


@pytest.fixture(autouse=True)
def _nothing_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gone, "_used", set())


def look(heir: Bench) -> None:
    heir.now += LOOK
    recover(heir)


def test_what_waits_for_an_address_that_is_gone_is_told_of_and_kept(tmp_path: Path) -> None:
    leave(tmp_path, days=1)
    heir = Bench(tmp_path)
    recover(heir)
    assert (heir.spooling.problem, heir.spool.problem) == (PROBLEM, None)
    assert (heir.backend.stored, len(list(tmp_path.glob("*.db")))) == ({}, 1)


def test_a_look_does_not_make_it_any_younger(tmp_path: Path) -> None:
    file = leave(tmp_path, days=3)
    changed = file.stat().st_mtime
    heir = Bench(tmp_path)
    for _ in range(3):
        look(heir)
    assert file.stat().st_mtime == changed


@pytest.mark.parametrize("options", [{}, {"destination": "AgentScopeExporter http://platform.test", "key_mark": "old"}])
def test_what_is_too_old_is_deleted_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, str]
) -> None:
    leave(tmp_path, days=MOST_AGE / 86_400 + 1, **options)
    heir = Bench(tmp_path)
    caplog.set_level(logging.WARNING, logger="agentscope")
    recover(heir)
    assert (heir.spooling.problem, left(tmp_path)) == (None, [])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("deleted 5 events in the spool for http://")
    assert line.endswith("which is not used any more: they are too old")


def test_beyond_its_share_the_oldest_are_deleted_and_new_events_have_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [leave(tmp_path, days=5 - number, size=40_000) for number in range(4)]
    size = sum(path.stat().st_size for path in tmp_path.glob(f"{files[0].name}*"))
    heir = Bench(tmp_path, spool_max_bytes=int(2.5 * size / SHARE))
    recover(heir)
    assert [file.exists() for file in files] == [False, False, True, True]
    assert [record.getMessage().endswith("take too much of spool_max_bytes") for record in caplog.records] == [True] * 2
    heir.put(3)
    heir.store()
    assert heir.spool.problem is None
    heir.send_all()
    assert len(heir.backend.stored) == 3


def test_what_a_living_process_uses_is_neither_counted_nor_deleted(tmp_path: Path) -> None:
    living = Bench(tmp_path, destination=GONE)
    living.put(3)
    living.store()
    heir = Bench(tmp_path)
    recover(heir)
    assert heir.spooling.problem is None
    living.send_all()
    assert len(living.backend.stored) == 3


def test_another_destination_of_this_process_is_not_gone(tmp_path: Path) -> None:
    leave(tmp_path, days=100)
    other = Bench(tmp_path, destination=GONE)
    heir = Bench(tmp_path)
    recover(heir)
    assert (heir.spooling.problem, len(list(tmp_path.glob("*.db")))) == (None, 1)
    recover(other)
    assert len(other.backend.stored) == 5


def test_a_file_that_cannot_be_read_is_not_deleted(tmp_path: Path) -> None:
    file = leave(tmp_path)
    for path in tmp_path.glob(f"{file.name}-*"):
        path.unlink()
    file.write_bytes(b"not a database" * 1000)
    os.utime(file, (0, 0))
    heir = Bench(tmp_path)
    recover(heir)
    assert (heir.spooling.problem, file.exists()) == (PROBLEM, True)
