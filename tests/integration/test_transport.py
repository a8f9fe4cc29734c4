"""The transport on real sockets: deadlines, bounds and faults that only a network has."""

from __future__ import annotations

import json
import logging
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable

import freezegun
import pytest

from agentscope.exporters.http import deadline as connections
from agentscope.exporters.http.transport import Transport
from agentscope.protocols.base import Failure, Response
from tests.support.platform import DeployedPlatform
from tests.support.proxy import FaultProxy, HangServer
from tests.support.wait import until

CANARY = "ask_canary_0123456789"
RUN = b'{"agent_name":"a"}'
JSON = {"Content-Type": "application/json"}

# A test key and its self-signed certificate for localhost, valid for a hundred years.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgT2iisjfZGtBm/WQL
wRx8zOMxi8H/ej6lMO65gPGuF8yhRANCAARdEYg0h4lNb5IqJp5pG7/D96NFBHs/
g4NtfxbgeEbMj7i7qC7+xOwAq03kg7pwZiix6HACQ5Gm5Tsd/BiZrul0
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBljCCATugAwIBAgIUN30OiWNgSyZ7a7U3X3T4RSfDBEYwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTA0MjAxOVoYDzIxMjYxMDI4
MDQyMDE5WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARdEYg0h4lNb5IqJp5pG7/D96NFBHs/g4NtfxbgeEbMj7i7qC7+xOwA
q03kg7pwZiix6HACQ5Gm5Tsd/BiZrul0o2kwZzAdBgNVHQ4EFgQUjgRr+0KA4dad
Wm57Mr/TKV1EJBAwHwYDVR0jBBgwFoAUjgRr+0KA4dadWm57Mr/TKV1EJBAwDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
SQAwRgIhALHXEtORENLv9bTpritw8ScFJd403Iu/YqHpEwzf53VhAiEArHz8VUbi
wtCpShTvcq94bE8qNmZg48OEW68kxx2P8nE=
-----END CERTIFICATE-----
"""


@pytest.fixture
def platform():
    with DeployedPlatform(CANARY) as opened:
        yield opened


@pytest.fixture
def proxy(platform):
    with FaultProxy(platform.url) as opened:
        yield opened


@pytest.fixture
def transport(proxy):
    opened = Transport(proxy.url, {"X-Agentscope-Key": CANARY, **JSON})
    yield opened
    opened.close()


def post(transport: Transport, body: bytes = RUN, timeout: float = 60) -> Response:
    reply = transport.send("POST", "/api/ingest/run", body, {}, timeout)
    assert isinstance(reply, Response), reply
    return reply


def failure(transport: Transport, body: bytes = RUN, timeout: float = 60) -> Failure:
    reply = transport.send("POST", "/api/ingest/run", body, {}, timeout)
    assert isinstance(reply, Failure), reply
    return reply


SOON = 15
"""Seconds. A bounded attempt ends earlier, even on a busy machine; an unbounded one does not."""


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


class TestAnswers:
    def test_an_answer_comes_back_and_the_connection_is_kept(self, transport, proxy, platform):
        for _ in range(3):
            reply = post(transport)
            assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
            assert json.loads(reply.body)["id"] in platform.runs
        assert proxy.connections == 1

    def test_as_many_connections_are_kept_as_threads_may_send(self, proxy, platform):
        transport = Transport(proxy.url, {"X-Agentscope-Key": CANARY, **JSON}, max_connections=4)
        together = threading.Barrier(4)
        platform.on_request = lambda request: together.wait(60)
        for _ in range(3):
            threads = [threading.Thread(target=post, args=(transport,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        transport.close()
        assert len(platform.runs) == 12
        assert proxy.connections == 4

    @pytest.mark.parametrize(
        ("mode", "status", "body"),
        [("empty204", 204, b""), ("html200", 200, None), ("status", 503, b"")],
    )
    def test_any_status_is_an_answer(self, transport, proxy, mode, status, body):
        proxy.set(mode)
        reply = post(transport)
        assert reply.status == status
        assert body is None or reply.body == body

    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    def test_a_redirect_is_not_followed_and_the_key_stays_here(self, transport, proxy, code):
        with FaultProxy() as other:
            proxy.set("redirect", code=code, location=other.url.replace("127.0.0.1", "127.0.0.2") + "/")
            assert post(transport).status == code
            assert other.connections == 0

    def test_an_answer_that_announces_too_few_bytes_is_cut_there(self, transport, proxy):
        proxy.set("wrong_length", delta=-5)
        with pytest.raises(ValueError):
            json.loads(post(transport).body)

    def test_a_connection_that_the_server_closed_while_idle_is_opened_again(self, transport, proxy):
        post(transport)
        proxy.kick()
        assert post(transport).status == 200


class TestFaults:
    @pytest.mark.parametrize(
        ("mode", "kind", "committed"),
        [
            ("reset_before", "connection", 0),
            ("reset_after", "connection", 1),
            ("truncated", "connection", 1),
            ("garbage", "protocol", 0),
        ],
    )
    def test_an_attempt_without_an_answer_leaves_open_if_it_was_stored(
        self, transport, proxy, platform, mode, kind, committed
    ):
        proxy.set(mode)
        error = failure(transport)
        assert (error.kind, error.unsent, len(platform.runs)) == (kind, False, committed)
        proxy.set("pass")
        assert post(transport).status == 200

    def test_a_refused_connection_certainly_sent_nothing(self, transport, proxy):
        proxy.set("refuse")
        error = failure(transport)
        assert (error.kind, error.unsent) == ("refused", True)
        assert error.sentence == f"127.0.0.1:{proxy.port}: the connection was refused"

    @pytest.mark.parametrize("host", ["does-not-exist.invalid", "a" * 64 + ".invalid", "..invalid"])
    def test_a_name_that_does_not_resolve_certainly_sent_nothing(self, host):
        error = failure(Transport(f"http://{host}:1"))
        assert error.unsent
        assert error.kind in ("dns", "protocol")

    def test_a_host_name_that_is_none_to_the_resolver_is_a_dns_failure(self, monkeypatch):
        def refuse(*args, **kwargs):
            raise UnicodeError("label too long")

        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        assert failure(Transport("http://platform.invalid:1")).kind == "dns"

    def test_a_key_shows_in_no_log_and_no_failure(self, transport, proxy, caplog):
        caplog.set_level(logging.DEBUG)
        assert post(transport).status == 200
        for mode in ("garbage", "reset_after", "truncated", "refuse"):
            proxy.set(mode)
            assert CANARY not in repr(failure(transport))
        assert any(record.name.startswith("urllib3") for record in caplog.records)
        assert CANARY not in caplog.text

    def test_running_out_of_file_descriptors_certainly_sent_nothing(self, transport):
        transport.warm_up()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # No descriptor below the standard ones is free, whatever other threads close meanwhile.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            error = failure(transport)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (error.kind, error.unsent) == ("connection", True)


class TestDeadline:
    @pytest.mark.parametrize(
        ("mode", "options"),
        [
            ("hang", {}),
            ("drip", {"interval": 0.5, "part": "head"}),
            ("drip", {"interval": 0.5, "part": "body"}),
            ("drip", {"interval": 0.05, "commit": False}),
            ("wrong_length", {"delta": 5}),
            ("bomb", {"kind": "headers", "interval": 0.2}),
            ("bomb", {"kind": "body", "interval": 30}),
        ],
    )
    def test_an_attempt_ends_in_time_however_slowly_the_answer_comes(self, transport, proxy, mode, options):
        post(transport)
        proxy.set(mode, **options)
        took = seconds(lambda: self.expect_timeout(transport))
        assert 0.9 < took < SOON

    def expect_timeout(self, transport: Transport, body: bytes = RUN) -> None:
        """Make a request on an open connection, because a new one could take the whole second."""
        error = failure(transport, body, timeout=1)
        assert (error.kind, error.unsent) == ("timeout", False)
        assert error.sentence.endswith("not a whole answer within 1 s")

    def test_an_attempt_ends_in_time_when_the_server_does_not_read(self, transport, proxy):
        post(transport)
        proxy.set("no_read")
        took = seconds(lambda: self.expect_timeout(transport, b" " * 64_000_000))
        assert 0.9 < took < SOON

    def test_an_attempt_ends_in_time_when_no_connection_is_accepted(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            port = listener.getsockname()[1]
            waiting = []
            while not self.full(port, waiting):
                pass
            started = time.perf_counter()
            error = failure(Transport(f"http://127.0.0.1:{port}"), timeout=0.5)
            assert time.perf_counter() - started < SOON
            assert (error.kind, error.unsent) == ("timeout", True)
            assert error.sentence.endswith("not connected within 0.5 s")
            for connection in waiting:
                connection.close()

    @staticmethod
    def full(port: int, waiting: list[socket.socket]) -> bool:
        try:
            waiting.append(socket.create_connection(("127.0.0.1", port), timeout=0.2))
        except TimeoutError:
            return True
        return False

    def test_a_kept_connection_has_the_deadline_of_each_new_attempt(self, transport, proxy):
        until(lambda: isinstance(transport.send("POST", "/api/ingest/run", RUN, {}, 0.5), Response))
        proxy.set("drip", interval=0.003)
        assert post(transport).status == 200
        proxy.set("hang")
        assert seconds(lambda: self.expect_timeout(transport)) < SOON

    def test_a_frozen_clock_does_not_stop_the_deadline(self, transport, proxy):
        post(transport)
        proxy.set("drip", interval=0.5)
        with freezegun.freeze_time("2026-01-31"):
            took = seconds_by_the_system(lambda: self.expect_timeout(transport))
        assert took < SOON

    def test_the_time_is_shared_between_the_addresses_of_a_host(self, proxy, monkeypatch):
        resolve, connect = socket.getaddrinfo, socket.socket.connect
        limits = []

        def two_addresses(host, port, *args, **kwargs):
            if host != "two.localhost":
                return resolve(host, port, *args, **kwargs)
            places = [("127.0.0.2", 1), ("127.0.0.1", proxy.port)]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]

        def first_one_hangs(self, place):
            limits.append(self.gettimeout())
            if place == ("127.0.0.2", 1):
                raise TimeoutError("timed out")
            connect(self, place)

        monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
        monkeypatch.setattr(connections._Timed, "connect", first_one_hangs, raising=False)
        transport = Transport("http://two.localhost:1", {"X-Agentscope-Key": CANARY, **JSON})
        assert post(transport, timeout=60).status == 200
        transport.close()
        assert 15 < limits[0] <= 30
        assert 30 < limits[1] <= 60

    def test_a_socket_whose_time_is_over_does_not_wait_at_all(self):
        near, far = socket.socketpair()
        with connections.timed(socket.socket)(fileno=near.detach()) as timed, far:
            connections.attempt.begin(-1, connections.WeakSet())
            for operation in (lambda: timed.recv(1), lambda: timed.send(b"x"), lambda: timed.sendall(b"x")):
                with pytest.raises(TimeoutError):
                    operation()

    def test_no_thread_is_started_for_it(self):
        with HangServer() as server:
            transport = Transport(server.url)
            before = set(threading.enumerate())  # a thread of another test may still be ending
            failure(transport, timeout=0.1)
            started = {thread.name for thread in set(threading.enumerate()) - before}
        assert started <= {"proxied"}


def seconds_by_the_system(call: Callable[[], object]) -> float:
    started = time.clock_gettime(time.CLOCK_MONOTONIC)
    call()
    return time.clock_gettime(time.CLOCK_MONOTONIC) - started


class TestBounds:
    @pytest.mark.parametrize(
        ("kind", "line", "told"),
        [
            ("gzip", 0, "too_large"),
            ("body", 0, "too_large"),
            ("headers", 1000, "protocol"),  # the library accepts a hundred
            ("headers", 60_000, "too_large"),
        ],
    )
    def test_an_endless_answer_is_given_up_early_and_takes_no_memory(self, transport, proxy, kind, line, told):
        proxy.set("bomb", kind=kind, line=line)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        error = failure(transport)
        assert (error.kind, error.unsent) == (told, False)
        assert time.perf_counter() - started < SOON
        # In KiB. The proxy's own buffers are in this process too.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024

    def test_a_gzip_answer_is_not_inflated(self, transport, proxy):
        proxy.set("status", code=200, headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8b not inflated")
        assert post(transport).body == b"\x1f\x8b not inflated"


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


def _whole_request(connection: socket.socket) -> bytes:
    """Read a request with its body: closing a socket with unread bytes resets the connection and loses the answer."""
    received = b""
    while True:
        head, found, body = received.partition(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if found and len(body) >= (int(length[0].split(b":")[1]) if length else 0):
            return received
        more = connection.recv(65536)
        if not more:
            return b""
        received += more


class TLSServer:
    """A context manager for a server that answers the first request of each connection with 200, optionally byte by byte."""

    def __init__(self, folder, drip: float = 0, answer: bytes = ANSWER) -> None:
        self._whole = answer
        self.bundle = folder / "server.pem"
        self.bundle.write_text(CERTIFICATE)
        self._drip = drip
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.bundle)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.requests = 0
        self.url = f"https://localhost:{self._listener.getsockname()[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(connection, server_side=True) as secured:
                    if _whole_request(secured):
                        self.requests += 1
                        self._answer(secured)
            except OSError:
                pass

    def _answer(self, secured: ssl.SSLSocket) -> None:
        if not self._drip:
            secured.sendall(self._whole)
            return
        for byte in self._whole:
            secured.sendall(bytes([byte]))
            self._stop.wait(self._drip)


class TestTLS:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch):
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.delenv(name, raising=False)

    def test_a_certificate_that_is_not_trusted_ends_it_before_anything_is_sent(self, tmp_path):
        with TLSServer(tmp_path) as server:
            error = failure(Transport(server.url))
        assert (error.kind, error.unsent, server.requests) == ("tls", True, 0)
        assert "certificate" in error.sentence

    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
    def test_the_environment_may_name_a_certificate_to_trust_even_on_this_machine(self, tmp_path, monkeypatch, name):
        with TLSServer(tmp_path) as server:
            monkeypatch.setenv(name, str(server.bundle))
            assert post(Transport(server.url)).status == 200

    def test_a_certificate_for_another_name_is_refused(self, tmp_path, monkeypatch):
        with TLSServer(tmp_path) as server:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.bundle))
            error = failure(Transport(server.url.replace("localhost", "127.0.0.1")))
        assert (error.kind, error.unsent, server.requests) == ("tls", True, 0)

    def test_a_bundle_that_holds_no_certificate_is_a_tls_failure(self, tmp_path, monkeypatch):
        bundle = tmp_path / "empty.pem"
        bundle.write_text("nothing")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        with TLSServer(tmp_path) as server:
            error = failure(Transport(server.url))
        assert (error.kind, error.unsent) == ("tls", True)

    def test_an_answer_that_drips_through_tls_ends_in_time(self, tmp_path, monkeypatch):
        with TLSServer(tmp_path, drip=0.5) as server:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.bundle))
            transport = Transport(server.url)
            transport.warm_up()
            while not server.requests:  # the second may be over before it is sent
                took = seconds(lambda: self.expect_a_timeout(transport))
                assert took < SOON

    def test_a_handshake_that_hangs_ends_in_time_and_sent_nothing(self):
        with FaultProxy(None, "no_read") as server:
            transport = Transport(server.url.replace("http:", "https:"))
            took = seconds(lambda: self.expect_not_connected(transport))
        assert took < SOON

    @staticmethod
    def expect_a_timeout(transport: Transport) -> None:
        assert failure(transport, timeout=1).kind == "timeout"

    @staticmethod
    def expect_not_connected(transport: Transport) -> None:
        error = failure(transport, timeout=1)
        assert (error.kind, error.unsent) == ("timeout", True)

    def test_an_inner_handshake_that_drips_through_a_tls_proxy_ends_in_time(self, tmp_path, monkeypatch):
        with TLSServer(tmp_path, drip=0.05, answer=b"HTTP/1.1 200 OK\r\n\r\n" + b"\x16\x03\x03\x40\x00" * 99) as server:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.bundle))
            monkeypatch.setenv("https_proxy", server.url)
            transport = Transport("https://platform.invalid")
            while not server.requests:  # the second may be over before it is sent
                assert seconds(lambda: failure(transport, timeout=1)) < SOON

    def test_a_server_that_ends_the_handshake_is_a_broken_connection(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def hang_up() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)

            thread = threading.Thread(target=hang_up)
            thread.start()
            error = failure(Transport(f"https://127.0.0.1:{listener.getsockname()[1]}"))
            thread.join()
        assert (error.kind, error.unsent) == ("connection", True)


class TestProxies:
    @pytest.fixture
    def through(self, proxy, monkeypatch):
        """A transport to a host that only the proxy of the environment can reach."""
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        return lambda url: Transport(url, {"X-Agentscope-Key": CANARY, **JSON})

    def test_a_request_goes_through_the_proxy_with_its_whole_url(self, through, proxy):
        proxy.set("status", code=200, body=b"{}")
        assert post(through("http://platform.invalid:8000")).status == 200
        assert proxy.requests[0].target == "http://platform.invalid:8000/api/ingest/run"

    def test_an_answer_that_drips_through_the_proxy_ends_in_time(self, through, proxy):
        transport = through("http://platform.invalid:8000")
        post(transport)
        proxy.set("drip", interval=0.05, commit=False)
        assert seconds(lambda: TestDeadline().expect_timeout(transport)) < SOON

    def test_a_tunnel_that_drips_ends_in_time_and_sent_nothing(self, through, proxy):
        proxy.set("drip", interval=0.05, part="head", commit=False)
        transport = through("https://platform.invalid")
        while not proxy.requests:  # the second may be over before it is sent
            assert seconds(lambda: TestTLS.expect_not_connected(transport)) < SOON
        assert proxy.requests[0].method == "CONNECT"

    def test_a_proxy_that_refuses_the_tunnel_certainly_sent_nothing(self, through, proxy):
        proxy.set("status", code=407)
        error = failure(through("https://platform.invalid"))
        assert (error.kind, error.unsent) == ("connection", True)
        assert error.sentence == "platform.invalid:443: the proxy does not let it through"
        assert all(CANARY not in str(request) for request in proxy.requests)


def test_closing_ends_an_attempt_that_another_thread_is_at() -> None:
    found: list[Response | Failure] = []
    with HangServer() as server:
        transport = Transport(server.url)
        thread = threading.Thread(target=lambda: found.append(transport.send("POST", "/", b"{}", timeout=600)))
        thread.start()
        until(lambda: server.counts["hang"])
        transport.close()
        thread.join(60)
    assert isinstance(found[0], Failure)
    assert not found[0].unsent
