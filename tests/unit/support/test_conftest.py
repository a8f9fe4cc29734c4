"""Hooks of `tests/conftest.py`: skips that CI forbids, and tests that are marked `timing`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import ROOT, Result, run

# Each runs pytest anew.
pytestmark = pytest.mark.long

SKIPPED = {
    "in_a_test": "import pytest\ndef test_it():\n    pytest.skip('not here')\n",
    "by_a_mark": "import pytest\n@pytest.mark.skip(reason='not here')\ndef test_it(): pass\n",
    "of_a_module": "import pytest\npytest.skip('not here', allow_module_level=True)\n",
}

TIMED = """
import pytest

runs = {}

def passes_at(run, name):
    runs[name] = runs.get(name, 0) + 1
    assert runs[name] == run, "too slow"

@pytest.mark.timing(reason="it races with the clock")
def test_marked_and_slow_once(): passes_at(2, "once")

@pytest.mark.timing(reason="it races with the clock")
def test_marked_and_slow_twice(): passes_at(3, "twice")

@pytest.mark.timing(reason="it races with the clock")
def test_marked_and_quick(): passes_at(1, "quick")

def test_not_marked(): passes_at(2, "not marked")
"""

NO_REASON = "import pytest\n@pytest.mark.timing\ndef test_it(): pass\n"


def session(folder: Path, programs: dict[str, str], *options: str, **variables: str) -> Result:
    """Run these tests in a session that has the hooks of this project."""
    for name, program in programs.items():
        (folder / f"test_{name}.py").write_text(program)
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    fixed = (
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "-W",
        "ignore::pytest.PytestUnknownMarkWarning",
    )
    return run(*fixed, *options, folder, cwd=folder, env=variables, timeout=120)


def test_a_skip_is_a_failure_where_ci_forbids_it(tmp_path: Path) -> None:
    allowed = session(tmp_path, SKIPPED)
    forbidden = session(tmp_path, SKIPPED, "--continue-on-collection-errors", AGENTSCOPE_CI_FORBID_SKIPS="1")
    assert (allowed.returncode in (0, 5), "3 skipped" in allowed.stdout) == (True, True), allowed
    assert forbidden.returncode != 0
    assert "1 failed, 2 errors" in forbidden.stdout
    assert forbidden.stdout.count("skipped where CI forbids it") >= len(SKIPPED)


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["in one process", "in workers"])
def test_only_a_test_that_is_marked_timing_may_fail_once_and_it_is_named_at_the_end(
    tmp_path: Path, workers: list[str]
) -> None:
    found = session(tmp_path, {"timed": TIMED}, *workers)
    assert "2 failed, 2 passed" in found.stdout
    named = found.stdout.partition("failed once, and were run again")[2].partition("short test summary")[0]
    assert named.splitlines()[1:-1] == [
        f"test_timed.py::test_marked_and_slow_{times}: it races with the clock (AssertionError: too slow)"
        for times in ("once", "twice")
    ]


def test_a_timing_mark_without_a_reason_is_an_error(tmp_path: Path) -> None:
    found = session(tmp_path, {"unreasoned": NO_REASON})
    assert found.returncode != 0
    assert 'write @pytest.mark.timing(reason="…")' in found.stdout + found.stderr
