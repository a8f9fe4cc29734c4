"""The decorator: arguments and results of functions, coroutines and generators become steps.

python examples/decorator.py
"""

import asyncio
from collections.abc import Iterator

from agentscope import create_tracker

tracker = create_tracker()

CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Kenya": "Nairobi"}


@tracker.observe(step_type="retrieval")
def look_up(country: str) -> str:
    return CAPITALS[country]


@tracker.observe(step_type="tool_call")
async def distance(a: str, b: str) -> int:
    """Letters that differ: no geography was harmed."""
    await asyncio.sleep(0)
    return sum(x != y for x, y in zip(a, b, strict=True))


@tracker.observe(step_type="llm_call", name="write_answer")
def write(capitals: list[str], difference: int) -> Iterator[str]:
    """A stream, as of a language model: the step ends with the stream and holds all of it."""
    yield from " and ".join(capitals).split(" ")
    yield f"differ in {difference} letters"


@tracker.observe(step_type="agent")
def compare(first: str, second: str) -> str:
    capitals = [look_up(first), look_up(second)]  # steps below "compare"
    difference = asyncio.run(distance(*capitals))
    return " ".join(write(capitals, difference))


with tracker.track_run("comparer", input_data={"countries": ["France", "Japan"]}) as run:
    run.output = {"answer": compare("France", "Japan")}

print(run.output["answer"])
