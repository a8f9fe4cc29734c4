"""Hooks and fixtures of every test.

Options of the developer's environment are removed, output is searched for secrets, CI may forbid skips, and a test that is marked
`timing` may fail once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator

import pytest
from _pytest.runner import runtestprotocol  # it has no public name; pytest-rerunfailures uses it, too
from hypothesis import settings

from agentscope.serialization import fallback, snapshot
from agentscope.tracker import context
from tests.support.secret_search import Watch

# No deadline for an example: it would fail on a busy machine.
settings.register_profile(
    "agentscope", deadline=None, max_examples=int(os.environ.get("AGENTSCOPE_TEST_EXAMPLES", "25"))
)
settings.load_profile("agentscope")

# nohup and a shell's `&` have some signals ignored. The programs that tests start would inherit that.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _usual)

# The dev extra installs orjson, which most users do not have. It is tested with AGENTSCOPE_TEST_FAST=1.
if not os.environ.get("AGENTSCOPE_TEST_FAST"):
    snapshot._dumps, snapshot._seals = snapshot._standard_dumps(), True

# A value that is not plain JSON has milliseconds. A tracer of lines, which coverage is on some Pythons, takes longer.
fallback._CPU_NS *= 1000
fallback._WALL_NS *= 1000

SKIPS_ARE_FAILURES = bool(os.environ.get("AGENTSCOPE_CI_FORBID_SKIPS"))
RUN_TWICE = "run_twice"
"""The property of a test that is marked `timing` and failed at first."""


def pytest_configure(config: pytest.Config) -> None:
    """Search the output of the whole session for secrets; see `tests.support.secret_search`."""
    watch = Watch()
    watch.install()
    config.pluginmanager.register(watch, "secret_search")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AGENTSCOPE_", "VOLTAGENT_", "OTEL_"))]:
        monkeypatch.delenv(name)
    # A proxy that this machine needs would take the requests of the tests, too.
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_current_run() -> None:
    """Leave the run that an earlier test did not end."""
    context.switch(None)


def pytest_xdist_auto_num_workers() -> int | None:
    """Count the workers of `-n auto`: two for each core, because most integration tests wait for processes."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else 2 * len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a `timing` mark that gives no reason."""
    for item in items:
        for mark in item.iter_markers("timing"):
            if mark.args or not mark.kwargs.get("reason"):
                raise pytest.UsageError(f'{item.nodeid}: write @pytest.mark.timing(reason="…")')


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test that is marked `timing` once more if its call failed. Its second result counts, and the first is reported."""
    mark = item.get_closest_marker("timing")
    if mark is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    failed = [report for report in reports if report.failed]
    if [report.when for report in failed] == ["call"]:  # a leak of a secret is found at teardown, and counts
        crash = getattr(failed[0].longrepr, "reprcrash", None)
        why = str(getattr(crash, "message", "no message")).partition("\n")[0]
        item.user_properties.append((RUN_TWICE, f"{item.nodeid}: {mark.kwargs['reason']} ({why})"))
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that were run twice. Their reports come from the workers, too."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    lines = sorted({str(text) for name, text in properties if name == RUN_TWICE})
    if lines:
        terminalreporter.section("failed once, and were run again")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if SKIPS_ARE_FAILURES and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped where CI forbids it: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if SKIPS_ARE_FAILURES and report.skipped:
        report.outcome, report.longrepr = "failed", f"skipped where CI forbids it: {report.longrepr}"
    return report


@pytest.fixture
def receiver(tmp_path: object) -> Iterator[object]:
    """Start a receiver on loopback with an empty database."""
    from agentscope.server.receiver import Receiver

    with Receiver(port=0, db=f"{tmp_path}/receiver.db") as running:
        yield running
