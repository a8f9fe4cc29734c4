"""`agentscope serve`: a receiver on this machine, with a page to look at runs."""

from __future__ import annotations

import argparse
import os

from agentscope.config import env_name, from_env
from agentscope.exporters.terminal import Terminal
from agentscope.options import check_api_key

from .arguments import port

HELP = "run a receiver: your agents' runs on this machine, with a page to look at"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. The port is that of the SDK's default `base_url`, so that neither side needs an option."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others than loopback need a key")
    parser.add_argument("--port", type=port, default=8000, help="default %(default)s; 0 takes a free one")
    parser.add_argument("--db", default="agentscope.db", help="SQLite file, made if missing (default: ./%(default)s)")
    parser.add_argument("--api-key", help=f"the key to ask for (default: {env_name('api_key')}, else any is taken)")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="serve requests to this host name as well, with or without a port; may be repeated",
    )
    parser.add_argument("--retention", type=_days, metavar="DAYS", help="delete older runs (default: keep all)")


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from agentscope.server.receiver import serve_forever

    key, source = arguments.api_key, "--api-key"
    if key is None:
        key, source = from_env("api_key"), f"environment variable {env_name('api_key')}"
    if key is not None:
        key = check_api_key(key, source=source)
    age = f" for {arguments.retention:g} days" if arguments.retention else ""

    def on_start(url: str) -> None:
        terminal = Terminal()
        api_key = 'api_key="the same key", ' if key else ""
        terminal.say(f"AgentScope receiver at {url}  (Ctrl-C ends it)")
        terminal.say(f"  runs are kept in {os.path.abspath(arguments.db)}{age}")
        terminal.say(f"  it needs {f'the key from {source}' if key else 'no key (on this machine only)'}")
        terminal.say()
        terminal.say("Point an agent at it, in the environment or in code:")
        terminal.say(f"  export {env_name('base_url')}={url}" + (f" {env_name('api_key')}=…" if key else ""))
        terminal.say(f'  tracker = create_tracker({api_key}base_url="{url}")')

    serve_forever(
        host=arguments.host,
        port=arguments.port,
        db=arguments.db,
        api_key=key,
        retention_days=arguments.retention,
        allowed_hosts=arguments.allow_host,
        on_start=on_start,
    )
    return 0


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days < 36_500:
        raise argparse.ArgumentTypeError(f"a number of days above 0, such as 30 or 0.5, not {text!r}")
    return days
