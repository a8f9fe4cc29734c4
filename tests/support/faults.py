"""The modes of the fault proxy: each function here answers a request in one way, and its name is the mode.

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
"""The modes by name. Each is called with the exchange, the request and its options."""

_HTML = b"<!doctype html><title>Welcome</title><p>Sign in to the guest network.</p>"


def mode(function: Callable[..., None]) -> Callable[..., None]:
    MODES[function.__name__.rstrip("_")] = function
    return function


# ---- right answers, delivered oddly ----------------------------------------------------------------------------------


@mode
def pass_(exchange: Exchange, request: Request) -> None:
    exchange.reply(exchange.forward(request))


@mode
def delay(exchange: Exchange, request: Request, *, seconds: float = 0.2, commit: bool = True) -> None:
    """Answer `seconds` later. Without `commit` the upstream gets the request only then, even if the client has gone."""
    answer = exchange.forward(request) if commit else None
    exchange.pause(seconds)
    exchange.reply(answer or exchange.forward(request))


@mode
def split(exchange: Exchange, request: Request, *, size: int = 1, pause: float = 0.0) -> None:
    """Send the answer in packets of `size` bytes."""
    whole = exchange.forward(request).whole()
    for start in range(0, len(whole), size):
        exchange.send(whole[start : start + size])
        exchange.pause(pause)


@mode
def drip(
    exchange: Exchange, request: Request, *, interval: float = 0.1, part: str = "body", commit: bool = True
) -> None:
    """Send one byte in each interval, from the head or from the body on."""
    answer = exchange.forward(request) if commit else Answer(200, [], b"{}" + b" " * 10_000)
    whole = answer.head() + answer.body
    at_once = {"head": 0, "body": len(whole) - len(answer.body)}[part]
    exchange.send(whole[:at_once])
    for byte in whole[at_once:]:
        exchange.pause(interval)
        exchange.send(bytes([byte]))


@mode
def idle_close(exchange: Exchange, request: Request, *, after: float = 0.0, reset: bool = False) -> None:
    """Send a whole answer, and end the connection `after` seconds without an announcement."""
    exchange.reply(exchange.forward(request))
    exchange.pause(after)
    if reset:
        exchange.reset()
    raise Gone


# ---- no answer, or a part of one -------------------------------------------------------------------------------------


@mode
def refuse(exchange: Exchange, request: Request) -> None:
    """Refuse connections. The proxy closes its listener; this function ends the requests that were under way."""
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
    """Send the first `at` bytes of the answer, status line and headers included; by default half of the body is missing."""
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


# ---- whole answers that are wrong ------------------------------------------------------------------------------------


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
    """Announce `delta` bytes more than are sent (the client then waits for them), or fewer."""
    answer = exchange.forward(request)
    exchange.send(answer.head(max(0, len(answer.body) + delta)) + answer.body)


@mode
def wrong_type(exchange: Exchange, request: Request, *, content_type: str = "text/html; charset=utf-16") -> None:
    """Send the right answer with another Content-Type."""
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
    """Send an acknowledgement whose counts do not add up. kind: one of MISCOUNTS. Other answers pass."""
    answer = exchange.forward(request)
    try:
        counts = json.loads(answer.body)
        exchange.reply(answer._replace(body=json.dumps(_MISCOUNTS[kind](counts)).encode()))
    except (ValueError, KeyError, TypeError):
        exchange.reply(answer)


@mode
def huge(exchange: Exchange, request: Request, *, size: int = 1 << 20) -> None:
    """Send the right answer, followed by `size` bytes of white space."""
    answer = exchange.forward(request)
    exchange.reply(answer._replace(body=answer.body + b" " * size))


@mode
def bomb(exchange: Exchange, request: Request, *, kind: str = "gzip", interval: float = 0, line: int = 1000) -> None:
    """Send without end: `gzip` (which inflates a thousandfold), `body`, or `headers` of `line` bytes each.

    interval: seconds between chunks.
    """
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
