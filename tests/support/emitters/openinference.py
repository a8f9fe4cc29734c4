"""OpenInference's instrumentation of OpenAI's client."""

from contextlib import suppress

from openinference.instrumentation.openai import OpenAIInstrumentor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.support.emitters.openai_agent import run

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
OpenAIInstrumentor().instrument(tracer_provider=provider)
with suppress(Exception), provider.get_tracer("app").start_as_current_span("forecaster") as span:
    span.set_attribute("openinference.span.kind", "AGENT")
    run()
provider.shutdown()
