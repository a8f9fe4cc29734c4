"""Messages in pieces: attributes with an index in their names, or one span event for each message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from agentscope.protocols.otlp.wire.model import Value

from .attributes import Attributes, payload_of, plain

_WRAPPERS = frozenset(
    {"message", "document", "tool_call", "message_content", "embedding", "prompt", "completion", "image", "tool"}
)
"""Words of OpenInference names without information, as in `0.message.role` and `0.tool_call.id`."""
_AS_JSON = frozenset({"metadata", "arguments", "function_call_arguments_json", "json_schema", "parameters"})
_VECTORS = frozenset({"vector", "embedding.vector"})
DETAILS = "gen_ai.client.inference.operation.details"
_CHOICE = "gen_ai.choice"
_ROLES = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}
_PROMPTS = {
    "gen_ai.content.prompt": ("gen_ai.prompt", "gen_ai.event.content"),
    "gen_ai.prompt": ("gen_ai.prompt", "content"),
}
_COMPLETIONS = {
    "gen_ai.content.completion": ("gen_ai.completion", "gen_ai.event.content"),
    "gen_ai.completion": ("gen_ai.completion", "content"),
}
MESSAGE_EVENTS = frozenset({DETAILS, _CHOICE, *_ROLES, *_PROMPTS, *_COMPLETIONS})
_ENVELOPE = frozenset(
    {"event.name", "gen_ai.system", "gen_ai.provider.name", "gen_ai.message.index", "gen_ai.operation.name", "name"}
)


class _Node(dict[str, Any]):
    """An object that is assembled here, as opposed to the value of an attribute."""


class Content(NamedTuple):
    """The input and output of a span; None if absent."""

    input: Any
    output: Any

    def completed(self, other: tuple[Any, Any]) -> Content:
        """This content, with what it lacks from another."""
        return Content(*(mine if mine is not None else theirs for mine, theirs in zip(self, other, strict=True)))


def flattened_list(attributes: Attributes, prefix: str) -> list[Any] | None:
    """The list whose items were flattened under `prefix.N`, in order, or None. Its attributes are used."""
    root = _Node()
    start = f"{prefix}."
    for name, value in attributes.all.items():
        if not name.startswith(start):
            continue
        path = name[len(start) :].split(".")
        if not _is_index(path[0]) or len(path) > 16:
            continue
        attributes.use((name,))
        last = path[-1]
        if last in _VECTORS:
            continue  # an embedding is thousands of numbers that no page can show
        node: Any = root
        for step in path[:-1]:
            node = node.setdefault(step, _Node()) if isinstance(node, _Node) else None
        if isinstance(node, _Node):
            node[last] = payload_of(value) if last in _AS_JSON else plain(value)
    return _ordered(root) if root else None


def _ordered(node: _Node) -> list[Any]:
    return [_simple(node[index]) for index in sorted(node, key=int)]


def _simple(node: Any) -> Any:
    if not isinstance(node, _Node):
        return node
    if node and all(_is_index(key) for key in node):
        return _ordered(node)
    if len(node) == 1:
        (key,) = node
        if key in _WRAPPERS:
            return _simple(node[key])
    return {key: _simple(item) for key, item in node.items()}


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def messages_of(events: Iterable[tuple[str, Mapping[str, Value]]], unwrapped: bool = False) -> Content:
    """The messages of span events, given by name and attributes, which have one message each or all of them.

    unwrapped: return only the content of a single message, as for the arguments and the result of a tool.
    """
    inputs: list[Any] = []
    outputs: list[Any] = []
    for name, attributes in events:
        _add_messages(name, attributes, inputs, outputs)
    output: Any = outputs[0] if len(outputs) == 1 else outputs or None
    if unwrapped:
        return Content(_content(inputs[0]) if len(inputs) == 1 else inputs or None, _content(output))
    return Content(inputs or None, output)


def _add_messages(name: str, given: Mapping[str, Value], inputs: list[Any], outputs: list[Any]) -> None:
    if name in _ROLES:
        inputs.append({"role": _ROLES[name], **_body(given)})
    elif name == _CHOICE:
        outputs.append(_choice(_body(given)))
    elif name == DETAILS:
        for key, found in (("gen_ai.input.messages", inputs), ("gen_ai.output.messages", outputs)):
            messages = payload_of(given.get(key))
            if messages is not None:
                found += messages if isinstance(messages, list) else [messages]
    else:
        for table, found in ((_PROMPTS, inputs), (_COMPLETIONS, outputs)):
            for key in table.get(name, ()):
                content = payload_of(given.get(key))
                if content is not None:
                    bare = key == "content" and isinstance(given.get("role"), str)
                    found += [_body(given)] if bare else content if isinstance(content, list) else [content]
                    break


def _choice(body: dict[str, Any]) -> Any:
    message = body.pop("message", None)
    body.pop("index", None)
    if not isinstance(message, dict):
        message = {} if message is None else {"content": message}
    return {"role": "assistant", **message, **body}


def _body(given: Mapping[str, Value]) -> dict[str, Any]:
    return {key: payload_of(value) for key, value in given.items() if key not in _ENVELOPE}


def _content(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    parts = message.get("parts")
    if isinstance(parts, list) and len(parts) == 1 and isinstance(parts[0], dict):
        part = parts[0]
        return next((part[key] for key in ("arguments", "response", "result", "content") if key in part), part)
    return message.get("content", message)


def first_turn(messages: Any, new_from: Any) -> tuple[Any, Any]:
    """The input and the last output of an agent, from all messages of its conversation.

    new_from: the index of the first message of this run. Earlier ones are history, and part of the input.
    """
    if not isinstance(messages, list) or not messages:
        return messages, None
    start = new_from if type(new_from) is int and 0 <= new_from < len(messages) else 0
    replies = [
        at
        for at, message in enumerate(messages)
        if at >= start and isinstance(message, dict) and message.get("role") == "assistant"
    ]
    return messages[: replies[0] if replies else None] or None, messages[replies[-1]] if replies else None
