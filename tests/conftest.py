"""What holds for every test: the developer's own options do not leak in, nor secrets out, and CI takes no skip for an answer."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from agentscope.serialization import snapshot
from agentscope.tracker import context
from tests.support.canary import Watch

# A busy machine is no reason for a test to fail. How many examples a property is tried on may be told from outside.
settings.register_profile(
    "agentscope", deadline=None, max_examples=int(os.environ.get("AGENTSCOPE_TEST_EXAMPLES", "100"))
)
settings.load_profile("agentscope")

# Under nohup, or behind a shell's `&`, some signals are ignored, and so they would be in the programs that tests start.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _usual)

# The dev extra brings orjson, which most users are without: with AGENTSCOPE_TEST_FAST=1 the tests run with it.
if not os.environ.get("AGENTSCOPE_TEST_FAST"):
    snapshot._dumps = snapshot._standard_dumps()

SKIPS_ARE_FAILURES = bool(os.environ.get("AGENTSCOPE_CI_FORBID_SKIPS"))


def pytest_configure(config: pytest.Config) -> None:
    """Search what is said during the whole session for secrets; see `canary`."""
    watch = Watch()
    watch.install()
    config.pluginmanager.register(watch, "canary")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AGENTSCOPE_", "VOLTAGENT_", "OTEL_"))]:
        monkeypatch.delenv(name)
    # A proxy of the machine that the tests run on is not part of what they test.
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_current_run() -> None:
    """A run that another test began and never ended is not this one's."""
    context.switch(None)


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
    """A receiver of its own on loopback, with an empty database."""
    from agentscope.server.receiver import Receiver

    with Receiver(port=0, db=f"{tmp_path}/receiver.db") as running:
        yield running
