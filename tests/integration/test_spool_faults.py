"""The spool on disks that are full, read-only, broken or removed: the SDK continues in memory, logs that, and loses nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentscope.server.receiver import Receiver
from tests.support.program import ROOT, Result, run_program
from tests.support.stored import get, stored_steps


@pytest.fixture(autouse=True)
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs here run without coverage, whose own files the faults of the disk would hit."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


PROGRAM = """
    import json, os, resource, shutil, signal, subprocess, sys, time
    from pathlib import Path
    from agentscope import create_tracker
    spool = Path({spool!r})
    {before}
    tracker = create_tracker("ask_test", {url!r}, spool_dir=spool, flush_interval=0.01, retry_delay=0.01)
    run_id = tracker.start_run("agent")
    def track(first, last, size=10):
        for i in range(first, last):
            assert tracker.track_step(f"step {{i}}", input_data="x" * size)
    def wait(predicate):
        end = time.monotonic() + 60
        while not predicate():
            assert time.monotonic() < end, tracker.stats()
            time.sleep(0.01)   # between two looks
    {body}
    assert tracker.flush(60), tracker.stats()
    stats = tracker.stats()
    assert stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.spooled + stats.pending
    print(json.dumps([stats.accepted, stats.delivered, dict(stats.dropped)]))
"""
STORED = "wait(lambda: not tracker.stats().pending)"
QUICK = "from agentscope.pipeline.spool import spool as module; module.RETRY = module.RETRY_FULL = 0.2"


def run(receiver: Receiver, spool: Path, body: str, before: str = QUICK, prefix: tuple[str, ...] = ()) -> Result:
    source = PROGRAM.format(url=receiver.url, spool=str(spool), body=body.replace("STORED", STORED), before=before)
    if not prefix:
        return run_program(source, timeout=240)
    script = spool.parent / "program.py"
    script.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [*prefix, sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr, 0.0)


def check(result: Result, receiver: Receiver, steps: int, said: str | None) -> None:
    """Check that every event arrived once, and that this text was logged once."""
    assert result.returncode == 0, result.stderr
    assert result.last_line_json == [steps + 1, steps + 1, {}]
    assert sorted(stored_steps(receiver.url)) == sorted(f"step {i}" for i in range(steps))
    assert get(receiver.url, "/health")["events"] == steps + 1
    assert result.stderr.count("the spool does not work") == (said is not None), result.stderr
    assert (said or "") in result.stderr
    assert "Traceback" not in result.stderr


@contextmanager
def mounted(directory: Path, *options: str) -> Iterator[tuple[str, ...]]:
    """The start of a command that mounts a small file system on `directory`."""
    directory.mkdir()
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed")
    mount = f'mount -t tmpfs -o size=1m,{",".join(options) or "rw"} spool {directory} && exec "$@"'
    prefix = (unshare, "-rm", "sh", "-c", mount, "sh")
    done = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield prefix


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_a_full_disk_keeps_events_in_memory_until_there_is_room(receiver: Receiver, spool: Path) -> None:
    body = """
    STORED
    (spool / "ballast").write_bytes(b"")
    with open(spool / "ballast", "wb", buffering=0) as ballast:
        try:
            while True: ballast.write(bytes(4096))
        except OSError: pass
    track(0, 300, 2000)
    assert tracker.flush(60)
    (spool / "ballast").unlink()
    track(300, 310)
    wait(lambda: tracker.flush(1))
    """
    with mounted(spool) as prefix:
        result = run(receiver, spool, body, prefix=prefix)
    check(result, receiver, 310, "the disk is full")


def test_a_small_disk_full_of_a_backlog_delivers_all_of_it(receiver: Receiver, spool: Path) -> None:
    with mounted(spool) as prefix:
        result = run(receiver, spool, "track(0, 2000, 2000)", prefix=prefix)
    assert result.returncode == 0, result.stderr
    assert result.last_line_json == [2001, 2001, {}]
    assert len(stored_steps(receiver.url)) == 2000


def test_a_read_only_file_system_is_said_once_and_nothing_is_lost(receiver: Receiver, spool: Path) -> None:
    with mounted(spool, "ro") as prefix:
        result = run(
            receiver,
            spool,
            "track(0, 50); assert tracker.flush(60); time.sleep(0.5); track(50, 60)",  # the disk is checked meanwhile
            prefix=prefix,
        )
    check(result, receiver, 60, "Read-only file system")


def test_a_limit_on_the_size_of_files_is_no_end_of_the_program(receiver: Receiver, spool: Path) -> None:
    before = QUICK + "; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))"  # Python ignores SIGXFSZ
    result = run(receiver, spool, "track(0, 200, 1000)", before)
    check(result, receiver, 200, "")


def test_a_directory_that_is_deleted_while_in_use_is_made_again(receiver: Receiver, spool: Path) -> None:
    # In one go: where a file is made meanwhile, the directory could not be deleted.
    body = """
    track(0, 20)
    STORED
    shutil.rmtree(spool.rename(spool.with_name("deleted")))
    track(20, 40)
    STORED
    wait(lambda: tracker.stats().problem is None)
    """
    check(run(receiver, spool, body), receiver, 40, "its file has been deleted")


@pytest.mark.parametrize("what", ["*.db", "*.db-wal", "*.lock", "*.db-shm"])
def test_a_file_that_is_deleted_while_in_use_loses_nothing(receiver: Receiver, spool: Path, what: str) -> None:
    body = f"""
    track(0, 20)
    for path in spool.glob({what!r}): path.unlink(missing_ok=True)
    track(20, 40)
    STORED
    """
    result = run(receiver, spool, body)
    assert result.returncode == 0, result.stderr
    assert result.last_line_json == [41, 41, {}]
    assert sorted(stored_steps(receiver.url)) == sorted(f"step {i}" for i in range(40))


def test_a_directory_that_cannot_be_made_is_logged_once(receiver: Receiver, spool: Path) -> None:
    spool.touch()
    body = "track(0, 20); time.sleep(0.5); track(20, 30)"  # the first retries happen meanwhile
    check(run(receiver, spool, body), receiver, 30, "cannot be used")


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "ftruncate", "unlink"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_system_calls_that_fail_lose_nothing_and_double_nothing(
    receiver: Receiver, spool: Path, call: str, error: str
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    spool.mkdir()
    if subprocess.run([strace, "-f", "-e", "trace=none", "true"], capture_output=True, check=False).returncode:
        pytest.skip("tracing of processes is not permitted here")
    # Only SQLite makes these calls. Every third one of a thread fails, from the second on.
    inject = ("-e", f"inject={call}:error={error}:when=2+3")
    body = "\n    ".join(f"track({i}, {i + 10}); time.sleep(0.25)" for i in range(0, 60, 10))  # one transaction each
    prefix = (strace, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", *inject)
    result = run(receiver, spool, body, prefix=prefix)
    assert result.returncode == 0, result.stderr
    assert result.last_line_json == [61, 61, {}]
    assert sorted(stored_steps(receiver.url)) == sorted(f"step {i}" for i in range(60))
    assert "Traceback" not in result.stderr
