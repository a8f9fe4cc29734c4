"""The wait before the next attempt. New events, a flush and the end make it shorter."""

from __future__ import annotations

import pytest

from agentscope.config import Config
from agentscope.events import STEP, Event, Session
from agentscope.pipeline import delivery as sending
from agentscope.pipeline.delivery import FRESH, Attempts, Delivery, Flushes, Stop
from agentscope.pipeline.ledger import Ledger
from agentscope.pipeline.reporting import Notices
from agentscope.pipeline.states import EventStates
from agentscope.protocols.base import UNAUTHORIZED, Batch, Outcome
from agentscope.protocols.ids import new_id


class Silent:
    """An exporter that is never asked."""

    protocol: str | None = None

    def export(self, batch: Batch, timeout: float) -> Outcome:
        raise AssertionError

    def warm_up(self) -> None:
        """Nothing is imported."""

    def close(self) -> None:
        """Nothing is closed."""


class Nap:
    """A delivery whose clock goes on only while it sleeps, with the acts during that time by second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.happens: dict[float, object] = {}
        config = Config(api_key="k")
        session = Session(new_id(), new_id()[:24])
        self.states = EventStates(config, Ledger())
        self.flushes = Flushes(self.states)
        attempts = Attempts(config, session, self.states, Silent(), lambda event: event)
        self.delivery = Delivery(config, attempts, self.flushes, Notices(None), None)
        monkeypatch.setattr(sending, "monotonic", lambda: self.now)
        monkeypatch.setattr(self.states.queue, "sleep", self._sleep)

    def put(self) -> None:
        event = Event(STEP, 1, 1, "run", "step", None, {}, 100)
        assert self.states.queue.put(event, urgent=False) is None

    def stop(self) -> None:
        self.delivery.stop = Stop(self.now, self.now + 10)

    def _sleep(self, seconds: float | None, wake_at: int) -> None:
        assert seconds is not None
        self.now += seconds
        for moment, act in list(self.happens.items()):
            if self.now >= 100.0 + moment:
                del self.happens[moment]
                self.now = min(self.now, 100.0 + moment)  # it is woken
                act()

    def takes(self, seconds: float) -> float:
        self.delivery._sleep(seconds)
        return self.now - 100.0


@pytest.fixture
def nap(monkeypatch: pytest.MonkeyPatch) -> Nap:
    return Nap(monkeypatch)


def test_without_new_events_the_wait_takes_its_full_time(nap: Nap) -> None:
    assert nap.takes(30.0) == pytest.approx(30.0)


@pytest.mark.parametrize("moment", [0.5, 10.0, 27.5])
def test_new_events_end_the_wait_after_the_first_seconds(nap: Nap, moment: float) -> None:
    nap.happens = {moment: nap.put}
    assert max(moment, FRESH / 2) <= nap.takes(30.0) <= max(moment + sending.LOOK, FRESH)


def test_new_events_do_not_end_a_wait_that_the_backend_asked_for(nap: Nap) -> None:
    nap.delivery._asked_to_wait = True
    nap.happens = {1.0: nap.put}
    assert nap.takes(30.0) == pytest.approx(30.0)


def test_new_events_do_not_end_the_wait_for_a_person(nap: Nap) -> None:
    nap.delivery.kind = UNAUTHORIZED
    nap.happens = {1.0: nap.put}
    assert nap.takes(60.0) == pytest.approx(60.0)


def test_the_end_of_the_process_ends_the_wait_at_once(nap: Nap) -> None:
    nap.happens = {1.5: nap.stop}
    assert nap.takes(30.0) == pytest.approx(1.5)


def test_a_flush_ends_the_wait_at_once_unless_it_is_for_a_person(nap: Nap) -> None:
    nap.put()
    nap.happens = {1.5: lambda: nap.flushes.add(nap.states.counts(), 2)}
    assert nap.takes(30.0) == pytest.approx(1.5)
    nap.delivery.kind = UNAUTHORIZED
    assert nap.takes(30.0) == pytest.approx(31.5)


def test_a_flush_is_over_at_its_time_although_nothing_waits_for_it(nap: Nap) -> None:
    nap.put()
    flush = nap.flushes.add(nap.states.counts(), 2, until=nap.now + 5.0)
    nap.flushes.answer()
    assert flush.waiter.locked()
    nap.now += 5.0
    nap.flushes.answer()
    assert not flush.waiter.locked()
