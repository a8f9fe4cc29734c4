"""A backend that fails during a run in every known way: no event is lost or stored twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentscope import Stats, Tracker, create_tracker
from agentscope.server.receiver import Receiver
from tests.support.fault_plans import ABSURD_WAITS, BAD_WAITS, GOOD_WAITS
from tests.support.faults import MISCOUNTS
from tests.support.patient import be_patient
from tests.support.proxy import FaultProxy
from tests.support.stored import get, stored_steps
from tests.support.wait import until


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch.setattr, monkeypatch.setenv)


def whole(stats: Stats) -> Stats:
    """The statistics; the identity of the ledger must hold at any moment."""
    assert stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.spooled + stats.pending
    return stats


def failed(tracker: Tracker, attempts: int) -> Callable[[], bool]:
    return lambda: whole(tracker.stats()).attempts >= attempts and tracker.stats().problem is not None


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("refuse", {}),
    ("hang", {}),
    ("hang", {"commit": True}),
    ("no_read", {}),
    ("delay", {"seconds": 1.0}),
    ("delay", {"seconds": 1.0, "commit": False}),
    ("drip", {"interval": 1.0}),
    ("drip", {"interval": 1.0, "part": "head"}),
    ("reset_before", {}),
    ("reset_after", {}),
    ("status", {"code": 408}),
    ("status", {"code": 429}),
    ("status", {"code": 429, "commit": True}),
    ("status", {"code": 500}),
    ("status", {"code": 500, "commit": True}),
    ("status", {"code": 503}),
    ("status", {"code": 503, "commit": True}),
    ("garbage", {}),
    ("garbage", {"commit": True}),
    ("truncated", {}),
    ("truncated", {"at": 20}),
    ("wrong_length", {}),
    ("wrong_length", {"delta": 5}),
    ("html200", {}),
    ("html200", {"commit": True}),
    ("empty204", {}),
    ("empty204", {"commit": True}),
    ("huge", {}),
    ("bomb", {"kind": "gzip"}),
    ("bomb", {"kind": "body"}),
    ("bomb", {"kind": "headers"}),
    *(("wrong_counts", {"kind": kind}) for kind in MISCOUNTS),
]


def named(fault: tuple[str, dict[str, Any]]) -> str:
    return "-".join([fault[0], *(f"{name}={value}" for name, value in fault[1].items())])


@pytest.mark.parametrize(("mode", "options"), FAULTS, ids=map(named, FAULTS))
def test_an_outage_loses_nothing_and_stores_nothing_twice(
    receiver: Receiver, mode: str, options: dict[str, Any]
) -> None:
    with (
        FaultProxy(receiver.url) as proxy,
        create_tracker("ask_test", proxy.url, flush_interval=0.02, timeout=0.5, retry_delay=0.1) as tracker,
        tracker.track_run("agent"),
    ):
        tracker.track_step("before")
        assert tracker.flush()
        proxy.set(mode, **options)
        attempts = tracker.stats().attempts
        for i in range(50):
            tracker.track_step(f"during {i}")
        # A client that a busy machine delays beyond its own timeout finds the late answer, and accepts it.
        in_time = 52 if mode == "delay" else None
        until(lambda: tracker.stats().delivered == in_time or failed(tracker, attempts + 2)())
        assert mode == "delay" or tracker.stats().delivered == 2
        proxy.set("pass")
        tracker.track_step("after")
        assert tracker.flush(60)
        stats = whole(tracker.stats())
        assert (stats.accepted, stats.delivered, stats.pending, dict(stats.dropped)) == (53, 53, 0, {})
        assert stats.problem is None
    assert sorted(stored_steps(receiver.url)) == sorted(["before", *(f"during {i}" for i in range(50)), "after"])


ODDITIES: list[tuple[str, dict[str, Any]]] = [
    ("split", {}),
    ("delay", {"seconds": 0.05}),
    ("delay", {"seconds": 0.05, "commit": False}),
    ("drip", {"interval": 0.0, "part": "head"}),
    ("idle_close", {}),
    ("idle_close", {"after": 0.02}),
    ("idle_close", {"reset": True}),
    ("wrong_type", {}),
]


@pytest.mark.parametrize(("mode", "options"), ODDITIES, ids=map(named, ODDITIES))
def test_a_right_answer_that_comes_oddly_is_taken_and_nothing_is_stored_twice(
    receiver: Receiver, mode: str, options: dict[str, Any]
) -> None:
    names = [f"step {i}" for i in range(30)]
    with (
        FaultProxy(receiver.url, mode, **options) as proxy,
        create_tracker("ask_test", proxy.url, batch_size=5, retry_delay=0.05) as tracker,
    ):
        with tracker.track_run("agent"):
            for name in names:
                tracker.track_step(name)
                if name.endswith("7"):
                    assert tracker.flush()
        assert tracker.flush()
        stats = whole(tracker.stats())
        assert (stats.delivered, dict(stats.dropped)) == (32, {})
    assert stored_steps(receiver.url) == names


@pytest.mark.parametrize("code", [429, 503])
def test_no_retry_after_loses_anything_or_keeps_a_flush_waiting(receiver: Receiver, code: int) -> None:
    waits = [*GOOD_WAITS, *BAD_WAITS, *ABSURD_WAITS]
    with (
        FaultProxy(receiver.url) as proxy,
        create_tracker("ask_test", proxy.url, flush_interval=0.0, retry_delay=0.0) as tracker,
        tracker.track_run("agent"),
    ):
        assert tracker.flush()
        for wait in waits:
            attempts = tracker.stats().attempts
            headers = {"Retry-After": wait.encode().decode("latin-1")}
            proxy.plan([("status", {"code": code, "headers": headers})])
            tracker.track_step(f"after {wait}")
            until(lambda before=attempts: whole(tracker.stats()).attempts > before)
            assert tracker.flush()
            assert whole(tracker.stats()).pending == 0
    assert stored_steps(receiver.url) == [f"after {wait}" for wait in waits]


def test_an_answer_that_was_lost_after_the_commit_is_repeated_and_recognized(receiver: Receiver) -> None:
    with FaultProxy(receiver.url) as proxy:
        proxy.plan([("reset_after", {})])
        with create_tracker("ask_test", proxy.url, flush_interval=60) as tracker:
            with tracker.track_run("agent"):
                tracker.track_step("once")
            assert tracker.flush()
            assert whole(tracker.stats()).duplicates == 3
    assert stored_steps(receiver.url) == ["once"]
    assert get(receiver.url, "/health")["events"] == 3


def test_a_flush_ends_the_wait_for_the_next_attempt(receiver: Receiver) -> None:
    with (
        FaultProxy(receiver.url, mode="status", code=503, headers={"Retry-After": "60"}) as proxy,
        create_tracker("ask_test", proxy.url, flush_interval=0.0) as tracker,
    ):
        tracker.start_run("agent")
        until(failed(tracker, 1))
        proxy.set("pass")
        assert tracker.flush(40)  # less than that wait
        assert whole(tracker.stats()).delivered == 1


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_key_keeps_everything_and_is_not_tried_again_before_a_minute(receiver: Receiver, code: int) -> None:
    with FaultProxy(receiver.url, mode="status", code=code) as proxy:
        with create_tracker("ask_test", proxy.url, flush_interval=0.0) as tracker:
            tracker.start_run("agent")
            until(failed(tracker, 1))
            result = tracker.flush(20)
            assert not result
            assert "API key" in (result.problem or "")
            assert (result.pending, result.dropped) == (1, 0)
            tracker.track_step("more")
            assert not tracker.flush(20)
            assert whole(tracker.stats()).attempts == 1
        assert whole(tracker.stats()).dropped == {"unauthorized": 2}


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_nothing_is_lost(receiver: Receiver, code: int) -> None:
    with FaultProxy(receiver.url) as elsewhere, FaultProxy(receiver.url) as proxy:
        proxy.set("redirect", code=code, location=elsewhere.url + "/api/ingest/batch")
        with create_tracker("ask_test", proxy.url, flush_interval=0.0) as tracker:
            tracker.start_run("agent")
            until(failed(tracker, 1))
            assert "redirects" in (tracker.flush(20).problem or "")
            assert whole(tracker.stats()).pending == 1
        assert sum(elsewhere.counts.values()) == 0


def test_a_full_queue_drops_steps_with_a_reason_and_keeps_room_for_the_end_of_the_run(receiver: Receiver) -> None:
    with (
        FaultProxy(receiver.url, mode="hang") as proxy,
        create_tracker("ask_test", proxy.url, timeout=1, max_queue_bytes=1 << 20, sample_rate=1.0) as tracker,
    ):
        with tracker.track_run("agent"):
            accepted = [tracker.track_step(f"step {i}", output_data="x" * 2_000) for i in range(5_000)]
        stats = whole(tracker.stats())
        assert stats.dropped == {"queue_full": accepted.count(False)}
        assert stats.payloads_shed > 0
        assert stats.queued_bytes <= 1 << 20
        proxy.set("pass")
        tracker.flush()
        stats = whole(tracker.stats())
        assert (stats.pending, stats.queued_bytes) == (0, 0)
        assert stats.delivered == accepted.count(True) + 2
    names = stored_steps(receiver.url)
    assert names == [f"step {i}" for i, kept in enumerate(accepted) if kept]
    run = get(receiver.url, "/api/runs")["runs"][0]
    assert run["status"] == "completed"


def test_what_was_dropped_is_told_to_the_backend_and_to_the_callback(receiver: Receiver) -> None:
    seen: list[tuple[str, int]] = []
    with FaultProxy(receiver.url, mode="hang") as proxy:
        tracker = create_tracker(
            "ask_test",
            proxy.url,
            timeout=0.5,
            max_queue_bytes=1 << 16,
            on_drop=lambda reason, count: seen.append((reason, count)),
        )
        with tracker, tracker.track_run("agent"):
            accepted = [tracker.track_step("step") for _ in range(200)]
            proxy.set("pass")
            tracker.flush()
            tracker.track_step("one more")
            assert tracker.flush()
    refused = accepted.count(False)
    assert refused > 0
    assert sum(count for _, count in seen) == refused
    assert {reason for reason, _ in seen} == {"queue_full"}
    assert get(receiver.url, "/health")["dropped"] == {"queue_full": refused}
