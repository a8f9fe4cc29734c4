"""The command line without processes: options, exit statuses, and the one sentence that says what went wrong."""

from __future__ import annotations

import argparse
import errno
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from agentscope._version import __version__
from agentscope.cli import check as checkup
from agentscope.cli import main as cli
from agentscope.cli import serve
from agentscope.errors import ConfigurationError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `agentscope serve` raise what a test gives it."""

    def install(error: BaseException) -> None:
        def fail(arguments: argparse.Namespace) -> int:
            raise error

        monkeypatch.setattr(serve, "run", fail)

    return install


def test_version_names_the_package_and_python(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"agentscope {__version__} on Python 3.")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "required: COMMAND"),
        (["sing"], "invalid choice"),
        (["serve", "--port", "65536"], "a port is a number from 0 to 65535"),
        (["serve", "--port", "-1"], "a port is a number from 0 to 65535"),
        (["demo", "--port", "٣"], "a port is a number from 0 to 65535"),
        (["serve", "--retention", "0"], "a number of days above 0"),
        (["serve", "--retention", "nan"], "a number of days above 0"),
        (["serve", "--retention", "month"], "a number of days above 0"),
        (["check", "--timeout", "0"], "must be a number from 0.05 to 600"),
        (["check", "--timeout", "soon"], "must be a number from 0.05 to 600"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_is_allowed(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_options_have_the_defaults_that_the_sdk_has() -> None:
    server = cli.build_parser().parse_args(["serve"])
    assert server.allow_host == []
    assert (server.host, server.port, server.api_key, server.retention) == ("127.0.0.1", 8000, None, None)
    check = cli.build_parser().parse_args(["check", "--timeout", "2.5"])
    assert (check.base_url, check.api_key, check.timeout) == (None, None, 2.5)
    demo = cli.build_parser().parse_args(["demo", "--exit"])
    assert (demo.port, demo.exit) == (0, True)


def test_check_is_given_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[object, ...]] = []
    monkeypatch.setattr("agentscope.cli.check.run_check", lambda *arguments: given.append(arguments) or 1)
    assert cli.main(["check", "--base-url", "http://there", "--api-key", "ask_test", "--timeout", "2.5"]) == 1
    assert given == [("http://there", "ask_test", 2.5)]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EADDRINUSE, "in use"), "port 80 is taken by another program: choose another with --port"),
        (OSError(errno.EACCES, "denied"), "port 80 needs more rights than you have"),
        (OSError(errno.EADDRNOTAVAIL, "no"), "127.0.0.1 is not an address of this machine"),
        (
            OSError(errno.ENOENT, "No such file or directory", "/nowhere/a.db"),
            "No such file or directory: /nowhere/a.db",
        ),
        (OSError("the disk is gone"), "the disk is gone"),
        (ConfigurationError("api_key is missing"), "api_key is missing"),
        (ImportError("no", name="uvicorn"), "`agentscope serve` needs the server extra (uvicorn is not installed)"),
        (ImportError("no", name="starlette.routing"), "needs the server extra"),
    ],
)
def test_a_failure_is_one_sentence_and_status_1(
    error: BaseException, sentence: str, command: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(error)
    assert cli.main(["serve", "--port", "80"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("agentscope: ")
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("error", [ImportError("broken"), ImportError("broken", name="agentscope.nothing")])
def test_a_broken_import_of_our_own_is_not_called_a_missing_extra(
    error: ImportError, command: Callable[[BaseException], None]
) -> None:
    command(error)
    with pytest.raises(ImportError, match="broken"):
        cli.main(["serve"])


def test_ctrl_c_is_status_130_without_a_traceback(
    command: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(KeyboardInterrupt())
    assert cli.main(["serve"]) == 130
    assert capsys.readouterr().err == ""


def test_each_command_is_a_module_with_its_options_and_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--loud", action="store_true")

    sing = SimpleNamespace(HELP="sing", add_arguments=add_arguments, run=lambda arguments: 40 + arguments.loud)
    monkeypatch.setitem(cli.COMMANDS, "sing", sing)
    assert cli.main(["sing", "--loud"]) == 41


@pytest.mark.parametrize(
    ("problem", "word"),
    [
        ("localhost:8000: the connection was refused", "agentscope serve"),
        ("the backend answers HTTP 401", "AGENTSCOPE_API_KEY"),
        ("HTTP 403", "AGENTSCOPE_API_KEY"),
        ("the backend redirects (HTTP 302), which is never followed: check the address", "target"),
        ("no TLS connection (self-signed)", "REQUESTS_CA_BUNDLE"),
        ("the receiver does not serve this host name (HTTP 421)", "--allow-host"),
        ("the SOCKS proxy of the environment needs PySocks: pip install pysocks", "Install PySocks"),
        ("HTTP 404", "no backend for this protocol"),
        ("the host name cannot be resolved", "host name is not known"),
        ("the proxy does not let it through", "NO_PROXY"),
        ("not connected within 10 s", "--timeout"),
        ("no answer in time", "--timeout"),
        ("network is unreachable", "network"),
        ("HTTP 503", "in trouble"),
        ("something else", "AGENTSCOPE_BASE_URL"),
        # A port is no status.
        ("127.0.0.1:46405: not a whole answer within 0.18 s", "--timeout"),
        ("127.0.0.1:40401: not connected within 1 s", "--timeout"),
        ("127.0.0.1:45503: something else", "AGENTSCOPE_BASE_URL"),
    ],
)
def test_each_problem_has_its_advice(problem: str, word: str) -> None:
    assert word in checkup.advice(problem)


def test_advice_names_the_setting_that_was_used() -> None:
    assert "--base-url" in checkup.advice("HTTP 404", base_url="http://localhost:1")
    assert "--api-key" in checkup.advice("HTTP 401", api_key="key")
