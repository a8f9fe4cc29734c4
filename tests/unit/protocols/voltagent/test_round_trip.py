"""Runs that are sent by the history calls are stored unchanged."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import Event
from agentscope.protocols.base import Failure, Request, Response
from tests.support.events import batch, deliver
from tests.support.history import HistoryProtocol, MemoryReceiver
from tests.support.run_strategies import by_batch, whole_runs


@given(whole_runs())
def test_a_run_comes_out_as_by_the_batch_call(events: list[Event]) -> None:
    receiver = MemoryReceiver()
    ending = deliver(HistoryProtocol(), batch(events), receiver)
    assert sorted(ending.delivered) == [event.seq for event in events]
    assert receiver.view("run-1") == by_batch(events)


@given(whole_runs(), st.lists(st.sampled_from(["lost", "unsent", 502, 503, 429, None]), max_size=40), st.data())
def test_repeated_requests_after_lost_answers_change_nothing(
    events: list[Event], script: list[Any], data: st.DataObject
) -> None:
    receiver = MemoryReceiver()
    trouble = iter(script)

    def moody(request: Request) -> Response | Failure:
        kind = next(trouble, None)
        if kind is None:
            return receiver(request)
        if kind in ("lost", 502):
            receiver(request)
        return Response(kind) if isinstance(kind, int) else Failure("connection", "broke", unsent=kind == "unsent")

    protocol = HistoryProtocol()
    cut = data.draw(st.integers(0, len(events)))
    for part in (events[:cut], events[cut:]):
        ending = deliver(protocol, batch(part), moody, requests=data.draw(st.sampled_from([1, 2, 1 << 30])))
        assert sorted(ending.delivered) == [event.seq for event in part]
    assert receiver.view("run-1") == by_batch(events)
