"""An agent of a few lines over OpenAI's client, for the instrumentations of that client."""

import json
import os
from typing import Any

from openai import OpenAI

QUESTION = "How is the weather in Paris?"
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def run() -> str:
    """Ask, call the tool, and ask again."""
    model = os.environ.get("MODEL", "gpt-4o")
    client = OpenAI(base_url=os.environ["STUB_MODEL"], api_key="none", max_retries=0)
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    while True:
        message = client.chat.completions.create(model=model, messages=messages, tools=[TOOL]).choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            city = json.loads(call.function.arguments)["city"]  # type: ignore[union-attr]  # a function
            messages.append({"role": "tool", "tool_call_id": call.id, "content": f"sunny in {city}"})
