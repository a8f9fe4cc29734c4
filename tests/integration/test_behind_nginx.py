"""The receiver behind nginx with TLS, as the guide sets it up: people in a real browser, agents, and strangers."""

from __future__ import annotations

import json
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentscope import create_tracker
from agentscope.server.receiver import Receiver
from tests.support import patient
from tests.support.browser import CHROMIUM, Browser
from tests.support.nginx import NAME, NGINX, nginx

KEY = "ask_behind_nginx"
CHANGED = {"location / {": "location /agentscope/ {"}
TAKEN_OFF = {**CHANGED, "proxy_pass http://agentscope;": "proxy_pass http://agentscope/;"}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(NGINX is None, reason="no nginx on this machine"),
]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    patient.here(monkeypatch)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    flags = ("--ignore-certificate-errors", f"--host-resolver-rules=MAP {NAME} 127.0.0.1")
    running = Browser(tmp_path / "profile", *flags)
    yield running
    running.close()


@contextmanager
def deployed(folder: Path, changes: dict[str, str] | None = None, **options: Any) -> Iterator[tuple[Receiver, int]]:
    """A receiver behind nginx, and the port of nginx."""
    given = {"allowed_hosts": [NAME], "trusted_proxies": ["127.0.0.1"], **options}
    with (
        Receiver(db=folder / "runs.db", api_key=KEY, **given) as receiver,
        nginx(folder, int(receiver.url.rpartition(":")[2]), changes) as port,
    ):
        yield receiver, port


def record(port: int, prefix: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Record a run over TLS. Returns its id."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder / "cert.pem"))
    tracker = create_tracker(api_key=KEY, base_url=f"https://localhost:{port}{prefix}")
    with tracker.track_run("navigator") as run:
        tracker.track_step("look", output_data={"seen": "land"})
    assert tracker.shutdown()
    return run


@pytest.mark.parametrize(
    ("changes", "prefix"),
    [(None, ""), (CHANGED, "/agentscope"), (TAKEN_OFF, "/agentscope")],
    ids=["a host of its own", "a path that is left", "a path that is taken off"],
)
def test_a_person_logs_in_reads_a_run_filters_and_logs_out(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str] | None, prefix: str
) -> None:
    with deployed(tmp_path, changes, root_path=prefix) as (_, port):
        run = record(port, prefix, tmp_path, monkeypatch)
        base = f"https://{NAME}:{port}{prefix}"
        browser.visit(f"{base}/", 1000)
        assert browser.value("location.href") == f"{base}/login"
        style = "getComputedStyle(document.body).backgroundColor"
        assert browser.value(style) == "rgb(246, 247, 249)"  # the style sheet came
        browser.value(f"document.querySelector('input').value = {json.dumps(KEY)}")
        browser.press(".login button")
        assert browser.value("location.href") == f"{base}/"
        assert "navigator" in browser.value("document.body.innerText")
        browser.value("document.querySelector('input[name=q]').value = 'navig'")
        browser.press(".filter button")
        assert browser.value("location.pathname + location.search").startswith(f"{prefix}/?")
        browser.press("td a")
        assert browser.value("location.href") == f"{base}/runs/{run}"
        assert "look" in browser.value("document.body.innerText")
        assert browser.value(style) == "rgb(246, 247, 249)"
        link = browser.value("[...document.querySelectorAll('nav a')].find(a => a.href.includes('/api/')).href")
        assert link == f"{base}/api/runs/{run}"
        browser.visit(link, 1000)
        assert json.loads(browser.value("document.body.innerText"))["id"] == run
        browser.visit(f"{base}/", 1000)
        browser.press("header button")
        assert browser.value("location.href") == f"{base}/login"
        browser.visit(f"{base}/", 1000)
        assert browser.value("location.href") == f"{base}/login"


def ask(port: int, folder: Path, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """The answer of nginx to a GET, or to a POST of a login with the key "wrong"."""
    body = b"key=wrong" if path == "/login" else None
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"https://localhost:{port}{path}", body, {"Host": f"{NAME}:{port}", **given})
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, dict(refusal.headers), refusal.read()


def test_a_name_that_is_not_allowed_is_refused_with_the_option_that_allows_it(tmp_path: Path, browser: Browser) -> None:
    with deployed(tmp_path, allowed_hosts=[]) as (_, port):
        browser.visit(f"https://{NAME}:{port}/", 1000)
        assert "--allow-host" in browser.value("document.body.innerText")
        assert ask(port, tmp_path, "/")[0] == 421


def test_guesses_count_for_the_address_behind_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agentscope.server.read.login._PERIOD", 36_000.0)
    caplog.set_level(logging.WARNING)
    with deployed(tmp_path) as (_, port):
        # nginx adds the address that it sees itself: here loopback, which is trusted as a proxy, so the one before it counts.
        statuses = [ask(port, tmp_path, "/login", X_Forwarded_For="203.0.113.9")[0] for _ in range(7)]
        assert statuses == [401] * 5 + [429] * 2
        assert ask(port, tmp_path, "/login", X_Forwarded_For="203.0.113.10")[0] == 401
    assert "a wrong key came from 203.0.113.9 " in caplog.text


def test_the_cookie_of_a_login_over_tls_is_for_tls_only(tmp_path: Path) -> None:
    with deployed(tmp_path) as (_, port):
        body = f"key={KEY}".encode()
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))

        class NoRedirect(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_: Any) -> None:
                return None

        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), NoRedirect
        )
        headers = {"Host": f"{NAME}:{port}", "Origin": f"https://{NAME}:{port}"}
        with pytest.raises(urllib.error.HTTPError) as answer:
            opener.open(urllib.request.Request(f"https://localhost:{port}/login", body, headers), timeout=60)
        assert answer.value.code == 303
        assert answer.value.headers["Set-Cookie"].endswith("; Secure")


def test_metrics_are_not_shown_to_the_outside(tmp_path: Path) -> None:
    with deployed(tmp_path) as (_, port):
        assert ask(port, tmp_path, "/metrics", X_Agentscope_Key=KEY)[0] == 404
        assert ask(port, tmp_path, "/api/runs", Authorization=f"Bearer {KEY}")[0] == 200
