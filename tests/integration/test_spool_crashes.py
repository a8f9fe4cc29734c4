"""A process is killed at each system call of its work on the spool: the next one delivers every promised event once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.program import ROOT
from tests.support.spools import Bench, left, recover

CALLS = ("openat", "pwrite64", "fdatasync", "fsync", "ftruncate", "unlink", "rename")
CYCLE = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.support.spools import Bench, kill, recover

directory, log = sys.argv[2], open(sys.argv[3], "ab", buffering=0)
bench = Bench(directory, batch_size=3)
keep = bench.backend.keep
def keep_for_ever(batch, seqs):
    log.write("".join(f"stored {batch.session.event_id(seq)}\\n" for seq in seqs).encode())
    return keep(batch, seqs)
bench.backend.keep = keep_for_ever
log.write(b"begin\\n")
recover(bench)
for _ in range(2):
    bench.put(4)
    bench.store()
    log.write("".join(f"promised {id}\\n" for id in sorted(bench.ids())).encode())
    bench.send()
    bench.store()
if len(sys.argv) > 4:
    bench.send_all()
bench.end()
log.write(b"end\\n")
"""


def strace(*options: str) -> list[str]:
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    return [program, "-f", "-qq", *options]


@pytest.fixture(scope="module", autouse=True)
def _may_trace() -> None:
    done = subprocess.run(strace("-e", "trace=none", "true"), capture_output=True, check=False)
    if done.returncode:
        pytest.skip("tracing of processes is not permitted here")


def cycle(folder: Path, log: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", CYCLE, str(ROOT), str(folder / "spool"), str(log), *more]


def told(log: Path, kind: str) -> set[str]:
    """The entries of the log, without a last line that was cut short."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return {line.split()[1] for line in lines if line.startswith(f"{kind} ") and line.endswith("\n")}


def leave_one(folder: Path, log: Path) -> None:
    """Make the file of an earlier process, whose recovery is part of the cycle."""
    dead = Bench(folder / "spool")
    dead.put(4)
    dead.store()
    dead.end()
    log.write_text("".join(f"promised {id_}\n" for id_ in dead.ids()))


def points(folder: Path, call: str, *more: str) -> tuple[int, int]:
    """The number of these calls before the cycle begins, and until its end."""
    log, trace = folder / "log", folder / "trace"
    leave_one(folder, log)
    subprocess.run([*strace("-o", str(trace), "-e", f"trace={call},write"), *cycle(folder, log, *more)], check=True)
    lines = trace.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if '"begin' in line)
    last = next(number for number, line in enumerate(lines) if '"end' in line)
    calls = [number for number, line in enumerate(lines) if re.search(rf"\b{call}\(", line)]
    return sum(number < first for number in calls), sum(number < last for number in calls)


def killed_at(folder: Path, call: str, when: int, *more: str) -> None:
    log = folder / "log"
    leave_one(folder, log)
    inject = f"inject={call}:signal=SIGKILL:when={when}"
    done = subprocess.run(
        [*strace("-o", "/dev/null", "-e", f"trace={call}", "-e", inject), *cycle(folder, log, *more)],
        capture_output=True,
        check=False,
    )
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
    heir = Bench(folder / "spool")
    recover(heir)
    stored = told(log, "stored")
    lost = told(log, "promised") - stored - set(heir.backend.stored)
    assert not lost, f"lost {sorted(lost)}"
    assert set(heir.backend.stored.values()) <= {1}
    assert left(folder / "spool") == []


EVERY = int(os.environ.get("AGENTSCOPE_CRASH_POINTS_EVERY", "5"))
"""One in so many crash points is tried; 1 tries all of them, which takes minutes."""


def folders(tmp_path: Path) -> Iterator[Path]:
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        yield folder


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("delivering", [False, True], ids=["leaving", "delivering"])
def test_a_kill_at_any_system_call_loses_nothing_that_was_promised(tmp_path: Path, call: str, delivering: bool) -> None:
    folder = folders(tmp_path)
    more = ("all",) if delivering else ()
    first, last = points(next(folder), call, *more)
    if not (EVERY == 1 or delivering) and call in ("unlink", "openat"):
        first = last - 1  # these differ at their end only
    for when in range(first + 1, last + 1, EVERY):
        killed_at(next(folder), call, when, *more)
