"""Access to the receiver, and the rights that its answers give a browser."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentscope.errors import ConfigurationError
from agentscope.server.http.addressing import Addressing
from agentscope.server.http.guard import Guard
from agentscope.server.http.keys import Keys
from agentscope.server.receiver import Receiver, is_loopback
from tests.support.receiver import Client, envelope, raw, run_start, step

KEY = "ask_canary_kéy"
ROUTES = ("/", "/health", "/api/runs", "/api/runs/run-1", "/api/runs/run-1/events", "/runs/run-1", "/login")


@pytest.fixture
def open_one(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(db=tmp_path / "open.db") as running:
        yield running


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(db=tmp_path / "locked.db", api_key=KEY) as running:
        yield running


def latin(text: str) -> str:
    """The header value whose bytes are this text in UTF-8."""
    return text.encode().decode("latin-1")


@pytest.mark.parametrize("route", [*ROUTES, "/static/style.css", "/nothing"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.localhost",
        "192.0.2.7:{port}",
        "127.0.0.1.evil.example:{port}",
        "user@{own}",
        "localhost:x",
    ],
)
def test_a_foreign_host_is_refused_on_every_route(open_one: Receiver, route: str, host: str) -> None:
    own = open_one.url[7:]
    host = host.format(own=own, port=own.rpartition(":")[2])
    assert Client(open_one.url).get(route, host=host).status == 421


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_the_names_of_loopback_are_good_hosts_at_any_port(open_one: Receiver, name: str) -> None:
    for port in (open_one.url[open_one.url.rindex(":") :], ":1", ":9000", ""):
        assert Client(open_one.url).get("/health", host=name + port).status == 200


def test_a_request_without_a_host_is_refused(open_one: Receiver) -> None:
    assert raw(open_one.url, b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://{own}"},
        {"origin": "http://{own}.evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "Cross-Site"},
    ],
)
def test_requests_from_pages_of_others_are_refused(open_one: Receiver, headers: dict[str, str]) -> None:
    given = {name: value.format(own=open_one.url[7:]) for name, value in headers.items()}
    client = Client(open_one.url)
    assert client.get("/api/runs", **given).status == 403
    assert client.send("POST", "/api/ingest/batch", envelope(step()), **given).status == 403
    assert client.events() == 0


def test_requests_from_its_own_pages_are_served(open_one: Receiver) -> None:
    assert Client(open_one.url).get("/api/runs", origin=open_one.url, sec_fetch_site="same-origin").status == 200


def test_a_link_on_another_site_may_lead_to_a_page(open_one: Receiver) -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert Client(open_one.url).get("/", **link).status == 200
    assert Client(open_one.url).get("/", sec_fetch_site="cross-site", sec_fetch_mode="no-cors").status == 403


@pytest.mark.parametrize("path", ["/login/", "/health/", "/metrics/", "/api/runs"])
def test_a_slash_at_the_end_leads_nowhere_else(open_one: Receiver, path: str) -> None:
    answer = Client(open_one.url).get(path)
    assert (answer.status, answer.headers.get("location")) == (404 if path.endswith("/") else 200, None)


@pytest.mark.parametrize("route", [*ROUTES, "/nothing"])
def test_every_answer_carries_the_security_headers_and_none_of_cors(open_one: Receiver, route: str) -> None:
    headers = Client(open_one.url).get(route).headers
    policy = headers["content-security-policy"]
    for rule in ("default-src 'none'", "style-src 'self'", "script-src 'self'", "img-src 'self'", "form-action 'self'"):
        assert rule in policy
    assert "frame-ancestors 'none'" in policy
    assert "base-uri 'none'" in policy
    assert "unsafe" not in policy
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "same-origin")
    assert headers["cache-control"] == "no-store"
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize("key", ["", "wrong", "ask_canary_key", latin("ключ"), "é", latin(KEY) + "x"])
def test_a_wrong_key_is_refused_and_stores_nothing(locked: Receiver, key: str) -> None:
    client = Client(locked.url, key)
    assert client.batch(step()).status == 401
    assert client.get("/api/runs").status == 401
    assert "events" not in client.get("/health").json
    assert Client(locked.url, latin(KEY)).events() == 0


def test_the_right_key_opens_ingest_and_reading(locked: Receiver) -> None:
    client = Client(locked.url, latin(KEY))
    assert client.batch(run_start()).status == 200
    assert client.get("/api/runs/run-1").status == 200
    assert client.get("/api/runs/run-1/events").status == 200


def test_without_the_key_the_api_is_closed_and_the_pages_ask_for_it(locked: Receiver) -> None:
    client = Client(locked.url)
    for route in ("/api/runs", "/api/runs/x", "/api/runs/x/events"):
        assert client.get(route, x_agentscope_key=None).status == 401
    for route in ("/", "/runs/x"):
        answer = client.get(route, x_agentscope_key=None)
        assert (answer.status, answer.headers["location"]) == (303, "/login")
    assert b'type="password"' in client.get("/login", x_agentscope_key=None).body


def log_in(receiver: Receiver, key: str) -> tuple[int, str]:
    form = {"content_type": "application/x-www-form-urlencoded", "x_agentscope_key": None, "origin": receiver.url}
    answer = Client(receiver.url).send("POST", "/login", f"key={key}", **form)
    return answer.status, answer.headers.get("set-cookie", "")


def test_a_login_gives_a_cookie_that_opens_the_pages_and_is_not_the_key(locked: Receiver) -> None:
    status, cookie = log_in(locked, "ask_canary_k%C3%A9y")
    assert status == 303
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "canary" not in cookie
    client = Client(locked.url)
    pair = cookie.partition(";")[0]
    for route in ("/", "/api/runs"):
        assert client.get(route, x_agentscope_key=None, cookie=pair).status == 200
        assert client.get(route, x_agentscope_key=None, cookie=pair + "x").status in (303, 401)
        assert client.get(route, x_agentscope_key=None, cookie='a="\x01";;=').status in (303, 401)
        assert client.get(route, x_agentscope_key=None, cookie=pair.partition("=")[0] + '="\\351"').status in (303, 401)
    assert client.send("POST", "/api/ingest/batch", envelope(step()), x_agentscope_key=None, cookie=pair).status == 422


@pytest.mark.parametrize("key", ["", "wrong", "%FF%00"])
def test_a_login_with_a_wrong_key_is_refused(locked: Receiver, key: str) -> None:
    assert log_in(locked, key) == (401, "")


def test_the_key_is_in_no_repr_log_page_or_answer(locked: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = Client(locked.url, latin(KEY))
    seen = [client.get(route).body.decode() for route in ROUTES]
    seen += [repr(locked), repr(Keys(KEY)), caplog.text, client.batch(step()).body.decode()]
    assert not [text for text in seen if "canary" in text]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_a_host_that_others_can_reach_needs_a_key(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigurationError, match="api_key"):
        Receiver(host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LocalHost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("options", [{"api_key": ""}, {"retention_days": 0}, {"retention_days": float("nan")}])
def test_options_that_cannot_be_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Receiver(**options)


def test_a_receiver_on_all_addresses_answers_to_the_address_it_was_reached_by(tmp_path: Path) -> None:
    with Receiver("0.0.0.0", db=tmp_path / "a.db", api_key="k", allowed_hosts=["box.example", "box.example:99"]) as one:
        port = one.url.rpartition(":")[2]
        assert one.url.startswith("http://127.0.0.1:")
        client = Client(one.url, "k")
        for host, status in (
            (f"127.0.0.1:{port}", 200),
            (f"box.example:{port}", 200),
            ("box.example:99", 200),
            ("box.example", 200),
            ("box.example:98", 200),
            ("other.box.example", 421),
            (f"192.0.2.7:{port}", 421),
        ):
            assert client.get("/health", host=host).status == status
        other = f"http://127.0.0.2:{port}"
        assert Client(other, "k").get("/health").status == 200


def test_a_receiver_on_ipv6_loopback_has_a_bracketed_address(tmp_path: Path) -> None:
    with Receiver("::1", db=tmp_path / "a.db") as receiver:
        assert receiver.url.startswith("http://[::1]:")
        assert Client(receiver.url).get("/health").status == 200


def test_a_cookie_that_is_none_opens_nothing() -> None:
    scope = {"type": "http", "headers": [(b"cookie", b"a\x00=b; =;[]=1")], "server": None}
    assert not Keys("k").may_read(scope)


def test_the_guard_lets_pass_what_is_no_request() -> None:
    passed = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    asyncio.run(Guard(app, Addressing(), "gzip")({"type": "lifespan"}, _nothing, _nothing))
    assert passed == ["lifespan"]


@pytest.mark.parametrize("server", [None, ("/run/socket", None), ("receiver.example", 80)])
def test_only_the_literal_address_of_a_connection_is_a_good_host_by_itself(server: Any) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"receiver.example:80")]}
    asyncio.run(Guard(_nothing, Addressing(), "gzip")({**scope, "server": server}, _nothing, send))
    assert sent[0]["status"] == 421


async def _nothing(*_: Any) -> Any:
    return None


def test_localhost_may_be_given_by_name(tmp_path: Path) -> None:
    with Receiver("localhost", db=tmp_path / "a.db") as receiver:
        assert receiver.url.startswith("http://localhost:")
        assert Client(receiver.url).get("/health").status == 200
