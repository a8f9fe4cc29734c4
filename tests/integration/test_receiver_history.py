"""What the receiver takes in over VoltAgent's history calls, and what it answers."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentscope.events import Event
from agentscope.protocols.base import Failure, Request, Response
from agentscope.server.receiver import Receiver
from tests.support import patient
from tests.support.events import batch, deliver
from tests.support.history import HistoryProtocol
from tests.support.read_api import outline
from tests.support.receiver import Answer, Client, run_start, step
from tests.support.run_strategies import by_batch, whole_runs

NOON = "2026-01-31T12:00:00+00:00"
LATER = "2026-01-31T12:00:02.500000+00:00"


class History:
    """Sends the history calls as the published client does."""

    def __init__(self, url: str, **keys: str | None) -> None:
        self._client = Client(url)
        self._keys: dict[str, str | None] = {
            "x_agentscope_key": None,
            "x_public_key": "pk",
            "x_secret_key": "sk",
            **keys,
        }

    def send(self, method: str, path: str, body: Any, **headers: str | None) -> Answer:
        return self._client.send(method, path, body, **{**self._keys, **headers})

    def create(self, **fields: Any) -> Any:
        body = {"id": str(uuid.uuid4()), "agent_id": "desk", "startTime": NOON, "status": "working", **fields}
        return self._good(self.send("POST", "/history", body))

    def update(self, run_id: str, **fields: Any) -> Any:
        return self._good(self.send("PATCH", f"/history/{run_id}", fields))

    def add(self, run_id: str, name: str, **fields: Any) -> Any:
        verb = name.rpartition("_" if "_" in name else ":")[2]
        status = {"success": "completed", "error": "error"}.get(verb, "running")
        body = {"history_id": run_id, "event_type": name.partition(":")[0], "event_name": name, "status": status}
        return self._good(self.send("POST", "/history-events", {**body, "start_time": NOON, "level": "INFO", **fields}))

    def change(self, event_id: str, **fields: Any) -> Any:
        return self._good(self.send("PATCH", f"/history-events/{event_id}", fields))

    def run(self, run_id: str) -> Any:
        return self._client.get(f"/api/runs/{run_id}").json

    def health(self) -> Any:
        return self._client.get("/health").json

    @staticmethod
    def _good(answer: Answer) -> Any:
        assert answer.status == 200, answer.body
        return answer.json


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with Receiver(db=tmp_path / "runs.db") as receiver:
        yield History(receiver.url)


def test_a_history_with_events_is_a_run_with_steps(history: History) -> None:
    made = history.create(
        id="mine", userId="u", conversationId="c", input={"q": 1}, tags=["t"], metadata={"agentId": "desk"}
    )
    assert made["id"] == "mine"
    named = {"displayName": "Helper", "id": "Helper", "agentId": "desk", "instructions": None}
    agent = history.add("mine", "agent:start", input={"task": 1}, metadata=named)
    tool = history.add(
        "mine", "tool:start", metadata={"displayName": "search", "id": "search"}, parent_event_id=agent["id"]
    )
    history.add("mine", "tool:success", output={"found": 2}, parent_event_id=tool["id"], start_time=LATER)
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    history.add("mine", "agent:success", parent_event_id=agent["id"], metadata={**named, "usage": usage})
    history.update("mine", status="completed", end_time=LATER, output={"a": 1})
    run = history.run("mine")
    assert (run["agent_name"], run["status"], run["duration_ms"]) == ("desk", "completed", 2500)
    assert (run["user_id"], run["conversation_id"], run["tags"], run["source"]) == ("u", "c", ["t"], "voltagent")
    assert (run["input"], run["output"], run["tokens_used"]) == ({"q": 1}, {"a": 1}, 12)
    assert outline(run) == ["agent Helper", ["tool_call search"]]
    helper, search = run["steps"]
    assert (helper["input"], helper["meta_data"]) == ({"task": 1}, {"agentId": "desk"})
    assert helper["usage"] == {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
    assert (search["status"], search["output"], search["latency_ms"]) == ("completed", {"found": 2}, 2500)


def test_all_kinds_of_steps_end_by_a_success_or_an_error_below_them(history: History) -> None:
    history.create(id="r")
    for kind, start, good, bad in (
        ("agent", "start", "success", "error"),
        ("tool", "start", "success", "error"),
        ("memory", "write_start", "write_success", "write_error"),
        ("memory", "write_start", "write_success", "error"),
        ("retriever", "start", "success", "error"),
    ):
        for verb in (good, bad):
            event = history.add("r", f"{kind}:{start}", metadata={"displayName": kind})
            history.add("r", f"{kind}:{verb}", parent_event_id=event["id"], status_message="no")
    assert outline(history.run("r")) == [
        "agent agent",
        "agent agent!",
        "tool_call tool",
        "tool_call tool!",
        "memory memory",
        "memory memory!",
        "memory memory",
        "memory memory!",
        "retrieval retriever",
        "retrieval retriever!",
    ]


@pytest.mark.parametrize("message", ["no", {"message": "no"}])
def test_the_message_of_an_error_is_the_error_of_its_step(history: History, message: Any) -> None:
    history.create(id="r")
    event = history.add("r", "tool:start")
    history.add("r", "tool:error", parent_event_id=event["id"], status_message=message, level="ERROR")
    (found,) = history.run("r")["steps"]
    assert (found["status"], found["error"], found["name"]) == ("failed", {"message": "no"}, "tool:start")
    assert found["meta_data"] is None


def test_what_names_a_success_as_its_parent_hangs_below_the_step_itself(history: History) -> None:
    history.create(id="r")
    start = history.add("r", "agent:start", metadata={"displayName": "a"})
    done = history.add("r", "agent:success", parent_event_id=start["id"])
    assert done["id"] != start["id"]
    history.add("r", "tool:start", parent_event_id=done["id"], metadata={"displayName": "t"})
    assert outline(history.run("r")) == ["agent a", ["tool_call t"]]


def test_an_event_that_is_no_verdict_on_the_one_above_it_is_a_step_of_its_own(history: History) -> None:
    history.create(id="r")
    agent = history.add("r", "agent:start", metadata={"displayName": "a"})
    other = history.create(id="other")
    lost = str(uuid.uuid4())
    history.add("r", "tool:success", parent_event_id=agent["id"])
    history.add("r", "agent:progress", parent_event_id=agent["id"], status="completed")
    history.add("r", "agent:success", parent_event_id=lost)
    history.add("r", "agent:error")
    history.add(other["id"], "agent:success", parent_event_id=agent["id"])
    run = history.run("r")
    assert outline(run) == [
        "agent a",
        ["tool_call tool:success", "agent agent:progress"],
        "agent agent:success",
        "agent agent:error!",
    ]
    assert [step["unattached_parent_id"] for step in run["steps"] if step["name"] == "agent:success"] == [lost]
    assert outline(history.run("other")) == ["agent agent:success"]


def test_an_event_of_any_name_and_type_is_a_step(history: History) -> None:
    history.create(id="r")
    custom = history.add("r", "cache warmed", event_type="custom", status="completed", output={"n": 1}, tags=["x"])
    opened = history.add("r", "waiting", event_type="custom", level="DEBUG", version="2", parent_event_id="r")
    history.add("r", "custom:success", event_type="custom", parent_event_id=opened["id"])
    history.add("r", "gone", event_type="custom", status="cancelled", status_message="changed our mind")
    assert (custom["event_type"], custom["event_name"], custom["tags"]) == ("custom", "cache warmed", ["x"])
    warmed, waited, gone = history.run("r")["steps"]
    assert (warmed["step_type"], warmed["name"], warmed["status"]) == ("other", "cache warmed", "completed")
    assert (warmed["output"], warmed["meta_data"]) == ({"n": 1}, {"eventType": "custom", "tags": ["x"]})
    assert (waited["name"], waited["status"]) == ("waiting", "completed")
    assert waited["meta_data"] == {"eventType": "custom", "level": "DEBUG", "version": "2"}
    assert "unattached_parent_id" not in waited
    assert (gone["status"], gone["error"]) == ("cancelled", None)
    assert gone["meta_data"]["statusMessage"] == "changed our mind"


def test_changes_of_an_event_apply_to_its_step_whichever_of_its_events_they_name(history: History) -> None:
    history.create(id="r")
    start = history.add("r", "tool:start", metadata={"displayName": "search"})
    changed = history.change(start["id"], output={"a": 1}, metadata={"displayName": "found", "took": 1})
    assert (changed["id"], changed["event_name"], changed["output"]) == (start["id"], "tool:start", {"a": 1})
    assert changed["metadata"] == {"displayName": "found", "id": "found", "took": 1}
    done = history.add("r", "tool:success", parent_event_id=start["id"])
    history.change(done["id"], status="error", status_message="on second thoughts", end_time=LATER)
    (found,) = history.run("r")["steps"]
    assert (found["name"], found["output"], found["meta_data"]) == ("found", {"a": 1}, {"took": 1})
    assert (found["status"], found["error"]) == ("failed", {"message": "on second thoughts"})
    assert found["ended_at"] == "2026-01-31T12:00:02.500000Z"


def test_a_run_that_failed_keeps_what_was_said_about_it(history: History) -> None:
    history.create(id="r", metadata={"agentId": "desk"}, version="3", level="WARNING")
    changed = history.update("r", status="error", metadata={"agentId": "desk", "error": "out of fuel"})
    run = history.run("r")
    assert (run["status"], run["failed"], run["error"]) == ("failed", True, {"message": "out of fuel"})
    assert run["meta_data"] == {"agentId": "desk", "version": "3", "level": "WARNING"}
    assert run["ended_at"] is not None
    assert (changed["status"], changed["version"], changed["level"]) == ("error", "3", "WARNING")


def test_an_update_does_not_end_a_run_that_still_works(history: History) -> None:
    history.create(id="r")
    history.update("r", metadata={"phase": 2}, tags=["new"])
    history.update("r", status="working")
    run = history.run("r")
    assert (run["status"], run["ended_at"], run["tags"]) == ("running", None, ["new"])
    assert run["meta_data"] == {"phase": 2}


def test_a_history_that_is_created_again_is_answered_as_it_is_and_stored_once(history: History) -> None:
    first = history.create(id="r", input={"a": 1})
    history.update("r", status="completed", output={"b": 1})
    again = history.create(id="r", input={"a": 2})
    assert (again["input"], again["output"], again["status"]) == ({"a": 1}, {"b": 1}, "completed")
    assert again["created_at"] == first["created_at"]
    assert history.health()["events"] == 2


def test_two_that_create_the_same_history_at_once_create_one(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    patient.here(monkeypatch)  # of eight, four are stored at once
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: history.create(id="r", agent_id=f"agent {number}"), range(8)))
    assert history.health()["events"] == 1
    assert {answer["agent_id"] for answer in made} == {history.run("r")["agent_name"]}


def test_a_history_without_an_id_gets_one(history: History) -> None:
    made = history.create(id=None)
    assert str(uuid.UUID(made["id"])) == made["id"]
    assert history.run(made["id"])["agent_name"] == "desk"


def test_a_repeated_call_with_the_same_idempotency_key_is_stored_once(history: History) -> None:
    create = {"agent_id": "desk"}
    answers = [history.send("POST", "/history", create, idempotency_key="k").json for _ in range(2)]
    assert answers[0]["id"] == answers[1]["id"]
    run_id = answers[0]["id"]
    event = {"history_id": run_id, "event_type": "tool", "event_name": "tool:start"}
    started = [history.send("POST", "/history-events", event, idempotency_key="k").json for _ in range(2)]
    assert started[0] == started[1]
    for path in (f"/history/{run_id}", f"/history-events/{started[0]['id']}"):
        for _ in range(2):
            assert history.send("PATCH", path, {"output": {"a": 1}}, idempotency_key="k").status == 200
    health = history.health()
    assert (health["events"], health["conflicts"]) == (4, 0)
    another = history.send("POST", "/history-events", {**event, "history_id": "other"}, idempotency_key="k")
    assert another.json["id"] != started[0]["id"]


def test_an_idempotency_key_with_another_body_is_refused(history: History) -> None:
    event = {"history_id": "r", "event_type": "tool", "event_name": "tool:start"}
    calls: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
        ("POST", "/history", {"agent_id": "a"}, {"agent_id": "b"}),
        ("POST", "/history-events", event, {**event, "input": {"a": 1}}),
    ]
    for method, path, body, other in calls:
        statuses = [history.send(method, path, each, idempotency_key="k").status for each in (body, other, body)]
        assert statuses == [200, 422, 200], path


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_bad_idempotency_key_is_refused(history: History, key: str) -> None:
    answer = history.send("POST", "/history", {"agent_id": "a"}, idempotency_key=key)
    assert (answer.status, "Idempotency-Key" in answer.json["message"]) == (400, True)


def test_events_may_come_before_their_history(history: History) -> None:
    history.add("early", "tool:start", metadata={"displayName": "t"})
    assert history.run("early")["agent_name"] == "t"
    history.create(id="early")
    run = history.run("early")
    assert (run["agent_name"], outline(run)) == ("desk", ["tool_call t"])


def test_a_run_of_another_protocol_can_be_read_and_changed(history: History) -> None:
    sent = [run_start("r", input=[1], output="x", meta_data=["odd"]), step("r", id="e", output=[1], error="no")]
    Client(f"http://{history._client.host}").batch(*sent)
    changed = history.update("r", usage={"total_tokens": 3})
    assert (changed["input"], changed["output"], changed["metadata"]) == (
        {"value": [1]},
        {"value": "x"},
        {"value": ["odd"]},
    )
    event = history.change("e", metadata={"k": 1})
    assert (event["history_id"], event["output"], event["status_message"]) == ("r", {"value": [1]}, "no")
    assert event["metadata"] == {"displayName": "search", "id": "search", "k": 1}


@pytest.mark.parametrize("path", ["/history/unknown", "/history-events/unknown"])
def test_what_is_not_known_is_answered_404_with_a_message(history: History, path: str) -> None:
    answer = history.send("PATCH", path, {"status": "completed"})
    assert (answer.status, answer.json["message"][:8]) == (404, "There is")
    assert history.health()["events"] == 0


def test_an_event_of_a_run_itself_is_no_event_of_this_api(history: History) -> None:
    Client(f"http://{history._client.host}").batch(run_start("r", id="e"))
    assert history.send("PATCH", "/history-events/e", {"output": {}}).status == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/history", {}, 422, "agent_id is required"),
        ("/history", {"agent_id": 1}, 422, "agent_id must be a string"),
        ("/history", {"agent_id": "a", "id": "x" * 256}, 422, "id must be a string of 1 to 255"),
        ("/history", {"agent_id": "a", "id": "a\0"}, 422, "id must be a string of 1 to 255"),
        ("/history", {"agent_id": "a", "status": "odd"}, 422, "status must be one of working"),
        ("/history", b"nonsense", 400, "not JSON"),
        ("/history", [], 422, "must be a JSON object"),
        ("/history-events", {"history_id": "r", "event_type": "tool"}, 422, "event_name is required"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_a_message(
    history: History, path: str, body: Any, status: int, words: str
) -> None:
    answer = history.send("POST", path, body)
    assert answer.status == status
    assert words in answer.json["message"]


def test_a_body_that_is_no_json_by_its_own_word_is_refused_with_a_message(history: History) -> None:
    answer = history.send("POST", "/history", "{}", content_type="text/plain")
    assert (answer.status, answer.json["message"]) == (415, "Content-Type must be application/json.")


@pytest.mark.parametrize(
    ("public", "secret", "status"),
    [
        ("pk", "right", 200),
        ("pk", "wrong", 401),
        ("pk", None, 401),
        ("pk", "", 401),
        (None, "right", 401),
        ("", "right", 401),
    ],
)
@pytest.mark.parametrize("path", ["/history", "/history-events", "/history/r", "/history-events/e"])
def test_the_keys_are_checked_at_every_call(
    tmp_path: Path, path: str, public: str | None, secret: str | None, status: int
) -> None:
    body = {"agent_id": "a", "id": "r", "history_id": "r", "event_type": "tool", "event_name": "tool:start"}
    with Receiver(db=tmp_path / "runs.db", api_key="right") as receiver:
        client = Client(receiver.url, "right")
        client.batch(run_start("r"), step("r", id="e"))
        keys = {"x_agentscope_key": None, "x_public_key": public, "x_secret_key": secret}
        method = "POST" if path in ("/history", "/history-events") else "PATCH"
        answer = client.send(method, path, body, **keys)
        assert answer.status == status
        assert status == 200 or "x-secret-key" in answer.json["message"]
        assert client.events() == 2 + (path == "/history-events" and status == 200) + (
            method == "PATCH" and status == 200
        )


@pytest.mark.parametrize(("public", "secret", "status"), [("p", "s", 200), ("p", "", 401), ("", "s", 401)])
def test_without_a_key_any_two_will_do_but_not_none(history: History, public: str, secret: str, status: int) -> None:
    keys = {"x_public_key": public, "x_secret_key": secret}
    assert history.send("POST", "/history", {"agent_id": "a"}, **keys).status == status


def test_a_tree_that_many_write_at_once_is_whole(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    patient.here(monkeypatch)  # of eight, four are stored at once
    history.create(id="r")
    root = history.add("r", "agent:start", metadata={"displayName": "root"})

    def work(number: int) -> None:
        tool = history.add("r", "tool:start", metadata={"displayName": f"tool {number}"}, parent_event_id=root["id"])
        history.change(tool["id"], output={"n": number})
        history.add("r", "tool:success", parent_event_id=tool["id"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    run = history.run("r")
    below = [found for found in run["steps"] if found["parent_id"] == run["steps"][0]["id"]]
    assert {found["name"]: found["output"] for found in below} == {f"tool {n}": {"n": n} for n in range(24)}
    assert {found["status"] for found in below} == {"completed"}


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(whole_runs(), st.lists(st.sampled_from(["lost", "lost", 503, None]), max_size=12))
def test_events_of_this_sdk_come_out_as_by_the_batch_call_though_answers_get_lost(
    history: History, events: list[Event], script: list[Any]
) -> None:
    run_id = str(uuid.uuid4())
    trouble = iter(script)

    def backend(request: Request) -> Response | Failure:
        kind = next(trouble, None)
        if isinstance(kind, int):
            return Response(kind)
        body, key = request.body, request.headers["Idempotency-Key"]
        answer = history.send(request.method, request.path, body, idempotency_key=f"{run_id[:8]}{key}")
        return Failure("connection", "broke") if kind else Response(answer.status, answer.headers, answer.body)

    ours = [event._replace(run_id=run_id) for event in events]
    assert sorted(deliver(HistoryProtocol(), batch(ours), backend).delivered) == [event.seq for event in ours]
    assert {**history.run(run_id), "id": "run-1"} == by_batch(events)


def test_gzip_is_taken(history: History) -> None:
    body = gzip.compress(json.dumps({"agent_id": "a", "id": "z"}).encode())
    assert history.send("POST", "/history", body, content_encoding="gzip").json["id"] == "z"
