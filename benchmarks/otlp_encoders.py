"""The CPU time of encoding OTLP, during which the worker holds the GIL: the encoders here, and opentelemetry-proto if installed.

    python -m benchmarks.otlp_encoders [rounds]

Each request has 512 spans with 1 KB of input and 1 KB of output. The encoders alternate from round to round, so that a busy
machine slows all of them. The time of each import and the size of each installation follow.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from agentscope.protocols.otlp.wire import json_form
from agentscope.protocols.otlp.wire import protobuf_form as protobuf
from agentscope.protocols.otlp.wire.model import CLIENT, OK, Span, Value

SPANS = 512
RESOURCE: Mapping[str, Value] = {"service.name": "benchmark", "telemetry.sdk.name": "agentscope"}
SCOPE = ("agentscope", "0")

OURS = tuple(f"agentscope.protocols.otlp.wire.{name}" for name in ("model", "limits", "protobuf_form"))
LIBRARY = "opentelemetry.proto.collector.trace.v1.trace_service_pb2"


def spans() -> list[Span]:
    """Spans of model calls, as the SDK sends them."""
    asked = json.dumps([{"role": "user", "content": "What is the weather? " * 47}])
    told = json.dumps([{"role": "assistant", "content": "It is sunny in Paris. " * 45}])
    found = []
    for number in range(SPANS):
        attributes: dict[str, Value] = {
            "agentscope.run.id": "5b8efff7-9803-8103-d269-b633813fc60c",
            "agentscope.step.id": f"2b8efff7-9803-8103-d269-{number:012x}",
            "agentscope.step.type": "llm_call",
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "a-model",
            "gen_ai.usage.input_tokens": 235,
            "gen_ai.usage.output_tokens": 75 + number,
            "openinference.span.kind": "LLM",
            "llm.model_name": "a-model",
            "llm.token_count.prompt": 235,
            "llm.token_count.completion": 75 + number,
            "gen_ai.input.messages": asked,
            "gen_ai.output.messages": told,
            "agentscope.latency_ms": 12.5 + number,
        }
        began = 1_700_000_000_000_000_000 + number
        ids = ("5b8efff798038103d269b633813fc60c", f"{number + 1:016x}", "eee19b7ec3c1b174")
        found.append(Span(*ids, "chat a-model", CLIENT, began, began + 10**9, attributes, OK))
    return found


def by_library() -> Callable[[list[Span]], bytes] | None:
    """Encode the same request by opentelemetry-proto."""
    try:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
    except ImportError:
        return None

    def encode(found: list[Span]) -> bytes:
        request = trace_service_pb2.ExportTraceServiceRequest()
        group = request.resource_spans.add()
        for name, value in RESOURCE.items():
            group.resource.attributes.add(key=name).value.string_value = value
        scoped = group.scope_spans.add()
        scoped.scope.name, scoped.scope.version = SCOPE
        for span in found:
            message = scoped.spans.add(
                trace_id=bytes.fromhex(span.trace_id),
                span_id=bytes.fromhex(span.span_id),
                parent_span_id=bytes.fromhex(span.parent_span_id),
                name=span.name,
                kind=span.kind,
                start_time_unix_nano=span.start_ns,
                end_time_unix_nano=span.end_ns,
            )
            message.status.code = span.status
            add = message.attributes.add
            for name, value in span.attributes.items():
                if type(value) is str:
                    add(key=name).value.string_value = value
                elif type(value) is int:
                    add(key=name).value.int_value = value
                else:
                    add(key=name).value.double_value = value
        body: bytes = request.SerializeToString()
        return body

    return encode


def encoders() -> dict[str, Callable[[list[Span]], bytes]]:
    known: dict[str, Callable[[list[Span]], bytes]] = {
        "ours, protobuf": lambda found: protobuf.encode_request(
            [protobuf.encode_span(span) for span in found], RESOURCE, *SCOPE
        ),
        "ours, JSON": lambda found: json_form.encode_request(
            [json_form.encode_span(span) for span in found], RESOURCE, *SCOPE
        ),
    }
    library = by_library()
    return known if library is None else {**known, "opentelemetry-proto": library}


def imported(module: str, own: tuple[str, ...] = ()) -> float:
    """The time of an import after `import agentscope` in ms: the median of several processes.

    own: the modules to count, for a package that has others too.
    """
    program = f"import agentscope; import {module}"
    times = []
    for _ in range(9):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True, check=True
        )
        lines = [
            line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if line.count("|") == 2
        ]
        if own:
            times.append(sum(int(line[0]) for line in lines if line[2].strip() in own) / 1e3)
        else:
            times.append(next(int(line[1]) for line in lines if line[2].strip() == module) / 1e3)
    return statistics.median(times)


def installed(*names: str) -> str:
    """The number of distributions, and their size."""
    files: list[Any] = [file for name in names for file in distribution(name).files or ()]
    size = sum(path.stat().st_size for path in (file.locate() for file in files) if path.exists())
    return f"{len(names)} distributions, {size / 1e6:.1f} MB"


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    found, known = spans(), encoders()
    bodies = {name: encode(found) for name, encode in known.items()}
    assert len({bodies[name] for name in bodies if name != "ours, JSON"}) == 1, "not the same request"
    times: dict[str, list[float]] = {name: [] for name in known}
    for _ in range(rounds):
        for name, encode in known.items():
            began = time.process_time()
            encode(found)
            times[name].append((time.process_time() - began) * 1e3)
    first = statistics.median(times["ours, protobuf"])
    print(f"Python {sys.version.split()[0]}, {SPANS} spans, milliseconds of CPU")
    print(f"{'':22} median    best   ratio     bytes")
    for name, each in times.items():
        median = statistics.median(each)
        print(f"{name:22} {median:6.2f}  {min(each):6.2f}  {median / first:6.2f}  {len(bodies[name]):8d}")
    print(f"import of ours: {imported(OURS[2], OURS):.1f} ms; nothing to install")
    try:
        what = installed("opentelemetry-proto", "protobuf")
        print(f"import of opentelemetry-proto: {imported(LIBRARY):.1f} ms; {what}")
    except PackageNotFoundError:
        print("opentelemetry-proto is not installed")


if __name__ == "__main__":
    main()
