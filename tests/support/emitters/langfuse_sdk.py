"""Langfuse's SDK."""

import os

from langfuse import Langfuse, observe, propagate_attributes

langfuse = Langfuse(public_key="pk", secret_key="any", host=os.environ["RECEIVER"], environment="staging")


@observe(as_type="tool")
def get_weather(city: str) -> str:
    return f"sunny in {city}"


@observe(as_type="generation")
def ask(question: str) -> str:
    langfuse.update_current_generation(model="gpt-4o", usage_details={"input": 11, "output": 7, "total": 18})
    return "It is sunny."


@observe(as_type="agent")
def forecaster(question: str) -> str:
    with propagate_attributes(user_id="ann", session_id="s1", tags=["weather"]):
        get_weather("Paris")
        return ask(question)


forecaster("How is the weather in Paris?")
langfuse.flush()
