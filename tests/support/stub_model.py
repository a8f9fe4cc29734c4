"""A model on loopback that speaks OpenAI's chat completions, and always says the same."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = "It is sunny."
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
"""The usage of each call."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked["model"] == "broken":
            self._send(500, {"error": {"message": "no model", "type": "server_error"}})
        elif asked.get("stream"):
            self._stream(asked)
        else:
            choice = {"index": 0, "message": _message(asked), "finish_reason": _reason(asked)}
            self._send(200, {**_head(asked, "chat.completion"), "choices": [choice], "usage": USAGE})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, asked: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        head = _head(asked, "chat.completion.chunk")
        delta = _message(asked)
        for call in delta.get("tool_calls", ()):
            call["index"] = 0
        last = {"index": 0, "delta": {}, "finish_reason": _reason(asked)}
        for part in ([{"index": 0, "delta": delta, "finish_reason": None}], [last]):
            self._write({**head, "choices": part})
        self._write({**head, "choices": [], "usage": USAGE})
        self.wfile.write(b"data: [DONE]\n\n")

    def _write(self, part: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(part).encode() + b"\n\n")


def _head(asked: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1_700_000_000, "model": asked["model"]}


def _calls_tool(asked: dict[str, Any]) -> bool:
    return bool(asked.get("tools")) and all(message["role"] != "tool" for message in asked["messages"])


def _reason(asked: dict[str, Any]) -> str:
    return "tool_calls" if _calls_tool(asked) else "stop"


def _message(asked: dict[str, Any]) -> dict[str, Any]:
    if not _calls_tool(asked):
        return {"role": "assistant", "content": ANSWER}
    function = {"name": asked["tools"][0]["function"]["name"], "arguments": '{"city": "Paris"}'}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }


@contextmanager
def stub_model() -> Iterator[str]:
    """Serve the model, for the length of a block. Yields its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
