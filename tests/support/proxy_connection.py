"""One connection of the fault proxy: the request of the client, the answer of the upstream, and their transfer."""

from __future__ import annotations

import http.client
import select
import socket
import struct
import threading
from typing import NamedTuple

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "proxy-connection"})


class Request(NamedTuple):
    """A request as it was sent: first line, header lines, body."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header, or None. The case of the name does not matter."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Answer(NamedTuple):
    """An answer with its whole body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def head(self, length: int | None = None) -> bytes:
        """The status line and headers. length: a Content-Length other than the true one."""
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.status != 204:
            lines.append(f"Content-Length: {len(self.body) if length is None else length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def whole(self) -> bytes:
        return self.head() + (b"" if self.status == 204 else self.body)


class Gone(Exception):
    """Raised to end the connection."""


class Exchange:
    """One client connection and its upstream connection. `stop` is set when the proxy closes."""

    def __init__(self, connection: socket.socket, upstream: str | None, stop: threading.Event) -> None:
        self.connection = connection
        self._upstream = http.client.HTTPConnection(upstream, timeout=60) if upstream else None
        self._stop = stop
        self._buffer = b""

    def wait_for_request(self) -> None:
        if not self._buffer and not self.connection.recv(1, socket.MSG_PEEK):
            raise Gone

    def wait_until_gone(self) -> None:
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        poll.poll()
        raise Gone

    def pause(self, seconds: float) -> None:
        """Wait. If the proxy stops meanwhile, the connection ends."""
        if self._stop.wait(seconds):
            raise Gone

    def read(self) -> Request:
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Request(method, target, headers, body)

    def _more(self) -> None:
        data = self.connection.recv(65536)
        if not data:
            raise Gone
        self._buffer += data

    def forward(self, request: Request) -> Answer:
        upstream = self._upstream
        if upstream is None:
            return Answer(502, [], b"no upstream")
        if upstream.sock is not None and select.select([upstream.sock], [], [], 0)[0]:
            upstream.close()  # the upstream has closed it meanwhile
        try:
            upstream.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            upstream.putheader(
                "Host", f"{upstream.host}:{upstream.port}"
            )  # the name of the upstream: a receiver refuses others
            for name, value in request.headers:
                if name.lower() not in _HOP_BY_HOP - {"content-length"} | {"host"}:
                    upstream.putheader(name, value)
            upstream.endheaders(request.body or None)
            response = upstream.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            upstream.close()
            return Answer(502, [], f"upstream: {type(error).__name__}".encode())
        headers = [item for item in response.getheaders() if item[0].lower() not in _HOP_BY_HOP]
        return Answer(response.status, headers, body)

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def reply(self, answer: Answer) -> None:
        self.send(answer.whole())

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone

    def close(self) -> None:
        self.connection.close()
        if self._upstream is not None:
            self._upstream.close()
