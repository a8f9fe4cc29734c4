"""`agentscope replay`: sends what processes that do not live any more have left in a spool directory, or lists it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TextIO

from agentscope.config import Config
from agentscope.errors import ConfigurationError
from agentscope.exporters import AgentScopeExporter, Destination
from agentscope.exporters.terminal import say
from agentscope.pipeline.factory import exporter_for
from agentscope.pipeline.ledger import Ledger
from agentscope.pipeline.spool import directory as spooldir
from agentscope.pipeline.spool.database import SpoolFile, parts
from agentscope.pipeline.spool.directory import Claim
from agentscope.pipeline.spool.recovery import Orphan, open_orphan
from agentscope.protocols.base import NEEDS_PERSON

PAUSE = 0.5
"""Seconds between two attempts that did not get on."""
WIDTH = 30


@dataclass
class Found:
    """A file that nobody lives for."""

    claim: Claim
    file: SpoolFile
    events: int
    bytes: int

    @property
    def url(self) -> str:
        return self.file.origin.destination.partition(" ")[2]

    @property
    def kind(self) -> str:
        return self.file.origin.destination.partition(" ")[0]


def run_replay(
    directory: str,
    base_url: str | None = None,
    api_key: str | None = None,
    *,
    dry_run: bool = False,
    timeout: float = 10.0,
    out: TextIO | None = None,
) -> int:
    """Send every file in `directory` whose owner does not live to the address that it was for, and report.

    `base_url` is another address for events that were for an AgentScope backend; `api_key` is that backend's key. What is None
    comes from the environment, as do the keys of other destinations. It ends when nothing is acknowledged for `timeout` seconds.
    With `dry_run` nothing is sent. The answer is an exit status: 0 if nothing is left. Raises `ConfigurationError`.
    """
    out = out or sys.stdout
    if not os.path.isdir(directory):
        raise ConfigurationError(
            f"{directory} is not a directory: pass the spool_dir of the processes that left events"
        )
    found = list(_found(directory, out))
    try:
        say(out, f"{directory}: {_events(sum(item.events for item in found))} in {_files(len(found))}")
        if dry_run:
            for item in found:
                session = item.file.origin.session.id
                say(out, f"  {_events(item.events)}, {item.bytes:,} bytes, session {session}, for {item.url}")
            return 0
        return _send_all(found, base_url, api_key, timeout, out)
    finally:
        for item in found:
            if item.claim.held:
                item.file.close()
                item.claim.release()


def _found(directory: str, out: TextIO) -> Iterator[Found]:
    try:
        for claim in spooldir.orphans(directory, ""):
            file = open_orphan(claim)
            if file is None:
                claim.release()
                continue
            size = sum(os.path.getsize(path) for path in parts(file.path) if os.path.exists(path))
            yield Found(claim, file, file.count(), size)
    except spooldir.Denied as problem:
        raise ConfigurationError(str(problem)) from None


def _send_all(found: list[Found], base_url: str | None, api_key: str | None, timeout: float, out: TextIO) -> int:
    ledger = Ledger()
    total = sum(item.events for item in found)
    bar = Bar(out, total, lambda: ledger.settled())
    problem = None
    for item in found:
        problem = _send(item, _config(item, base_url, api_key, timeout), ledger, bar)
        if problem is not None:
            break
    bar.end()
    left = total - ledger.settled()
    dropped = ", ".join(f"{number} {reason}" for reason, number in sorted(ledger.dropped().items()))
    say(
        out,
        f"{'✓' if not left else '✗'} sent {_events(ledger.delivered)}" + (f"; given up: {dropped}" if dropped else ""),
    )
    if ledger.duplicates:
        say(out, f"  {_events(ledger.duplicates)} of them the backend had already")
    if left:
        say(out, f"  {_events(left)} are left in the spool: {problem}")
    return 1 if left else 0


def _send(item: Found, config: Config, ledger: Ledger, bar: Bar) -> str | None:
    """Send one file. Why that did not work, or None."""
    if not item.events:
        item.file.close()
        item.claim.remove()
        return None
    exporter = exporter_for(config, config.exporters[0])()
    orphan = Orphan(config, item.claim, item.file, ledger, exporter)
    progress = time.monotonic()
    try:
        while not orphan.done:
            outcome = orphan.step(config.timeout, time.monotonic())
            bar.show()
            if outcome.delivered or outcome.dropped or outcome.parked:
                progress = time.monotonic()
            elif outcome.problem is not None:
                if outcome.kind in NEEDS_PERSON or time.monotonic() - progress >= config.timeout:
                    return outcome.problem
                time.sleep(PAUSE)  # the backend is not to be hammered, and nobody else waits
        orphan.finish()
        return None
    finally:
        exporter.close()


def _config(item: Found, base_url: str | None, api_key: str | None, timeout: float) -> Config:
    """The configuration for a file: its own address, and the key of today."""
    kind = Destination.KINDS.get(item.kind)
    if kind is None or not kind.ADDRESS:
        raise ConfigurationError(
            f"events for {item.url} can only be sent by a program that has this exporter: start one with the same spool_dir"
        )
    destination = kind.at(item.url)
    if isinstance(destination, AgentScopeExporter):
        destination = AgentScopeExporter(api_key=api_key, base_url=base_url or item.url)
    return Config.load({"exporters": [destination], "timeout": timeout, "enabled": True})


class Bar:
    """Progress in one line, in place on a terminal; on anything else nothing but the end is told."""

    def __init__(self, out: TextIO, total: int, settled: Callable[[], int]) -> None:
        self._out = out
        self._total = total
        self._settled = settled
        self._began = time.monotonic()
        self._live = out.isatty()
        self._next = 0.0

    def show(self) -> None:
        """Draw it, a few times a second."""
        now = time.monotonic()
        if not self._live or now < self._next:
            return
        self._next = now + 0.1
        done = self._settled()
        filled = WIDTH * done // max(self._total, 1)
        rate = done / max(now - self._began, 0.001)
        line = f"[{'#' * filled}{'.' * (WIDTH - filled)}] {done:,} of {_events(self._total)}, {rate:,.0f}/s"
        self._out.write(f"\r{line[: shutil.get_terminal_size().columns - 1]:<{WIDTH + 40}}")
        self._out.flush()

    def end(self) -> None:
        """Leave the last state of it on the screen."""
        if self._live:
            self._next = 0.0
            self.show()
            self._out.write("\n")


def _files(number: int) -> str:
    return f"{number} file{'' if number == 1 else 's'}"


def _events(number: int) -> str:
    return f"{number:,} event{'' if number == 1 else 's'}"
