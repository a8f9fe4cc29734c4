"""smolagents through OpenInference."""

import os

from openinference.instrumentation.smolagents import SmolagentsInstrumentor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from smolagents import OpenAIServerModel, ToolCallingAgent, tool

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
SmolagentsInstrumentor().instrument(tracer_provider=provider)


@tool
def get_weather(city: str) -> str:
    """Return the weather in a city.

    Args:
        city: The city.
    """
    return f"sunny in {city}"


model = OpenAIServerModel("gpt-4o", api_base=os.environ["STUB_MODEL"], api_key="none")
ToolCallingAgent(tools=[get_weather], model=model, name="forecaster", description="Tells.", max_steps=2).run(
    "How is the weather in Paris?"
)
provider.shutdown()
