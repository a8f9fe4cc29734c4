"""`agentscope check`: one tiny run to the configured backend, what was negotiated, and what to do when it fails."""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Any, TextIO

from agentscope.config import Config, env_name, from_env
from agentscope.exporters.otlp import endpoint_variable
from agentscope.exporters.terminal import say
from agentscope.tracker.tracker import Tracker, create_tracker

_WORDS = {
    "agentscope-batch": "batches, each event stored once",
    "otlp": "spans of OpenTelemetry",
    "agentscope-classic": "one request a record: this backend does not have the batch call",
}

_ADVICE = (
    (r"refused", "Nothing listens there. Start a receiver with `agentscope serve`, or correct {url_setting}."),
    (r"HTTP 40[13]\b|unauthori|api key", "The backend is there, and refuses the key. Correct {key_setting}."),
    (
        r"redirect|HTTP 30[12378]\b",
        "Redirects are never followed, as the key would travel along. Set {url_setting} to the target.",
    ),
    (
        r"certificate|\bTLS\b|CA bundle",
        "TLS failed. For a private authority set REQUESTS_CA_BUNDLE to its file; check http or https.",
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


def run_check(base_url: str | None, api_key: str | None, timeout: float, out: TextIO | None = None) -> int:
    """Send one run with an end, wait at most `timeout` seconds for the acknowledgement, and print how it went.

    `base_url` and `api_key` of None come from the environment; with one of them it is an AgentScope backend that is asked,
    whatever the environment says of a protocol. The answer is an exit status: 0 if it was acknowledged.
    Raises `ConfigurationError` for a URL or a key that cannot work.
    """
    out = out or sys.stdout
    protocol = None if base_url is None and api_key is None else "agentscope"
    config = Config.load({"base_url": base_url, "api_key": api_key, "protocol": protocol, "enabled": True})
    # What goes wrong is said below, once.
    logging.getLogger("agentscope").addHandler(logging.NullHandler())
    tracker = create_tracker(
        api_key,
        base_url,
        protocol=protocol,
        timeout=timeout,
        enabled=True,
        sample_rate=1.0,
        fail_silently=True,
        shutdown_timeout=0.0,
    )
    begin = time.monotonic()
    run_id, acknowledged = _send(tracker, timeout)
    took = time.monotonic() - begin
    stats = tracker.stats()
    # The worker may be in the middle of an attempt; the process must not end under it while it is in the TLS library.
    result = tracker.shutdown(timeout=0.5)
    say(out, f"{config.address}  ({_source(config.protocol, base_url)})")
    if acknowledged:
        say(
            out,
            f"✓ acknowledged after {took * 1000:.0f} ms, by {stats.protocol}: {_WORDS.get(stats.protocol or '', '')}",
        )
        say(out, f'  the run is called "agentscope check", its id is {run_id}')
        return 0
    given_up = f"the events were given up: {', '.join(stats.dropped)}" if stats.dropped else "no answer in time"
    problem = stats.problem or result.problem or given_up
    say(out, f"✗ not acknowledged after {took:.1f} s: {problem}")
    say(out, f"  {advice(problem, base_url, api_key, config.protocol)}")
    return 1


def _send(tracker: Tracker, timeout: float) -> tuple[Any, bool]:
    deadline = time.monotonic() + timeout
    run_id = tracker.start_run("agentscope check", input_data={"question": "does it arrive?"})
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
    """What to do about a problem that the pipeline named, in one or two sentences."""
    url_setting, key_setting = (env_name(option) for option in _SETTINGS[protocol])
    for pattern, sentence in _ADVICE:
        if re.search(pattern, problem, re.IGNORECASE):
            return sentence.format(
                url_setting="--base-url" if base_url else url_setting,
                key_setting="--api-key" if api_key else key_setting,
            )
    return f"Is {url_setting} the address of a backend for this protocol? `agentscope serve` runs one on this machine."


_SETTINGS = {"agentscope": ("base_url", "api_key"), "otlp": ("endpoint", "headers")}
"""The options that say where a protocol's events go, and with which key."""


def _source(protocol: str, base_url: str | None) -> str:
    """Where the address is from."""
    if base_url is not None:
        return "from --base-url"
    option, _ = _SETTINGS[protocol]
    if from_env(option):
        return f"from {env_name(option)}"
    variable = endpoint_variable() if protocol == "otlp" else None
    return f"from {variable}" if variable else "the default"
