"""The sessions of CI. Each one runs alone: `nox -f .ci/noxfile.py -s lint`.

`.ci/run` runs all of them on a machine of its own, and `.github/workflows/ci.yml` each on another.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The Python of `nox`, and of every session that does not name another."""
WITH_ORJSON = "3.12"
"""The Python on which the tests use orjson."""
COVERAGE_FLOOR = 95
"""Per cent of lines and branches."""
EMITTERS = ("pydantic-ai-slim>=2.60",)
SERVERS = ("gunicorn", "celery", "gevent", "eventlet", "uwsgi", "fastapi")

FIRST, SECOND = "first", "second"
"""The tags of sessions that `.ci/run` runs beside each other."""

# The results of these depend on the version of Python: code in one process, and how processes start, fork and end.
DEPENDS_ON_PYTHON = ["tests/unit"]
DEPENDS_ON_PYTHON += [
    f"tests/integration/test_{name}.py"
    for name in (
        *(
            "at_exit",
            "copies",
            "exits",
            "exits_spool",
            "forks",
            "forks_spool",
            "host_exceptions",
            "hooks_and_event_loops",
            "reentrancy",
            "serverless",
        ),
        *("signals", "spool", "voltagent_process", "worker"),
    )
]
EXAMPLES = ("tests/integration/test_examples.py", "tests/integration/test_readme.py")
SERVER_TESTS = tuple(
    f"tests/integration/test_{name}.py" for name in ("servers", "servers_spool", "fastapi", "green_threads")
)
BROWSER_TESTS = tuple(f"tests/integration/test_{name}.py" for name in ("pages_in_browser", "behind_nginx"))
LINE_TESTS = ("tests/unit/tracker/test_host_exceptions.py", "tests/unit/voltagent/test_interrupted_calls.py")
EMITTER_TESTS = ("tests/integration/test_pydantic_ai.py",)

# Variables of the caller decide no result.
for _name in [name for name in os.environ if name.startswith("AGENTSCOPE_")]:
    del os.environ[_name]
for _name in ("PYTEST_ADDOPTS", "PYTHONPATH", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
    os.environ.pop(_name, None)

os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"

nox.options.envdir = str(ROOT / ".nox")
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True


def find_python(version: str) -> str:
    """Find the newest interpreter of a minor version: on PATH, or where pyenv and uv install them."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    uv = Path.home() / ".local/share/uv/python"
    installed = [
        *pyenv.glob(f"versions/{version}.*/bin/python{version}"),
        *uv.glob(f"*-{version}.*/bin/python{version}"),
    ]
    newest = sorted(
        installed, key=lambda path: [int(digits) for digits in re.findall(r"\d+", path.parts[-3])], reverse=True
    )
    check = f"import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
    for candidate in filter(None, (shutil.which(f"python{version}"), *map(str, newest))):
        # A shim of pyenv is on PATH even where its version is not enabled.
        if subprocess.run([candidate, "-c", check], capture_output=True).returncode == 0:  # noqa: S603 - from PATH or pyenv
            return candidate
    return version  # nox says that it is missing


def install(session: nox.Session, *more: str, extras: str = "server,dev") -> None:
    """Install this clone with the extras that its tests need."""
    session.chdir(ROOT)  # nox enters the folder of this file
    session.install("-q", "-e", f".[{extras}]", *more)


def pytest(session: nox.Session, *arguments: str, examples: int = 10, **variables: str) -> None:
    """Run tests, of which none may be skipped. Arguments after `--` are handed on."""
    env = {"AGENTSCOPE_TEST_EXAMPLES": str(examples), "AGENTSCOPE_CI_FORBID_SKIPS": "1", **variables}
    cache = f"cache_dir={session.create_tmp()}/pytest"
    session.run("pytest", "-o", cache, *arguments, *session.posargs, env=env)


@nox.session(venv_backend="none", tags=[FIRST])
def readme(session: nox.Session) -> None:
    """Run the two commands of the README: the tests, then the demo."""
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    (demo,) = (command for command in commands if command.endswith("agentscope demo"))
    (tests,) = (command for command in commands if command.endswith("pytest"))
    session.chdir(ROOT)
    shutil.rmtree(".venv", ignore_errors=True)
    session.run("bash", "-c", tests, external=True)
    session.run("bash", "-c", f"{demo} --exit", external=True)


@nox.session(tags=[FIRST])
def lint(session: nox.Session) -> None:
    """Check style and types, as mypy and pyright see them: also those of the examples and of the programs in the documents."""
    install(session, "pyright", "langchain-core")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("pyright")
    folder = Path(session.create_tmp()) / "programs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for document in (ROOT / "README.md", *(ROOT / "examples").glob("*.md")):
        programs = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
        for number, program in enumerate(programs, start=1):
            (folder / f"{document.stem}_{number}.py").write_text(program, encoding="utf-8")
    session.run("pyright", "examples", str(folder))


def tests(session: nox.Session) -> None:
    """Run the tests whose results depend on the version of Python."""
    install(session, "langchain-core", "greenlet", "pandas")
    fast = "1" if session.name.endswith(WITH_ORJSON) else ""
    pytest(session, *DEPENDS_ON_PYTHON, AGENTSCOPE_TEST_FAST=fast)


for _version in PYTHONS:
    # The README's command tests this Python already.
    nox.session(tests, name=f"tests-{_version}", python=find_python(_version), tags=[SECOND] if _version != OWN else [])


@nox.session(tags=[SECOND])
def coverage(session: nox.Session) -> None:
    """Measure lines and branches, in the programs that the tests start as well."""
    install(session, "langchain-core")
    data = session.create_tmp()
    env = {"COVERAGE_FILE": f"{data}/coverage"}
    session.run("coverage", "erase", env=env)
    env |= {"AGENTSCOPE_TEST_EXAMPLES": "10"}
    session.run("coverage", "run", "-m", "pytest", "-o", f"cache_dir={data}/pytest", *session.posargs, env=env)
    session.run("coverage", "combine", "-q", env=env)
    session.run("coverage", "report", f"--fail-under={COVERAGE_FLOOR}", env=env)


@nox.session(tags=[FIRST])
def long(session: nox.Session) -> None:
    """Run the tests that are marked `long`, but for those of other sessions; and interrupt calls in all ways."""
    install(session, "langchain-core")
    others = [f"--ignore={path}" for path in (*SERVER_TESTS, *BROWSER_TESTS, *EMITTER_TESTS)]
    pytest(session, "-m", "long and not by_hand", "tests", *others, examples=50)
    pytest(session, *LINE_TESTS, AGENTSCOPE_TEST_EVERY_LINE="1")


@nox.session(tags=[FIRST])
def examples(session: nox.Session) -> None:
    """Run the examples, with LangChain, and the programs of the README."""
    install(session, "langchain-core")
    pytest(session, "-m", "not by_hand", *EXAMPLES)


@nox.session(tags=[FIRST])
def servers(session: nox.Session) -> None:
    """Run the servers and task queues that fork."""
    install(session, *SERVERS)
    pytest(session, "-m", "not by_hand", *SERVER_TESTS)


@nox.session(tags=[FIRST])
def browser(session: nox.Session) -> None:
    """Open the pages of the viewer in Chromium, directly and behind nginx."""
    install(session)
    pytest(session, "-m", "not by_hand", *BROWSER_TESTS)


@nox.session(tags=[FIRST])
def emitters(session: nox.Session) -> None:
    """Read the spans of frameworks that emit OpenTelemetry."""
    install(session, *EMITTERS)
    pytest(session, "-m", "not by_hand", *EMITTER_TESTS)


@nox.session(tags=[SECOND])
def soak(session: nox.Session) -> None:
    """Kill producers and receivers for a minute, and compare what was promised with what is stored."""
    install(session, extras="server")
    seed = session.posargs or ["--seed", "1"]
    session.run("python", "-m", "benchmarks.soak", "--events", "1000000", "--seconds", "60", "--promise", "3", *seed)


@nox.session(tags=[SECOND])
def wheel(session: nox.Session) -> None:
    """Build the wheel, and run it outside of the clone: alone, then with the extra `server`."""
    folder = Path(session.create_tmp())
    shutil.rmtree(folder / "wheel", ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", f"{folder}/wheel", str(ROOT))
    (built,) = (folder / "wheel").glob("*.whl")
    session.install("-q", str(built))
    with tempfile.TemporaryDirectory() as empty, session.chdir(empty):
        session.run("agentscope", "--version")
        refusal = session.run("agentscope", "demo", "--exit", success_codes=[1, 2], silent=True)
        if "server extra" not in str(refusal):
            session.error(f"the missing extra is not named: {refusal}")
        session.install("-q", f"{built}[server]")
        session.run("agentscope", "demo", "--exit")
