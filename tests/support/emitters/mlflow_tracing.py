"""MLflow's tracing, exported by OTLP."""

import mlflow


@mlflow.trace(span_type="TOOL", attributes={"unit": "celsius", "digits": 1})
def get_weather(city: str) -> str:
    return f"sunny in {city}"


@mlflow.trace(span_type="AGENT")
def forecaster(question: str) -> str:
    get_weather("Paris")
    with mlflow.start_span("ask", span_type="CHAT_MODEL") as span:
        span.set_inputs([{"role": "user", "content": question}])
        span.set_attribute("mlflow.chat.tokenUsage", {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18})
        span.set_outputs("It is sunny.")
    return "It is sunny."


forecaster("How is the weather in Paris?")
mlflow.flush_trace_async_logging()

from mlflow.tracing.provider import provider  # noqa: E402 - after what it depends on

provider.get().force_flush()  # type: ignore[attr-defined]  # of the SDK
