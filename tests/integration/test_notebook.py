"""A run that a notebook shows: its tree, and a link to its page."""

from __future__ import annotations

import time

from agentscope import InMemoryExporter, create_tracker
from agentscope.server.receiver import Receiver


def test_a_notebook_shows_a_run_as_its_tree_with_a_link_to_its_page(receiver: Receiver) -> None:
    with create_tracker("ask_canary_0123456789", receiver.url, flush_interval=60) as tracker:
        with (
            tracker.track_run("<i>librarian</i>") as run,
            tracker.track_step_context("plan", step_type="llm_call") as step,
        ):
            step.tokens_used = 7
            tracker.track_step("search", step_type="tool_call", error={"message": "no <network>"})
        html = run._repr_html_()
    assert html is not None
    assert f'<a href="{receiver.url}/runs/{run.id}" target="_blank">&lt;i&gt;librarian&lt;/i&gt;</a>' in html
    assert html.count("7 tokens") == 2  # of the step and of the run
    assert html.index("plan") < html.rindex("7 tokens") < html.index("<ul", html.index("plan")) < html.index("search")
    assert '<span title="failed">✗</span> search' in html
    assert "ask_canary" not in html


def test_a_run_that_is_going_on_is_shown_as_running(receiver: Receiver) -> None:
    with create_tracker(base_url=receiver.url) as tracker, tracker.track_run("agent") as run:
        tracker.track_step("first")
        html = run._repr_html_()
    assert html is not None
    assert html.index('title="running"') < html.index("agent") < html.index("first")


def test_without_a_receiver_that_answers_the_name_and_the_link_are_shown() -> None:
    with create_tracker(base_url="http://127.0.0.1:9", shutdown_timeout=0) as tracker:
        with tracker.track_run("agent") as run:
            pass
        begun = time.monotonic()
        html = run._repr_html_()
        assert time.monotonic() - begun < 30
        tracker.shutdown(0)
    assert html == f'<b><a href="http://127.0.0.1:9/runs/{run.id}" target="_blank">agent</a></b> <code>{run.id}</code>'


def test_without_a_receiver_the_name_and_the_id_are_shown() -> None:
    with create_tracker(exporters=[InMemoryExporter()]) as tracker, tracker.track_run("agent") as run:
        assert run._repr_html_() == f"<b>agent</b> <code>{run.id}</code>"


def test_a_run_that_is_not_recorded_is_shown_as_the_text_that_it_is() -> None:
    with create_tracker(enabled=False) as tracker, tracker.track_run("agent") as run:
        assert run._repr_html_() is None
