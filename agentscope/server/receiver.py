"""The receiver as a process or a thread: a listening socket, uvicorn, and an orderly stop."""

from __future__ import annotations

import ctypes
import ipaddress
import logging
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

from agentscope.errors import ConfigurationError
from agentscope.server.extra import missing_extra

try:
    import uvicorn
except ImportError as problem:
    raise missing_extra(problem) from problem

from agentscope.server.http.addressing import Addressing, bracketed
from agentscope.server.http.connection import BoundedProtocol
from agentscope.server.http.keys import Key, Keys
from agentscope.server.http.limits import Limits
from agentscope.server.storage.sqlite.store import SQLiteStore

from .app import Front
from .metrics import add_disk_gauges

logger = logging.getLogger("agentscope.server")

_GRACE = 1  # seconds that requests have to end after the drain
_STOP = 4.5  # seconds after which stop() no longer waits for them
_LONGEST_DRAIN = 600.0  # seconds
_KEEP_ALIVE = 75  # seconds; longer than the SDK's pool keeps an idle connection
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_LARGE_BLOCK = 2 << 20  # bytes; the blocks that the SDK's batches need are smaller, and are reused for the next batch
_KEPT = 8 << 20  # bytes of free memory that the allocator keeps
_CONCURRENCY = 1024  # requests at once; the limit of connections is reached long before


class Receiver:
    """A receiver in a background thread of this process.

    `port` 0 takes a free one; `db` is the database file, None a temporary one; `retention_days` deletes older runs. A `host`
    that is not loopback needs an `api_key` or `keys`. `allowed_hosts`, `allowed_origins`, `trusted_proxies` and `root_path`
    are as in `Addressing`. A stop lets requests under way finish for `drain_seconds`. It can be started once. Raises
    `ConfigurationError` for wrong options, `OSError` when the address is taken.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        db: str | os.PathLike[str] | None = None,
        api_key: str | None = None,
        retention_days: float | None = None,
        *,
        keys: Iterable[Key] = (),
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        trusted_proxies: Iterable[str] = (),
        root_path: str = "",
        drain_seconds: float = 2.0,
        limits: Limits | None = None,
    ) -> None:
        if api_key is not None and not api_key:
            raise ConfigurationError("api_key must not be empty.")
        named = list(keys)
        has_key = api_key is not None or bool(named)
        if not has_key and not is_loopback(host):
            raise ConfigurationError(f"host {host!r} can be reached from outside; set an api_key, or use 127.0.0.1.")
        if retention_days is not None and not retention_days > 0:
            raise ConfigurationError(f"retention_days must be more than 0, not {retention_days!r}.")
        if not 0 <= drain_seconds <= _LONGEST_DRAIN:
            raise ConfigurationError(f"drain_seconds must be from 0 to {_LONGEST_DRAIN:g}, not {drain_seconds!r}.")
        # The name that it listens on, where it is no address.
        names = [*allowed_hosts, *([] if _address(host) else [host])]
        self.addressing = Addressing(names, allowed_origins, trusted_proxies, root_path, has_key=has_key)
        self._front = Front(Keys(api_key, named), self.addressing)
        self._host = host
        self._port = port
        self._db = db
        self._retention_days = retention_days
        self._drain_seconds = drain_seconds
        self._limits = limits or Limits()
        self._store: SQLiteStore | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._ended: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        """The address `http://host:port` of a started receiver."""
        address = _address(self._host)
        shown = self._host
        if address is not None and address.is_unspecified:
            shown = "::1" if address.version == 6 else "127.0.0.1"
        return f"http://{bracketed(shown)}:{self._port}"

    @property
    def store(self) -> SQLiteStore:
        """The store. Raises `RuntimeError` before the start."""
        if self._store is None:
            raise RuntimeError("the receiver was not started")
        return self._store

    def start(self) -> Receiver:
        """Start to listen, and open the store; until it is open, requests are answered with 503. Returns the receiver itself."""
        listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._front.app,
            http=BoundedProtocol.bounded_by(self._limits),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONCURRENCY,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._serve, args=(listener,), name="agentscope-receiver", daemon=True)
        self._thread.start()
        self._server.ready.wait()
        try:
            self._store = SQLiteStore(self._db, retention_days=self._retention_days)
        except BaseException:
            self.stop()
            raise
        add_disk_gauges(self._front.metrics, self._store.path)
        self._front.open(self._store, self._limits)
        return self

    def stop(self) -> None:
        """Finish the requests under way and close the store, at most 5 s after `drain_seconds`. A second call does nothing."""
        self._front.state.drain(self._drain_seconds)
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(_STOP)
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> Receiver:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve(self, listener: socket.socket) -> None:
        assert self._server is not None
        try:
            self._server.run(sockets=[listener])
        except Exception:
            logger.exception("the receiver ended by an error")
        finally:
            listener.close()
            self._server.ready.set()
            self._ended()


def serve_forever(
    host: str = "127.0.0.1",
    port: int = 8000,
    db: str | os.PathLike[str] | None = None,
    api_key: str | None = None,
    retention_days: float | None = None,
    *,
    on_start: Callable[[str], None] = print,
    **options: Any,
) -> None:
    """Run a receiver until SIGINT or SIGTERM. Returns when it has drained, with everything durable; a second signal hurries it.

    The other options are those of `Receiver`. Call it from the main thread. Raises as `Receiver` does.
    """
    run_receiver(Receiver(host, port, db, api_key, retention_days, **options), on_start)


def run_receiver(receiver: Receiver, on_start: Callable[[str], None]) -> None:
    """Run a receiver that was not started yet, as `serve_forever`. `on_start` is called with its address once it serves."""
    _give_memory_back()
    # The handler may run inside of get(). SimpleQueue.put() is reentrant, Event.set() would deadlock.
    ends: queue.SimpleQueue[None] = queue.SimpleQueue()
    receiver._ended = lambda: ends.put(None)
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: ends.put(None)) for number in signals}
    try:
        receiver.start()
        on_start(receiver.url)
        ends.get()
        for number in signals:
            signal.signal(number, lambda *_: receiver._front.state.idle.put(None))
    finally:
        receiver.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _give_memory_back() -> None:
    """Make glibc return large blocks to the system when they are freed, and use one arena for all threads."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
    mallopt(_M_ARENA_MAX, 1)


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on can only be reached from this machine."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


class _Server(uvicorn.Server):
    """A uvicorn server that sets `ready` when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()


def _listen(host: str, port: int) -> socket.socket:
    address = _address(host)
    family = socket.AF_INET6 if address is not None and address.version == 6 else socket.AF_INET
    # asyncio disables Nagle's algorithm only for sockets that name their protocol.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except BaseException:
        listener.close()
        raise
    return listener


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
