"""Answers that may be large: sent in portions, and given up when who asked for them does not take them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_PORTION = 64 << 10
_RATE = 1e6  # bytes a second, the slowest that an answer may be taken at in the long run


class CutOff(Exception):
    """What is left of an answer cannot be had."""


class PacedResponse(Response):
    """An answer of which no more than a portion waits to be sent; the rest is read or cut off as the portions go.

    It ends in `seconds` and a second for each megabyte; what is not taken by then is not sent, and uvicorn closes the
    connection. `done` is called when the answer has ended, however it did.
    """

    def __init__(
        self,
        content: bytes | AsyncIterator[bytes],
        status_code: int = 200,
        *,
        media_type: str,
        seconds: float,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(content if isinstance(content, bytes) else None, status_code, media_type=media_type)
        self._contents = _only(content) if isinstance(content, bytes) else content
        self._seconds = seconds
        self._done = done
        if not isinstance(content, bytes):
            del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        end = asyncio.get_running_loop().time() + self._seconds
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for content in self._contents:
                for start in range(0, len(content), _PORTION):
                    portion = content[start : start + _PORTION]
                    end += len(portion) / _RATE
                    await _by(end, send({"type": "http.response.body", "body": portion, "more_body": True}))
            await _by(end, send({"type": "http.response.body", "body": b"", "more_body": False}))
        except (asyncio.TimeoutError, CutOff):
            pass  # an answer that is not whole makes uvicorn close the connection
        finally:
            self._done()


async def _by(end: float, sending: Awaitable[None]) -> None:
    await asyncio.wait_for(sending, max(0.0, end - asyncio.get_running_loop().time()))


async def _only(content: bytes) -> AsyncIterator[bytes]:
    yield content
