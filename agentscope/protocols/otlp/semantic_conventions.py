"""Attribute names that writing and reading share, and the name of each step type in other conventions.

A span of our own loses nothing on its way through OTLP. The table of fields in `events.py` names the attribute that carries each
plain field; those for payloads, ids and times stand here.
"""

from __future__ import annotations

from typing import NamedTuple

from agentscope.protocols.otlp.wire.model import CLIENT, INTERNAL

RUN_ID = "agentscope.run.id"
STEP_ID = "agentscope.step.id"
PARENT_ID = "agentscope.parent.id"
NAME = "agentscope.name"
"""The name as it was given; the name of the span follows a convention."""
STEP_TYPE = "agentscope.step.type"
STARTED_AT, ENDED_AT = "agentscope.started_at", "agentscope.ended_at"
"""Only where the span's own time is another: nanoseconds since the epoch, 0 for a time that was never set, or text."""
ERROR_PAYLOAD = "agentscope.error"
"""Only where an `exception` event cannot carry the whole error. JSON text."""
META_DATA = "agentscope.meta_data"
"""Only where it is no object: those are carried by `METADATA`. JSON text."""
USAGE = "agentscope.usage"
"""JSON text."""
FIRST_CHUNK_SECONDS = "gen_ai.response.time_to_first_chunk"
"""The convention for `first_token_ms`, in seconds."""

INPUT, OUTPUT = "input", "output"
"""VoltOps. Under OpenInference they are INPUT_VALUE and OUTPUT_VALUE. At least one of the two has the payload."""
INPUT_VALUE, OUTPUT_VALUE = "input.value", "output.value"
INPUT_MIME_TYPE, OUTPUT_MIME_TYPE = "input.mime_type", "output.mime_type"
JSON_TYPE, TEXT_TYPE = "application/json", "text/plain"
METADATA = "metadata"

EXCEPTION = "exception"
"""The event of a span that failed; its attributes by the keys of our `error` payload."""
EXCEPTION_KEYS = {
    "type": "exception.type",
    "message": "exception.message",
    "traceback": "exception.stacktrace",
}
ERROR_TYPE = "error.type"


class Kind(NamedTuple):
    """How one kind of step is called."""

    operation: str
    """`gen_ai.operation.name`; empty for none. A memory's is told by what it does."""
    span_kind: int
    openinference: str
    """`openinference.span.kind`."""
    voltops: str
    """`span.type`; empty for none."""


RUN_KIND = Kind("invoke_agent", INTERNAL, "AGENT", "")
OTHER_KIND = Kind("", INTERNAL, "CHAIN", "workflow-step")
MEMORY_KIND = Kind("upsert_memory", CLIENT, "CHAIN", "memory")
KINDS = {
    "agent": Kind("invoke_agent", INTERNAL, "AGENT", "agent"),
    "llm_call": Kind("chat", CLIENT, "LLM", "llm"),
    "tool_call": Kind("execute_tool", INTERNAL, "TOOL", "tool"),
    "memory": MEMORY_KIND,
    "retrieval": Kind("retrieval", CLIENT, "RETRIEVER", "retriever"),
    "reasoning": OTHER_KIND,
    "other": OTHER_KIND,
}
"""By step type."""
SEARCH_MEMORY = "search_memory"

MLFLOW_SPAN_TYPE = "mlflow.spanType"
"""Goes before what MLflow makes of the other conventions: none of them has a kind for memory."""
MLFLOW_TRACE_NAME = "mlflow.traceTag.mlflow.traceName"
"""Of a root: by this name MLflow lists and filters a trace, which has none otherwise."""
