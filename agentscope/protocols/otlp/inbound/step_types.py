"""The step type and the name of a span of another emitter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from agentscope.protocols.otlp.wire.model import Span

from . import attribute_names
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
_PASSED = ""
"""A known value without a step type: another convention on the same span may have one."""


def _of(step_type: str, *values: str) -> dict[str, str]:
    return dict.fromkeys(values, step_type)


_TABLES: tuple[tuple[str, Mapping[str, str]], ...] = (
    (
        "langfuse.observation.type",
        _of(LLM, "generation", "embedding")
        | _of(TOOL, "tool")
        | _of(RETRIEVAL, "retriever")
        | _of(AGENT, "agent")
        | _of(_PASSED, "span", "event", "chain", "guardrail", "evaluator"),
    ),
    (
        "openinference.span.kind",
        _of(LLM, "llm", "embedding")
        | _of(TOOL, "tool")
        | _of(RETRIEVAL, "retriever", "reranker")
        | _of(AGENT, "agent")
        | _of(_PASSED, "chain", "guardrail", "evaluator", "prompt", "decision"),
    ),
    (
        "span.type",
        _of(LLM, "llm", "embedding")
        | _of(TOOL, "tool")
        | _of(MEMORY, "memory")
        | _of(RETRIEVAL, "retriever", "vector")
        | _of(AGENT, "agent")
        | _of(_PASSED, "workflow-step", "summary", "guardrail", "middleware", "scorer"),
    ),
    (
        "gen_ai.operation.name",
        _of(
            LLM,
            "chat",
            "text_completion",
            "completion",
            "generate_content",
            "generate",
            "response",
            "responses",
            "embeddings",
            "embedding",
            "realtime_inference",
        )
        | _of(TOOL, "execute_tool")
        | _of(AGENT, "invoke_agent", "create_agent", "invoke_workflow", "invoke_swarm", "invoke_graph")
        | _of(RETRIEVAL, "retrieval", "rerank")
        | _of(REASONING, "plan")
        | {
            f"{verb}_{what}": MEMORY
            for verb in ("search", "create", "update", "upsert", "delete", "get")
            for what in ("memory", "memory_store")
        },
    ),
    (
        "mlflow.spanType",
        _of(LLM, "llm", "chat_model", "embedding")
        | _of(TOOL, "tool")
        | _of(RETRIEVAL, "retriever", "reranker")
        | _of(AGENT, "agent")
        | _of(MEMORY, "memory")
        | _of(_PASSED, "chain", "parser", "workflow", "task", "guardrail", "evaluator"),
    ),
    (
        "traceloop.span.kind",
        _of(TOOL, "tool") | _of(AGENT, "agent") | _of(_PASSED, "workflow", "task"),
    ),
    (
        "langsmith.span.kind",
        _of(LLM, "llm", "embedding")
        | _of(TOOL, "tool")
        | _of(RETRIEVAL, "retriever")
        | _of(_PASSED, "chain", "prompt", "parser"),
    ),
    (
        "ai.operationId",
        {f"ai.{call}.{do}": LLM for call in ("generateText", "generateObject") for do in ("doGenerate",)}
        | {f"ai.{call}.{do}": LLM for call in ("streamText", "streamObject") for do in ("doStream",)}
        | _of(LLM, "ai.embed.doEmbed", "ai.embedMany.doEmbed")
        | _of(TOOL, "ai.toolCall")
        | _of(AGENT, "ai.generateText", "ai.streamText", "ai.generateObject", "ai.streamObject")
        | _of(_PASSED, "ai.embed", "ai.embedMany"),
    ),
    ("llm.request.type", _of(LLM, "chat", "completion", "embedding") | _of(RETRIEVAL, "rerank")),
    ("mcp.method.name", _of(TOOL, "tools/call")),
    # In VoltAgent the children of an agent inherit its `entity.type`; `span.type` above distinguishes them.
    ("entity.type", _of(AGENT, "agent") | _of(_PASSED, "workflow")),
)
_KEYS = tuple((name, {value.lower(): kind for value, kind in table.items()}) for name, table in _TABLES)
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
_NAMES = {
    AGENT: attribute_names.AGENT_NAMES,
    TOOL: attribute_names.TOOL_NAMES,
    RETRIEVAL: attribute_names.RETRIEVER_NAMES,
    OTHER: attribute_names.OTHER_NAMES,
    REASONING: attribute_names.OTHER_NAMES,
}


def kind_of(span: Span) -> str:
    """The step type of a span."""
    passed = False
    for name, table in _KEYS:
        value = span.attributes.get(name)
        if type(value) is str:
            kind = table.get(value.strip('"').lower())
            if kind:
                return kind
            passed = passed or kind == _PASSED
    if not passed:
        for kind, names in _HINTS:
            if any(name in span.attributes for name in names):
                return kind
        if _MCP_CALL.fullmatch(span.name):
            return TOOL
    return OTHER


def name_of(span: Span, kind: str, attributes: Attributes) -> str:
    """The name of the step: an attribute of its type, else the span's name without the prefix of a convention."""
    told = attributes.text(*_NAMES.get(kind, ()))
    if told is not None:
        return told
    call = _MCP_CALL.fullmatch(span.name) if kind == TOOL else None
    if call is not None:
        return call[1]
    for prefix in _PREFIXES.get(kind, ()):
        if span.name.startswith(prefix) and len(span.name) > len(prefix):
            return span.name[len(prefix) :]
    return span.name or kind
