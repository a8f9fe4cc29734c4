"""The transport with a mocked server: its requests, its answers, and the text of its errors."""

from __future__ import annotations

import http.client
import queue

import pytest
import requests
import responses
import urllib3

from agentscope.exporters.http import deadline
from agentscope.exporters.http.deadline import Adapter
from agentscope.exporters.http.session import Session
from agentscope.exporters.http.transport import Transport
from agentscope.exporters.http.url import is_loopback, target_of
from agentscope.protocols.base import Failure
from tests.support.program import run_program

URL = "http://platform.example:8000"
CANARY = "ask_canary_0123456789"


@pytest.fixture
def server():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def transport():
    opened = Transport(URL + "/", {"X-Agentscope-Key": CANARY})
    yield opened
    opened.close()


def failure(transport, *args, **kwargs) -> Failure:
    reply = transport.send(*args, **kwargs)
    assert isinstance(reply, Failure), reply
    return reply


def test_a_request_carries_its_headers_its_body_and_asks_for_no_compression(server, transport):
    server.post(URL + "/a/b", status=201, body=b'{"x":1}', headers={"Retry-After": "3"})
    reply = transport.send("POST", "/a/b", b"[1]", {"Content-Type": "application/json"}, 5)
    assert (reply.status, reply.body, reply.headers["retry-after"]) == (201, b'{"x":1}', "3")
    request = server.calls[0].request
    assert request.body == b"[1]"
    assert {name: request.headers[name] for name in ("X-Agentscope-Key", "Content-Type", "Accept-Encoding")} == {
        "X-Agentscope-Key": CANARY,
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
    }
    assert request.headers["User-Agent"].startswith("agentscope-python/")


def test_a_redirect_is_an_answer_like_any_other(server, transport):
    server.post(URL + "/", status=307, headers={"Location": "http://other.example/"})
    assert transport.send("POST", "/").status == 307
    assert len(server.calls) == 1


def test_cookies_are_not_sent_back(server, transport):
    server.post(URL + "/", headers={"Set-Cookie": "session=1; Path=/"})
    for _ in range(2):
        transport.send("POST", "/")
    assert all("Cookie" not in call.request.headers for call in server.calls)


def test_netrc_does_not_add_credentials(server, transport, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine platform.example login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert requests.utils.get_netrc_auth(URL) == ("me", "secret")
    server.post(URL + "/")
    transport.send("POST", "/")
    assert "Authorization" not in server.calls[0].request.headers


def test_credentials_in_the_url_are_neither_sent_nor_shown(server):
    server.post(URL + "/", body=requests.ConnectionError("me:secret"))
    transport = Transport("http://me:secret@platform.example:8000")
    error = failure(transport, "POST", "/")
    assert "Authorization" not in server.calls[0].request.headers
    assert "secret" not in f"{error!r} {transport!r}"


def test_an_answer_of_64_kib_is_read_and_a_larger_one_refused(server, transport):
    server.post(URL + "/fits", body=b"x" * 65536)
    server.post(URL + "/not", body=b"x" * 65537)
    assert len(transport.send("POST", "/fits").body) == 65536
    assert failure(transport, "POST", "/not").kind == "too_large"


@pytest.mark.parametrize(
    ("raised", "kind", "unsent"),
    [
        (requests.ConnectionError("broken"), "connection", False),
        (requests.ReadTimeout("slow"), "timeout", False),
        (requests.ConnectTimeout("slow"), "timeout", True),
        (requests.exceptions.SSLError("bad"), "tls", False),
        (requests.exceptions.ProxyError("bad"), "connection", False),
        (requests.exceptions.InvalidURL("bad"), "protocol", True),
        (http.client.BadStatusLine("bad"), "protocol", False),
        (http.client.IncompleteRead(b"half"), "connection", False),
        (urllib3.exceptions.HTTPError("bad"), "connection", False),
        (MemoryError(), "connection", False),
    ],
)
def test_every_failure_is_named_and_tells_whether_the_request_may_have_arrived(server, transport, raised, kind, unsent):
    server.post(URL + "/", body=raised)
    error = failure(transport, "POST", "/")
    assert (error.kind, error.unsent) == (kind, unsent)


def test_a_failure_shows_neither_key_nor_path_nor_body(server, transport):
    server.post(URL + "/", body=requests.ConnectionError(f"{URL}/?token={CANARY}"))
    error = failure(transport, "POST", "/?token=query", b"payload")
    assert error == Failure("connection", "platform.example:8000: the request failed (ConnectionError)", unsent=False)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Key": f"{CANARY}\n"},
        {"X-Key": f"{CANARY}\r\nX-Other: 1"},
        {"X-Key": f" {CANARY}"},
        {"X-Key": f"{CANARY}\0"},
        {"X-Key": f"{CANARY}→"},
        {"X-Key": CANARY.encode()},
        {f"{CANARY}: x": "1"},
        {"": "1"},
        {3: "1"},
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_without_being_shown(server, headers):
    error = failure(Transport(URL, headers), "POST", "/")
    assert (error.kind, error.unsent) == ("protocol", True)
    assert CANARY not in repr(error)
    assert len(server.calls) == 0


def test_a_header_may_be_empty_or_hold_blanks_inside(server):
    server.post(URL + "/")
    Transport(URL, {"X-Empty": "", "X-Words": "two words"}).send("POST", "/")
    assert server.calls[0].request.headers["X-Words"] == "two words"


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_without_time_nothing_is_sent(server, transport, timeout):
    error = failure(transport, "POST", "/", timeout=timeout)
    assert (error.kind, error.unsent, len(server.calls)) == ("timeout", True, 0)


def test_a_transport_can_be_used_again_after_it_was_closed(server, transport):
    server.post(URL + "/")
    transport.close()
    transport.send("POST", "/")
    transport.close()
    assert transport.send("POST", "/").status == 200


def test_the_repr_names_the_host_and_no_header(transport):
    assert repr(transport) == "<Transport to platform.example:8000>"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h", "h:80"),
        ("https://h/path?query", "h:443"),
        ("https://u:p@h:1", "h:1"),
        ("http://[::1]:8", "::1:8"),
        ("http://", "?:80"),
        ("http://h:nonsense", "the backend"),
        ("http://[", "the backend"),
    ],
)
def test_a_target_is_host_and_port_and_nothing_else(url, target):
    assert target_of(url) == target


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000", True),
        ("http://app.localhost", True),
        ("https://127.0.0.1/path", True),
        ("http://127.8.8.8", True),
        ("http://[::1]:8000", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_loopback_is_this_machine_only(url, expected):
    assert is_loopback(url) is expected


class TestEnvironment:
    @pytest.fixture
    def arguments(self, monkeypatch):
        """The arguments of the adapter, one dictionary for each request."""
        seen = []

        def send(adapter, request, **kwargs):
            seen.append(kwargs)
            raise requests.ConnectionError

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
        for name in (
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "SSL_CERT_FILE",
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "NO_PROXY",
        ):
            monkeypatch.delenv(name, raising=False)
        return seen

    def test_a_proxy_of_the_environment_is_used_for_other_hosts(self, arguments, monkeypatch):
        monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
        failure(Transport("https://platform.example"), "POST", "/")
        assert arguments[0]["proxies"]["https"] == "http://proxy.example:3128"

    def test_no_proxy_is_honoured(self, arguments, monkeypatch):
        monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
        monkeypatch.setenv("no_proxy", "platform.example")
        failure(Transport("https://platform.example"), "POST", "/")
        assert arguments[0]["proxies"] == {}

    @pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
    def test_this_machine_is_never_reached_through_a_proxy(self, arguments, monkeypatch, host):
        monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
        failure(Transport(f"http://{host}"), "POST", "/")
        assert arguments[0]["proxies"] == {}

    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
    def test_a_ca_bundle_of_the_environment_is_used(self, arguments, monkeypatch, tmp_path, name):
        monkeypatch.setenv(name, str(tmp_path))
        failure(Transport("https://platform.example"), "POST", "/")
        assert arguments[0]["verify"] == str(tmp_path)

    def test_a_ca_bundle_that_does_not_exist_is_named_by_its_variable(self, arguments, monkeypatch):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/does/not/exist")
        error = failure(Transport("https://platform.example"), "POST", "/")
        assert (error.kind, error.unsent) == ("tls", True)
        assert "REQUESTS_CA_BUNDLE" in error.sentence
        assert arguments == []

    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
    @pytest.mark.parametrize("host", ["platform.example", "127.0.0.1"])
    def test_a_ca_bundle_does_not_matter_where_nothing_is_encrypted(self, arguments, monkeypatch, name, host):
        monkeypatch.setenv(name, "/does/not/exist")
        error = failure(Transport(f"http://{host}:8000"), "POST", "/")
        assert (error.kind, len(arguments)) == ("connection", 1)

    def test_a_ca_bundle_matters_on_the_way_to_a_proxy_that_is_reached_over_tls(self, arguments, monkeypatch):
        monkeypatch.setenv("http_proxy", "https://proxy.example:3128")
        monkeypatch.setenv("SSL_CERT_FILE", "/does/not/exist")
        error = failure(Transport("http://platform.example"), "POST", "/")
        assert (error.kind, arguments) == ("tls", [])
        assert "SSL_CERT_FILE" in error.sentence

    def test_the_bundle_is_that_of_the_moment_at_which_the_transport_is_made(self, arguments, monkeypatch, tmp_path):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path))
        transport = Transport("https://platform.example")
        monkeypatch.setenv("SSL_CERT_FILE", "/does/not/exist")
        failure(transport, "POST", "/")
        assert arguments[0]["verify"] == str(tmp_path)

    @pytest.mark.parametrize("value", ["", "0", "false"])
    def test_no_value_turns_verification_off(self, arguments, monkeypatch, value):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", value)
        monkeypatch.setenv("CURL_CA_BUNDLE", value)
        error = failure(Transport("https://platform.example"), "POST", "/")
        assert [kwargs["verify"] for kwargs in arguments] == ([True] if value == "" else [])
        assert error.kind == ("connection" if value == "" else "tls")

    def test_a_very_long_timeout_is_one_that_the_system_takes(self, arguments):
        failure(Transport(URL), "POST", "/", timeout=float("inf"))
        assert arguments[0]["timeout"] == 3600


def test_a_socks_proxy_keeps_its_own_connections(monkeypatch):
    monkeypatch.setattr(requests.adapters, "SOCKSProxyManager", lambda *args, **kwargs: urllib3.PoolManager())
    manager = Adapter(None, 4).proxy_manager_for("socks5://proxy.example:1080")
    assert manager.pool_classes_by_scheme == urllib3.PoolManager().pool_classes_by_scheme


def test_a_socks_proxy_without_its_library_says_which_one_is_missing(monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5h://proxy.example:1080")
    monkeypatch.setattr(requests.adapters, "SOCKSProxyManager", without_pysocks)
    error = failure(Transport(URL), "POST", "/")
    assert (error.kind, error.unsent) == ("setup", True)
    assert "pip install pysocks" in error.sentence


def without_pysocks(*args, **kwargs):
    """The stand-in of requests where PySocks is not installed."""
    raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")


def test_connections_are_shared_and_bounded():
    session = Session("http://127.0.0.1:1", max_connections=7)
    pool = session._adapter.poolmanager.connection_from_url("http://127.0.0.1:1")
    assert pool.pool.maxsize == 7
    with pytest.raises(queue.Full):
        pool.pool.put(None)
    assert [pool.pool.get() for _ in range(pool.pool.qsize())] == [None] * 7
    with pytest.raises(queue.Empty):
        pool.pool.get()
    session.close()


def test_importing_the_transport_does_not_import_the_http_library():
    result = run_program(
        """
        import json, sys
        from agentscope.exporters.http.transport import Transport
        transport = Transport("http://127.0.0.1:1")
        before = "requests" in sys.modules
        transport.warm_up()
        print(json.dumps([before, "requests" in sys.modules]))
        """
    )
    assert result.last_line_json == [False, True]


@pytest.mark.parametrize("kind", [deadline._Connection, deadline._TLSConnection])
def test_urllib3_asks_our_connections_for_their_socket_and_the_pools_for_our_queue(kind, monkeypatch):
    """Both are taken over where urllib3 has no public way; a version of it that asks elsewhere makes this fail."""

    class Asked(Exception):
        pass

    def dial(host, port, options):
        raise Asked(host, port)

    monkeypatch.setattr(deadline, "_dial", dial)
    with pytest.raises(Asked) as asked:
        kind("platform.example", 8443).connect()
    assert asked.value.args == ("platform.example", 8443)
    assert type(deadline._Pool("platform.example").pool) is deadline._Kept
