"""The subjects of a measurement: each SDK with its interpreter, its checkout, and the modules hidden from it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.field.adapters import KINDS, PEERS

ROOT = Path(__file__).resolve().parents[2]
EXTRA = ("orjson", "zstandard")
"""The modules of the extra `fast`. The SDK without it is measured where they are not installed, or are hidden."""
_FOREIGN = ("AGENTSCOPE_", "OTEL_", "LANGFUSE_", "SENTRY_", "PYTHON")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass(frozen=True)
class Subject:
    name: str
    python: str
    """An interpreter that has the SDK and what it needs."""
    blocked: tuple[str, ...] = ()
    """Modules that its process must not find."""
    directory: Path = ROOT
    """The working directory of its process, from which `agentscope` is imported; see `checkout`."""


def environment(directory: Path = ROOT) -> dict[str, str]:
    """This process's variables without those that configure an SDK or a proxy; `benchmarks` is always this checkout's.

    directory: where the process will run. `python -m` looks there before it looks into PYTHONPATH.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN) and k.upper() not in _PROXIES}
    return kept if directory == ROOT else {**kept, "PYTHONPATH": os.pathsep.join((str(directory), str(ROOT)))}


@contextmanager
def checkout(root: Path) -> Iterator[Path]:
    """A working directory whose processes import `agentscope` from the checkout at `root`, and `benchmarks` from this one."""
    package = root.resolve() / "agentscope"
    if not (package / "__init__.py").exists():
        raise SystemExit(f"{root} is no checkout of this repository: it has no agentscope/__init__.py")
    if package.parent == ROOT:
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "agentscope").symlink_to(package)
        yield Path(folder)


def has(python: str, modules: Iterable[str]) -> bool:
    """Tell if an interpreter can import all of them from this repository's root."""
    program = "".join(f"import {module}\n" for module in modules)
    try:
        return subprocess.run([python, "-c", program], cwd=ROOT, env=environment(), capture_output=True).returncode == 0
    except OSError:
        return False


def install(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Make an environment for each SDK under `folder`, by pip, unless it exists. Return the interpreters by name."""
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
    """The subjects that can be measured: by the given interpreters, else by this one if it has the needed modules.

    Raises `SystemExit` if a given interpreter lacks a module, and if this SDK itself cannot be imported.
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
