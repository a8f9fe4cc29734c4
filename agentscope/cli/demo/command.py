"""The demonstration: a receiver, an agent on real files, and a check that everything recorded is stored."""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from agentscope.cli.arguments import port
from agentscope.exporters.terminal import BOLD, Terminal, mark, tree
from agentscope.tracker.tracker import create_tracker

from .agent import work

HELP = "run a sample agent over the files of this directory and show what it did"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--port", type=port, default=0, help="port of the receiver (default: a free one)")
    parser.add_argument(
        "--exit", action="store_true", help="end at once; status 0 only if everything recorded is stored"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the agent, print what it did, and return 0 if every accepted event was delivered and is stored."""
    from agentscope.server.receiver import Receiver

    terminal = Terminal()
    with ExitStack() as stack:
        # SIGTERM raises KeyboardInterrupt too, so that the folder is removed.
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentscope-demo-")))
        receiver = stack.enter_context(Receiver(port=arguments.port, db=str(folder / "demo.db")))
        terminal.say("An agent reads ", (BOLD, os.getcwd()), ", recorded by AgentScope.")
        # Set here, since the environment's values are meant for the user's own agents.
        options: dict[str, Any] = {"enabled": True, "sample_rate": 1.0, "fail_silently": True, "protocol": "agentscope"}
        tracker = create_tracker("demo", receiver.url, **options)
        payload = "An agent reads and writes text mostly, so the payload of this call is text. " * 12
        with tracker.track_run("call cost") as cost_run:
            begin = time.perf_counter()
            for _ in range(2000):
                tracker.track_step("answer", "llm_call", output_data={"text": payload}, latency_ms=1)
            cost = (time.perf_counter() - begin) / 2000 * 1e6
        tracker.flush(timeout=10)  # so that the agent's events find room, however small the queue is
        run_ids = work(tracker, folder / "notebook.json")
        tracker.flush(timeout=10)
        stats = tracker.stats()
        tracker.shutdown(timeout=5)
        for run_id in run_ids:
            run = _fetch(f"{receiver.url}/api/runs/{run_id}")
            head, *rows = tree(run, terminal.width - 2, _output)
            terminal.say()
            terminal.say(*head)
            terminal.say((BOLD, f"  {(run['input'] or {}).get('question', '')}"))
            for row in rows:
                terminal.say("  ", *row)
            answer = (run["output"] or {}).get("answer", "")
            for text in textwrap.wrap(answer, terminal.width - 4, max_lines=4, placeholder=" …"):
                terminal.say(f"  {text}")
        stored = sum(len(_fetch(f"{receiver.url}/api/runs/{id_}/events")["events"]) for id_ in (cost_run, *run_ids))
        is_whole = stats.accepted == stats.delivered == stored
        terminal.say()
        terminal.say(
            mark(is_whole),
            f" ledger   accepted {stats.accepted} = delivered {stats.delivered} + dropped {sum(stats.dropped.values())}"
            f" + spooled {stats.spooled} + pending {stats.pending}",
        )
        terminal.say(f"           stored by the receiver: {stored}")
        if not is_whole:
            reasons = ", ".join(f"{reason} {count}" for reason, count in stats.dropped.items()) or "nothing"
            terminal.say(f"           accepted, delivered and stored should be equal; dropped: {reasons}")
        terminal.say(f"· cost     a tracking call took {cost:.1f} µs (mean of 2000, with 1 KB each)")
        terminal.say("· page     ", (BOLD, f"{receiver.url}/runs/{run_ids[-1]}"))
        if arguments.exit:
            terminal.say("           closed now; run the demo without --exit to look around")
        else:
            with suppress(KeyboardInterrupt):
                terminal.say(f"· all runs {receiver.url}/")
                terminal.say(f'· yours    tracker = create_tracker(base_url="{receiver.url}")')
                terminal.say()
                terminal.say("Press Ctrl-C to end; the recordings are deleted then.")
                while True:
                    time.sleep(3600)
    return 0 if is_whole else 1


def _fetch(url: str) -> Any:
    """Get JSON from the receiver, past any proxy that the environment names."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        return json.load(answer)


def _output(step: Mapping[str, Any]) -> str:
    return " · ".join(f"{key} {value}" for key, value in (step["output"] or {}).items())
