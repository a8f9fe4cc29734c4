"""How each SDK is used: by its documented manual API, with its default settings.

A run is a trace, a step a span inside it with an input and an output. Where an SDK takes only text, the payload is made
JSON as its documents ask, and that is part of its cost.
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
    """One SDK at work."""

    def begin(self, name: str, given: Payload) -> Any:
        """Start a run; what is returned is handed to `step` and `end`."""

    def step(self, run: Any, name: str, given: Payload, made: Payload) -> None:
        """Open a step with its input and close it with its output."""

    def end(self, run: Any, made: Payload) -> None: ...

    def flush(self) -> None:
        """Deliver everything, by the documented call."""


@dataclass(frozen=True)
class Kind:
    """An SDK that can be measured."""

    label: str
    make: Callable[[str], Adapter]
    """Takes the URL of the backend."""
    modules: tuple[str, ...] = ()
    """What a user imports, and what must be there for it to be measured."""
    requirements: tuple[str, ...] = ()
    """What pip installs it by; this repository, with an extra or without, is `.` and `.[extra]`."""
    environ: Callable[[str], Mapping[str, str]] = lambda url: {}
    distribution: str = ""
    """Whose version is told; none is this repository."""
    lives_with: str = ""
    """Whose interpreter it uses if none is given for it."""
    without_extra: bool = False
    """Whether the extra `fast` must not be found."""


class Nothing:
    """The loop alone: what the others cost less this is their own."""

    def __init__(self, url: str) -> None: ...

    def begin(self, name: str, given: Payload) -> None: ...

    def step(self, run: None, name: str, given: Payload, made: Payload) -> None: ...

    def end(self, run: None, made: Payload) -> None: ...

    def flush(self) -> None: ...


class AgentScope:
    """This SDK: a step is a block."""

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
    """This SDK: a step is one call after the fact."""

    def step(self, run: str, name: str, given: Payload, made: Payload) -> None:
        self._tracker.track_step(name, step_type="tool_call", input_data=given, output_data=made, run_id=run)


class OpenTelemetry:
    """The SDK with a batch processor and the OTLP exporter over HTTP."""

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
    """An event client, no tracer: one event a step. It keeps payloads by reference, so a later change of them is sent."""

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
    """A transaction a run, a span a step; everything is sampled."""

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
    """Observations, which are spans of OpenTelemetry underneath."""

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
