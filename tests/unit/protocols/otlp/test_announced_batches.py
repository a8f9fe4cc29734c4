"""A backend of OTLP that is a receiver of this package: it is spoken to in batches once it has announced them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentscope.events import RUN_START, STEP, STEP_START, Event
from agentscope.protocols.agentscope.batch import PATH
from agentscope.protocols.base import Batch, Outcome, Request, Response, Session
from agentscope.protocols.otlp.protocol import OTLPProtocol, OTLPState
from agentscope.protocols.voltagent.protocol import VoltAgentProtocol

SESSION = Session("session-1", "00000000-0000-8000-8000-")
ANNOUNCED = {"content-type": "application/json", "x-agentscope-batch": PATH}


def event(seq: int, type_: str, step_id: str | None = None) -> Event:
    return Event(type_, seq, seq, "run-1", step_id, None, {"status": "running"}, 100)


OTLP_PATH = "/v1/traces"
Make = type[OTLPProtocol]


@pytest.fixture(params=[OTLPProtocol, VoltAgentProtocol])
def make(request: pytest.FixtureRequest) -> Make:
    protocol: Make = request.param
    return protocol


class Backend:
    """A backend, and the requests that it got."""

    def __init__(self, make: Make, announces: bool = True, path: str = OTLP_PATH) -> None:
        self.announces = announces
        self.path = path
        self.requests: list[Request] = []
        self.protocol = make(OTLPState(path=path, encoding="json", compress=False, largest_body=1 << 20, resource={}))

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        if request.path == self.path:
            return Response(200, ANNOUNCED if self.announces else {"content-type": "application/json"}, b"{}")
        if not self.announces:
            return Response(404)
        return Response(200, {}, json.dumps({"accepted": len(json.loads(request.body)["events"])}).encode())

    def attempt(self, *events: Event, **more: Any) -> Outcome:
        delivery = self.protocol.begin(Batch("batch", SESSION, events, **more))
        while lanes := delivery.lanes():
            for lane in lanes:
                while (request := lane.next()) is not None:
                    lane.answer(self.answer(request))
        return delivery.outcome

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


def test_after_an_answer_that_announces_the_batch_call_starts_are_sent_by_themselves(make: Make) -> None:
    backend = Backend(make)
    first = backend.attempt(event(1, STEP_START, "s1"), event(2, STEP, "s2"))
    assert (first.delivered, first.parked, first.released) == ([2], [1], True)
    second = backend.attempt(event(1, STEP_START, "s1"))
    assert (second.delivered, second.parked) == ([1], [])
    assert backend.paths == [OTLP_PATH, PATH]
    assert backend.protocol.name == "agentscope-batch"


def test_a_heartbeat_asks_a_backend_that_has_had_only_starts(make: Make) -> None:
    backend = Backend(make)
    assert backend.attempt(event(1, RUN_START)).parked == [1]
    assert backend.requests == []
    assert backend.attempt(is_heartbeat=True).released
    assert json.loads(backend.requests[0].body)["resourceSpans"][0]["scopeSpans"][0].get("spans", []) == []
    assert backend.attempt(event(1, RUN_START)).delivered == [1]


def test_a_backend_that_announces_nothing_gets_whole_spans_as_ever(make: Make) -> None:
    backend = Backend(make, announces=False)
    assert not backend.attempt(is_heartbeat=True).released
    outcome = backend.attempt(event(1, STEP_START, "s1"), event(2, STEP, "s2"))
    assert (outcome.delivered, outcome.parked, outcome.released) == ([2], [1], False)
    assert backend.protocol.name == "otlp"


@pytest.mark.parametrize("path", ["/api/ingest/other", "http://elsewhere.test/api/ingest/batch", ""])
def test_another_path_than_that_of_the_batch_call_is_not_followed(make: Make, path: str) -> None:
    backend = Backend(make)
    (lane,) = backend.protocol.begin(Batch("batch", SESSION, [event(1, STEP, "s1")])).lanes()
    lane.next()
    lane.answer(Response(200, {**ANNOUNCED, "x-agentscope-batch": path}, b"{}"))
    assert backend.attempt(event(2, STEP, "s2")).delivered == [2]
    assert backend.paths == [OTLP_PATH]


def test_a_backend_whose_batch_call_is_gone_gets_otlp_again_and_nothing_is_lost(make: Make) -> None:
    backend = Backend(make)
    backend.attempt(event(1, STEP, "s1"))
    backend.announces = False
    outcome = backend.attempt(event(2, STEP, "s2"))
    assert (outcome.delivered, outcome.dropped, outcome.released) == ([], [], False)
    assert backend.attempt(event(2, STEP, "s2")).delivered == [2]
    assert backend.paths == [OTLP_PATH, PATH, OTLP_PATH]


def test_an_address_with_no_known_path_gets_spans_only(make: Make) -> None:
    backend = Backend(make, path="")
    assert backend.attempt(event(1, STEP, "s1")).delivered == [1]
    assert backend.attempt(event(2, STEP, "s2")).delivered == [2]
    assert backend.paths == ["", ""]
