"""Pydantic AI through Logfire."""

import os

import logfire
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

logfire.configure(send_to_logfire=False, console=False, service_name="weather")
logfire.instrument_pydantic_ai()
model = OpenAIChatModel("gpt-4o", provider=OpenAIProvider(base_url=os.environ["STUB_MODEL"], api_key="none"))
agent = Agent(model, name="forecaster", instructions="Be brief.")


@agent.tool_plain
def get_weather(city: str) -> str:
    """Return the weather in a city."""
    return f"sunny in {city}"


with logfire.span("question of {user}", user="ann"):
    agent.run_sync("How is the weather in Paris?")
logfire.force_flush()
