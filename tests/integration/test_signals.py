"""Signals that end a program: the loss by default, and the delivery with `flush_on_signal=True`."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from agentscope.server.receiver import Receiver
from tests.support.program import Result, run_program, start_program
from tests.support.proxy import FaultProxy
from tests.support.stored import stored_steps
from tests.support.wait import until


@pytest.fixture(autouse=True)
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs here run without coverage, which handles SIGTERM itself, and warns of processes that end early."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture(autouse=True)
def _far_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so long that they cannot be the reason for a short exit."""
    monkeypatch.setenv("AGENTSCOPE_SHUTDOWN_TIMEOUT", "60")
    monkeypatch.setenv("AGENTSCOPE_TIMEOUT", "60")


SIGNALS = [signal.SIGTERM, signal.SIGHUP]

PROGRAM = """
    import os, signal, sys, threading, time
    from agentscope import create_tracker
    from tests.support.patient import be_patient
    if {patient}: be_patient()
    {before}
    tracker = create_tracker("ask_test", {url!r}, flush_interval=60, flush_on_signal={opted})
    run_id = tracker.start_run("agent")
    tracker.track_step("before", run_id=run_id)
    print("ready")
    {after}
    while True:
        time.sleep(0.01)   # between two looks
"""


def program(url: str, before: str = "", after: str = "", opted: bool = True, patient: bool = True) -> str:
    return PROGRAM.format(url=url, before=before, after=after, opted=opted, patient=patient)


def ended_by(source: str, *numbers: int, pause: Callable[[], None] = lambda: None) -> Result:
    """Start a program, wait until it is ready, send the signals, and wait for its end."""
    process = start_program(source)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    for number in numbers:
        process.send_signal(number)
        pause()
    try:
        stdout, stderr = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"still running: {process.communicate()}") from None
    return Result(process.returncode, stdout, stderr, time.monotonic() - began)


@pytest.mark.parametrize("number", SIGNALS)
def test_by_default_a_signal_loses_what_is_in_memory(receiver: Receiver, number: int) -> None:
    result = ended_by(program(receiver.url, opted=False), number)
    assert (result.returncode, result.stderr) == (-number, "")
    assert stored_steps(receiver.url) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_delivers_and_then_ends_the_process_by_itself(receiver: Receiver, number: int) -> None:
    result = ended_by(program(receiver.url), number)
    assert (result.returncode, result.stderr) == (-number, "")
    assert stored_steps(receiver.url) == ["before"]


def test_a_backend_that_hangs_delays_the_end_by_a_signal_no_longer_than_any_other() -> None:
    with FaultProxy(mode="hang") as proxy:
        result = ended_by(program(proxy.url, patient=False), signal.SIGTERM)
    assert result.returncode == -signal.SIGTERM
    assert result.seconds < 25  # two seconds, with a margin for a busy machine; the other limits are a minute
    assert result.stderr.startswith("agentscope: 2 events were left undelivered at the end and are lost")


def test_a_second_signal_ends_at_once() -> None:
    with FaultProxy(mode="hang") as proxy:
        # The second signal comes while the first is handled. Nothing is sent before that.
        result = ended_by(
            program(proxy.url),
            signal.SIGTERM,
            signal.SIGTERM,
            pause=lambda: until(lambda: proxy.counts["hang"], what="a request"),
        )
    assert result.returncode == -signal.SIGTERM
    assert result.seconds < 50  # the limit without an acknowledgement is a minute here


def test_an_ignored_signal_stays_ignored(receiver: Receiver) -> None:
    ignoring = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    result = ended_by(program(receiver.url, before=ignoring), signal.SIGHUP, signal.SIGTERM)
    assert result.returncode == -signal.SIGTERM
    assert stored_steps(receiver.url) == ["before"]


def test_the_applications_handler_is_called_and_may_end_the_program_itself(receiver: Receiver) -> None:
    handler = "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))"
    result = ended_by(program(receiver.url, before=handler), signal.SIGTERM)
    assert (result.returncode, result.stderr) == (signal.SIGTERM, "")
    assert stored_steps(receiver.url) == ["before"]


def test_what_the_applications_handler_tracks_is_sent_at_once_even_if_it_ends_without_a_word(
    receiver: Receiver,
) -> None:
    handler = """
    def handler(number, frame):
        tracker.track_step("from the handler", run_id=run_id)
        while not tracker.stats().delivered == 3:
            time.sleep(0.01)   # between two looks
        os._exit(7)
    signal.signal(signal.SIGTERM, handler)
    """
    result = ended_by(program(receiver.url, before=handler), signal.SIGTERM)
    assert (result.returncode, result.stderr) == (7, "")
    assert stored_steps(receiver.url) == ["before", "from the handler"]


def test_a_tracker_stays_usable_after_a_handler_that_goes_on(receiver: Receiver) -> None:
    going_on = """
    signal.signal(signal.SIGHUP, lambda *_: None)
    """
    after = """
    os.kill(os.getpid(), signal.SIGHUP)
    tracker.track_step("after", run_id=run_id)
    assert tracker.flush()
    stats = tracker.stats()
    assert stats.accepted == stats.delivered == 3 and not stats.pending and not sum(stats.dropped.values())
    sys.exit()
    """
    result = run_program(program(receiver.url, before=going_on, after=after))
    assert (result.returncode, result.stderr) == (0, "")
    assert stored_steps(receiver.url) == ["before", "after"]


def test_what_was_dropped_is_still_told_by_the_next_flush_after_a_signal(receiver: Receiver) -> None:
    dropping = """
    signal.signal(signal.SIGHUP, lambda *_: None)
    def picky(fields):
        raise ValueError
    """
    after = """
    second = create_tracker("ask_test", tracker._config.base_url, redact=picky, flush_interval=60, flush_on_signal=True)
    second.start_run("agent")
    os.kill(os.getpid(), signal.SIGHUP)
    while not second.stats().dropped:
        time.sleep(0.01)   # between two looks
    time.sleep(0.1)   # the thread in a hurry looks twice
    print(second.flush().dropped)
    sys.exit()
    """
    result = run_program(program(receiver.url, before=dropping, after=after))
    assert result.stdout == "ready\n1\n"


INTERRUPTED = {
    "a put": """
    queue = type(tracker._pipeline._worker.queue)
    put = queue.put
    def interrupted(*args):
        taken = put(*args)
        os.kill(os.getpid(), signal.SIGTERM)
        return taken
    queue.put = interrupted
    tracker.track_step("interrupted", run_id=run_id)
    """,
    "a flush": """
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    tracker.track_step("interrupted", run_id=run_id)
    tracker.flush(60)
    time.sleep(60)   # to be interrupted
    """,
    "a shutdown": """
    tracker.track_step("interrupted", run_id=run_id)
    worker = type(tracker._pipeline._worker)
    ask_to_stop = worker.ask_to_stop
    def interrupted(*args):
        worker.ask_to_stop = ask_to_stop
        ask_to_stop(*args)
        os.kill(os.getpid(), signal.SIGTERM)
    worker.ask_to_stop = interrupted
    tracker.shutdown(60)
    time.sleep(60)   # to be interrupted
    """,
    "the start of the worker": """
    second = create_tracker("ask_test", tracker._config.base_url, flush_interval=60)
    from agentscope.pipeline.process import threads
    start = threads.start
    def interrupted(target, name, *more, **kept):
        if name == "agentscope-worker":
            threads.start = start
            os.kill(os.getpid(), signal.SIGTERM)
        return start(target, name, *more, **kept)
    threads.start = interrupted
    second.track_step("interrupted", run_id=run_id)
    """,
    "a log line": """
    import logging
    tracker.track_step("interrupted", run_id=run_id)
    logging.basicConfig()
    with logging.getLogger().handlers[0].lock:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)   # between two looks
    """,
    "an import": """
    from importlib._bootstrap import _ModuleLockManager
    tracker.track_step("interrupted", run_id=run_id)
    with _ModuleLockManager("requests"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)   # between two looks
    """,
}


@pytest.mark.parametrize("what", INTERRUPTED)
def test_a_signal_may_interrupt_anything_at_all(receiver: Receiver, what: str) -> None:
    # Every wait of the program takes longer than this test allows.
    result = run_program(program(receiver.url, after=INTERRUPTED[what]), timeout=40)
    assert (result.returncode, result.stderr) == (-signal.SIGTERM, "")
    assert stored_steps(receiver.url) == ["before", "interrupted"]


def test_outside_the_main_thread_it_has_no_effect_and_says_so_once(receiver: Receiver) -> None:
    source = """
        import signal, sys, threading
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        said = threading.Event()
        class Heard:
            def write(self, text):
                sys.__stderr__.write(text)
                said.set()
            def flush(self):
                pass
        sys.stderr = Heard()
        def elsewhere():
            for _ in range(2):
                with create_tracker("ask_test", {url!r}, flush_on_signal=True) as tracker:
                    tracker.track_step("step", run_id=tracker.start_run("agent"))
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        said.wait(20)   # it is said by another thread
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    """
    result = run_program(source.format(url=receiver.url))
    assert result.stderr.count("main thread") == 1
    assert stored_steps(receiver.url) == ["step", "step"]


def test_a_forked_child_keeps_the_handler_and_delivers_its_own(receiver: Receiver) -> None:
    after = """
    while not tracker._pipeline._worker._warm:   # a fork waits for its imports, but not for ever
        time.sleep(0.01)   # between two looks
    hears, tells = os.pipe()
    pid = os.fork()
    if not pid:
        tracker.track_step("child", run_id=run_id)
        os.write(tells, b"tracked")
        while True:
            time.sleep(0.01)   # between two looks
    os.read(hears, 7)
    os.kill(pid, signal.SIGTERM)
    assert os.waitpid(pid, 0)[1] == signal.SIGTERM
    sys.exit()
    """
    # Since 3.12 Python warns of every fork beside a thread.
    quiet = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}
    result = run_program(program(receiver.url, after=after), env=quiet)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(stored_steps(receiver.url)) == ["before", "child"]


def test_a_child_that_gets_the_signal_before_it_runs_ends_by_it(receiver: Receiver) -> None:
    # On one processor the parent sends it before the child has run at all.
    after = """
    os.sched_setaffinity(0, {next(iter(os.sched_getaffinity(0)))})
    for _ in range(20):
        pid = os.fork()
        if not pid:
            time.sleep(60)   # the signal interrupts it
            os._exit(1)
        os.kill(pid, signal.SIGTERM)
        assert os.waitpid(pid, 0)[1] == signal.SIGTERM
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    sys.exit()
    """
    result = run_program(program(receiver.url, after=after), env={"PYTHONWARNINGS": "ignore::DeprecationWarning"})
    assert (result.returncode, result.stderr) == (0, "")
    assert stored_steps(receiver.url) == ["before"]


def test_a_child_that_waits_for_a_semaphore_ends_by_the_signal(receiver: Receiver) -> None:
    # On one processor it is released, taken again, and sent the signal before it runs: the C library goes on waiting then.
    after = """
    import multiprocessing
    semaphore = multiprocessing.get_context("fork").Semaphore(0)
    os.sched_setaffinity(0, {next(iter(os.sched_getaffinity(0)))})
    for _ in range(10):
        pid = os.fork()
        if not pid:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))   # it does not run as soon as it could
            semaphore.acquire()
            os._exit(1)
        while "futex" not in open(f"/proc/{pid}/wchan").read():
            time.sleep(0.01)   # between two looks
        semaphore.release()
        taken = semaphore.acquire(block=False)   # else the child was quicker, and ends by itself
        os.kill(pid, signal.SIGTERM)
        assert os.waitpid(pid, 0)[1] == signal.SIGTERM or not taken
    sys.exit()
    """
    result = run_program(program(receiver.url, after=after), env={"PYTHONWARNINGS": "ignore::DeprecationWarning"})
    assert (result.returncode, result.stderr) == (0, "")
    assert stored_steps(receiver.url) == ["before"]


def test_the_first_process_of_a_container_ends_although_the_system_spares_it(receiver: Receiver) -> None:
    sparing = """
    killed = os.kill
    os.kill = lambda pid, number: None if signal.getsignal(number) == signal.SIG_DFL else killed(pid, number)
    """
    result = ended_by(program(receiver.url, before=sparing), signal.SIGTERM)
    assert result.returncode == 128 + signal.SIGTERM
    assert stored_steps(receiver.url) == ["before"]


@pytest.mark.parametrize("order", ["the loop's handler first", "the tracker first"])
def test_the_handlers_of_an_event_loop_are_called_as_before(receiver: Receiver, order: str) -> None:
    source = """
        import asyncio, os, signal
        from agentscope import create_tracker
        async def main():
            stop = asyncio.Event()
            from tests.support.patient import be_patient
            be_patient()
            make = lambda: create_tracker("ask_test", {url!r}, flush_interval=60, flush_on_signal=True)
            tracker = make() if {tracker_first} else None
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            tracker = tracker or make()
            run_id = tracker.start_run("agent")
            os.kill(os.getpid(), signal.SIGTERM)
            await stop.wait()
            tracker.track_step("after the signal", run_id=run_id)
        asyncio.run(main())
    """
    result = run_program(source.format(url=receiver.url, tracker_first=order == "the tracker first"))
    assert (result.returncode, result.stderr) == (0, "")
    assert stored_steps(receiver.url) == ["after the signal"]


LATE = """
    import os, signal, threading, time
    from agentscope import create_tracker
    from agentscope.pipeline.process import lifecycle
    from tests.support.patient import be_patient
    be_patient()
    tracker = create_tracker("ask_test", {url!r}, flush_interval=60, flush_on_signal=True)
    stop_all = lifecycle.stop_all
    def slow():
        stop_all()
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.5)   # the thread that sends the signal again is late
    lifecycle.stop_all = slow
    def work():
        tracker.track_step("step", run_id=tracker.start_run("agent"))
        os.kill(os.getpid(), signal.SIGTERM)
    {run}
"""


@pytest.mark.parametrize("child", [False, True])
def test_a_program_that_comes_to_its_own_end_meanwhile_ends_by_the_signal_all_the_same(
    receiver: Receiver, child: bool
) -> None:
    process = """
    import multiprocessing
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGTERM, worker.exitcode
    """
    result = run_program(LATE.format(url=receiver.url, run=process if child else "work()"), timeout=120)
    assert (result.returncode, result.stderr) == (0 if child else -signal.SIGTERM, "")
    assert stored_steps(receiver.url) == ["step"]


UVICORN = """
    import os, signal
    import uvicorn
    from agentscope import create_tracker
    from tests.support.patient import be_patient
    be_patient()
    class Server(uvicorn.Server):
        async def main_loop(self):
            os.kill(os.getpid(), signal.SIGTERM)   # not before it has started: then it would tell the app nothing
            await super().main_loop()
    def make():
        global tracker
        tracker = create_tracker("ask_test", {url!r}, flush_interval=60, flush_on_signal=True)
    {early}
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            {late}
            await send({{"type": "lifespan.startup.complete"}})
            await receive()
            tracker.track_step("at shutdown", run_id=tracker.start_run("agent"))
            {flush}
            await send({{"type": "lifespan.shutdown.complete"}})
    Server(uvicorn.Config(app, port=0, log_level="error")).run()
"""


@pytest.mark.parametrize(
    ("early", "late", "flush"),
    [("make()", "pass", "pass"), ("pass", "make()", "await tracker.aflush()")],
    ids=["made before the server", "made by the server, with a flush at shutdown"],
)
def test_a_server_that_raises_the_signal_again_loses_nothing(
    receiver: Receiver, early: str, late: str, flush: str
) -> None:
    result = run_program(UVICORN.format(url=receiver.url, early=early, late=late, flush=flush), timeout=120)
    assert (result.returncode, result.stderr) == (-signal.SIGTERM, "")
    assert stored_steps(receiver.url) == ["at shutdown"]
