"""Delivery beside tools that replace parts of HTTP, sockets, files and logging for the application's own tests and traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentscope.server.receiver import Receiver
from tests.support.program import run_program
from tests.support.stored import stored_runs

KEY = "ask_canary_0123456789"
TOOLS = {
    "a recorder of HTTP calls": "vcr.use_cassette('{folder}/cassette.yaml', record_mode='all')",
    "sockets that are forbidden": "forbidden()",
    "a faked file system": "Patcher()",
    "a mock of the socket": "mock.patch('socket.socket')",
    "another proxy": "mock.patch.dict('os.environ', http_proxy='http://127.0.0.1:9', HTTP_PROXY='http://127.0.0.1:9')",
}


@pytest.mark.parametrize("made", ["before", "inside"])
@pytest.mark.parametrize("tool", TOOLS)
def test_what_the_first_request_meets_is_not_kept(receiver: Receiver, tmp_path: Path, tool: str, made: str) -> None:
    source = f"""
        import warnings
        from contextlib import contextmanager
        from unittest import mock
        import pytest_socket, requests, vcr
        from pyfakefs.fake_filesystem_unittest import Patcher
        from agentscope import create_tracker

        warnings.simplefilter("ignore")

        @contextmanager
        def forbidden():
            pytest_socket.disable_socket()
            yield
            pytest_socket.enable_socket()

        def record(tracker, name):
            with tracker.track_run(name):
                pass
            return bool(tracker.flush(3))

        make = lambda: create_tracker({KEY!r}, {receiver.url!r}, flush_interval=0.05)
        tracker = make() if {made!r} == "before" else None
        with {TOOLS[tool].format(folder=tmp_path)}:
            tracker = tracker or make()
            record(tracker, "inside")
            if {tool!r} == "a recorder of HTTP calls":
                requests.get({receiver.url!r} + "/health")
        print(record(tracker, "after"), record(make(), "anew"))
    """
    result = run_program(source, timeout=60)
    assert result.stdout == "True True\n", result
    assert sorted(run["agent_name"] for run in stored_runs(receiver.url)) == ["after", "anew", "inside"]
    if tool == "a recorder of HTTP calls":
        recorded = (tmp_path / "cassette.yaml").read_text()
        assert recorded.count("uri:") == 1  # the application's own
        assert KEY not in recorded


@pytest.mark.parametrize("destination", ["base_url=url", "exporters=[Mine()]"])
def test_delivery_is_not_traced(receiver: Receiver, destination: str) -> None:
    source = f"""
        import time, urllib3
        from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from agentscope import create_tracker
        from agentscope.integrations.otel import AgentScopeSpanProcessor

        url = {receiver.url!r}

        class Mine:
            def export(self, events, timeout):
                assert urllib3.PoolManager().request("GET", url + "/health").status == 200

        provider, traced = TracerProvider(), InMemorySpanExporter()
        URLLib3Instrumentor().instrument(tracer_provider=provider)
        tracker = create_tracker({destination})
        provider.add_span_processor(AgentScopeSpanProcessor(tracker))
        provider.add_span_processor(SimpleSpanProcessor(traced))
        for _ in range(3):
            with tracker.track_run("agent"):
                pass
            assert tracker.flush(30)
        print(tracker.stats().accepted, dict(tracker.stats().invalid_calls), len(traced.get_finished_spans()))
        urllib3.PoolManager().request("GET", url + "/health")
        print(len(traced.get_finished_spans()))
    """
    result = run_program(source)
    assert result.stdout == "6 {} 0\n1\n", result


def test_an_exit_leaves_no_socket_open(receiver: Receiver) -> None:
    source = f"""
        from agentscope import create_tracker
        tracker = create_tracker({KEY!r}, {receiver.url!r})
        tracker.end_run(run_id=tracker.start_run("agent"))
    """
    result = run_program(source, env={"PYTHONDEVMODE": "1"})
    assert (result.returncode, result.stderr) == (0, "")
    assert len(stored_runs(receiver.url)) == 1


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_a_mock_of_requests_sees_delivery_unless_recording_is_switched_off(enabled: str) -> None:
    source = f"""
        import responses
        from agentscope import create_tracker

        tracker = create_tracker({KEY!r}, "http://127.0.0.1:9")
        with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
            with tracker.track_run("agent"):
                pass
            tracker.flush(3)
            print(bool(len(mock.calls)))
        tracker.shutdown(0)
    """
    result = run_program(source, env={"AGENTSCOPE_ENABLED": enabled})
    assert result.stdout == f"{enabled == 'true'}\n", result
