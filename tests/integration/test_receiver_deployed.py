"""A receiver that others reach: start, probes, drain, keys and roles, strangers, senders in browsers, metrics, backup."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agentscope.cli.main import main
from agentscope.server import receiver as serve
from agentscope.server.http.keys import ROLES, Key
from agentscope.server.receiver import Receiver
from agentscope.server.storage.sqlite.store import SQLiteStore
from tests.support.receiver import Answer, Client, connect, envelope, raw, read_all, receiver_process, run_start, step
from tests.support.wait import until

KEYS = [
    Key("agents", "ingest", secret=b"ask_agents"),
    Key("people", "read", secret=b"ask_people"),
    Key("boss", "admin", secret=b"ask_boss"),
]
FORM = {"content_type": "application/x-www-form-urlencoded", "x_agentscope_key": None}
OTLP = '{"resourceSpans": []}'
SENDING = [
    ("POST", "/api/ingest/batch", envelope(run_start()), {}),
    ("POST", "/api/ingest/run", {"agent_name": "a"}, {}),
    ("POST", "/v1/traces", OTLP, {}),
    ("POST", "/api/public/otel/v1/traces", OTLP, {}),
    ("POST", "/history", {"name": "a", "agent_id": "a"}, {"x_public_key": "any", "x_secret_key": "{key}"}),
]


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver with a key of each role."""
    with Receiver(db=tmp_path / "shared.db", keys=KEYS) as running:
        yield running


@pytest.fixture
def unforgiving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """The same, where wrong keys count for hours: the results do not depend on the speed of the machine."""
    monkeypatch.setattr("agentscope.server.read.login._PERIOD", 36_000.0)
    monkeypatch.setattr("agentscope.server.app._PERIOD", 36_000.0)
    with Receiver(db=tmp_path / "shared.db", keys=KEYS) as running:
        yield running


# Start, probes and drain


def test_while_its_database_is_opened_it_lives_and_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any, **options: Any) -> SQLiteStore:
        opening.set()
        assert go_on.wait(60)
        return SQLiteStore(*arguments, **options)

    monkeypatch.setattr(serve, "SQLiteStore", slow)
    receiver = Receiver(db=tmp_path / "runs.db")
    starter = threading.Thread(target=receiver.start)
    starter.start()
    try:
        assert opening.wait(60)
        client = Client(receiver.url)
        assert client.get("/livez").status == 200
        assert (client.get("/readyz").status, client.get("/readyz").json) == (503, {"status": "starting"})
        answer = client.batch(run_start())
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert client.get("/livez", host="evil.example").status == 421
    finally:
        go_on.set()
        starter.join(60)
    assert client.get("/readyz").status == 200
    assert client.batch(run_start()).status == 200
    receiver.stop()


def test_a_database_that_cannot_be_opened_ends_the_start(tmp_path: Path) -> None:
    receiver = Receiver(db=tmp_path)
    with pytest.raises(OSError):
        receiver.start()
    with pytest.raises(OSError):
        connect(receiver.url)


def begun(url: str) -> socket.socket:
    """A connection with a batch whose last byte is still to come."""
    body = json.dumps(envelope(run_start())).encode()
    head = f"POST /api/ingest/batch HTTP/1.1\r\nHost: {url[7:]}\r\nX-Agentscope-Key: k\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    connection = connect(url)
    connection.sendall(head.encode() + body[:-1])
    return connection


@contextmanager
def draining(db: Path, seconds: float) -> Iterator[tuple[Any, str, socket.socket]]:
    """A receiver process that was told to end while a request is under way."""
    with receiver_process(db, options={"drain_seconds": seconds}, body_seconds=600) as (process, url):
        client = Client(url)
        with begun(url) as connection:
            until(lambda: under_way(client) == 2, timeout=60)  # the batch, and the question itself
            process.send_signal(signal.SIGTERM)
            until(lambda: client.get("/readyz").status == 503, timeout=60)
            yield process, url, connection


def under_way(client: Client) -> float:
    (line,) = [
        line
        for line in client.get("/metrics").body.decode().splitlines()
        if line.startswith("agentscope_requests_under")
    ]
    return float(line.split()[-1])


def test_sigterm_finishes_what_is_under_way_and_refuses_what_is_new(tmp_path: Path) -> None:
    with draining(tmp_path / "runs.db", 600) as (process, url, connection):
        client = Client(url)
        assert client.get("/livez").status == 200
        assert client.get("/readyz").json == {"status": "draining"}
        for answer in (client.batch(run_start("new")), client.get("/api/runs")):
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        connection.sendall(b"}")
        assert b'"accepted":1' in read_all(connection)
        assert process.wait(60) == 0
    store = SQLiteStore(tmp_path / "runs.db")
    assert (store.has_run("run-1"), store.has_run("new")) == (True, False)
    store.close()


def test_a_second_signal_does_not_wait_for_what_is_under_way(tmp_path: Path) -> None:
    with draining(tmp_path / "runs.db", 600) as (process, _, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_drain_has_an_end(tmp_path: Path) -> None:
    with draining(tmp_path / "runs.db", 1) as (process, _, _):
        assert process.wait(60) == 0


# Keys


@pytest.mark.parametrize(("method", "path", "body", "headers"), SENDING)
@pytest.mark.parametrize(
    ("key", "status"), [("ask_agents", 200), ("ask_boss", 200), ("ask_people", 403), ("ask_nobody", 401)]
)
def test_every_way_to_send_asks_for_a_key_that_may(
    shared: Receiver, method: str, path: str, body: Any, headers: dict[str, str], key: str, status: int
) -> None:
    given = {name: value.format(key=key) for name, value in headers.items()}
    ways = [{"x_agentscope_key": key, **given}]
    if not given:
        ways.append({"x_agentscope_key": None, "authorization": f"Bearer {key}"})
    for way in ways:
        answer = Client(shared.url).send(method, path, body, **way)
        assert answer.status == status
        assert b"ask_" not in answer.body
        if status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/api/runs", "/metrics"])
@pytest.mark.parametrize(
    ("key", "status"), [("ask_agents", 403), ("ask_boss", 200), ("ask_people", 200), ("ask_nobody", 401)]
)
def test_reading_takes_a_bearer_token_of_a_key_that_may(shared: Receiver, path: str, key: str, status: int) -> None:
    client = Client(shared.url)
    assert client.get(path, x_agentscope_key=None, authorization=f"Bearer {key}").status == status
    assert client.get(path, x_agentscope_key=key).status == status
    assert client.get(path, x_agentscope_key=None).status == 401


def log_in(receiver: Receiver, key: str, **headers: str) -> Any:
    return Client(receiver.url).send("POST", "/login", f"key={key}", **FORM, **headers)


def test_a_login_ends_with_the_logout(shared: Receiver) -> None:
    answer = log_in(shared, "ask_people")
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].partition(";")[0]
    client = Client(shared.url)
    page = client.get("/", x_agentscope_key=None, cookie=cookie)
    assert b'action="/logout"' in page.body
    answer = client.send("POST", "/logout", "", **FORM, cookie=cookie)
    assert (answer.status, answer.headers["location"]) == (303, "/login")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert client.get("/api/runs", x_agentscope_key=None, cookie=cookie).status == 401
    assert b"logout" not in client.get("/login", x_agentscope_key=None).body


def test_a_key_that_may_not_read_logs_nobody_in(shared: Receiver) -> None:
    answer = log_in(shared, "ask_agents")
    assert (answer.status, answer.headers.get("set-cookie")) == (403, None)


# Strangers


def test_forms_of_strangers_take_no_room_of_the_senders(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "runs.db", api_key="ask_right") as receiver, ExitStack() as ends:
        head = b"POST /login HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        for length in [8 << 20] * 16:
            answer = raw(receiver.url, head + b"Connection: close\r\nContent-Length: %d\r\n\r\nkey=" % length)
            assert answer.startswith(b"HTTP/1.1 413")
        for _ in range(32):
            connection = ends.enter_context(connect(receiver.url))
            filled = head.replace(b"{host}", receiver.url[7:].encode()) + b"Content-Length: 8000\r\n\r\n"
            connection.sendall(filled + b"k" * 7900)
        client = Client(receiver.url, "ask_right")
        for _ in range(20):
            assert client.batch(step(input="x" * 100_000)).status == 200


def test_a_stranger_reads_no_counts_and_has_none_made(shared: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def count(self: SQLiteStore) -> dict[str, Any]:
        raise AssertionError("the store counts")

    monkeypatch.setattr(SQLiteStore, "health", count)
    answer = Client(shared.url).get("/health", x_agentscope_key=None)
    assert (answer.status, answer.json["status"]) == (200, "ok")
    assert set(answer.json) == {"status", "version"}


def test_guesses_at_the_login_have_to_wait_and_are_logged(
    unforgiving: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    statuses = [log_in(unforgiving, f"guess-{n}").status for n in range(8)]
    assert statuses == [401] * 5 + [429] * 3
    answer = log_in(unforgiving, "ask_people")
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) > 0
    assert "a wrong key came from 127.0.0.1" in caplog.text
    assert "guess-" not in caplog.text
    # Who has the key in a program is not kept out.
    assert Client(unforgiving.url, "ask_people").get("/api/runs").status == 200


def test_guesses_in_headers_are_slowed_and_logged_and_right_keys_are_not(
    unforgiving: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("agentscope.server.http.guesses._sleep", sleep)
    wrong = Client(unforgiving.url, "ask_wrong")
    for _ in range(5):
        assert wrong.get("/api/runs").status == 401
        assert wrong.send("POST", "/v1/traces", OTLP).status == 401
        assert wrong.batch(step()).status == 401
    assert [round(seconds, 1) for seconds in waits] == [0.2, 0.4, 0.8, 1.0, 1.0]
    assert Client(unforgiving.url, "ask_boss").batch(step()).status == 200
    assert (
        Client(unforgiving.url).get("/api/runs", x_agentscope_key=None).status == 401
    )  # carries no key, and guesses none
    assert len(waits) == 5
    assert "a wrong key came from 127.0.0.1" in caplog.text
    assert "ask_wrong" not in caplog.text


# Senders in browsers


@pytest.fixture
def called(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(db=tmp_path / "called.db", allowed_origins=["https://app.example.com"]) as running:
        yield running


BROWSER = {"origin": "https://app.example.com", "sec_fetch_site": "cross-site", "sec_fetch_mode": "cors"}


@pytest.mark.parametrize(("method", "path", "body", "headers"), SENDING)
def test_pages_of_an_allowed_origin_may_send(
    called: Receiver, method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    client = Client(called.url)
    asked = {"access_control_request_method": method, "access_control_request_headers": "content-type,authorization"}
    preflight = client.send("OPTIONS", path, **BROWSER, **asked, x_agentscope_key=None, content_type=None)
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == BROWSER["origin"]
    assert preflight.headers["access-control-allow-headers"] == "content-type,authorization"
    assert method in preflight.headers["access-control-allow-methods"]
    answer = client.send(
        method, path, body, **BROWSER, **{name: value.format(key="k") for name, value in headers.items()}
    )
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == BROWSER["origin"]
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("path", ["/", "/api/runs", "/api/runs/run-1", "/health", "/metrics", "/login", "/nothing"])
def test_pages_of_an_allowed_origin_may_not_read(called: Receiver, path: str) -> None:
    client = Client(called.url)
    for method in ("GET", "OPTIONS"):
        answer = client.send(method, path, **BROWSER, access_control_request_method="GET", content_type=None)
        assert answer.status == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_pages_of_another_origin_may_not_send(called: Receiver) -> None:
    client = Client(called.url)
    foreign = {**BROWSER, "origin": "https://app.example.com.evil.example"}
    assert client.send("OPTIONS", "/v1/traces", **foreign, access_control_request_method="POST").status == 403
    assert client.send("POST", "/v1/traces", OTLP, **foreign).status == 403


def test_a_refusal_names_the_option_that_would_allow_it(called: Receiver) -> None:
    client = Client(called.url)
    assert b"--allow-host" in client.get("/", host="traces.example.com").body
    assert b"--allow-origin" in client.get("/", origin="https://other.example.com").body


# Roles in answers

TEAMS = [Key(f"{team}-{role}", role, team, f"ask_{team}_{role}".encode()) for team in "ab" for role in ROLES]


@pytest.fixture
def teams(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver with the keys of two projects."""
    with Receiver(db=tmp_path / "teams.db", keys=TEAMS) as running:
        yield running


STORED = "stored canary"


@pytest.mark.parametrize("role", ROLES[::2])
def test_history_calls_show_what_is_stored_to_a_key_that_may_read(teams: Receiver, role: str) -> None:
    def call(method: str, path: str, body: dict[str, Any], role: str = "admin", **headers: str) -> Answer:
        given = {"x_agentscope_key": None, "x_public_key": "any", "x_secret_key": f"ask_a_{role}", **headers}
        return Client(teams.url).send(method, path, body, **given)

    call("POST", "/history", {"id": "r", "agent_id": STORED, "userId": STORED, "input": {"q": STORED}})
    event = {"history_id": "r", "event_type": "tool", "event_name": STORED, "status": "running"}
    event |= {"input": {"q": STORED}, "tags": [STORED], "metadata": {"displayName": STORED}}
    event_id = call("POST", "/history-events", event).json["id"]
    added = {"history_id": "r", "event_type": "tool", "event_name": "tool:success", "parent_event_id": event_id}
    answers = [
        call("POST", "/history", {"id": "r", "agent_id": "mine", "input": {"q": "mine"}}, role),
        call("PATCH", "/history/r", {"output": {"a": "mine"}}, role),
        call("PATCH", "/history/r", {"output": {"a": "mine"}}, role, idempotency_key="k"),
        call("PATCH", "/history/r", {"output": {"a": "mine"}}, role, idempotency_key="k"),
        call("PATCH", f"/history-events/{event_id}", {"output": {"a": "mine"}}, role),
    ]
    assert [answer.status for answer in answers] == [200] * 5
    assert [STORED in answer.body.decode() for answer in answers] == [role == "admin"] * 5
    assert "mine" in answers[-1].body.decode()
    assert [answer.json["id"] for answer in answers] == [*["r"] * 4, event_id]
    ended = call("POST", "/history-events", {**added, "status": "completed"}, role)
    assert (ended.status, STORED in ended.body.decode()) == (200, False)
    assert Client(teams.url, "ask_a_read").get("/api/runs/r").json["agent_name"] == STORED


# Metrics


def test_metrics_of_several_projects_are_for_admins_and_those_of_one_for_all_that_read(
    shared: Receiver, teams: Receiver
) -> None:
    assert [Client(teams.url, f"ask_a_{role}").get("/metrics").status for role in ROLES] == [403, 403, 200]
    assert [Client(shared.url, key.secret.decode()).get("/metrics").status for key in KEYS] == [403, 200, 200]


def test_log_records_that_are_not_kept_are_counted_for_the_project_that_sent_them(teams: Receiver) -> None:
    record = {"timeUnixNano": "1", "body": {"stringValue": "x"}}
    body = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record] * 3}]}]}
    assert Client(teams.url, "ask_a_ingest").send("POST", "/v1/logs", body).status == 200
    shown = [Client(teams.url, f"ask_{team}_read").get("/health").json["not_kept"] for team in "ab"]
    assert shown == [{"log_records": 3, "data_points": 0}, {"log_records": 0, "data_points": 0}]


def test_metrics_tell_of_requests_events_queue_and_disk(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "runs.db") as receiver:
        client = Client(receiver.url)
        again = step()
        client.batch(run_start(), again, {"id": "x"})
        client.batch(again)
        client.get("/nothing")
        text = client.get("/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['agentscope_requests_total{method="POST",route="/api/ingest/batch",status="200"}'] == "2.0"
    assert values['agentscope_requests_total{method="GET",route="other",status="404"}'] == "1.0"
    assert values['agentscope_events_total{result="accepted"}'] == "2.0"
    assert values['agentscope_events_total{result="duplicate"}'] == "1.0"
    assert values['agentscope_events_total{result="rejected"}'] == "1.0"
    assert values["agentscope_queue_batches"] == "0.0"
    assert values["agentscope_wrong_keys_total"] == "0.0"
    assert float(values["agentscope_database_bytes"]) + float(values["agentscope_database_log_bytes"]) > 0
    assert float(values["agentscope_disk_free_bytes"]) > 0
    assert "process_resident_memory_bytes" in values


# Backup


def test_a_backup_under_load_has_what_was_acknowledged_before_it(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    stop = threading.Event()

    def write(client: Client) -> None:
        while not stop.is_set():
            events = [step(input="x" * 500) for _ in range(20)]
            if client.batch(*events).status == 200:
                acknowledged.extend(event["id"] for event in events)

    with Receiver(db=tmp_path / "runs.db") as receiver:
        writers = [threading.Thread(target=write, args=(Client(receiver.url),)) for _ in range(2)]
        for writer in writers:
            writer.start()
        until(lambda: len(acknowledged) >= 200, timeout=60)
        before = [*acknowledged]
        assert main(["backup", "--db", os.fspath(tmp_path / "runs.db"), os.fspath(tmp_path / "copy.db")]) == 0
        during = len(acknowledged)
        until(lambda: len(acknowledged) > during, timeout=60)
        stop.set()
        for writer in writers:
            writer.join(60)
    with Receiver(db=tmp_path / "copy.db") as restored:
        assert all(restored.store.event(event) for event in before)


# Projects

SPAN = {"traceId": "1" * 32, "spanId": "2" * 16, "name": "look", "startTimeUnixNano": "1", "endTimeUnixNano": "2"}
TRACES = {"resourceSpans": [{"scopeSpans": [{"spans": [SPAN]}]}]}
EACH_WAY = [
    ("/api/ingest/batch", envelope(run_start(), step())),
    ("/api/ingest/run", {"agent_name": "a"}),
    ("/v1/traces", TRACES),
    ("/history", {"name": "a", "agent_id": "a", "id": "run-1"}),
]


@pytest.mark.parametrize(("path", "body"), EACH_WAY)
def test_a_key_sees_the_runs_of_its_own_project_only(teams: Receiver, path: str, body: Any) -> None:
    headers = {"x_public_key": "any", "x_secret_key": "ask_a_ingest"} if path == "/history" else {}
    sender = Client(teams.url, "ask_a_ingest")
    assert sender.send("POST", path, body, **headers).status == 200
    a, b = (Client(teams.url, f"ask_{team}_read") for team in "ab")
    (run,) = a.get("/api/runs").json["runs"]
    run_id = quote(run["id"], safe="")
    assert b.get("/api/runs").json["runs"] == []
    for place in (f"/api/runs/{run_id}", f"/api/runs/{run_id}/events", f"/runs/{run_id}"):
        assert (a.get(place).status, b.get(place).status) == (200, 404)
    pages = [client.get("/").body.decode() for client in (a, b)]
    assert [f"/runs/{run_id}" in page for page in pages] == [True, False]
    assert (a.get("/health").json["runs"], b.get("/health").json["runs"]) == (1, 0)
    cookie = log_in(teams, "ask_b_read").headers["set-cookie"].partition(";")[0]
    assert a.get("/api/runs", x_agentscope_key=None, cookie=cookie).json["runs"] == []


def test_projects_may_use_the_same_ids_and_change_nothing_of_each_other(teams: Receiver) -> None:
    event = run_start()
    for team in "ab":
        answer = Client(teams.url, f"ask_{team}_ingest").batch({**event, "agent_name": f"agent of {team}"})
        assert answer.json["accepted"] == 1
    sender = Client(teams.url, "ask_b_ingest")
    assert sender.send("PATCH", "/api/ingest/run/run-1", {"status": "failed"}).status == 200
    shown = [Client(teams.url, f"ask_{team}_read").get("/api/runs/run-1").json for team in "ab"]
    assert [(run["agent_name"], run["status"]) for run in shown] == [
        ("agent of a", "running"),
        ("agent of b", "failed"),
    ]


def test_a_run_of_another_project_cannot_be_added_to(teams: Receiver) -> None:
    Client(teams.url, "ask_a_ingest").batch(run_start())
    sender = Client(teams.url, "ask_b_ingest")
    volt = {"x_public_key": "any", "x_secret_key": "ask_b_ingest"}
    assert sender.send("POST", "/api/ingest/run/run-1/step", {"name": "x"}).status == 404
    assert sender.send("PATCH", "/history/run-1", {"status": "failed"}, **volt).status == 404
