"""The receiver's pages in a real browser: they show runs, and recorded values stay text and stay within their boxes."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from agentscope import create_tracker
from agentscope.server.receiver import Receiver
from tests.support import patient
from tests.support.browser import CHROMIUM, FLAGS, Browser
from tests.support.receiver import Client, at, run_end, run_start, step
from tests.support.wait import until

pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

# Each would change the title or the document if the page did not treat it as text.
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


# Every element of a step or a listed run that extends beyond its card, and every element that widens the page.
STRAYS = """
[...document.querySelectorAll('summary, .runs tr')].flatMap(inside => {
  const card = (inside.closest('.step') || inside).getBoundingClientRect();
  return [...inside.querySelectorAll('*')].filter(element => {
    const box = element.getBoundingClientRect();
    return box.right > card.right + 1 || box.left < card.left - 1 || box.bottom > card.bottom + 1;
  }).map(element => element.outerHTML);
}).concat(document.documentElement.scrollWidth > document.documentElement.clientWidth ? ['the page'] : [])
"""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    patient.here(monkeypatch)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    running = Browser(tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


def dom(url: str, profile: Path) -> str:
    """The page's HTML after its scripts have run."""
    assert CHROMIUM
    done = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={profile}",
            "--virtual-time-budget=4000",
            "--dump-dom",
            url,
        ],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=100,
        env={**os.environ, "HOME": str(profile)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Page(HTMLParser):
    """The elements, attributes and text of the browser's final document."""

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


def test_recorded_values_are_shown_as_text_and_never_executed(receiver: Any, tmp_path: Path) -> None:
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


def chain(run_id: str, count: int) -> list[dict[str, Any]]:
    """Steps that are nested in each other."""
    return [
        step(
            run_id,
            step_id=f"{run_id}-{n}",
            parent_id=f"{run_id}-{n - 1}" if n else None,
            name=f"planning step {n}",
            started_at=at(n),
            latency_ms=n + 0.143,
            tokens_used=n * 111,
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("width", [320, 400, 641, 1400])
def test_steps_of_any_depth_have_cards_that_can_be_read_and_the_page_does_not_scroll_sideways(
    receiver: Any, browser: Browser, width: int
) -> None:
    Client(receiver.url).batch(run_start("deep"), *chain("deep", 60), run_end("deep"))
    browser.visit(f"{receiver.url}/runs/deep", width)
    assert browser.value(STRAYS) == []
    widths = browser.value("[...document.querySelectorAll('.step')].map(card => card.getBoundingClientRect().width)")
    assert len(widths) == 60
    assert min(widths) >= 170
    assert browser.value("document.documentElement.scrollHeight") < 60 * 160
    assert browser.value("getComputedStyle(document.querySelector('.tree .tree')).borderLeftWidth") == "2px"


@pytest.mark.parametrize("width", [320, 400, 700, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_figures_of_a_step_stay_inside_its_card_however_long_its_name_is(
    receiver: Any, browser: Browser, width: int, scheme: str
) -> None:
    large = {"tokens_used": 10**12, "latency_ms": 1e30}
    steps = [
        step(step_id="words", name="retrieve and rerank " * 30, latency_ms=0.143),
        step(step_id="word", name="x" * 300, parent_id="words", step_type="y" * 300, status="z" * 300, **large),
        step(name="short", parent_id="word", latency_ms=0.143, error="no"),
        step(name="", parent_id="word", **large),
    ]
    Client(receiver.url).batch(run_start(), *steps)
    browser.visit(f"{receiver.url}/runs/run-1", width, scheme)
    assert browser.value("document.querySelectorAll('.figures').length") == 4
    assert browser.value(STRAYS) == []
    browser.value("document.querySelectorAll('details').forEach(step => { step.open = true; })")
    assert browser.value(STRAYS) == []


@pytest.mark.parametrize("width", [320, 400, 800, 900, 1400])
def test_the_list_of_runs_shows_all_that_it_tells_at_any_width(receiver: Any, browser: Browser, width: int) -> None:
    client = Client(receiver.url)
    client.batch(run_start("long", agent_name="planner of voyages " * 34), run_end("long", error="no"))
    client.batch(run_start("word", agent_name="x" * 650), *chain("word", 3), run_end("word"))
    browser.visit(f"{receiver.url}/", width)
    assert browser.value(STRAYS) == []
    assert browser.value("(list => list.scrollWidth - list.clientWidth)(document.querySelector('.runs'))") <= 0
    heights = browser.value("[...document.querySelectorAll('td a')].map(name => name.getBoundingClientRect().height)")
    assert max(heights) < 75  # three lines
    columns = browser.value("document.querySelector('thead').getBoundingClientRect().height > 0")
    labels = browser.value(
        "[...document.querySelectorAll('td')].map(cell => getComputedStyle(cell, '::before').content !== 'none')"
    )
    assert columns == (width > 896)
    assert labels == ([False] * 14 if columns else [False, False, *[True] * 5] * 2)


def test_dark_pages_are_dark(receiver: Any, browser: Browser) -> None:
    colours = []
    for scheme in ("light", "dark"):
        browser.visit(f"{receiver.url}/", 400, scheme)
        colours.append(browser.value("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(246, 247, 249)", "rgb(18, 22, 28)"]


def test_a_person_logs_in_and_out(browser: Browser, tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "runs.db", api_key="ask_in_a_browser") as locked:
        browser.visit(f"{locked.url}/", 400)
        browser.value("document.querySelector('input').value = 'wrong'")
        browser.press(".login button")
        assert "not the key" in browser.value("document.body.innerText")
        browser.value("document.querySelector('input').value = 'ask_in_a_browser'")
        browser.press(".login button")
        assert browser.value("location.href") == f"{locked.url}/"
        browser.press("header button")
        assert browser.value("location.href") == f"{locked.url}/login"
        browser.visit(f"{locked.url}/", 400)
        assert browser.value("location.href") == f"{locked.url}/login"


SEND = """
fetch('{url}/v1/traces', {{
  method: 'POST', body: '{{"resourceSpans": []}}', headers: {{'Content-Type': 'application/json', 'X-Agentscope-Key': 'k'}}
}}).then(answer => {{ document.title = 'sent ' + answer.status; }}, () => {{ document.title = 'refused'; }}) && null
"""


@pytest.mark.parametrize(("is_allowed", "title"), [(True, "sent 200"), (False, "refused")])
def test_a_page_of_another_origin_sends_spans_only_where_it_is_allowed(
    browser: Browser, tmp_path: Path, is_allowed: bool, title: str
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Blank) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        origin = f"http://127.0.0.1:{server.server_address[1]}"
        with Receiver(db=tmp_path / "runs.db", allowed_origins=[origin] if is_allowed else []) as one:
            browser.visit(origin, 400)
            browser.value(SEND.format(url=one.url))
            until(lambda: browser.value("document.title"), timeout=60)
            assert browser.value("document.title") == title
        server.shutdown()


class _Blank(http.server.BaseHTTPRequestHandler):
    """The empty page of some application."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass
