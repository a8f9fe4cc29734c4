"""The synchronous client: its requests, results and exceptions."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from datetime import datetime, timedelta, timezone
from typing import Any

import freezegun
import pytest
import requests
import responses

from agentscope.errors import AgentScopeError, APIError, AuthenticationError, ConfigurationError
from agentscope.tracker.client import AgentScopeClient
from agentscope.tracker.tracker import Tracker
from agentscope.types import RunConfig, StepConfig

URL = "http://localhost:8000"
RUN_ID = "3f0e8a52-5a0c-4c53-9f0e-1e7c1a1b2c3d"
STEP_URL = f"{URL}/api/ingest/run/{RUN_ID}/step"
CANARY = "ask_canary_0123456789"


@pytest.fixture
def server():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def client(server):
    with AgentScopeClient(CANARY) as opened:
        yield opened


@pytest.fixture
def loud(server):
    with AgentScopeClient(CANARY, fail_silently=False) as opened:
        yield opened


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("API_KEY", "BASE_URL", "TIMEOUT", "FAIL_SILENTLY"):
        monkeypatch.delenv(f"AGENTSCOPE_{name}", raising=False)


def sent(server, index: int = -1) -> dict[str, Any]:
    return json.loads(server.calls[index].request.body)


def test_create_run_returns_the_id_that_the_platform_gave(client, server):
    server.post(f"{URL}/api/ingest/run", json={"id": RUN_ID, "status": "running"})
    config = RunConfig(agent_name="a", external_id="e", input={"q": "ü"}, meta_data={"k": 1})
    assert client.create_run(config) == RUN_ID
    assert sent(server) == {"agent_name": "a", "external_id": "e", "input": {"q": "ü"}, "meta_data": {"k": 1}}


def test_every_request_has_the_key_json_and_its_own_idempotency_key(client, server):
    server.post(f"{URL}/api/ingest/run", json={"id": RUN_ID})
    for _ in range(2):
        client.create_run(RunConfig())
    first, second = (call.request.headers for call in server.calls)
    assert first["X-Agentscope-Key"] == CANARY
    assert first["Content-Type"] == "application/json"
    assert first["Idempotency-Key"] != second["Idempotency-Key"]


def test_add_step_sends_what_a_deployed_platform_takes(client, server):
    server.post(STEP_URL, json={"message": "ok"})
    zone = timezone(timedelta(hours=2))
    config = StepConfig(
        step_type="reasoning",
        name="think",
        input={"a": 1},
        output=["not", "an object"],
        error={"message": "m"},
        tokens_used=5,
        latency_ms=12,
        meta_data={"mine": True},
        started_at=datetime(2026, 1, 31, 12, 0, tzinfo=zone),
        ended_at=datetime(2026, 1, 31, 12, 0, 1, 500),
    )
    assert client.add_step(RUN_ID, config) is True
    assert sent(server) == {
        "step_type": "custom",
        "name": "think",
        "input": {"a": 1},
        "output": {"value": ["not", "an object"]},
        "error": {"message": "m"},
        "tokens_used": 5,
        "latency_ms": 12,
        "meta_data": {"mine": True, "step_type": "reasoning"},
        "started_at": "2026-01-31T10:00:00.000000",
        "ended_at": "2026-01-31T12:00:01.000500",
    }


def test_complete_run_sets_status_output_error_and_the_end(client, server):
    server.patch(f"{URL}/api/ingest/run/{RUN_ID}", json={"message": "ok"})
    with freezegun.freeze_time("2026-01-31T12:00:00.123456"):
        assert client.complete_run(RUN_ID, "failed", output={"x": 1}, error={"message": "m"}) is True
    assert sent(server) == {
        "status": "failed",
        "output": {"x": 1},
        "error": {"message": "m"},
        "ended_at": "2026-01-31T12:00:00.123456",
    }
    assert client.complete_run(RUN_ID) is True
    assert sent(server)["status"] == "completed"


def test_payloads_and_fields_may_be_anything(client, server):
    class Hostile:
        def __repr__(self):
            raise ValueError(1)

        __str__ = __index__ = __repr__

    class Odd:
        def __str__(self):
            return "odd"

    server.post(STEP_URL, json={})
    looped: list[Any] = []
    looped.append(looped)
    values = [float("nan"), {1, 2}, b"\xff", "\ud800", looped, Odd(), 10**400, {"k": Odd()}, "text\0"]
    for value in values:
        assert client.add_step(
            RUN_ID,
            StepConfig(name=value, step_type=value, input=value, meta_data=value, tokens_used=value, started_at=value),
        )
        assert isinstance(sent(server)["input"], dict)
    client.add_step(RUN_ID, StepConfig(Hostile(), Hostile(), Hostile(), tokens_used=Hostile(), ended_at=Hostile()))
    assert sent(server)["name"]
    assert "tokens_used" not in sent(server)


def test_a_keyboard_interrupt_is_let_through(client):
    class Interrupting:
        def __index__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.add_step(RUN_ID, StepConfig(tokens_used=Interrupting()))


def test_a_payload_that_was_cut_is_named_in_the_meta_data(client, server):
    server.post(STEP_URL, json={})
    client.add_step(RUN_ID, StepConfig(input={"x": "y" * 3_000_000}, output={"fine": 1}))
    assert sent(server)["meta_data"]["agentscope_truncated"] == ["input"]
    assert len(server.calls[0].request.body) < 1_100_000


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_raises_even_silently(client, server, status):
    server.post(f"{URL}/api/ingest/run", status=status, json={"detail": "no"})
    server.post(STEP_URL, status=status)
    server.patch(f"{URL}/api/ingest/run/{RUN_ID}", status=status)
    for call in (
        lambda: client.create_run(RunConfig()),
        lambda: client.add_step(RUN_ID, StepConfig()),
        lambda: client.complete_run(RUN_ID),
    ):
        with pytest.raises(AuthenticationError, match=f"HTTP {status}"):
            call()


FAILURES = [
    ({"json": {"success": False, "detail": "no such project"}}, 200, "HTTP 200 no such project"),
    ({"body": requests.ConnectionError("x")}, None, "POST failed: localhost:8000: "),
    ({"body": requests.ReadTimeout("x")}, None, "within 30 s"),
    ({"status": 500, "body": "<html>"}, 500, "HTTP 500"),
    ({"status": 404, "json": {"detail": "Run not found"}}, 404, "HTTP 404 Run not found"),
    ({"status": 422, "json": {"detail": [{"msg": "Field required"}]}}, 422, "HTTP 422 Field required"),
    ({"status": 302, "headers": {"Location": "http://other.example"}}, 302, "redirects"),
    ({"status": 200, "body": "<html>Sign in</html>"}, 200, "not one of an AgentScope platform"),
    ({"status": 204}, 204, "not one of an AgentScope platform"),
    ({"status": 200, "body": "[" * 60_000}, 200, "not one of an AgentScope platform"),
]


@pytest.mark.parametrize(("answer", "status", "sentence"), FAILURES)
def test_a_failure_is_logged_in_one_line_and_returns_nothing_when_silent(
    client, server, caplog, answer, status, sentence
):
    server.post(f"{URL}/api/ingest/run", **answer)
    server.post(STEP_URL, **answer)
    server.patch(f"{URL}/api/ingest/run/{RUN_ID}", **answer)
    caplog.set_level(logging.WARNING)
    assert client.create_run(RunConfig(input={"payload": "visible"})) is None
    assert client.add_step(RUN_ID, StepConfig()) is False
    assert client.complete_run(RUN_ID) is False
    assert [record.name for record in caplog.records] == ["agentscope"] * 3
    message = caplog.records[0].getMessage()
    assert sentence in message
    assert "\n" not in message
    assert "visible" not in message


@pytest.mark.parametrize(("answer", "status", "sentence"), FAILURES)
def test_a_failure_raises_with_its_status_when_not_silent(loud, server, answer, status, sentence):
    server.post(f"{URL}/api/ingest/run", **answer)
    with pytest.raises(APIError) as caught:
        loud.create_run(RunConfig())
    assert caught.value.status_code == status
    assert sentence in str(caught.value)


@pytest.mark.parametrize("answer", [{}, {"id": None}, {"id": 7}, {"id": ""}])
def test_an_answer_without_a_run_id_is_a_failure(loud, server, answer):
    server.post(f"{URL}/api/ingest/run", json=answer)
    with pytest.raises(APIError, match="names no run"):
        loud.create_run(RunConfig())
    loud.fail_silently = True
    assert loud.create_run(RunConfig()) is None


def test_what_a_platform_says_is_cleaned_and_cut_and_never_shows_the_key(loud, server):
    detail = f"bad key {CANARY}\x1b[31m\r\nforged line " + "x" * 5000
    server.post(f"{URL}/api/ingest/run", status=500, json={"detail": detail})
    with pytest.raises(APIError) as caught:
        loud.create_run(RunConfig())
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 300
    assert CANARY not in message


@pytest.mark.parametrize("run_id", [None, "", ".", "..", 7])
def test_a_run_id_that_is_none_is_a_wrong_call(client, loud, server, caplog, run_id):
    assert client.add_step(run_id, StepConfig()) is False
    assert client.complete_run(run_id) is False
    assert "run_id must be what create_run returned" in caplog.text
    with pytest.raises(AgentScopeError, match="run_id"):
        loud.complete_run(run_id)
    assert len(server.calls) == 0


def test_a_run_id_cannot_lead_to_another_path(client, server):
    client.add_step("../x?y#\ud800", StepConfig())
    assert server.calls[0].request.path_url == "/api/ingest/run/..%2Fx%3Fy%23%3F/step"


def test_a_config_of_another_kind_is_a_wrong_call(client, loud, server):
    assert client.create_run("a") is None
    with pytest.raises(AgentScopeError, match=r"create_run\(config\) cannot take this"):
        loud.create_run("a")
    with pytest.raises(AgentScopeError, match=r"add_step\(run_id, config\) cannot take this"):
        loud.add_step(RUN_ID, RunConfig())


class Unreadable(RunConfig):
    @property
    def agent_name(self):
        raise LookupError("payload text")

    @agent_name.setter
    def agent_name(self, value):
        pass


def test_an_error_of_the_callers_own_objects_is_named_but_not_quoted(loud):
    with pytest.raises(AgentScopeError) as caught:
        loud.create_run(Unreadable())
    assert str(caught.value) == "create_run(config) cannot take this: LookupError"


class TestOptions:
    def test_the_defaults(self):
        client = AgentScopeClient("k")
        assert (client.api_key, client.base_url, client.timeout, client.fail_silently) == ("k", URL, 30, True)

    def test_a_receiver_on_this_machine_needs_no_key(self):
        client = AgentScopeClient()
        assert client.api_key == ""
        assert Tracker(client)._config.secrets == ()

    def test_arguments_go_before_the_environment_and_that_before_defaults(self, monkeypatch):
        monkeypatch.setenv("AGENTSCOPE_API_KEY", "from_env")
        monkeypatch.setenv("AGENTSCOPE_BASE_URL", "https://platform.example/base/")
        client = AgentScopeClient()
        assert (client.api_key, client.base_url) == ("from_env", "https://platform.example/base")
        client = AgentScopeClient("mine", "http://h:1/")
        assert (client.api_key, client.base_url) == ("mine", "http://h:1")

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"base_url": "http://host.test"}, "api_key is missing"),
            ({"api_key": ""}, "api_key"),
            ({"api_key": "two\nlines"}, "api_key"),
            ({"api_key": "k", "base_url": "ftp://h"}, "base_url"),
            ({"api_key": "k", "timeout": 0}, "timeout"),
            ({"api_key": "k", "timeout": "soon"}, "timeout"),
            ({"api_key": "k", "fail_silently": 3}, "fail_silently"),
        ],
    )
    def test_an_option_that_cannot_work_raises_at_once(self, options, named):
        with pytest.raises(ConfigurationError, match=named):
            AgentScopeClient(**options)

    def test_a_base_url_may_have_a_path(self, server):
        server.post("http://h:1/base/api/ingest/run", json={"id": RUN_ID})
        assert AgentScopeClient("k", "http://h:1/base/").create_run(RunConfig()) == RUN_ID


class TestSecrecy:
    def test_the_repr_shows_the_options_and_not_the_key(self, client):
        assert repr(client) == f"AgentScopeClient(api_key=…, base_url='{URL}', timeout=30.0, fail_silently=True)"

    @pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_a_client_is_neither_pickled_nor_copied(self, client, copied):
        with pytest.raises(TypeError, match="create another") as caught:
            copied(client)
        assert CANARY not in str(caught.value)

    @pytest.mark.parametrize("before", range(180, 202, 3))
    def test_no_part_of_the_key_is_shown_where_a_long_answer_that_quotes_it_is_cut(self, loud, server, before):
        server.post(f"{URL}/api/ingest/run", status=422, json={"detail": "x" * before + CANARY})
        with pytest.raises(APIError) as caught:
            loud.create_run(RunConfig())
        assert CANARY[:4] not in str(caught.value)

    def test_no_error_shows_the_key_in_its_frames_or_its_chain(self, loud, server):
        server.post(f"{URL}/api/ingest/run", body=requests.ConnectionError(CANARY))
        with pytest.raises(APIError) as caught:
            loud.create_run(RunConfig())
        assert (caught.value.__cause__, caught.value.__context__) == (None, None)
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        assert CANARY not in "".join(shown.format())
