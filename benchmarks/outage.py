"""An outage in the middle of a run of 20 events a second: the backend answers 503, then refuses, then hangs. No loss is allowed.

python -m benchmarks.outage [seconds of outage, 25]
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request

from agentscope import create_tracker
from agentscope.server.receiver import Receiver
from tests.support.proxy import FaultProxy

RATE = 20


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 25.0
    with Receiver(port=0) as receiver, FaultProxy(receiver.url) as proxy:
        tracker = create_tracker("ask_bench", proxy.url)
        tracked = 0
        with tracker.track_run("agent"):
            for mode, options, share in (
                ("pass", {}, 0.2),
                ("status", {"code": 503}, 1 / 3),
                ("refuse", {}, 1 / 3),
                ("hang", {}, 1 / 3),
                ("pass", {}, 0.2),
            ):
                proxy.set(mode, **options)
                end = time.monotonic() + share * seconds
                while time.monotonic() < end:
                    tracked += tracker.track_step("step", "tool_call", {"n": tracked})
                    time.sleep(1 / RATE)
                print(
                    f"{mode:7} {tracker.stats().pending:5} pending, {tracker.stats().problem or 'no problem'}",
                    flush=True,
                )
        began = time.monotonic()
        result = tracker.flush(30)
        stats = tracker.stats()
        print(f"flush took {time.monotonic() - began:.2f} s: {result}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        stored = json.load(opener.open(receiver.url + "/api/runs", timeout=5))["runs"][0]["step_count"]
        print(f"tracked {tracked}, stored {stored}, dropped {dict(stats.dropped)}, attempts {stats.attempts}")
        tracker.shutdown()
        raise SystemExit(0 if stored == tracked and result else 1)


if __name__ == "__main__":
    main()
