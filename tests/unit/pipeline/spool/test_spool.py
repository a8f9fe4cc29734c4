"""A session's file: when it is made, its bound, what is said when it does not work, and what is never in it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from unittest.mock import patch

import pytest

from agentscope.config import Config
from agentscope.pipeline.spool import database as spoolfile
from agentscope.pipeline.spool.spool import RETRY, place_for
from tests.support.spools import LONG, Bench, Disk, connected, kill, left, recover

MiB = 1 << 20
CANARY = "ask_canary_3f9a"


def takes(directory: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(directory))


def test_nothing_is_made_before_there_is_something_to_store(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool")
    bench.store()
    bench.end()
    assert not (tmp_path / "spool").exists()


def test_a_place_is_named_for_its_destination_and_tells_keys_apart_without_the_key(tmp_path: Path) -> None:
    config = Config(spool_dir=str(tmp_path))
    here = place_for(config, "Kind", "http://here", [CANARY])
    there = place_for(config, "Kind", "http://there", [CANARY])
    other = place_for(config, "Kind", "http://here", ["ask_other"])
    assert here is not None
    assert there is not None
    assert other is not None
    assert here.prefix == other.prefix != there.prefix
    assert here.key_mark == there.key_mark != other.key_mark
    assert CANARY not in repr((here, there, other))
    assert place_for(Config(), "Kind", "http://here", [CANARY]) is None


def test_no_key_is_in_any_file(tmp_path: Path) -> None:
    place = place_for(Config(spool_dir=str(tmp_path)), "AgentScopeExporter", "http://here", [CANARY])
    assert place is not None
    bench = Bench(tmp_path, key_mark=place.key_mark)
    bench.put(10)
    bench.store()
    assert len(left(tmp_path)) == 4
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert CANARY.encode() not in content
        assert CANARY not in path.name


@pytest.mark.parametrize("size", [500, 20_000, 200_000])
def test_files_never_take_more_than_their_bound_and_what_found_no_room_is_counted(tmp_path: Path, size: int) -> None:
    bound = 2 * MiB
    bench = Bench(tmp_path, spool_max_bytes=bound, max_queue_bytes=4 * MiB)
    accepted = 0
    for _ in range(120):
        accepted += len(bench.put(max(100_000 // size, 1), size=size, input=b'"' + b"x" * (size - 400) + b'"'))
        bench.now += 1.1
        bench.store()
        assert takes(tmp_path) <= bound + MiB / 2  # a transaction is what it may be passed by
    dropped = bench.ledger.dropped()
    assert dropped["spool_full"] == bench.seq - accepted - dropped.get("queue_full", 0) > 0
    bench.now += LONG
    bench.send_all()
    assert bench.ledger.delivered == accepted
    assert set(bench.backend.stored) == bench.ids(set(range(1, bench.seq + 1)) - bench.refusals)
    bench.put(10)
    bench.now += LONG
    bench.store()
    assert len(bench.rows()) == 10  # there is room again
    assert bench.spool.problem is None


def test_what_others_take_of_the_directory_counts(tmp_path: Path) -> None:
    (tmp_path / "others").write_bytes(bytes(2 * MiB))
    bench = Bench(tmp_path, spool_max_bytes=2 * MiB)
    bench.put(5)
    bench.store()
    assert (bench.states.counts().pending, bench.spool.reason) == (5, "spool_full")
    (tmp_path / "others").unlink()
    bench.now += LONG
    bench.store()
    assert bench.states.counts().spooled == 5


def test_a_file_that_was_large_gives_its_room_back_once_all_is_delivered(tmp_path: Path) -> None:
    bench = Bench(tmp_path, batch_size=500)
    for _ in range(12):
        bench.put(10, size=100_000, input=b"x" * 100_000)
        bench.store()
    assert takes(tmp_path) > 8 * MiB
    bench.send_all()
    assert takes(tmp_path) < MiB


def test_trouble_is_said_once_and_so_is_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with Disk().under() as disk:
        bench = Bench(tmp_path)
        disk.mode = "broken"
        for _ in range(10):
            bench.put(1)
            bench.store()
            bench.now += RETRY + 1
        disk.mode = ""
        bench.store()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "the spool does not work, events are kept in memory: disk I/O error",
        "the spool works again",
    ]


def test_a_spool_that_is_full_again_and_again_is_no_flood_of_warnings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bench = Bench(tmp_path, spool_max_bytes=MiB, max_queue_bytes=4 * MiB)
    for number in range(40):
        bench.put(10, size=10_000, input=b"x" * 9_600)
        bench.now += 1.1
        bench.store()
        if number % 3 == 0:
            bench.send()
    assert bench.ledger.dropped().get("spool_full", 0) + bench.states.counts().pending > 0
    assert len(caplog.records) <= 4


def test_a_file_that_could_not_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    with Disk().under() as disk:
        bench = Bench(tmp_path)
        disk.mode = "full"
        bench.put(3)
        for _ in range(5):
            bench.store()
            bench.now += LONG
        assert len(left(tmp_path)) == 1  # the lock
        disk.mode = ""
        bench.store()
        assert bench.rows() == [1, 2, 3]


def test_a_file_that_breaks_is_put_aside_and_what_memory_has_of_it_is_written_anew(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_queue_bytes=160 * 256)
    for _ in range(3):
        bench.put(40)
        bench.store()
    alone = bench.states.disk_only
    path = bench.file
    bench.spool._close_file()
    path.write_bytes(b"garbage" * 2000)
    bench.put(1)
    bench.store()
    assert bench.ledger.dropped() == {"spool_error": alone}
    assert f"{path.name}.corrupt-1" in left(tmp_path)
    bench.send_all()
    assert bench.ledger.delivered == 121 - alone
    bench.end()
    kill(bench)
    recover(Bench(tmp_path))
    assert left(tmp_path) == [f"{path.name}.corrupt-1"]


def test_a_directory_that_cannot_be_made_is_said_and_events_go_on_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    bench = Bench(tmp_path / "file" / "spool")
    bench.put(3)
    bench.store()
    assert bench.spool.problem is not None
    assert "cannot be used" in bench.spool.problem
    bench.send_all()
    assert bench.ledger.delivered == 3
    bench.end()


def test_rights_that_are_taken_away_are_said_and_come_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(3)
    with patch.object(spoolfile.os, "open", side_effect=PermissionError(13, "Permission denied", "one.db")):
        bench.store()
    assert bench.spool.problem is not None
    assert "Permission denied" in bench.spool.problem
    bench.now += LONG
    bench.store()
    assert bench.rows() == [1, 2, 3]
    assert bench.spool.problem is None


def test_a_curious_reader_does_no_harm(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(3)
    bench.store()
    with connected(bench.file) as db:
        db.execute("BEGIN")
        assert db.execute("SELECT count(*) FROM events").fetchone() == (3,)
        bench.put(3)
        bench.send_all()
        assert bench.states.counts().delivered == 6
    assert bench.rows() == []


def locking(monkeypatch: pytest.MonkeyPatch, *errors: int) -> None:
    """The next attempts to lock a file end with these numbers."""
    left = list(errors)
    lockf = fcntl.lockf

    def lock(descriptor: int, command: int) -> None:
        if left:
            error = left.pop(0)
            raise OSError(error, os.strerror(error))
        lockf(descriptor, command)

    monkeypatch.setattr(fcntl, "lockf", lock)


def test_a_session_takes_another_name_when_who_looks_for_orphans_is_quicker_to_lock_its_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    locking(monkeypatch, errno.EAGAIN, errno.EACCES)
    bench = Bench(tmp_path)
    bench.put(3)
    bench.store()
    assert bench.states.spooled == 3
    assert bench.spool.problem is None
    assert caplog.text == ""
    kill(bench)
    assert recover(Bench(tmp_path)).recovered == 3
    assert left(tmp_path) == []


def test_where_files_cannot_be_locked_that_is_said_and_none_are_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    bench.put(3)
    for _ in range(5):
        locking(monkeypatch, errno.ENOLCK)
        bench.store()
        bench.now += RETRY
    assert bench.spool.problem is not None
    assert os.strerror(errno.ENOLCK) in bench.spool.problem
    assert left(tmp_path) == []
    bench.send_all()
    assert bench.ledger.delivered == 3


def test_where_others_take_each_new_file_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locking(monkeypatch, *[errno.EAGAIN] * 3)
    bench = Bench(tmp_path)
    bench.put(3)
    bench.store()
    assert bench.spool.problem is not None
    assert "others take each new file" in bench.spool.problem
    bench.now += RETRY
    bench.store()
    assert bench.states.spooled == 3
