"""Lists of chat messages in payloads, and their form in the GenAI conventions: messages with parts.

The schemas are gen-ai-input-messages.json and gen-ai-output-messages.json of open-telemetry/semantic-conventions-genai. Phoenix
validates them, and shows no message of a list in which one part or field is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentscope.protocols.json_encode import dumps

from .payload import first_text

Message = Mapping[str, Any]
_REASONS = ("finish_reason", "finishReason", "stop_reason", "stopReason")


def messages_in(value: Any) -> list[Message] | None:
    """The messages of a payload: itself, its `messages`, its `choices`, or a single one; None if there are none."""
    if isinstance(value, dict):
        choices = value.get("choices")
        if isinstance(value.get("messages"), list):
            value = value["messages"]
        elif isinstance(choices, list):
            value = [_chosen(choice) for choice in choices if isinstance(choice, dict)]
        else:
            value = [value]
    if not isinstance(value, list) or not value:
        return None
    return value if all(isinstance(item, dict) and type(item.get("role")) is str for item in value) else None


def as_gen_ai(messages: Sequence[Message] | None, answered: bool = False) -> list[dict[str, Any]]:
    """The messages in the form of the conventions; empty if one of them has no usable content.

    answered: True for messages of a model, which need a finish reason.
    """
    converted = [{"role": message["role"], "parts": _parts(message)} for message in messages or ()]
    if not all(each["parts"] for each in converted):
        return []
    for message, each in zip(messages or (), converted, strict=True):
        if answered:
            calls = any(part["type"] == "tool_call" for part in each["parts"])
            each["finish_reason"] = first_text((message,), *_REASONS) or ("tool_call" if calls else "stop")
    return converted


def _chosen(choice: Message) -> Any:
    """The message of a choice, with its finish reason."""
    message = choice.get("message")
    reason = first_text((choice,), *_REASONS)
    return message if reason is None or not isinstance(message, dict) else {"finish_reason": reason, **message}


def _parts(message: Message) -> list[Any]:
    if isinstance(message.get("parts"), list):
        return [_part(item) for item in message["parts"]]
    content, calls = message.get("content"), message.get("tool_calls")
    if type(message.get("tool_call_id")) is str:
        return [{"type": "tool_call_response", "id": message["tool_call_id"], "response": content}]
    parts: list[Any] = []
    if isinstance(content, list):
        parts += [_part(item) for item in content]
    elif content is not None and content != "":
        parts.append({"type": "text", "content": content})
    if isinstance(calls, list):
        parts += [_call(call) for call in calls if isinstance(call, dict)]
    return parts


def _part(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        return {"type": "text", "content": item}
    kind = item.get("type")
    if kind == "tool_use":  # the form of Anthropic
        return _call({**item, "arguments": item.get("input")})
    if kind in (None, "text") and "content" not in item and "text" in item:
        return {"type": "text", "content": item["text"]}
    return item if type(kind) is str else {"type": "text", "content": dumps(item)}


def _call(call: Message) -> dict[str, Any]:
    function = call.get("function")
    called: Message = function if isinstance(function, dict) else call
    known = {"id": call.get("id"), "name": called.get("name"), "arguments": called.get("arguments")}
    return {"type": "tool_call", **{key: value for key, value in known.items() if value is not None}}
