"""The `agentscope` command: demo, serve, check, replay.

Status 0 is success, 1 is what one sentence on stderr says, 2 is wrong usage.
"""

from __future__ import annotations

import argparse
import errno
import os
import platform
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from agentscope._version import __version__
from agentscope.config import CHECKS, env_name, from_env
from agentscope.errors import AgentScopeError
from agentscope.options import DEFAULT_BASE_URL, check_api_key

DEFAULT_PORT = 8000
"""The port in the SDK's default `base_url`, so that neither side needs an option."""

DEFAULT_DB = "agentscope.db"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. `argv` is without the program's name (default: the process's arguments)."""
    arguments = build_parser().parse_args(argv)
    try:
        return _COMMANDS[arguments.command](arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`): nothing is left to say, and the interpreter must not try at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except AgentScopeError as error:
        return _fail(str(error))
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in _SERVER_PACKAGES:
            raise
        return _fail(
            f"`agentscope {arguments.command}` needs the server extra ({error.name} is not installed): "
            "in a clone of the repository, run `pip install -e '.[server]'`"
        )
    except OSError as error:
        return _fail(_explain(error, arguments))


def build_parser() -> argparse.ArgumentParser:
    """The command line as one value, so that documentation can be tested against it."""
    parser = argparse.ArgumentParser(prog="agentscope", description="Record what your AI agents do, and see it.")
    version = f"agentscope {__version__} on Python {platform.python_version()}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="run a sample agent over the files of this directory and show what it did")
    demo.add_argument("--port", type=_port, default=0, help="port of the receiver (default: a free one)")
    demo.add_argument("--exit", action="store_true", help="end at once; status 0 only if everything recorded is stored")

    serve = commands.add_parser(
        "serve", help="run a receiver: your agents' runs on this machine, with a page to look at"
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; others than loopback need a key")
    serve.add_argument("--port", type=_port, default=DEFAULT_PORT, help="default %(default)s; 0 takes a free one")
    serve.add_argument("--db", default=DEFAULT_DB, help="SQLite file, made if missing (default: ./%(default)s)")
    serve.add_argument("--api-key", help=f"the key to ask for (default: {env_name('api_key')}, else any is taken)")
    serve.add_argument("--retention", type=_days, metavar="DAYS", help="delete older runs (default: keep all)")

    check = commands.add_parser("check", help="send one tiny run to the configured backend and say how it went")
    check.add_argument("--base-url", help=f"default: {env_name('base_url')}, else {DEFAULT_BASE_URL}")
    check.add_argument("--api-key", help=f"default: {env_name('api_key')} (better: other users may see arguments)")
    check.add_argument("--timeout", type=_seconds, default=10.0, help="seconds to wait (default: 10)")

    replay = commands.add_parser("replay", help="send what processes that have ended left in a spool directory")
    replay.add_argument("--spool-dir", help=f"default: {env_name('spool_dir')}")
    replay.add_argument("--dry-run", action="store_true", help="list what is there, and send nothing")
    replay.add_argument("--base-url", help="another address than the one that the events were for")
    replay.add_argument("--api-key", help=f"default: {env_name('api_key')} (better: other users may see arguments)")
    replay.add_argument("--timeout", type=_seconds, default=10.0, help="seconds without progress to wait (default: 10)")
    return parser


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days < 36_500:
        raise argparse.ArgumentTypeError(f"a number of days above 0, such as 30 or 0.5, not {text!r}")
    return days


def _seconds(text: str) -> float:
    try:
        seconds: float = CHECKS["timeout"](text, "--timeout", "command line")
    except AgentScopeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return seconds


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import run_demo

    before = signal.signal(signal.SIGTERM, _stop)
    try:
        return run_demo(port=arguments.port, leave=arguments.exit)
    finally:
        signal.signal(signal.SIGTERM, before)


def _serve(arguments: argparse.Namespace) -> int:
    from agentscope.server.receiver import serve_forever

    key, source = arguments.api_key, "--api-key"
    if key is None:
        key, source = from_env("api_key"), f"environment variable {env_name('api_key')}"
    if key is not None:
        key = check_api_key(key, source=source)
    where = os.path.abspath(arguments.db)

    def ready(url: str) -> None:
        asks = f"the key from {source}" if key else "any key (on this machine only)"
        shown = "the same key" if key else "any"
        lines = [
            f"AgentScope receiver at {url}  (Ctrl-C ends it)",
            f"  runs are kept in {where}" + (f" for {arguments.retention:g} days" if arguments.retention else ""),
            f"  it takes {asks}",
            "",
            "Point an agent at it, in the environment or in code:",
            f"  export {env_name('base_url')}={url} {env_name('api_key')}=" + ("…" if key else "any"),
            f'  tracker = create_tracker(api_key="{shown}", base_url="{url}")',
        ]
        encoding = sys.stdout.encoding or "utf-8"
        print("\n".join(lines).encode(encoding, "replace").decode(encoding), flush=True)

    serve_forever(
        host=arguments.host,
        port=arguments.port,
        db=arguments.db,
        api_key=key,
        retention_days=arguments.retention,
        on_start=ready,
    )
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from .check import run_check

    return run_check(arguments.base_url, arguments.api_key, arguments.timeout)


def _replay(arguments: argparse.Namespace) -> int:
    from .replay import run_replay

    directory, source = arguments.spool_dir, "--spool-dir"
    if directory is None:
        directory, source = from_env("spool_dir"), f"environment variable {env_name('spool_dir')}"
    if directory is None:
        return _fail(f"which directory? Pass --spool-dir, or set {env_name('spool_dir')}")
    return run_replay(
        CHECKS["spool_dir"](directory, "spool_dir", source),
        arguments.base_url,
        arguments.api_key,
        dry_run=arguments.dry_run,
        timeout=arguments.timeout,
    )


_COMMANDS = {"demo": _demo, "serve": _serve, "check": _check, "replay": _replay}

_SERVER_PACKAGES = frozenset({"starlette", "uvicorn", "anyio", "h11", "click"})


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


def _fail(sentence: str) -> int:
    print(f"agentscope: {sentence}", file=sys.stderr)
    return 1


def _stop(signum: int, frame: object) -> NoReturn:
    """End on SIGTERM as on Ctrl-C, so that a temporary database is removed."""
    raise KeyboardInterrupt
