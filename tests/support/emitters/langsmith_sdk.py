"""LangSmith's SDK, which sends OpenTelemetry."""

import os

os.environ |= {"LANGSMITH_TRACING": "true", "LANGSMITH_OTEL_ENABLED": "true", "LANGSMITH_OTEL_ONLY": "true"}
os.environ |= {"LANGSMITH_API_KEY": "any", "LANGSMITH_ENDPOINT": os.environ["RECEIVER"]}

from langsmith import Client, traceable
from langsmith.wrappers import wrap_openai
from openai import OpenAI

client = Client()


@traceable(run_type="tool", client=client)
def get_weather(city: str) -> str:
    return f"sunny in {city}"


@traceable(run_type="chain", client=client)
def forecaster(question: str) -> str:
    get_weather("Paris")
    model = wrap_openai(OpenAI(base_url=os.environ["STUB_MODEL"], api_key="none"), tracing_extra={"client": client})
    answer = model.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": question}])
    return answer.choices[0].message.content or ""


forecaster("How is the weather in Paris?")
client.flush()

from opentelemetry import trace  # noqa: E402 - after what it depends on

trace.get_tracer_provider().force_flush()  # type: ignore[attr-defined]  # of the SDK
