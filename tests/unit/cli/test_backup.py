"""`agentscope backup`: a whole copy or none, of the right database only."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from agentscope.cli.main import main
from agentscope.server.storage.sqlite import backup
from agentscope.server.storage.sqlite.schema import Corrupt
from agentscope.server.storage.sqlite.store import SQLiteStore


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "runs.db"
    SQLiteStore(path).close()
    return path


def test_a_copy_is_one_private_file_that_opens(db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "copies"
    target.mkdir()
    assert main(["backup", "--db", os.fspath(db), os.fspath(target / "copy.db")]) == 0
    assert str(target / "copy.db") in capsys.readouterr().out
    assert [path.name for path in target.iterdir()] == ["copy.db"]
    assert stat.S_IMODE((target / "copy.db").stat().st_mode) == 0o600
    store = SQLiteStore(target / "copy.db")
    assert store.health()["events"] == 0
    store.close()


def test_the_database_is_that_of_the_environment(db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTSCOPE_DB", os.fspath(db))
    assert main(["backup", os.fspath(tmp_path / "copy.db")]) == 0


def test_a_file_that_exists_is_not_replaced(db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "copy.db").write_text("mine")
    assert main(["backup", "--db", os.fspath(db), os.fspath(tmp_path / "copy.db")]) == 1
    assert "exists; name a new file" in capsys.readouterr().err
    assert (tmp_path / "copy.db").read_text() == "mine"


def test_only_the_database_of_a_receiver_is_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    (tmp_path / "text").write_text("no database at all" * 100)
    for name, sentence in (
        ("nothing", "no database at"),
        ("other.db", "no database of a receiver"),
        ("text", "read as a database"),
    ):
        assert main(["backup", "--db", os.fspath(tmp_path / name), os.fspath(tmp_path / "copy.db")]) == 1
        assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.db", "text"]


def test_a_copy_that_is_not_whole_gets_no_name(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(connection: sqlite3.Connection) -> None:
        raise Corrupt("a page is missing")

    monkeypatch.setattr(backup, "verify", broken)
    assert main(["backup", "--db", os.fspath(db), os.fspath(tmp_path / "copy.db")]) == 1
    assert "could not be copied: a page is missing" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []
