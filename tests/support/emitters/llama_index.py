"""LlamaIndex through OpenInference."""

import asyncio
import os

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai_like import OpenAILike
from openinference.instrumentation.llama_index import LlamaIndexInstrumentor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
LlamaIndexInstrumentor().instrument(tracer_provider=provider)


def get_weather(city: str) -> str:
    """Return the weather in a city."""
    return f"sunny in {city}"


async def main() -> None:
    llm = OpenAILike(
        model="gpt-4o",
        api_base=os.environ["STUB_MODEL"],
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
    )
    agent = FunctionAgent(name="forecaster", description="Tells.", tools=[get_weather], llm=llm, streaming=False)
    await agent.run("How is the weather in Paris?")


asyncio.run(main())
provider.shutdown()
