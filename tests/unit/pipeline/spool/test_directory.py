"""The spool's directory: rights, links, locks, and what strangers have put there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentscope.pipeline.spool import directory as spooldir
from agentscope.pipeline.spool.directory import Denied, bytes_in, claim_new, orphans, prepare

LOCKER = """
import sys
from fcntl import LOCK_EX, lockf
file = open(sys.argv[1], "r+")
lockf(file, LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture(autouse=True)
def _locks() -> Iterator[None]:
    """No test leaves a lock behind."""
    before = set(spooldir._owned)
    yield
    assert spooldir._owned == before


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def found(directory: Path, prefix: str = "") -> list[str]:
    """The names of what nobody holds, all of it locked and let go again."""
    claims = list(orphans(str(directory), prefix))
    for claim in claims:
        claim.release()
    return [os.path.basename(claim.path) for claim in claims]


@pytest.mark.usefixtures("no_umask")
def test_a_directory_that_is_made_is_for_its_owner_alone(tmp_path: Path) -> None:
    prepare(str(tmp_path / "deep" / "spool"))
    assert mode(tmp_path / "deep" / "spool") == 0o700


def test_an_empty_directory_and_an_own_one_become_private(tmp_path: Path) -> None:
    for name in ("empty", "own"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "own" / "1-2.db").touch()
    for name in ("empty", "own"):
        prepare(str(tmp_path / name))
        assert mode(tmp_path / name) == 0o700


def test_a_directory_that_others_use_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    tmp_path.chmod(0o755)
    prepare(str(tmp_path))
    assert mode(tmp_path) == 0o755


LOOSE = pytest.mark.parametrize("permissions", [0o777, 0o1777, 0o703, 0o770, 0o775])


@LOOSE
def test_a_directory_that_others_use_and_may_write_to_is_refused_even_if_it_is_sticky(
    tmp_path: Path, permissions: int
) -> None:
    (tmp_path / "notes.txt").touch()
    tmp_path.chmod(permissions)
    for use in (prepare, found):
        with pytest.raises(Denied, match="other users may write"):
            use(tmp_path)
    assert mode(tmp_path) == permissions


@LOOSE
def test_a_directory_that_others_may_write_to_and_have_not_is_made_private_before_it_is_believed(
    tmp_path: Path, permissions: int
) -> None:
    tmp_path.chmod(permissions)
    with pytest.raises(Denied, match="other users may write"):
        found(tmp_path)
    prepare(str(tmp_path))
    assert (mode(tmp_path), found(tmp_path)) == (0o700, [])


@LOOSE
def test_a_directory_with_a_file_that_another_user_made_is_refused(tmp_path: Path, permissions: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    (tmp_path / "aa-0.db").touch()
    os.chown(tmp_path / "aa-0.db", 12345, 12345)
    tmp_path.chmod(permissions)
    with pytest.raises(Denied, match="other users may write"):
        prepare(str(tmp_path))


@pytest.mark.parametrize("permissions", [0o700, 0o755])
def test_a_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, permissions: int
) -> None:
    tmp_path.chmod(permissions)
    (tmp_path / "aa-1.db").touch()
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    for use in (prepare, found):
        with pytest.raises(Denied, match="belongs to another user"):
            use(tmp_path)
    assert mode(tmp_path) == permissions


def test_a_link_that_another_user_made_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    prepare(str(tmp_path / "link"))
    os.lchown(tmp_path / "link", 12345, 12345)
    with pytest.raises(Denied, match="belongs to another user"):
        prepare(str(tmp_path / "link"))


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    for path in (tmp_path / "spool", tmp_path / "spool" / "below"):
        with pytest.raises(Denied, match="cannot be used"):
            prepare(str(path))


@pytest.mark.usefixtures("no_umask")
def test_a_lock_is_private_from_its_creation_and_never_taken_over(tmp_path: Path) -> None:
    claim = claim_new(str(tmp_path), "one")
    assert mode(tmp_path / "one.lock") == 0o600
    claim.release()
    with pytest.raises(FileExistsError):
        claim_new(str(tmp_path), "one")


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    (tmp_path / "one.lock").symlink_to(target)
    with pytest.raises(OSError):
        claim_new(str(tmp_path), "one")
    assert not target.exists()


def test_what_this_process_holds_is_no_orphan_and_what_it_let_go_is(tmp_path: Path) -> None:
    claim = claim_new(str(tmp_path), "one")
    assert found(tmp_path) == []
    claim.release()
    assert found(tmp_path) == ["one.lock"]


def test_a_session_stays_held_whatever_way_the_directory_is_spelled(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "spool")
    claim = claim_new(str(tmp_path / "spool"), "one")
    assert found(tmp_path / "link") == []
    claim.release()


def test_a_lock_is_free_as_soon_as_its_process_is_dead(tmp_path: Path) -> None:
    lock = tmp_path / "one.lock"
    lock.touch()
    with subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert found(tmp_path) == []
        process.kill()
        process.wait()
        assert found(tmp_path) == ["one.lock"]


def test_a_forked_child_does_not_hold_its_parents_lock_and_its_end_does_not_free_it(tmp_path: Path) -> None:
    claim = claim_new(str(tmp_path), "one")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            spooldir.after_fork_in_child()
            # The child may ask for it as any other process, and does not get it.
            status = 0 if not list(orphans(str(tmp_path), "")) else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    script = "import sys; from agentscope.pipeline.spool.directory import orphans; print(len(list(orphans(sys.argv[1], ''))))"
    asked = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == "0\n"
    claim.release()
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == "1\n"


def test_a_database_whose_lock_somebody_deleted_is_found(tmp_path: Path) -> None:
    (tmp_path / "one.db").touch()
    assert found(tmp_path) == ["one.lock"]


def test_other_destinations_files_and_those_of_strangers_are_not_touched(tmp_path: Path) -> None:
    for name in ("aa-1.db", "bb-1.db", "notes.txt", "aa-2.db.corrupt-1", "aa-3.db-wal"):
        (tmp_path / name).touch()
    assert found(tmp_path, "aa") == ["aa-1.lock"]
    assert not (tmp_path / "bb-1.lock").exists()


@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "pipe", "link to a file"])
def test_what_cannot_be_locked_does_not_keep_others_from_being_found(tmp_path: Path, kind: str) -> None:
    strange = tmp_path / "aa-0.lock"
    (tmp_path / "target").mkdir()
    if kind == "directory":
        strange.mkdir()
    elif kind == "pipe":
        os.mkfifo(strange)
    else:
        (tmp_path / "file").touch()
        strange.symlink_to({"link": tmp_path / "target", "link to a file": tmp_path / "file"}.get(kind, "nowhere"))
    (tmp_path / "aa-1.db").touch()
    assert found(tmp_path, "aa") == ["aa-1.lock"]


def test_a_database_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "aa-0.db").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "aa-1.db").touch()
    assert found(tmp_path, "aa") == ["aa-1.lock"]


def test_what_another_user_owns_is_left_alone(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    (tmp_path / "aa-0.db").touch()
    os.chown(tmp_path / "aa-0.db", 12345, 12345)
    (tmp_path / "aa-1.lock").touch()
    os.chown(tmp_path / "aa-1.lock", 12345, 12345)
    assert found(tmp_path, "aa") == []


def test_what_is_removed_is_gone_with_all_its_parts(tmp_path: Path) -> None:
    claim = claim_new(str(tmp_path), "one")
    for suffix in (".db", ".db-wal", ".db-shm", ".db-journal"):
        (tmp_path / f"one{suffix}").touch()
    claim.remove()
    assert os.listdir(tmp_path) == []
    claim.remove()  # again does no harm
    claim.release()


def test_what_cannot_be_removed_is_let_go_without_a_word(tmp_path: Path) -> None:
    claim = claim_new(str(tmp_path), "one")
    (tmp_path / "one.db").mkdir()  # which unlink refuses, from root as well
    claim.remove()
    assert not claim.held


def test_broken_files_are_renamed_each_to_a_name_of_its_own(tmp_path: Path) -> None:
    names = []
    for number in range(3):
        claim = claim_new(str(tmp_path), "one")
        for suffix in (".db", ".db-wal"):
            (tmp_path / f"one{suffix}").write_text(str(number))
        names.append(os.path.basename(claim.quarantine()))
    assert names == [f"one.db.corrupt-{number}" for number in (1, 2, 3)]
    assert sorted(os.listdir(tmp_path)) == sorted([*names, *(f"{name}-wal" for name in names)])
    assert (tmp_path / "one.db.corrupt-2-wal").read_text() == "1"
    assert found(tmp_path) == []


def test_what_the_directory_takes_is_the_sum_of_its_files_and_links_count_for_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(1000))
    (tmp_path / "two").write_bytes(bytes(500))
    assert bytes_in(str(tmp_path)) == 1500
