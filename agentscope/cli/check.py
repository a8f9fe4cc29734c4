"""`agentscope check`: sends one tiny run to the configured backend, reports what was negotiated, and gives advice."""

from __future__ import annotations

import argparse
import logging
import re
import time
from typing import Any, Literal

from agentscope.config import Config, env_name, from_env
from agentscope.exporters.otlp import endpoint_variable
from agentscope.exporters.terminal import Terminal
from agentscope.options import DEFAULT_BASE_URL
from agentscope.tracker.tracker import Tracker, create_tracker

from .arguments import add_destination

HELP = "send one tiny run to the configured backend and say how it went"

TAG = "agentscope-check"
"""The tag of the runs of this command. Most backends cannot delete them."""

_PROTOCOLS = {
    "agentscope-batch": "batches, each event stored once",
    "otlp": "spans of OpenTelemetry",
    "agentscope-classic": "one request a record: this backend does not have the batch call",
}

_SETTINGS = {"agentscope": ("base_url", "api_key"), "otlp": ("endpoint", "headers")}
"""By protocol: the options for the address and for the key."""

_ADVICE = (
    (r"refused", "Nothing listens there. Start a receiver with `agentscope serve`, or correct {url_setting}."),
    (
        r"HTTP 421\b",
        "A receiver is there, and does not serve this host name. Use its IP address, or start it with --allow-host NAME.",
    ),
    (r"PySocks", "A SOCKS proxy is set. Install PySocks, or take the host out of the proxy with NO_PROXY."),
    (r"HTTP 40[13]\b|unauthori|api key", "The backend is there, and refuses the key. Correct {key_setting}."),
    (
        r"redirect|HTTP 30[12378]\b",
        "Redirects are never followed, as the key would travel along. Set {url_setting} to the target.",
    ),
    (
        r"certificate|\bTLS\b|CA bundle",
        "TLS failed. For a private authority set REQUESTS_CA_BUNDLE or SSL_CERT_FILE to its file; check http or https.",
    ),
    (r"HTTP 40[45]\b", "Something answers there, and it is no backend for this protocol. Correct {url_setting}."),
    (r"resolve", "The host name is not known. Correct {url_setting}."),
    (r"proxy", "A proxy is in the way. Add the host to NO_PROXY, or correct HTTP_PROXY and HTTPS_PROXY."),
    (
        r"in time|within|no time",
        "It did not answer in time. Try a longer --timeout; a firewall may swallow the packets.",
    ),
    (r"unreachable|no route", "There is no way to that machine from here. Check the network and {url_setting}."),
    (r"HTTP (429|50[0-9])\b", "The backend is there, and in trouble. Its own log says more; try again later."),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_destination(parser, f"default: {env_name('base_url')}, else {DEFAULT_BASE_URL}", "seconds to wait")


def run(arguments: argparse.Namespace) -> int:
    """Check the backend that the arguments and the environment name."""
    return run_check(arguments.base_url, arguments.api_key, arguments.timeout)


def run_check(base_url: str | None, api_key: str | None, timeout: float) -> int:
    """Send one ended run, wait at most `timeout` seconds, print the outcome, and return 0 if it was acknowledged.

    `base_url` and `api_key` are those of an AgentScope backend. If both are None, the environment names the backend. Raises
    `ConfigurationError` for a URL or a key that cannot work.
    """
    terminal = Terminal()
    protocol: Literal["agentscope"] | None = None if base_url is None and api_key is None else "agentscope"
    config = Config.load({"base_url": base_url, "api_key": api_key, "protocol": protocol, "enabled": True})
    # The problem is printed below, once.
    logging.getLogger("agentscope").addHandler(logging.NullHandler())
    settings: dict[str, Any] = {"enabled": True, "sample_rate": 1.0, "fail_silently": True, "shutdown_timeout": 0.0}
    tracker = create_tracker(api_key, base_url, protocol=protocol, timeout=timeout, **settings)
    begin = time.monotonic()
    run_id, is_acknowledged = _send(tracker, timeout)
    elapsed = time.monotonic() - begin
    stats = tracker.stats()
    # The worker may be in the middle of an attempt; the process must not end under it while it is in the TLS library.
    result = tracker.shutdown(timeout=0.5)
    terminal.say(f"{config.address}  ({_source(config.protocol, base_url)})")
    if any(destination.exposed for destination in config.exporters):
        terminal.say("! the key is sent there without encryption: use https, unless the network is trusted")
    if is_acknowledged:
        meaning = _PROTOCOLS.get(stats.protocol or "", "")
        terminal.say(f"✓ acknowledged after {elapsed * 1000:.0f} ms, by {stats.protocol}: {meaning}")
        terminal.say(f'  the run is called "agentscope check", with the tag {TAG}; its id is {run_id}')
        return 0
    dropped = f"the events were given up: {', '.join(stats.dropped)}" if stats.dropped else "no answer in time"
    problem = stats.problem or result.problem or dropped
    terminal.say(f"✗ not acknowledged after {elapsed:.1f} s: {problem}")
    terminal.say(f"  {advice(problem, base_url, api_key, config.protocol)}")
    return 1


def _send(tracker: Tracker, timeout: float) -> tuple[Any, bool]:
    """Record and flush a run. Returns its id, and True if it was acknowledged."""
    deadline = time.monotonic() + timeout
    run_id = tracker.start_run("agentscope check", input_data={"question": "does it arrive?"}, tags=[TAG])
    tracker.end_run(run_id=run_id, output={"answer": "it does"})
    while True:
        left = deadline - time.monotonic()
        if tracker.flush(timeout=min(max(left, 0.0), 1.0)):
            return run_id, True
        stats = tracker.stats()
        # A second of failing attempts is an answer: a person is waiting.
        if left <= 0 or stats.dropped or stats.problem:
            return run_id, False


def advice(problem: str, base_url: str | None = None, api_key: str | None = None, protocol: str = "agentscope") -> str:
    """Return one or two sentences on how to solve a problem that the pipeline reported."""
    url_setting, key_setting = (env_name(option) for option in _SETTINGS[protocol])
    for pattern, sentence in _ADVICE:
        if re.search(pattern, problem, re.IGNORECASE):
            return sentence.format(
                url_setting="--base-url" if base_url else url_setting,
                key_setting="--api-key" if api_key else key_setting,
            )
    return f"Is {url_setting} the address of a backend for this protocol? `agentscope serve` runs one on this machine."


def _source(protocol: str, base_url: str | None) -> str:
    """Name the setting that the address comes from."""
    if base_url is not None:
        return "from --base-url"
    option, _ = _SETTINGS[protocol]
    if from_env(option):
        return f"from {env_name(option)}"
    variable = endpoint_variable() if protocol == "otlp" else None
    return f"from {variable}" if variable else "the default"
