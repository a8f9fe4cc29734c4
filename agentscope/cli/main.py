"""The `agentscope` command line: the list of subcommands, and the exit status and message of each error.

Status 0 is success, 1 a failure that one sentence on stderr explains, 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import os
import platform
import sys
from collections.abc import Sequence
from typing import Protocol

from agentscope._version import __version__
from agentscope.errors import AgentScopeError

from . import backup, check, demo, replay, serve


class Command(Protocol):
    """A subcommand: a module with these three names."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do the work and return the exit status."""


COMMANDS: dict[str, Command] = {"demo": demo, "serve": serve, "check": check, "replay": replay, "backup": backup}

_SERVER_PACKAGES = frozenset(
    {"starlette", "uvicorn", "anyio", "h11", "click", "google", "opentelemetry", "prometheus_client"}
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status. `argv` excludes the program's name (default: `sys.argv[1:]`)."""
    arguments = build_parser().parse_args(argv)
    try:
        return COMMANDS[arguments.command].run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`). Python would try to flush stdout again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except AgentScopeError as error:
        problem = str(error)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in _SERVER_PACKAGES:
            raise
        problem = (
            f"`agentscope {arguments.command}` needs the server extra ({error.name} is not installed): "
            "in a clone of the repository, run `pip install -e '.[server]'`"
        )
    except OSError as error:
        problem = _explain(error, arguments)
    print(f"agentscope: {problem}", file=sys.stderr)
    return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(prog="agentscope", description="Record what your AI agents do, and see it.")
    version = f"agentscope {__version__} on Python {platform.python_version()}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.HELP))
    return parser


def _explain(error: OSError, arguments: argparse.Namespace) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {arguments.port} is taken by another program: choose another with --port, or --port 0 for a free one"
        )
    if error.errno in (errno.EACCES, errno.EPERM) and 0 < getattr(arguments, "port", 0) < 1024:
        return f"port {arguments.port} needs more rights than you have: choose one above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{arguments.host} is not an address of this machine: choose another with --host"
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
