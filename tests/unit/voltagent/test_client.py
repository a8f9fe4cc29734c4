"""The direct client of the history API: its requests, results and exceptions."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import requests
import responses

from agentscope import ConfigurationError
from agentscope.voltagent import (
    AddEventRequest,
    APIError,
    CreateHistoryRequest,
    Event,
    EventStatus,
    History,
    TimelineEvent,
    TimeoutError,  # noqa: A004 - the name that the published package exports
    TokenUsage,
    TraceStatus,
    UpdateEventRequest,
    UpdateHistoryRequest,
    ValidationError,
    VoltAgentConfig,
    VoltAgentCoreAPI,
    VoltAgentSDK,
)

URL = "http://localhost:8000"
PUBLIC, SECRET = "pk_canary_0123456789", "sk_canary_0123456789"
CONFIG = VoltAgentConfig(base_url=f"{URL}/", public_key=PUBLIC, secret_key=SECRET, headers={"X-FailingObject": "1"})
HISTORY = {"id": "h-1", "agent_id": "a", "status": "working", "metadata": None, "more": 1}
EVENT = {"id": "e-1", "history_id": "h-1", "event_type": "tool", "event_name": "tool:start", "status": "running"}


@pytest.fixture
def server() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def client(server: responses.RequestsMock) -> Iterator[VoltAgentCoreAPI]:
    with VoltAgentCoreAPI(CONFIG) as opened:
        yield opened


def sent(server: responses.RequestsMock, index: int = -1) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(server.calls[index].request.body)
    return body


def test_a_history_is_created(client: VoltAgentCoreAPI, server: responses.RequestsMock) -> None:
    server.post(f"{URL}/history", json=HISTORY)
    history = client.add_history(CreateHistoryRequest(id="h-1", agentId="a", userId="u", input={"q": "ü"}, extra=[1]))
    assert sent(server) == {
        "id": "h-1",
        "agent_id": "a",
        "userId": "u",
        "input": {"q": "ü"},
        "status": "working",
        "extra": [1],
    }
    assert history == History(**HISTORY)
    assert (history.status, history.more) == (TraceStatus.WORKING, 1)


def test_a_history_is_changed(client: VoltAgentCoreAPI, server: responses.RequestsMock) -> None:
    server.patch(f"{URL}/history/h%2F1", json={**HISTORY, "status": "completed", "usage": {"total_tokens": 5}})
    history = client.update_history(
        UpdateHistoryRequest(id="h/1", status="completed", usage=TokenUsage(total_tokens=5))
    )
    assert sent(server) == {"status": "completed", "usage": {"total_tokens": 5}}
    assert history.usage == TokenUsage(total_tokens=5)


def test_an_event_is_added(client: VoltAgentCoreAPI, server: responses.RequestsMock) -> None:
    server.post(f"{URL}/history-events", json=EVENT)
    event = TimelineEvent(name="tool:start", type="tool", parent_event_id="p", input={"x": 1}, metadata={"id": "t"})
    added = client.add_event(AddEventRequest(history_id="h-1", event=event))
    assert sent(server) == {
        "history_id": "h-1",
        "event_type": "tool",
        "event_name": "tool:start",
        "status": "running",
        "level": "INFO",
        "parent_event_id": "p",
        "metadata": {"id": "t"},
        "input": {"x": 1},
    }
    assert added == Event(**EVENT)


def test_an_event_is_changed(client: VoltAgentCoreAPI, server: responses.RequestsMock) -> None:
    server.patch(f"{URL}/history-events/e-1", json={**EVENT, "status": "error"})
    event = client.update_event(UpdateEventRequest(id="e-1", status=EventStatus.ERROR, status_message="no"))
    assert sent(server) == {"status": "error", "status_message": "no"}
    assert event.status is EventStatus.ERROR


def test_a_request_may_be_a_dict_of_its_fields(client: Any, server: responses.RequestsMock) -> None:
    server.post(f"{URL}/history", json=HISTORY)
    client.add_history({"agent_id": "a"})
    assert sent(server) == {"agent_id": "a", "status": "working"}
    with pytest.raises(ValidationError, match="CreateHistoryRequest or a dict of its fields is expected, not int"):
        client.add_history(5)


def test_every_request_has_the_keys_and_the_headers_that_were_given(
    client: VoltAgentCoreAPI, server: responses.RequestsMock
) -> None:
    server.post(f"{URL}/history", json=HISTORY)
    client.add_history(CreateHistoryRequest(agent_id="a"))
    headers = server.calls[0].request.headers
    assert (headers["x-public-key"], headers["x-secret-key"], headers["X-FailingObject"]) == (PUBLIC, SECRET, "1")
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("id_", ["", ".", ".."])
def test_an_id_that_is_no_id_is_refused(client: VoltAgentCoreAPI, id_: str) -> None:
    with pytest.raises(ValidationError, match="id must be one that the API gave"):
        client.update_event(UpdateEventRequest(id=id_, status="error"))


def test_payloads_may_be_anything(client: VoltAgentCoreAPI, server: responses.RequestsMock) -> None:
    server.post(f"{URL}/history", json=HISTORY)
    client.add_history(CreateHistoryRequest(agent_id="a", input={"set": {1}, "nan": float("nan")}))
    assert sent(server)["input"]["set"] == [1]


# ---- failures --------------------------------------------------------------------------------------------------------


def failed(client: VoltAgentCoreAPI) -> APIError:
    with pytest.raises(APIError) as caught:
        client.add_history(CreateHistoryRequest(agent_id="a"))
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__dict__)
    assert SECRET not in shown.replace(repr(caught.value.response_data), "")
    return caught.value


def test_a_refusal_raises_with_the_servers_message_status_and_answer(
    client: VoltAgentCoreAPI, server: responses.RequestsMock
) -> None:
    answer = {"message": "agent_id is required", "code": 7}
    server.post(f"{URL}/history", json=answer, status=422)
    error = failed(client)
    assert (str(error), error.status_code, error.response_data) == ("agent_id is required", 422, answer)


def test_a_key_that_a_refusal_quotes_is_not_shown(client: VoltAgentCoreAPI, server: responses.RequestsMock) -> None:
    server.post(f"{URL}/history", json={"message": f"{SECRET} and {PUBLIC} are not known"}, status=401)
    assert str(failed(client)) == "… and … are not known"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"body": "Bad Gateway", "status": 502}, "POST was refused: HTTP 502"),
        ({"json": {"message": 5}, "status": 500}, "POST was refused: HTTP 500"),
        (
            {"body": "<html>hunter2", "status": 200},
            "Invalid JSON response: HTTP 200 without a JSON object: check base_url",
        ),
        ({"json": [1], "status": 200}, "Invalid JSON response: HTTP 200 without a JSON object: check base_url"),
        (
            {"status": 307, "headers": {"Location": "http://evil.test/"}},
            "the API redirects (HTTP 307), which is never followed: check base_url",
        ),
    ],
)
def test_an_answer_that_is_none_of_the_api_raises(
    client: VoltAgentCoreAPI, server: responses.RequestsMock, answer: dict[str, Any], sentence: str
) -> None:
    server.post(f"{URL}/history", **answer)
    error = failed(client)
    assert (str(error), error.status_code) == (sentence, answer["status"])
    assert len(server.calls) == 1


def test_an_answer_that_lacks_a_field_raises(client: VoltAgentCoreAPI, server: responses.RequestsMock) -> None:
    server.post(f"{URL}/history", json={"id": "h-1"})
    with pytest.raises(ValidationError, match=r"^Invalid response data: History.agent_id is missing: a str$"):
        client.add_history(CreateHistoryRequest(agent_id="a"))


def test_no_connection_is_an_api_error_with_status_0(client: VoltAgentCoreAPI, server: responses.RequestsMock) -> None:
    server.post(f"{URL}/history", body=requests.exceptions.ConnectionError(f"refused {SECRET}"))
    error = failed(client)
    assert (error.status_code, error.response_data) == (0, None)
    assert str(error).startswith("Network error: ")


def test_no_answer_in_time_is_a_timeout(client: VoltAgentCoreAPI, server: responses.RequestsMock) -> None:
    server.post(f"{URL}/history", body=requests.exceptions.ReadTimeout(SECRET))
    with pytest.raises(TimeoutError, match=r"^Request timeout: no answer within 30 s$"):
        client.add_history(CreateHistoryRequest(agent_id="a"))


def test_nothing_is_sent_twice(client: VoltAgentCoreAPI, server: responses.RequestsMock) -> None:
    server.post(f"{URL}/history", status=503)
    failed(client)
    assert len(server.calls) == 1


# ---- asyncio ---------------------------------------------------------------------------------------------------------


CALLS: list[tuple[Callable[[VoltAgentCoreAPI], Any], str, str, Any]] = [
    (lambda c: c.add_history_async(CreateHistoryRequest(agent_id="a")), "POST", "/history", HISTORY),
    (lambda c: c.update_history_async(UpdateHistoryRequest(id="h-1")), "PATCH", "/history/h-1", HISTORY),
    (
        lambda c: c.add_event_async(AddEventRequest(history_id="h-1", event={"name": "n", "type": "t"})),
        "POST",
        "/history-events",
        EVENT,
    ),
    (lambda c: c.update_event_async(UpdateEventRequest(id="e-1")), "PATCH", "/history-events/e-1", EVENT),
]


@pytest.mark.parametrize(("call", "method", "path", "answer"), CALLS)
def test_each_call_has_a_twin_that_can_be_awaited(
    server: responses.RequestsMock, call: Any, method: str, path: str, answer: Any
) -> None:
    server.add(method, f"{URL}{path}", json=answer)

    async def main() -> Any:
        async with VoltAgentCoreAPI(CONFIG) as client:
            return await call(client)

    found = asyncio.run(main())
    assert found == (History if answer is HISTORY else Event)(**answer)


def test_the_twins_raise_as_their_originals_do(client: VoltAgentCoreAPI, server: responses.RequestsMock) -> None:
    server.post(f"{URL}/history", json={"message": "no"}, status=422)
    with pytest.raises(APIError, match=r"^no$"):
        asyncio.run(client.add_history_async(CreateHistoryRequest(agent_id="a")))


# ---- the client object -----------------------------------------------------------------------------------------------


def test_the_configuration_may_be_a_dict() -> None:
    client = VoltAgentCoreAPI({"base_url": f"{URL}/", "public_key": "p", "secret_key": "s", "timeout": 5})
    assert (client.base_url, client.timeout, client.config.public_key) == (URL, 5, "p")


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"public_key": "p", "secret_key": "s"}, ValidationError),
        ({"base_url": "https://a.test", "public_key": "p"}, ConfigurationError),
        ({"base_url": URL, "public_key": "p", "secret_key": " "}, ConfigurationError),
        ({"base_url": "ftp://x", "public_key": "p", "secret_key": "s"}, ConfigurationError),
        ({"base_url": URL, "public_key": "p", "secret_key": "two words"}, ConfigurationError),
    ],
)
def test_a_configuration_that_cannot_work_raises(config: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        VoltAgentCoreAPI(config)


def test_a_receiver_on_this_machine_needs_no_keys(server: responses.RequestsMock) -> None:
    server.post(f"{URL}/history", json=HISTORY)
    with VoltAgentCoreAPI({"base_url": URL}) as client, VoltAgentSDK(base_url=URL) as sdk:
        assert client.add_history(CreateHistoryRequest(agent_id="a")) == History(**HISTORY)
        assert (client.config.public_key, sdk.config.secret_key) == (None, None)
        assert sdk.client.add_history(CreateHistoryRequest(agent_id="a")) == History(**HISTORY)


def test_missing_keys_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, server: responses.RequestsMock
) -> None:
    monkeypatch.setenv("VOLTAGENT_PUBLIC_KEY", PUBLIC)
    monkeypatch.setenv("VOLTAGENT_SECRET_KEY", SECRET)
    server.post("https://a.test/history", json=HISTORY)
    with VoltAgentCoreAPI({"base_url": "https://a.test"}) as client:
        client.add_history(CreateHistoryRequest(agent_id="a"))
    sent_headers = server.calls[0].request.headers
    assert (sent_headers["X-Public-Key"], sent_headers["X-Secret-Key"]) == (PUBLIC, SECRET)


def test_an_sdk_has_a_client_with_its_own_options() -> None:
    sdk = VoltAgentSDK(base_url=URL, public_key=PUBLIC, secret_key=SECRET, timeout=7)
    assert isinstance(sdk.client, VoltAgentCoreAPI)
    assert sdk.client is sdk.client
    assert (sdk.client.base_url, sdk.client.timeout) == (URL, 7.0)


def test_the_repr_shows_no_key(client: VoltAgentCoreAPI) -> None:
    assert repr(client) == f"VoltAgentCoreAPI(base_url={URL!r}, public_key=…, secret_key=…, timeout=30)"


def test_a_client_cannot_be_copied_or_pickled(client: VoltAgentCoreAPI) -> None:
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            attempt(client)


def test_a_closed_client_opens_new_connections(client: VoltAgentCoreAPI, server: responses.RequestsMock) -> None:
    server.post(f"{URL}/history", json=HISTORY)
    client.close()
    assert client.add_history(CreateHistoryRequest(agent_id="a")).id == "h-1"


def test_a_forked_child_opens_its_own_connections(client: VoltAgentCoreAPI, server: responses.RequestsMock) -> None:
    server.post(f"{URL}/history", json=HISTORY)
    before = client._transport
    client.add_history(CreateHistoryRequest(agent_id="a"))
    assert client._transport is before
    with patch.object(os, "getpid", lambda: -1):
        client.add_history(CreateHistoryRequest(agent_id="a"))
    assert client._transport is not before
