"""The sample agent's way through a directory, whatever is in there."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from agentscope.cli.demo import files
from agentscope.cli.demo.files import Listing, list_files, read_text, shown


def test_lists_regular_files_nearest_first(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("z.txt", "b/a.txt", "b/c/a.txt"):
        (tmp_path / name).write_text("text")
    listing = list_files(str(tmp_path))
    assert (listing.files, listing.bytes, listing.complete) == (["z.txt", "b/a.txt", "b/c/a.txt"], 12, True)


def test_an_empty_directory_has_no_files(tmp_path: Path) -> None:
    assert list_files(str(tmp_path)) == Listing()


def test_leaves_alone_what_is_hidden_generated_private_empty_or_a_link(tmp_path: Path) -> None:
    for name in (".git", "node_modules"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inside").write_text("text")
    (tmp_path / ".env").write_text("secret")
    (tmp_path / "server.PEM").write_text("secret")
    (tmp_path / "id_rsa").write_text("secret")
    (tmp_path / "nothing").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    listing = list_files(str(tmp_path))
    assert listing.files == []
    assert listing.skipped == {"hidden": 2, "generated": 1, "private": 2, "empty": 1, "link": 1, "not a file": 1}


def test_stops_at_the_bounds_of_files_and_time(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).write_text("text")
    with mock.patch.object(files, "MAX_FILES", 3):
        few = list_files(str(tmp_path))
    assert (len(few.files), few.complete) == (3, False)
    ticks = iter([0.0, 0.0, 0.0, 99.0])
    late = list_files(str(tmp_path), now=lambda: next(ticks))
    assert (len(late.files), late.complete) == (2, False)


def test_stops_at_the_bound_of_depth_and_at_other_file_systems(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with mock.patch.object(files, "MAX_DEPTH", 1):
        assert list_files(str(tmp_path)).skipped == {"too deep": 1}
    waiting: deque[tuple[str, int]] = deque()
    with os.scandir(tmp_path) as entries:
        entry = next(iter(entries))
        assert files._look_at(entry, "", 0, -1, waiting, Listing()) == "other file system"


def test_counts_what_it_may_not_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("folder"):
            raise PermissionError(path)
        return scandir(path)

    with mock.patch("os.scandir", refuse):
        listing = list_files(str(tmp_path))
    assert (listing.files, listing.skipped) == (["file"], {"unreadable": 1})


def test_an_entry_that_vanishes_meanwhile_is_counted_and_its_neighbours_stay(tmp_path: Path) -> None:
    (tmp_path / "gone").write_text("text")
    (tmp_path / "kept").write_text("text")
    look_at = files._look_at

    def vanish(entry: os.DirEntry[str], *rest: Any) -> str | None:
        if entry.name == "gone":
            raise FileNotFoundError(entry.name)
        return look_at(entry, *rest)

    with mock.patch.object(files, "_look_at", vanish):
        listing = list_files(str(tmp_path))
    assert (listing.files, listing.skipped) == (["kept"], {"unreadable": 1})


def test_file_names_that_are_not_utf_8_are_listed_read_and_shown(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("coffee")
    (name,) = list_files(str(tmp_path)).files
    assert read_text(str(tmp_path), name) == "coffee"
    assert shown(name) == "caf�.txt"


@pytest.mark.parametrize("content", [b"\x7fELF\0\0", bytes(range(128, 256)) * 4])
def test_binaries_are_not_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "binary").write_bytes(content)
    with pytest.raises(ValueError, match="not a text file"):
        read_text(str(tmp_path), "binary")


def test_a_large_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "large").write_text("x" * 100_000)
    assert len(read_text(str(tmp_path), "large")) == files.MAX_BYTES_A_FILE
