"""Servers and libraries that fork, with a spool: the events that a worker could not deliver are sent once, by a later process."""

from __future__ import annotations

import collections
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentscope.server.receiver import Receiver
from tests.support.program import run_program
from tests.support.proxy import FaultProxy
from tests.support.servers import CELERY, GUNICORN, ONCE_EACH, REQUESTS, Server, Servers, needs, needs_uwsgi, uwsgi
from tests.support.spool_recovery import events_in_file, send_what_is_left
from tests.support.stored import stored_steps
from tests.support.wait import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture
def proxy(receiver: Receiver) -> Iterator[FaultProxy]:
    with FaultProxy(receiver.url) as proxy:
        proxy.set("refuse")
        yield proxy


@pytest.fixture
def servers(proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.setenv("AGENTSCOPE_SPOOL_DIR", str(tmp_path / "spool"))
    started = Servers(tmp_path, proxy.url)
    yield started
    started.close()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Path]:
    """The spool directory. At the end no event may be left in it; the last process may leave an empty file."""
    yield tmp_path / "spool"
    assert [
        events_in_file(database) for database in (tmp_path / "spool").glob("*.db") if events_in_file(database)
    ] == []


def stored(receiver: Receiver) -> dict[str, int]:
    return dict(collections.Counter(stored_steps(receiver.url)))


def wait_for_disk(server: Server) -> None:
    until(lambda: not server.stats()["pending"], what="all is on disk")


def wait_for(receiver: Receiver, expected: dict[str, int], server: Server) -> None:
    """Check that at least these steps are stored, each once."""
    try:
        until(lambda: expected.items() <= stored(receiver).items())
    except AssertionError:
        raise AssertionError((expected.items() ^ stored(receiver).items(), server.log)) from None


@needs("gunicorn")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param("-k sync --preload", id="sync, preloaded"),
        pytest.param("-k gthread --threads 2 --preload", id="gthread, preloaded"),
        pytest.param("-k gevent", id="gevent", marks=needs("gevent")),
        pytest.param("-k gevent --preload", id="gevent, preloaded", marks=needs("gevent")),
    ],
)
def test_what_a_killed_worker_of_gunicorn_left_is_sent_by_the_next_one(
    receiver: Receiver, servers: Servers, proxy: FaultProxy, files: Path, options: str
) -> None:
    server = servers.start(*GUNICORN, *options.split(), "-w", "1")
    (pid,) = server.ask_all()
    wait_for_disk(server)
    os.kill(int(pid), signal.SIGKILL)
    proxy.set("pass")
    assert server.get("next") != pid
    wait_for(receiver, ONCE_EACH, server)
    server.end()
    assert stored(receiver) == {**ONCE_EACH, "/next": 1}, server.log


@needs("celery")
def test_what_a_killed_child_of_celery_left_is_sent_by_the_next_one(
    receiver: Receiver, servers: Servers, proxy: FaultProxy, files: Path
) -> None:
    server = servers.start(*CELERY, "-c", "1")
    # Tasks are identified by the millisecond, in order.
    calls = (
        "[tasks.work.delay(i) for i in range({})]; pause(0.1); tasks.die.delay(); pause(0.1); tasks.work.delay('next')"
    )
    servers.order(f"from time import sleep as pause; {calls.format(REQUESTS)}")
    until(lambda: servers.done() == REQUESTS + 1, timeout=120, what="the next child is at work")
    proxy.set("pass")
    wait_for(receiver, ONCE_EACH, server)
    server.end()
    assert stored(receiver) == {**ONCE_EACH, "/next": 1}, server.log


@needs_uwsgi
@pytest.mark.parametrize(
    ("options", "at_import"),
    [
        ("", "flushed"),
        ("--threads 4", ""),
        ("--lazy-apps --processes 1", "1"),
        ("--py-call-uwsgi-fork-hooks", "flushed"),
    ],
)
def test_what_the_workers_of_uwsgi_could_not_deliver_is_sent_after_the_next_start(
    receiver: Receiver, servers: Servers, proxy: FaultProxy, files: Path, options: str, at_import: str
) -> None:
    server = servers.start(*uwsgi(), *options.split(), AT_IMPORT=at_import)
    server.ask_all()
    server.end()
    assert "kept in the spool" in server.log
    assert stored(receiver) == {}
    proxy.set("pass")
    server = servers.start(*uwsgi(), INTERVAL="0.2")
    server.wait()
    server.get("next")
    at = {"at import": 1} if at_import else {}
    wait_for(receiver, {**ONCE_EACH, **at, "/next": 1}, server)
    server.end()
    assert stored(receiver) == {**ONCE_EACH, **at, "/next": 1}, server.log


@needs_uwsgi
def test_what_a_worker_of_uwsgi_put_on_disk_before_it_ended_amid_a_request_is_sent_after_the_next_start(
    receiver: Receiver, servers: Servers, proxy: FaultProxy, files: Path, tmp_path: Path
) -> None:
    # The worker runs no exit functions in that case.
    server = servers.start(*uwsgi(), "--processes", "1", "--threads", "2", INTERVAL="0.2")
    server.ask_all()
    asking = threading.Thread(target=ask_in_vain, args=(server,))
    asking.start()
    until((tmp_path / "under way").exists, what="a request is under way")
    wait_for_disk(server)
    server.kill()
    asking.join()
    proxy.set("pass")
    server = servers.start(*uwsgi(), INTERVAL="0.2")
    server.wait()
    server.get("next")
    wait_for(receiver, {**ONCE_EACH, "/endless": 1, "/next": 1}, server)
    server.end()
    assert stored(receiver) == {**ONCE_EACH, "/endless": 1, "/next": 1}, server.log


def ask_in_vain(server: Server) -> None:
    """Make a request that the server never answers, because it is killed."""
    with pytest.raises(OSError):
        server.get("endless")


GREEN = """
    import sys, time
    order, library = {order!r}, {library!r}
    def patch(moment):
        if moment == order and library == "gevent":
            from gevent import monkey
            monkey.patch_all()
        elif moment == order:
            import eventlet
            eventlet.monkey_patch()
    patch("before the import")
    import agentscope
    patch("after the import")
    tracker = agentscope.create_tracker("ask_test", {url!r}, flush_interval=60, spool_dir={spool!r}, timeout=90)
    patch("after the tracker was made")
    tracker.start_run("agent")
    lag = 0.0
    def tick():
        global lag
        while True:
            before = time.monotonic()
            sleep(0.01)   # between two looks
            lag = max(lag, time.monotonic() - before - 0.01)
    def work(number):
        for i in range(10):
            tracker.track_step(f"{{number}}.{{i}}")
            sleep(0.001)   # the others get their turn
        until = time.monotonic() + 60
        while tracker.stats().pending and time.monotonic() < until:
            sleep(0.01)   # between two looks
    if library == "gevent":
        import gevent
        from gevent import sleep, spawn
        join = gevent.Greenlet.join
    else:
        import eventlet
        from eventlet import sleep, spawn
        join = lambda task: task.wait()
    spawn(tick)
    for task in [spawn(work, number) for number in range(10)]:
        join(task)
    stats = tracker.stats()
    print(stats.accepted, stats.pending, stats.spooled, lag < 20)   # and not as long as the backend hangs
"""


@pytest.mark.parametrize(
    ("library", "order"),
    [
        *(
            pytest.param("gevent", order, marks=needs("gevent"))
            for order in ("before the import", "after the import", "after the tracker was made")
        ),
        pytest.param("eventlet", "before the import", marks=needs("eventlet")),
    ],
)
def test_green_threads_reach_the_disk_while_the_backend_hangs_and_wait_for_nothing(
    receiver: Receiver, proxy: FaultProxy, files: Path, library: str, order: str
) -> None:
    proxy.set("hang")
    source = GREEN.format(url=proxy.url, spool=str(files), library=library, order=order)
    result = run_program(source, env={"PYTHONWARNINGS": "ignore"}, timeout=110)
    assert result.stdout == "101 0 101 True\n", result.stderr
    assert "101 events are kept in the spool" in result.stderr
    proxy.set("pass")
    assert send_what_is_left(proxy.url, files) == 101
    names = sorted(f"{number}.{i}" for number in range(10) for i in range(10))
    assert sorted(stored_steps(receiver.url)) == names
