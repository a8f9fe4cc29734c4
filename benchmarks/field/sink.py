"""The backend of a measurement, in a process of its own: it keeps every POST and answers at once.

    python -m benchmarks.field.sink      prints two ports: for data, and for commands

The sink is not what is measured, so it does little: heads are searched, not parsed, and bodies are decoded only at `report`,
after the run. One exception: the sender of this project's batch call checks the counts in the answer, so these bodies are
inflated and their events counted.

A command is one line of JSON, and so is its answer: `{"do": "mode", "mode": "ok" | "delay" | "hang" | "gone", "ms": 200}`,
`{"do": "reset"}`, `{"do": "arrived"}` and `{"do": "report"}`.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import resource
import time
import zlib
from importlib import import_module
from typing import Any, NamedTuple

from benchmarks.field.payloads import STAMP, whole_steps

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_ENCODING = re.compile(rb"\r\ncontent-encoding: *([a-z]+)", re.IGNORECASE)
_BATCH = re.compile(rb"POST [^ ]*/api/ingest/batch ")
_EVENT = b'"seq":'
"""It occurs once in each event of a batch, and never in a payload."""


class Arrival(NamedTuple):
    time_ns: int
    """The time by CLOCK_MONOTONIC, which all processes of a machine share."""
    head: bytes
    body: bytes


def inflate(head: bytes, body: bytes) -> bytes:
    """The uncompressed body."""
    found = _ENCODING.search(head)
    encoding = found.group(1).lower() if found else b""
    if encoding == b"gzip":
        return gzip.decompress(body)
    if encoding == b"deflate":
        return zlib.decompress(body)
    if encoding == b"zstd":
        inflater = import_module("zstandard").ZstdDecompressor().decompressobj(read_across_frames=True)
        plain: bytes = inflater.decompress(body)
        return plain
    return body


def knows_zstd() -> bool:
    try:
        import_module("zstandard")
    except ImportError:
        return False
    return True


class Sink:
    """The requests that arrived, and the current state of the backend."""

    def __init__(self) -> None:
        self.mode = "ok"
        self.delay = 0.0
        self.arrivals: list[Arrival] = []
        self.bytes = 0
        self.connections: set[asyncio.Transport] = set()
        self.listener: asyncio.Server | None = None
        self._encodings = b"gzip, zstd" if knows_zstd() else b"gzip"

    def take(self, transport: asyncio.Transport, head: bytes, body: bytes, size: int) -> None:
        """Keep one request, of `size` bytes on the wire, and answer it according to the state."""
        self.bytes += size
        if self.mode == "hang":
            return
        self.arrivals.append(Arrival(time.monotonic_ns(), head, body))
        answer = self._answer(head, body)
        if self.mode == "delay":
            asyncio.get_running_loop().call_later(self.delay, transport.write, answer)
        else:
            transport.write(answer)

    def _answer(self, head: bytes, body: bytes) -> bytes:
        kind, text = b"application/json", b"{}"
        if _BATCH.match(head):
            text = b'{"accepted":%d,"duplicates":0,"rejected":[]}' % inflate(head, body).count(_EVENT)
        elif b"x-protobuf" in head:
            kind, text = b"application/x-protobuf", b""
        return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nAccept-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (
            kind,
            self._encodings,
            len(text),
            text,
        )

    def go_away(self) -> None:
        """Close all connections, and refuse new ones."""
        if self.listener is not None:
            self.listener.close()
        for connection in list(self.connections):
            connection.abort()

    def command(self, asked: dict[str, Any]) -> dict[str, Any]:
        do = asked["do"]
        if do == "mode":
            self.mode, self.delay = asked["mode"], asked.get("ms", 0) / 1000
            if self.mode == "gone":
                self.go_away()
        elif do == "reset":
            self.arrivals, self.bytes = [], 0
        elif do == "arrived":
            return {"bytes": self.bytes, "requests": len(self.arrivals)}
        elif do == "report":
            return self.report()
        return {}

    def report(self) -> dict[str, Any]:
        """Decode all requests and count the steps in them. It is the only slow operation here."""
        bodies = [inflate(arrival.head, arrival.body) for arrival in self.arrivals]
        whole, touched = whole_steps(bodies)
        stamped = [arrival.time_ns for arrival, body in zip(self.arrivals, bodies, strict=True) if STAMP.search(body)]
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "whole": whole,
            "touched": touched,
            "requests": len(self.arrivals),
            "wire_bytes": self.bytes,
            "plain_bytes": sum(map(len, bodies)),
            "last_ns": max(stamped, default=0),
            "sink_cpu": usage.ru_utime + usage.ru_stime,
        }


class Data(asyncio.Protocol):
    """A connection for requests."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._buffer = bytearray()
        self._needed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._sink.connections.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._sink.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= self._needed:
            end = self._buffer.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            head = bytes(self._buffer[:end])
            if _CHUNKED.search(head):
                found = dechunk(self._buffer, end)
                if found is None:
                    return
                body, size = found
            else:
                length = _LENGTH.search(head)
                size = end + (int(length.group(1)) if length else 0)
                if len(self._buffer) < size:
                    self._needed = size
                    return
                body = bytes(self._buffer[end:size])
            del self._buffer[:size]
            self._needed = 0
            self._sink.take(self._transport, head, body, size)


def dechunk(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    """The chunked body from `start` on, and its end; None while it is incomplete. Trailers are not supported."""
    parts: list[bytes] = []
    while True:
        line = buffer.find(b"\r\n", start)
        if line < 0:
            return None
        size = int(buffer[start:line].split(b";")[0], 16)
        start = line + 2 + size + 2
        if len(buffer) < start:
            return None
        if size == 0:
            return b"".join(parts), start
        parts.append(bytes(buffer[line + 2 : line + 2 + size]))


class Commands(asyncio.Protocol):
    """A connection for commands."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._transport.write(json.dumps(self._sink.command(json.loads(line))).encode() + b"\n")


async def main() -> None:
    loop = asyncio.get_running_loop()
    sink = Sink()
    sink.listener = await loop.create_server(lambda: Data(sink), "127.0.0.1", 0, backlog=1024)
    commands = await loop.create_server(lambda: Commands(sink), "127.0.0.1", 0)
    print(*(server.sockets[0].getsockname()[1] for server in (sink.listener, commands)), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
