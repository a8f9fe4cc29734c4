"""The recovery of a spool by a later process."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.support.program import run_program

_HEIR = """
    import glob, time
    from agentscope import create_tracker
    from tests.support.patient import be_patient
    be_patient()
    with create_tracker("ask_test", {url!r}, spool_dir={spool!r}) as tracker:
        tracker.start_run("recovery")
        own = tracker._pipeline._worker.session.id
        until = time.monotonic() + 120
        while [path for path in glob.glob({spool!r} + "/*.db") if own not in path] and time.monotonic() < until:
            time.sleep(0.02)   # between two looks
        assert tracker.flush(60)
        tracker.shutdown(60)
        stats = tracker.stats()
        assert stats.accepted == stats.delivered + stats.spooled + stats.pending + sum(stats.dropped.values())
        print(stats.recovered)
"""


def send_what_is_left(url: str, spool: Path) -> int:
    """Run a process that sends all events in the spool. Returns their number; the directory must be empty afterwards."""
    result = run_program(_HEIR.format(url=url, spool=str(spool)), timeout=240)
    assert result.stderr == ""
    assert list(spool.iterdir()) == []
    return int(result.stdout)


def events_in_file(database: Path) -> int:
    """The number of events in a file of the spool."""
    db = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return int(db.execute("SELECT count(*) FROM events").fetchone()[0])
    finally:
        db.close()
