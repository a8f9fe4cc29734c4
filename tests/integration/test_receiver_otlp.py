"""The receiver's OTLP endpoint: spans in both encodings, the OpenTelemetry SDK's own exporter, and what is refused."""

from __future__ import annotations

import base64
import gzip
import itertools
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

from agentscope.protocols.otlp.wire import json_form
from agentscope.protocols.otlp.wire import protobuf_form as protobuf
from agentscope.protocols.otlp.wire.limits import Form
from agentscope.protocols.otlp.wire.model import CLIENT, Span
from agentscope.server.http.limits import Limits
from agentscope.server.receiver import Receiver
from tests.support.otlp import SPAN_ID, span
from tests.support.receiver import Answer, Client

PATHS = ("/v1/traces", "/api/public/otel/v1/traces")
FORMS: tuple[Form, ...] = (protobuf, json_form)
RUN_ID = "5b8efff7-9803-8103-d269-b633813fc60c"
KEY = "ask_canary_kéy"
LATIN_KEY = KEY.encode().decode("latin-1")
PROTOBUF = {"content_type": protobuf.CONTENT_TYPE, "x_agentscope_key": None}

both = pytest.mark.parametrize("form", FORMS, ids=["protobuf", "json"])


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(db=tmp_path / "runs.db") as running:
        yield running


@pytest.fixture
def client(receiver: Receiver) -> Client:
    return Client(receiver.url)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Client]:
    with Receiver(db=tmp_path / "locked.db", api_key=KEY) as running:
        yield Client(running.url, LATIN_KEY)


def tree() -> list[Span]:
    """An agent that calls a model."""
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "weather"}
    call = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "a-model",
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 12,
    }
    child = {"span_id": "00f067aa0ba902b7", "parent_span_id": SPAN_ID, "kind": CLIENT}
    return [span(name="invoke_agent weather", attributes=agent), span(name="chat a-model", attributes=call, **child)]


def body_of(form: Form, *spans: Span) -> bytes:
    return form.encode_request([form.encode_span(each) for each in spans], {"service.name": "tests"}, "scope", "1")


def post(client: Client, form: Form, body: bytes, path: str = PATHS[0], **headers: str | None) -> Answer:
    given: dict[str, str | None] = {"content_type": form.CONTENT_TYPE, "x_agentscope_key": None}
    return client.send("POST", path, body, **{**given, **headers})


def told(form: Form, answer: Answer) -> str:
    """The message of an error; its encoding is the one of the request."""
    assert answer.headers["content-type"] == form.CONTENT_TYPE
    message: str = Status.FromString(answer.body).message if form is protobuf else answer.json["message"]
    return message


@both
@pytest.mark.parametrize("path", PATHS)
def test_spans_are_stored_as_a_run_that_can_be_read_at_once(client: Client, form: Form, path: str) -> None:
    answer = post(client, form, body_of(form, *tree()), path)
    assert (answer.status, answer.headers["content-type"]) == (200, form.CONTENT_TYPE)
    assert form.decode_response(answer.body) == (0, "")
    run = client.get(f"/api/runs/{RUN_ID}").json
    assert (run["agent_name"], run["status"], run["tokens_used"], run["duration_ms"]) == (
        "weather",
        "completed",
        42,
        1000,
    )
    (step,) = run["steps"]
    assert (step["step_type"], step["parent_id"], step["tokens_used"]) == ("llm_call", None, 42)


def test_the_answer_is_what_the_libraries_of_others_expect(client: Client) -> None:
    answer = post(client, protobuf, body_of(protobuf, *tree()))
    assert not ExportTraceServiceResponse.FromString(answer.body).HasField("partial_success")
    assert post(client, json_form, body_of(json_form, *tree())).json == {}


@both
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "identity"])
def test_bodies_may_be_compressed(client: Client, form: Form, encoding: str) -> None:
    body = body_of(form, *tree())
    packers = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.ZstdCompressor().compress}
    packed = packers.get(encoding, bytes)(body)
    assert post(client, form, packed, content_encoding=encoding).status == 200
    assert client.get(f"/api/runs/{RUN_ID}").json["step_count"] == 1


def test_a_content_type_may_carry_parameters_and_capitals(client: Client) -> None:
    given = "Application/JSON; charset=utf-8"
    assert post(client, json_form, body_of(json_form, *tree()), content_type=given).status == 200


def test_spans_that_come_twice_are_stored_once_whatever_the_encoding(client: Client) -> None:
    for form in (protobuf, json_form, protobuf):
        assert form.decode_response(post(client, form, body_of(form, *tree())).body) == (0, "")
    post(client, protobuf, body_of(protobuf, *tree(), *tree()))
    health = client.get("/health").json
    assert (health["events"], health["conflicts"]) == (2, 0)
    assert client.get(f"/api/runs/{RUN_ID}").json["step_count"] == 1


@both
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
def test_spans_that_share_an_id_are_all_kept_and_told(
    client: Client, form: Form, order: tuple[int, ...], at_once: bool
) -> None:
    child = {"span_id": "00f067aa0ba902b7", "parent_span_id": SPAN_ID}
    first = span(name="fetch", attributes={"output": "1"}, **child)
    later = span(name="fetch", attributes={"output": "2"}, **child)._replace(start_ns=first.start_ns + 5)
    other = span(name="parse", attributes={"output": "3"}, **child)
    spans = [span(name="agent"), first, later, other]
    chosen = [spans[place] for place in order]
    for _ in range(2):  # the second time everything is known
        for part in [chosen] if at_once else [[each] for each in chosen]:
            assert form.decode_response(post(client, form, body_of(form, *part)).body) == (0, "")
    run = client.get(f"/api/runs/{RUN_ID}").json
    assert (run["agent_name"], run["step_count"]) == ("agent", 3)
    assert sorted((step["name"], step["output"]) for step in run["steps"]) == [
        ("fetch", "1"),
        ("fetch", "2"),
        ("parse", "3"),
    ]
    assert sorted(step["meta_data"].get("shared_span_id", "") for step in run["steps"]) == ["", *[child["span_id"]] * 2]
    assert client.get("/health").json["events"] == 4


def test_roots_that_share_an_id_are_all_kept(client: Client) -> None:
    spans = [span(name=name, attributes={"gen_ai.operation.name": "invoke_agent"}) for name in ("one", "two")]
    for each in spans:
        post(client, protobuf, body_of(protobuf, each))
    run = client.get(f"/api/runs/{RUN_ID}").json
    assert {run["agent_name"], *(step["name"] for step in run["steps"])} == {"one", "two"}


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
def test_pending_spans_of_logfire_end_as_ended_in_any_order(client: Client, order: tuple[int, ...]) -> None:
    """logfire 4: the real span may have no length, and begins when its pending one does."""
    at = {"start_ns": 1_700_000_000_000_000_000, "end_ns": 1_700_000_000_000_000_000}

    def pending(of: str, parent: str) -> dict[str, Any]:
        told = {"logfire.span_type": "pending_span", "logfire.pending_parent_id": parent}
        return {"span_id": f"{int(of, 16) ^ 1:016x}", "parent_span_id": of, "attributes": told, **at}

    child = "00f067aa0ba902b7"
    spans = [
        span(name="agent", attributes={"logfire.span_type": "span"}, **at),
        span(name="call", span_id=child, parent_span_id=SPAN_ID, attributes={"logfire.span_type": "span"}, **at),
        span(name="agent", **pending(SPAN_ID, "0" * 16)),
        span(name="call", **pending(child, SPAN_ID)),
    ]
    for number, place in enumerate(order):
        post(client, protobuf, body_of(protobuf, spans[place]))
        ended = {spans[each].span_id for each in order[: number + 1]}
        run = client.get(f"/api/runs/{RUN_ID}").json
        for step in run["steps"]:
            assert (step["name"], step["status"]) == ("call", "completed" if child in ended else "running")
            assert step["id"] == child
    assert (run["agent_name"], run["status"], run["step_count"]) == ("agent", "completed", 1)


@both
def test_a_span_that_cannot_be_stored_is_rejected_by_name_and_its_neighbours_are_stored(
    client: Client, form: Form
) -> None:
    without_time = span(span_id="1111111111111111", start_ns=0, end_ns=0)
    without_trace = span(span_id="2222222222222222", trace_id="0" * 32)
    answer = post(client, form, body_of(form, without_time, *tree(), without_trace))
    assert answer.status == 200
    found = form.decode_response(answer.body)
    assert found is not None
    assert found[0] == 2
    first, second = found[1].split("; ")
    assert first.startswith("span 1111111111111111: its times must be")
    assert second.startswith("span 2222222222222222: its trace id must be")
    assert client.get(f"/api/runs/{RUN_ID}").json["step_count"] == 1


@both
def test_where_every_span_is_rejected_nothing_is_stored(client: Client, form: Form) -> None:
    answer = post(client, form, body_of(form, span(start_ns=0, end_ns=0)))
    assert (answer.status, form.decode_response(answer.body)[0]) == (200, 1)
    health = client.get("/health").json
    assert (health["events"], health["batches"]) == (0, 0)


def test_the_reasons_for_many_rejections_are_bounded_and_counted(client: Client) -> None:
    wrong = [span(span_id=f"{number:016x}", start_ns=0, end_ns=0) for number in range(1, 5001)]
    answer = post(client, protobuf, body_of(protobuf, *wrong))
    found = protobuf.decode_response(answer.body)
    assert found is not None
    assert found[0] == 5000
    assert len(found[1]) < 5000
    named = found[1].count("span ")
    assert found[1].endswith(f"; and {5000 - named} more")


@both
def test_what_a_small_body_would_be_stored_as_is_bounded(client: Client, form: Form) -> None:
    roots = [form.encode_span(span(trace_id=f"{number:032x}")) for number in range(1, 3001)]
    body = form.encode_request(roots, {"service.name": "x" * 100_000}, "scope", "1")
    answer = post(client, form, body)
    assert len(body) < 1 << 20
    assert (answer.status, "send them in parts" in told(form, answer)) == (413, True)
    assert client.get("/health").json["events"] == 0


def test_a_large_request_is_stored_in_parts_and_a_repetition_stores_nothing_more(client: Client) -> None:
    """The ids and times of protobuf look like wide characters, of which JSON of this size would be refused."""
    text = "a payload, " * 2000 + "😀"
    spans = [span(span_id=f"{number:016x}", attributes={"input.value": text}) for number in range(1, 901)]
    body = body_of(protobuf, *spans, span(span_id="f" * 16, start_ns=0, end_ns=0))
    assert len(body) > 18 << 20
    for _ in range(2):
        found = protobuf.decode_response(post(client, protobuf, body).body)
        assert found == (
            1,
            "span ffffffffffffffff: its times must be in nanoseconds since the epoch, up to the year 9999",
        )
        assert client.get("/health").json["events"] == 900


def test_spans_that_are_too_large_with_their_resource_are_rejected_alone_in_a_large_request(client: Client) -> None:
    parent = {"parent_span_id": "1" * 16}
    spans = [protobuf.encode_span(span(span_id=f"{number:016x}", **parent)) for number in range(1, 2001)]
    body = protobuf.encode_request(spans, {"service.name": "x" * 100_000, "y": "y" * (2 << 20)}, "scope", "1")
    found = protobuf.decode_response(post(client, protobuf, body).body)
    assert found is not None
    assert found[0] + client.get("/health").json["events"] == 2000
    assert "the spans are too large with what their resources tell" in found[1]


@both
def test_a_request_without_spans_is_answered_and_leaves_nothing(client: Client, form: Form) -> None:
    assert post(client, form, body_of(form)).status == 200
    assert client.get("/health").json["batches"] == 0


def test_without_a_key_set_any_key_and_none_is_good(client: Client) -> None:
    for headers in ({}, {"authorization": "Bearer x"}, {"authorization": "nonsense"}, {"x_api_key": ""}):
        assert post(client, protobuf, body_of(protobuf, *tree()), **headers).status == 200


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {LATIN_KEY}"},
        {"authorization": f"bearer  {LATIN_KEY}"},
        {"authorization": basic("pk", KEY)},
        {"authorization": basic("", KEY)},
        {"x_agentscope_key": LATIN_KEY},
        {"x_api_key": LATIN_KEY},
        {"x_secret_key": LATIN_KEY, "x_public_key": "pk"},
        {"x_secret_key": LATIN_KEY},
        {"x_api_key": LATIN_KEY, "authorization": "Bearer of a proxy"},
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_the_key_is_taken_in_every_way_that_such_backends_ask_for(
    locked: Client, headers: dict[str, str], path: str
) -> None:
    assert post(locked, protobuf, body_of(protobuf, *tree()), path, **headers).status == 200
    assert locked.events() == 2


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": LATIN_KEY},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
        {"authorization": f"Digest {LATIN_KEY}"},
        {"authorization": basic(KEY, "wrong")},
        {"authorization": basic(KEY, "")},
        {"authorization": "Basic !!!"},
        {"authorization": "Basic é"},
        {"authorization": "Basic " + base64.b64encode(KEY.encode()).decode()},
        {"x_agentscope_key": "wrong"},
        {"x_api_key": LATIN_KEY + "x"},
        {"x_api_key": ""},
        {"x_public_key": LATIN_KEY},
        {"x_public_key": LATIN_KEY, "x_secret_key": "wrong"},
    ],
)
@both
def test_without_the_key_spans_are_refused_and_nothing_is_stored_or_told(
    locked: Client, headers: dict[str, str], form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = post(locked, form, body_of(form, *tree()), **headers)
    assert answer.status == 401
    assert "Authorization: Bearer" in told(form, answer)
    assert b"canary" not in answer.body
    assert "canary" not in caplog.text
    assert locked.events() == 0


@pytest.mark.parametrize("given", ["text/plain", "application/x-www-form-urlencoded", "", None, "application/protobuf"])
def test_another_content_type_is_refused_and_both_good_ones_are_named(client: Client, given: str | None) -> None:
    answer = post(client, json_form, body_of(json_form, *tree()), content_type=given)
    assert answer.status == 415
    assert told(json_form, answer) == "Content-Type must be application/x-protobuf or application/json."
    assert client.events() == 0


@pytest.mark.parametrize(
    ("form", "body", "headers", "status"),
    [
        (protobuf, b"\x0a\x05abc", {}, 400),
        (protobuf, b"{}", {}, 400),
        (protobuf, b"\x78\x00" * 1_000_001, {}, 413),
        (json_form, b"nonsense", {}, 400),
        (json_form, b"[]", {}, 400),
        (json_form, b'{"resourceSpans": 5}', {}, 400),
        (json_form, b'{"a": [' + b"{}," * 400_000 + b"{}]}", {}, 413),
        (protobuf, b"no gzip", {"content_encoding": "gzip"}, 400),
        (protobuf, b"no deflate", {"content_encoding": "deflate"}, 400),
        (protobuf, zlib.compress(b" " * 99)[:-1], {"content_encoding": "deflate"}, 400),
        (json_form, b"{}", {"content_encoding": "br"}, 415),
        (protobuf, gzip.compress(b" " * 50_000_000, mtime=0), {"content_encoding": "gzip"}, 413),
        (json_form, b"{}", {"content_length": "1_0"}, 400),
        (protobuf, b"x" * (8 << 20) + b"x", {}, 413),
    ],
)
def test_a_broken_body_is_answered_with_a_status_message_and_stores_nothing(
    client: Client, form: Form, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = post(client, form, body, **headers)
    assert answer.status == status
    if headers.keys() != {"content_length"}:  # that one is refused before it is a request
        assert told(form, answer).endswith(".")
    assert client.events() == 0


@both
def test_when_nothing_can_be_stored_the_sender_is_told_to_come_again(
    receiver: Receiver, client: Client, form: Form
) -> None:
    receiver.store.close()
    answer = post(client, form, body_of(form, *tree()))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert told(form, answer).startswith("Try again later")


def test_a_busy_receiver_tells_so_in_the_senders_encoding(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "runs.db", limits=Limits(held_bytes=10)) as receiver:
        answer = post(Client(receiver.url), protobuf, body_of(protobuf, *tree()))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert told(protobuf, answer).endswith(".")


def test_only_posts_from_no_foreign_page_are_taken(client: Client) -> None:
    assert client.get(PATHS[0]).status == 405
    assert post(client, json_form, body_of(json_form, *tree()), origin="http://evil.example").status == 403
    assert client.events() == 0


# ---- the OpenTelemetry SDK ------------------------------------------------------------------------------------------


def emit(exporter: SpanExporter) -> None:
    """An agent's run by the OpenTelemetry SDK, with a provider of its own."""
    provider = TracerProvider(resource=Resource.create({"service.name": "travel"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("an-emitter", "1.2")
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner", "gen_ai.conversation.id": "c-1"}
    with tracer.start_as_current_span("invoke_agent planner", attributes=agent):
        model = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "a-model", "gen_ai.provider.name": "openai"}
        with tracer.start_as_current_span("chat a-model", kind=SpanKind.CLIENT, attributes=model) as call:
            call.set_attribute("gen_ai.usage.input_tokens", 100)
            call.set_attribute("gen_ai.usage.output_tokens", 20)
            call.set_attribute("gen_ai.response.finish_reasons", ("tool_calls",))
        tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}
        with tracer.start_as_current_span("execute_tool search", attributes=tool) as search:
            with tracer.start_as_current_span("GET /flights", kind=SpanKind.CLIENT):
                pass
            search.record_exception(ValueError("no flights"))
            search.set_status(StatusCode.ERROR, "no flights")
    assert provider.force_flush(60_000)
    provider.shutdown()


def emitted_tree(client: Client) -> dict[str, tuple[Any, ...]]:
    """The stored run: each step by its name, with its parent's, its type and its status."""
    (listed,) = client.get("/api/runs").json["runs"]
    run = client.get(f"/api/runs/{listed['id']}").json
    assert (run["agent_name"], run["conversation_id"], run["status"]) == ("planner", "c-1", "completed")
    assert (run["tokens_used"], run["error_count"]) == (120, 1)
    names = {step["id"]: step["name"] for step in run["steps"]}
    return {
        step["name"]: (names.get(step["parent_id"]), step["step_type"], step["status"], bool(step["error"]))
        for step in run["steps"]
    }


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip, Compression.Deflate])
def test_the_opentelemetry_sdks_own_exporter_is_understood(client: Client, compression: Compression) -> None:
    emit(OTLPSpanExporter(f"http://{client.host}{PATHS[0]}", timeout=60, compression=compression))
    found = emitted_tree(client)
    assert len(found) == 3
    model, tool = (next(name for name in found if word in name) for word in ("a-model", "search"))
    assert found[model] == (None, "llm_call", "completed", False)
    assert found[tool] == (None, "tool_call", "failed", True)
    assert found["GET /flights"] == (tool, "other", "completed", False)


def test_the_opentelemetry_sdk_sends_the_key_by_its_own_headers(
    locked: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{locked.host}")
    assert OTLPSpanExporter(timeout=60).export(()) is SpanExportResult.FAILURE
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20ask_canary_k%C3%A9y")
    emit(OTLPSpanExporter(headers={"x-api-key": KEY.encode()}, timeout=60))
    assert len(emitted_tree(locked)) == 3
