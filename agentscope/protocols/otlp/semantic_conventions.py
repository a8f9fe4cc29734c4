"""Attribute names for encoding and decoding, and the names of step types in other conventions.

Spans of this SDK lose nothing in OTLP. The table of fields in `events.py` names the attribute of each plain field; those of
payloads, ids and times are here.
"""

from __future__ import annotations

from typing import NamedTuple

from agentscope.protocols.otlp.wire.model import CLIENT, INTERNAL

RUN_ID = "agentscope.run.id"
STEP_ID = "agentscope.step.id"
PARENT_ID = "agentscope.parent.id"
NAME = "agentscope.name"
"""The name of the run or step. The name of its span follows a convention."""
STEP_TYPE = "agentscope.step.type"
STARTED_AT, ENDED_AT = "agentscope.started_at", "agentscope.ended_at"
"""Set only if the span's own time differs: nanoseconds since the epoch, 0 for a time that was never set, or text."""
ERROR_PAYLOAD = "agentscope.error"
"""Set only if an `exception` event cannot carry the whole error. JSON text."""
META_DATA = "agentscope.meta_data"
"""Set only if it is no object; `METADATA` carries objects. JSON text."""
USAGE = "agentscope.usage"
"""JSON text."""
FIRST_CHUNK_SECONDS = "gen_ai.response.time_to_first_chunk"
"""The attribute of the conventions for `first_token_ms`, in seconds."""

INPUT, OUTPUT = "input", "output"
"""The names of VoltOps. Those of OpenInference are INPUT_VALUE and OUTPUT_VALUE. One of the two has the payload."""
INPUT_VALUE, OUTPUT_VALUE = "input.value", "output.value"
INPUT_MIME_TYPE, OUTPUT_MIME_TYPE = "input.mime_type", "output.mime_type"
JSON_TYPE, TEXT_TYPE = "application/json", "text/plain"
METADATA = "metadata"

EXCEPTION = "exception"
"""The event of a failed span. Its attributes by the keys of the `error` payload follow."""
EXCEPTION_KEYS = {
    "type": "exception.type",
    "message": "exception.message",
    "traceback": "exception.stacktrace",
}
ERROR_TYPE = "error.type"


class Kind(NamedTuple):
    """The names of one step type in the conventions."""

    operation: str
    """`gen_ai.operation.name`; empty for none. That of a memory step depends on its operation."""
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
"""The names by step type."""
SEARCH_MEMORY = "search_memory"

MLFLOW_SPAN_TYPE = "mlflow.spanType"
"""The span type for MLflow. It overrides the other conventions, none of which has a type for memory."""
MLFLOW_TRACE_NAME = "mlflow.traceTag.mlflow.traceName"
"""An attribute of roots with the name by which MLflow lists and filters a trace."""
