"""A fault proxy: an HTTP proxy in this process that breaks in the ways networks and backends break.

    with FaultProxy(receiver_url) as proxy:
        proxy.set("status", code=503, headers={"Retry-After": "1"})
        ...
        proxy.set("pass")

Each `_do_*` method is one mode. Faults of the answer take `commit`: whether the upstream gets the request first.
"""

from __future__ import annotations

import http.client
import inspect
import select
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "proxy-connection"})
_HTML = b"<!doctype html><title>Welcome</title><p>Sign in to the guest network.</p>"


class Request(NamedTuple):
    """One request as the client sent it: first line, header lines, body."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header, or None; the name in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Answer(NamedTuple):
    """One answer, with its body whole."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def head(self, length: int | None = None) -> bytes:
        """Status line and headers; `length` announces another Content-Length than the true one."""
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.status != 204:
            lines.append(f"Content-Length: {len(self.body) if length is None else length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class _Gone(Exception):
    """The connection ends here."""


class FaultProxy:
    """A context manager that serves on loopback while it is open; `url` is its base URL.

    upstream_url: where requests go; None for a proxy that only ever fails (`pass` answers 502 then).
    counts: requests by the mode that answered them. requests: every request seen, in order.
    """

    def __init__(self, upstream_url: str | None = None, mode: str = "pass", **options: Any) -> None:
        self.counts: Counter[str] = Counter()
        self.requests: list[Request] = []
        self.connections = 0
        self._upstream = urlsplit(upstream_url).netloc if upstream_url else None
        self._plan: Iterator[tuple[str, dict[str, Any]]] = iter(())
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._listener = self._bind(0)
        self._acceptor: threading.Thread | None = None
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.set(mode, **options)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._deafen()
        self._listener.close()
        self.kick()

    def set(self, mode: str, **options: Any) -> None:
        """From now on answer every request by `mode`, with the options of its `_do_*` method."""
        self._check(mode, options)
        with self._lock:
            self._mode = (mode, options)
            self._plan = iter(())
        if mode == "refuse":
            self._deafen()
            self.kick()
        elif self._acceptor is None:
            self._listener.listen(128)
            self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), name="proxy", daemon=True)
            self._acceptor.start()

    def plan(self, faults: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Answer the next requests by these (mode, options) in turn, then by the mode that is set.

        `refuse` cannot be planned: a request that is refused is never seen.
        """
        steps = [(mode, dict(options)) for mode, options in faults]
        for mode, options in steps:
            assert mode != "refuse"
            self._check(mode, options)
        with self._lock:
            self._plan = iter(steps)

    def kick(self) -> None:
        """End every open connection and wait for their threads."""
        with self._lock:
            threads = dict(self._open)
        for connection in threads:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in threads.values():
            thread.join(5)

    def _check(self, mode: str, options: Mapping[str, Any]) -> None:
        inspect.signature(getattr(self, f"_do_{mode}")).bind(None, None, **options)

    @staticmethod
    def _bind(port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        return listener

    def _deafen(self) -> None:
        if self._acceptor is not None:
            # Shutting a listening socket down wakes accept(); closing it would not.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._acceptor.join()
            self._listener.close()
            self._acceptor = None
            # Bound but not listening: connecting is refused, and nobody else gets the port.
            self._listener = self._bind(self.port)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(connection,), name="proxied", daemon=True)
            with self._lock:
                self.connections += 1
                self._open[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        exchange = _Exchange(connection, self._upstream)
        try:
            while True:
                exchange.wait_for_request()
                with self._lock:
                    mode, options = next(self._plan, self._mode)
                request = None if mode == "no_read" else exchange.read()
                with self._lock:
                    self.counts[mode] += 1
                    if request is not None:
                        self.requests.append(request)
                getattr(self, f"_do_{mode}")(exchange, request, **options)
        except (_Gone, OSError):
            pass
        finally:
            exchange.close()
            with self._lock:
                del self._open[connection]

    # -- modes ----------------------------------------------------------------------------------------------------

    def _do_pass(self, exchange: _Exchange, request: Request) -> None:
        exchange.reply(exchange.forward(request))

    def _do_refuse(self, exchange: _Exchange, request: Request) -> None:
        raise _Gone

    def _do_hang(self, exchange: _Exchange, request: Request, *, commit: bool = False) -> None:
        if commit:
            exchange.forward(request)
        exchange.wait_until_gone()

    def _do_no_read(self, exchange: _Exchange, request: None) -> None:
        exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        exchange.wait_until_gone()

    def _do_drip(
        self, exchange: _Exchange, request: Request, *, interval: float = 0.1, part: str = "body", commit: bool = True
    ) -> None:
        answer = exchange.forward(request) if commit else Answer(200, [], b"{}" + b" " * 10_000)
        whole = answer.head() + answer.body
        at_once = {"head": 0, "body": len(whole) - len(answer.body)}[part]
        exchange.connection.sendall(whole[:at_once])
        for byte in whole[at_once:]:
            if self._stop.wait(interval):
                raise _Gone
            exchange.connection.sendall(bytes([byte]))

    def _do_reset_before(self, exchange: _Exchange, request: Request) -> None:
        exchange.reset()

    def _do_reset_after(self, exchange: _Exchange, request: Request) -> None:
        exchange.forward(request)
        exchange.reset()

    def _do_status(
        self,
        exchange: _Exchange,
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

    def _do_redirect(
        self, exchange: _Exchange, request: Request, *, location: str, code: int = 307, commit: bool = False
    ) -> None:
        self._do_status(exchange, request, code=code, headers={"Location": location}, commit=commit)

    def _do_html200(self, exchange: _Exchange, request: Request, *, commit: bool = False) -> None:
        headers = {"Content-Type": "text/html"}
        self._do_status(exchange, request, code=200, headers=headers, body=_HTML, commit=commit)

    def _do_empty204(self, exchange: _Exchange, request: Request, *, commit: bool = False) -> None:
        self._do_status(exchange, request, code=204, commit=commit)

    def _do_garbage(self, exchange: _Exchange, request: Request, *, commit: bool = False) -> None:
        if commit:
            exchange.forward(request)
        exchange.connection.sendall(b"\x00\xff\x13\x37 this is not HTTP\r\n\r\n")
        raise _Gone

    def _do_truncated(self, exchange: _Exchange, request: Request) -> None:
        answer = exchange.forward(request)
        exchange.connection.sendall(answer.head() + answer.body[: len(answer.body) // 2])
        raise _Gone

    def _do_wrong_length(self, exchange: _Exchange, request: Request, *, delta: int = -5) -> None:
        """Announce `delta` bytes more than come (the client then waits for them), or fewer."""
        answer = exchange.forward(request)
        exchange.connection.sendall(answer.head(max(0, len(answer.body) + delta)) + answer.body)

    def _do_bomb(
        self, exchange: _Exchange, request: Request, *, kind: str = "gzip", interval: float = 0, line: int = 1000
    ) -> None:
        """Never stop sending: "gzip" (inflates a thousandfold), "body", or "headers" (of `line` bytes each); with
        `interval` seconds between chunks."""
        send = exchange.connection.sendall
        if kind == "headers":
            send(b"HTTP/1.1 200 OK\r\n")
            chunk = b"X-Filler: " + b"x" * line + b"\r\n"
        else:
            coding = b"Content-Encoding: gzip\r\n" if kind == "gzip" else b""
            send(b"HTTP/1.1 200 OK\r\n" + coding + b"Content-Length: 99999999999\r\n\r\n")
            deflate = zlib.compressobj(wbits=31)
            chunk = b" " * 65536
            if kind == "gzip":
                send(deflate.compress(b" " * 65536) + deflate.flush(zlib.Z_FULL_FLUSH))
                chunk = deflate.compress(b" " * 1_000_000) + deflate.flush(zlib.Z_FULL_FLUSH)
        while not self._stop.wait(interval):
            send(chunk)


class HangServer(FaultProxy):
    """Accepts, reads, and never answers."""

    def __init__(self) -> None:
        super().__init__(None, "hang")


class _Exchange:
    """One client connection and its upstream connection."""

    def __init__(self, connection: socket.socket, upstream: str | None) -> None:
        self.connection = connection
        self._upstream = http.client.HTTPConnection(upstream, timeout=60) if upstream else None
        self._buffer = b""

    def wait_for_request(self) -> None:
        if not self._buffer and not self.connection.recv(1, socket.MSG_PEEK):
            raise _Gone

    def wait_until_gone(self) -> None:
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        poll.poll()
        raise _Gone

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
            raise _Gone
        self._buffer += data

    def forward(self, request: Request) -> Answer:
        upstream = self._upstream
        if upstream is None:
            return Answer(502, [], b"no upstream")
        if upstream.sock is not None and select.select([upstream.sock], [], [], 0)[0]:
            upstream.close()  # the upstream has closed it meanwhile
        try:
            upstream.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            upstream.putheader("Host", f"{upstream.host}:{upstream.port}")  # its own name: a receiver refuses others
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

    def reply(self, answer: Answer) -> None:
        self.connection.sendall(answer.head() + (b"" if answer.status == 204 else answer.body))

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Gone

    def close(self) -> None:
        self.connection.close()
        if self._upstream is not None:
            self._upstream.close()
