"""Exporters of the user's at the end of a program and across a fork."""

from __future__ import annotations

import re
import signal
import threading
from pathlib import Path

from agentscope import create_tracker
from agentscope.exporters import CustomExporter
from tests.support.program import run_program
from tests.support.recording import balanced
from tests.support.wait import until

HANGS = """
    import time
    from agentscope import create_tracker

    class Hangs:
        def export(self, events, timeout):
            time.sleep(600)  # it hangs

    tracker = create_tracker(exporters=[Hangs()], flush_interval=0.0, shutdown_timeout=0.5)
    with tracker.track_run("agent"):
        pass
    print("done")
"""

FORK = """
    import json, os, sys
    from agentscope import InMemoryExporter, create_tracker

    memory = InMemoryExporter()
    tracker = create_tracker(exporters=[memory], flush_interval=0.0)
    run_id = tracker.start_run("agent")
    tracker.flush(60)
    pid = os.fork()
    tracker.track_step("child" if pid == 0 else "parent", run_id=run_id)
    tracker.flush(60)
    names = [step["name"] for step in memory.steps]
    if pid == 0:
        os._exit(0 if names == ["child"] else 1)
    status = os.waitpid(pid, 0)[1]
    print(json.dumps([status, names]))
"""


def test_an_exporter_that_hangs_does_not_keep_the_program_from_ending() -> None:
    result = run_program(HANGS, timeout=60)
    assert (result.returncode, result.stdout) == (0, "done\n")
    assert "2 events were left undelivered" in result.stderr


def test_an_exporter_that_hangs_is_named_as_the_problem() -> None:
    go_on = threading.Event()

    class Hangs:
        def export(self, events: object, timeout: float) -> None:
            go_on.wait(60)

    tracker = create_tracker(exporters=[CustomExporter(target=Hangs(), timeout=0.05)], flush_interval=0.0)
    tracker.start_run("agent")
    until(lambda: tracker.stats().problem)
    problem = tracker.stats().problem
    go_on.set()
    assert re.fullmatch(r"Hangs has not returned for \d+ s after its timeout", problem or "")
    assert tracker.flush(60)
    assert (tracker.stats().problem, balanced(tracker.stats())) == (None, True)
    tracker.shutdown(60)


def test_each_process_of_a_fork_exports_what_it_tracked() -> None:
    result = run_program(FORK, env={"PYTHONWARNINGS": "ignore", "COVERAGE_PROCESS_CONFIG": ""}, timeout=60)
    assert result.last_line_json == [0, ["parent"]]


SPOOL = """
    import os, signal, sys
    from agentscope import create_tracker
    from tests.support.wait import until

    class Own:
        down = {down}

        def export(self, events, timeout):
            if self.down:
                return False
            print(*[event.type for event in events], sep="\\n")

    tracker = create_tracker(exporters=[Own()], spool_dir={directory!r}, flush_interval=0.0, retry_delay=0.0)
    if Own.down:
        with tracker.track_run("agent"):
            pass
        until(lambda: tracker.stats().spooled == 2)
        os.kill(os.getpid(), signal.SIGKILL)
    tracker.start_run("starts the worker")
    until(lambda: tracker.stats().recovered == 2)
"""


def test_events_that_a_killed_process_left_in_the_spool_are_exported_by_the_next(tmp_path: Path) -> None:
    quiet = {"COVERAGE_PROCESS_CONFIG": ""}
    directory = str(tmp_path / "spool")
    assert (
        run_program(SPOOL.format(down=True, directory=directory), env=quiet, timeout=90).returncode == -signal.SIGKILL
    )
    result = run_program(SPOOL.format(down=False, directory=directory), env=quiet, timeout=90)
    assert sorted(result.stdout.split()) == ["run.end", "run.start", "run.start"]
