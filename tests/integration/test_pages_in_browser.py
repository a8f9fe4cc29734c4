"""The receiver's pages in a real browser: they show runs, and what agents recorded stays text."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from agentscope import create_tracker

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

# Each would set the title, or the document, if it were taken for anything but text.
XSS = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<svg/onload=document.title='owned'>",
    "\"><svg onload=document.title='owned'>",
    "' autofocus onfocus='document.title=`owned`",
    "<iframe srcdoc=\"<script>parent.document.title='owned'</script>\"></iframe>",
    "<a href=\"javascript:document.title='owned'\">run</a>",
    "<!--<script>document.title='owned'</script>-->",
    "</title><script>document.title='owned'</script>",
    "</textarea><script>document.title='owned'</script>",
    "</pre></code><script>document.title='owned'</script>",
    "<style>body{display:none}</style>",
    "<base href=//owned.invalid>",
    "<meta http-equiv=refresh content='0;url=//owned.invalid'>",
    "{{constructor.constructor('document.title=`owned`')()}}",
    "${document.title='owned'}",
    "javascript:document.title='owned'",
    "__proto__",
    "\u202e reversed \u2066",
    "\x1b[31m red",
    "&lt;script&gt;document.title='owned'&lt;/script&gt;",
]


def dom(url: str, profile: Path) -> str:
    """The page's HTML after its scripts ran."""
    assert CHROMIUM
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-proxy-server",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={profile}",
            "--virtual-time-budget=4000",
            "--dump-dom",
            url,
        ],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        env={**os.environ, "HOME": str(profile)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Page(HTMLParser):
    """The elements, attributes and text of a document as the browser ended up with it."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.title = ""
        self._inside = ""
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "title":
            self.title += data
        self.text += data


def test_the_index_lists_runs_and_the_page_of_a_run_shows_its_steps(receiver: Any, tmp_path: Path) -> None:
    tracker = create_tracker(api_key="any", base_url=receiver.url)
    with tracker.track_run("cartographer", input_data={"question": "Where is north?"}) as run:
        with tracker.track_step_context("surveyor", step_type="agent") as agent:
            agent.output = "see below"
            with tracker.track_step_context("compass", step_type="tool_call") as step:
                step.output = {"bearing": 12}
        run.output = {"answer": "up there"}
    assert tracker.shutdown()

    index = Page(dom(f"{receiver.url}/", tmp_path / "a"))
    assert "cartographer" in index.text
    assert f"/runs/{run}" in [attributes.get("href") for _, attributes in index.elements]
    page = Page(dom(f"{receiver.url}/runs/{run}", tmp_path / "b"))
    for shown in ("cartographer", "Where is north?", "surveyor", "compass", "bearing", "up there", "completed"):
        assert shown in page.text


def test_what_agents_recorded_is_shown_as_text_and_never_executed(receiver: Any, tmp_path: Path) -> None:
    tracker = create_tracker(api_key="any", base_url=receiver.url)
    everything = "".join(XSS)
    run_id = tracker.start_run(everything[:200], input_data={attack: attack for attack in XSS}, external_id=XSS[0])
    for attack in XSS:
        tracker.track_step(
            attack,
            input_data={attack: [attack]},
            output_data=attack,
            error={"type": attack, "message": attack},
            meta_data={attack: attack},
            run_id=run_id,
        )
    tracker.end_run(status="failed", error={"type": XSS[2], "message": XSS[0]}, output=XSS, run_id=run_id)
    for attack in XSS:
        tracker.end_run(run_id=tracker.start_run(attack, input_data=attack))
    assert tracker.shutdown()

    index = Page(dom(f"{receiver.url}/", tmp_path / "index"))
    page = Page(dom(f"{receiver.url}/runs/{run_id}", tmp_path / "run"))
    for document in (index, page):
        assert document.title != "owned"
        for tag, attributes in document.elements:
            assert tag not in ("iframe", "svg", "img", "base", "style", "object", "embed")
            assert tag != "script" or (attributes.get("src") or "").startswith("/static/")
            assert tag != "meta" or "http-equiv" not in attributes
            assert [name for name in attributes if name.startswith("on") or name == "srcdoc"] == []
            assert not re.match(r"\s*(javascript|data):", attributes.get("href") or "", re.IGNORECASE)
    for attack in XSS:
        if attack.isprintable():
            assert attack in index.text
            assert attack in page.text


def test_the_page_of_an_unknown_run_says_so(receiver: Any, tmp_path: Path) -> None:
    page = Page(dom(f"{receiver.url}/runs/nothing-here", tmp_path / "profile"))
    assert "There is no run with this id." in page.text
