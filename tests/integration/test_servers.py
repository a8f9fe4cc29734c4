"""The servers and libraries that fork, or take the place of threads, run for real: each event arrives once."""

from __future__ import annotations

import collections
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from agentscope.server.serve import Receiver
from tests.support.program import ROOT, run_program
from tests.support.stored import stored_steps
from tests.support.wait import until

REQUESTS = 12

APP = """
import os
from agentscope import create_tracker

pytestmark = pytest.mark.once
tracker = create_tracker("ask_test", os.environ["TARGET"], flush_interval=float(os.environ["INTERVAL"]))
if os.environ.get("AT_IMPORT"):
    tracker.track_step("at import", run_id=tracker.start_run("import"))
def app(environ, start_response):
    with tracker.track_run("request"):
        tracker.track_step(environ["PATH_INFO"], input_data={"pid": os.getpid()})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""

_open = build_opener(ProxyHandler({})).open


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"needs {package}, which CI installs on one Python")


class Server:
    """A server's processes, in a session of their own."""

    def __init__(self, command: list[str], folder: Path, url: str, port: int, **environment: str) -> None:
        variables = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
            "PYTHONWARNINGS": "ignore",  # gevent and celery have much to say, on how they are run here
            "TARGET": url,
            "INTERVAL": "60",
            "COVERAGE_PROCESS_START": "",
            **environment,
        }
        variables.pop("COVERAGE_PROCESS_START")  # its tracer hangs in children that are forked beside a thread
        self.port = port
        self._log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=self._log, stderr=self._log, start_new_session=True
        )

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def get(self, path: str) -> str:
        with _open(f"http://127.0.0.1:{self.port}/{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def up(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def ask_all(self) -> set[str]:
        """Make the requests; gives the processes that answered."""
        until(self.up, timeout=30, what="the server listens")
        return {self.get(f"{i}") for i in range(REQUESTS)}

    def end(self) -> None:
        """As a supervisor does: SIGTERM, and wait."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)

    def close(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._log.close()


class Servers:
    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self._all: list[Server] = []
        (folder / "app.py").write_text(APP)

    def start(self, *command: str, **environment: str) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        filled = [part.replace("PORT", str(port)) for part in command]
        server = Server(filled, self._folder, self._url, port, **environment)
        self._all.append(server)
        return server

    def close(self) -> None:
        for server in self._all:
            server.close()


@pytest.fixture
def servers(receiver: Receiver, tmp_path: Path) -> Iterator[Servers]:
    started = Servers(tmp_path, receiver.url)
    yield started
    started.close()


def stored(receiver: Receiver) -> dict[str, int]:
    return dict(collections.Counter(stored_steps(receiver.url)))


ONCE_EACH = {f"/{i}": 1 for i in range(REQUESTS)}

GUNICORN = [sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:PORT", "-w", "2", "--log-level", "warning", "app:app"]


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
        assert len(pids) > 2  # ended after so many requests, and followed by others


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
    # One worker: another that is still starting when the signal comes never hears of it, and is waited for.
    server = servers.start(*GUNICORN, "-k", "gevent", "-w", "1", *preload)
    server.ask_all()
    server.end()
    assert stored(receiver) == ONCE_EACH, server.log


TASKS = """
import os
from celery import Celery
from agentscope import create_tracker
box = os.environ["BOX"]
app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": box, "data_folder_out": box, "control_folder": os.path.join(box, "control"),
}
app.conf.broker_connection_retry_on_startup = True
tracker = create_tracker("ask_test", os.environ["TARGET"], flush_interval=60)
@app.task
def work(number):
    with tracker.track_run("task"):
        tracker.track_step(f"/{number}")
    open(os.path.join(box, "..", f"done-{number}"), "w").close()
"""


@needs("celery")
def test_the_children_of_celery_deliver_before_they_end(receiver: Receiver, servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "box" / "control").mkdir(parents=True)
    box = str(tmp_path / "box")
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
    worker = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "2", *quiet]
    worker += ["--max-tasks-per-child", str(REQUESTS // 3)]  # some are replaced, and others are there at the end
    server = servers.start(*worker, BOX=box)
    servers.start(sys.executable, "-c", f"import tasks; [tasks.work.delay(i) for i in range({REQUESTS})]", BOX=box)
    until(lambda: len(list(tmp_path.glob("done-*"))) == REQUESTS, timeout=30, what="the tasks are done")
    server.end()
    assert stored(receiver) == ONCE_EACH, server.log


UWSGI = (
    "uwsgi --http-socket 127.0.0.1:PORT --master --processes 2 --need-app --wsgi-file app.py --callable app "
    "--disable-logging --die-on-term"
)


def uwsgi() -> list[str]:
    program = shutil.which("uwsgi", path=os.path.dirname(sys.executable)) or "uwsgi"
    return [program, *UWSGI.split()[1:], "-H", sys.prefix]


needs_uwsgi = pytest.mark.skipif(
    shutil.which("uwsgi", path=os.path.dirname(sys.executable)) is None,
    reason="needs uwsgi, which CI installs on one Python",
)


@needs_uwsgi
@pytest.mark.parametrize(
    ("options", "at_import"), [("", ""), ("", "1"), ("--lazy-apps", "1"), ("--py-call-uwsgi-fork-hooks", "1")]
)
def test_the_workers_of_uwsgi_deliver_while_they_run(
    receiver: Receiver, servers: Servers, options: str, at_import: str
) -> None:
    server = servers.start(*uwsgi(), *options.split(), INTERVAL="0.2", AT_IMPORT=at_import)
    server.ask_all()
    until(lambda: ONCE_EACH.items() <= stored(receiver).items(), what="each is stored once")
    server.end()
    # What the master tracks while it loads the app is lost where it never runs Python again; see README.
    assert stored(receiver).get("at import", 0) == (2 if at_import and "lazy" in options else 0)


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
    patch("after the import")
    tracker = agentscope.create_tracker("ask_test", {url!r}, flush_interval=60)
    patch("after the tracker was made")
    def work(number):
        with tracker.track_run("agent"):
            for i in range(10):
                tracker.track_step(f"{{number}}.{{i}}")
                sleep(0.001)
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
    result = run_program(source, env={"PYTHONWARNINGS": "ignore"}, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(stored_steps(receiver.url)) == sorted(f"{number}.{i}" for number in range(10) for i in range(10))
