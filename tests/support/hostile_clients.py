"""Hostile clients of a receiver. Each function is one kind of attack, which lasts about a second."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, urlsplit

from .receiver import Client, connect, envelope, run_start, step

BATCH = "/api/ingest/batch"
LARGE = "a-large-run"
PATIENCE = 1.0  # seconds that an attacker holds on to what it has
_pause = time.sleep  # what slow clients do


def prepare(url: str) -> None:
    """Store the run that the attacks read."""
    client = Client(url)
    for _ in range(6):
        assert client.batch(run_start(LARGE), step(LARGE, output="y" * 1_000_000)).status == 200


def head(url: str, method: str = "POST", path: str = BATCH, *lines: str) -> bytes:
    """The head of a request, without the empty line at its end."""
    given = (f"{method} {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}", "X-Agentscope-Key: k", *lines)
    return "\r\n".join((*given, "Content-Type: application/json", "")).encode()


@lru_cache
def text_bomb(wide: bool = False, size: int = 31_000_000) -> bytes:
    """A small gzipped body with one very long text. wide: its characters take four bytes each in Python."""
    body = json.dumps(envelope({**step(LARGE), "id": "the same", "input": ("😀" if wide else "") + "@"}))
    return gzip.compress(body.replace("@", "a" * size).encode(), 1)


@lru_cache
def keys_bomb(count: int = 990_000) -> bytes:
    keys = ",".join(f'"k{number}":1' for number in range(count))
    return gzip.compress(json.dumps(envelope(step(LARGE, input="@"))).replace('"@"', f"{{{keys}}}").encode(), 1)


@lru_cache
def rejects_bomb(count: int = 900_000) -> bytes:
    """Invalid events, each of which causes an answer many times its size."""
    return gzip.compress(json.dumps(envelope(1)).replace("[1]", f"[{'1,' * count}1]").encode(), 1)


@lru_cache
def zero_bomb() -> bytes:
    return gzip.compress(bytes(100_000_000), 1)


@lru_cache
def otlp_bomb() -> bytes:
    """Very many root spans, each with a large resource."""
    spans = [
        {"traceId": f"{n:032x}", "spanId": f"{n:016x}", "name": "n", "startTimeUnixNano": "1", "endTimeUnixNano": "2"}
        for n in range(1, 2000)
    ]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "x" * 100_000}}]}
    body = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}
    return gzip.compress(json.dumps(body).encode(), 1)


def posts(body: Callable[[], bytes], path: str = BATCH) -> Callable[[str], None]:
    """An attack that posts a gzipped body."""

    def attack(url: str) -> None:
        Client(url).send("POST", path, body(), content_encoding="gzip")

    return attack


def slow_head(url: str) -> None:
    _drip(url, b"GET / HTTP/1.1\r\nX-Slow: ")


def slow_body(url: str) -> None:
    _drip(url, head(url, "POST", BATCH, "Content-Length: 100000") + b"\r\n{")


def idle(url: str) -> None:
    connections = [connect(url) for _ in range(30)]
    _pause(PATIENCE)
    for connection in connections:
        connection.close()


def never_reads(url: str) -> None:
    with unread(url, f"/api/runs/{LARGE}"):
        _pause(PATIENCE)


def pipelines(url: str) -> None:
    with connect(url) as connection:
        connection.sendall((head(url, "GET", "/health") + b"\r\n") * 200)
        _pause(PATIENCE)


def lies_about_lengths(url: str) -> None:
    for line in ("-1", "+5", "1_0", "٥", "9" * 30, "5\r\nContent-Length: 6", "5\r\nTransfer-Encoding: chunked"):
        with connect(url) as connection:
            connection.settimeout(PATIENCE)
            connection.sendall(head(url, "POST", BATCH).replace(b"\r\n", f"\r\nContent-Length: {line}\r\n".encode(), 1))
            connection.sendall(b"\r\n0\r\n\r\n")
            connection.recv(1000)


def nonsense(url: str) -> None:
    client = Client(url)
    for body in (b"[" * 1_000_000, b'{"a":' * 200_000, b'{"a": NaN}', b'"\xff"', b"9" * 100_000, b"\0" * 100, b""):
        client.send("POST", BATCH, body)


def reads_all(url: str) -> None:
    for path in (f"/runs/{LARGE}", f"/api/runs/{LARGE}", f"/api/runs/{LARGE}/events", "/?limit=500&q=a%25_", "/health"):
        Client(url).get(path)


def strangers(url: str) -> None:
    client = Client(url)
    client.get("/api/runs", host="evil.example")
    client.get("/api/runs", origin="http://evil.example")
    client.send("POST", "/login", "key=a&" * 100, content_type="application/x-www-form-urlencoded")
    for path in ("/static/../../../etc/passwd", "/runs/" + quote("' OR 1=1 --"), "/%00", "/?cursor=x", "/?limit=-1"):
        client.get(path)


ATTACKERS: tuple[Callable[[str], None], ...] = (
    slow_head,
    slow_body,
    idle,
    never_reads,
    pipelines,
    lies_about_lengths,
    nonsense,
    reads_all,
    strangers,
    posts(text_bomb),
    posts(lambda: text_bomb(wide=True)),
    posts(keys_bomb),
    posts(rejects_bomb),
    posts(zero_bomb),
    posts(otlp_bomb, "/v1/traces"),
)


def unread(url: str, path: str) -> socket.socket:
    """A connection that requests a large answer and does not read it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((urlsplit(url).hostname, urlsplit(url).port))
    connection.sendall(head(url, "GET", path) + b"\r\n")
    return connection


def memory(pid: int, what: str = "VmHWM") -> float:
    """The memory of a process in MB: now (`VmRSS`) or at its peak (`VmHWM`)."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines[what].split()[0]) / 1024


def _drip(url: str, beginning: bytes) -> None:
    with connect(url) as connection:
        connection.sendall(beginning)
        for _ in range(10):
            _pause(PATIENCE / 10)
            connection.sendall(b"x")
