"""`agentscope serve`: a receiver on this machine, with a page to look at runs."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from agentscope.config import env_name, from_env
from agentscope.exporters.terminal import Terminal
from agentscope.options import check_api_key

from .arguments import FromEnvironment, Repeated, add_option, port

if TYPE_CHECKING:
    from agentscope.server.http.addressing import Addressing

HELP = "run a receiver: your agents' runs on this machine, with a page to look at"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. The port is that of the SDK's default `base_url`, so that neither side needs an option."""

    def add(flag: str, variable: str, **settings: Any) -> None:
        add_option(parser, flag, variable, **settings)

    add("--host", "host", default="127.0.0.1", help="address to listen on; others than loopback need a key")
    add("--port", "port", check=_port, default=8000, help="default %(default)s; 0 takes a free one")
    add("--db", "db", default="agentscope.db", help="SQLite file, made if missing (default: ./%(default)s)")
    parser.add_argument("--api-key", help=f"the key to ask for (default: {env_name('api_key')}, else any is taken)")
    add("--keys", "keys_file", metavar="FILE", help="file with a name, a role, a project and a key on each line")
    several: dict[str, Any] = {"action": Repeated, "default": []}
    add(
        "--allow-host",
        "allowed_hosts",
        metavar="NAME",
        help="serve requests to this host name as well, at any port or at NAME:PORT; * for all, with a key; repeatable",
        **several,
    )
    add(
        "--allow-origin",
        "allowed_origins",
        metavar="ORIGIN",
        help="take events from pages of this origin; * for all, with a key; repeatable",
        **several,
    )
    add(
        "--trusted-proxy",
        "trusted_proxies",
        metavar="ADDRESS",
        help="address or network of a proxy whose X-Forwarded-* headers are believed; repeatable",
        **several,
    )
    add("--root-path", "root_path", default="", metavar="PATH", help="path that a proxy puts in front, as /agentscope")
    sizes = (
        ("--max-body", "max_body", "size of a request's body as it is sent"),
        ("--max-inflated", "max_inflated", "size of a body after decompression"),
    )
    for flag, variable, meaning in sizes:
        add(flag, variable, check=_size, default=64 << 20, metavar="SIZE", help=f"{meaning}, as 20MB (default: 64MB)")
    add("--retention", "retention", check=_days, metavar="DAYS", help="delete older runs (default: keep all)")
    add(
        "--drain",
        "drain",
        check=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="time that requests under way have at the end (default: %(default)g)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from agentscope.server.http.keys import read_keys
    from agentscope.server.http.limits import limits_of
    from agentscope.server.receiver import Receiver, is_loopback, run_receiver

    key, source = arguments.api_key, "--api-key"
    if key is None:
        key, source = from_env("api_key"), f"environment variable {env_name('api_key')}"
    if key is not None:
        key = check_api_key(key, source=source)
    named = read_keys(arguments.keys) if arguments.keys else []
    receiver = Receiver(
        host=arguments.host,
        port=arguments.port,
        db=arguments.db,
        api_key=key,
        retention_days=arguments.retention,
        keys=named,
        allowed_hosts=arguments.allow_host,
        allowed_origins=arguments.allow_origin,
        trusted_proxies=arguments.trusted_proxy,
        root_path=arguments.root_path,
        drain_seconds=arguments.drain,
        limits=limits_of(arguments.max_body, arguments.max_inflated),
    )
    age = f" for {arguments.retention:g} days" if arguments.retention else ""
    keys = [f"the key from {source}"] if key else []
    keys += [f"one of the {len(named)} keys in {arguments.keys}"] if named else []

    def on_start(url: str) -> None:
        terminal = Terminal()
        api_key = 'api_key="the same key", ' if keys else ""
        terminal.say(f"AgentScope receiver at {url}  (Ctrl-C ends it)")
        terminal.say(f"  runs are kept in {os.path.abspath(arguments.db)}{age}")
        terminal.say(f"  it needs {' or '.join(keys) or 'no key (on this machine only)'}")
        for line in allowed(receiver.addressing):
            terminal.say(f"  {line}")
        if not is_loopback(arguments.host) and not receiver.addressing.proxies:
            terminal.say(
                "! keys come to it without encryption: put a TLS proxy in front, unless the network is trusted"
            )
        terminal.say()
        terminal.say("Point an agent at it, in the environment or in code:")
        terminal.say(f"  export {env_name('base_url')}={url}" + (f" {env_name('api_key')}=…" if keys else ""))
        terminal.say(f'  tracker = create_tracker({api_key}base_url="{url}")')

    run_receiver(receiver, on_start)
    return 0


def allowed(addressing: Addressing) -> Iterator[str]:
    """Say by which names, from which pages and through which proxies a receiver may be used."""
    names = "every host name" if "*" in addressing.hosts else _listed(["the names of loopback", *addressing.hosts])
    yield f"it answers to its own address and to {names}"
    if addressing.origins:
        origins = "every origin" if "*" in addressing.origins else _listed(addressing.origins)
        yield f"it takes events from pages of {origins}"
    if addressing.proxies:
        yield f"it believes X-Forwarded-* headers of {_listed(addressing.proxies)}"
    if addressing.root_path:
        yield f"its addresses begin with {addressing.root_path}"


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _port(text: str) -> int:
    # Kubernetes sets AGENTSCOPE_PORT=tcp://10.0.0.1:8000 in the pods beside a service of the name "agentscope".
    return 8000 if text.startswith("tcp://") and isinstance(text, FromEnvironment) else port(text)


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})\s*([kmg]?)(?:i?b)?", text.strip().lower())
    size = int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2]] if match else 0
    if not 1 << 10 <= size <= 1 << 40:
        raise argparse.ArgumentTypeError(f"a size of at least 1KB, such as 20MB or 500000 (bytes), not {text!r}")
    return size


def _days(text: str) -> float:
    return _number(text, 36_500, "a number of days above 0, such as 30 or 0.5")


def _seconds(text: str) -> float:
    return _number(text, 600, "a number of seconds above 0, such as 5")


def _number(text: str, most: float, allowed: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= most:
        raise argparse.ArgumentTypeError(f"{allowed}, not {text!r}")
    return number
