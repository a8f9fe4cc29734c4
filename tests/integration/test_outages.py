"""A backend that fails in every known way, in the middle of a run: nothing is lost, and nothing stored twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentscope import Stats, Tracker, create_tracker
from agentscope.server.serve import Receiver
from tests.support.proxy import FaultProxy
from tests.support.stored import get, stored_steps
from tests.support.wait import until


def whole(stats: Stats) -> Stats:
    """The ledger, whose identity holds at any moment."""
    assert stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.spooled + stats.pending
    return stats


def failed(tracker: Tracker, attempts: int) -> Callable[[], bool]:
    return lambda: whole(tracker.stats()).attempts >= attempts and tracker.stats().problem is not None


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("refuse", {}),
    ("hang", {}),
    ("drip", {}),
    ("reset_before", {}),
    ("reset_after", {}),
    ("status", {"code": 408}),
    ("status", {"code": 429}),
    ("status", {"code": 500}),
    ("status", {"code": 503}),
    ("garbage", {}),
    ("truncated", {}),
    ("wrong_length", {}),
    ("html200", {}),
    ("empty204", {}),
    ("bomb", {}),
]


@pytest.mark.parametrize(
    ("mode", "options"), FAULTS, ids=[f"{mode}{options.get('code', '')}" for mode, options in FAULTS]
)
def test_an_outage_loses_nothing_and_stores_nothing_twice(
    receiver: Receiver, mode: str, options: dict[str, Any]
) -> None:
    with (
        FaultProxy(receiver.url) as proxy,
        create_tracker("ask_test", proxy.url, flush_interval=0.02, timeout=0.5) as tracker,
        tracker.track_run("agent"),
    ):
        tracker.track_step("before")
        assert tracker.flush()
        proxy.set(mode, **options)
        attempts = tracker.stats().attempts
        for i in range(50):
            tracker.track_step(f"during {i}")
        until(failed(tracker, attempts + 2))
        assert tracker.stats().delivered == 2
        proxy.set("pass")
        tracker.track_step("after")
        assert tracker.flush()
        stats = whole(tracker.stats())
        assert (stats.accepted, stats.delivered, stats.pending, dict(stats.dropped)) == (53, 53, 0, {})
        assert stats.problem is None
    assert sorted(stored_steps(receiver.url)) == sorted(["before", *(f"during {i}" for i in range(50)), "after"])


def test_an_answer_that_was_lost_after_the_commit_is_repeated_and_recognized(receiver: Receiver) -> None:
    with FaultProxy(receiver.url) as proxy:
        proxy.plan([("reset_after", {})])
        with create_tracker("ask_test", proxy.url) as tracker:
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
        assert tracker.flush(10)
        assert whole(tracker.stats()).delivered == 1


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_key_keeps_everything_and_is_not_tried_again_before_a_minute(receiver: Receiver, code: int) -> None:
    with FaultProxy(receiver.url, mode="status", code=code) as proxy:
        with create_tracker("ask_test", proxy.url, flush_interval=0.0) as tracker:
            tracker.start_run("agent")
            until(failed(tracker, 1))
            result = tracker.flush(5)
            assert not result
            assert "API key" in (result.problem or "")
            assert (result.pending, result.dropped) == (1, 0)
            tracker.track_step("more")
            assert not tracker.flush(5)
            assert whole(tracker.stats()).attempts == 1
        assert whole(tracker.stats()).dropped == {"unauthorized": 2}


def test_a_redirect_is_not_followed_and_nothing_is_lost(receiver: Receiver) -> None:
    with FaultProxy(receiver.url) as elsewhere, FaultProxy(receiver.url) as proxy:
        proxy.set("redirect", code=307, location=elsewhere.url + "/api/ingest/batch")
        with create_tracker("ask_test", proxy.url, flush_interval=0.0) as tracker:
            tracker.start_run("agent")
            until(failed(tracker, 1))
            assert "redirects" in (tracker.flush(5).problem or "")
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
