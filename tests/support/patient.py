"""Ends that wait for a slow machine, in tests of something else.

At its end a process gives up after two seconds without an acknowledgement, and after one without an answer of the disk: rightly,
but on a busy machine it may be the receiver beside the test that was not given its turn.
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
    """Have this process wait for a minute instead. A program calls it after `import agentscope`, before it makes a tracker."""
    replace(worker, "Stop", lambda since, until, patience=LONG: Stop(since, until, LONG))
    set_variable("AGENTSCOPE_SHUTDOWN_TIMEOUT", str(LONG))
    wait_for_disk(replace)


def wait_for_disk(replace: Callable[[object, str, object], None] = setattr) -> None:
    """The same for the disk alone, where a backend that does not answer is part of the test; and forks wait for imports."""
    replace(worker, "LAST_WRITE", LONG)
    replace(spooling, "LAST_WRITE", LONG)
    replace(threads, "FORK_PATIENCE", LONG)


def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same until the end of the test, and a receiver has requests wait for each other as long."""
    be_patient(monkeypatch.setattr, monkeypatch.setenv)
    monkeypatch.setattr("agentscope.server.ingest.intake._PATIENCE", LONG)
    monkeypatch.setattr("agentscope.server.read.runs._PATIENCE", LONG)
    monkeypatch.setattr("agentscope.server.storage.sqlite.store.READ_SECONDS", LONG)


def programs(*places: str | os.PathLike[str]) -> dict[str, str]:
    """Variables for a program and those that it starts, whose attempts and ends wait. `places` go into PYTHONPATH."""
    folder = Path(__file__).parent
    path = os.pathsep.join(map(str, (folder / "patient_programs", *places, folder.parents[1])))
    return {"AGENTSCOPE_TIMEOUT": str(LONG), "AGENTSCOPE_SHUTDOWN_TIMEOUT": str(LONG), "PYTHONPATH": path}
