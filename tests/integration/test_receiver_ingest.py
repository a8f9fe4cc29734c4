"""What the receiver takes in over the batch and the classic calls, and what it answers."""

from __future__ import annotations

import gzip
import json
import random
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zstandard

from agentscope.server.receiver import Receiver
from tests.support import patient
from tests.support.receiver import Client, at, envelope, run_end, run_start, step

BATCH = "/api/ingest/batch"
RUN = "/api/ingest/run"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with Receiver(db=tmp_path / "runs.db") as receiver:
        yield Client(receiver.url)


def test_a_batch_is_acknowledged_with_counts_that_add_up_and_can_be_read_at_once(client: Client) -> None:
    wrong = step(id="wrong", name=5)
    answer = client.batch(run_start(), step(tokens_used=4), step(step_type="llm_call", tokens_used=3), wrong, run_end())
    assert answer.status == 200
    rejected = [{"id": "wrong", "reason": "name must be a string"}]
    assert answer.json == {"accepted": 4, "duplicates": 0, "rejected": rejected}
    run = client.get("/api/runs/run-1").json
    (listed,) = client.get("/api/runs").json["runs"]
    assert (run["status"], run["duration_ms"], run["step_count"], run["tokens_used"]) == ("completed", 60000, 2, 7)
    assert {name: run[name] for name in listed} == listed


def test_redelivered_events_are_counted_and_change_nothing(client: Client) -> None:
    events = [run_start(), step(id="a"), step(id="b")]
    client.batch(*events)
    before = client.get("/api/runs/run-1").json
    third = step(id="c")
    again = client.batch(*events, step(id="b", name="other"), third, third)
    assert again.json == {"accepted": 1, "duplicates": 5, "rejected": []}
    health = client.get("/health").json
    assert (health["events"], health["duplicates"], health["conflicts"]) == (4, 5, 1)
    after = client.get("/api/runs/run-1").json
    assert [found for found in after["steps"] if found["id"] in {old["id"] for old in before["steps"]}] == before[
        "steps"
    ]


def test_a_batch_sent_twice_reports_its_drops_once(client: Client) -> None:
    body = envelope(step(), dropped=[{"reason": "queue_full", "count": 3}])
    client.send("POST", BATCH, body)
    client.send("POST", BATCH, body)
    client.batch(dropped=[{"reason": "queue_full", "count": 1}, {"reason": "shutdown", "count": 2}])
    health = client.get("/health").json
    assert health["dropped"] == {"queue_full": 4, "shutdown": 2}
    assert health["duplicates"] == 1


def test_any_order_and_split_of_events_ends_in_the_same_run(client: Client) -> None:
    def events(run: str) -> list[dict[str, Any]]:
        found = [run_start(run), run_end(run, time=at(59), meta_data={"b": 2}), run_start(run, time=at(1), user_id="u")]
        for number in range(12):
            head = {"step_id": f"s{number}", "parent_id": f"s{number // 2}" if number else None}
            found.append(step(run, **head, time=at(number), type="step.start", status="running", started_at=at(number)))
            end = {"status": "failed" if number % 3 == 0 else "completed", "tokens_used": number, "ended_at": at(40)}
            found.append(step(run, **head, time=at(20 + number), type="step.end", name="ended", **end))
        return found

    client.batch(*events("in-order"))
    chance = random.Random(7)
    shuffled = events("shuffled")
    shuffled += chance.sample(shuffled, 9)
    chance.shuffle(shuffled)
    while shuffled:
        size = chance.randint(1, 6)
        client.batch(*shuffled[:size])
        del shuffled[:size]
    one, other = (client.get(f"/api/runs/{name}").json for name in ("in-order", "shuffled"))
    assert {**one, "id": ""} == {**other, "id": ""}
    listed = client.get("/api/runs").json["runs"]
    assert {**listed[0], "id": ""} == {**listed[1], "id": ""}
    assert listed[0]["error_count"] == one["error_count"] == 4


def test_a_step_may_come_before_its_run_and_an_end_before_its_start(client: Client) -> None:
    client.batch(step(time=at(5)))
    (run,) = client.get("/api/runs").json["runs"]
    assert (run["agent_name"], run["status"], run["step_count"]) == ("search", "completed", 1)
    assert run["is_root_missing"] is True
    client.batch(run_end())
    client.batch(run_start())
    (run,) = client.get("/api/runs").json["runs"]
    assert (run["agent_name"], run["status"], run["duration_ms"]) == ("tester", "completed", 60000)
    assert run["is_root_missing"] is False


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity"])
def test_bodies_may_be_compressed(client: Client, encoding: str) -> None:
    body = json.dumps(envelope(step())).encode()
    if encoding == "gzip":
        body = gzip.compress(body)
    elif encoding == "zstd":
        body = zstandard.ZstdCompressor().compress(body)
    answer = client.send("POST", BATCH, body, content_encoding=encoding)
    assert (answer.status, answer.json["accepted"]) == (200, 1)
    assert "gzip" in answer.headers["accept-encoding"]


def test_values_that_sqlite_knows_not_are_stored_all_the_same(client: Client) -> None:
    hard = {
        "big": 2**63 - 1,
        "nul": "a\0b",
        "ctrl": "\x1b[31m",
        "bidi": "\u202e",
        "__proto__": {"x": 1},
        "'": '"; DROP',
    }
    answer = client.batch(step(input=hard, tokens_used=2**63 - 1, latency_ms=1e300), step(tokens_used=10**30))
    assert answer.json["accepted"] == 2
    run = client.get("/api/runs/run-1").json
    assert hard in [found["input"] for found in run["steps"]]
    assert run["tokens_used"] == client.get("/api/runs").json["runs"][0]["tokens_used"] == 2 * 10**12


def test_eight_writers_at_once_lose_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    patient.here(monkeypatch)  # four are stored at once, and who waits for long is told to come again

    def write(writer: int) -> int:
        accepted = 0
        for _ in range(10):
            accepted += client.batch(*(step(f"run-{writer % 2}") for _ in range(20))).json["accepted"]
            assert client.get("/api/runs").status == 200
        return accepted

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(8))) == 1600
    assert client.events() == 1600
    assert [run["step_count"] for run in client.get("/api/runs").json["runs"]] == [800, 800]


def test_the_classic_calls_make_a_run_with_steps_and_an_end(client: Client) -> None:
    made = client.send(
        "POST", RUN, {"agent_name": "classic", "external_id": "x1", "input": {"q": 1}, "meta_data": None}
    )
    assert made.status == 200
    assert made.json.keys() == {
        "id",
        "project_id",
        "external_id",
        "agent_name",
        "status",
        "started_at",
        "created_at",
    }
    run_id = made.json["id"]
    assert str(uuid.UUID(run_id)) == run_id
    assert (made.json["external_id"], made.json["agent_name"], made.json["status"]) == ("x1", "classic", "running")
    assert not made.json["started_at"].endswith("Z")
    first = client.send("POST", f"{RUN}/{run_id}/step", {"name": "a", "step_type": "llm_call", "tokens_used": 5})
    naive = {"name": "b", "step_type": "anything", "error": {"message": "no"}, "started_at": "2026-01-31T12:00:00.5"}
    second = client.send("POST", f"{RUN}/{run_id}/step", naive)
    assert (first.status, list(first.json), second.status) == (200, ["message"], 200)
    update = {"status": "failed", "output": {"a": 1}, "ended_at": "2099-01-31T12:00:00+00:00"}
    ended = client.send("PATCH", f"{RUN}/{run_id}", update)
    assert (ended.status, list(ended.json)) == (200, ["message"])
    run = client.get(f"/api/runs/{run_id}").json
    assert (run["status"], run["output"], run["step_count"], run["error_count"]) == ("failed", {"a": 1}, 2, 1)
    assert run["ended_at"] == "2099-01-31T12:00:00.000000Z"
    assert {(s["name"], s["step_type"], s["started_at"]) for s in run["steps"]} == {
        ("a", "llm_call", None),
        ("b", "anything", "2026-01-31T12:00:00.500000Z"),
    }


def test_a_classic_call_repeated_with_its_idempotency_key_happens_once(client: Client) -> None:
    one, again, other = (client.send("POST", RUN, {"agent_name": "a"}, idempotency_key=key) for key in ("k", "k", "l"))
    assert one.body == again.body
    assert other.json["id"] != one.json["id"]
    path = f"{RUN}/{one.json['id']}"
    for _ in range(2):
        assert client.send("POST", f"{path}/step", {"name": "s"}, idempotency_key="k").status == 200
        assert client.send("PATCH", path, {"status": "completed"}, idempotency_key="k").status == 200
    client.send("POST", f"{RUN}/{other.json['id']}/step", {"name": "s"}, idempotency_key="k")
    assert client.events() == 5
    assert client.get("/health").json["conflicts"] == 0
    assert client.get(f"/api/runs/{one.json['id']}").json["step_count"] == 1


def test_an_idempotency_key_with_another_body_is_refused_and_changes_nothing(client: Client) -> None:
    body = {"agent_name": "a", "meta_data": {"n": 1.0}, "started_at": "2026-01-31T12:00:00Z"}
    first = client.send("POST", RUN, body, idempotency_key="k")
    path = f"{RUN}/{first.json['id']}"
    for kind, url, bodies in (
        ("POST", RUN, [body, {**body, "agent_name": "b"}, {"agent_name": "a"}, {**body, "started_at": None}]),
        ("POST", f"{path}/step", [{"name": "s"}, {"name": "t"}, {"name": "s", "output": {"a": 1}}]),
        ("PATCH", path, [{"status": "failed"}, {"status": "completed"}, {"status": "failed", "error": {"a": 1}}]),
    ):
        good, *others = bodies
        assert client.send(kind, url, good, idempotency_key="k").status == 200
        for other in others:
            answer = client.send(kind, url, other, idempotency_key="k")
            assert (answer.status, "Idempotency-Key" in answer.json["detail"]) == (422, True), other
        assert client.send(kind, url, good, idempotency_key="k").status == 200
    run = client.get(f"/api/runs/{first.json['id']}").json
    assert (run["agent_name"], run["status"], [step["name"] for step in run["steps"]]) == ("a", "failed", ["s"])
    assert client.events() == 3


def test_an_event_of_a_batch_with_the_id_of_a_classic_call_hides_it_not(client: Client) -> None:
    made = client.send("POST", RUN, {"agent_name": "a"}, idempotency_key="k").json["id"]
    (event,) = client.get(f"/api/runs/{made}/events").json["events"]
    client.send("DELETE", f"/api/runs/{made}")
    guess = {**run_start("stranger"), "id": event["id"]}
    with_other = client.batch(guess, session_id="stranger")
    assert with_other.json["accepted"] == 1
    assert client.send("POST", RUN, {"agent_name": "a"}, idempotency_key="k").status == 410


def test_sessions_of_other_protocols_cannot_be_taken_by_a_batch(client: Client) -> None:
    for session in ("classic", "history", "otlp"):
        answer = client.batch(run_start(), session_id=session)
        assert (answer.status, "session_id" in answer.json["detail"]) == (422, True)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", RUN, {}, {}, 422),
        ("POST", RUN, {"agent_name": 1}, {}, 422),
        ("POST", RUN, {"agent_name": "a"}, {"x_agentscope_key": None}, 422),
        ("POST", RUN, {"agent_name": "a"}, {"x_agentscope_key": ""}, 401),
        ("POST", RUN, {"agent_name": "a"}, {"idempotency_key": "x" * 256}, 400),
        ("POST", f"{RUN}/nothing/step", {"name": "a"}, {}, 404),
        ("PATCH", f"{RUN}/nothing", {"status": "completed"}, {}, 404),
        ("PATCH", f"{RUN}/nothing", {"status": "completed"}, {"x_agentscope_key": None}, 422),
        ("POST", BATCH, "nonsense", {}, 400),
        ("POST", BATCH, [], {}, 422),
        ("POST", BATCH, envelope(step()), {"content_type": "text/plain"}, 415),
        ("POST", BATCH, envelope(step()), {"content_encoding": "br"}, 415),
        ("POST", BATCH, envelope(step()), {"content_encoding": "gzip"}, 400),
        ("POST", BATCH, envelope(step()), {"content_encoding": "zstd"}, 400),
        ("GET", BATCH, None, {}, 405),
        ("POST", "/api/ingest", envelope(step()), {}, 404),
    ],
)
def test_what_is_refused_is_answered_in_one_sentence_and_stores_nothing(
    client: Client, method: str, path: str, body: Any, headers: dict[str, str], status: int
) -> None:
    answer = client.send(method, path, body, **headers)
    assert answer.status == status
    assert answer.json["detail"].endswith(".")
    assert client.events() == 0
