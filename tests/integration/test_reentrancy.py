"""Tracking in signal handlers, finalizers and logging handlers, in which no lock may be taken."""

from __future__ import annotations

from agentscope.server.receiver import Receiver
from tests.support.program import run_program
from tests.support.stored import stored_steps

UNMEASURED = {"COVERAGE_PROCESS_CONFIG": ""}
"""The programs run without coverage, whose tracer takes locks and sometimes deadlocks with a thousand signals a second."""


def test_a_signal_handler_that_tracks_never_deadlocks_and_loses_nothing(receiver: Receiver) -> None:
    source = """
        import json, signal
        from agentscope import create_tracker
        tracker = create_tracker("ask_test", {url!r}, flush_interval=0.01)
        run_id = tracker.start_run("agent")
        signals = 0
        def handler(*_):
            global signals
            signals += 1
            tracker.track_step("from the handler", input_data={{"n": signals}})
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        calls = 0
        for _ in range(20_000):
            calls += tracker.track_step("from the program", input_data={{"n": calls}})
        signal.setitimer(signal.ITIMER_REAL, 0, 0)
        tracker.flush(60)
        stats = tracker.stats()
        print(json.dumps([calls, signals, stats.accepted, stats.delivered, stats.pending, dict(stats.dropped)]))
    """
    result = run_program(source.format(url=receiver.url), env=UNMEASURED, timeout=180)
    calls, signals, accepted, delivered, pending, dropped = result.last_line_json
    assert accepted == delivered + pending + sum(dropped.values())
    assert accepted == delivered == 1 + calls + signals
    assert signals > 20
    names = stored_steps(receiver.url)
    assert (names.count("from the program"), names.count("from the handler")) == (calls, signals)


def test_what_encodes_is_imported_with_the_tracker_and_not_by_the_first_call_of_a_handler() -> None:
    source = """
        import sys
        from importlib.util import find_spec
        from agentscope import create_tracker
        assert "orjson" not in sys.modules
        tracker = create_tracker("ask_test", "http://127.0.0.1:9")
        assert ("orjson" in sys.modules) == (find_spec("orjson") is not None)
        before = set(sys.modules)
        tracker.start_run("agent", input_data={"a": 1})
        assert not {"orjson", "json", "marshal"} & (set(sys.modules) - before)
    """
    assert run_program(source, timeout=90).returncode == 0


def test_a_signal_handler_may_track_the_first_event_of_all(receiver: Receiver) -> None:
    source = """
        import os, signal, threading
        from agentscope import create_tracker
        tracker = create_tracker("ask_test", {url!r})
        def handler(*_):
            tracker.start_run("agent")
            tracker.track_step("from the handler")
        signal.signal(signal.SIGUSR1, handler)
        with threading._active_limbo_lock:   # what a handler may well interrupt: the start of another thread
            os.kill(os.getpid(), signal.SIGUSR1)
            sum(range(100_000))
        assert tracker.flush(60)
    """
    result = run_program(source.format(url=receiver.url), timeout=180)
    assert (result.returncode, result.stderr) == (0, "")
    assert stored_steps(receiver.url) == ["from the handler"]


def test_finalizers_that_track_lose_nothing(receiver: Receiver) -> None:
    source = """
        import gc, weakref
        from agentscope import create_tracker
        gc.set_threshold(5)
        tracker = create_tracker("ask_test", {url!r}, flush_interval=0.01)
        run_id = tracker.start_run("agent")
        class Cyclic:
            def __init__(self):
                self.me = self
            def __del__(self):
                tracker.track_step("from __del__", run_id=run_id)
        class Watched:
            pass
        for i in range(2_000):
            Cyclic()
            watched = Watched()
            reference = weakref.ref(watched, lambda _: tracker.track_step("from a callback", run_id=run_id))
            del watched
            tracker.track_step("from the program", input_data=[[i]])
        gc.collect()
        assert tracker.flush(60)
    """
    result = run_program(source.format(url=receiver.url), timeout=180)
    assert (result.returncode, result.stderr) == (0, "")
    names = stored_steps(receiver.url)
    assert {name: names.count(name) for name in names} == {
        "from __del__": 2_000,
        "from a callback": 2_000,
        "from the program": 2_000,
    }


def test_a_logging_handler_that_tracks_neither_deadlocks_nor_feeds_on_itself(receiver: Receiver) -> None:
    source = """
        import logging, threading
        from agentscope import create_tracker
        tracker = create_tracker("ask_test", {url!r}, flush_interval=0.01)
        run_id = tracker.start_run("agent")
        class Tracking(logging.Handler):
            def emit(self, record):
                tracker.track_step(record.getMessage()[:4], run_id=run_id)
        logging.getLogger().addHandler(Tracking())
        logging.getLogger().setLevel(logging.DEBUG)   # urllib3 logs every request: from the worker, which must not track
        def work():
            for i in range(500):
                logging.info("line %d", i)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        tracker.track_step("odd", step_type="no such type")   # a notice, from a caller that could hold the handler's lock
        tracker.end_run(run_id="unknown")
        assert tracker.flush(60)
        with logging.getLogger().handlers[0].lock:
            tracker.end_run(run_id="unknown too")
            tracker.track_step("odd", run_id="unknown as well", step_type="another")
    """
    result = run_program(source.format(url=receiver.url), timeout=180)
    assert (result.returncode, result.stderr) == (0, "")
    assert stored_steps(receiver.url).count("line") == 2_000


def test_calls_from_the_drop_callback_record_no_event() -> None:
    source = """
        from agentscope import create_tracker
        seen = []
        def on_drop(reason, count):
            seen.append((reason, count, tracker.track_step("from on_drop", run_id="r")))
        tracker = create_tracker("ask_test", "http://127.0.0.1:9", on_drop=on_drop)
        tracker.start_run("agent")
        tracker.shutdown()
        print(seen, tracker.stats().accepted)
    """
    result = run_program(source, timeout=180)
    assert result.stdout == "[('shutdown', 1, False)] 1\n"
