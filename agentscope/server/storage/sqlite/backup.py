"""A copy of a database, made while a receiver writes to it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from agentscope.errors import ConfigurationError

from .schema import APPLICATION_ID, open_reader, verify


def back_up(source: Path, target: Path) -> int:
    """Copy the database `source` to a new file, check the copy, and return its size in bytes.

    The copy holds everything that was stored when it began, and is one file of mode 0600 without a log beside it. The
    receiver goes on meanwhile: it does not wait for readers. Raises `ConfigurationError` for a source that is no database
    of a receiver and for a target that exists, `OSError` or `sqlite3.Error` where the copy fails.
    """
    if not source.is_file():
        raise ConfigurationError(f"there is no database at {source}.")
    if target.exists():
        raise ConfigurationError(f"{target} exists; name a new file.")
    part = target.with_name(f"{target.name}.part")
    os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        _copy(source, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        size = part.stat().st_size
        part.rename(target)
    except BaseException:
        part.unlink()
        raise
    return size


def _copy(source: Path, target: Path) -> None:
    reader = open_reader(source)
    try:
        try:
            found = reader.execute("PRAGMA application_id").fetchone()[0]
        except sqlite3.DatabaseError as problem:
            raise ConfigurationError(f"{source} cannot be read as a database ({problem}).") from None
        if found != APPLICATION_ID:
            raise ConfigurationError(f"{source} is no database of a receiver.")
        copy = sqlite3.connect(target, isolation_level=None)
        try:
            reader.backup(copy)  # in one step: in several it would begin again after every write of the receiver
            copy.execute("PRAGMA journal_mode=DELETE")  # the receiver sets it to WAL again
            verify(copy)
        finally:
            copy.close()
    finally:
        reader.close()
