"""The step type and the name of a span of another emitter."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentscope.protocols.otlp.wire.model import Span

from .attribute_names import STEP_TYPE_NAMES
from .attributes import Attributes

AGENT, LLM, TOOL, MEMORY, RETRIEVAL, REASONING, OTHER = (
    "agent",
    "llm_call",
    "tool_call",
    "memory",
    "retrieval",
    "reasoning",
    "other",
)
_UNTYPED = ""
"""The type of a known word without a step type: another convention on the same span may have one."""

# In VoltAgent the children of an agent inherit its `entity.type`; `span.type`, which comes first, distinguishes them.
_CONVENTIONS = (*STEP_TYPE_NAMES, "mcp.method.name", "entity.type")
_GENERATIONS = ("generateText", "generateObject", "streamText", "streamObject")
_WORDS = {
    LLM: (
        *("llm", "chat_model", "generation", "embedding", "embeddings", "chat", "text_completion", "completion"),
        *("generate_content", "generate", "response", "responses", "realtime_inference"),
        *(f"ai.{call}.{part}" for call in _GENERATIONS for part in ("doGenerate", "doStream")),
        *("ai.embed.doEmbed", "ai.embedMany.doEmbed"),
    ),
    TOOL: ("tool", "execute_tool", "ai.toolCall", "tools/call"),
    RETRIEVAL: ("retriever", "retrieval", "reranker", "rerank", "vector"),
    AGENT: (
        *("agent", "invoke_agent", "create_agent", "invoke_workflow", "invoke_swarm", "invoke_graph"),
        *(f"ai.{call}" for call in _GENERATIONS),
    ),
    MEMORY: (
        "memory",
        *(
            f"{verb}_{store}"
            for verb in ("search", "create", "update", "upsert", "delete", "get")
            for store in ("memory", "memory_store")
        ),
    ),
    REASONING: ("plan",),
    _UNTYPED: (
        *("span", "event", "chain", "workflow", "workflow-step", "task", "prompt", "parser", "decision", "summary"),
        *("guardrail", "evaluator", "scorer", "middleware", "ai.embed", "ai.embedMany"),
    ),
}
"""The words of all conventions for each step type."""
_TYPE_OF = {word.lower(): step_type for step_type, words in _WORDS.items() for word in words}
_HINTS: tuple[tuple[str, Sequence[str]], ...] = (
    (TOOL, ("gen_ai.tool.name", "gen_ai.tool.call.id", "gcp.vertex.agent.tool_call_args")),
    (LLM, ("gen_ai.request.model", "gen_ai.response.model", "llm.model_name", "gen_ai.prompt.0.role")),
    (RETRIEVAL, ("gen_ai.retrieval.query.text", "retrieval.documents.0.document.content")),
)
"""Attributes that imply a type, for instrumentations older than `gen_ai.operation.name`."""

_MCP_CALL = re.compile(r"(?:MCP send )?tools/call (.+)")
_PREFIXES = {
    AGENT: ("invoke_agent ", "create_agent ", "invoke_workflow ", "subagent:"),
    TOOL: ("execute_tool ", "tool.execution:", "running tool: "),
    RETRIEVAL: ("retrieval ",),
}
_OTHER_NAMES = ("traceloop.entity.name", "gen_ai.workflow.name", "workflow.step.name", "ai.telemetry.functionId")
_MESSAGE = "logfire.msg"
"""The attribute with the name as people read it, where that of the span is a template."""
_NAMES = {
    # VoltAgent's sub-agents have the `entity.name` of their parent, so the names before it take precedence.
    AGENT: (
        *("subagent.name", "gen_ai.agent.name", "agent.name", "agent_name", "entity.name"),
        *("gen_ai.workflow.name", "traceloop.entity.name", "ai.telemetry.functionId"),
    ),
    TOOL: ("gen_ai.tool.name", "tool.name", "ai.toolCall.name", "traceloop.entity.name", "mcp.tool.name"),
    RETRIEVAL: ("retriever.name", "gen_ai.data_source.id", "traceloop.entity.name"),
    OTHER: _OTHER_NAMES,
    REASONING: _OTHER_NAMES,
}


def step_type_of(span: Span) -> str:
    """The step type of a span."""
    is_known = False
    for name in _CONVENTIONS:
        value = span.attributes.get(name)
        step_type = _TYPE_OF.get(value.strip('"').lower()) if type(value) is str else None
        if step_type:
            return step_type
        is_known = is_known or step_type == _UNTYPED
    if not is_known:
        for step_type, names in _HINTS:
            if any(name in span.attributes for name in names):
                return step_type
        if _MCP_CALL.fullmatch(span.name):
            return TOOL
    return OTHER


def step_name_of(span: Span, step_type: str, attributes: Attributes) -> str:
    """The name of the step: an attribute of its type, else its message or the span's name without the prefix of a convention."""
    name = attributes.text(*_NAMES.get(step_type, ()))
    if name is not None:
        return name
    message = attributes.text(_MESSAGE)
    if message is not None:
        return message
    call = _MCP_CALL.fullmatch(span.name) if step_type == TOOL else None
    if call is not None:
        return call[1]
    for prefix in _PREFIXES.get(step_type, ()):
        if span.name.startswith(prefix) and len(span.name) > len(prefix):
            return span.name[len(prefix) :]
    return span.name or step_type
