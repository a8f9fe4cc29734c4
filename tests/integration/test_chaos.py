"""Random faults over many requests: no event is lost or stored twice, and the ledger is exact throughout."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from agentscope import Stats, Tracker, create_tracker
from agentscope.server.receiver import Receiver
from tests.support.fault_plans import BAD_WAITS, Chaos
from tests.support.faults import MISCOUNTS
from tests.support.proxy import FaultProxy
from tests.support.stored import get, stored_runs, stored_steps
from tests.support.wait import until

pytestmark = pytest.mark.long

STEPS = 400
LONGEST = 2.0
"""Seconds with faults. The remaining events are delivered without faults."""


def whole(stats: Stats) -> Stats:
    """The statistics; the identity of the ledger must hold at any moment."""
    assert stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.spooled + stats.pending
    return stats


def impatient(url: str, retry_delay: float = 0.02, timeout: float = 0.3) -> Tracker:
    """A tracker with small batches and short timeouts, so that it makes many requests."""
    return create_tracker("ask_test", url, batch_size=10, flush_interval=0.0, timeout=timeout, retry_delay=retry_delay)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_chaos_loses_nothing_and_stores_nothing_twice(receiver: Receiver, seed: int) -> None:
    end = time.monotonic() + LONGEST

    def work(tracker: Tracker, name: str) -> None:
        with tracker.track_run(name):
            for i in range(STEPS):
                tracker.track_step(f"{name} {i}")
                if i % 50 == 49:
                    until(lambda: whole(tracker.stats()).pending < 100 or time.monotonic() > end)

    with FaultProxy(receiver.url) as proxy, impatient(proxy.url) as one, impatient(proxy.url) as two:
        proxy.plan(Chaos(seed, 0.5))
        agents = {"red": one, "green": one, "blue": two, "grey": two}
        threads = [threading.Thread(target=work, args=(tracker, name)) for name, tracker in agents.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # On a busy machine little may have been sent by now. The rest is sent later.
        until(lambda: len(proxy.counts) > 4 or not any(whole(tracker.stats()).pending for tracker in (one, two)))
        met = set(proxy.counts) - {"pass"}
        proxy.set("pass")
        for tracker in (one, two):
            assert tracker.flush(60)
            stats = whole(tracker.stats())
            assert (stats.accepted, stats.delivered, dict(stats.dropped)) == (804, 804, {})
    assert len(met) > 3
    runs = stored_runs(receiver.url)
    assert sorted(run["agent_name"] for run in runs) == sorted(agents)
    for run in runs:
        assert run["status"] == "completed"
        assert [step["name"] for step in run["steps"]] == [f"{run['agent_name']} {i}" for i in range(STEPS)]
    assert get(receiver.url, "/health")["events"] == len(agents) * (STEPS + 2)


@pytest.mark.parametrize("mode", ["truncated", "split"])
def test_an_answer_cut_at_any_byte_is_believed_only_if_it_is_whole(receiver: Receiver, mode: str) -> None:
    """A check of the test itself: all these pieces together are an answer in `split`."""
    with FaultProxy(receiver.url) as proxy, impatient(proxy.url, 0.0, 60) as tracker, tracker.track_run("agent"):
        assert tracker.flush()
        acknowledged: list[bool] = []
        for at in count(1):
            proxy.plan([(mode, {"at": at} if mode == "truncated" else {"size": at})])
            duplicates, requests = tracker.stats().duplicates, proxy.counts.total()
            tracker.track_step(f"cut at {at}")
            assert tracker.flush()
            stats = whole(tracker.stats())
            assert stats.pending == 0
            # Requests and not attempts: an attempt that a busy machine delays for half a second makes no request.
            assert stats.duplicates - duplicates == proxy.counts.total() - requests - 1
            acknowledged.append(proxy.counts.total() == requests + 1)
            if acknowledged[-1] and (mode == "truncated" or at == 20):
                break
    assert len(acknowledged) > 100 or mode == "split"
    assert sum(acknowledged) == (1 if mode == "truncated" else len(acknowledged))
    assert stored_steps(receiver.url) == [f"cut at {at}" for at in range(1, len(acknowledged) + 1)]


# An example takes a good part of a second, so a counterexample is not minimized.
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)

# Quick faults. A plain 500 is left out: after several in a row an event is blamed, and dropped.
QUICK = st.one_of(
    st.sampled_from([("pass", {}), ("reset_before", {}), ("reset_after", {}), ("split", {}), ("idle_close", {})]),
    st.tuples(st.just("truncated"), st.fixed_dictionaries({"at": st.integers(0, 200)})),
    st.tuples(st.just("wrong_counts"), st.fixed_dictionaries({"kind": st.sampled_from(MISCOUNTS)})),
    st.tuples(st.sampled_from(["garbage", "html200", "empty204"]), st.fixed_dictionaries({"commit": st.booleans()})),
    st.tuples(
        st.just("status"),
        st.fixed_dictionaries(
            {
                "code": st.sampled_from([408, 429, 502, 503, 504]),
                "headers": st.sampled_from([{}, *({"Retry-After": wait} for wait in BAD_WAITS if wait.isascii())]),
                "commit": st.booleans(),
            }
        ),
    ),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    """A proxy before one receiver for all examples."""
    folder: Path = tmp_path_factory.mktemp("chaos")
    with Receiver(db=folder / "receiver.db") as receiver, FaultProxy(receiver.url) as proxy:
        yield proxy


@given(plan=st.lists(QUICK, max_size=8), flushes=st.sets(st.integers(0, 19)))
@settings(max_examples=min(25, settings.default.max_examples), phases=NO_SHRINKING)
def test_no_plan_of_faults_loses_anything_or_stores_it_twice(
    shared: FaultProxy, plan: list[tuple[str, Mapping[str, Any]]], flushes: set[int]
) -> None:
    shared.plan(plan)
    with impatient(shared.url, 0.001) as tracker:
        with tracker.track_run("agent") as run:
            for i in range(20):
                tracker.track_step(f"step {i}")
                if i in flushes:
                    assert tracker.flush(60)
                    whole(tracker.stats())
        assert tracker.flush(60)
        stats = whole(tracker.stats())
        assert (stats.delivered, dict(stats.dropped)) == (22, {})
    shared.set("pass")
    stored = get(shared.url, f"/api/runs/{run}")
    assert [step["name"] for step in stored["steps"]] == [f"step {i}" for i in range(20)]
    assert stored["status"] == "completed"
