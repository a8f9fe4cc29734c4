"""A key, a password and a question pass through every feature; then all output is searched for them.

The key may appear in the headers of its requests only. The password, which has a secret name, may appear nowhere. The question
may appear in events, in the store and on the pages, but in no log line, exception or repr.
"""

from __future__ import annotations

import logging
import pickle
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentscope import (
    AgentScopeClient,
    AgentScopeError,
    AgentScopeExporter,
    OTLPExporter,
    RunConfig,
    StepConfig,
    Tracker,
    VoltAgentExporter,
    create_tracker,
)
from agentscope.pipeline.process import threads
from agentscope.server.receiver import Receiver
from agentscope.voltagent import VoltAgentSDK
from tests.integration.test_transport import TLSServer
from tests.support.program import run_program
from tests.support.proxy import FaultProxy
from tests.support.receiver import Client
from tests.support.secret_search import SECRET
from tests.support.stored import stored_runs, stored_steps
from tests.support.wait import until

KEY = "ask_canary_0123456789"
QUESTION = "canary-question-7be2 about nothing"

FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("status", {"code": 401, "body": f'{{"detail":"the key {KEY} is not known: {QUESTION}"}}'.encode()}),
    ("status", {"code": 422, "body": f'{{"detail":"{KEY} {QUESTION}"}}'.encode()}),
    ("status", {"code": 503, "headers": {"Retry-After": KEY}, "body": KEY.encode()}),
    ("status", {"code": 418, "headers": {"Server": KEY}}),
    ("redirect", {"location": f"http://127.0.0.2:9/?key={KEY}"}),
    ("garbage", {}),
    ("truncated", {}),
    ("reset_before", {}),
    ("reset_after", {}),
    ("html200", {}),
    ("empty204", {}),
    ("refuse", {}),
    ("hang", {}),
    ("bomb", {}),
]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """All log records of all libraries at all levels, also those that do not reach users' handlers."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(threads, "NOISY", ())
    for name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry", "charset_normalizer"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    return lambda: "\n".join(f"{record.getMessage()} {record.exc_info} {record.args}" for record in caplog.records)


def clean(*shown: object) -> None:
    """Check that no text holds a secret."""
    for value in shown:
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        for secret in (KEY, SECRET, QUESTION):
            assert secret not in text, f"{secret} in {text[:500]}"


def record(tracker: Tracker) -> None:
    """Track a run with the secrets in every place for a value."""
    payload = {
        "password": SECRET,
        "question": QUESTION,
        "headers": {"Authorization": f"Bearer {KEY}"},
        "text": f"key={KEY}",
    }
    try:
        with tracker.track_run("agent", payload, meta_data=payload) as run:
            run.output = payload
            with tracker.track_step_context("step", "llm_call", payload, meta_data=payload) as step:
                step.output = [payload, f'{{"password": "{SECRET}"}}']
            tracker.track_step(f"a name with {KEY}", input_data=KEY, error=ValueError(KEY, QUESTION))
            wrongly(lambda: tracker.track_step("odd", step_type="no such", input_data=payload, tokens_used=QUESTION))
            wrongly(lambda: tracker.track_step("odd", input_data=payload, latency=KEY))
            raise RuntimeError(f"the key is {KEY}: {QUESTION}")
    except RuntimeError:
        pass
    wrongly(lambda: tracker.end_run(run_id="unknown", status="no such", output=payload))


def wrongly(call: Callable[..., object]) -> None:
    """A call that a loud tracker refuses, and another one mends and counts."""
    try:
        call()
    except (AgentScopeError, TypeError) as error:
        clean(error, error.__context__, error.__cause__)


def shown(tracker: Tracker) -> list[object]:
    """The reprs of a tracker and its parts."""
    pipelines = getattr(tracker._pipeline, "_pipelines", (tracker._pipeline,))
    inside: list[object] = [tracker, tracker._config, tracker._recorder, tracker._pipeline]
    for pipeline in pipelines:
        worker = pipeline._worker
        exporter = worker.exporter
        inside += [worker, worker.states, worker.session, worker.queue, worker.ledger, pipeline._redact, exporter]
        inside += [exporter._sender, exporter._sender._session, exporter._protocol, vars(exporter._protocol)]
    return [repr(thing) for thing in inside] + [
        tracker.stats(),
        tracker.track_run("x"),
        tracker.track_step_context("x"),
    ]


@pytest.mark.parametrize(("mode", "options"), FAULTS, ids=[f"{m}{o.get('code', '')}" for m, o in FAULTS])
def test_no_fault_makes_a_tracker_tell(
    receiver: Receiver, said: Callable[[], str], mode: str, options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    dropped: list[tuple[str, int]] = []
    with FaultProxy(receiver.url, mode=mode, **options) as proxy:
        tracker = create_tracker(
            KEY,
            proxy.url,
            flush_interval=0.0,
            timeout=0.3,
            fail_silently=False,
            on_drop=lambda reason, count: dropped.append((reason, count)),
        )
        record(tracker)
        until(lambda: tracker.stats().attempts > 0)
        for call in (lambda: tracker.flush(1), lambda: tracker.shutdown(0.5)):
            try:
                clean(call())
            except AgentScopeError as error:
                clean(*traceback.format_exception(error), error.__context__, error.__cause__)
        clean(*shown(tracker), dropped, said(), *capfd.readouterr())
        stats = tracker.stats()
        assert stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.spooled + stats.pending
        for request in proxy.requests:
            assert KEY not in request.target
            assert KEY.encode() not in request.body
            assert SECRET.encode() not in request.body
            assert [name.lower() for name, value in request.headers if KEY in value] == ["x-agentscope-key"]


def test_what_is_stored_and_shown_has_the_question_and_nothing_else(receiver: Receiver, tmp_path: Path) -> None:
    with create_tracker(KEY, receiver.url) as tracker:
        record(tracker)
        assert tracker.flush()
    pages = Client(receiver.url)
    told = b"".join(pages.get(path).body for path in ("/", "/api/runs", "/health"))
    for run in stored_runs(receiver.url):
        told += b"".join(pages.get(path + run["id"]).body for path in ("/runs/", "/api/runs/"))
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert QUESTION.encode() in told
    for secret in (KEY, SECRET):
        assert secret.encode() not in told
        assert secret.encode() not in files


def test_the_spool_keeps_neither_key_nor_password(tmp_path: Path) -> None:
    with FaultProxy(mode="hang") as proxy:
        tracker = create_tracker(KEY, proxy.url, spool_dir=tmp_path, timeout=0.3, shutdown_timeout=0.2)
        record(tracker)
        until(lambda: tracker.stats().spooled > 0 and tracker.stats().pending == 0)
        while_it_lives = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        tracker.shutdown(0.2)
        afterwards = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert any(name.endswith("-wal") for name in while_it_lives)
    for name, content in [*while_it_lives.items(), *afterwards.items()]:
        for secret in (KEY, SECRET):
            assert secret.encode() not in content, name
            assert secret not in name


@pytest.mark.parametrize("code", [401, 500])
def test_no_exporter_and_no_other_face_tells(said: Callable[[], str], code: int) -> None:
    echo = f'{{"detail":"{KEY}","message":"{KEY}","error":"{KEY}"}}'.encode()
    with FaultProxy(mode="status", code=code, body=echo) as proxy:
        exporters = [
            AgentScopeExporter(api_key=KEY, base_url=proxy.url),
            OTLPExporter(endpoint=proxy.url, headers={"Authorization": f"Bearer {KEY}"}),
            VoltAgentExporter(base_url=proxy.url, public_key="pk_" + KEY, secret_key=KEY),
        ]
        tracker = create_tracker(exporters=exporters, flush_interval=0.0, timeout=0.5)
        sdk = VoltAgentSDK(base_url=proxy.url, public_key="pk_" + KEY, secret_key=KEY, flush_interval=1)
        record(tracker)
        record(sdk.tracker)
        until(lambda: all(one.attempts for one in tracker.stats().exporters))
        clean(*map(repr, exporters), repr(sdk), sdk.flush(1), tracker.flush(1), *shown(tracker))
        clean(tracker.shutdown(0.2), sdk.shutdown(0.2), said())
        assert all(KEY not in request.target and KEY.encode() not in request.body for request in proxy.requests)


@pytest.mark.parametrize(("mode", "options"), FAULTS, ids=[f"{m}{o.get('code', '')}" for m, o in FAULTS])
def test_no_fault_makes_the_client_tell(said: Callable[[], str], mode: str, options: dict[str, Any]) -> None:
    with (
        FaultProxy(mode=mode, **options) as proxy,
        AgentScopeClient(KEY, proxy.url, timeout=0.3, fail_silently=False) as client,
    ):
        calls: list[Callable[[], object]] = [
            lambda: client.create_run(RunConfig(agent_name="a", input={"password": "x"})),
            lambda: client.add_step("run", StepConfig(name="a", input={"question": "x"})),
            lambda: client.complete_run("run", "completed"),
        ]
        for call in calls:
            with pytest.raises(AgentScopeError) as caught:
                call()
            for error in (caught.value, caught.value.__context__, caught.value.__cause__):
                assert KEY not in f"{error!r}{error}"
        assert KEY not in said() + repr(client) + repr(client._transport)
        with pytest.raises(TypeError) as refused:
            pickle.dumps(client)
        assert KEY not in str(refused.value)


def test_an_error_of_tls_tells_nothing(tmp_path: Path, said: Callable[[], str]) -> None:
    with TLSServer(tmp_path) as server:
        tracker = create_tracker(KEY, server.url, flush_interval=0.0, timeout=60)
        record(tracker)
        until(lambda: "certificate" in said())
        clean(tracker.flush(5), *shown(tracker), said())
        assert "certificate" in (tracker.stats().problem or "")
        attempts = tracker.stats().attempts
        tracker.track_step("more", run_id="run")
        clean(tracker.flush(5))
        assert (tracker.stats().attempts, attempts) == (
            1,
            1,
        )  # a refused key needs a person, and is not tried again for a minute
        warnings = [line for line in said().splitlines() if "certificate" in line]
        assert len(warnings) == 1
        tracker.shutdown(0.5)
        stats = tracker.stats()
        assert stats.accepted == stats.delivered + sum(stats.dropped.values())


def test_a_destination_with_a_bad_certificate_holds_up_no_other(tmp_path: Path, receiver: Receiver) -> None:
    with TLSServer(tmp_path) as server:
        exporters = [AgentScopeExporter(api_key=KEY, base_url=url) for url in (server.url, receiver.url)]
        with create_tracker(exporters=exporters, flush_interval=0.0) as tracker, tracker.track_run("agent"):
            tracker.track_step("step")
            until(lambda: tracker.stats().exporters[1].delivered == 2)
            assert tracker.stats().exporters[0].pending == 2
    assert stored_steps(receiver.url) == ["step"]


@pytest.mark.parametrize("end", ["raise ValueError('end')", "1 / 0", "import os; os.abort()"])
def test_a_program_that_crashes_tells_nothing(end: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        source = f"""
            import faulthandler, logging, os, sys
            faulthandler.enable()
            logging.basicConfig(level=logging.DEBUG)
            from agentscope import create_tracker
            def hook(event):
                try:
                    raise KeyError(event["type"])
                except KeyError:
                    logging.exception("in the hook")
                    raise
            tracker = create_tracker(base_url="http://127.0.0.1:{listener.getsockname()[1]}", redact=hook)
            with tracker.track_run("agent", {{"password": os.environ["SECRET"], "question": os.environ["QUESTION"]}}):
                tracker.flush(20)
            {end}
        """
        result = run_program(source, env={"AGENTSCOPE_API_KEY": KEY, "SECRET": SECRET, "QUESTION": QUESTION})
    assert result.returncode != 0
    assert "in the hook" in result.stderr
    clean(result.stdout, result.stderr)
