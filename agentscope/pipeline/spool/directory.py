"""The spool's directory: the files in it, their owners, and the orphans among them.

Each session has a file and a lock file beside it. The operating system releases the lock when the process ends, in whatever
way. A forked child does not hold it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

from .database import parts, remove

Identity = tuple[int, int]
"""Device and inode: a directory may be known under several names."""

_owned: set[Identity] = set()
"""Locks that this process holds. Their files must not be opened again: by POSIX, any close of a file releases its locks."""


class Denied(Exception):
    """The directory cannot be used. The text is one sentence with the reason."""


def prepare(directory: str) -> None:
    """Make the directory, for its owner alone, or check an existing one. Raises `Denied`."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if _status(directory).st_mode & 0o077 and not _has_strangers(directory):
            os.chmod(directory, 0o700)
        _check(directory)
    except OSError as error:
        raise Denied(f"{directory} cannot be used: {error.strerror}") from None


def _status(directory: str) -> os.stat_result:
    """Return the status of a directory of this user. Raises `Denied` for the directory of another user.

    The other user could replace files by links, which this process would follow with its own rights.
    """
    found = os.stat(directory)
    if not stat.S_ISDIR(found.st_mode):
        raise Denied(f"{directory} is not a directory")
    # A link to it may also be the administrator's.
    if found.st_uid != os.geteuid() or os.lstat(directory).st_uid not in (os.geteuid(), 0):
        raise Denied(f"{directory} belongs to another user: name a directory that this user has made")
    return found


def _check(directory: str) -> None:
    """Raise `Denied` if other users may write to the directory, since they could forge events."""
    if _status(directory).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Denied(
            f"other users may write to {directory}: name a directory of this user alone, such as one inside of it"
        )


def _has_strangers(directory: str) -> bool:
    """Return whether there are files of other programs or users."""
    with os.scandir(directory) as entries:
        return any(
            not _is_ours(entry.name) or entry.stat(follow_symlinks=False).st_uid != os.geteuid() for entry in entries
        )


def _is_ours(name: str) -> bool:
    return name.endswith((*parts(".db"), ".lock")) or ".db.corrupt-" in name


class Claim:
    """A lock that is held, on the file `path` with the database's name; `release` gives it back."""

    def __init__(self, path: str, descriptor: int, identity: Identity) -> None:
        self.path = path
        self._descriptor = descriptor
        self._identity = identity
        self.held = True

    @property
    def database(self) -> str:
        return _database_of(self.path)

    def release(self) -> None:
        """Release the file to other processes."""
        if self.held:
            self.held = False
            _owned.discard(self._identity)
            os.close(self._descriptor)

    def remove(self) -> None:
        """Delete the file, then the lock, so that no process adopts a file that is partly deleted. Errors are ignored."""
        remove(self.database)
        try:
            os.unlink(self.path)
        except OSError:
            pass  # there is nothing behind it
        self.release()

    def quarantine(self) -> str:
        """Rename a broken file, so that no process reads it again. Returns the new path."""
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


def claim_new(directory: str, name: str) -> Claim | None:
    """Make and lock the lock file of a new session. None if another process took it for an orphan's, and will remove it.

    Raises `OSError`.
    """
    path = os.path.join(directory, f"{name}.lock")
    try:
        return _claim(path, os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        raise
    except OSError:  # there are file systems without locks
        with suppress(OSError):
            os.unlink(path)
        raise


def orphans(directory: str, prefix: str, skipped: Collection[str] = ()) -> Iterator[Claim]:
    """Yield a lock for each file whose name begins with `prefix` and whose owner is dead, except those in `skipped`.

    Raises `OSError` and `Denied`.
    """
    _check(directory)
    names = sorted(entry.name for entry in os.scandir(directory) if entry.name.startswith(prefix))
    stems = {name.removesuffix(suffix) for suffix in (".lock", ".db") for name in names if name.endswith(suffix)}
    for stem in sorted(stems):
        path = os.path.join(directory, f"{stem}.lock")
        if _database_of(path) not in skipped and _is_safe(path) and _is_safe(_database_of(path)):
            try:
                claim = _claim(path, os.O_CREAT)
            except OSError:
                continue
            if claim is not None:
                yield claim


def _is_safe(path: str) -> bool:
    """Return whether this is a regular file of this user that this process has not locked, or is missing."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and (found.st_dev, found.st_ino) not in _owned


def bytes_in(directory: str) -> int:
    """Return the bytes of all files in the directory."""
    total = 0
    for entry in os.scandir(directory):
        try:
            total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            continue
    return total


def _claim(path: str, flags: int) -> Claim | None:
    """Return the lock if it is free; None if another process holds it, or has just removed it."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, lockf
    except ImportError:  # Windows
        raise Denied("this system has no locks that end with their process") from None
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    try:
        lockf(descriptor, LOCK_EX | LOCK_NB)
        found = os.fstat(descriptor)
        if _same(found, path):
            identity = (found.st_dev, found.st_ino)
            _owned.add(identity)
            return Claim(path, descriptor, identity)
    except (BlockingIOError, PermissionError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _same(found: os.stat_result, path: str) -> bool:
    """Return whether the opened file still has its name."""
    try:
        now: Any = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)


def _database_of(lock: str) -> str:
    return f"{lock.removesuffix('.lock')}.db"


def after_fork_in_child() -> None:
    """Forget the locks: they belong to the parent."""
    _owned.clear()
