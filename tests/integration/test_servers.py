"""Servers and libraries that fork or replace threads, as real processes: each event arrives once."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentscope.server.receiver import Receiver
from tests.support.program import run_program
from tests.support.servers import CELERY, GUNICORN, ONCE_EACH, REQUESTS, Servers, needs, needs_uwsgi, uwsgi
from tests.support.stored import stored_steps
from tests.support.wait import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture
def servers(receiver: Receiver, tmp_path: Path) -> Iterator[Servers]:
    started = Servers(tmp_path, receiver.url)
    yield started
    started.close()


def stored(receiver: Receiver) -> dict[str, int]:
    return dict(collections.Counter(stored_steps(receiver.url)))


@needs("gunicorn")
@pytest.mark.parametrize(
    "options",
    ["-k sync", "-k sync --preload", "-k gthread --threads 2 --preload", "-k sync --preload --max-requests 4"],
)
def test_the_workers_of_gunicorn_deliver_before_they_end(receiver: Receiver, servers: Servers, options: str) -> None:
    server = servers.start(*GUNICORN, *options.split())
    pids = server.ask_all()
    server.end()
    assert stored(receiver) == ONCE_EACH, server.log
    assert str(server.process.pid) not in pids
    if "max-requests" in options:
        assert len(pids) > 2  # replaced after so many requests


@needs("gunicorn")
def test_what_is_tracked_at_the_preload_of_gunicorn_is_delivered_once_and_by_the_master(
    receiver: Receiver, servers: Servers
) -> None:
    server = servers.start(*GUNICORN, "--preload", AT_IMPORT="1")
    server.ask_all()
    server.end()
    assert stored(receiver) == {**ONCE_EACH, "at import": 1}, server.log


@needs("gunicorn")
@needs("gevent")
@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["patched before the app", "patched after it"])
def test_the_green_workers_of_gunicorn_deliver_before_they_end(
    receiver: Receiver, servers: Servers, preload: list[str]
) -> None:
    # One worker only: a second one that still starts would miss the signal, and the server would wait for it.
    server = servers.start(*GUNICORN, "-k", "gevent", "-w", "1", *preload)
    server.ask_all()
    server.end()
    assert stored(receiver) == ONCE_EACH, server.log


@needs("celery")
def test_the_children_of_celery_deliver_before_they_end(receiver: Receiver, servers: Servers) -> None:
    # Some children are replaced, others live until the end.
    server = servers.start(*CELERY, "-c", "2", "--max-tasks-per-child", str(REQUESTS // 3))
    servers.order(f"[tasks.work.delay(i) for i in range({REQUESTS})]")
    until(lambda: servers.done() == REQUESTS, timeout=120, what="the tasks are done")
    server.end()
    assert stored(receiver) == ONCE_EACH, server.log


@needs_uwsgi
@pytest.mark.parametrize(
    ("options", "at_import"), [("", ""), ("", "1"), ("--lazy-apps", "1"), ("--py-call-uwsgi-fork-hooks", "1")]
)
def test_the_workers_of_uwsgi_deliver_while_they_run(
    receiver: Receiver, servers: Servers, options: str, at_import: str
) -> None:
    server = servers.start(*uwsgi(), *options.split(), INTERVAL="0.2", AT_IMPORT=at_import)
    server.ask_all()
    # Events that the master tracks while it loads the app are lost if it never runs Python again.
    expected = {**ONCE_EACH, "at import": 2} if at_import and "lazy" in options else ONCE_EACH
    until(lambda: expected.items() <= stored(receiver).items(), what="each is stored once")
    server.end()
    assert stored(receiver) == expected


@needs_uwsgi
def test_the_workers_of_uwsgi_deliver_at_their_end(receiver: Receiver, servers: Servers) -> None:
    server = servers.start(*uwsgi(), "--processes", "1", INTERVAL="0.2")
    server.ask_all()
    until(lambda: ONCE_EACH.items() <= stored(receiver).items(), what="each is stored once")
    server.get("last")
    server.end()
    assert stored(receiver) == {**ONCE_EACH, "/last": 1}, server.log


GREEN = """
    import sys
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
    from tests.support.patient import be_patient
    be_patient()
    patch("after the import")
    tracker = agentscope.create_tracker("ask_test", {url!r}, flush_interval=60)
    patch("after the tracker was made")
    def work(number):
        with tracker.track_run("agent"):
            for i in range(10):
                tracker.track_step(f"{{number}}.{{i}}")
                sleep(0.001)   # the others get their turn
    if library == "gevent":
        import gevent
        from gevent import sleep
        tasks = [gevent.spawn(work, number) for number in range(10)]
        for task in tasks: task.join()
    else:
        import eventlet
        from eventlet import sleep
        tasks = [eventlet.spawn(work, number) for number in range(10)]
        for task in tasks: task.wait()
    {ending}
"""


@pytest.mark.parametrize("ending", ["assert tracker.flush()", ""], ids=["flushed", "at exit"])
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
def test_green_threads_lose_nothing_whenever_they_take_the_place_of_threads(
    receiver: Receiver, library: str, order: str, ending: str
) -> None:
    source = GREEN.format(url=receiver.url, library=library, order=order, ending=ending)
    result = run_program(source, env={"PYTHONWARNINGS": "ignore"}, timeout=100)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(stored_steps(receiver.url)) == sorted(f"{number}.{i}" for number in range(10) for i in range(10))
