"""Longer limits of a shutdown, for tests of other things.

A shutdown gives up after two seconds without an acknowledgement, and after one second without an answer of the disk. On a busy
machine the receiver of a test may be slower than that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agentscope.pipeline import worker
from agentscope.pipeline.delivery import Stop
from agentscope.pipeline.process import threads
from agentscope.pipeline.spool import manager as spooling

if TYPE_CHECKING:
    import pytest

LONG = 60.0
"""Seconds."""


def be_patient(
    replace: Callable[[object, str, object], None] = setattr,
    set_variable: Callable[[str, str], None] = os.environ.__setitem__,
) -> None:
    """Set the limits of this process to a minute. A program calls it after `import agentscope` and before it makes a tracker."""
    replace(worker, "Stop", lambda since, until, patience=LONG: Stop(since, until, LONG))
    set_variable("AGENTSCOPE_SHUTDOWN_TIMEOUT", str(LONG))
    wait_for_disk(replace)


def wait_for_disk(replace: Callable[[object, str, object], None] = setattr) -> None:
    """Set the limits for the disk and for forks alone, in tests of a backend that does not answer."""
    replace(worker, "LAST_WRITE", LONG)
    replace(spooling, "LAST_WRITE", LONG)
    replace(threads, "FORK_PATIENCE", LONG)


def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set all limits until the end of the test, and those of a receiver for requests that wait for each other."""
    be_patient(monkeypatch.setattr, monkeypatch.setenv)
    monkeypatch.setattr("agentscope.server.ingest.intake._PATIENCE", LONG)
    monkeypatch.setattr("agentscope.server.read.runs._PATIENCE", LONG)
    monkeypatch.setattr("agentscope.server.storage.sqlite.store.READ_SECONDS", LONG)


def programs(*places: str | os.PathLike[str]) -> dict[str, str]:
    """Make the variables that set the limits in a program and its children. `places` are added to PYTHONPATH."""
    folder = Path(__file__).parent
    path = os.pathsep.join(map(str, (folder / "patient_programs", *places, folder.parents[1])))
    return {"AGENTSCOPE_TIMEOUT": str(LONG), "AGENTSCOPE_SHUTDOWN_TIMEOUT": str(LONG), "PYTHONPATH": path}
