"""The synchronous client against a deployed platform, and over a network that fails."""

from __future__ import annotations

import logging
import os
from datetime import datetime, timezone

import pytest

from agentscope.errors import APIError, AuthenticationError
from agentscope.tracker.client import AgentScopeClient
from agentscope.types import STEP_TYPES, RunConfig, StepConfig
from tests.support.platform import DeployedPlatform
from tests.support.program import run_program
from tests.support.proxy import FaultProxy

CANARY = "ask_canary_0123456789"


@pytest.fixture
def platform():
    with DeployedPlatform(CANARY) as opened:
        yield opened


@pytest.fixture
def client(platform):
    with AgentScopeClient(CANARY, platform.url, timeout=60, fail_silently=False) as opened:
        yield opened


def test_a_run_and_its_steps_are_stored_without_one_refusal(client, platform):
    hostile = {"nul\0": "\0", "surrogate": "\ud800", "nan": float("nan"), "big": 2**70, 3: {1, 2}}
    run_id = client.create_run(RunConfig(agent_name="a" * 300, external_id="e\0", input=hostile, meta_data=hostile))
    now = datetime.now(timezone.utc)
    for step_type in sorted(STEP_TYPES):
        assert client.add_step(
            run_id,
            StepConfig(
                step_type=step_type,
                name="n" * 300,
                input=hostile,
                output=[hostile],
                error="text",
                meta_data=hostile,
                tokens_used=2**40,
                latency_ms=-(2**40),
                started_at=now,
                ended_at=now,
            ),
        )
    assert client.complete_run(run_id, "failed", output=[hostile], error=ValueError("x"))
    assert platform.refusals == []
    assert platform.ignored == []
    run = platform.only_run()
    kinds = [step["meta_data"].get("step_type", step["step_type"]) for step in run.steps]
    assert kinds == sorted(STEP_TYPES)
    assert run.status == "failed"
    assert platform.connections == 1


def test_a_wrong_key_raises(platform):
    with pytest.raises(AuthenticationError):
        AgentScopeClient("wrong", platform.url).create_run(RunConfig())


def test_an_unknown_run_is_an_error_with_the_platforms_own_words(client):
    with pytest.raises(APIError, match="HTTP 404 Run not found") as caught:
        client.complete_run("00000000-0000-4000-8000-000000000009")
    assert caught.value.status_code == 404


@pytest.mark.parametrize(
    "mode", ["refuse", "reset_before", "reset_after", "garbage", "truncated", "html200", "empty204"]
)
def test_every_fault_is_one_api_error_and_no_second_request(platform, caplog, mode):
    caplog.set_level(logging.DEBUG)
    with FaultProxy(platform.url) as proxy, AgentScopeClient(CANARY, proxy.url, fail_silently=False) as client:
        proxy.set(mode)
        with pytest.raises(APIError):
            client.create_run(RunConfig())
        assert sum(proxy.counts.values()) == (0 if mode == "refuse" else 1)
        client.fail_silently = True
        assert client.create_run(RunConfig()) is None
        proxy.set("pass")
        assert client.create_run(RunConfig()) is not None
    assert CANARY not in caplog.text


def test_a_forked_child_opens_its_own_connection(platform):
    with FaultProxy(platform.url) as proxy:
        result = run_program(
            """
            import json, os
            from agentscope.tracker.client import AgentScopeClient
            from agentscope.types import RunConfig

            client = AgentScopeClient()
            first = client.create_run(RunConfig(agent_name="parent"))
            child = os.fork()
            if child == 0:
                client.create_run(RunConfig(agent_name="child"))
                os._exit(0)
            os.waitpid(child, 0)
            client.create_run(RunConfig(agent_name="parent again"))
            print(json.dumps(first))
            """,
            env={"AGENTSCOPE_API_KEY": CANARY, "AGENTSCOPE_BASE_URL": proxy.url, "PYTHONWARNINGS": "ignore"},
        )
        assert result.last_line_json in platform.runs
        assert [run.agent_name for run in platform.runs.values()] == ["parent", "child", "parent again"]
        assert proxy.connections == 2


def test_a_client_in_a_forked_child_changes_its_transport_once(client, platform, monkeypatch):
    inherited = client._transport
    client.create_run(RunConfig())
    monkeypatch.setattr(os, "getpid", lambda: -1)
    client.create_run(RunConfig())
    own = client._transport
    client.create_run(RunConfig())
    assert own is not inherited
    assert client._transport is own
    inherited.close()


def test_closing_lets_go_of_the_connection_and_a_later_call_opens_another(client, platform):
    client.create_run(RunConfig())
    client.close()
    client.create_run(RunConfig())
    assert platform.connections == 2
