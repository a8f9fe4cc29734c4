"""Google's ADK with a model of its own, which tells the messages in log records."""

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import Any

os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_AND_EVENT"

from google.adk.agents import Agent
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types
from opentelemetry import _logs, trace
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
logs = LoggerProvider()
logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
_logs.set_logger_provider(logs)


class Model(BaseLlm):
    model: str = "gemini"

    async def generate_content_async(
        self, request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        is_done = any(part.function_response for content in request.contents for part in content.parts or ())
        call = types.Part(function_call=types.FunctionCall(name="get_weather", args={"city": "Paris"}))
        part = types.Part(text="It is sunny.") if is_done else call
        usage = types.GenerateContentResponseUsageMetadata(
            prompt_token_count=11, candidates_token_count=7, total_token_count=18
        )
        yield LlmResponse(content=types.Content(role="model", parts=[part]), usage_metadata=usage)


def get_weather(city: str) -> dict[str, Any]:
    """Return the weather in a city."""
    return {"weather": f"sunny in {city}"}


async def main() -> None:
    agent = Agent(name="forecaster", model=Model(), instruction="Be brief.", tools=[get_weather])
    runner = InMemoryRunner(agent, app_name="weather")
    session = await runner.session_service.create_session(app_name="weather", user_id="ann")
    message = types.Content(role="user", parts=[types.Part(text="How is the weather in Paris?")])
    async for _ in runner.run_async(user_id="ann", session_id=session.id, new_message=message):
        pass


asyncio.run(main())
logs.shutdown()
provider.shutdown()
