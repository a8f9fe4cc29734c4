"""The demonstration: the sample agent's way through a directory, whatever is in there."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentscope.cli.demo import agent
from agentscope.cli.demo.agent import list_files, read_text


def test_lists_regular_files_nearest_first(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("z.txt", "b/a.txt", "b/c/a.txt"):
        (tmp_path / name).write_text("text")
    assert list_files(str(tmp_path)) == ["z.txt", "b/a.txt", "b/c/a.txt"]


def test_an_empty_directory_has_no_files(tmp_path: Path) -> None:
    assert list_files(str(tmp_path)) == []


def test_leaves_out_hidden_generated_private_and_empty_files_and_links(tmp_path: Path) -> None:
    for name in (".git", "node_modules"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inside").write_text("text")
    for name in (".env", "server.PEM", "id_rsa", "kept"):
        (tmp_path / name).write_text("text")
    (tmp_path / "nothing").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert list_files(str(tmp_path)) == ["kept"]


def test_stops_at_the_bounds_of_files_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a", "b", "folder/c"):
        (tmp_path / name).write_text("text")
    monkeypatch.setattr(agent, "MAX_FILES", 1)
    assert list_files(str(tmp_path)) == ["a"]
    monkeypatch.setattr(agent, "MAX_FILES", 300)
    ticks = iter([0.0, 0.0, 99.0])
    monkeypatch.setattr(agent, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    assert list_files(str(tmp_path)) == ["a", "b"]


def test_stays_on_one_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("text")
    monkeypatch.setattr(os, "stat", lambda path: SimpleNamespace(st_dev=-1))
    assert list_files(str(tmp_path)) == []


def test_leaves_out_a_folder_that_it_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("folder"):
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list_files(str(tmp_path)) == ["file"]


def test_an_entry_that_vanishes_meanwhile_is_left_out_and_its_neighbours_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gone", "kept", "more"):
        (tmp_path / name).write_text("text")
    lstat = os.lstat

    def vanish(path: str) -> os.stat_result:
        if path.endswith("gone"):
            raise FileNotFoundError(path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", vanish)
    assert list_files(str(tmp_path)) == ["kept", "more"]


def test_file_names_that_are_not_utf_8_are_listed_and_read(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("coffee")
    (name,) = list_files(str(tmp_path))
    assert read_text(str(tmp_path / name)) == "coffee"


@pytest.mark.parametrize("content", [b"\x7fELF\0\0", bytes(range(128, 256)) * 4])
def test_binaries_are_not_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "binary").write_bytes(content)
    with pytest.raises(ValueError, match="not a text file"):
        read_text(str(tmp_path / "binary"))


def test_a_large_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "large").write_text("x" * 100_000)
    assert len(read_text(str(tmp_path / "large"))) == agent.MAX_FILE_BYTES
