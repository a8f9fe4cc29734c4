"""OpenTelemetry in: spans of a framework, or of your own code, become steps of the current run.

python examples/opentelemetry_spans.py        (needs `pip install opentelemetry-sdk`)
"""

import sys

from agentscope import create_tracker

try:
    from opentelemetry.sdk.trace import TracerProvider
except ImportError:
    sys.exit("This example needs OpenTelemetry: pip install opentelemetry-sdk")

from agentscope.integrations.otel import AgentScopeSpanProcessor

tracker = create_tracker()
provider = TracerProvider()
provider.add_span_processor(AgentScopeSpanProcessor(tracker))
spans = provider.get_tracer("a.framework")

with tracker.track_run("forecaster", input_data={"city": "Oslo"}) as run:
    with spans.start_as_current_span("invoke_agent weather") as agent:
        agent.set_attributes({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "weather"})
        with spans.start_as_current_span("execute_tool thermometer") as tool:
            tool.set_attributes({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "thermometer"})
        with spans.start_as_current_span("chat a-small-model") as chat:
            chat.set_attributes({"gen_ai.operation.name": "chat", "gen_ai.request.model": "a-small-model"})
            chat.set_attributes({"gen_ai.usage.input_tokens": 12, "gen_ai.usage.output_tokens": 5})
    run.output = {"celsius": -3}

print(f"recorded: {tracker.stats().accepted} events")
