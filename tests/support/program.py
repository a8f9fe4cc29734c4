"""Small programs in a process of their own, for tests of exits, signals and forks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Result:
    """The end of a program. `returncode` is negative for a signal; `seconds` is the wall time."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def last_line_json(self) -> Any:
        """Parse the last line of standard output as JSON, or raise AssertionError with the whole output."""
        lines = self.stdout.splitlines()
        try:
            return json.loads(lines[-1])
        except (IndexError, ValueError):
            raise AssertionError(f"no JSON in the last line of output: {self}") from None


def run_program(
    source: str, *, env: Mapping[str, str] | None = None, timeout: float = 30, python: str = sys.executable
) -> Result:
    """Dedent a script and run it to its end, with the project importable.

    `env` is added to the variables of this process. After `timeout` seconds the program is killed, and AssertionError with its
    output is raised.
    """
    started = time.monotonic()
    process = start_program(source, env=env, python=python)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        raise AssertionError(f"still running after {timeout} s\nout: {stdout}\nerr: {stderr}") from None
    return Result(process.returncode, stdout, stderr, time.monotonic() - started)


def start_program(
    source: str, *, env: Mapping[str, str] | None = None, python: str = sys.executable
) -> subprocess.Popen[str]:
    """Start a script, with its output in pipes, and return before it ends. A test can send it a signal."""
    folder = Path(tempfile.mkdtemp(prefix="program-"))
    # A file and not `-c`: spawned children import the main module of their parent.
    script = folder / "program.py"
    script.write_text(textwrap.dedent(source), encoding="utf-8")
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
    places = [str(ROOT), str(folder), variables.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [python, str(script)],
        env={**variables, "PYTHONPATH": os.pathsep.join(filter(None, places))},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    weakref.finalize(process, shutil.rmtree, folder, ignore_errors=True)
    return process
