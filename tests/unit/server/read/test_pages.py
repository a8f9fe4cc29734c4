"""The pages as text: what they say of a run, its steps and its errors."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from agentscope.server.read import pages
from agentscope.server.storage.base import RunQuery, StoredEvent
from agentscope.server.storage.fold import run_view
from tests.support.receiver import at, run_end, run_start, step


class Tree(HTMLParser):
    """The text of a page, and the depth in lists of each step and each note."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.steps: list[tuple[int, str]] = []
        self.notes: list[tuple[int, str]] = []
        self.pres: list[str] = []
        self.figures: list[str] = []
        self.links: dict[str, str] = {}
        self.text = ""
        self._inside = ""
        self._link = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in ("meta", "link", "input"):
            self._open.append(tag)
        self._inside = given.get("class") or tag
        self._link = given.get("href") or ""
        if tag == "pre":
            self.pres.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        lists = self._open.count("ul")
        if self._inside == "name":
            self.steps.append((lists, data))
        elif self._inside == "note":
            self.notes.append((lists, data))
        elif self._inside == "pre":
            self.pres[-1] += data
        elif self._inside == "figures":
            self.figures.append(data)
        elif self._inside == "a":
            self.links[data] = self._link


def shown(*events: dict[str, Any], page: int = 1) -> Tree:
    """The page of the run that these events add up to."""
    patches = [StoredEvent("session", json.dumps(event)).patch() for event in events]
    return Tree(pages.run_page(run_view("run-1", patches), page))


def chain(count: int) -> list[dict[str, Any]]:
    """Steps that are each part of the one before."""
    return [
        step(step_id=f"s{n}", name=f"part {n}", parent_id=f"s{n - 1}" if n else None, started_at=at(n))
        for n in range(count)
    ]


def listed(**fields: Any) -> str:
    """The list of one run."""
    run: dict[str, Any] = dict.fromkeys(("external_id", "user_id", "conversation_id", "started_at", "tokens_used"))
    run |= {"id": "r", "agent_name": "a", "status": "odd", "failed": False, "step_count": 0, "error_count": 0}
    run |= {"duration_ms": None, "agents": [], "tags": []}
    return pages.run_list([{**run, **fields}], RunQuery(), None, "http://x", False)


def test_steps_stand_in_the_lists_of_the_steps_they_are_part_of() -> None:
    family = {"a": None, "b": "a", "c": "b", "d": "a", "e": None, "f": "e", "g": None}
    events = [
        step(step_id=name, name=name, parent_id=parent, started_at=at(place))
        for place, (name, parent) in enumerate(family.items())
    ]
    assert shown(run_start(), *events).steps == [(1, "a"), (2, "b"), (3, "c"), (2, "d"), (1, "e"), (2, "f"), (1, "g")]


def test_below_the_twelfth_level_steps_stand_side_by_side_and_tell_their_level() -> None:
    last = step(step_id="last", name="last", parent_id="s1", started_at=at(50))
    page = shown(run_start(), *chain(45), last)
    depths = [min(n + 1, 12) for n in range(45)]
    assert page.steps == [*((depth, f"part {n}") for n, depth in enumerate(depths)), (3, "last")]
    assert [int(level) for level in re.findall(r"level (\d+)", page.text)] == list(range(12, 46))


def test_a_page_of_many_steps_has_their_range_and_links_to_those_before_and_after() -> None:
    events = [run_start(), *(step(name=f"step {n}", started_at=at(n)) for n in range(2500))]
    first, second, third = (shown(*events, page=number) for number in (1, 2, 3))
    assert "Steps 1 to 1,000 of 2,500" in first.text
    assert "Steps 1,001 to 2,000 of 2,500" in second.text
    assert "Steps 2,001 to 2,500 of 2,500" in third.text
    assert [name for page in (first, second, third) for _, name in page.steps] == [f"step {n}" for n in range(2500)]
    before, after = "/runs/run-1?page=1#steps", "/runs/run-1?page=3#steps"
    assert "Previous 1,000 steps" not in first.links
    assert (second.links["Previous 1,000 steps"], second.links["Next 500 steps"]) == (before, after)
    assert not [link for link in third.links if link.startswith("Next")]


def test_a_run_whose_steps_fit_one_page_has_no_links_to_others() -> None:
    page = shown(run_start(), *chain(3))
    assert not [link for link in page.links if "steps" in link]


def test_a_page_beyond_the_last_is_the_last() -> None:
    events = [run_start(), *chain(1200)]
    assert shown(*events, page=999).steps == shown(*events, page=2).steps
    assert "No steps" in shown(run_start(), page=7).text


def test_a_page_names_the_ancestors_of_its_first_step_again() -> None:
    inner = [step(name=f"in {n}", parent_id="mid", started_at=at(n + 2)) for n in range(1200)]
    outer = step(step_id="top", name="top", started_at=at(0))
    page = shown(run_start(), outer, step(step_id="mid", name="mid", parent_id="top", started_at=at(1)), *inner, page=2)
    assert page.notes[1:3] == [(1, "top, continued"), (2, "mid, continued")]
    assert page.steps[0] == (3, "in 998")
    assert len([name for _, name in page.notes if name.endswith("continued")]) == 2


def test_of_very_many_steps_above_a_page_only_the_nearest_are_named() -> None:
    page = shown(run_start(), *chain(1500), page=2)
    named = [name for _, name in page.notes if name.startswith("part")]
    assert named == [f"part {n} " for n in range(988, 1000)]
    assert page.steps[0] == (12, "part 1000")
    assert "level 1,001" in page.text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            {
                "type": "OSError",
                "message": 'no "disk"\n<b>',
                "traceback": 'File "/tmp/a.py", line 1\n    open("C:\\new")',
            },
            'OSError: no "disk"\n<b>\n\nFile "/tmp/a.py", line 1\n    open("C:\\new")',
        ),
        ({"type": "RateLimit", "message": "slow down", "code": 429}, 'RateLimit: slow down\n\n{\n  "code": 429\n}'),
        ({"message": "no"}, "no"),
        ({"type": "", "message": "no", "traceback": ""}, 'no\n\n{\n  "type": "",\n  "traceback": ""\n}'),
        ({"traceback": "line 1\nline 2"}, "line 1\nline 2"),
        ({"message": {"said": "no"}}, '{\n  "message": {\n    "said": "no"\n  }\n}'),
        ({}, "{}"),
        ('only "text"', 'only "text"'),
        (["a", "b"], '[\n  "a",\n  "b"\n]'),
    ],
)
def test_the_texts_of_an_error_are_shown_as_text_and_its_other_fields_as_json(error: Any, told: str) -> None:
    assert shown(run_start(error=error)).pres == [told]


def test_payloads_that_mention_a_traceback_stay_the_json_they_are() -> None:
    value = {"traceback": "line 1\nC:\\new"}
    (told,) = shown(run_start(input=value)).pres
    assert json.loads(told) == value


def test_a_run_that_goes_on_has_no_steps_so_far_and_one_that_ended_has_none() -> None:
    assert "No steps came so far." in shown(run_start()).text
    for status in ("completed", "failed", "cancelled"):
        assert "No steps were recorded." in shown(run_start(), run_end(status=status)).text


@pytest.mark.parametrize(
    ("fields", "figures"),
    [
        ({"started_at": at(1), "ended_at": at(1)}, "–"),
        ({"started_at": at(1), "ended_at": at(1), "tokens_used": 5}, "5 tokens · –"),
        ({"started_at": at(1), "ended_at": at(1), "latency_ms": 0.143}, "0.143 ms"),
        ({"started_at": at(1), "ended_at": at(3)}, "2.00 s"),
        ({"started_at": at(1), "ended_at": at(3), "latency_ms": 0}, "0 ms"),
        ({"latency_ms": 0}, "0 ms"),
        ({"started_at": at(1)}, "–"),
    ],
)
def test_a_step_of_one_instant_has_no_duration_unless_one_was_recorded(fields: dict[str, Any], figures: str) -> None:
    assert shown(step(**fields)).figures == [figures]


@pytest.mark.parametrize(
    ("cost", "shown"), [(None, None), (0.0, "0"), (0.0123, "0.0123"), (2.5e-06, "0.0000025"), (1234.5, "1,234.5")]
)
def test_a_run_shows_its_cost_where_a_step_has_one(cost: float | None, shown: str | None) -> None:
    patch = StoredEvent("session", json.dumps(step(cost_usd=cost))).patch()
    of_run = pages.run_page(run_view("run-1", [patch])).partition("<h2")[0]
    assert dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", of_run)).get("Cost (USD)") == shown


def test_the_filter_names_the_inputs_that_are_compared_whole_and_in_part() -> None:
    page = listed()
    assert 'name="agent" value="" placeholder="its whole name"' in page
    assert 'name="q" value="" placeholder="part of a name or id"' in page


def test_where_no_run_has_the_agent_that_was_asked_for_search_is_named() -> None:
    asked = pages.run_list([], RunQuery(agent="plan"), None, "http://x", False)
    assert "No run matches. Agent is compared as a whole name; Search finds parts, too." in asked
    assert "whole name;" not in pages.run_list([], RunQuery(q="plan"), None, "http://x", False)


def test_a_long_name_is_cut_in_the_list_and_whole_in_its_title_and_on_the_page_of_its_run() -> None:
    name = "planner of voyages " * 34
    page = listed(agent_name=name)
    assert f'title="{name}">{name[:200]}…</a>' in page
    assert name in shown(run_start(agent_name=name)).text


def test_characters_that_are_not_seen_make_no_markup_in_attributes_and_titles() -> None:
    page = listed(agent_name='a\u202e"b')
    assert 'title="aU+202E&quot;b"' in page
    asked = pages.run_list([], RunQuery(q="\u200b", agent="\u200b", status="\u200b"), None, "http://x", False)
    assert asked.count('value="U+200B"') == 3
    assert "<title>U+200B · AgentScope</title>" in pages.message("\u200b", "")


def test_each_figure_of_a_run_has_a_label_where_there_are_no_columns() -> None:
    page = listed(duration_ms=250, step_count=3000)
    assert '<td data-label="Duration">250 ms</td><td data-label="Steps">3,000</td>' in page


def test_texts_have_the_direction_of_their_own_script() -> None:
    page = pages.run_page(
        run_view("run-1", [StoredEvent("s", json.dumps(run_start(input="\u0633\u0644\u0627\u0645"))).patch()])
    )
    assert '<pre dir="auto">\u0633\u0644\u0627\u0645</pre>' in page
    assert '<span dir="auto">tester</span>' in page
    assert '<a href="/runs/r" dir="auto" title="a">a</a>' in listed()


def test_a_name_of_spaces_alone_is_shown_by_their_numbers() -> None:
    assert '<span class="unseen">U+0020</span><span class="unseen">U+00A0</span></a>' in listed(agent_name=" \u00a0")


def test_the_form_offers_runs_that_failed_and_runs_in_which_any_step_failed() -> None:
    asked = pages.run_list([], RunQuery(step_status="failed"), None, "http://x", False)
    assert 'name="step_status" value="failed" checked>' in asked
    assert '<option value="failed">' in asked
    assert 'name="step_status" value="failed">' in listed()
    link = pages.run_list([], RunQuery(step_status="failed"), "cursor", "http://x", False)
    assert "step_status=failed" in link.partition("Older runs")[0].rpartition("href")[2]


def test_a_line_of_the_list_names_the_agents_inside_a_run_and_the_runs_of_check() -> None:
    line = listed(agents=[f"agent {number}" for number in range(7)])
    assert '<span class="type" dir="auto">agent 4</span> <span class="type">+2</span>' in line
    assert "check of the connection" in listed(tags=["agentscope-check"])
    assert "check of the connection" not in line


def test_a_run_shows_its_tokens_by_kind_its_agents_and_that_its_root_is_not_here() -> None:
    usage = {"input_tokens": 30, "output_tokens": 5, "cached_tokens": 20, "reasoning_tokens": 0}
    page = shown(step(step_type="agent", name="planner"), step(name="search", usage=usage))
    facts = page.text.partition("Steps\n")[0]
    assert "input 30 · output 5 · cache read 20 · reasoning 0" in facts
    assert "cache write" not in page.text
    assert "not here; told from the steps" in facts
    assert "not here" not in shown(run_start()).text
    page = shown(run_start(), step(step_type="agent", name="planner"))
    assert page.links["planner"] == "/?agent=planner"
