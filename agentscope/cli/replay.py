"""`agentscope replay`: sends, or lists, the events that dead processes have left in a spool directory."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TextIO

from agentscope.config import CHECKS, Config, env_name, from_env
from agentscope.errors import ConfigurationError
from agentscope.exporters import AgentScopeExporter, Destination
from agentscope.exporters.terminal import Terminal, counted
from agentscope.pipeline.factory import exporter_for
from agentscope.pipeline.ledger import Ledger
from agentscope.pipeline.spool import directory as spooldir
from agentscope.pipeline.spool.database import SpoolFile, parts
from agentscope.pipeline.spool.directory import Claim
from agentscope.pipeline.spool.recovery import Orphan, open_orphan
from agentscope.protocols.base import NEEDS_PERSON

from .arguments import add_destination

HELP = "send what processes that have ended left in a spool directory"

_PAUSE = 0.5  # seconds between two attempts without progress
_BAR_WIDTH = 30


class SpooledFile(NamedTuple):
    """A spool file whose owner is dead, claimed by this process. `kind` and `url` are those of its destination."""

    claim: Claim
    spool: SpoolFile
    kind: str
    url: str
    events: int
    bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--spool-dir", help=f"default: {env_name('spool_dir')}")
    parser.add_argument("--dry-run", action="store_true", help="list what is there, and send nothing")
    add_destination(parser, "another address than the one that the events were for", "seconds without progress to wait")


def run(arguments: argparse.Namespace) -> int:
    """Replay the directory that the arguments or the environment name."""
    directory, source = arguments.spool_dir, "--spool-dir"
    if directory is None:
        directory, source = from_env("spool_dir"), f"environment variable {env_name('spool_dir')}"
    if directory is None:
        raise ConfigurationError(f"which directory? Pass --spool-dir, or set {env_name('spool_dir')}")
    return run_replay(
        CHECKS["spool_dir"](directory, "spool_dir", source),
        arguments.base_url,
        arguments.api_key,
        dry_run=arguments.dry_run,
        timeout=arguments.timeout,
    )


def run_replay(
    directory: str,
    base_url: str | None = None,
    api_key: str | None = None,
    *,
    dry_run: bool = False,
    timeout: float = 10.0,
    out: TextIO | None = None,
) -> int:
    """Send every file in `directory` whose owner is dead to its own destination, and return 0 if nothing is left.

    For events of an AgentScope backend `base_url` replaces the address, and `api_key` is the key. All other keys, and a key of
    None, come from the environment. Sending stops after `timeout` seconds without an acknowledgement. With `dry_run` the files
    are only listed. Raises `ConfigurationError`.
    """
    terminal = Terminal(out)
    if not os.path.isdir(directory):
        raise ConfigurationError(
            f"{directory} is not a directory: pass the spool_dir of the processes that left events"
        )
    files = list(_claim(directory))
    try:
        total = sum(file.events for file in files)
        terminal.say(f"{directory}: {counted(total, 'event')} in {counted(len(files), 'file')}")
        if dry_run:
            for file in files:
                session = file.spool.origin.session.id
                terminal.say(
                    f"  {counted(file.events, 'event')}, {file.bytes:,} bytes, session {session}, for {file.url}"
                )
            return 0
        ledger = Ledger()
        bar = ProgressBar(terminal, total, ledger.settled)
        sending = (_send(file, _config(file, base_url, api_key, timeout), ledger, bar) for file in files)
        problem = next((problem for problem in sending if problem is not None), None)
        bar.show(last=True)
        return _report(terminal, total, ledger, problem)
    finally:
        for file in files:
            if file.claim.held:
                file.spool.close()
                file.claim.release()


def _claim(directory: str) -> Iterator[SpooledFile]:
    try:
        for claim in spooldir.orphans(directory, ""):
            spool = open_orphan(claim)
            if spool is None:
                claim.release()
                continue
            size = sum(os.path.getsize(path) for path in parts(spool.path) if os.path.exists(path))
            kind, _, url = spool.origin.destination.partition(" ")
            yield SpooledFile(claim, spool, kind, url, spool.count(), size)
    except spooldir.Denied as problem:
        raise ConfigurationError(str(problem)) from None


def _report(terminal: Terminal, total: int, ledger: Ledger, problem: str | None) -> int:
    left = total - ledger.settled()
    dropped = ", ".join(f"{number} {reason}" for reason, number in sorted(ledger.dropped().items()))
    tail = f"; given up: {dropped}" if dropped else ""
    terminal.say(f"{'✗' if left else '✓'} sent {counted(ledger.delivered, 'event')}{tail}")
    if ledger.duplicates:
        terminal.say(f"  {counted(ledger.duplicates, 'event')} of them the backend had already")
    if left:
        terminal.say(f"  {counted(left, 'event')} are left in the spool: {problem}")
    return 1 if left else 0


def _send(file: SpooledFile, config: Config, ledger: Ledger, bar: ProgressBar) -> str | None:
    """Send one file. Returns the problem that ended it early, or None."""
    if not file.events:
        file.spool.close()
        file.claim.remove()
        return None
    exporter = exporter_for(config, config.exporters[0])()
    orphan = Orphan(config, file.claim, file.spool, ledger, exporter)
    last_progress = time.monotonic()
    try:
        while not orphan.done:
            outcome = orphan.step(config.timeout, time.monotonic())
            bar.show()
            if outcome.delivered or outcome.dropped or outcome.parked:
                last_progress = time.monotonic()
            elif outcome.problem is not None:
                if outcome.kind in NEEDS_PERSON or time.monotonic() - last_progress >= config.timeout:
                    return outcome.problem
                time.sleep(_PAUSE)
        orphan.finish()
        return None
    finally:
        exporter.close()


def _config(file: SpooledFile, base_url: str | None, api_key: str | None, timeout: float) -> Config:
    """Return the configuration for a file: the address from the file, the key from the arguments or the environment."""
    kind = Destination.KINDS.get(file.kind)
    if kind is None or not kind.ADDRESS:
        raise ConfigurationError(
            f"events for {file.url} can only be sent by a program with this exporter: start one with the same spool_dir"
        )
    destination = kind.at(file.url)
    if isinstance(destination, AgentScopeExporter):
        destination = AgentScopeExporter(api_key=api_key, base_url=base_url or file.url)
    return Config.load({"exporters": [destination], "timeout": timeout, "enabled": True})


class ProgressBar:
    """One line of progress, redrawn in place. It is not drawn where the output is no terminal."""

    def __init__(self, terminal: Terminal, total: int, settled: Callable[[], int]) -> None:
        self._terminal = terminal
        self._total = total
        self._settled = settled
        self._began = time.monotonic()
        self._next = 0.0

    def show(self, last: bool = False) -> None:
        """Draw the line, at most ten times a second, and a last time."""
        now = time.monotonic()
        if not self._terminal.is_live or (now < self._next and not last):
            return
        self._next = now + 0.1
        done = self._settled()
        filled = _BAR_WIDTH * done // max(self._total, 1)
        rate = done / max(now - self._began, 0.001)
        line = (
            f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {done:,} of {counted(self._total, 'event')}, {rate:,.0f}/s"
        )
        self._terminal.stream.write(f"\r{line[: self._terminal.width - 1]:<{_BAR_WIDTH + 40}}" + "\n" * last)
        self._terminal.stream.flush()
