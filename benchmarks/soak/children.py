"""The child processes of the soak test."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from benchmarks.soak.producer import Options
from benchmarks.soak.verdict import Promise

ROOT = Path(__file__).resolve().parents[2]


def _environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("AGENTSCOPE_")}
    return {**own, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


class Child:
    """A child process whose output is read line by line."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self.born = time.monotonic()
        self.asked_to_end = False
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=_environment(),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def age(self) -> float:
        return time.monotonic() - self.born

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self.wait()

    def ask_to_end(self) -> None:
        self.asked_to_end = True
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status, with all output read. Raises `subprocess.TimeoutExpired`."""
        code = self._process.wait(timeout)
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):  # the last line of a killed process may be incomplete
                self.hear(line.rstrip("\n"))

    def hear(self, line: str) -> None:
        """Handle one line of output. It is called in the reading thread."""


class ReceiverProcess(Child):
    """A process of `agentscope serve`."""

    def __init__(self, port: int, db: Path, log: Path) -> None:
        self.ready_at: float | None = None
        super().__init__("agentscope", "serve", "--port", str(port), "--db", str(db), log=log)

    def hear(self, line: str) -> None:
        if self.ready_at is None:
            self.ready_at = time.monotonic()

    def end(self) -> None:
        self._process.terminate()
        self.wait(30)


class ProducerProcess(Child):
    """A producer process, its reports, and the promise that follows from them."""

    def __init__(self, options: Options, log: Path, promise: float) -> None:
        self._promise = promise
        self.run_id: str | None = None
        self.count = 0
        self.waits = 0
        self.broken: list[str] = []
        self.checks = 0
        self.farewell: dict[str, Any] | None = None
        self.killed_at: float | None = None
        self._reports: deque[tuple[float, int, bool]] = deque(maxlen=1000)
        super().__init__("benchmarks.soak.producer", options.text(), log=log)

    def hear(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "run":
            self.run_id = rest
        elif word in ("count", "ended"):
            count, moment = rest.split()
            self.count = int(count)
            self._reports.append((float(moment), self.count, word == "ended"))
        elif word == "waits":
            self.checks += 1
            self.waits = int(rest)
        elif word == "broken":
            self.broken.append(rest)
        elif word == "end":
            self.farewell = json.loads(rest)

    def kill(self) -> None:
        self.killed_at = time.monotonic()
        super().kill()

    def promise(self) -> Promise | None:
        """The events that must be stored after its end; None if there are none."""
        if self.run_id is None:
            return None
        if self.killed_at is not None:
            old = [report for report in self._reports if report[0] <= self.killed_at - self._promise]
            count, ended = old[-1][1:] if old else (0, False)
            return Promise(self.run_id, count, ended)
        _, count, ended = self._reports[-1]
        farewell = self.farewell or {"dropped": {}, "refused": 0}
        forgiven = sum(farewell["dropped"].values()) - farewell["refused"]
        return Promise(self.run_id, count, ended, forgiven)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
