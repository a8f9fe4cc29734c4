"""The ways in which the fault proxy answers a request: each function here is one mode, under its own name.

Keyword arguments are the mode's options. Faults of the answer take `commit`: whether the upstream gets the request first.
"""

from __future__ import annotations

import json
import socket
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.proxy_connection import Answer, Exchange, Gone, Request

MODES: dict[str, Callable[..., None]] = {}
"""By name. Each is called with the exchange, the request, and its options."""

_HTML = b"<!doctype html><title>Welcome</title><p>Sign in to the guest network.</p>"


def mode(function: Callable[..., None]) -> Callable[..., None]:
    MODES[function.__name__.rstrip("_")] = function
    return function


# ---- an answer that is right, but comes oddly -----------------------------------------------------------------------


@mode
def pass_(exchange: Exchange, request: Request) -> None:
    exchange.reply(exchange.forward(request))


@mode
def delay(exchange: Exchange, request: Request, *, seconds: float = 0.2, commit: bool = True) -> None:
    """The answer comes so much later; without `commit` the upstream, too, gets the request only then, be the client
    gone or not."""
    answer = exchange.forward(request) if commit else None
    exchange.pause(seconds)
    exchange.reply(answer or exchange.forward(request))


@mode
def split(exchange: Exchange, request: Request, *, size: int = 1, pause: float = 0.0) -> None:
    """The answer in so many bytes at a time, each in a packet of its own."""
    whole = exchange.forward(request).whole()
    for start in range(0, len(whole), size):
        exchange.send(whole[start : start + size])
        exchange.pause(pause)


@mode
def drip(
    exchange: Exchange, request: Request, *, interval: float = 0.1, part: str = "body", commit: bool = True
) -> None:
    """A byte an interval, from the head or the body on."""
    answer = exchange.forward(request) if commit else Answer(200, [], b"{}" + b" " * 10_000)
    whole = answer.head() + answer.body
    at_once = {"head": 0, "body": len(whole) - len(answer.body)}[part]
    exchange.send(whole[:at_once])
    for byte in whole[at_once:]:
        exchange.pause(interval)
        exchange.send(bytes([byte]))


@mode
def idle_close(exchange: Exchange, request: Request, *, after: float = 0.0, reset: bool = False) -> None:
    """A whole answer, and so much later the connection ends, which nothing had announced."""
    exchange.reply(exchange.forward(request))
    exchange.pause(after)
    if reset:
        exchange.reset()
    raise Gone


# ---- no answer, or half of one --------------------------------------------------------------------------------------


@mode
def refuse(exchange: Exchange, request: Request) -> None:
    """Nobody listens: the proxy sees to that, but for requests that were on their way."""
    raise Gone


@mode
def hang(exchange: Exchange, request: Request, *, commit: bool = False) -> None:
    if commit:
        exchange.forward(request)
    exchange.wait_until_gone()


@mode
def no_read(exchange: Exchange, request: None) -> None:
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    exchange.wait_until_gone()


@mode
def reset_before(exchange: Exchange, request: Request) -> None:
    exchange.reset()


@mode
def reset_after(exchange: Exchange, request: Request) -> None:
    exchange.forward(request)
    exchange.reset()


@mode
def truncated(exchange: Exchange, request: Request, *, at: int | None = None) -> None:
    """The first `at` bytes of the answer, status line and headers included; by default half of the body is missing."""
    answer = exchange.forward(request)
    whole = answer.whole()
    exchange.send(whole[: len(whole) - (len(answer.body) + 1) // 2 if at is None else at])
    raise Gone


@mode
def garbage(exchange: Exchange, request: Request, *, commit: bool = False) -> None:
    if commit:
        exchange.forward(request)
    exchange.send(b"\x00\xff\x13\x37 this is not HTTP\r\n\r\n")
    raise Gone


# ---- a whole answer that is not the right one -----------------------------------------------------------------------


@mode
def status(
    exchange: Exchange,
    request: Request,
    *,
    code: int = 503,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    commit: bool = False,
) -> None:
    if commit:
        exchange.forward(request)
    exchange.reply(Answer(code, list((headers or {}).items()), body))


@mode
def redirect(exchange: Exchange, request: Request, *, location: str, code: int = 307, commit: bool = False) -> None:
    status(exchange, request, code=code, headers={"Location": location}, commit=commit)


@mode
def html200(exchange: Exchange, request: Request, *, commit: bool = False) -> None:
    status(exchange, request, code=200, headers={"Content-Type": "text/html"}, body=_HTML, commit=commit)


@mode
def empty204(exchange: Exchange, request: Request, *, commit: bool = False) -> None:
    status(exchange, request, code=204, commit=commit)


@mode
def wrong_length(exchange: Exchange, request: Request, *, delta: int = -5) -> None:
    """Announce `delta` bytes more than come (the client then waits for them), or fewer."""
    answer = exchange.forward(request)
    exchange.send(answer.head(max(0, len(answer.body) + delta)) + answer.body)


@mode
def wrong_type(exchange: Exchange, request: Request, *, content_type: str = "text/html; charset=utf-16") -> None:
    """The right answer under another Content-Type."""
    answer = exchange.forward(request)
    headers = [(name, value) for name, value in answer.headers if name.lower() != "content-type"]
    exchange.reply(answer._replace(headers=[*headers, ("Content-Type", content_type)]))


_MISCOUNTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "more": lambda found: {**found, "accepted": found["accepted"] + 1},
    "fewer": lambda found: {**found, "accepted": found["accepted"] - 1},
    "negative": lambda found: {**found, "accepted": -1, "duplicates": found["accepted"] + found["duplicates"] + 1},
    "none": lambda found: {},
    "text": lambda found: {**found, "accepted": str(found["accepted"])},
    "fraction": lambda found: {**found, "accepted": float(found["accepted"])},
    "true": lambda found: {**found, "accepted": True},
    "huge": lambda found: {**found, "accepted": 10**400},
    "stranger": lambda found: {
        "accepted": found["accepted"] + found["duplicates"] - 1,
        "duplicates": 0,
        "rejected": [{"id": "00000000-0000-4000-8000-000000000000", "reason": "not one of yours"}],
    },
    "list": lambda found: [found],
}
MISCOUNTS = tuple(_MISCOUNTS)


@mode
def wrong_counts(exchange: Exchange, request: Request, *, kind: str = "fewer") -> None:
    """The acknowledgement of a batch does not add up. `kind` is one of MISCOUNTS; other answers pass."""
    answer = exchange.forward(request)
    try:
        counts = json.loads(answer.body)
        exchange.reply(answer._replace(body=json.dumps(_MISCOUNTS[kind](counts)).encode()))
    except (ValueError, KeyError, TypeError):
        exchange.reply(answer)


@mode
def huge(exchange: Exchange, request: Request, *, size: int = 1 << 20) -> None:
    """The right answer, with so many bytes of white space behind it."""
    answer = exchange.forward(request)
    exchange.reply(answer._replace(body=answer.body + b" " * size))


@mode
def bomb(exchange: Exchange, request: Request, *, kind: str = "gzip", interval: float = 0, line: int = 1000) -> None:
    """Never stop sending: "gzip" (inflates a thousandfold), "body", or "headers" (of `line` bytes each); with
    `interval` seconds between chunks."""
    if kind == "headers":
        exchange.send(b"HTTP/1.1 200 OK\r\n")
        chunk = b"X-Filler: " + b"x" * line + b"\r\n"
    else:
        coding = b"Content-Encoding: gzip\r\n" if kind == "gzip" else b""
        exchange.send(b"HTTP/1.1 200 OK\r\n" + coding + b"Content-Length: 99999999999\r\n\r\n")
        deflate = zlib.compressobj(wbits=31)
        chunk = b" " * 65536
        if kind == "gzip":
            exchange.send(deflate.compress(b" " * 65536) + deflate.flush(zlib.Z_FULL_FLUSH))
            chunk = deflate.compress(b" " * 1_000_000) + deflate.flush(zlib.Z_FULL_FLUSH)
    while True:
        exchange.pause(interval)
        exchange.send(chunk)
