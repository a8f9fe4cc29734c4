"""The names, origins and proxies by which a receiver is reached."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.errors import ConfigurationError
from agentscope.server.http.addressing import Addressing


def request(path: str = "/", peer: str = "192.0.2.1", **headers: str) -> dict[str, Any]:
    """The scope of a request to port 8000 of 10.0.0.5."""
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "headers": pairs,
        "client": (peer, 40000),
        "server": ("10.0.0.5", 8000),
    }


@pytest.mark.parametrize("name", ["box", "BOX", "traces.example.com", "192.0.2.7", "2001:db8::7", "[2001:db8::7]"])
@pytest.mark.parametrize("port", ["", ":443", ":9000"])
def test_a_name_without_a_port_is_allowed_at_any_port(name: str, port: str) -> None:
    host = f"[{name}]" if name.count(":") > 1 and name[0] != "[" else name
    assert Addressing([name]).serves(host + port, request())
    assert not Addressing([name]).serves(f"x{host}{port}", request())


def test_a_name_with_a_port_is_allowed_at_that_port_only() -> None:
    addressing = Addressing(["box:9000"])
    assert addressing.serves("box:9000", request())
    assert not addressing.serves("box", request())
    assert not addressing.serves("box:8000", request())


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:8000", "10.0.0.5:8000"])
def test_names_of_loopback_and_the_address_of_the_connection_need_no_option(host: str) -> None:
    assert Addressing().serves(host, request())


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "10.0.0.5:9000",
        "10.0.0.6:8000",
        "0x7f000001",
        "localhost:",
        "localhost:8000:8000",
        "a@localhost",
        "localhost/",
        "loc\u00e0lhost",
    ],
)
def test_another_name_is_refused(host: str) -> None:
    assert not Addressing(["box"]).serves(host, request())


def test_a_star_allows_every_name_and_every_origin_and_needs_a_key() -> None:
    addressing = Addressing(["*"], ["*"])
    assert addressing.serves("anything.example:99", request())
    assert not addressing.serves("a@anything.example", request())
    assert addressing.may_send("https://app.example.com")
    for options in ({"hosts": ["*"]}, {"origins": ["*"]}):
        with pytest.raises(ConfigurationError, match="with a key"):
            Addressing(**options, has_key=False)


@pytest.mark.parametrize(
    ("origin", "host", "hosts", "is_own"),
    [
        ("http://localhost:8000", "localhost:8000", [], True),
        ("http://localhost:9000", "localhost:9000", [], True),  # a forwarded port
        ("http://127.0.0.1:8000", "localhost:8000", [], True),
        ("http://localhost:3000", "localhost:8000", [], False),  # another program on this machine
        ("https://localhost:8000", "localhost:8000", [], False),
        ("https://localhost:8443", "localhost:8443", ["localhost:8443"], True),
        ("https://traces.example.com", "traces.example.com", ["traces.example.com"], True),
        ("https://traces.example.com", "127.0.0.1:8000", ["traces.example.com"], True),  # the proxy changed the host
        ("http://traces.example.com", "traces.example.com", ["traces.example.com"], True),
        ("https://traces.example.com:8443", "traces.example.com:8443", ["traces.example.com"], True),
        ("https://traces.example.com:3000", "traces.example.com", ["traces.example.com"], False),
        ("https://traces.example.com", "traces.example.com", ["*"], True),
        ("https://evil.example", "traces.example.com", ["*"], False),
        ("https://evil.example", "traces.example.com", ["traces.example.com"], False),
        ("https://traces.example.com.evil.example", "traces.example.com", ["traces.example.com"], False),
        ("ftp://localhost:8000", "localhost:8000", [], False),
        ("null", "localhost:8000", ["*"], False),
        ("", "localhost:8000", ["*"], False),
    ],
)
def test_the_receivers_own_pages_are_told_from_those_of_others(
    origin: str, host: str, hosts: list[str], is_own: bool
) -> None:
    assert Addressing(hosts).is_own_origin(origin, host, request()) is is_own


def test_behind_a_trusted_proxy_pages_at_https_are_its_own() -> None:
    addressing = Addressing(["box"], proxies=["192.0.2.1"])
    scope = request(host="box:8443", x_forwarded_proto="https")
    addressing.resolve(scope)
    assert addressing.is_own_origin("https://box:8443", "box:8443", scope)
    assert not addressing.is_own_origin("https://box:9443", "box:8443", scope)


FORWARDED = {
    "host": "127.0.0.1:8000",
    "x_forwarded_for": "203.0.113.9, 198.51.100.4",
    "x_forwarded_proto": "https",
    "x_forwarded_host": "traces.example.com",
    "x_forwarded_prefix": "/agentscope/",
}


def test_forwarded_headers_of_a_trusted_proxy_are_believed() -> None:
    scope = request("/agentscope/runs/1", peer="10.1.2.3", **FORWARDED)
    assert Addressing(proxies=["10.0.0.0/8"]).resolve(scope) == "/agentscope"
    assert (scope["path"], scope["raw_path"]) == ("/runs/1", b"/runs/1")
    assert scope["client"][0] == "198.51.100.4"
    assert scope["scheme"] == "https"
    assert [value for name, value in scope["headers"] if name == b"host"] == [b"traces.example.com"]


@pytest.mark.parametrize("proxies", [[], ["10.9.0.0/16"], ["::1"]])
def test_forwarded_headers_of_anybody_else_are_ignored(proxies: list[str]) -> None:
    scope = request("/agentscope/runs/1", peer="10.1.2.3", **FORWARDED)
    before = {**scope, "headers": [*scope["headers"]]}
    assert Addressing(proxies=proxies).resolve(scope) == ""
    assert scope == before


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("203.0.113.9:5000", "203.0.113.9"),
        ("[2001:db8::9]:5000", "2001:db8::9"),
        ("1.1.1.1, 203.0.113.9, 10.1.1.1", "203.0.113.9"),  # the sender wrote the first one
        ("203.0.113.9, unknown", "10.1.2.3"),
        ("<script>", "10.1.2.3"),
        ("", "10.1.2.3"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_no_proxy(forwarded: str, client: str) -> None:
    scope = request(peer="10.1.2.3", x_forwarded_for=forwarded)
    Addressing(proxies=["10.0.0.0/8"]).resolve(scope)
    assert scope["client"][0] == client


@pytest.mark.parametrize("prefix", ["agentscope", "//evil.example", "/a/../b?", '/"onload=', "/a b", "/\u00e9"])
def test_a_forwarded_prefix_that_is_no_path_is_ignored(prefix: str) -> None:
    scope = request(peer="10.1.2.3")
    scope["headers"] = [(b"x-forwarded-prefix", prefix.encode())]
    assert Addressing(proxies=["10.0.0.0/8"]).resolve(scope) == ""


@pytest.mark.parametrize(
    ("path", "inside"),
    [("/agentscope/runs/1", "/runs/1"), ("/agentscope", "/"), ("/runs/1", "/runs/1"), ("/agentscopes", "/agentscopes")],
)
def test_a_prefix_may_be_taken_off_by_the_proxy_or_left(path: str, inside: str) -> None:
    scope = request(path)
    assert Addressing(root_path="/agentscope/").resolve(scope) == "/agentscope"
    assert scope["path"] == inside


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("hosts", "https://traces.example.com"),
        ("hosts", "two words"),
        ("hosts", ""),
        ("hosts", "*.example.com"),
        ("origins", "app.example.com"),
        ("origins", "https://app.example.com/page"),
        ("proxies", "proxy.example.com"),
        ("proxies", "10.0.0.0/99"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(option: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match="takes"):
        Addressing(**{option: [value]})


@pytest.mark.parametrize("path", ["agentscope", "/a b", "//x", "https://x/y", "/a/../b?c"])
def test_a_root_path_is_a_path(path: str) -> None:
    with pytest.raises(ConfigurationError, match="root-path takes"):
        Addressing(root_path=path)


HOSTILE = st.text(st.sampled_from("localhost127.:[]/@%*-_ex\x00 \xe9"), max_size=30) | st.text(max_size=20)
ALLOWED = {"localhost", "127.0.0.1", "[::1]", "box"}


@given(host=HOSTILE, origin=HOSTILE)
def test_no_text_passes_for_a_name_that_is_not_allowed(host: str, origin: str) -> None:
    addressing = Addressing(["box"])
    if addressing.serves(host, request()):
        name = host.lower()
        assert name in ALLOWED or name.rpartition(":")[0] in ALLOWED
    for scheme in ("http://", "https://", ""):
        if addressing.is_own_origin(scheme + origin, host, request()):
            found = origin.lower()
            assert found == host.lower() or found in ALLOWED or found.rpartition(":")[0] in ALLOWED


@given(values=st.lists(HOSTILE, max_size=3))
def test_no_forwarded_header_breaks_a_request(values: list[str]) -> None:
    scope = request("/a", peer="10.1.2.3")
    names = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-prefix")
    scope["headers"] = [(n.encode(), v.encode("utf-8", "replace")) for n in names for v in values]
    Addressing(proxies=["10.0.0.0/8"]).resolve(scope)
    assert scope["scheme"] in ("http", "https")
    assert scope["path"].startswith("/")
