"""A run of very many steps is read part by part, and a failed step among them is one click away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from agentscope.server.http.limits import Limits
from agentscope.server.receiver import Receiver
from tests.support.receiver import Client, at, run_start, step

STEPS = 2500


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    limits = Limits(view_steps=100)
    with Receiver(db=tmp_path_factory.mktemp("large") / "runs.db", limits=limits) as running:
        client = Client(running.url)
        steps = [
            step(
                step_id=f"s{number}",
                parent_id=f"s{number // 10 * 10}" if number % 10 else None,
                name=f"name {number}",
                started_at=at(number),
                status="failed" if number == 1777 else "completed",
                tokens_used=1,
                step_type="llm_call",
            )
            for number in range(STEPS)
        ]
        client.batch(run_start(input={"the": "input"}), *steps)
        client.batch(run_start("small"), step("small", step_id="s", status="failed"))
        yield client


def pages(client: Client, first: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    found, cursor = first["steps"], first["steps_next"]
    while cursor is not None:
        page = client.get(f"/api/runs/run-1/steps?limit={limit}&cursor={cursor}").json
        assert len(page["steps"]) <= limit
        found, cursor = found + page["steps"], page["next"]
    return list(found)


def test_a_large_run_has_its_first_steps_and_the_cursor_of_the_others(client: Client) -> None:
    run = client.get("/api/runs/run-1").json
    assert (run["input"], run["step_count"]) == ({"the": "input"}, STEPS)
    assert (run["error_count"], len(run["steps"])) == (1, 1000)
    found = pages(client, run, 700)
    assert [each["id"] for each in found] == [f"s{number}" for number in range(STEPS)]
    assert [each["step_index"] for each in found] == [*range(STEPS)]
    assert {each["parent_id"] for each in found[100:110]} == {None, "s100"}


def test_the_steps_of_a_small_run_can_be_read_in_parts_too(client: Client) -> None:
    whole = client.get("/api/runs/small").json
    assert "steps_next" not in whole
    assert client.get("/api/runs/small/steps").json == {"steps": whole["steps"], "next": None}


def test_the_failed_steps_are_found_among_all_others(client: Client) -> None:
    page = client.get("/api/runs/run-1/steps?status=failed").json
    assert ([each["id"] for each in page["steps"]], page["next"]) == (["s1777"], None)


def test_the_page_of_a_large_run_shows_a_part_of_its_steps_and_leads_to_all_and_to_the_failed_ones(
    client: Client,
) -> None:
    page = client.get("/runs/run-1").body.decode()
    assert ("name 999<" in page, "name 1000<" in page, f"of {STEPS:,}" in page) == (True, False, True)
    third = client.get("/runs/run-1?page=3").body.decode()
    assert ("name 1999<" in third, "name 2499<" in third) == (False, True)
    (link,) = {*re.findall(r'<a href="([^"]*)">Failed steps<', page)}
    failed = client.get(unescape(link).partition("#")[0]).body.decode()
    assert ("name 1777<" in failed, "name 1776<" in failed) == (True, False)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=1001", 422),
        ("cursor=x", 422),
        ("cursor=WyJhIiwgImIiXQ", 422),
        ("status=completed", 422),
        ("offset=1", 400),
    ],
)
def test_a_page_of_steps_that_cannot_be_is_refused(client: Client, query: str, status: int) -> None:
    assert client.get(f"/api/runs/run-1/steps?{query}").status == status


def test_the_steps_of_an_unknown_run_are_answered_with_404(client: Client) -> None:
    assert client.get("/api/runs/unknown/steps").status == 404


def test_a_run_with_large_payloads_is_read_in_parts_of_bounded_size(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "runs.db", limits=Limits(view_bytes=500_000)) as running:
        client = Client(running.url)
        client.batch(
            run_start(),
            *(step(step_id=f"s{number}", started_at=at(number), input="x" * 200_000) for number in range(9)),
        )
        run = client.get("/api/runs/run-1").json
        assert len(run["steps"]) == 3
        found = pages(client, run, 1000)
        assert [len(each["input"]) for each in found] == [200_000] * 9
        page = client.get("/runs/run-1").body.decode()
        assert page.count("search") >= 9, "the page names every step, with or without its payloads"
