"""Strands agents."""

import os

from strands import Agent, tool
from strands.models.openai import OpenAIModel
from strands.telemetry import StrandsTelemetry

telemetry = StrandsTelemetry()
telemetry.setup_otlp_exporter()


@tool
def get_weather(city: str) -> str:
    """Return the weather in a city."""
    return f"sunny in {city}"


client = {"base_url": os.environ["STUB_MODEL"], "api_key": "none"}
model = OpenAIModel(client_args=client, model_id="gpt-4o")
agent = Agent(model=model, tools=[get_weather], name="forecaster", system_prompt="Be brief.", callback_handler=None)
agent("How is the weather in Paris?")
telemetry.tracer_provider.force_flush()
