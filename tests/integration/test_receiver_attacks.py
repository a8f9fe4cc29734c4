"""The receiver under attack: whatever is sent, it is refused in order, nothing is stored or told, and others are served."""

from __future__ import annotations

import hmac
import json
import logging
import sqlite3
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentscope.protocols.agentscope.fields import MAX_TEXT
from agentscope.server.http import keys
from agentscope.server.read import pages
from agentscope.server.receiver import Receiver
from tests.support.hostile_clients import head
from tests.support.receiver import Client, connect, envelope, raw, read_all, run_start, step

pytestmark = pytest.mark.long

JSON_ROUTES = (("POST", "/api/ingest/batch"), ("POST", "/api/ingest/run"), ("POST", "/v1/traces"), ("POST", "/history"))
WRITING = (*JSON_ROUTES, ("POST", "/api/public/otel/v1/traces"), ("POST", "/history-events"))
KEY = "ask_the_kéy"
VOLT = {"x_public_key": "p", "x_secret_key": "s"}
EVIL = (
    "<script>alert(1)</script>",
    "</script></pre></title><img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "javascript:alert(1)",
    "__proto__",
    "constructor",
    "\u202edesrever",
    "\x1b[31mred\x07",
    "{{7*7}}${7*7}",
    "' onmouseover='alert(1)",
    "\u2028\u2029",
)
# Over HTTP and with a database below, a property costs milliseconds an example.
over_http = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(db=tmp_path_factory.mktemp("open") / "runs.db") as running:
        Client(running.url).batch(run_start("50%_off", agent_name="a\\b"), run_start("plain"))
        yield running


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(db=tmp_path_factory.mktemp("locked") / "runs.db", api_key=KEY) as running:
        yield running


@pytest.fixture
def client(receiver: Receiver) -> Client:
    return Client(receiver.url)


@pytest.fixture
def unchanged(receiver: Receiver) -> Iterator[None]:
    before = Client(receiver.url).get("/health").json
    yield
    assert Client(receiver.url).get("/health").json == before


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("route", [*JSON_ROUTES, ("POST", "/login"), ("PATCH", "/history/plain")])
@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: -1",
        "Content-Length: +5",
        "Content-Length: 1_0",
        "Content-Length: ٥",
        "Content-Length: 0x5",
        "Content-Length: 5.0",
        "Content-Length: 5 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding : chunked",
        "X-Nothing: 1",
    ],
)
def test_a_length_that_can_be_read_in_two_ways_is_refused_and_the_connection_closed(
    receiver: Receiver, route: tuple[str, str], lines: str
) -> None:
    kind = "application/x-www-form-urlencoded" if route[1] == "/login" else "application/json"
    smuggled = "GET /api/runs HTTP/1.1\r\nHost: {host}\r\n\r\n"
    keys = "X-Agentscope-Key: k\r\nX-Public-Key: k\r\nX-Secret-Key: k"
    request = f"{route[0]} {route[1]} HTTP/1.1\r\nHost: {{host}}\r\n{keys}\r\nContent-Type: {kind}\r\n{lines}\r\n\r\n"
    answer = raw(receiver.url, (request + "0\r\n\r\n" + smuggled * (lines != "X-Nothing: 1")).encode())
    assert answer.split(b" ", 2)[1] in (b"400", b"411", b"501")
    assert b'"runs"' not in answer


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("method", "path"), WRITING)
@given(
    body=st.binary(max_size=300) | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(repr).map(str.encode)
)
@over_http
def test_no_body_of_any_bytes_is_a_fault_of_the_receiver(client: Client, method: str, path: str, body: bytes) -> None:
    answer = client.send(method, path, body, **VOLT)
    assert 400 <= answer.status < 500 or (answer.status, path[-6:]) == (200, "traces")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("method", "path"), JSON_ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b'{"events": NaN}',
        b'{"events": Infinity}',
        b"9" * 50_000,
        b'"\xff\xfe"',
        b'"\xed\xa0\x80"',
    ],
    ids=["lists", "objects", "nan", "infinity", "digits", "bytes", "surrogate"],
)
def test_json_that_is_none_is_refused_by_every_protocol(client: Client, method: str, path: str, body: bytes) -> None:
    assert 400 <= client.send(method, path, body, **VOLT).status < 500


@given(q=st.text(max_size=20), status=st.text(max_size=20), cursor=st.text(max_size=20), limit=st.text(max_size=5))
@over_http
def test_no_query_is_a_fault_of_the_receiver(client: Client, q: str, status: str, cursor: str, limit: str) -> None:
    query = urlencode({"q": q, "agent": q, "status": status, "cursor": cursor, "limit": limit}, errors="replace")
    for path in ("/", "/api/runs"):
        assert client.get(f"{path}?{query}").status in (200, 422)


@given(q=st.text(st.sampled_from("%_\\'\"*?[]a50fpl "), min_size=1, max_size=6))
@over_http
def test_a_search_text_is_taken_literally(client: Client, q: str) -> None:
    found = {run["id"] for run in client.get(f"/api/runs?{urlencode({'q': q})}").json["runs"]}
    expected = {"50%_off": "50%_off a\\b", "plain": "plain tester"}
    assert found == {
        run_id for run_id, words in expected.items() if any(q.lower() in word for word in words.split(" "))
    }


@pytest.mark.parametrize(
    "attack",
    ["' OR 1=1 --", "x'; DROP TABLE events; --", "1) UNION SELECT body FROM events --", "\0", "%", "a\u0000' --"],
)
def test_an_id_with_sql_in_it_is_an_id(client: Client, attack: str) -> None:
    for path in (f"/api/runs/{quote(attack, safe='')}", f"/runs/{quote(attack, safe='')}"):
        assert client.get(path).status == 404
    assert client.send("PATCH", f"/api/ingest/run/{quote(attack, safe='')}", {"status": "failed"}).status == 404
    assert client.get("/api/runs").json["runs"]


@pytest.mark.parametrize("prefix", ["", "/static", "/static/style.css", "/runs", "/api/runs"])
@pytest.mark.parametrize(
    "way",
    ["/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "/..\\..\\etc\\passwd", "//etc/passwd",
     "/%00/etc/passwd", "/file:///etc/passwd", "/\\\\host\\share", "/..;/etc/passwd", "/%252e%252e/etc/passwd"],
)  # fmt: skip
def test_no_path_leads_to_a_file(receiver: Receiver, prefix: str, way: str) -> None:
    answer = raw(receiver.url, f"GET {prefix}{way} HTTP/1.1\r\nHost: {{host}}\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] in (b"400", b"404")
    assert b"root:" not in answer


@given(host=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30))
@over_http
def test_no_host_but_its_own_is_served(receiver: Receiver, host: str) -> None:
    own = receiver.url[7:]
    for name in (host, f"{own}.{host}", f"{host}.{own}", f"{host}@{own}", f"{own}@{host}", f"{own},{host}"):
        assert Client(receiver.url).get("/api/runs", host=name).status in (421, 400)


@pytest.mark.parametrize(
    "target", ["http://{own}/api/runs", "http://evil.example/api/runs", "//evil.example/api/runs", "*"]
)
def test_a_host_in_the_target_does_not_stand_for_the_header(receiver: Receiver, target: str) -> None:
    target = target.format(own=receiver.url[7:])
    answer = raw(receiver.url, f"GET {target} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith((b"HTTP/1.1 421", b"HTTP/1.1 400"))
    twice = raw(
        receiver.url, b"GET /api/runs HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    )
    assert twice.startswith((b"HTTP/1.1 421", b"HTTP/1.1 400"))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("method", "path"), [*WRITING, ("POST", "/login"), ("PATCH", "/history/plain")])
@pytest.mark.parametrize(
    "stranger", [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec_fetch_site": "cross-site"}]
)
def test_no_page_of_others_can_write(client: Client, method: str, path: str, stranger: dict[str, str]) -> None:
    answer = client.send(method, path, {"agent_name": "x"}, **VOLT, **stranger)
    assert answer.status == 403
    asked = client.send("OPTIONS", path, None, access_control_request_method=method, **stranger)
    assert asked.status == 403
    assert not [name for name in (*answer.headers, *asked.headers) if name.startswith("access-control")]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
)
def test_what_a_form_of_another_page_can_send_is_no_body(client: Client, kind: str | None) -> None:
    for method, path in WRITING:
        assert client.send(method, path, envelope(step()), content_type=kind, **VOLT).status == 415


@pytest.mark.parametrize(
    "key", ["", "x" * 10_000, "ключ".encode().decode("latin-1"), "é\xff", "ask_the_k", "Basic ::", "Bearer"]
)
def test_no_key_is_a_fault_of_the_receiver_and_none_but_the_right_one_is_good(locked: Receiver, key: str) -> None:
    client = Client(locked.url, key)
    headers = {"x_public_key": key, "x_secret_key": key, "authorization": key, "x_api_key": key, "cookie": f"a={key}"}
    for method, path in WRITING:
        assert client.send(method, path, envelope(step()), **headers).status == 401
    assert client.get("/api/runs", **headers).status == 401


def test_keys_are_compared_in_constant_time_and_as_bytes(locked: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((type(one), type(other)))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(keys, "compare_digest", compare)
    client = Client(locked.url, "ask_the_wrong_one")
    for method, path in WRITING:
        before = len(compared)
        assert client.send(method, path, envelope(), authorization="Bearer é", **VOLT).status == 401
        assert len(compared) > before
    client.get("/api/runs")
    client.get("/api/runs", x_agentscope_key=None, cookie=f"agentscope_{locked.url.rpartition(':')[2]}=é")
    form = {"content_type": "application/x-www-form-urlencoded"}
    assert client.send("POST", "/login", "key=%C3%A9", **form).status == 401
    assert len(compared) >= len(WRITING) + 3
    assert set(compared) == {(bytes, bytes)}


@pytest.mark.parametrize("form", ["a=1&" * 50, "key=a&" * 50, "=&=;&&%", "%", "key", "\xff\xff", "key=%FF%FE%00"])
def test_no_form_is_a_fault_of_the_receiver(locked: Receiver, form: str) -> None:
    answer = Client(locked.url).send(
        "POST", "/login", form.encode("latin-1"), content_type="application/x-www-form-urlencoded"
    )
    assert answer.status == 401


class Markup(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


@pytest.mark.parametrize("evil", EVIL)
def test_a_stored_script_stays_text_in_every_place_of_every_page(tmp_path: Path, evil: str) -> None:
    names = dict.fromkeys(("agent_name", "status", "external_id", "user_id", "conversation_id", "source"), evil)
    nested = {evil: [evil, {"__proto__": {evil: evil}}]}
    texts = dict.fromkeys(("input", "output", "error", "meta_data", "usage"), nested)
    with Receiver(db=tmp_path / "runs.db") as receiver:
        client = Client(receiver.url)
        client.batch(run_start(evil, tags=[evil], **names, **texts), dropped=[{"reason": evil, "count": 1}])
        client.batch(step(evil, step_id=evil, parent_id=evil * 2, name=evil, step_type=evil, truncated=[evil], **texts))
        shown = [
            client.get(path) for path in ("/", f"/?{urlencode({'q': evil})}", f"/runs/{quote(evil, safe='')}", "/login")
        ]
        told = client.get(f"/api/runs/{quote(evil, safe='')}")
    for answer in shown:
        page = answer.body.decode()
        markup = Markup(page)
        assert not markup.tags & {"script", "img", "svg", "iframe", "style", "object", "base", "embed"}
        assert not [name for name, _ in markup.attributes if name.startswith("on") or name in ("style", "srcdoc")]
        links = [value or "" for name, value in markup.attributes if name in ("href", "src", "action")]
        assert all(link.startswith("/") and not link.startswith("//") for link in links)
        assert not {"\x1b", "\x07", "\u202e", "\u2028"} & set(page)
        assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert told.json["input"] == texts["input"]
    assert (told.headers["content-type"], told.headers["x-content-type-options"]) == ("application/json", "nosniff")


def test_what_is_written_out_at_length_does_not_blow_up_a_page(tmp_path: Path) -> None:
    unseen = "\u200b" * pages.MAX_CELL  # each is shown by its number, in 34 characters
    with Receiver(db=tmp_path / "runs.db") as receiver:
        client = Client(receiver.url)
        client.batch(run_start(tags=["t"] * 10_000), *(step(input=unseen, output=unseen) for _ in range(10)))
        page = client.get("/runs/run-1").body
    assert len(page) < pages.MAX_PAYLOADS + 2_000_000
    assert b"left out here; it is in the JSON" in page


def test_deep_values_do_not_blow_up_a_page_by_their_indents(tmp_path: Path) -> None:
    deep: object = [0] * 100_000
    for _ in range(55):
        deep = [deep]
    with Receiver(db=tmp_path / "runs.db") as receiver:
        Client(receiver.url).batch(run_start(input=deep))
        assert len(Client(receiver.url).get("/runs/run-1").body) < 2 * pages.MAX_CELL


def test_the_names_of_runs_do_not_blow_up_a_list(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "runs.db") as receiver:
        client = Client(receiver.url)
        client.batch(run_start(agent_name="n" * 1_000_000, user_id="u" * 1_000_000))
        answer = client.get("/api/runs")
        whole = client.get("/api/runs/run-1/events").json["events"][0]
    assert answer.json["runs"][0]["agent_name"].startswith("nnn")
    assert len(answer.body) < 5000
    assert len(whole["agent_name"]) == MAX_TEXT


def test_nothing_from_outside_gets_into_the_log_unescaped(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for request in (b"\x1b[2J\r\n\r\n", b"GET /\x1b[31m HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" + bytes(100)):
        raw(receiver.url, request)
    with connect(receiver.url) as connection:
        connection.sendall(
            head(receiver.url, "GET", "/health", "Upgrade: websocket", "Connection: Upgrade, close") + b"\r\n"
        )
        assert read_all(connection).startswith(b"HTTP/1.1 200")
    assert "\x1b" not in caplog.text


def test_a_key_in_a_header_is_never_stored(locked: Receiver, tmp_path: Path) -> None:
    key = KEY.encode().decode("latin-1")
    client = Client(locked.url, key)
    assert client.batch(step()).status == 200
    assert client.send("POST", "/v1/traces", {"resourceSpans": []}, authorization=f"Bearer {key}").status == 200
    db = sqlite3.connect(locked.store.path)
    rows = [json.dumps(row) for table in ("events", "runs", "batches") for row in db.execute(f"SELECT * FROM {table}")]
    db.close()
    assert rows
    assert not [row for row in rows if "ask_the" in row]
