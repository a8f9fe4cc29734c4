"""A fault proxy: an HTTP proxy in this process that fails in the ways in which networks and backends fail.

    with FaultProxy(receiver_url) as proxy:
        proxy.set("status", code=503, headers={"Retry-After": "1"})
        ...
        proxy.set("pass")

Each mode is a function in `faults`; `fault_plans` makes endless random plans of modes.
"""

from __future__ import annotations

import inspect
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from tests.support.faults import MODES
from tests.support.proxy_connection import Exchange, Gone, Request


class FaultProxy:
    """A context manager that serves on loopback while it is open; `url` is its base URL.

    upstream_url: where requests go; None for a proxy that only ever fails (`pass` answers 502 then).
    counts: requests by the mode that answered them. requests: every request seen, in order, unless `remember` is false.
    """

    def __init__(
        self, upstream_url: str | None = None, mode: str = "pass", *, remember: bool = True, **options: Any
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.requests: list[Request] = []
        self.connections = 0
        self._upstream = urlsplit(upstream_url).netloc if upstream_url else None
        self._remember = remember
        self._plan: Iterator[tuple[str, Mapping[str, Any]]] = iter(())
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
        """Answer every request by `mode` from now on. options: the keyword arguments of its function in `faults`."""
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
        """Answer the next requests by these modes and options in order, then by the mode that is set.

        A sequence is checked at once, anything else, which may be endless, step by step. `refuse` cannot be planned:
        a request that is refused is never seen.
        """
        for mode, options in faults if isinstance(faults, Sequence) else ():
            assert mode != "refuse"
            self._check(mode, options)
        with self._lock:
            self._plan = iter(faults)

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
        inspect.signature(MODES[mode]).bind(None, None, **options)

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
            # A bound socket that does not listen: connections are refused, and no other program gets the port.
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
        exchange = Exchange(connection, self._upstream, self._stop)
        try:
            while True:
                exchange.wait_for_request()
                with self._lock:
                    mode, options = next(self._plan, self._mode)
                request = None if mode == "no_read" else exchange.read()
                with self._lock:
                    self.counts[mode] += 1
                    if request is not None and self._remember:
                        self.requests.append(request)
                MODES[mode](exchange, request, **options)
        except (Gone, OSError):
            pass
        finally:
            exchange.close()
            with self._lock:
                del self._open[connection]


class HangServer(FaultProxy):
    """A server that accepts connections, reads, and never answers."""

    def __init__(self) -> None:
        super().__init__(None, "hang")
