"""`agentscope backup`: a copy of a receiver's database, made while the receiver runs."""

from __future__ import annotations

import argparse
import os
import sqlite3
from pathlib import Path

from agentscope.errors import AgentScopeError
from agentscope.exporters.terminal import Terminal

from .arguments import add_option

HELP = "copy the database of a receiver to a new file, while the receiver runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_option(
        parser, "--db", "db", default="agentscope.db", help="the database of the receiver (default: ./%(default)s)"
    )
    parser.add_argument("file", metavar="FILE", help="the copy; it must not exist yet")


def run(arguments: argparse.Namespace) -> int:
    """Copy, and say what was copied."""
    from agentscope.server.storage.sqlite.backup import back_up
    from agentscope.server.storage.sqlite.schema import Corrupt

    target = Path(arguments.file)
    try:
        size = back_up(Path(arguments.db), target)
    except (sqlite3.Error, Corrupt) as problem:
        raise AgentScopeError(f"{arguments.db} could not be copied: {problem}") from None
    Terminal().say(f"{os.path.abspath(target)} has everything that was stored, in {size / 1e6:.1f} MB")
    return 0
