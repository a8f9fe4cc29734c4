"""asyncio: `async with` for runs and steps. Concurrent tasks do not mix.

python examples/async_agent.py
"""

import asyncio

from agentscope import create_tracker

tracker = create_tracker()


async def resolve(host: str) -> list[str]:
    """A tool that waits: name look-up in the background."""
    async with tracker.track_step_context("resolve", step_type="tool_call", input_data={"host": host}) as step:
        found = await asyncio.get_running_loop().getaddrinfo(host, 80)
        addresses = sorted({str(address[0]) for *_, address in found})
        step.output = {"addresses": addresses}
        return addresses


async def scout(name: str, hosts: list[str]) -> int:
    """A sub-agent: its tools hang below its own step, though all sub-agents run at once."""
    async with tracker.track_step_context(name, step_type="agent", input_data={"hosts": hosts}) as step:
        found = await asyncio.gather(*(resolve(host) for host in hosts))
        step.output = {"addresses": sum(len(addresses) for addresses in found)}
        return len(found)


async def main() -> None:
    async with tracker.track_run("network_scout", input_data={"question": "Who am I?"}) as run:
        done = await asyncio.gather(scout("by_name", ["localhost"]), scout("by_number", ["127.0.0.1", "127.0.0.2"]))
        run.output = {"looked_up": sum(done)}
    delivered = await tracker.aflush(timeout=10)  # does not block the event loop
    print(f"looked up {run.output['looked_up']} hosts; delivered: {bool(delivered)}")


asyncio.run(main())
