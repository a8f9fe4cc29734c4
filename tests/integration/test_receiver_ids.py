"""A run of any id can be opened, changed and deleted by its address, and its page is linked by one that browsers keep."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import quote, urljoin

import pytest

from agentscope.server.http.paths import address_of
from agentscope.server.receiver import Receiver
from tests.support.receiver import Client, run_start, step

IDS = (
    *("..", ".", "x", "x/events", "x/step", "/x", "x/", "//", "a/../b", "%2F", "%2e%2e", "x%2Fevents", "100%", "%"),
    *(
        "?id=x",
        "#x",
        "a b",
        "a+b",
        "&",
        "é",
        "\U0001f600",
        "\u202e",
        "login",
        "events",
        "\r\n",
        "\\",
        "<b>",
        '"',
        "'",
        "*",
    ),
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Receiver(db=tmp_path_factory.mktemp("ids") / "runs.db") as running:
        client = Client(running.url)
        for number, run_id in enumerate(IDS):
            assert client.batch(run_start(run_id, agent_name=f"agent {number}"), step(run_id)).json["accepted"] == 2
        yield client


def followed(base: str, address: str) -> str:
    """The path that a browser asks for: it takes `.` and `..` out of a path, percent-encoded too."""
    path, mark, query = address.partition("?")
    parts = [
        {"%2e": ".", "%2e%2e": "..", ".%2e": "..", "%2e.": ".."}.get(part.lower(), part) for part in path.split("/")
    ]
    return urljoin(base, "/".join(parts)) + mark + query


@pytest.mark.parametrize("run_id", IDS)
def test_a_run_is_shown_by_the_address_of_its_id(client: Client, run_id: str) -> None:
    name = f"agent {IDS.index(run_id)}"
    assert client.get(followed("/", address_of("/api/runs", run_id))).json["id"] == run_id
    events = client.get(followed("/", address_of("/api/runs", run_id, "/events"))).json["events"]
    assert {event["run_id"] for event in events} == {run_id}
    page = client.get(followed("/", address_of("/runs", run_id)))
    assert (page.status, name in page.body.decode()) == (200, True)


def test_the_links_of_the_list_lead_to_every_run(client: Client) -> None:
    links = re.findall(r'href="(/runs/[^"]*)"[^>]*>(agent \d+)<', client.get("/").body.decode())
    assert len(links) == len(IDS)
    for link, name in links:
        page = client.get(followed("/", unescape(link))).body.decode()
        assert f">{name}<" in page
        for more in re.findall(r'<a href="(/api/runs[^"]*)">(?:This run as JSON|Its events)', page):
            assert client.get(followed("/", unescape(more))).status == 200


@pytest.mark.parametrize("run_id", ["x/events", "x/step", "a/../b", "%2F", "/x", "100%"])
def test_a_run_is_changed_by_the_classic_calls_with_its_id_in_the_path(client: Client, run_id: str) -> None:
    path = f"/api/ingest/run/{quote(run_id, safe='')}"
    assert client.send("POST", f"{path}/step", {"name": "classic"}).status == 200
    assert client.send("PATCH", path, {"status": "failed"}).status == 200
    run = client.get(address_of("/api/runs", run_id)).json
    assert (run["status"], run["step_count"]) == ("failed", 2)


@pytest.mark.parametrize("run_id", ["..", ".", "x/events", "%2e%2e", "//"])
def test_a_run_of_any_id_can_be_deleted_alone(tmp_path: Path, run_id: str) -> None:
    with Receiver(db=tmp_path / "runs.db") as running:
        client = Client(running.url)
        client.batch(*map(run_start, IDS))
        assert client.send("DELETE", followed("/", address_of("/api/runs", run_id))).json == {"deleted": 1}
        assert {run["id"] for run in client.get("/api/runs").json["runs"]} == {*IDS} - {run_id}


@pytest.mark.parametrize("path", ["/api/runs/", "/api/runs/?id=unknown", "/api/runs//events", "/runs/"])
def test_an_address_that_names_no_run_is_answered_with_404(client: Client, path: str) -> None:
    assert client.get(path).status == 404
