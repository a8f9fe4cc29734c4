"""The content of a step under the names of each convention: input, output, model, tool, documents, memory.

`input.value` and `output.value` carry every payload: Phoenix, Langfuse, MLflow and the receiver here read them. VoltOps reads
`input` and `output`. Both are never set: Phoenix makes a tree of the dots, and finds no `value` in an `input` that is a text.
A small payload also has the GenAI name for its type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agentscope.protocols.json_encode import dumps
from agentscope.protocols.otlp import semantic_conventions as names
from agentscope.protocols.otlp.wire.model import Value

from .messages import as_gen_ai, messages_in
from .payload import NOTHING, Payload, first, first_text

MOST_DOCUMENTS = 50

_PARAMETERS = {
    "temperature": ("temperature",),
    "top_p": ("top_p", "topP"),
    "top_k": ("top_k", "topK"),
    "max_tokens": ("max_tokens", "maxTokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens"),
    "seed": ("seed",),
    "frequency_penalty": ("frequency_penalty", "frequencyPenalty"),
    "presence_penalty": ("presence_penalty", "presencePenalty"),
    "stream": ("stream",),
}
_PARAMETER_OF = {spelling: name for name, spellings in _PARAMETERS.items() for spelling in spellings}
_MODEL = ("model", "model_name", "modelName", "model_id", "modelId")
_PROVIDER = ("provider", "model_provider", "modelProvider", "llm_provider", "llmProvider", "provider_name")
_QUERY = ("query", "question", "query_text", "search_query", "searchQuery", "q", "text")
_TOP_K = ("top_k", "topK", "k", "limit", "max_documents", "maxDocuments", "max_results", "maxResults")
_DOCUMENTS = ("documents", "docs", "results", "matches", "nodes", "chunks", "hits", "records")
_SCORES = ("scores", "relevance_scores", "relevanceScores")
_DOCUMENT = {
    "id": ("id", "document_id", "documentId", "doc_id", "_id"),
    "content": ("content", "page_content", "pageContent", "text", "document", "body"),
    "score": ("score", "relevance_score", "relevanceScore", "similarity"),
}
_MEMORY_VERBS = {
    **dict.fromkeys(
        ("search", "retrieve", "retrieval", "read", "recall", "get", "load", "fetch", "query", "find"), "search"
    ),
    **dict.fromkeys(("delete", "remove", "forget", "clear", "purge"), "delete"),
    **dict.fromkeys(("update", "edit", "modify"), "update"),
    **dict.fromkeys(("create", "add", "insert", "append"), "create"),
}
_NUMBERS = frozenset({int, float, bool})
_WORD = re.compile("[A-Z]?[a-z]+")


class Content:
    """The payloads of one run or step, and their attributes under each convention."""

    def __init__(self, payloads: Mapping[str, Payload], fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self._payloads = payloads
        self._input = payloads.get("input", NOTHING)
        self._output = payloads.get("output", NOTHING)
        self._meta = payloads.get("meta_data", NOTHING).object
        parameters = first((self._meta,), "model_parameters", "modelParameters", "invocation_parameters")
        self._parameters: Mapping[str, Any] = parameters if isinstance(parameters, dict) else {}

    def meta_text(self, *keys: str) -> str | None:
        """The text in `meta_data` under one of these keys, or None."""
        return first_text((self._meta,), *keys)

    def payloads(self, voltops: bool) -> dict[str, Value]:
        """The attributes with the payloads, under the names of VoltOps or of all others."""
        attributes: dict[str, Value] = {}
        for field, value_name, type_name in (
            (names.INPUT, names.INPUT_VALUE, names.INPUT_MIME_TYPE),
            (names.OUTPUT, names.OUTPUT_VALUE, names.OUTPUT_MIME_TYPE),
        ):
            payload = self._payloads.get(field)
            if payload is not None:
                bare = payload.plain_text
                attributes[type_name] = names.JSON_TYPE if bare is None else names.TEXT_TYPE
                attributes[field if voltops else value_name] = payload.text if bare is None else bare
        meta = self._payloads.get("meta_data")
        if meta is not None:
            attributes[names.METADATA if meta.data[:1] == b"{" else names.META_DATA] = meta.text
        return attributes

    def of_agent(self) -> dict[str, Value]:
        """The attributes of a run or an agent: messages, instructions and model, as far as known."""
        attributes = self._messages()
        model = first_text((self._fields,), "model") or first_text((self._meta, self._parameters), *_MODEL)
        put(attributes, model, "gen_ai.request.model")
        instructions = self.meta_text("instructions")
        if instructions is not None:
            attributes["gen_ai.system_instructions"] = dumps([{"type": "text", "content": instructions}])
            attributes["agent.instructions"] = instructions
        return attributes

    def of_model_call(self) -> dict[str, Value]:
        """The attributes of an `llm_call`: model, provider, parameters, messages, and the data of the response."""
        request = self._input.object if self._input.mentions(b"model") else {}
        response = self._output.object if self._output.mentions(b"model") or self._output.mentions(b"choices") else {}
        attributes = self._messages()
        objects = (self._parameters, self._meta, request)
        model = first_text((self._fields,), "model") or first_text(objects, *_MODEL)
        response_model = first_text((response,), "model")
        provider = first_text((self._fields,), "provider") or first_text(objects, *_PROVIDER)
        put(attributes, model, "gen_ai.request.model")
        put(attributes, response_model, "gen_ai.response.model")
        put(attributes, model or response_model, "llm.model_name", "llm.model")
        # The second is the name until the middle of 2025, which many backends read.
        put(attributes, provider, "gen_ai.provider.name", "gen_ai.system", "llm.provider")
        put(attributes, first_text((response,), "id"), "gen_ai.response.id")
        first_token: Any = self._fields.get("first_token_ms")
        if type(first_token) in (int, float):
            attributes[names.FIRST_CHUNK_SECONDS] = first_token / 1000
        given: dict[str, Any] = {}
        for each in objects:
            for key, value in each.items():
                if key in _PARAMETER_OF and type(value) in _NUMBERS:
                    given.setdefault(_PARAMETER_OF[key], value)
        attributes.update((f"gen_ai.request.{name}", value) for name, value in given.items())
        if given:
            attributes["llm.invocation_parameters"] = dumps(given)
        reasons = _finish_reasons(response)
        if reasons:
            attributes["gen_ai.response.finish_reasons"] = reasons
        return attributes

    def of_tool(self, name: str | None) -> dict[str, Value]:
        """The attributes of a `tool_call`."""
        attributes: dict[str, Value] = {"gen_ai.tool.type": "function"}
        call_id = self.meta_text("tool_call_id", "toolCallId", "call_id", "callId")
        description = self.meta_text("description", "tool_description", "toolDescription")
        put(attributes, name, "gen_ai.tool.name", "tool.name")
        put(attributes, call_id, "gen_ai.tool.call.id", "tool.call.id")
        put(attributes, description, "gen_ai.tool.description", "tool.description")
        for part, payload in (("arguments", self._input), ("result", self._output)):
            if payload is not NOTHING and payload.is_small:
                attributes[f"gen_ai.tool.call.{part}"] = payload.text
        return attributes

    def of_retrieval(self, name: str | None) -> dict[str, Value]:
        """The attributes of a retrieval: the source, the query and the documents."""
        attributes: dict[str, Value] = {}
        put(attributes, name, "gen_ai.data_source.id", "retriever.name")
        put(attributes, self._query(), "gen_ai.retrieval.query.text")
        top_k = first((self._input.object,), *_TOP_K)
        if type(top_k) is int:
            attributes["gen_ai.retrieval.top_k"] = top_k
        documents = _documents(self._output.value)
        if documents is None:
            return attributes
        attributes["retriever.document_count"] = len(documents)
        kept = ("id", "content", "score") if self._output.is_small else ("id", "score")
        for index, document in enumerate(documents[:MOST_DOCUMENTS]):
            prefix = f"retrieval.documents.{index}.document"
            attributes.update((f"{prefix}.{key}", document[key]) for key in kept if key in document)
            if document.get("metadata") and self._output.is_small:
                attributes[f"{prefix}.metadata"] = dumps(document["metadata"])
        listed = [
            {key: document[key] for key in ("id", "score") if key in document}
            for document in documents[:MOST_DOCUMENTS]
        ]
        if any(listed):
            attributes["gen_ai.retrieval.documents"] = dumps(listed)
        return attributes

    def memory_operation(self, name: str | None) -> str:
        """The operation of a memory step in the conventions; writing if it is unknown."""
        operation = self.meta_text("operation", "memory_operation", "memoryOperation")
        if operation is None and self._input.mentions(b"operation"):
            operation = first_text((self._input.object,), "operation")
        verbs = (_MEMORY_VERBS.get(word.lower()) for word in _WORD.findall(operation or name or ""))
        return f"{next(filter(None, verbs), 'upsert')}_memory"

    def of_memory(self, operation: str) -> dict[str, Value]:
        """The attributes of a memory step."""
        attributes: dict[str, Value] = {"memory.operation": operation.removesuffix("_memory")}
        if operation == names.SEARCH_MEMORY:
            put(attributes, self._query(), "gen_ai.memory.query.text")
        return attributes

    def _query(self) -> str | None:
        if not self._input.is_small:
            return None
        bare = self._input.plain_text
        return bare if bare is not None else first_text((self._input.object,), *_QUERY)

    def _messages(self) -> dict[str, Value]:
        """Messages under their GenAI names, if a payload is a list of messages."""
        attributes: dict[str, Value] = {}
        for name, payload in (("input", self._input), ("output", self._output)):
            if payload.is_small and payload.mentions(b"role"):
                messages = as_gen_ai(messages_in(payload.value), answered=name == "output")
                if messages:
                    attributes[f"gen_ai.{name}.messages"] = dumps(messages)
        return attributes


def put(attributes: dict[str, Value], value: Value, *keys: str) -> None:
    """Set these attributes to a value, unless it is None."""
    if value is not None:
        for key in keys:
            attributes[key] = value


def _documents(value: Any) -> list[dict[str, Any]] | None:
    """The documents with their known `id`, `content`, `score` and `metadata`; None if it is no list of documents."""
    scores: Any = None
    if isinstance(value, dict):
        scores = first((value,), *_SCORES)
        value = first((value,), *_DOCUMENTS)
    if not isinstance(value, list) or not all(isinstance(item, (str, dict)) for item in value):
        return None
    documents = [_document(item) for item in value]
    if isinstance(scores, list) and len(scores) == len(documents):
        for document, score in zip(documents, scores, strict=True):
            if type(score) in (int, float):
                document.setdefault("score", score)
    return documents


def _document(item: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(item, str):
        return {"content": item}
    document = {field: first((item,), *spellings) for field, spellings in _DOCUMENT.items()}
    own_id, content, score, metadata = document["id"], document["content"], document["score"], item.get("metadata")
    known = {
        "metadata": metadata if isinstance(metadata, dict) else None,
        "id": str(own_id) if type(own_id) in (str, int) else None,
        "content": content if content is None or isinstance(content, str) else dumps(content),
        "score": score if type(score) in (int, float) else None,
    }
    return {key: value for key, value in known.items() if value is not None}


def _finish_reasons(response: Mapping[str, Any]) -> list[str]:
    choices = response.get("choices")
    items = choices if isinstance(choices, list) else [response]
    reasons = (first((item,), "finish_reason", "stop_reason") for item in items if isinstance(item, dict))
    return [reason for reason in reasons if type(reason) is str]
