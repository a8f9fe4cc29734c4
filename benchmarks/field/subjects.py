"""Who is measured: each SDK with the interpreter that has it, and what must be hidden from it there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.field.adapters import KINDS, PEERS

ROOT = Path(__file__).resolve().parents[2]
EXTRA = ("orjson", "zstandard")
"""What the extra `fast` brings. The SDK without it runs where they are not installed, or where they are not found."""
_FOREIGN = ("AGENTSCOPE_", "OTEL_", "LANGFUSE_", "SENTRY_", "PYTHON")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass(frozen=True)
class Subject:
    name: str
    python: str
    """An interpreter that has the SDK and what it needs."""
    blocked: tuple[str, ...] = ()
    """Modules that must not be found."""


def environment() -> dict[str, str]:
    """This process's variables without what configures one of the SDKs, or leads around loopback."""
    return {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN) and k.upper() not in _PROXIES}


def has(python: str, modules: Iterable[str]) -> bool:
    """Whether an interpreter can import all of them, with this repository on its path."""
    program = "".join(f"import {module}\n" for module in modules)
    try:
        return subprocess.run([python, "-c", program], cwd=ROOT, env=environment(), capture_output=True).returncode == 0
    except OSError:
        return False


def install(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """An environment for each SDK under `folder`, made with pip where it is not there yet; the interpreters by name."""
    pythons = {}
    for name in names:
        python = str(folder.resolve() / name / "bin" / "python")
        if not has(python, KINDS[name].modules):
            print(f"installing {name} into {folder / name}", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
            wanted = [word for requirement in KINDS[name].requirements for word in _pip_words(requirement)]
            command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted]
            subprocess.run(command, check=True)
        pythons[name] = python
    return pythons


def _pip_words(requirement: str) -> tuple[str, ...]:
    return ("-e", f"{ROOT}{requirement[1:]}") if requirement.startswith(".") else (requirement,)


def find(pythons: Mapping[str, str], peers: Collection[str] = PEERS) -> dict[str, Subject]:
    """Who can be measured: by the interpreters that are given, else by this one where it has what is needed.

    Raises `SystemExit` for an interpreter that was given and cannot do it, and where this SDK itself cannot run.
    """
    subjects = {}
    for name, kind in KINDS.items():
        if name in PEERS and name not in peers:
            continue
        python = pythons.get(name) or pythons.get(kind.lives_with) or sys.executable
        if has(python, kind.modules):
            subjects[name] = Subject(name, python, EXTRA if kind.without_extra else ())
        elif name in pythons:
            raise SystemExit(f"{python} does not have what {name} needs: {', '.join(kind.modules)}")
    if "agentscope" not in subjects:
        raise SystemExit("this Python has not what the SDK itself needs: pip install -e .")
    return subjects
