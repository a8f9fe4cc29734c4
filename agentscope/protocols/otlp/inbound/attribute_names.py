"""The attribute names of other conventions, by the field that they carry.

These are the GenAI conventions of each year, OpenInference, VoltOps, OpenLLMetry (`traceloop.*`), Langfuse, MLflow, Pydantic AI,
Google ADK, the Vercel AI SDK and MCP.

The names come from the packages that write them and from the backends that read them. The first one present counts.
"""

from __future__ import annotations

from agentscope.events import RUN_FIELDS

STEP_TYPE_NAMES = (
    "langfuse.observation.type",
    "openinference.span.kind",
    "span.type",
    "gen_ai.operation.name",
    "mlflow.spanType",
    "traceloop.span.kind",
    "langsmith.span.kind",
    "ai.operationId",
    "llm.request.type",
)
"""Attributes with the type of the step, in order of precedence."""
INPUTS = (
    "langfuse.observation.input",
    "input.value",
    "gen_ai.input.messages",
    "input",
    "gen_ai.tool.call.arguments",
    "tool_arguments",
    "traceloop.entity.input",
    "mlflow.spanInputs",
    "llm.messages",
    "agent.messages",
    "ai.prompt.messages",
    "ai.prompt",
    "ai.toolCall.args",
    "ai.value",
    "gcp.vertex.agent.tool_call_args",
    "gcp.vertex.agent.llm_request",
    "gen_ai.retrieval.query.text",
    "gen_ai.memory.query.text",
    "reranker.query",
    "mcp.request.argument",
    "gen_ai.task.input",
    "langfuse.trace.input",
    "gen_ai.prompt",
    "prompt",
)
OUTPUTS = (
    "langfuse.observation.output",
    "output.value",
    "gen_ai.output.messages",
    "output",
    "gen_ai.tool.call.result",
    "tool_response",
    "final_result",
    "traceloop.entity.output",
    "mlflow.spanOutputs",
    "ai.response.text",
    "ai.response.object",
    "ai.response.toolCalls",
    "ai.result.text",
    "ai.result.object",
    "ai.toolCall.result",
    "gcp.vertex.agent.tool_response",
    "gcp.vertex.agent.llm_response",
    "gen_ai.retrieval.documents",
    "gen_ai.memory.records",
    "mcp.response.value",
    "gen_ai.task.output",
    "langfuse.trace.output",
    "gen_ai.completion",
)
ALL_JSON = frozenset(
    {
        *("mlflow.spanInputs", "mlflow.spanOutputs", "traceloop.entity.input", "traceloop.entity.output"),
        *("ai.toolCall.args", "ai.toolCall.result", "ai.response.object", "ai.result.object", "ai.value"),
        *("gcp.vertex.agent.tool_call_args", "gcp.vertex.agent.tool_response"),
    }
)
"""Attributes whose text is always JSON, even if it is only a string or a number."""
QUOTED = frozenset({"gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "langfuse.observation.input"})
QUOTED |= {"langfuse.observation.output", "langfuse.trace.input", "langfuse.trace.output"}
"""Attributes whose text may be a JSON string in quotes, or a plain text."""
ENCODERS = ("mlflow.spanType", "mlflow.traceRequestId")
"""Attributes whose quotes tell that the sender wrote all attributes of the span as JSON, as MLflow does."""
CONVERSATIONS = ("pydantic_ai.all_messages", "all_messages_events")
"""Attributes with the whole conversation of an agent as one list."""

INPUT_LISTS = (
    "llm.input_messages",
    "gen_ai.prompt",
    "llm.prompts",
    "reranker.input_documents",
    "embedding.embeddings",
    "input.documents",
)
OUTPUT_LISTS = (
    "retrieval.documents",
    "llm.output_messages",
    "gen_ai.completion",
    "llm.choices",
    "reranker.output_documents",
    "output.documents",
)
"""The prefixes of flattened lists, such as `llm.input_messages.0.message.role`."""

USAGE_OBJECTS = ("langfuse.observation.usage_details", "mlflow.chat.tokenUsage", "langsmith.usage_metadata")
"""Attributes with all token counts as one JSON object. Those with one count are known to `token_usage`."""

COST_PARTS = (
    ("llm.cost.prompt", "llm.cost.completion"),
    ("gen_ai.usage.input_cost", "gen_ai.usage.output_cost"),
)
"""Attributes with the parts of a cost in US dollars, of emitters that may not tell their sum."""
COST_OBJECTS = ("langfuse.observation.cost_details", "mlflow.llm.cost")
"""Attributes with a cost and its parts as one JSON object."""
COST_TOTALS = ("total", "total_cost", "totalCost")
TRACE_NAMES = ("langfuse.trace.name", "langsmith.trace.name", "traceloop.workflow.name")
"""Attributes with the name of the whole run."""

FINISH_REASONS = (
    "gen_ai.response.finish_reasons",
    "gen_ai.response.finish_reason",
    "gen_ai.response.stop_reason",
    "llm.response.finish_reason",
    "llm.response.stop_reason",
    "llm.finish_reason",
    "ai.response.finishReason",
    "ai.response.finish_reason",
)

SPAN_TAGS = "langsmith.span.tags"
"""The attribute with tags of one span. Those of the root are the tags of the run."""
ALIASES = {
    "model": (
        # The model of the response is more exact than that of the request.
        "gen_ai.response.model",
        "gen_ai.request.model",
        "llm.response.model_name",
        "llm.model_name",
        "llm.request.model_name",
        "llm.model",
        "embedding.model_name",
        "reranker.model_name",
        "langfuse.observation.model.name",
        "ai.response.model",
        "ai.model.id",
        "ai.model.name",
        "model.name",
        "model_name",
        "mlflow.llm.model",
        "langsmith.metadata.ls_model_name",
    ),
    "provider": (
        "gen_ai.provider.name",
        "gen_ai.system",
        "llm.provider",
        "llm.system",
        "ai.model.provider",
        "mlflow.llm.provider",
        "langsmith.metadata.ls_provider",
    ),
    "cost_usd": (
        *("gen_ai.usage.cost_usd", "gen_ai.usage.total_cost", "gen_ai.usage.total_cost_usd", "llm.usage.cost"),
        *("llm.usage.total_cost", "usage.cost", "usage.total_cost", "ai.usage.cost", "operation.cost"),
    ),
    "first_token_ms": ("ai.response.msToFirstChunk",),
    "user_id": (
        "enduser.id",
        "langfuse.user.id",
        "gen_ai.user",
        "llm.user",
        "traceloop.association.properties.user_id",
        "ai.telemetry.metadata.userId",
        "langsmith.metadata.user_id",
    ),
    "conversation_id": (
        "langfuse.session.id",
        "traceloop.association.properties.session_id",
        "traceloop.association.properties.conversation_id",
        "voltagent.conversation_id",
        "gcp.vertex.agent.session_id",
        "ai.telemetry.metadata.sessionId",
        "langsmith.metadata.thread_id",
        "langsmith.metadata.session_id",
        "langsmith.metadata.conversation_id",
    ),
    "tags": ("langfuse.trace.tags", "langfuse.tags", "ai.telemetry.metadata.tags", SPAN_TAGS),
    "environment": ("deployment.environment", "langfuse.environment"),
    "release": ("langfuse.release",),
}
"""Further attribute names of each field, beside those in the table of fields."""
OF_RUN = tuple(
    attribute
    for name, field in RUN_FIELDS.items()
    if field.given and field.attributes
    for attribute in (*field.attributes, *ALIASES.get(name, ()))
)
"""Attributes about the whole run, on any of its spans."""

ERROR_TYPES = ("error.type", "error.name")
ERROR_MESSAGES = ("error.message", "langfuse.observation.status_message")
ERROR_TRACES = ("error.stack",)

SPAN_TYPE, PENDING, PENDING_PARENT = "logfire.span_type", "pending_span", "logfire.pending_parent_id"
"""Of Logfire, which announces a span by a child of the type `pending_span`, with the parent of the span."""

META_OBJECTS = ("metadata", "langfuse.observation.metadata")
META_PREFIXES = (
    *("langfuse.observation.metadata.", "traceloop.association.properties.", "ai.telemetry.metadata."),
    "langsmith.metadata.",
)
TRACE_META_OBJECTS = ("langfuse.trace.metadata",)
TRACE_META_PREFIXES = ("langfuse.trace.metadata.",)

NOISE = frozenset(
    {*STEP_TYPE_NAMES, "input.mime_type", "output.mime_type", "logfire.json_schema", "mlflow.traceRequestId"}
)
"""Attributes without information after a span has been decoded."""
