"""Putting a pipeline together: the warning of a key that is sent without encryption."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from agentscope.config import Config
from agentscope.exporters.base import Destination
from agentscope.exporters.otlp import OTLPExporter
from agentscope.exporters.voltagent import VoltAgentExporter
from agentscope.pipeline import factory

KEY = "ask_canary"
LINE = "the key for host.test:8000 is sent without encryption: use https, unless the network is trusted"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    monkeypatch.setattr(factory, "_warned", set())
    caplog.set_level(logging.WARNING, logger="agentscope")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": KEY, "base_url": "http://host.test:8000/path"},
        {"protocol": "otlp", "endpoint": "http://host.test:8000", "headers": {"Authorization": f"Bearer {KEY}"}},
        {"exporters": [VoltAgentExporter(base_url="HTTP://host.test:8000", public_key=KEY, secret_key=KEY)]},
    ],
)
def test_a_key_that_leaves_this_machine_without_encryption_is_said_once(lines: Any, options: Any) -> None:
    for _ in range(2):
        factory.pipeline_for(Config.load(options, {}))
    assert lines() == [LINE]


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": KEY, "base_url": "https://host.test:8000"},
        {"api_key": KEY, "base_url": "http://127.0.0.1:8000"},
        {"exporters": [OTLPExporter(endpoint="http://collector.test:4318", headers={"x-tenant": "shop"})]},
        {"enabled": False, "api_key": KEY, "base_url": "http://host.test:8000"},
    ],
)
def test_where_no_key_is_exposed_nothing_is_said(lines: Any, options: Any) -> None:
    factory.pipeline_for(Config.load(options, {}))
    assert lines() == []


def test_a_destination_without_an_address_exposes_no_key() -> None:
    assert Destination().exposed is None
