"""The spool's directory: whose files are in it, and which of them nobody lives for any more.

Each session has a file and a lock beside it. The lock is the operating system's and this process's alone: it ends with the
process, however that ends, a forked child does not hold it, and no process id has to be believed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from typing import Any

from .spoolfile import parts

_owned: set[str] = set()
"""Locks that this process holds. To open such a file again and close it would release it: POSIX has it so."""


class Denied(Exception):
    """The directory cannot be used; the sentence says why."""


def prepare(directory: str) -> None:
    """Make the directory, for its owner alone, or see that the one that is there will do. Raises `Denied`."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        found = os.stat(directory)
        if not stat.S_ISDIR(found.st_mode):
            raise Denied(f"{directory} is not a directory")
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            raise Denied(f"anybody may write to {directory}")
        if found.st_uid == os.geteuid() and found.st_mode & 0o077 and not _has_strangers(directory):
            os.chmod(directory, 0o700)
    except OSError as error:
        raise Denied(f"{directory} cannot be used: {error.strerror}") from None


def _has_strangers(directory: str) -> bool:
    return any(not _is_ours(entry.name) for entry in os.scandir(directory))


def _is_ours(name: str) -> bool:
    return any(
        name.endswith(suffix) or f"{suffix}.corrupt-" in name for suffix in (".db", ".db-wal", ".db-shm", ".lock")
    )


class Claim:
    """A lock that is held, on the file `path` with the database's name; `release` gives it back."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.held = True

    @property
    def database(self) -> str:
        return _database_of(self.path)

    def release(self) -> None:
        """Let others have the file."""
        if self.held:
            self.held = False
            _owned.discard(self.path)
            os.close(self._descriptor)

    def remove(self) -> None:
        """Delete the file, and the lock last: nobody may adopt what is half gone."""
        for path in (*parts(self.database), self.path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
        self.release()

    def quarantine(self) -> str:
        """Rename a file that is broken, so that nobody stumbles over it again, and give its new path."""
        number = 1
        while os.path.lexists(target := f"{self.database}.corrupt-{number}"):
            number += 1
        for path in reversed(parts(self.database)):
            try:
                os.rename(path, path.replace(self.database, target))
            except FileNotFoundError:
                pass
        os.unlink(self.path)
        self.release()
        return target


def claim_new(directory: str, name: str) -> Claim:
    """A lock for a session's file that is to be made. Raises `OSError`."""
    claim = _claim(os.path.join(directory, f"{name}.lock"), os.O_CREAT | os.O_EXCL)
    if claim is None:
        raise BlockingIOError("somebody else holds the lock of a file that was made just now")
    return claim


def orphans(directory: str, prefix: str, skipped: Collection[str] = ()) -> Iterator[Claim]:
    """Files beginning with `prefix` whose owner does not live any more, each locked for this process. Raises `OSError`.

    `skipped` are the locks of those that are not wanted.
    """
    names = sorted(entry.name for entry in os.scandir(directory) if entry.name.startswith(prefix))
    stems = {name.removesuffix(suffix) for suffix in (".lock", ".db") for name in names if name.endswith(suffix)}
    for stem in sorted(stems):
        path = os.path.join(directory, f"{stem}.lock")
        if path not in _owned and path not in skipped:
            claim = _claim(path, os.O_CREAT)
            if claim is not None:
                yield claim


def bytes_in(directory: str) -> int:
    """What all files in the directory take."""
    total = 0
    for entry in os.scandir(directory):
        try:
            total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            continue
    return total


def _claim(path: str, flags: int) -> Claim | None:
    """The lock, if it is free; None if somebody holds it, or has just removed it."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, lockf
    except ImportError:  # Windows
        raise Denied("this system has no locks that end with their process") from None
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    _owned.add(path)
    try:
        lockf(descriptor, LOCK_EX | LOCK_NB)
        if _same(os.fstat(descriptor), path):
            return Claim(path, descriptor)
    except OSError:
        pass
    except BaseException:
        _owned.discard(path)
        os.close(descriptor)
        raise
    _owned.discard(path)
    os.close(descriptor)
    return None


def _same(found: os.stat_result, path: str) -> bool:
    """Whether the file that was opened still has its name."""
    try:
        now: Any = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)


def _database_of(lock: str) -> str:
    return f"{lock.removesuffix('.lock')}.db"


def after_fork_in_child() -> None:
    """Nothing here is this process's: the locks are the parent's."""
    _owned.clear()
