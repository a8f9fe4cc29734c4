"""The adapters through which each SDK does the same work: its documented manual API, with default settings.

A run is a trace. A step is a span inside it with an input and an output. If an SDK takes only text, the payload is encoded as
JSON, as its documentation asks, and that is part of its cost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

Payload = dict[str, Any]


class Adapter(Protocol):
    """The calls that a load makes of an SDK."""

    def begin(self, name: str, given: Payload) -> Any:
        """Start a run. The return value is passed to `step` and `end`."""

    def step(self, run: Any, name: str, given: Payload, made: Payload) -> None:
        """Open a step with its input and close it with its output."""

    def end(self, run: Any, made: Payload) -> None: ...

    def flush(self) -> None:
        """Deliver everything by the documented call."""


@dataclass(frozen=True)
class Kind:
    """The description of an SDK: its adapter, and what has to be installed."""

    label: str
    make: Callable[[str], Adapter]
    """The adapter's factory; its argument is the URL of the backend."""
    modules: tuple[str, ...] = ()
    """The modules that must be importable; a user imports them, or the first of them."""
    requirements: tuple[str, ...] = ()
    """The requirements for pip; this repository is `.`, with an extra `.[extra]`."""
    environ: Callable[[str], Mapping[str, str]] = lambda url: {}
    distribution: str = ""
    """The distribution whose version is reported; empty for this repository."""
    lives_with: str = ""
    """The name of the SDK whose interpreter is used if none is given."""
    without_extra: bool = False
    """True if the modules of the extra `fast` are hidden."""


class Nothing:
    """No SDK. The cost of this loop is subtracted from the cost of the others."""

    def __init__(self, url: str) -> None: ...

    def begin(self, name: str, given: Payload) -> None: ...

    def step(self, run: None, name: str, given: Payload, made: Payload) -> None: ...

    def end(self, run: None, made: Payload) -> None: ...

    def flush(self) -> None: ...


class AgentScope:
    """This SDK, with a block for each step."""

    def __init__(self, url: str) -> None:
        self._tracker = import_module("agentscope").create_tracker(api_key="ask_bench", base_url=url)

    def begin(self, name: str, given: Payload) -> str:
        run: str = self._tracker.start_run("bench", input_data=given, external_id=name)
        return run

    def step(self, run: str, name: str, given: Payload, made: Payload) -> None:
        with self._tracker.track_step_context(name, step_type="tool_call", input_data=given, run_id=run) as step:
            step.output = made

    def end(self, run: str, made: Payload) -> None:
        self._tracker.end_run(output=made, run_id=run)

    def flush(self) -> None:
        self._tracker.flush(timeout=120)


class AgentScopePlain(AgentScope):
    """This SDK, with one call of `track_step` for each step."""

    def step(self, run: str, name: str, given: Payload, made: Payload) -> None:
        self._tracker.track_step(name, step_type="tool_call", input_data=given, output_data=made, run_id=run)


class OpenTelemetry:
    """OpenTelemetry's SDK with the batch processor and the OTLP exporter over HTTP."""

    def __init__(self, url: str) -> None:
        exporting = import_module("opentelemetry.sdk.trace.export")
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        self._provider = import_module("opentelemetry.sdk.trace").TracerProvider()
        self._provider.add_span_processor(exporting.BatchSpanProcessor(otlp.OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("bench")

    def begin(self, name: str, given: Payload) -> tuple[AbstractContextManager[Any], Any]:
        block = self._tracer.start_as_current_span(name)
        span = block.__enter__()
        span.set_attribute("input", json.dumps(given))
        return block, span

    def step(self, run: Any, name: str, given: Payload, made: Payload) -> None:
        with self._tracer.start_as_current_span(name) as span:
            span.set_attribute("input", json.dumps(given))
            span.set_attribute("output", json.dumps(made))

    def end(self, run: tuple[AbstractContextManager[Any], Any], made: Payload) -> None:
        block, span = run
        span.set_attribute("output", json.dumps(made))
        block.__exit__(None, None, None)

    def flush(self) -> None:
        self._provider.force_flush()


class Honeycomb:
    """libhoney, a client for events, with one event for each step. It keeps payloads by reference, so later changes are sent."""

    def __init__(self, url: str) -> None:
        client = import_module("libhoney.client")
        self._client = client.Client(writekey="a" * 32, dataset="bench", api_host=url)

    def _send(self, fields: Payload) -> None:
        event = self._client.new_event()
        event.add(fields)
        event.send()

    def begin(self, name: str, given: Payload) -> str:
        self._send({"name": "start", "run": name, "input": given})
        return name

    def step(self, run: str, name: str, given: Payload, made: Payload) -> None:
        self._send({"name": name, "run": run, "input": given, "output": made})

    def end(self, run: str, made: Payload) -> None:
        self._send({"name": "end", "run": run, "output": made})

    def flush(self) -> None:
        self._client.flush()


class Sentry:
    """Sentry, with a transaction for each run and a span for each step; everything is sampled."""

    def __init__(self, url: str) -> None:
        self._sdk = import_module("sentry_sdk")
        address = url.partition("//")[2]
        self._sdk.init(dsn=f"http://{'a' * 32}@{address}/1", traces_sample_rate=1.0)

    def begin(self, name: str, given: Payload) -> Any:
        transaction = self._sdk.start_transaction(op="gen_ai.invoke_agent", name=name)
        transaction.__enter__()
        transaction.set_data("input", json.dumps(given))
        return transaction

    def step(self, run: Any, name: str, given: Payload, made: Payload) -> None:
        with self._sdk.start_span(op="gen_ai.execute_tool", name=name) as span:
            span.set_data("input", json.dumps(given))
            span.set_data("output", json.dumps(made))

    def end(self, run: Any, made: Payload) -> None:
        run.set_data("output", json.dumps(made))
        run.__exit__(None, None, None)

    def flush(self) -> None:
        self._sdk.flush(timeout=60)


class Langfuse:
    """Langfuse, with an observation for each run and step. Observations are spans of OpenTelemetry."""

    def __init__(self, url: str) -> None:
        self._client = import_module("langfuse").Langfuse()

    def begin(self, name: str, given: Payload) -> Any:
        return self._client.start_observation(name=name, as_type="span", input=given)

    def step(self, run: Any, name: str, given: Payload, made: Payload) -> None:
        observation = run.start_observation(name=name, as_type="span", input=given)
        observation.update(output=made)
        observation.end()

    def end(self, run: Any, made: Payload) -> None:
        run.update(output=made)
        run.end()

    def flush(self) -> None:
        self._client.flush()


def _langfuse_environ(url: str) -> Mapping[str, str]:
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-bench", "LANGFUSE_SECRET_KEY": "sk-lf-bench"}
    return {"LANGFUSE_HOST": url, "LANGFUSE_BASE_URL": url, **keys}


_CORE = ("agentscope", "requests", "tenacity")
KINDS: Mapping[str, Kind] = {
    "nothing": Kind("the loop alone", Nothing),
    "agentscope": Kind("AgentScope", AgentScope, _CORE, (".",), without_extra=True),
    "agentscope-fast": Kind("AgentScope, fast", AgentScope, (*_CORE, "orjson", "zstandard"), (".[fast]",)),
    "agentscope-plain": Kind(
        "AgentScope, track_step", AgentScopePlain, _CORE, lives_with="agentscope", without_extra=True
    ),
    "otel": Kind(
        "OpenTelemetry",
        OpenTelemetry,
        ("opentelemetry.sdk.trace.export", "opentelemetry.exporter.otlp.proto.http.trace_exporter"),
        ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"),
        lambda url: {"OTEL_EXPORTER_OTLP_ENDPOINT": url},
        "opentelemetry-sdk",
    ),
    "libhoney": Kind("libhoney", Honeycomb, ("libhoney",), ("libhoney",), distribution="libhoney"),
    "sentry": Kind("Sentry", Sentry, ("sentry_sdk",), ("sentry-sdk",), distribution="sentry-sdk"),
    "langfuse": Kind("Langfuse", Langfuse, ("langfuse",), ("langfuse",), _langfuse_environ, "langfuse"),
    "receiver": Kind("the receiver", Nothing, (*_CORE, "starlette", "uvicorn"), (".[server]",)),
}
OWN = ("agentscope", "agentscope-fast")
PEERS = ("otel", "libhoney", "sentry", "langfuse")
EVERYBODY = (*OWN, *PEERS)
