"""The HTTP exporter: parallel lanes, the bound on connections, the end of a slice, and errors that propagate."""

from __future__ import annotations

import threading
import time

import pytest

from agentscope.exporters.http.exporter import SLICE, HTTPExporter
from agentscope.pipeline.process import threads
from agentscope.protocols.agentscope.protocol import CLASSIC, AgentScopeProtocol
from agentscope.protocols.base import Outcome, Request, Response
from tests.support.events import SESSION, ClassicBackend, batch, run_of


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Lane:
    """A conversation of so many requests."""

    def __init__(self, name: str, requests: int = 1) -> None:
        self.name = name
        self.left = requests
        self.answers: list[object] = []

    def next(self) -> Request | None:
        if not self.left:
            return None
        self.left -= 1
        return Request("POST", f"/{self.name}", {"X": "y"}, b"body")

    def answer(self, reply: object) -> None:
        self.answers.append(reply)


class Protocol:
    """A delivery with the given lanes for each round."""

    name = "fake"

    def __init__(self, *rounds: list[Lane]) -> None:
        self.rounds = list(rounds)
        self.outcome = Outcome(delivered=[1])
        self.warm = 0

    def begin(self, sent: object) -> Protocol:
        return self

    def lanes(self) -> list[Lane]:
        return self.rounds.pop(0) if self.rounds else []

    def warm_up(self) -> None:
        self.warm += 1


class Sender:
    """A transport that answers 200. each: called with every request."""

    def __init__(self, each=lambda path: None) -> None:
        self.each = each
        self.sent: list[tuple[object, ...]] = []
        self.calls: list[str] = []

    def send(self, method, path, body, headers, timeout):
        self.sent.append((method, path, body, headers, timeout))
        self.each(path)
        return Response(200)

    def warm_up(self) -> None:
        self.calls.append("warm_up")

    def close(self) -> None:
        self.calls.append("close")


def exporter(protocol, sender, connections=4, clock=None, start=lambda target, name: False):
    return HTTPExporter(protocol, sender, max_connections=connections, clock=clock or Clock(), start_thread=start)


def in_thread(target, name):
    threading.Thread(target=target, name=name).start()
    return True


def test_every_request_of_every_round_is_sent_and_its_answer_handed_back():
    rounds = [Lane("a", 2)], [Lane("b"), Lane("c", 0)]
    sender = Sender()
    outcome = exporter(Protocol(*rounds), sender).export(batch([]), timeout=7)
    assert outcome.delivered == [1]
    assert sender.sent == [("POST", f"/{name}", b"body", {"X": "y"}, 7) for name in "aab"]
    assert [len(lane.answers) for round_ in rounds for lane in round_] == [2, 1, 0]


def test_what_an_export_took_is_told_whatever_thread_took_it():
    def busy(path):
        before = time.thread_time()
        while time.thread_time() == before:
            sum(range(1000))

    alone = exporter(Protocol([Lane("a", 2)]), Sender(busy)).export(batch([]), 7)
    assert (alone.requests, alone.sent_bytes, alone.cpu_seconds) == (2, 8, 0.0)
    lanes = [Lane(name) for name in "abcd"]
    gate = threading.Barrier(2)

    def together(path):
        gate.wait(60)
        busy(path)

    shared = exporter(Protocol(lanes), Sender(together), connections=2, start=in_thread).export(batch([]), 7)
    assert (shared.requests, shared.sent_bytes) == (4, 16)
    assert shared.cpu_seconds > 0


def test_other_calls_of_the_exporter_go_to_the_protocol_and_the_transport():
    protocol, sender = Protocol(), Sender()
    used = exporter(protocol, sender)
    used.warm_up()
    used.close()
    assert (used.protocol, protocol.warm, sender.calls) == ("fake", 1, ["warm_up", "close"])


def test_no_request_is_begun_after_the_slice():
    clock = Clock()
    lanes = [Lane("a", 10), Lane("b", 10)]

    def take_time(path):
        clock.now += SLICE / 2

    sender = Sender(take_time)
    exporter(Protocol(lanes), sender, clock=clock).export(batch([]), 10)
    assert [sent[1] for sent in sender.sent] == ["/a", "/a"]
    assert lanes[1].left == 10


def test_every_round_has_a_slice_of_its_own():
    clock = Clock()

    def take_time(path):
        clock.now += 2 * SLICE

    sender = Sender(take_time)
    exporter(Protocol([Lane("a", 2)], [Lane("b", 2)]), sender, clock=clock).export(batch([]), 10)
    assert [sent[1] for sent in sender.sent] == ["/a", "/b"]


@pytest.mark.parametrize(("connections", "lanes", "together"), [(3, 8, 3), (8, 3, 3), (2, 2, 2)])
def test_lanes_go_side_by_side_up_to_the_number_of_connections(connections, lanes, together):
    barrier = threading.Barrier(together)
    lock = threading.Lock()
    here = most = 0

    def meet(path):
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        if not barrier.broken and len(sender.sent) <= together:
            barrier.wait(60)
        with lock:
            here -= 1

    sender = Sender(meet)
    names: list[str] = []

    def start(target, name):
        names.append(name)
        return in_thread(target, name)

    exporter(Protocol([Lane(str(i)) for i in range(lanes)]), sender, connections, start=start).export(batch([]), 10)
    assert most == together
    assert names == ["agentscope-lane"] * (together - 1)
    assert sorted(sent[1] for sent in sender.sent) == sorted(f"/{i}" for i in range(lanes))


def test_one_lane_needs_no_thread():
    started = []
    exporter(Protocol([Lane("a")]), Sender(), start=lambda *args: started.append(args)).export(batch([]), 1)
    assert started == []


def test_without_threads_the_lanes_run_one_after_the_other():
    sender = Sender()
    refused = []

    def refuse(target, name):
        refused.append(name)
        return False

    exporter(Protocol([Lane(str(i)) for i in range(5)]), sender, start=refuse).export(batch([]), 1)
    assert [sent[1] for sent in sender.sent] == [f"/{i}" for i in range(5)]
    assert len(refused) == 1


@pytest.mark.parametrize("error", [ValueError, IndexError, MemoryError])
@pytest.mark.parametrize("start", [in_thread, lambda target, name: False])
def test_an_error_in_a_lane_comes_out_of_export_after_the_others_have_ended(error, start):
    def fail(path):
        if path == "/0":
            raise error("of our own making")

    sender = Sender(fail)
    lanes = [Lane(str(i)) for i in range(4)]
    with pytest.raises(error, match="of our own making"):
        exporter(Protocol(lanes), sender, connections=2, start=start).export(batch([]), 1)


def test_an_error_in_another_thread_is_waited_for_and_comes_out_as_well():
    main = threading.get_ident()
    entered = threading.Barrier(2)

    def fail(path):
        entered.wait(60)
        if threading.get_ident() != main:
            raise ValueError("in another thread")

    with pytest.raises(ValueError, match="in another thread"):
        exporter(Protocol([Lane("a"), Lane("b")]), Sender(fail), connections=2, start=in_thread).export(batch([]), 1)


def test_real_lanes_in_real_threads_deliver_every_run_in_its_order():
    backend = ClassicBackend()
    lock = threading.Lock()

    class Platform(Sender):
        def send(self, method, path, body, headers, timeout):
            with lock:
                return backend(Request(method, path, headers, body))

    protocol = AgentScopeProtocol(largest_body=1 << 20, compress=False)
    protocol.name = CLASSIC
    events = [event for i in range(30) for event in run_of(5, f"run-{i}", first=100 * i)]
    used = exporter(protocol, Platform(), connections=8, start=threads.start)
    outcome = used.export(batch(events), 10)
    assert sorted(outcome.delivered) == [event.seq for event in events]
    assert sorted(map(tuple, backend.runs.values())) == [tuple(range(100 * i, 100 * i + 7)) for i in range(30)]
    assert {SESSION.event_id(seq) for seq in backend.asked} == {SESSION.event_id(event.seq) for event in events}
