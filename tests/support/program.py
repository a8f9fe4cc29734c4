"""Running small programs in their own process: what happens at exit, in signals and after a fork shows only there."""

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
    """How a program ended. `returncode` is negative for a signal; `seconds` is its wall time."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def last_line_json(self) -> Any:
        """The last line of standard output, parsed; AssertionError with all the output when it is not JSON."""
        lines = self.stdout.splitlines()
        try:
            return json.loads(lines[-1])
        except (IndexError, ValueError):
            raise AssertionError(f"no JSON in the last line of output: {self}") from None


def run_program(
    source: str, *, env: Mapping[str, str] | None = None, timeout: float = 30, python: str = sys.executable
) -> Result:
    """Run a script (dedented first) to its end, with the project importable.

    env: variables on top of this process's own. timeout: seconds, then the program is killed and AssertionError is
    raised with what it had printed.
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
    """Start a script and return at once, with its output in pipes: for programs that get a signal while they run."""
    folder = Path(tempfile.mkdtemp(prefix="program-"))
    # A file, not `-c`: spawned children import their parent's main module.
    script = folder / "program.py"
    script.write_text(textwrap.dedent(source), encoding="utf-8")
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
    if not variables.get("COVERAGE_PROCESS_START"):
        variables.pop("COVERAGE_PROCESS_START", None)  # empty, it is taken for a request to measure
    else:
        (folder / "sitecustomize.py").write_text("import coverage\n\ncoverage.process_startup()\n", encoding="utf-8")
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
