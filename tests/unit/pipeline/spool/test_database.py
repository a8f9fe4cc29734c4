"""One file of the spool: what is written comes back, and whatever is wrong with a file has a name."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentscope.events import Session
from agentscope.pipeline.spool.codec import pack
from agentscope.pipeline.spool.database import APPLICATION_ID, PAGE, VERSION, Corrupt, Origin, SpoolFile, Unusable
from tests.support.spools import Disk, connected, event

ORIGIN = Origin(Session("session", "prefix-"), "AgentScopeExporter http://localhost:8000", "mark")
EVERYTHING = (0, 1 << 62, 1_000, 1 << 30)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.db"


@pytest.fixture
def file(path: Path) -> Iterator[SpoolFile]:
    file = SpoolFile.create(str(path), ORIGIN)
    yield file
    file.close()


def write(file: SpoolFile, *seqs: int) -> None:
    file.write([(seq, pack(event(seq))) for seq in seqs], ())


def seqs(file: SpoolFile) -> list[int]:
    return [event.seq for event in file.read(*EVERYTHING)]


def test_what_was_written_is_read_and_what_was_removed_is_not(file: SpoolFile) -> None:
    write(file, 1, 2, 3)
    file.write([(4, pack(event(4)))], [2])
    assert file.read(*EVERYTHING) == [event(1), event(3), event(4)]
    assert file.count() == 3


def test_an_event_that_is_written_twice_is_there_once(file: SpoolFile) -> None:
    write(file, 1)
    write(file, 1, 2)
    assert seqs(file) == [1, 2]


def test_reading_goes_on_behind_a_number_and_keeps_to_its_limits(file: SpoolFile) -> None:
    write(file, *range(1, 11))
    assert [event.seq for event in file.read(3, 9, 2, 1 << 30)] == [4, 5]
    assert [event.seq for event in file.read(8, 9, 100, 1 << 30)] == [9]
    three = 2 * len(pack(event(1))) + 1  # bytes
    assert [event.seq for event in file.read(0, 99, 100, three)] == [1, 2, 3]
    assert [event.seq for event in file.read(0, 99, 100, 1)] == [1]  # one at least, or it would never get on


def test_a_transaction_is_written_whole_or_not_at_all(path: Path) -> None:
    with Disk().under() as disk:
        file = SpoolFile.create(str(path), ORIGIN)
        write(file, 1, 2)
        disk.mode = "full"
        with pytest.raises(sqlite3.OperationalError):
            file.write([(3, pack(event(3)))], [1])
        disk.mode = ""
        assert seqs(file) == [1, 2]
        file.close()


def test_files_are_private_from_their_creation_with_all_their_parts(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file = SpoolFile.create(str(tmp_path / "one.db"), ORIGIN)
        write(file, 1)
    finally:
        os.umask(before)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(tmp_path)}
    assert modes == {"one.db": 0o600, "one.db-wal": 0o600, "one.db-shm": 0o600}
    file.close()


def test_a_file_or_a_link_that_is_there_is_never_taken_over(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(OSError, match="exists"):
        SpoolFile.create(str(path), ORIGIN)
    assert not (tmp_path / "elsewhere.db").exists()


def test_a_file_tells_whose_it_is(file: SpoolFile, path: Path) -> None:
    write(file, 1)
    file.note_refused()
    file.close()
    again = SpoolFile.open(str(path))
    assert again.origin == ORIGIN._replace(refused=True)
    assert seqs(again) == [1]
    again.close()


def test_what_was_committed_survives_a_process_that_never_closes(file: SpoolFile, path: Path, tmp_path: Path) -> None:
    write(file, 1, 2)
    there = tmp_path / "there"
    there.mkdir()
    for part in (path, Path(f"{path}-wal")):
        (there / part.name).write_bytes(part.read_bytes())
    again = SpoolFile.open(str(there / path.name))
    assert seqs(again) == [1, 2]
    again.close()


def test_a_torn_end_of_the_log_costs_only_what_was_never_committed(file: SpoolFile, path: Path, tmp_path: Path) -> None:
    write(file, 1)
    first = os.path.getsize(f"{path}-wal")
    write(file, 2)
    log = Path(f"{path}-wal").read_bytes()
    for number, length in enumerate(range(first, len(log), 499)):
        there = tmp_path / str(number)
        there.mkdir()
        (there / path.name).write_bytes(path.read_bytes())
        (there / f"{path.name}-wal").write_bytes(log[:length])
        again = SpoolFile.open(str(there / path.name))
        assert seqs(again) == [1]
        again.close()


def test_a_damaged_record_is_left_out_counted_and_removed(file: SpoolFile, path: Path) -> None:
    write(file, 1, 2, 3)
    with connected(path) as db:
        db.execute("UPDATE events SET data=? WHERE seq=2", (pack(event(1)),))
        db.commit()
    assert seqs(file) == [1, 3]
    assert (file.damaged, file.count()) == (1, 2)


@pytest.mark.parametrize("value", ["text", "\ud800".encode("utf-8", "surrogatepass"), 7, 1.5, b""])
def test_a_record_of_any_other_kind_is_damaged(file: SpoolFile, path: Path, value: object) -> None:
    write(file, 1, 2)
    with connected(path) as db:
        db.execute("UPDATE events SET data=CAST(? AS TEXT) WHERE seq=1", (value,))
        db.commit()
    assert seqs(file) == [2]
    assert file.damaged == 1


def make_empty(path: Path) -> None:
    path.touch()


def make_nothing(path: Path) -> None:
    """Only its lock was made, or is left."""


def make_database_without_tables(path: Path) -> None:
    with connected(path) as db:
        db.execute("PRAGMA journal_mode=WAL")


def make_zeros_at_the_end_of_nothing(path: Path) -> None:
    make_empty(path)
    Path(f"{path}-wal").write_bytes(bytes(5000))


def make_foreign_database(path: Path) -> None:
    with connected(path) as db:
        db.execute("CREATE TABLE notes (text)")
        db.commit()


def make_future_version(path: Path) -> None:
    SpoolFile.create(str(path), ORIGIN).close()
    with connected(path) as db:
        db.execute(f"PRAGMA user_version={VERSION + 1}")


def make_garbage(path: Path) -> None:
    path.write_bytes(os.urandom(10_000))


def make_zeros(path: Path) -> None:
    path.write_bytes(bytes(10_000))


def make_text(path: Path) -> None:
    path.write_text("Dear diary,\n" * 1000)


def make_file_of_nobody(path: Path) -> None:
    SpoolFile.create(str(path), ORIGIN).close()
    with connected(path) as db:
        db.execute("DELETE FROM about")
        db.commit()


def make_origin_of_numbers(path: Path) -> None:
    SpoolFile.create(str(path), ORIGIN).close()
    with connected(path) as db:
        db.execute("UPDATE about SET destination=x'ff'")
        db.commit()


def make_file_without_its_tables(path: Path) -> None:
    with connected(path) as db:
        db.execute("CREATE TABLE other (x)")
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={VERSION}")
        db.commit()


def make_table_with_a_letter_wrong(path: Path) -> None:
    SpoolFile.create(str(path), ORIGIN).close()
    path.write_bytes(path.read_bytes().replace(b"INTEGER PRIMARY", b"INTEGES PRIMARY"))


def make_file_that_seems_to_have_no_tables(path: Path) -> None:
    SpoolFile.create(str(path), ORIGIN).close()
    content = bytearray(path.read_bytes())
    content[101:105] = bytes(4)  # the number of cells of the first page
    path.write_bytes(content)


@pytest.mark.parametrize(
    "make", [make_empty, make_nothing, make_database_without_tables, make_zeros_at_the_end_of_nothing]
)
def test_a_file_that_was_never_finished_may_be_removed(path: Path, make) -> None:
    make(path)
    with pytest.raises(Unusable) as caught:
        SpoolFile.open(str(path))
    assert not caught.value.foreign


def test_to_look_for_a_file_that_is_not_there_makes_none(path: Path, tmp_path: Path) -> None:
    with pytest.raises(Unusable):
        SpoolFile.open(str(path))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("make", [make_foreign_database, make_future_version])
def test_what_others_may_read_is_theirs(path: Path, make) -> None:
    make(path)
    before = path.read_bytes()
    with pytest.raises(Unusable) as caught:
        SpoolFile.open(str(path))
    assert caught.value.foreign
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "make",
    [
        make_garbage,
        make_zeros,
        make_text,
        make_file_of_nobody,
        make_origin_of_numbers,
        make_file_without_its_tables,
        make_table_with_a_letter_wrong,
        make_file_that_seems_to_have_no_tables,
    ],
)
def test_what_nobody_can_read_is_broken(path: Path, make) -> None:
    make(path)
    with pytest.raises(Corrupt):
        SpoolFile.open(str(path))


def test_a_file_keeps_to_its_limit_and_takes_more_once_there_is_room(file: SpoolFile) -> None:
    file.limit(20, 1 << 20)
    number = 0
    with pytest.raises(sqlite3.OperationalError, match="full"):
        while True:
            number += 1
            file.write([(number, pack(event(number, input=b"x" * PAGE)))], ())
    assert os.path.getsize(file.path) <= 20 * PAGE
    file.write((), [1, 2, 3, 4])
    write(file, 1000)
    assert 1000 in seqs(file)


def test_an_empty_file_gives_its_room_back(file: SpoolFile) -> None:
    file.write([(seq, pack(event(seq, input=b"x" * PAGE))) for seq in range(1, 500)], ())
    file.write((), range(1, 500))
    file.shrink()
    assert sum(os.path.getsize(f"{file.path}{part}") for part in ("", "-wal")) < 20 * PAGE
