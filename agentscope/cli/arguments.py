"""Argument types and options that several commands share."""

from __future__ import annotations

import argparse

from agentscope.config import CHECKS, env_name
from agentscope.errors import AgentScopeError


def port(text: str) -> int:
    """Parse a port number."""
    if not text.isascii() or not text.isdigit() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """Parse a timeout, within the bounds of the SDK's own option."""
    try:
        value: float = CHECKS["timeout"](text, "--timeout", "command line")
    except AgentScopeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def add_destination(parser: argparse.ArgumentParser, base_url: str, timeout: str) -> None:
    """Add the options that choose a backend. `base_url` and `timeout` are the help texts of two of them."""
    parser.add_argument("--base-url", help=base_url)
    parser.add_argument("--api-key", help=f"default: {env_name('api_key')} (better: other users may see arguments)")
    parser.add_argument("--timeout", type=seconds, default=10.0, help=f"{timeout} (default: 10)")
