"""Connections of the HTTP library that keep one wall-clock deadline for a whole attempt.

The library's own timeout is per read, so a server that sends a byte a second holds a thread for as long as it likes.
Here every operation of every socket first lowers that socket's timeout to what is left of the attempt; there is neither
a watchdog thread nor a wait that has no end.
"""

from __future__ import annotations

import os
import queue
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from inspect import unwrap
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakSet

from requests.adapters import DEFAULT_CA_BUNDLE_PATH, HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from .surroundings import defined_by

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection, HTTPSConnection
else:
    # A recorder of HTTP calls may have put classes of its own in their places, which would write keys to a file.
    HTTPConnection = defined_by("urllib3.connection", "HTTPConnection")
    HTTPSConnection = defined_by("urllib3.connection", "HTTPSConnection")

_P = ParamSpec("_P")
_T = TypeVar("_T")

LONGEST = 3600.0
"""The longest timeout in seconds. Operating systems refuse much longer ones."""


def _now() -> float:
    # `time.monotonic` stands still under freezegun, and a deadline by it would never come.
    return time.clock_gettime(time.CLOCK_MONOTONIC)


class Attempt(threading.local):
    """The attempt that this thread is making. The HTTP library has no way to hand it down to a socket."""

    deadline = float("inf")
    connecting = False
    """True from the look-up of the host to the end of the TLS handshake: no byte of the request was sent."""
    received = 0
    failure: OSError | None = None
    """The newest error of a socket, before the HTTP library wrapped it."""

    def __init__(self) -> None:
        self.sockets: WeakSet[socket.socket] = WeakSet()
        self.socket: type[socket.socket] = socket.socket
        self.resolve: Callable[..., Any] = socket.getaddrinfo

    def begin(self, timeout: float, sockets: WeakSet[socket.socket]) -> None:
        """Start an attempt. Each new connection is added to `sockets`."""
        self.sockets = sockets
        self.deadline = _now() + timeout
        self.connecting = False
        self.received = 0
        self.failure = None

    def left(self) -> float:
        left = self.deadline - _now()
        if left <= 0:
            raise TimeoutError("the time of the attempt is over")
        return min(left, LONGEST)


attempt = Attempt()
"""The attempt of this thread."""


class TooLarge(OSError):
    """The answer exceeds its bound."""


if TYPE_CHECKING:
    _AnySocket = socket.socket
else:
    _AnySocket = object


class _Timed(_AnySocket):
    """Base of a socket that never waits longer than the attempt may last."""

    def _within(self, operation: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            self.settimeout(attempt.left())
            return operation(*args, **kwargs)
        except OSError as error:
            attempt.failure = error
            raise

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        count = self._within(super().recv_into, *args, **kwargs)
        attempt.received += count
        if attempt.received > 2 * MAX_REPLY_BYTES:
            attempt.failure = TooLarge()
            raise attempt.failure
        return count

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        return self._within(super().recv, *args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        return self._within(super().send, *args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self._within(super().sendall, *args, **kwargs)


def timed(kind: type[socket.socket]) -> type[socket.socket]:
    """Make a subclass of a socket class that keeps the deadline of the attempt."""
    return type("Timed", (_Timed, kind), {})


class _TimedTLS(_Timed, ssl.SSLSocket):
    def do_handshake(self, *args: Any, **kwargs: Any) -> None:
        attempt.sockets.add(self)  # it has taken the place of a plain one
        self._within(super().do_handshake, *args, **kwargs)


class _Connection(HTTPConnection):
    def connect(self) -> None:
        attempt.connecting = True
        super().connect()
        attempt.connecting = False

    def _new_conn(self) -> socket.socket:
        # Private, and the one place where urllib3 makes a socket: it has no public way to be given one that keeps a deadline.
        # A test fails for a version of urllib3 that makes it elsewhere.
        try:
            return _dial(self._dns_host.strip("[]"), self.port, self.socket_options or ())
        except OSError as error:
            attempt.failure = error
            raise


class _TLSConnection(_Connection, HTTPSConnection):
    pass


def _dial(host: str, port: int, options: Any) -> socket.socket:
    """Connect to the first address that answers. Each may take its share of the time that is left."""
    try:
        addresses = attempt.resolve(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        try:
            connection = attempt.socket(family, kind, protocol)
        except OSError as error:
            failure = error
            continue
        try:
            attempt.sockets.add(connection)
            connection.settimeout(attempt.left() / (len(addresses) - position))
            for option in options:
                connection.setsockopt(*option)
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:  # a test of the application forbids the connection
            connection.close()
            raise
    raise failure


class _Kept:
    """The idle connections, with the interface of the library's queue. The newest is taken first.

    No lock is used, because a child that is forked while another thread holds it could never exit: the library takes the lock
    to close the connections. Each method makes one C call on the deque.
    """

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self._connections: deque[Any] = deque()

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        try:
            return self._connections.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, connection: Any, block: bool = False, timeout: float | None = None) -> None:
        if len(self._connections) >= self.maxsize:
            raise queue.Full
        self._connections.append(connection)

    def qsize(self) -> int:
        return len(self._connections)


class _Own:
    """The original methods of urllib3's pool, for the case that a recorder or a tracer has patched the class."""

    QueueCls: Any = _Kept
    urlopen = unwrap(HTTPConnectionPool.urlopen)
    _get_conn = unwrap(HTTPConnectionPool._get_conn)
    _put_conn = unwrap(HTTPConnectionPool._put_conn)
    _make_request = unwrap(HTTPConnectionPool._make_request)


class _Pool(_Own, HTTPConnectionPool):
    ConnectionCls = _Connection
    _new_conn = unwrap(HTTPConnectionPool._new_conn)


class _TLSPool(_Own, HTTPSConnectionPool):
    ConnectionCls = _TLSConnection
    _new_conn = unwrap(HTTPSConnectionPool._new_conn)


def _tls_context() -> ssl.SSLContext:
    context = create_urllib3_context()
    context.sslsocket_class = _TimedTLS
    return context


def _proxy_tls_context(bundle: str) -> ssl.SSLContext:
    # To this one the library does not add the trusted certificates itself.
    context = _tls_context()
    context.load_verify_locations(**{"capath" if os.path.isdir(bundle) else "cafile": bundle})
    return context


class Adapter(HTTPAdapter):
    """The library's adapter, over connections that keep the deadline. `send` is inherited, since test libraries patch it."""

    def __init__(self, bundle: str | None, max_connections: int, tls: bool = True) -> None:
        self._bundle = bundle or DEFAULT_CA_BUNDLE_PATH
        self._tls = tls
        super().__init__(pool_connections=4, pool_maxsize=max_connections, max_retries=0, pool_block=False)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        # Made only where it is needed: it takes a while, and gevent makes it fail in programs that it patched too late.
        super().init_poolmanager(*args, ssl_context=_tls_context() if self._tls else None, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if proxy.lower().startswith("socks"):
            # SOCKS proxies make their own sockets, with the library's timeout only.
            return super().proxy_manager_for(proxy, **kwargs)
        kwargs["ssl_context"] = _tls_context()
        if proxy.lower().startswith("https"):
            kwargs["proxy_ssl_context"] = _proxy_tls_context(self._bundle)
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        return manager

    def close(self) -> None:
        # The library leaves the closing of kept connections to finalizers, which at the end of the process are over by now.
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - a container of its own, which is not iterated otherwise
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()
        super().close()


MAX_REPLY_BYTES = 64 * 1024
"""Bound, in bytes, on the body of an answer, and likewise on its head."""
