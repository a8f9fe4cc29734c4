"""`agentscope replay` lists and sends the events of dead processes."""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentscope import create_tracker
from agentscope.cli import replay
from agentscope.cli.main import main
from agentscope.cli.replay import run_replay
from agentscope.pipeline.spool import directory as spooldir
from agentscope.server.receiver import Receiver
from tests.support import command, patient
from tests.support.program import run_program
from tests.support.proxy import FaultProxy
from tests.support.stored import stored_runs, stored_steps

LEAVE = """
    import os
    from agentscope import AgentScopeExporter, OTLPExporter, VoltAgentExporter, create_tracker
    tracker = create_tracker(spool_dir={spool!r}, {where})
    run_id = tracker.start_run("agent {number}")
    for i in range({steps}):
        tracker.track_step(f"{number}.{{i}}")
    tracker.end_run()
    while tracker.stats().pending:
        pass
    os._exit(0)
"""


def leave(spool: Path, url: str, number: int = 0, steps: int = 10, exporters: str = "") -> None:
    """Run a process that dies with events in the spool."""
    where = f"exporters={exporters}" if exporters else f"api_key='ask_test', base_url={url!r}"
    source = LEAVE.format(spool=str(spool), number=number, steps=steps, where=where)
    assert run_program(source, timeout=100).returncode == 0


@pytest.fixture
def gone() -> Iterator[FaultProxy]:
    """A URL on which no backend listens yet."""
    with FaultProxy(mode="refuse") as proxy:
        yield proxy


def files(spool: Path) -> list[str]:
    return sorted(os.listdir(spool))


def test_a_dry_run_lists_what_is_there_and_sends_and_removes_nothing(gone: FaultProxy, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    leave(spool, gone.url)
    leave(spool, gone.url, number=1, steps=1)
    before = files(spool)
    done = command.agentscope("replay", "--spool-dir", str(spool), "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    first, *rest = done.stdout.splitlines()
    assert first == f"{spool}: 15 events in 2 files"
    assert sorted(re.sub(r"[\d,]+ bytes, session [0-9a-f-]+", "…", line) for line in rest) == [
        f"  12 events, …, for {gone.url}",
        f"  3 events, …, for {gone.url}",
    ]
    assert [name for name in files(spool) if name.endswith((".db", ".lock"))] == [
        name for name in before if name.endswith((".db", ".lock"))
    ]


def test_everything_is_sent_once_to_another_address_and_the_files_are_removed(
    receiver: Receiver, gone: FaultProxy, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    for number in range(3):
        leave(spool, gone.url, number, steps=700)
    done = command.agentscope(
        *("replay", "--spool-dir", str(spool), "--base-url", receiver.url, "--timeout", "60"),
        env={"AGENTSCOPE_API_KEY": "any"},
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "✓ sent 2,106 events"
    assert files(spool) == []
    assert sorted(stored_steps(receiver.url)) == sorted(f"{n}.{i}" for n in range(3) for i in range(700))
    assert {run["status"] for run in stored_runs(receiver.url)} == {"completed"}


def test_the_directory_may_come_from_the_environment(receiver: Receiver, gone: FaultProxy, tmp_path: Path) -> None:
    leave(tmp_path / "spool", gone.url)
    env = {"AGENTSCOPE_API_KEY": "any", "AGENTSCOPE_SPOOL_DIR": str(tmp_path / "spool")}
    assert command.agentscope("replay", "--base-url", receiver.url, "--timeout", "60", env=env).returncode == 0
    assert len(stored_steps(receiver.url)) == 10


def test_a_directory_is_asked_for(tmp_path: Path) -> None:
    done = command.agentscope("replay")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "agentscope: which directory? Pass --spool-dir, or set AGENTSCOPE_SPOOL_DIR\n"
    done = command.agentscope("replay", "--spool-dir", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "is not a directory" in done.stderr


def test_a_backend_that_is_not_there_leaves_everything_and_says_so(
    gone: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    leave(spool, gone.url)
    out = io.StringIO()
    # A minute passes with a few readings of the clock: an attempt may take long, the test may not.
    clock = itertools.count(step=10.0)
    monkeypatch.setattr(replay, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    assert run_replay(str(spool), api_key="any", timeout=60.0, out=out) == 1
    told = out.getvalue().splitlines()
    assert told[1] == "✗ sent 0 events"
    assert re.fullmatch(r"  12 events are left in the spool: 127\.0\.0\.1:\d+: the connection was refused", told[2])
    assert run_replay(str(spool), dry_run=True, out=io.StringIO()) == 0
    assert len(files(spool)) == 2


def test_a_refused_key_ends_it_at_once(receiver: Receiver, gone: FaultProxy, tmp_path: Path) -> None:
    leave(tmp_path / "spool", gone.url)
    with FaultProxy(receiver.url, mode="status", code=401) as proxy:
        out = io.StringIO()
        assert run_replay(str(tmp_path / "spool"), proxy.url, "any", timeout=60.0, out=out) == 1
        assert "API key" in out.getvalue()
        assert proxy.counts["status"] == 1
        proxy.set("pass")
        assert run_replay(str(tmp_path / "spool"), proxy.url, "any", timeout=60.0, out=out) == 0
    assert len(stored_steps(receiver.url)) == 10


def test_a_file_of_a_living_process_is_left_to_it(
    gone: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient.here(monkeypatch)
    spool = tmp_path / "spool"
    tracker = create_tracker("ask_test", gone.url, spool_dir=spool)
    tracker.start_run("alive")
    while tracker.stats().pending:
        pass
    done = command.agentscope("replay", "--spool-dir", str(spool), env={"AGENTSCOPE_API_KEY": "any"})
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"{spool}: 0 events in 0 files")
    assert tracker.shutdown().spooled == 1
    assert tracker.stats().spooled == 1
    assert "1 event in 1 file\n" in command.agentscope("replay", "--spool-dir", str(spool), "--dry-run").stdout


def test_each_destination_gets_its_own_events_by_its_own_protocol(receiver: Receiver, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with FaultProxy(receiver.url, mode="refuse") as proxy:
        for number, exporter in enumerate(
            (
                f'[AgentScopeExporter(api_key="any", base_url={proxy.url!r})]',
                f"[OTLPExporter(endpoint={proxy.url!r})]",
                f'[VoltAgentExporter(base_url={proxy.url!r}, public_key="any", secret_key="any")]',
            )
        ):
            leave(spool, proxy.url, number, steps=2, exporters=exporter)
        proxy.set("pass")
        env = {
            "AGENTSCOPE_API_KEY": "any",
            "VOLTAGENT_PUBLIC_KEY": "any",
            "VOLTAGENT_SECRET_KEY": "any",
        }
        done = command.agentscope("replay", "--spool-dir", str(spool), "--timeout", "60", env=env, timeout=100)
        assert done.returncode == 0, done.stdout
        assert {request.target for request in proxy.requests} == {
            "/api/ingest/batch",
            "/v1/traces",
            "/api/public/otel/v1/traces",
        }
    assert sorted(stored_steps(receiver.url)) == sorted(f"{n}.{i}" for n in range(3) for i in range(2))
    assert files(spool) == []


def test_a_damaged_file_is_set_aside_and_the_others_are_sent(
    receiver: Receiver, gone: FaultProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = tmp_path / "spool"
    for number in range(2):
        leave(spool, gone.url, number)
    broken = min(spool.glob("*.db"))
    for suffix in ("-wal", "-shm"):
        Path(f"{broken}{suffix}").unlink(missing_ok=True)
    broken.write_bytes(b"not a database" * 1000)
    out = io.StringIO()
    assert run_replay(str(spool), receiver.url, "any", timeout=60.0, out=out) == 0
    assert "sent 12 events" in out.getvalue()
    assert len(stored_steps(receiver.url)) == 10
    assert files(spool) == [f"{broken.name}.corrupt-1"]
    assert "was damaged" in caplog.text


def test_progress_is_drawn_in_one_line_on_a_terminal(receiver: Receiver, gone: FaultProxy, tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    leave(tmp_path / "spool", gone.url)
    out = Terminal()
    assert run_replay(str(tmp_path / "spool"), receiver.url, "any", timeout=60.0, out=out) == 0
    last = out.getvalue().split("\r")[-1]
    assert re.match(r"\[#{30}\] 12 of 12 events, [\d,]+/s +\n✓ sent 12 events\n", last)


def test_a_system_without_such_locks_says_so(
    gone: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(tmp_path / "spool", gone.url)

    def denied(*_: object) -> Iterator[spooldir.Claim]:
        raise spooldir.Denied("this system has no locks that end with their process")

    monkeypatch.setattr(spooldir, "orphans", denied)
    assert main(["replay", "--spool-dir", str(tmp_path / "spool")]) == 1
    assert "no locks" in capsys.readouterr().err
