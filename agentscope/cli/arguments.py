"""Argument types and options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from agentscope.config import CHECKS, env_name, from_env
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


class FromEnvironment(str):
    """The text of an option that the environment sets, with the name of its variable in `source`."""

    source = ""


def add_option(
    parser: argparse.ArgumentParser, flag: str, variable: str, check: Callable[[str], Any] = str, **settings: Any
) -> None:
    """Add an option that an environment variable sets where the command line does not.

    `check` parses a text or raises `ArgumentTypeError`, and the error names the variable that the text comes from. An
    option with the action `Repeated` takes several values, separated by commas in the variable.
    """
    name = env_name(variable)

    def parse(text: str) -> Any:
        try:
            return check(text)
        except argparse.ArgumentTypeError as error:
            source = text.source if isinstance(text, FromEnvironment) else ""
            raise argparse.ArgumentTypeError(
                f"environment variable {source}: {error}" if source else str(error)
            ) from None

    given = from_env(variable)
    if given is not None and settings.get("action") is Repeated:
        settings["default"] = [part.strip() for part in given.split(",") if part.strip()]
    elif given is not None:
        settings["default"] = FromEnvironment(given)
        settings["default"].source = name
    settings["help"] += f"; also {name}"
    parser.add_argument(flag, type=parse, **settings)


class Repeated(argparse.Action):
    """An option that may be given several times. The command line replaces its default."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, option: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if before is self.default else before), value])
