"""OpenTelemetry out: runs and steps as spans, to any backend that takes OTLP over HTTP. `agentscope serve` is one.

OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 python examples/otlp.py

The receiver announces a call of its own, which also takes open steps: it is used after the first request.
"""

import os

from agentscope import create_tracker

BACKEND = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get(
    "AGENTSCOPE_BASE_URL", "http://localhost:8000"
)
NOTES = {"tea": "Boil water, pour it over the leaves, wait three minutes.", "toast": "Two minutes, both sides."}

tracker = create_tracker(protocol="otlp", endpoint=BACKEND, service_name="kitchen")


def answer(question: str) -> str:
    with tracker.track_step_context("find_notes", step_type="retrieval", input_data={"query": question}) as step:
        found = [text for name, text in NOTES.items() if name in question]
        step.output = {"documents": found}
    with tracker.track_step_context("write", step_type="llm_call") as step:
        step.model = "a-small-model"
        reply = found[0] if found else "I don't know."
        step.usage = {"input_tokens": len(question.split()), "output_tokens": len(reply.split())}
        step.output = {"content": reply}
    return reply


with tracker.track_run("cook", input_data={"question": "How do I make tea?"}) as run:
    run.output = {"answer": answer("How do I make tea?")}

delivered = tracker.flush(timeout=10)
print(f"delivered: {bool(delivered)}, by {tracker.stats().protocol}")
