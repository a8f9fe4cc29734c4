"""The requests library, tamed: one wall-clock deadline for a whole attempt, and a bound on what is read.

The library's own timeout is per read, so a server that sends a byte a second holds a thread for as long as it likes.
Here every operation of every socket first lowers that socket's timeout to what is left of the attempt; there is neither
a watchdog thread nor a wait that has no end.

Requests go through an adapter and not through `requests.Session`, which adds only what would have to be turned off
again: redirects, cookies, `.netrc`, credentials and settings of the environment.
"""

from __future__ import annotations

import http.client
import os
import queue
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

import requests
from requests.adapters import DEFAULT_CA_BUNDLE_PATH, HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

from ..protocols import Failure, Response
from ..protocols.answers import clean
from .transport import MAX_REPLY_BYTES, is_loopback, target_of

_P = ParamSpec("_P")
_T = TypeVar("_T")

_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

_LONGEST = 3600.0
"""Seconds; larger timeouts are of no use here, and some are more than the system takes."""


def _now() -> float:
    # `time.monotonic` stands still under freezegun, and a deadline by it would never come.
    return time.clock_gettime(time.CLOCK_MONOTONIC)


class _Attempt(threading.local):
    """The attempt that this thread is making. The HTTP library has no way to hand it down to a socket."""

    deadline = float("inf")
    connecting = False
    """Between the look-up of the host and the end of the TLS handshake: the request is not on its way yet."""
    received = 0
    failure: OSError | None = None
    """The newest error of a socket, before the HTTP library wrapped it."""

    def __init__(self) -> None:
        self.sockets: WeakSet[socket.socket] = WeakSet()

    def begin(self, timeout: float, sockets: WeakSet[socket.socket]) -> None:
        """sockets: where the connections that are made for it are noted."""
        self.sockets = sockets
        self.deadline = _now() + timeout
        self.connecting = False
        self.received = 0
        self.failure = None

    def left(self) -> float:
        left = self.deadline - _now()
        if left <= 0:
            raise TimeoutError("the time of the attempt is over")
        return min(left, _LONGEST)


_attempt = _Attempt()


class _TooLarge(OSError):
    pass


class _Timed(socket.socket):
    """A socket that never waits longer than the attempt may last."""

    def _within(self, operation: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            self.settimeout(_attempt.left())
            return operation(*args, **kwargs)
        except OSError as error:
            _attempt.failure = error
            raise

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        count = self._within(super().recv_into, *args, **kwargs)
        _attempt.received += count
        if _attempt.received > 2 * MAX_REPLY_BYTES:
            _attempt.failure = _TooLarge()
            raise _attempt.failure
        return count

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        return self._within(super().recv, *args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        return self._within(super().send, *args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self._within(super().sendall, *args, **kwargs)


class _TimedTLS(_Timed, ssl.SSLSocket):
    def do_handshake(self, *args: Any, **kwargs: Any) -> None:
        _attempt.sockets.add(self)  # it has taken the place of a plain one
        self._within(super().do_handshake, *args, **kwargs)


class _Connection(HTTPConnection):
    def connect(self) -> None:
        _attempt.connecting = True
        super().connect()
        _attempt.connecting = False

    def _new_conn(self) -> socket.socket:
        try:
            return _dial(self._dns_host.strip("[]"), self.port, self.socket_options or ())
        except OSError as error:
            _attempt.failure = error
            raise


class _TLSConnection(_Connection, HTTPSConnection):
    pass


def _dial(host: str, port: int, options: Any) -> socket.socket:
    """Connect to the first address that answers. Each may take its share of the time that is left."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        try:
            connection = _Timed(family, kind, protocol)
        except OSError as error:
            failure = error
            continue
        try:
            _attempt.sockets.add(connection)
            connection.settimeout(_attempt.left() / (len(addresses) - position))
            for option in options:
                connection.setsockopt(*option)
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure


class _Kept:
    """Connections that are not in use, as the library's own queue keeps them: the newest is taken first.

    But without a lock: a child might be forked while another thread holds it, and would wait for it for ever at its end, when the
    library closes what is kept. Each step here is one C call.
    """

    def __init__(self, maxsize: int) -> None:
        self._most = maxsize
        self._connections: deque[Any] = deque()

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        try:
            return self._connections.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, connection: Any, block: bool = False, timeout: float | None = None) -> None:
        if len(self._connections) >= self._most:
            raise queue.Full
        self._connections.append(connection)

    def qsize(self) -> int:
        return len(self._connections)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection
    QueueCls: Any = _Kept


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection
    QueueCls: Any = _Kept


def _tls_context() -> ssl.SSLContext:
    context = create_urllib3_context()
    context.sslsocket_class = _TimedTLS
    return context


def _proxy_tls_context(bundle: str) -> ssl.SSLContext:
    # To this one the library does not add the trusted certificates itself.
    context = _tls_context()
    context.load_verify_locations(**{"capath" if os.path.isdir(bundle) else "cafile": bundle})
    return context


class _Adapter(HTTPAdapter):
    """The library's adapter over connections that keep the deadline. `send` stays its own: test libraries patch it."""

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
            # Those connect by themselves, and have but the library's timeout.
            return super().proxy_manager_for(proxy, **kwargs)
        kwargs["ssl_context"] = _tls_context()
        if proxy.lower().startswith("https"):
            kwargs["proxy_ssl_context"] = _proxy_tls_context(self._bundle)
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        return manager


def _read(raw: Any) -> bytes:
    """The body as it came: inflating it is how a small answer becomes a large one."""
    content = b""
    raw.enforce_content_length = True  # urllib3 1 does not by itself
    # Only the read that finds nothing more tells an answer that broke off from one that is whole.
    while part := raw.read(MAX_REPLY_BYTES + 1 - len(content), decode_content=False):
        content += part
        if len(content) > MAX_REPLY_BYTES:
            raise _TooLarge
    return content


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An `auth=` that adds nothing, and so keeps the library from looking for credentials itself."""
    return request


class Session:
    """Connections to one host. Proxies and certificates of the environment are looked up once."""

    def __init__(self, base_url: str, max_connections: int, certificate: str | None = None) -> None:
        self._target = target_of(base_url)
        self._proxies = {} if is_loopback(base_url) else requests.utils.get_environ_proxies(base_url, no_proxy=None)
        self._bundle_name = next((name for name in _BUNDLES if os.environ.get(name)), None)
        self._bundle = os.environ[self._bundle_name] if self._bundle_name else None
        if certificate is not None:
            self._bundle_name, self._bundle = "the option certificate", certificate
        self._adapter = _Adapter(self._bundle, max_connections, base_url.lower().startswith("https:"))
        self._sockets: WeakSet[socket.socket] = WeakSet()

    def send(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], timeout: float
    ) -> Response | Failure:
        """One attempt, as `Transport.send` promises it."""
        _attempt.begin(timeout, self._sockets)
        try:
            request = requests.Request(method, url, headers=headers, data=body, auth=_no_credentials).prepare()
            if self._bundle is not None and not os.path.exists(self._bundle):
                sentence = f"the CA bundle that {self._bundle_name} names does not exist"
                return Failure("tls", sentence, unsent=True)
            response = self._adapter.send(
                request, stream=True, timeout=min(timeout, _LONGEST), verify=self._bundle or True, proxies=self._proxies
            )
            with response:
                content = _read(response.raw)
                replied = {name.lower(): value for name, value in response.headers.items()}
            return Response(response.status_code, replied, content)
        except Exception as error:
            try:
                return self._explained(error, timeout)
            finally:
                _let_go(error)
                _attempt.failure = None

    def close(self) -> None:
        """Close what is kept, and end attempts that other threads are at: nobody waits for them any more."""
        for connection in list(self._sockets):
            try:
                # Past the TLS layer, whose own objects the other thread is using.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            except (OSError, AttributeError):  # eventlet's sockets are none
                pass
        self._adapter.close()

    def _explained(self, error: Exception, timeout: float) -> Failure:
        kind, what = _diagnosis(error, _attempt.failure, timeout)
        unsent = _attempt.connecting or isinstance(error, (ValueError, ssl.SSLError, requests.ConnectTimeout))
        return Failure(kind, f"{self._target}: {what}", unsent=unsent)


def _let_go(error: BaseException | None) -> None:
    """Forget where it was raised: the library's frames hold its exceptions, which hold the frames, and with them the request's
    body would stay until the next full garbage collection."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def _diagnosis(error: Exception, failure: OSError | None, timeout: float) -> tuple[str, str]:
    """Kind and sentence. Nothing is quoted but what the operating system and the TLS library say."""
    if isinstance(error, _TooLarge) or isinstance(failure, _TooLarge):
        return "too_large", "the answer is larger than 64 KiB"
    if isinstance(failure, TimeoutError) or isinstance(error, requests.Timeout):
        state = "connected" if _attempt.connecting else "a whole answer"
        return "timeout", f"not {state} within {timeout:.3g} s"
    if isinstance(failure, socket.gaierror):
        return "dns", "the host name cannot be resolved"
    if isinstance(failure, ConnectionRefusedError):
        return "refused", "the connection was refused"
    if isinstance(failure, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return "connection", "the connection was closed"
    if isinstance(failure, ssl.SSLError) or isinstance(error, (ssl.SSLError, requests.exceptions.SSLError)):
        reason = getattr(failure, "verify_message", None) or getattr(failure, "reason", None) or "no reason given"
        return "tls", f"no TLS connection ({clean(str(reason))})"
    if failure is not None:
        return "connection", f"the connection broke ({_os_says(failure)})"
    if isinstance(error, requests.exceptions.ProxyError):
        return "connection", "the proxy does not let it through"
    if isinstance(error, ValueError):
        return "protocol", "the request cannot be sent as it is"
    return _of_the_library(error)


def _of_the_library(error: BaseException) -> tuple[str, str]:
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, http.client.HTTPException):
        inner = inner.__context__
    if isinstance(inner, (http.client.RemoteDisconnected, http.client.IncompleteRead)):
        return "connection", "the connection was closed before the answer was whole"
    if inner is not None:
        return "protocol", "the answer is not HTTP"
    return "connection", f"the request failed ({type(error).__name__})"


def _os_says(failure: OSError) -> str:
    return os.strerror(failure.errno) if failure.errno else type(failure).__name__
