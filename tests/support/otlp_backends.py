"""The OTLP backends Phoenix and MLflow, each started in an environment of its own and read by its own API."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

LONGEST_START = 120.0
"""Seconds until a backend answers. Both import slowly and migrate their database first."""


@dataclass(frozen=True)
class OTLPBackend:
    """A running backend. python: the interpreter of its environment. home: its own directory."""

    python: str
    url: str
    home: Path

    def run(self, source: str, *arguments: str) -> Any:
        """Run a program in the backend's environment, and return its output, parsed as JSON."""
        command = [self.python, "-c", source, *arguments]
        done = subprocess.run(
            command, env=_environment(self.home), cwd=self.home, capture_output=True, timeout=LONGEST_START
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]
        return json.loads(done.stdout)


@contextmanager
def phoenix(python: str, home: Path) -> Iterator[OTLPBackend]:
    """Run Phoenix with an empty database, without telemetry."""
    with _ports(2) as ports:
        variables = {
            "PHOENIX_WORKING_DIR": str(home),
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(ports[0]),
            "PHOENIX_GRPC_PORT": str(ports[1]),
            "PHOENIX_TELEMETRY_ENABLED": "false",
            "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
            "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
        }
    receiver = OTLPBackend(python, f"http://127.0.0.1:{ports[0]}", home)
    with _running(receiver, ["-m", "phoenix.server.main", "serve"], variables, "/healthz"):
        yield receiver


@contextmanager
def mlflow(python: str, home: Path) -> Iterator[OTLPBackend]:
    """Run MLflow with an empty SQL database, which OTLP needs, without telemetry. Its only experiment is 0."""
    with _ports(1) as ports:
        address = ["--host", "127.0.0.1", "--port", str(ports[0]), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--default-artifact-root", f"{home}/artifacts"]
    receiver = OTLPBackend(python, f"http://127.0.0.1:{ports[0]}", home)
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _running(receiver, ["-m", "mlflow", "server", *address, *store], variables, "/health"):
        yield receiver


@contextmanager
def _running(receiver: OTLPBackend, arguments: list[str], variables: Mapping[str, str], health: str) -> Iterator[None]:
    """Run the program, from its first answer on, in a session of its own, so that its children end with it."""
    log = receiver.home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [receiver.python, *arguments],
            env={**_environment(receiver.home), **variables},
            cwd=receiver.home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + LONGEST_START
        while not _answers(receiver.url + health):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"{arguments[1]} did not start:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.2)  # the only sign that the backend is up
        yield
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _environment(home: Path) -> dict[str, str]:
    """The environment without the developer's keys, addresses and proxies."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


@contextmanager
def _ports(number: int) -> Iterator[list[int]]:
    """Different ports on which nothing listens."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        yield [listener.getsockname()[1] for listener in listeners]
