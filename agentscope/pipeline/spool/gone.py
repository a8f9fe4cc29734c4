"""Files of dead processes for an address or a key that this process does not use: bounds on their age and their size.

A process with that address and key, or `agentscope replay`, sends them. If neither runs, the bounds keep room for new events.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import NamedTuple

from agentscope.pipeline.reporting import counted, logger
from agentscope.protocols.responses import clean

from . import directory as spooldir
from .database import SpoolFile, parts
from .directory import Claim, Denied

MOST_AGE = 14 * 86_400.0
"""Seconds from the last change of such a file to its deletion."""
SHARE = 0.5
"""The part of `spool_max_bytes` that all such files may take. Beyond it the oldest are deleted."""
LOOK = 60.0
"""Seconds between two checks."""


_used: set[str] = set()
"""The prefixes of the file names of all destinations of this process."""


class _File(NamedTuple):
    changed: float
    size: int
    claim: Claim


class GoneFiles:
    """The files and their bounds, for the thread that delivers. It holds `threads.disk()`."""

    def __init__(self, directory: str, max_bytes: int, prefix: str) -> None:
        _used.add(prefix)
        self._directory = directory
        self._max_bytes = max_bytes
        self._next = 0.0
        self.problem: str | None = None
        """The size of such files, in one sentence; None if there are none."""

    def limit(self, now: float, refused: Collection[str]) -> None:
        """Delete the files beyond the bounds, if a check is due.

        now: monotonic time in seconds. refused: the files for an address of this process that need another key.
        """
        if now < self._next:
            return
        self._next = now + LOOK
        found: list[_File] = []
        try:
            for claim in spooldir.orphans(self._directory, ""):
                is_used = os.path.basename(claim.path).partition("-")[0] in _used and claim.database not in refused
                file = None if is_used else _read(claim)
                if file is None:
                    claim.release()
                else:
                    found.append(file)
            self._delete(sorted(found, key=lambda file: file.changed))
        except (OSError, Denied):
            return  # the session's own spool logs it
        finally:
            for file in found:
                file.claim.release()

    def _delete(self, found: list[_File]) -> None:
        """Delete the files that are too old or too many. `found` is ordered, oldest first."""
        total, oldest = sum(file.size for file in found), time.time() - MOST_AGE
        kept = 0
        for file in found:
            is_old = file.changed < oldest
            if is_old or total > SHARE * self._max_bytes:
                kept += not _deleted(
                    file.claim, "they are too old" if is_old else "they take too much of spool_max_bytes"
                )
                total -= file.size
            else:
                kept += 1
        self.problem = None
        if kept:
            files = counted(kept, "file", "files")
            sentence = (
                "of ended processes in the spool for another address or key: `agentscope replay` sends the events"
            )
            self.problem = f"{files} {sentence}"


def _read(claim: Claim) -> _File | None:
    existing = [path for path in parts(claim.database) if os.path.exists(path)]
    if not existing:
        return None
    changed = max(os.path.getmtime(path) for path in existing if not path.endswith("-shm"))
    return _File(changed, sum(map(os.path.getsize, existing)), claim)


def _deleted(claim: Claim, why: str) -> bool:
    """Delete a file, and log the number of its events. False for a file of another program or one that cannot be read."""
    try:
        file = SpoolFile.open(claim.database)
        try:
            events, address = file.count(), file.origin.destination.partition(" ")[2]
        finally:
            file.close()
    except Exception:
        return False
    claim.remove()
    if events:
        lost = f"{counted(events)} in the spool for {clean(address)}, which is not used any more"
        logger.warning("deleted %s: %s", lost, why)
    return True
