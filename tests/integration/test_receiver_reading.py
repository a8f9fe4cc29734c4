"""The read API and the pages of the receiver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agentscope._version import __version__
from agentscope.events import FIELDS
from agentscope.server.read import pages
from agentscope.server.receiver import Receiver
from agentscope.server.storage.base import RunQuery
from tests.support.receiver import Client, at, run_end, run_start, step


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with Receiver(db=tmp_path / "runs.db") as receiver:
        yield Client(receiver.url)


class Page(HTMLParser):
    """The tags, attributes and texts of a page, as a browser would see them."""

    def __init__(self, source: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(source.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def ids(answer: Any) -> list[str]:
    return [run["id"] for run in answer.json["runs"]]


def test_health_tells_the_version_and_what_is_stored(client: Client) -> None:
    client.batch(run_start("a"), step("b"))
    health = client.get("/health").json
    assert (health["status"], health["version"], health["events"], health["runs"]) == ("ok", __version__, 2, 2)


def test_runs_come_newest_first_and_pages_are_stable_under_inserts(client: Client) -> None:
    client.batch(*(run_start(f"r{number}", time=at(number)) for number in range(7)))
    first = client.get("/api/runs?limit=3")
    client.batch(run_start("newer", time=at(30)), run_start("twin", time=at(2)))
    second = client.get(f"/api/runs?limit=3&cursor={first.json['next']}")
    third = client.get(f"/api/runs?limit=3&cursor={second.json['next']}")
    assert (ids(first), ids(second), ids(third)) == (["r6", "r5", "r4"], ["r3", "twin", "r2"], ["r1", "r0"])
    assert third.json["next"] is None


def test_a_page_that_holds_the_last_run_has_no_next(client: Client) -> None:
    client.batch(run_start("a"), run_start("b"))
    assert client.get("/api/runs?limit=2").json["next"] is None


def test_runs_are_filtered_by_status_agent_and_words(client: Client) -> None:
    client.batch(run_start("a", agent_name="planner", external_id="order_1%"), run_end("a", status="failed"))
    client.batch(run_start("b", agent_name="Writer"), run_start("c", agent_name="writer", user_id="zoe"))
    for query, expected in {
        "status=failed": ["a"],
        "status=running&agent=writer": ["c"],
        "q=RITER": ["c", "b"],
        "q=order_1%25": ["a"],
        "q=order%251": [],
        "q=_": ["a"],
        "q=zoe": ["c"],
        "q=%5C": [],
        "q=%27%20OR%201=1--": [],
        "q=&status=&agent=": ["c", "b", "a"],
    }.items():
        assert ids(client.get(f"/api/runs?{query}")) == expected, query


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=ten",
        "limit=1.5",
        "limit=%D9%A1",
        "limit=99999999999999999999",
        "cursor=%F0",
        "cursor=nonsense",
        "cursor=LTEuMjAyNg",
        "cursor=99999999999999999999999999.x",
        "q=%00",
        "status=" + "x" * 256,
    ],
)
def test_query_parameters_that_cannot_be_are_refused(client: Client, query: str) -> None:
    answer = client.get(f"/api/runs?{query}")
    assert (answer.status, answer.json["detail"][-1]) == (422, ".")


def test_the_events_of_a_run_are_shown_as_they_came(client: Client) -> None:
    sent = [step(time=at(5), note={"unknown": "field"}), run_start()]
    client.batch(*sent)
    expected = [{"session_id": "session-1", **event} for event in sent]
    assert client.get("/api/runs/run-1/events").json == {"events": expected}


@pytest.mark.parametrize("run_id", ["a/b", "../x", "a b", "ü%2F", "x" * 255, "<b>", "a?b#c"])
def test_ids_of_any_shape_are_found_by_their_quoted_path(client: Client, run_id: str) -> None:
    client.batch(run_start(run_id))
    path = quote(run_id, safe="")
    assert client.get(f"/api/runs/{path}").json["id"] == run_id
    assert len(client.get(f"/api/runs/{path}/events").json["events"]) == 1
    assert client.get(f"/runs/{path}").status == 200
    assert f'href="/runs/{path}"'.encode() in client.get("/").body


@pytest.mark.parametrize(
    "path", ["/api/runs/x", "/api/runs/x/events", "/runs/x", "/api/runs/", "/static/../app.py", "/x"]
)
def test_what_is_not_there_is_not_found(client: Client, path: str) -> None:
    assert client.get(path).status == 404


def test_the_empty_list_tells_how_to_point_an_sdk_at_the_receiver(client: Client) -> None:
    page = Page(client.get("/").body)
    assert f'base_url="http://{client.host}"' in page.text
    assert "No run matches" in Page(client.get("/?q=x").body).text


def test_the_list_shows_runs_with_a_filter_and_a_next_page(client: Client) -> None:
    client.batch(run_start("a", time=at(1)), run_end("a"), step("a", step_type="llm_call", tokens_used=1234))
    client.batch(run_start("b", agent_name="other"), step("b", error={"message": "no"}))
    page = Page(client.get("/?limit=1&status=completed").body)
    assert "1,234" in page.text
    assert "59.00 s" in page.text
    assert ("href", "/runs/a") in page.attributes
    assert ("selected", None) in page.attributes
    more = Page(client.get("/?limit=1").body)
    (link,) = [value for name, value in more.attributes if name == "href" and value and "cursor=" in value]
    assert ("href", "/runs/b") in Page(client.get(link).body).attributes
    assert "cancelled" in Page(client.get("/?status=cancelled").body).text


def test_a_run_page_nests_steps_and_shows_payloads_and_errors(client: Client) -> None:
    failure = {"type": "ValueError", "message": "no", "traceback": "line 1\nline 2"}
    client.batch(
        run_start(input={"q": "why"}, tags=["nightly"], external_id="x-7", user_id="ann"),
        run_end(error=failure, status="failed", truncated=["output"]),
        step(step_id="top", name="outer", started_at=at(1), ended_at=at(100)),
        step(step_id="in", name="inner", parent_id="top", started_at=at(2), error=failure, output="plain text"),
        step(step_id="lost", name="loose", parent_id="gone", started_at=at(3), latency_ms=12.34),
        step(step_id="half", started_at=at(4), latency_ms=250),
    )
    page = Page(client.get("/runs/run-1").body)
    assert page.open == []
    assert page.tags.count("details") == 4
    assert page.tags.count("ul") == 2
    for words in (
        "why",
        "nightly",
        "x-7",
        "ann",
        "plain text",
        "line 1\nline 2",
        "did not come",
        "1 min 39 s",
        "12.3 ms",
    ):
        assert words in page.text, words
    assert "Cut or left out before it was sent: output" in page.text


def test_a_run_without_steps_says_so(client: Client) -> None:
    client.batch(run_start())
    assert "No steps came so far." in Page(client.get("/runs/run-1").body).text
    client.batch(run_end())
    assert "No steps were recorded." in Page(client.get("/runs/run-1").body).text


def test_nothing_that_was_recorded_becomes_markup(client: Client) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> javascript:alert(1)"
    names = {"agent_name": evil, "status": evil, "external_id": evil, "user_id": evil, "tags": [evil]}
    client.batch(run_start(evil, **names, input={evil: evil}, meta_data=evil))
    client.batch(step(evil, name=evil, step_type=evil, status=evil, error=evil, parent_id=evil, truncated=[evil]))
    for path in (
        "/",
        f"/?q={quote(evil)}",
        f"/?agent={quote(evil)}&status={quote(evil)}",
        f"/runs/{quote(evil, safe='')}",
    ):
        page = Page(client.get(path).body)
        assert not {"script", "img"} & set(page.tags)
        assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
        assert not [value for _, value in page.attributes if value and value.startswith("javascript:")]
        assert "<script>alert(1)</script>" in page.text or path.startswith("/?")


def test_characters_that_are_not_seen_are_shown_by_their_number() -> None:
    assert pages.text("a\u202eb\0") == 'a<span class="unseen">U+202E</span>b<span class="unseen">U+0000</span>'
    assert pages.text("tab\tline\n") == "tab\tline\n"


def test_a_huge_cell_is_cut_with_a_link_to_the_whole(client: Client) -> None:
    client.batch(run_start(output="y" * 3_000_000))
    answer = client.get("/runs/run-1")
    assert len(answer.body) < 100_000
    assert b'<a href="/api/runs/run-1">cut here' in answer.body
    assert len(client.get("/api/runs/run-1").json["output"]) == 3_000_000


def test_a_page_of_very_many_and_very_deep_steps_stays_a_page(client: Client) -> None:
    chain = [step(step_id=f"s{n}", parent_id=f"s{n - 1}" if n else None, started_at=at(n)) for n in range(1500)]
    client.batch(run_start(), *chain)
    page = Page(client.get("/runs/run-1").body)
    assert page.open == []
    assert page.tags.count("details") == pages.MAX_STEPS
    assert page.tags.count("ul") < 50
    assert "Steps 1 to 1,000 of 1,500" in page.text
    (link, _) = [value for name, value in page.attributes if name == "href" and value and "page=" in value]
    assert link == "/runs/run-1?page=2#steps"
    rest = Page(client.get(link.partition("#")[0]).body)
    assert (rest.open, rest.tags.count("details")) == ([], 500)


@pytest.mark.parametrize("page", ["0", "-1", "two", "1.5", "", "1000001", "9" * 30, "%D9%A1"])
def test_a_page_of_steps_that_cannot_be_is_refused_by_a_page(client: Client, page: str) -> None:
    client.batch(run_start())
    answer = client.get(f"/runs/run-1?page={page}")
    assert answer.status == 422
    assert "page must be a whole number from 1 to 1000000." in Page(answer.body).text


@pytest.mark.parametrize(
    ("milliseconds", "shown"), [(None, "–"), (0.4, "0.4 ms"), (250, "250 ms"), (1500, "1.50 s"), (90_000, "1 min 30 s")]
)
def test_durations_are_shown_in_the_unit_that_fits(milliseconds: float | None, shown: str) -> None:
    run = dict.fromkeys(("external_id", "user_id", "conversation_id", "started_at", "tokens_used"))
    run |= {
        "id": "r",
        "agent_name": "a",
        "status": "odd",
        "failed": False,
        "step_count": 0,
        "error_count": 0,
        "agents": [],
        "tags": [],
    }
    line = pages.run_list([{**run, "duration_ms": milliseconds}], RunQuery(), None, "http://x", False)
    assert f'<td data-label="Duration">{shown}</td>' in line


def test_the_style_sheet_is_served_and_pages_hold_no_style_of_their_own(client: Client) -> None:
    style = client.get("/static/style.css")
    assert (style.status, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert b"prefers-color-scheme: dark" in style.body
    client.batch(run_start(), step())
    for path in ("/", "/runs/run-1", "/login"):
        page = Page(client.get(path).body)
        assert "style" not in page.tags
        assert "style" not in dict(page.attributes)


def test_the_run_in_the_api_is_plain_json(client: Client) -> None:
    client.batch(run_start(input="é"))
    answer = client.get("/api/runs/run-1")
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body)["input"] == "é"


# ---- the fields of runs and steps ----------------------------------------------------------------------------------


RUN_VALUES = {
    "user_id": "zoe",
    "conversation_id": "c-7",
    "tags": ["red", "<b>"],
    "environment": "prod",
    "release": "2.0",
}
FIELDS_BY_FILTER = {field.filter: field for field in FIELDS.values() if field.filter}
STEP_VALUES = {"model": "large-1", "provider": "acme", "cost_usd": 0.0125, "first_token_ms": 81.5}


def test_the_fields_of_runs_and_steps_are_in_the_read_api(client: Client) -> None:
    client.batch(run_start("r", **RUN_VALUES), step("r", step_id="s", **STEP_VALUES), step("r", step_id="t"))
    run = client.get("/api/runs/r").json
    (listed,) = client.get("/api/runs").json["runs"]
    assert {name: run[name] for name in RUN_VALUES} == {name: listed[name] for name in RUN_VALUES} == RUN_VALUES
    steps = {each["id"]: each for each in run["steps"]}
    assert {name: steps["s"][name] for name in STEP_VALUES} == STEP_VALUES
    assert {steps["t"][name] for name in STEP_VALUES} == {None}


@pytest.mark.parametrize(
    "parameter", ["user_id=zoe", "conversation_id=c-7", "tag=red", "environment=prod", "release=2.0", "model=large-1"]
)
def test_runs_are_filtered_by_each_field_in_the_read_api_and_on_the_page(client: Client, parameter: str) -> None:
    client.batch(run_start("r", **RUN_VALUES), step("r", step_id="s", **STEP_VALUES), run_start("other"))
    assert ids(client.get(f"/api/runs?{parameter}")) == ["r"]
    assert ids(client.get(f"/api/runs?{parameter}x")) == []
    page = Page(client.get(f"/?{parameter}").body)
    assert ("href", "/runs/r") in page.attributes
    assert ("href", "/runs/other") not in page.attributes
    name, _, value = parameter.partition("=")
    assert f"Only runs of {FIELDS_BY_FILTER[name].label.lower()} {value}." in page.text
    assert {("name", name), ("value", value)} <= set(page.attributes)  # kept when the form is sent


def test_a_cancelled_step_or_run_is_no_error(client: Client) -> None:
    error = {"type": "CancelledError", "message": ""}
    client.batch(
        run_start("r"),
        step("r", step_id="s", status="cancelled", error=error),
        run_end("r", status="cancelled", error=error),
    )
    (run,) = client.get("/api/runs?status=cancelled").json["runs"]
    assert (run["status"], run["failed"], run["error_count"]) == ("cancelled", False, 0)
    assert "cancelled" in Page(client.get("/runs/r").body).text


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/api/runs?user=zoe", "'user'"),
        ("/api/runs?status=failed&Status=failed", "'Status'"),
        ("/api/runs/r?page=2", "'page'"),
        ("/api/runs/r/events?limit=5", "'limit'"),
    ],
)
def test_a_parameter_that_the_read_api_does_not_know_is_refused_by_name(client: Client, path: str, named: str) -> None:
    client.batch(run_start("r"))
    answer = client.get(path)
    assert answer.status == 400
    assert named in answer.json["detail"]


def test_a_page_of_a_run_shows_its_fields_and_links_to_the_runs_that_share_them(client: Client) -> None:
    client.batch(run_start("r", **RUN_VALUES), step("r", step_id="s", **STEP_VALUES))
    page = Page(client.get("/runs/r").body)
    for label, value in (("User", "zoe"), ("Conversation", "c-7"), ("Environment", "prod"), ("Release", "2.0")):
        assert f"{label}{value}" in page.text
    for label, value in (
        ("Model", "large-1"),
        ("Provider", "acme"),
        ("Cost (USD)", "0.0125"),
        ("First token (ms)", "81.5"),
    ):
        assert f"{label}{value}" in page.text
    assert "<b>" in page.text  # a tag, escaped in the source
    links = {value for name, value in page.attributes if name == "href"}
    assert {"/?user_id=zoe", "/?tag=red", "/?tag=%3Cb%3E", "/?model=large-1"} <= links


def test_a_trace_id_of_32_digits_is_the_address_of_its_run_and_runs_is_the_list(client: Client) -> None:
    run_id = "5b8efff7-9803-8103-d269-b633813fc60c"
    client.batch(run_start(run_id, agent_name="planner"), run_start("0" * 32, agent_name="writer"))
    for digits in ("5b8efff798038103d269b633813fc60c", "5B8EFFF798038103D269B633813FC60C"):
        assert client.get(f"/api/runs/{digits}").json["id"] == run_id
        assert client.get(f"/api/runs/{digits}/events").json["events"][0]["run_id"] == run_id
        assert "planner" in client.get(f"/runs/{digits}").body.decode()
    assert client.get(f"/api/runs/{'0' * 32}").json["agent_name"] == "writer"
    assert client.get(f"/api/runs/{'1' * 32}").status == 404
    assert client.get("/runs").body == client.get("/").body
