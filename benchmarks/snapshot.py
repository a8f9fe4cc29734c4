"""The time of a snapshot in microseconds, beside that of the standard library's JSON encoder.

    python -m benchmarks.snapshot

Every figure is the best of many short rounds, which alternate, so that a busy machine slows all of them.
"""

from __future__ import annotations

import json
import sys
import timeit
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from agentscope.serialization import snapshot

ROUNDS, CALLS = 20, 500


@dataclass
class Document:
    text: str
    found: datetime


def chat(messages: int) -> dict[str, Any]:
    return {
        "model": "a-model",
        "temperature": 0.2,
        "stream": False,
        "messages": [{"role": "user", "content": "What is the weather? " * 19} for _ in range(messages)],
        "tools": [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}],
    }


def payloads() -> dict[str, object]:
    """Payloads of plain JSON values, then payloads for the fallback encoder."""
    found = Document("x" * 200, datetime(2026, 1, 31, tzinfo=timezone.utc))
    values: dict[str, object] = {
        "plain: small dict": {"query": "weather in Paris", "units": "metric", "limit": 5},
        "plain: 2 KB of text": {"text": "lorem ipsum " * 170, "score": 0.5},
        "plain: 2 KB of chat": chat(4),
        "plain: 20 KB of chat": chat(48),
        "careful: 10 dataclasses": {"documents": [found] * 10},
    }
    try:
        import numpy

        values["careful: numpy, 256 floats"] = {"embedding": numpy.linspace(0, 1, 256)}
    except ImportError:
        pass
    try:
        import pydantic
    except ImportError:
        return values

    message = pydantic.create_model("Message", role=(str, ...), content=(str, ...))
    values["careful: 4 pydantic models"] = {"messages": [message(role="user", content="x" * 400) for _ in range(4)]}
    return values


def measured(value: object) -> dict[str, float]:
    """Microseconds of one call: the library's encoder, and a snapshot by each available encoder."""
    alone = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)
    encoders = {"stdlib": snapshot._standard_dumps(), "orjson": snapshot._fast_dumps()}
    times: dict[str, list[float]] = {"alone": []}
    for _ in range(ROUNDS):
        times["alone"].append(timeit.timeit(lambda: alone.encode(value).encode(), number=CALLS))
        for name, dumps in encoders.items():
            if dumps is not None:
                snapshot._dumps = dumps
                times.setdefault(name, []).append(timeit.timeit(lambda: snapshot.encode(value), number=CALLS))
    return {name: min(each) / CALLS * 1e6 for name, each in times.items()}


def main() -> None:
    print(
        f"Python {sys.version.split()[0]}, microseconds a call; in brackets: in relation to the library's encoder alone"
    )
    print(f"{'payload':28s} {'bytes':>7s} {'json alone':>11s} {'snapshot':>17s} {'with orjson':>17s}")
    for name, value in payloads().items():
        times = measured(value)
        alone = times.pop("alone")
        figures = "".join(f"{time:10.1f} ({time / alone:4.2f})" for time in times.values())
        print(f"{name:28s} {len(snapshot.encode(value)[0]):7d} {alone:11.1f} {figures}")


if __name__ == "__main__":
    main()
