"""The time of 2 000 pairs of `add_tool` and `success`, here and with the published `voltagent`, if that is installed.

    python -m benchmarks.voltagent_calls [pairs]

Both make the same awaited calls, with a receiver in a process of its own, and alternate. The published package waits for the
answer to each call. Here a worker delivers in the background, and the line after the table says when it finished.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from agentscope.voltagent import VoltAgentSDK
from benchmarks.burst import wait_for

ROUNDS = 10
PORT = 8913
TOOL = {"name": "weather_api", "input": {"city": "Istanbul", "units": "metric"}, "metadata": {"cache_hit": False}}
OUTPUT = {"temperature": 22, "condition": "sunny", "humidity": 65}


async def pairs(agent: Any, number: int) -> float:
    """The seconds of `pairs` pairs."""
    began = time.perf_counter()
    for _ in range(number):
        tool = await agent.add_tool(TOOL)
        await tool.success(output=OUTPUT)
    return time.perf_counter() - began


async def begin(sdk: Any) -> Any:
    trace = await sdk.create_trace(agentId="weather-agent", input={"query": "Weather in Istanbul?"})
    return await trace.add_agent({"name": "Weather Agent"})


async def measure(url: str, number: int) -> None:
    options: dict[str, Any] = {"base_url": url, "public_key": "any", "secret_key": "any"}
    ours = VoltAgentSDK(**options)
    agents = {"agentscope.voltagent": await begin(ours)}
    try:
        published = importlib.import_module("voltagent").VoltAgentSDK(**options, auto_flush=False)
        agents["voltagent, published"] = await begin(published)
    except ImportError:
        print("the published package is not installed: pip install voltagent==0.1.1")
    for agent in agents.values():
        await pairs(agent, 20)
    seconds = dict.fromkeys(agents, 0.0)
    best = dict.fromkeys(agents, float("inf"))
    for _ in range(ROUNDS):
        for name, agent in agents.items():
            gc.collect()
            taken = await pairs(agent, number // ROUNDS)
            seconds[name] += taken
            best[name] = min(best[name], taken)
    print(f"{'microseconds a pair':24} {'mean':>9} {'best round':>11}")
    for name, total in seconds.items():
        print(f"{name:24} {total / number * 1e6:9.1f} {best[name] / (number // ROUNDS) * 1e6:11.1f}", flush=True)
    if len(seconds) == 2:
        own, other = seconds.values()
        print(f"the published package takes {other / own:.0f} times as long (wanted: 100)")
    began = time.perf_counter()
    result = await ours.shutdown()
    print(f"the rest was delivered in {time.perf_counter() - began:.2f} s: {result}")
    stats = ours.stats()
    if not result or stats.delivered != stats.accepted:
        sys.exit(f"what was fast was not delivered: {stats}")


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "agentscope", "serve", "--port", str(PORT), "--db", f"{folder}/bench.db"],
            stdout=subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{PORT}"
            wait_for(url)
            asyncio.run(measure(url, number))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
