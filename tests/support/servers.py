"""Servers that fork, and process pools, as real processes with a small app that tracks each request."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.support.program import ROOT
from tests.support.wait import until

REQUESTS = 12
ONCE_EACH = {f"/{i}": 1 for i in range(REQUESTS)}

APP = """
import json, os, time
from agentscope import create_tracker
from tests.support.patient import be_patient
be_patient()
tracker = create_tracker("ask_test", os.environ["TARGET"], flush_interval=float(os.environ["INTERVAL"]))
if os.environ.get("AT_IMPORT"):
    tracker.track_step("at import", run_id=tracker.start_run("import"))
if os.environ.get("AT_IMPORT") == "flushed":
    tracker.flush(30)
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    stats = tracker.stats()
    if environ["PATH_INFO"] == "/stats":
        balanced = stats.accepted == stats.delivered + stats.spooled + stats.pending + sum(stats.dropped.values())
        told = [os.getpid(), stats.pending, stats.spooled, stats.recovered, dict(stats.dropped), balanced]
        return [json.dumps(told).encode()]
    with tracker.track_run("request"):
        tracker.track_step(environ["PATH_INFO"], input_data={"pid": os.getpid()})
    if environ["PATH_INFO"] == "/endless":
        open("under way", "w").close()
        time.sleep(60)  # until it is ended
    return [str(os.getpid()).encode()]
"""

TASKS = """
import os, signal, time
from celery import Celery, platforms
# Celery asks Linux to kill each child when its parent ends. Linux takes the thread that forked it for the parent: in a shutdown
# the thread that replaces children ends first, and these are killed within their exit functions, or with a lock of the pool.
platforms.set_pdeathsig = lambda name: None
from agentscope import create_tracker
from tests.support.patient import be_patient
be_patient()
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
@app.task
def die():
    while tracker.stats().pending:
        time.sleep(0.01)  # between two looks
    os.kill(os.getpid(), signal.SIGKILL)
"""

GUNICORN = [sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:PORT", "-w", "2", "--log-level", "warning", "app:app"]
CELERY = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel", "ERROR"]
CELERY += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
_UWSGI = (
    "--http-socket 127.0.0.1:PORT --master --processes 2 --need-app --wsgi-file app.py --callable app "
    "--disable-logging --die-on-term --stats 127.0.0.1:STATS"
)

_open = build_opener(ProxyHandler({})).open


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"needs {package}, which CI installs on one Python")


needs_uwsgi = pytest.mark.skipif(
    shutil.which("uwsgi", path=os.path.dirname(sys.executable)) is None,
    reason="needs uwsgi, which CI installs on one Python",
)


def uwsgi() -> list[str]:
    program = shutil.which("uwsgi", path=os.path.dirname(sys.executable)) or "uwsgi"
    return [program, *_UWSGI.split(), "-H", sys.prefix]


class Server:
    """The processes of a server, in a session of their own."""

    def __init__(
        self, command: Sequence[str], folder: Path, url: str, port: int, stats_port: int, **environment: str
    ) -> None:
        variables = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
            "PYTHONWARNINGS": "ignore",  # gevent and celery print many warnings about this set-up
            "TARGET": url,
            "INTERVAL": "60",
            "COVERAGE_PROCESS_CONFIG": "",
            **environment,
        }
        variables.pop("COVERAGE_PROCESS_CONFIG")  # its tracer hangs in children that are forked beside a thread
        self.port = port
        self._stats_port = stats_port if "--stats" in command else None
        command = [part.replace("PORT", str(port)).replace("STATS", str(stats_port)) for part in command]
        self._log = (folder / "log").open("a+")
        self.process = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=self._log, stderr=self._log, start_new_session=True
        )

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def get(self, path: str) -> str:
        with _open(f"http://127.0.0.1:{self.port}/{path}", timeout=60) as answer:
            return str(answer.read().decode())

    def up(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=10).close()
        except OSError:
            return False
        return True

    def wait(self) -> None:
        until(self.up, what="the server listens")

    def ask_all(self) -> set[str]:
        """Make the requests. Returns the ids of the processes that answered."""
        self.wait()
        return {self.get(f"{i}") for i in range(REQUESTS)}

    def stats(self) -> dict[str, Any]:
        """The statistics of the tracker in the process that answers; its ledger must add up."""
        pid, pending, spooled, recovered, dropped, balanced = json.loads(self.get("stats"))
        assert balanced
        assert dropped == {}
        return {"pid": pid, "pending": pending, "spooled": spooled, "recovered": recovered}

    def idle(self) -> bool:
        """Tell if no request is under way, and all workers accept requests.

        A worker of uWSGI is busy for a moment after its answer has arrived. A worker that still starts ignores SIGTERM, and is
        killed after a minute.
        """
        if self._stats_port is None:
            return True
        try:
            # By TCP: the path of a Unix socket may have 107 bytes, and a temporary folder is longer on some machines.
            with socket.create_connection(("127.0.0.1", self._stats_port), timeout=10) as connection:
                told = json.load(connection.makefile())
        except ConnectionRefusedError:
            return False  # the master opens it after its workers have begun
        busy = any(core["in_request"] for worker in told["workers"] for core in worker["cores"])
        return not busy and all(worker["accepting"] for worker in told["workers"])

    def end(self) -> None:
        """Send SIGTERM between requests, and wait. In a request, uWSGI would end a worker without its exit functions."""
        until(self.idle, what="no request is under way")
        self.kill()

    def kill(self) -> None:
        """Send SIGTERM and wait, even during requests."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=90)  # gunicorn waits half a minute for workers that missed the signal

    def close(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._log.close()


class Servers:
    """The servers that a test starts, with `url` as their backend."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self._folder = folder
        self._all: list[Server] = []
        (folder / "app.py").write_text(APP)
        (folder / "tasks.py").write_text(TASKS)
        (folder / "box" / "control").mkdir(parents=True)

    def start(self, *command: str, **environment: str) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as other:
            ports = free.getsockname()[1], other.getsockname()[1]
        server = Server(command, self._folder, self.url, *ports, BOX=str(self._folder / "box"), **environment)
        self._all.append(server)
        return server

    def order(self, what: str) -> None:
        """Submit celery tasks in a new process, by a Python statement that uses the module `tasks`."""
        self.start(sys.executable, "-c", f"import tasks; {what}")

    def done(self) -> int:
        """The number of celery tasks that are done."""
        return len(list(self._folder.glob("done-*")))

    def close(self) -> None:
        for server in self._all:
            server.close()
