"""Probes, and what is refused while the receiver starts and drains."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentscope.server.http.gate import DRAINING, READY, STARTING, Gate, State


def ask(gate: Gate, path: str, method: str = "GET") -> tuple[int, dict[bytes, bytes]]:
    """The status and headers of an answer."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    asyncio.run(gate({"type": "http", "method": method, "path": path, "headers": []}, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])


async def served(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 299, "headers": []})


@pytest.mark.parametrize(("phase", "ready", "other"), [(STARTING, 503, 503), (READY, 200, 299), (DRAINING, 503, 503)])
def test_probes_and_requests_are_answered_by_the_phase(phase: str, ready: int, other: int) -> None:
    gate = Gate(served, State())
    gate.state.phase = phase
    assert ask(gate, "/livez")[0] == 200
    assert ask(gate, "/livez", "HEAD")[0] == 200
    assert ask(gate, "/readyz")[0] == ready
    status, headers = ask(gate, "/api/runs")
    assert status == other
    assert (b"retry-after" in headers) is (other == 503)
    assert (headers.get(b"connection") == b"close") is (phase == DRAINING)


def test_before_there_are_routes_requests_are_refused() -> None:
    gate = Gate(None, State())
    assert ask(gate, "/livez")[0] == 200
    assert ask(gate, "/")[0] == 503


def test_a_drain_without_requests_is_over_at_once() -> None:
    state = State()
    state.drain(600)
    assert state.phase == DRAINING


def test_a_drain_ends_with_the_last_request_under_way() -> None:
    state = State()
    state.phase = READY
    finish = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await finish.wait()

    async def scenario() -> None:
        gate = Gate(slow, state)
        scope = {"type": "http", "method": "POST", "path": "/v1/traces", "headers": []}
        requests = [asyncio.ensure_future(gate(scope, None, None)) for _ in range(2)]  # type: ignore[arg-type]  # unused
        await asyncio.sleep(0)  # a turn of the loop
        assert state.requests == 2
        drain = asyncio.ensure_future(asyncio.to_thread(state.drain, 600))
        while state.phase != DRAINING:
            await asyncio.sleep(0)  # a turn of the loop
        finish.set()
        await asyncio.gather(*requests, drain)

    asyncio.run(scenario())
    assert state.requests == 0
