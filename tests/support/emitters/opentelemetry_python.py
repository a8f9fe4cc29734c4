"""OpenTelemetry by hand, with the attributes of the GenAI conventions."""

import json

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
tracer = provider.get_tracer("by.hand", "1.0")
asked = [{"role": "user", "parts": [{"type": "text", "content": "How is the weather in Paris?"}]}]
said = [{"role": "assistant", "parts": [{"type": "text", "content": "It is sunny."}]}]

with tracer.start_as_current_span("invoke_agent forecaster") as agent:
    agent.set_attributes({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "forecaster"})
    agent.set_attributes({"gen_ai.input.messages": json.dumps(asked), "gen_ai.output.messages": json.dumps(said)})
    with tracer.start_as_current_span("execute_tool get_weather") as tool:
        tool.set_attributes({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "get_weather"})
        tool.set_attributes({"gen_ai.tool.call.arguments": '{"city": "Paris"}', "gen_ai.tool.call.result": "sunny"})
    with tracer.start_as_current_span("chat gpt-4o") as chat:
        chat.set_attributes({"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"})
        chat.set_attributes({"gen_ai.usage.input_tokens": 11, "gen_ai.usage.output_tokens": 7})
        chat.set_attributes({"gen_ai.input.messages": json.dumps(asked), "gen_ai.output.messages": json.dumps(said)})
provider.shutdown()
