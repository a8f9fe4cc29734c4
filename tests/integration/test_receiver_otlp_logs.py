"""Logs and metrics sent to the receiver: messages of models are joined to their span, anything else is answered and counted."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from agentscope.protocols.ids import run_id_of
from agentscope.protocols.otlp.wire import json_form
from agentscope.server.ingest import otlp_logs
from agentscope.server.receiver import Receiver
from tests.support.otlp import SPAN_ID, TRACE_ID, span
from tests.support.receiver import Answer, Client

RUN = run_id_of(TRACE_ID)
CHILD = "00f067aa0ba902b7"
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
DETAILS = "gen_ai.client.inference.operation.details"
ASKED = {"role": "user", "parts": [{"type": "text", "content": "hi"}]}
ANSWERED = {"role": "assistant", "parts": [{"type": "text", "content": "hello"}]}
JSON = {"content_type": "application/json", "x_agentscope_key": None}
PROTOBUF = {"content_type": "application/x-protobuf", "x_agentscope_key": None}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(db=tmp_path / "runs.db") as running:
        yield running


@pytest.fixture
def client(receiver: Receiver) -> Client:
    return Client(receiver.url)


def any_value(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {"kvlistValue": {"values": attributes(value)}}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(item) for item in value]}}
    return {"intValue": value} if isinstance(value, int) else {"stringValue": value}


def attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": any_value(value)} for key, value in values.items()]


def record(name: str, at: int, body: Any = None, given: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A log record of the child, or of the span in `fields`, in JSON."""
    made = {
        "timeUnixNano": str(START + at),
        "traceId": TRACE_ID,
        "spanId": CHILD,
        "eventName": name,
        "attributes": attributes(given or {}),
        **({} if body is None else {"body": any_value(body)}),
    }
    return {**made, **fields}


def send_logs(client: Client, *records: dict[str, Any], path: str = "/v1/logs") -> Answer:
    body = {"resourceLogs": [{"resource": {}, "scopeLogs": [{"logRecords": records}]}]}
    answer = client.send("POST", path, json.dumps(body), **JSON)
    assert answer.status == 200, answer.body
    return answer


def send_spans(client: Client, *operations: str) -> None:
    """Send a root and its child, whose `gen_ai.operation.name` are given."""
    given = [{"gen_ai.operation.name": operation} if operation else {} for operation in operations]
    times = {"start_ns": START, "end_ns": START + SECOND}
    spans = [span(name="agent", attributes=given[0], **times)]
    if len(given) > 1:
        spans.append(span(name="chat", span_id=CHILD, parent_span_id=SPAN_ID, attributes=given[1], **times))
    body = json_form.encode_request([json_form.encode_span(each) for each in spans], {}, "scope", "1")
    assert client.send("POST", "/v1/traces", body, **JSON).status == 200


MESSAGES = (
    record("gen_ai.system.message", 1, {"content": "Be brief."}, {"gen_ai.system": "openai"}),
    record("gen_ai.user.message", 2, {"content": "hi"}, {"gen_ai.system": "openai"}),
    record("gen_ai.choice", 3, {"index": 0, "finish_reason": "stop", "message": {"content": "hello"}}),
)
AS_ONE = (record(DETAILS, 3, None, {"gen_ai.input.messages": [ASKED], "gen_ai.output.messages": [ANSWERED]}),)
INPUT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
OUTPUT = {"role": "assistant", "content": "hello", "finish_reason": "stop"}


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
def test_messages_in_log_records_are_joined_to_their_span_in_any_order(client: Client, order: tuple[int, ...]) -> None:
    """opentelemetry-instrumentation-openai-v2, google-adk."""
    for part in order:
        send_spans(client, "invoke_agent", "chat") if part == 3 else send_logs(client, MESSAGES[part])
    run = client.get(f"/api/runs/{RUN}").json
    (step,) = run["steps"]
    assert (step["id"], step["name"], step["step_type"], step["status"]) == (CHILD, "chat", "llm_call", "completed")
    assert (step["input"], step["output"]) == (INPUT, OUTPUT)
    assert client.get("/health").json["not_kept"] == {"log_records": 0, "data_points": 0}


@pytest.mark.parametrize("logs_first", [True, False])
def test_a_record_with_all_details_is_joined_to_its_span(client: Client, logs_first: bool) -> None:
    more = {"gen_ai.system_instructions": [{"type": "text", "content": "Be brief."}], "gen_ai.request.model": "m"}
    given = {"gen_ai.input.messages": [ASKED], "gen_ai.output.messages": json.dumps([ANSWERED]), **more}
    if not logs_first:
        send_spans(client, "invoke_agent", "chat")
    send_logs(client, record(DETAILS, SECOND + 5, None, given))
    if logs_first:
        send_spans(client, "invoke_agent", "chat")
    (step,) = client.get(f"/api/runs/{RUN}").json["steps"]
    assert (step["input"], step["output"]) == ([ASKED], ANSWERED)
    assert step["meta_data"]["gen_ai.system_instructions"] == [{"type": "text", "content": "Be brief."}]
    assert step["meta_data"]["kind"] == "INTERNAL"


@pytest.mark.parametrize("logs_first", [True, False])
@pytest.mark.parametrize("operation", ["chat", "invoke_agent", ""])
@pytest.mark.parametrize("records", [MESSAGES, AS_ONE])
def test_records_of_a_root_are_told_by_its_run(
    client: Client, operation: str, logs_first: bool, records: tuple[dict[str, Any], ...]
) -> None:
    of_root = [{**each, "spanId": SPAN_ID} for each in records]
    if not logs_first:
        send_spans(client, operation)
    for each in of_root:
        send_logs(client, each)
    if logs_first:
        send_spans(client, operation)
    run = client.get(f"/api/runs/{RUN}").json
    told = (INPUT, OUTPUT) if records is MESSAGES else ([ASKED], ANSWERED)
    assert (run["input"], run["output"], run["status"]) == (*told, "completed")
    assert {(step["name"], step["status"]) for step in run["steps"]} <= {("agent", "completed")}
    assert client.get("/api/runs").json["runs"][0]["step_count"] == len(run["steps"])
    for step in run["steps"]:
        assert (step["input"], step["output"]) == told


def test_records_that_come_twice_are_joined_once(client: Client) -> None:
    send_spans(client, "invoke_agent", "chat")
    for _ in range(2):
        send_logs(client, *MESSAGES)
        send_logs(client, MESSAGES[1])
    (step,) = client.get(f"/api/runs/{RUN}").json["steps"]
    assert (step["input"], step["output"]) == (INPUT, OUTPUT)


def test_records_of_one_span_in_very_many_requests_are_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each update of a step has the records of those before it."""
    monkeypatch.setattr(otlp_logs, "_MOST_STORED", 100_000)
    send_spans(client, "invoke_agent", "chat")
    sent = [record("gen_ai.user.message", at, {"content": f"{at} {'x' * 5000}"}) for at in range(1, 31)]
    for each in sent:
        send_logs(client, each)
    left_out = client.get("/health").json["not_kept"]["log_records"]
    (step,) = client.get(f"/api/runs/{RUN}").json["steps"]
    assert [int(message["content"].split()[0]) for message in step["input"]] == [*range(1, 31 - left_out)]
    assert 0 < left_out < 30


def test_other_records_are_answered_and_counted(client: Client) -> None:
    others = (
        record("", 1, "started"),
        record("device.app.lifecycle", 1),
        record("gen_ai.user.message", 1, {"content": "x"}, traceId="", spanId=""),
        record("gen_ai.user.message", 1, {"content": "x"}, spanId="0" * 16),
        record("gen_ai.user.message", 1, {"content": "x"}, spanId="no"),
        record("gen_ai.user.message", 1, {"content": "x"}, timeUnixNano="0"),
    )
    told = send_logs(client, *others, MESSAGES[1]).json["partialSuccess"]
    assert (told["rejectedLogRecords"], bool(told["errorMessage"])) == ("6", True)
    assert client.get("/health").json["not_kept"] == {"log_records": 6, "data_points": 0}
    assert client.get("/api/runs").json["runs"][0]["id"] == RUN


@pytest.mark.parametrize("signal", ["logs", "metrics"])
@pytest.mark.parametrize("base", ["", "/otel", "/api/public/otel", "/api/v1/private/otel"])
def test_empty_requests_are_answered_in_both_encodings(client: Client, signal: str, base: str) -> None:
    path = f"{base}/v1/{signal}"
    assert client.send("POST", path, b"{}", **JSON).json == {}
    answer = client.send("POST", path, gzip.compress(b""), **PROTOBUF, content_encoding="gzip")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"", "application/x-protobuf")


@pytest.mark.parametrize("signal", ["logs", "metrics"])
def test_broken_bodies_are_refused(client: Client, signal: str) -> None:
    path = f"/v1/{signal}"
    assert client.send("POST", path, b"[]", **JSON).status == 400
    assert client.send("POST", path, b"{", **JSON).status == 400
    assert client.send("POST", path, b"\x0a\x05abc", **PROTOBUF).status == 400
    assert client.send("POST", path, b"\x0a", **PROTOBUF).status == 400
    assert client.send("POST", path, b"", **{**JSON, "content_type": "text/plain"}).status == 415


def test_data_points_are_counted_in_json(client: Client) -> None:
    points = [{"asDouble": 1.5}, {"asDouble": 2.5}]
    metrics = [{"name": "a", "gauge": {"dataPoints": points}}, {"name": "b", "sum": {"dataPoints": points[:1]}}, {}]
    body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]}
    told = client.send("POST", "/v1/metrics", json.dumps(body), **JSON).json["partialSuccess"]
    assert (told["rejectedDataPoints"], bool(told["errorMessage"])) == ("3", True)
    assert client.get("/health").json["not_kept"] == {"log_records": 0, "data_points": 3}


def test_without_the_key_nothing_is_taken_or_counted(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "runs.db", api_key="ask_one") as receiver:
        client = Client(receiver.url, "ask_one")
        for signal in ("logs", "metrics"):
            assert client.send("POST", f"/v1/{signal}", b"{}", **JSON).status == 401
        assert client.get("/health").json["not_kept"] == {"log_records": 0, "data_points": 0}


@pytest.mark.parametrize("compression", [Compression.Gzip, Compression.NoCompression])
@pytest.mark.parametrize("spans_first", [True, False])
def test_the_exporters_of_opentelemetry_log_no_error(
    receiver: Receiver, client: Client, compression: Compression, spans_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    tracing = TracerProvider(shutdown_on_exit=False)
    spans = SimpleSpanProcessor(OTLPSpanExporter(f"{receiver.url}/v1/traces", compression=compression))
    tracing.add_span_processor(spans)
    logs = LoggerProvider(shutdown_on_exit=False)
    exporter = OTLPLogExporter(f"{receiver.url}/v1/logs", compression=compression)
    logs.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(f"{receiver.url}/v1/metrics", compression=compression), 3_600_000
    )
    meter = MeterProvider([reader], shutdown_on_exit=False)
    try:
        tracer, logger = tracing.get_tracer("t"), logs.get_logger("l")
        call = tracer.start_span("chat m", attributes={"gen_ai.operation.name": "chat"})
        context = {"trace_id": call.get_span_context().trace_id, "span_id": call.get_span_context().span_id}
        if spans_first:
            call.end()
        for at, (name, body) in enumerate(
            (
                ("gen_ai.user.message", {"content": "hi"}),
                ("gen_ai.choice", {"index": 0, "message": {"content": "hello"}}),
                ("", "a line of an ordinary log"),
            )
        ):
            made = LogRecord(
                timestamp=START + at,
                severity_number=SeverityNumber.INFO,
                body=body,
                event_name=name,
                trace_flags=call.get_span_context().trace_flags,
                **context,
            )
            logger.emit(made)
        if not spans_first:
            call.end()
        meter.get_meter("m").create_counter("calls").add(1)
        assert meter.force_flush()
    finally:
        tracing.shutdown()
        logs.shutdown()
        meter.shutdown()
    assert [found for found in caplog.records if found.name.startswith("opentelemetry")] == []
    run_id = run_id_of(f"{call.get_span_context().trace_id:032x}")
    run = client.get(f"/api/runs/{run_id}").json
    (step,) = run["steps"]
    assert step["input"] == run["input"] == [{"role": "user", "content": "hi"}]
    assert step["output"] == run["output"] == {"role": "assistant", "content": "hello"}
    not_kept = client.get("/health").json["not_kept"]
    assert not_kept["log_records"] == 1
    assert not_kept["data_points"] >= 1


def test_the_answer_has_the_counts_where_the_libraries_of_others_expect_them(client: Client) -> None:
    request = ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.add(severity_text="INFO")
    answer = client.send("POST", "/v1/logs", request.SerializeToString(), **PROTOBUF)
    assert ExportLogsServiceResponse.FromString(answer.body).partial_success.rejected_log_records == 1
    point = bytes([0x0A, 0])
    for tag in (0x2A, 0x3A, 0x4A, 0x52, 0x5A):
        point = bytes([tag, 2, 0x0A, 0])
        metric = bytes([0x12, len(point)]) + point
        scope = bytes([0x12, len(metric)]) + metric
        body = bytes([0x0A, len(scope)]) + scope
        answer = client.send("POST", "/v1/metrics", body, **PROTOBUF)
        assert ExportMetricsServiceResponse.FromString(answer.body).partial_success.rejected_data_points == 1
