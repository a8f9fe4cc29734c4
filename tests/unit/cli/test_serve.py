"""The options of `agentscope serve` on the command line and in the environment, and what it says that it allows."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

import pytest

from agentscope.cli import main as cli
from agentscope.cli.serve import allowed
from agentscope.server import receiver
from agentscope.server.http.addressing import Addressing
from agentscope.server.http.keys import Key
from agentscope.server.http.limits import Limits

GIVEN = {
    "HOST": ("0.0.0.0", "host", "0.0.0.0"),
    "PORT": ("9000", "port", 9000),
    "DB": ("runs.db", "db", "runs.db"),
    "KEYS_FILE": ("/etc/keys", "keys", "/etc/keys"),
    "ALLOWED_HOSTS": ("a.example, b.example:99,", "allow_host", ["a.example", "b.example:99"]),
    "ALLOWED_ORIGINS": ("https://a.example", "allow_origin", ["https://a.example"]),
    "TRUSTED_PROXIES": ("10.0.0.0/8,::1", "trusted_proxy", ["10.0.0.0/8", "::1"]),
    "ROOT_PATH": ("/agentscope", "root_path", "/agentscope"),
    "MAX_BODY": ("8MB", "max_body", 8 << 20),
    "MAX_INFLATED": ("20MB", "max_inflated", 20 << 20),
    "RETENTION": ("30", "retention", 30.0),
    "DRAIN": ("2.5", "drain", 2.5),
}


def parse(*arguments: str) -> argparse.Namespace:
    return cli.build_parser().parse_args(["serve", *arguments])


def test_every_option_but_the_key_is_in_this_table() -> None:
    """The key is read by `run`, since the help must not show it."""
    known = {name for name in vars(parse()) if name not in ("command", "api_key")}
    assert {name for _, name, _ in GIVEN.values()} == known


@pytest.mark.parametrize("variable", GIVEN)
def test_an_option_is_taken_from_the_environment(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, name, value = GIVEN[variable]
    assert getattr(parse(), name) != value
    monkeypatch.setenv(f"AGENTSCOPE_{variable}", text)
    assert getattr(parse(), name) == value


def test_the_command_line_replaces_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, (text, _, _) in GIVEN.items():
        monkeypatch.setenv(f"AGENTSCOPE_{variable}", text)
    given = parse("--port", "1", "--allow-host", "c", "--allow-host", "d", "--drain", "1")
    assert (given.port, given.allow_host, given.drain) == (1, ["c", "d"], 1.0)
    assert given.host == "0.0.0.0"


@pytest.mark.parametrize("variable", GIVEN)
def test_an_empty_variable_is_none(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = vars(parse())
    monkeypatch.setenv(f"AGENTSCOPE_{variable}", "")
    assert vars(parse()) == before


@pytest.mark.parametrize(("variable", "text"), [("PORT", "many"), ("RETENTION", "0"), ("DRAIN", "soon")])
def test_a_wrong_variable_is_named(
    variable: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"AGENTSCOPE_{variable}", text)
    with pytest.raises(SystemExit, match="2"):
        parse()
    assert f"environment variable AGENTSCOPE_{variable}: a" in capsys.readouterr().err


def test_a_variable_that_kubernetes_sets_for_a_service_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTSCOPE_PORT", "tcp://10.0.0.1:8000")
    assert parse().port == 8000
    with pytest.raises(SystemExit):
        parse("--port", "tcp://10.0.0.1:8000")


def test_every_option_is_handed_to_the_receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys"
    keys.write_text("agents ingest default ask_of_agents\n")
    keys.chmod(0o600)
    started: list[dict[str, Any]] = []

    class Recorded(receiver.Receiver):
        def __init__(self, **options: Any) -> None:
            started.append(options)
            super().__init__(**options)

    monkeypatch.setattr(receiver, "Receiver", Recorded)
    monkeypatch.setattr(receiver, "run_receiver", lambda receiver, on_start: None)
    for variable, (text, _, _) in GIVEN.items():
        monkeypatch.setenv(f"AGENTSCOPE_{variable}", text)
    assert cli.main(["serve", "--keys", os.fspath(keys)]) == 0
    assert started == [
        {
            "host": "0.0.0.0",
            "port": 9000,
            "db": "runs.db",
            "api_key": None,
            "retention_days": 30.0,
            "keys": [Key("agents", "ingest", "default", b"ask_of_agents")],
            "allowed_hosts": ["a.example", "b.example:99"],
            "allowed_origins": ["https://a.example"],
            "trusted_proxies": ["10.0.0.0/8", "::1"],
            "root_path": "/agentscope",
            "drain_seconds": 2.5,
            "limits": Limits(body_bytes=8 << 20, inflated_bytes=20 << 20),
        }
    ]


def test_it_says_what_it_allows() -> None:
    addressing = Addressing(["box", "c:99"], ["https://app.example.com"], ["10.0.0.0/8"], "/agentscope")
    assert [*allowed(addressing)] == [
        "it answers to its own address and to the names of loopback, box, c:99",
        "it takes events from pages of https://app.example.com",
        "it believes X-Forwarded-* headers of 10.0.0.0/8",
        "its addresses begin with /agentscope",
    ]
    assert [*allowed(Addressing())] == ["it answers to its own address and to the names of loopback"]
    assert [*allowed(Addressing(["*"], ["*"]))] == [
        "it answers to its own address and to every host name",
        "it takes events from pages of every origin",
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--allow-host", "*"], "needs a key|with a key"),
        (["--allow-origin", "*"], "with a key"),
        (["--allow-host", "https://x"], "allow-host takes a name"),
        (["--trusted-proxy", "proxy"], "trusted-proxy takes an address"),
        (["--root-path", "agentscope"], "root-path takes a path"),
        (["--keys", "/nowhere/keys"], "No such file or directory: /nowhere/keys"),
    ],
)
def test_options_that_cannot_be_are_one_sentence(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", *options]) == 1
    assert re.search(sentence, capsys.readouterr().err)
