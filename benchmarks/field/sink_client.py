"""The client of the sink: its process, and the connection for commands."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from types import TracebackType
from typing import Any, TypeAlias

from benchmarks.field.subjects import ROOT, environment

Answer: TypeAlias = dict[str, Any]


class Commander:
    """A connection for commands to a sink."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._lines = self._socket.makefile("rb")

    def __call__(self, do: str, **options: Any) -> Answer:
        """Send a command, and return the answer; see `sink`."""
        self._socket.sendall(json.dumps({"do": do, **options}).encode() + b"\n")
        answer: Answer = json.loads(self._lines.readline())
        return answer

    def wait_until_quiet(self, quiet: float = 0.3, limit: float = 30.0) -> None:
        """Wait until nothing has arrived for `quiet` seconds: some SDKs send after their flush has returned."""
        last, since, end = -1, time.monotonic(), time.monotonic() + limit
        while time.monotonic() < min(end, since + quiet):
            arrived = self("arrived")["bytes"]
            if arrived != last:
                last, since = arrived, time.monotonic()
            time.sleep(0.05)  # between two looks


class SinkProcess:
    """A new process of `sink`. python: an interpreter with zstandard, if a sender may use that."""

    def __init__(self, python: str) -> None:
        self._python = python

    def __enter__(self) -> SinkProcess:
        self._process = subprocess.Popen(
            [self._python, "-m", "benchmarks.field.sink"],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        ports = self._process.stdout.readline().split()
        if len(ports) != 2:
            raise RuntimeError("the sink did not start")
        self.port, self.command_port = map(int, ports)
        self.pid = self._process.pid
        self.ask = Commander(self.command_port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
