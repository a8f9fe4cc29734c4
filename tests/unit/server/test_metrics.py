"""Metrics in the text format of Prometheus, with a bounded number of labels."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route

from agentscope.server.metrics import Metrics, add_disk_gauges
from agentscope.server.storage.base import IngestCounts


async def endpoint(request: Any) -> None:
    raise AssertionError


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """The value of each sample by its name and the values of its labels."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def request(metrics: Metrics, status: int | BaseException, method: str = "GET", **scope: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if isinstance(status, BaseException):
            raise status
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def send(message: Any) -> None:
        assert samples(metrics)[("agentscope_requests_under_way", ())] == 1

    asyncio.run(metrics.measured(app)({"type": "http", "method": method, **scope}, None, send))  # type: ignore[arg-type]  # unread


def test_requests_are_counted_by_route_method_and_status() -> None:
    metrics = Metrics()
    metrics.name_routes([Route("/api/runs/{run_id:path}", endpoint), Route("/again", endpoint)])
    for run in range(3):
        request(metrics, 200, path=f"/api/runs/{run}", endpoint=endpoint)
    request(metrics, 404, path="/api/runs/3", endpoint=endpoint)
    found = samples(metrics)
    assert found[("agentscope_requests_total", ("GET", "/api/runs/{run_id:path}", "200"))] == 3
    assert found[("agentscope_requests_total", ("GET", "/api/runs/{run_id:path}", "404"))] == 1
    assert found[("agentscope_request_seconds_count", ("GET", "/api/runs/{run_id:path}"))] == 4
    assert found[("agentscope_requests_under_way", ())] == 0


def test_addresses_and_methods_that_nobody_knows_share_a_label() -> None:
    metrics = Metrics()
    before = len(samples(metrics))
    request(metrics, 421, path="/")
    one = len(samples(metrics))
    for n in range(100):
        request(metrics, 421, path=f"/{n}", method="GET")
    assert len(samples(metrics)) == one > before
    for n in range(100):
        request(metrics, 421, path="/", method=f"M{n}")
    found = samples(metrics)
    assert found[("agentscope_requests_total", ("other", "other", "421"))] == 100
    assert len(found) == one + (one - before)


@pytest.mark.parametrize(("end", "status"), [(RuntimeError("x"), "500"), (asyncio.CancelledError(), "499")])
def test_a_request_that_ends_without_an_answer_is_counted(end: BaseException, status: str) -> None:
    metrics = Metrics()
    with pytest.raises(type(end)):
        request(metrics, end, path="/livez", endpoint="/livez")
    assert samples(metrics)[("agentscope_requests_total", ("GET", "/livez", status))] == 1


def test_events_are_counted_by_what_became_of_them() -> None:
    metrics = Metrics()
    metrics.came(IngestCounts(accepted=5, duplicates=3, conflicts=1, new_runs=2), rejected=4)
    found = samples(metrics)
    counts = {labels[0]: value for (name, labels), value in found.items() if name == "agentscope_events_total"}
    assert counts == {"accepted": 5, "duplicate": 2, "conflict": 1, "rejected": 4}


def test_the_disk_is_watched_also_while_a_file_is_missing(tmp_path: Path) -> None:
    metrics = Metrics()
    add_disk_gauges(metrics, tmp_path / "runs.db")
    (tmp_path / "runs.db").write_bytes(b"x" * 5000)
    found = samples(metrics)
    assert found[("agentscope_database_bytes", ())] == 5000
    assert found[("agentscope_database_log_bytes", ())] == 0
    assert found[("agentscope_disk_free_bytes", ())] > 0
