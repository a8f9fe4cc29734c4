"""Runs are deleted by id and by filter, only on purpose, and only by those who may."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentscope.protocols.ids import run_id_of
from agentscope.server.http.keys import read_keys
from agentscope.server.receiver import Receiver
from tests.support.receiver import Client, run_start, step


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(db=tmp_path / "runs.db", api_key="the key") as running:
        client = Client(running.url, "the key")
        client.batch(
            *(run_start(f"u{number}", user_id="u", conversation_id="c") for number in range(3)),
            *(run_start("v", conversation_id="c"), run_start("w"), step("w"), run_start("x/events"), run_start("..")),
        )
        yield running


@pytest.fixture
def client(receiver: Receiver) -> Client:
    return Client(receiver.url, "the key")


def runs(client: Client) -> set[str]:
    return {run["id"] for run in client.get("/api/runs").json["runs"]}


ALL = {"u0", "u1", "u2", "v", "w", "x/events", ".."}


@pytest.mark.parametrize(
    ("path", "deleted"),
    [
        ("/api/runs/w", {"w"}),
        ("/api/runs/x/events", {"x/events"}),
        ("/api/runs/x%2Fevents", {"x/events"}),
        ("/api/runs/%2E%2E", {".."}),
        ("/api/runs?user_id=u", {"u0", "u1", "u2"}),
        ("/api/runs?conversation_id=c", {"u0", "u1", "u2", "v"}),
        ("/api/runs?user_id=u&conversation_id=c", {"u0", "u1", "u2"}),
        ("/api/runs?user_id=nobody", set()),
    ],
)
def test_runs_are_deleted_by_id_user_conversation_or_any_filter(client: Client, path: str, deleted: set[str]) -> None:
    answer = client.send("DELETE", path)
    assert (answer.status, answer.json) == (200, {"deleted": len(deleted)})
    assert runs(client) == ALL - deleted
    assert client.events() == 8 - len(deleted) - ("w" in deleted)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/runs", 422),
        ("/api/runs?user_id=", 422),
        ("/api/runs?user_id=&agent=agent", 422),
        ("/api/runs?user_id=u&user_id=v", 422),
        ("/api/runs?userid=u", 400),
        ("/api/runs?limit=1", 400),
        ("/api/runs/unknown", 404),
        ("/api/runs/w?user_id=u", 400),
    ],
)
def test_a_deletion_that_is_not_clear_deletes_nothing(client: Client, path: str, status: int) -> None:
    assert client.send("DELETE", path).status == status
    assert runs(client) == ALL


def test_a_run_is_deleted_by_its_trace_id_as_it_is_read_by_it(client: Client) -> None:
    run_id = run_id_of("1" * 32)
    client.batch(run_start(run_id), run_start("2" * 32))
    for trace_id in ("1" * 32, "2" * 32):
        assert client.get(f"/api/runs/{trace_id}").status == 200
        assert client.send("DELETE", f"/api/runs/{trace_id}").json == {"deleted": 1}
        assert client.get(f"/api/runs/{trace_id}").status == 404
        assert client.send("DELETE", f"/api/runs/{trace_id}").status == 404
    assert runs(client) == ALL


def test_a_deleted_run_stays_away_when_its_events_are_repeated_or_come_late(client: Client) -> None:
    client.send("DELETE", "/api/runs/w")
    answer = client.batch(run_start("w"), step("w"), step("v"))
    assert answer.json == {"accepted": 1, "duplicates": 2, "rejected": []}
    assert client.get("/api/runs/w").status == 404
    assert client.send("POST", "/api/ingest/run/w/step", {"name": "s"}).status == 404
    assert client.get("/health").json["dropped"] == {"run_deleted": 2}


def test_nobody_deletes_without_the_key_or_from_another_page(receiver: Receiver, client: Client) -> None:
    for sender, headers, status in (
        (Client(receiver.url, "another key"), {}, 401),
        (client, {"x_agentscope_key": None}, 401),
        (client, {"origin": "http://evil.example"}, 403),
        (client, {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, 403),
    ):
        for path in ("/api/runs/w", "/api/runs?user_id=u"):
            assert sender.send("DELETE", path, **headers).status == status
    assert runs(client) == ALL


def test_only_an_admin_deletes_and_only_in_the_project_of_its_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a admin default key_a\nr read default key_r\ni ingest default key_i\no admin other key_o\n")
    keys.chmod(0o600)
    with Receiver(db=tmp_path / "roles.db", keys=read_keys(keys)) as running:
        clients = {name: Client(running.url, f"key_{name}") for name in "ario"}
        clients["i"].batch(run_start("w"))
        statuses = {name: clients[name].send("DELETE", "/api/runs/w").status for name in "irao"}
    assert statuses == {"i": 403, "r": 403, "a": 200, "o": 404}
