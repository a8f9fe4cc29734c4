"""Greenlets of gevent and eventlet that are spawned inside a run, patched or not."""

from __future__ import annotations

import pytest

from tests.support.program import run_program
from tests.support.servers import needs

PROGRAM = """
    {before}
    import json
    from agentscope import InMemoryExporter, create_tracker
    recorded = InMemoryExporter()
    tracker = create_tracker(exporters=[recorded])
    undo = tracker.instrument("threads") if {instrumented} else lambda: None
    def work(name):
        with tracker.track_step_context(name):
            sleep(0.001)  # the others get their turn
            tracker.track_step("inside")
    def run(name):
        with tracker.track_run(name), tracker.track_step_context("parent"):
            {spawn}
    {start}
    undo()
    assert tracker.flush(), tracker.stats()
    names = {{step["id"]: step["name"] for step in recorded.steps}}
    tree = {{}}
    for run in recorded.runs:
        tree[run["agent_name"]] = sorted([s["name"], names.get(s["parent_id"])] for s in run["steps"] if s["name"] != "parent")
    print(json.dumps([tree, dict(tracker.stats().invalid_calls)]))
"""
GEVENT = "import gevent; from gevent import sleep; import gevent.pool, gevent.threadpool"
EVENTLET = "import eventlet; from eventlet import sleep; import eventlet.greenpool"
START_GEVENT = "gevent.joinall([gevent.spawn(run, name) for name in 'ab'])"
START_EVENTLET = "[thread.wait() for thread in [eventlet.spawn(run, name) for name in 'ab']]"
SPAWNS = {
    "spawn": (GEVENT, "gevent.spawn(work, name).join()", START_GEVENT),
    "spawn_later": (GEVENT, "gevent.spawn_later(0.001, work, name).join()", START_GEVENT),
    "a pool": (GEVENT, "gevent.pool.Pool(2).spawn(work, name).join()", START_GEVENT),
    "a pool's map": (GEVENT, "gevent.pool.Pool(2).map(work, [name])", START_GEVENT),
    "a pool's apply_async": (GEVENT, "gevent.pool.Pool(2).apply_async(work, (name,)).get()", START_GEVENT),
    "a thread pool": (GEVENT, "gevent.threadpool.ThreadPool(1).spawn(work, name).get()", START_GEVENT),
    "a patched thread": (
        f"import gevent.monkey; gevent.monkey.patch_all(); {GEVENT}; import threading",
        "t = threading.Thread(target=work, args=(name,)); t.start(); t.join()",
        START_GEVENT,
    ),
    "eventlet's spawn": (EVENTLET, "eventlet.spawn(work, name).wait()", START_EVENTLET),
    "the map of eventlet's pool": (
        EVENTLET,
        "list(eventlet.greenpool.GreenPool(2).imap(work, [name]))",
        START_EVENTLET,
    ),
    "eventlet's pool": (EVENTLET, "eventlet.greenpool.GreenPool(2).spawn(work, name).wait()", START_EVENTLET),
}


@needs("gevent")
@needs("eventlet")
@pytest.mark.parametrize("spawn", SPAWNS)
@pytest.mark.parametrize("instrumented", [True, False])
def test_a_greenlet_inherits_the_run_it_was_spawned_in_or_records_into_none(spawn: str, instrumented: bool) -> None:
    before, line, start = SPAWNS[spawn]
    done = run_program(PROGRAM.format(before=before, spawn=line, start=start, instrumented=instrumented))
    assert done.returncode == 0, done.stderr
    tree, invalid_calls = done.last_line_json
    if instrumented:
        assert tree == {name: [[name, "parent"], ["inside", name]] for name in "ab"}
        assert invalid_calls == {}
    else:
        # Until the second run begins, the first one may be guessed.
        assert tree["b"] == []
        assert all("b" not in step for step in tree["a"])
        assert set(invalid_calls) <= {"ambiguous_run", "no_run"}
