"""The command line in its own process, with real sockets and real files."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentscope import create_tracker
from agentscope._version import __version__
from agentscope.cli.demo import command as demonstration
from agentscope.cli.main import main

from ..support import command, patient, read_api
from ..support.platform import DeployedPlatform
from ..support.receiver import Client

ESCAPE = "\x1b"
LONG = ("--timeout", "60")  # for a backend that a busy machine has put to sleep


def one_sentence(text: str) -> bool:
    return text.startswith("agentscope: ") and text.count("\n") == 1


# demo


def test_demo_shows_what_the_agent_did_and_that_nothing_was_lost() -> None:
    done = command.agentscope("demo", "--exit")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("librarian", "list_files", "find_topic", "search_files", "summarizer", "write_notebook"):
        assert word in done.stdout
    assert re.search(r"✗ read_notebook .* [\d.]+ ms  FileNotFoundError", done.stdout)
    assert re.search(r"✓ read_notebook .* [\d.]+ ms  topic \w+", done.stdout)
    ledger = re.search(
        r"accepted (\d+) = delivered (\d+) \+ dropped 0 \+ spooled 0 \+ pending 0\n +stored by the receiver: (\d+)",
        done.stdout,
    )
    assert ledger
    assert len(set(ledger.groups())) == 1
    assert re.search(r"[\d.]+ µs \(mean of 2000", done.stdout)
    assert re.search(r"http://127\.0\.0\.1:\d+/runs/", done.stdout)
    assert ESCAPE not in done.stdout


def test_demo_nests_the_sub_agents_steps_below_it() -> None:
    out = command.agentscope("demo", "--exit").stdout
    assert re.search(r"(?m)^  ├─ ✓ reader .*\n(  │  ├─ ✓ read_file .*\n)+  │  └─ ✓ find_topic ", out)
    assert re.search(r"(?m)^  ├─ ✓ summarizer .*\n(  │  [├└]─ ✓ read_source .*\n)+  └─ ✓ write_notebook", out)


@pytest.mark.long
@pytest.mark.timing(reason="the demo is measured against the clock")
def test_demo_is_over_in_three_seconds() -> None:
    # Nothing in it waits. But a machine may be busy for a moment, or slow, as its imports tell.
    def in_time() -> bool:
        imports = command.run("-c", "import agentscope.server.receiver, requests", timeout=60).seconds
        return command.agentscope("demo", "--exit", timeout=60).seconds < 3 + 3 * imports

    assert any(in_time() for _ in range(5))


def test_demo_works_in_an_empty_directory(tmp_path: Path) -> None:
    done = command.agentscope("demo", "--exit", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "There is nothing here to read." in done.stdout


def test_demo_works_at_the_root_of_the_file_system() -> None:
    done = command.agentscope("demo", "--exit", cwd=Path("/"))
    assert (done.returncode, done.stderr) == (0, "")


def test_demo_works_among_odd_files_and_passes_no_escape_on(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9 \x1b[31m.txt")).write_text(
        f"The {ESCAPE}[2J escape erases a whole screen at once. " * 9
    )
    (tmp_path / "binary").write_bytes(b"\0\xff" * 1000)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "secret.txt").write_text("hidden")
    (tmp_path / "secret.txt").chmod(0)
    os.mkfifo(tmp_path / "pipe")
    done = command.agentscope("demo", "--exit", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert ESCAPE not in done.stdout
    assert "caf" in done.stdout


def test_demo_prints_ascii_where_the_terminal_knows_no_more() -> None:
    done = command.agentscope("demo", "--exit", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "|- x read_notebook" in done.stdout


@pytest.mark.parametrize(("environ", "colored"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_demo_is_coloured_on_a_terminal_unless_told_otherwise(environ: dict[str, str], colored: bool) -> None:
    ours, theirs = pty.openpty()
    variables = {**os.environ, "PYTHONPATH": str(command.ROOT), "TERM": "xterm", **environ}
    demo = subprocess.Popen(
        [sys.executable, "-m", "agentscope", "demo", "--exit"], cwd=command.ROOT, env=variables, stdout=theirs
    )
    os.close(theirs)
    shown = b""
    # A terminal whose other end is closed answers with an error on Linux, not with an end of file.
    with suppress(OSError):
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert demo.wait(60) == 0
    assert (b"\x1b[32m" in shown) is colored


def test_demo_is_not_disturbed_by_the_users_own_settings() -> None:
    theirs = {
        "AGENTSCOPE_ENABLED": "false",
        "AGENTSCOPE_PROTOCOL": "otlp",
        "AGENTSCOPE_SAMPLE_RATE": "0",
        "AGENTSCOPE_BASE_URL": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    assert command.agentscope("demo", "--exit", env=theirs).returncode == 0


@contextmanager
def demonstrating(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A demonstration that stays up, with `folder` for its temporary files, and what it printed."""
    process = command.start("-m", "agentscope", "demo", env={"TMPDIR": str(folder)})
    assert process.stdout
    try:
        yield process, "".join(iter(process.stdout.readline, "Press Ctrl-C to end; the recordings are deleted then.\n"))
    finally:
        process.kill()
        process.communicate()


def test_demo_stays_up_until_ctrl_c_and_then_leaves_nothing(tmp_path: Path) -> None:
    with demonstrating(tmp_path) as (demo, printed):
        page = re.search(r"http://\S+/runs/\S+", printed)
        assert page
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(page[0], timeout=60) as answer:
            assert answer.status == 200
        assert list(tmp_path.iterdir())
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=60)
        assert (demo.returncode, out, err) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_demo_gives_the_signal_handler_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["demo", "--exit"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_demo_removes_its_files_on_sigterm(tmp_path: Path) -> None:
    with demonstrating(tmp_path) as (demo, _):
        demo.terminate()
        demo.communicate(timeout=60)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["demo", "serve"])
def test_a_taken_port_is_one_sentence_and_what_to_do(name: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command.agentscope(name, "--port", str(port), cwd=tmp_path)
    assert done.returncode == 1
    assert one_sentence(done.stderr)
    assert f"port {port} is taken" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize("name", ["demo", "serve"])
def test_without_the_server_extra_it_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['starlette'] = sys.modules['uvicorn'] = None\n")
    path = os.pathsep.join([str(tmp_path), str(command.ROOT)])
    done = command.agentscope(name, "--port", "0", cwd=tmp_path, env={"PYTHONPATH": path})
    assert done.returncode == 1
    assert one_sentence(done.stderr)
    assert "pip install -e '.[server]'" in done.stderr


def test_demo_fails_when_less_is_stored_than_was_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch = demonstration._fetch

    def forgetful(url: str) -> Any:
        return {"events": []} if url.endswith("/events") else fetch(url)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demonstration, "_fetch", forgetful)
    assert main(["demo", "--exit"]) == 1
    assert "accepted, delivered and stored should be equal; dropped: nothing" in capsys.readouterr().out


def test_demo_says_what_was_dropped_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # 64 KiB hold a fraction of what the demonstration records in one go.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTSCOPE_MAX_QUEUE_BYTES", str(64 * 1024))
    assert main(["demo", "--exit"]) == 1
    assert re.search(r"dropped: queue_full \d+", capsys.readouterr().out)


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    done = subprocess.run(
        ["bash", "-c", '"$0" -m agentscope demo --exit | head -n 1', sys.executable],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(command.ROOT)},
        cwd=command.ROOT,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


# serve


@contextmanager
def serving(
    *options: str, cwd: Path, env: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    process = command.start("-m", "agentscope", "serve", "--port", "0", *options, cwd=cwd, env=env)
    assert process.stdout
    try:
        greeting = ""
        while "create_tracker" not in greeting:
            line = process.stdout.readline()
            assert line, f"it ended after: {greeting}"
            greeting += line
        url = re.search(r"http://\S+", greeting)
        assert url
        yield process, url[0], greeting
    finally:
        process.kill()
        process.communicate()


def test_serve_keeps_runs_in_the_file_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient.here(monkeypatch)
    with serving(cwd=tmp_path) as (process, url, greeting):
        assert str(tmp_path / "agentscope.db") in greeting
        assert f"AGENTSCOPE_BASE_URL={url}" in greeting
        tracker = create_tracker(api_key="any", base_url=url)
        tracker.end_run(run_id=tracker.start_run("kept"))
        assert tracker.shutdown()
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode in (0, 130)
    with serving("--db", "agentscope.db", cwd=tmp_path) as (_, url, _):
        assert read_api.only_run(url)["agent_name"] == "kept"


def test_serve_ends_on_ctrl_c_without_a_traceback(tmp_path: Path) -> None:
    with serving(cwd=tmp_path) as (process, _, _):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, 130)
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "env"), [(["--api-key", "ask_right"], {}), ([], {"AGENTSCOPE_API_KEY": "ask_right"})]
)
def test_serve_asks_for_the_key_it_was_given_and_does_not_print_it(
    options: list[str], env: dict[str, str], tmp_path: Path
) -> None:
    with serving(*options, cwd=tmp_path, env=env) as (_, url, greeting):
        assert "ask_right" not in greeting
        wrong, right = (
            command.agentscope("check", "--base-url", url, "--api-key", key, *LONG, cwd=tmp_path, timeout=100)
            for key in ("ask_wrong", "ask_right")
        )
    assert (wrong.returncode, right.returncode) == (1, 0)
    assert "Correct --api-key" in wrong.stdout


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--host", "0.0.0.0"], "key"),
        (["--host", "192.0.2.1", "--api-key", "ask_right"], "192.0.2.1"),
        (["--db", "/dev/null/all.db"], "/dev/null"),
        (["--api-key", "two words"], "--api-key"),
    ],
)
def test_serve_says_in_one_sentence_why_it_cannot(options: list[str], word: str, tmp_path: Path) -> None:
    done = command.agentscope("serve", "--port", "0", *options, cwd=tmp_path)
    assert done.returncode == 1
    assert one_sentence(done.stderr), done.stderr
    assert word in done.stderr


# check


def test_check_says_what_was_negotiated_and_how_long_it_took(receiver: Any) -> None:
    env = {"AGENTSCOPE_BASE_URL": receiver.url, "AGENTSCOPE_API_KEY": "ask_key"}
    done = command.agentscope("check", *LONG, env=env, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{receiver.url}  (from AGENTSCOPE_BASE_URL)" in done.stdout
    assert re.search(r"✓ acknowledged after \d+ ms, by agentscope-batch", done.stdout)
    assert "ask_key" not in done.stdout
    run = read_api.only_run(receiver.url)
    assert (run["agent_name"], run["status"], run["output"]) == ("agentscope check", "completed", {"answer": "it does"})
    assert run["tags"] == ["agentscope-check"]


def test_check_recognizes_a_deployed_platform() -> None:
    with DeployedPlatform("ask_test") as platform:
        done = command.agentscope("check", "--base-url", platform.url, "--api-key", "ask_test", *LONG, timeout=100)
    assert done.returncode == 0
    assert "by agentscope-classic: one request a record" in done.stdout
    assert platform.only_run().status == "completed"


@pytest.mark.parametrize("variable", ["AGENTSCOPE_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
def test_check_of_an_opentelemetry_backend_names_its_address_and_where_that_is_from(
    receiver: Any, variable: str
) -> None:
    done = command.agentscope("check", *LONG, env={"AGENTSCOPE_PROTOCOL": "otlp", variable: receiver.url}, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{receiver.url}/v1/traces  (from {variable})" in done.stdout
    # The receiver of this package announces the batch call to a sender of spans.
    assert "by agentscope-batch: batches, each event stored once\n" in done.stdout


def test_check_where_no_opentelemetry_backend_listens_names_the_setting_for_it() -> None:
    with deaf() as address:
        env = {"AGENTSCOPE_PROTOCOL": "otlp", "AGENTSCOPE_ENDPOINT": address}
        done = command.agentscope("check", *LONG, env=env, timeout=100)
    assert done.returncode == 1
    assert f"{address}/v1/traces" in done.stdout
    assert "correct AGENTSCOPE_ENDPOINT" in done.stdout


def test_check_with_a_url_asks_an_agentscope_backend_whatever_the_environment_says(receiver: Any) -> None:
    options = ("--base-url", receiver.url, "--api-key", "ask_key")
    done = command.agentscope("check", *options, *LONG, env={"AGENTSCOPE_PROTOCOL": "otlp"}, timeout=100)
    assert done.returncode == 0
    assert f"{receiver.url}  (from --base-url)" in done.stdout
    assert "by agentscope-batch" in done.stdout


def test_check_of_another_machine_without_a_key_says_where_to_put_it() -> None:
    done = command.agentscope("check", "--base-url", "http://host.test")
    assert done.returncode == 1
    assert one_sentence(done.stderr)
    assert "AGENTSCOPE_API_KEY" in done.stderr


def test_check_of_a_url_that_cannot_work_names_it() -> None:
    done = command.agentscope("check", "--base-url", "localhost:8000", "--api-key", "any")
    assert done.returncode == 1
    assert one_sentence(done.stderr)
    assert "base_url" in done.stderr


@contextmanager
def deaf() -> Iterator[str]:
    """An address where nobody listens, and nobody else can meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def check(url: str, *options: str, env: dict[str, str] | None = None) -> Any:
    given = ("--base-url", url, "--api-key", "ask_canary", *LONG, *options)
    done = command.agentscope("check", *given, env=env, timeout=100)
    assert done.returncode == 1
    assert "✗ not acknowledged" in done.stdout
    assert "ask_canary" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_check_over_http_to_another_machine_warns_of_the_key_in_the_clear() -> None:
    told = check("http://nothing.invalid:8000").stdout
    assert "the key is sent there without encryption" in told
    assert "without encryption" not in check("http://127.0.0.1:9").stdout


def test_check_where_nothing_listens_advises_to_start_a_receiver_and_does_not_dally() -> None:
    with deaf() as url:
        done = check(url)
    assert "agentscope serve" in done.stdout
    assert done.seconds < 40  # it may take a minute


def test_check_with_a_wrong_key_advises_to_correct_it() -> None:
    with DeployedPlatform("ask_test") as platform:
        assert "Correct --api-key" in check(platform.url).stdout


@contextmanager
def answering(status: int, headers: dict[str, str] | None = None, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in {"Content-Length": "0", **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Print nothing to stderr."""

    class Server(HTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Ignore clients that disconnect during a handshake, which the tests do."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_check_of_something_else_advises_to_correct_the_url() -> None:
    with answering(404) as url:
        assert "no backend for this protocol" in check(url).stdout


def test_check_of_a_redirect_advises_to_use_its_target() -> None:
    with answering(301, {"Location": "http://127.0.0.2:9/"}) as url:
        assert "Redirects are never followed" in check(url).stdout


def test_check_of_a_backend_in_trouble_says_so() -> None:
    with answering(503) as url:
        assert "in trouble" in check(url).stdout


def test_check_of_a_backend_that_hangs_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = check(f"http://127.0.0.1:{silent.getsockname()[1]}", "--timeout", "1")
    assert "did not answer in time" in done.stdout
    assert done.seconds < 40  # by the option before it would be a minute


def test_check_of_an_unknown_authority_advises_where_to_name_it(tmp_path: Path) -> None:
    openssl = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -keyout key.pem -out certificate.pem"
    )
    subprocess.run(openssl.split(), cwd=tmp_path, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    with answering(200, tls=tls) as url:
        assert "REQUESTS_CA_BUNDLE" in check(url).stdout


def test_check_by_a_name_that_the_receiver_does_not_serve_says_how_to_allow_it(tmp_path: Path) -> None:
    with answering(421) as url:
        assert "--allow-host" in check(url).stdout


def test_check_of_an_unknown_host_advises_to_correct_it() -> None:
    assert "host name is not known" in check("http://nothing.invalid:8000").stdout


# the module


def test_the_module_is_the_command() -> None:
    assert command.agentscope("--version").stdout.startswith(f"agentscope {__version__} on Python 3.")


def test_serve_takes_its_options_from_the_environment_and_says_what_it_allows(tmp_path: Path) -> None:
    env = {
        "AGENTSCOPE_HOST": "0.0.0.0",
        "AGENTSCOPE_API_KEY": "ask_right",
        "AGENTSCOPE_DB": "from-env.db",
        "AGENTSCOPE_ALLOWED_HOSTS": "traces.example.com,box",
    }
    with serving(cwd=tmp_path, env=env) as (_, url, greeting):
        assert str(tmp_path / "from-env.db") in greeting
        assert "the names of loopback, traces.example.com, box" in greeting
        assert "without encryption" in greeting
        client = Client(url, "ask_right")
        hosts = ("traces.example.com", "box:8000", "localhost:9000", "other.example.com")
        assert [client.get("/api/runs", host=host).status for host in hosts] == [200, 200, 200, 421]
