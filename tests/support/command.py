"""The `agentscope` command, examples and other files in a process of their own, in any directory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from .program import ROOT, Result


def start(
    *arguments: str | os.PathLike[str], cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start this Python with `arguments`, with the project importable from any `cwd` and the output in pipes.

    `env` is added to the variables of this process, from which a fixture has removed the options of the SDK.
    """
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        **(env or {}),
    }
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
    )


def run(
    *arguments: str | os.PathLike[str], cwd: Path = ROOT, env: Mapping[str, str] | None = None, timeout: float = 30
) -> Result:
    """Run this Python with `arguments` to its end, or raise AssertionError with its output after `timeout` seconds."""
    started = time.monotonic()
    process = start(*arguments, cwd=cwd, env=env)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        raise AssertionError(f"still running after {timeout} s\nout: {stdout}\nerr: {stderr}") from None
    return Result(process.returncode, stdout, stderr, time.monotonic() - started)


def agentscope(*arguments: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, timeout: float = 30) -> Result:
    """Run the `agentscope` command to its end."""
    return run("-m", "agentscope", *arguments, cwd=cwd, env=env, timeout=timeout)
