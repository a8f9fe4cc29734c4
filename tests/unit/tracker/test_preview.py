"""`tracker.redact_preview`: what would leave of a value."""

from __future__ import annotations

from typing import Any

import pytest

from agentscope import InMemoryExporter, create_tracker
from agentscope.voltagent import VoltAgentSDK

VALUE = {"password": "hunter2", "max_tokens": 5, "at": (1, 2)}
SHOWN = {"password": "[redacted]", "max_tokens": 5, "at": [1, 2]}


@pytest.mark.parametrize("destinations", [1, 2])
def test_a_preview_shows_what_is_sent_and_records_nothing(destinations: int) -> None:
    memory = [InMemoryExporter() for _ in range(destinations)]
    with create_tracker(exporters=memory) as tracker:
        assert tracker.redact_preview(VALUE) == SHOWN
        stats = tracker.stats()
        assert (stats.calls, stats.accepted, stats.pending, stats.delivered) == (0, 0, 0, 0)
        tracker.start_run("agent", input_data=VALUE)
        tracker.end_run()
        assert tracker.flush()
    assert [run["input"] for exporter in memory for run in exporter.runs] == [SHOWN] * destinations


def test_a_preview_is_bounded_as_a_payload_is() -> None:
    with create_tracker(exporters=[InMemoryExporter()], max_payload_bytes=300) as tracker:
        assert len(tracker.redact_preview("a" * 1000)) < 300


def test_a_preview_with_a_function_that_raises_is_none() -> None:
    def broken(fields: dict[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError

    with create_tracker(exporters=[InMemoryExporter()], redact=broken, fail_silently=False) as tracker:
        assert tracker.redact_preview(VALUE) is None


def test_the_other_face_has_it_too() -> None:
    with VoltAgentSDK(exporters=[InMemoryExporter()], redact=False) as sdk:
        assert sdk.redact_preview("password=hunter2") == "password=hunter2"
