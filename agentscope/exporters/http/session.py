"""The requests library, tamed: one deadline for a whole attempt, and a bound on what is read.

Requests go through an adapter and not through `requests.Session`, which adds only what would have to be turned off
again: redirects, cookies, `.netrc`, credentials and settings of the environment.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

import requests

from agentscope.protocols.base import Failure, Response
from agentscope.protocols.responses import clean

from .deadline import LONGEST, MAX_REPLY_BYTES, Adapter, TooLarge, attempt, timed
from .surroundings import Surroundings
from .url import is_loopback, target_of


def _read(raw: Any) -> bytes:
    """Return the body as it came. It is not inflated, since a small answer can inflate to a large one."""
    content = b""
    raw.enforce_content_length = True  # urllib3 1 does not by itself
    # Only a read at the end of the body detects an answer that broke off.
    while part := raw.read(MAX_REPLY_BYTES + 1 - len(content), decode_content=False):
        content += part
        if len(content) > MAX_REPLY_BYTES:
            raise TooLarge
    return content


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An `auth=` that adds nothing, and so keeps the library from looking for credentials itself."""
    return request


class Session:
    """Connections to one host. Proxies of the environment are looked up once."""

    def __init__(
        self,
        base_url: str,
        max_connections: int,
        certificate: str | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._target = target_of(base_url)
        self._proxies = {} if is_loopback(base_url) else requests.utils.get_environ_proxies(base_url, no_proxy=None)
        self._proxy = (requests.utils.select_proxy(base_url, self._proxies) or "").lower()
        self._take(surroundings or Surroundings.now())
        self._bundle_name, self._bundle = self._surroundings.bundle_name, self._surroundings.bundle
        if certificate is not None:
            self._bundle_name, self._bundle = "the option certificate", certificate
        tls = base_url.lower().startswith("https:")
        if not tls and not self._proxy.startswith("https:"):
            self._bundle = None  # nothing is encrypted, and a bundle that is gone does not matter
        self._adapter = Adapter(self._bundle, max_connections, tls)
        self._sockets: WeakSet[socket.socket] = WeakSet()

    def _take(self, surroundings: Surroundings) -> None:
        self._surroundings, self._socket = surroundings, timed(surroundings.socket)

    def _is_changed(self, surroundings: Surroundings) -> bool:
        own = self._surroundings
        return surroundings.socket is not own.socket or surroundings.resolve is not own.resolve

    def send(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], timeout: float
    ) -> Response | Failure:
        """Make one attempt, as `Transport.send` describes it."""
        attempt.begin(timeout, self._sockets)
        attempt.socket, attempt.resolve = self._socket, self._surroundings.resolve
        try:
            request = requests.Request(method, url, headers=headers, data=body, auth=_no_credentials).prepare()
            if self._bundle is not None and not self._surroundings.exists(self._bundle):
                sentence = f"the CA bundle that {self._bundle_name} names does not exist"
                return Failure("tls", sentence, unsent=True)
            response = self._adapter.send(
                request, stream=True, timeout=min(timeout, LONGEST), verify=self._bundle or True, proxies=self._proxies
            )
            with response:
                content = _read(response.raw)
                replied = {name.lower(): value for name, value in response.headers.items()}
            return Response(response.status_code, replied, content)
        except Exception as error:
            if not isinstance(error, (OSError, ValueError)) and self._is_changed(now := Surroundings.now()):
                # Neither a network nor the HTTP library raises it: the sockets refuse to be used, as in tests that forbid them.
                self._take(now)
                return self.send(method, url, body, headers, timeout)
            try:
                return self._explained(error, timeout)
            finally:
                _let_go(error)
                attempt.failure = None

    def close(self) -> None:
        """Close idle connections, and abort the attempts of other threads."""
        for connection in list(self._sockets):
            try:
                # Past the TLS layer, whose own objects the other thread is using.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            except (OSError, AttributeError):  # eventlet's sockets are none
                pass
        self._adapter.close()

    def _explained(self, error: Exception, timeout: float) -> Failure:
        kind, what = _diagnosis(error, attempt.failure, timeout)
        if isinstance(error, requests.exceptions.InvalidSchema) and self._proxy.startswith("socks"):
            kind, what = "setup", "the SOCKS proxy of the environment needs PySocks: pip install pysocks"
        unsent = attempt.connecting or isinstance(error, (ValueError, ssl.SSLError, requests.ConnectTimeout))
        return Failure(kind, f"{self._target}: {what}", unsent=unsent)


def _let_go(error: BaseException | None) -> None:
    """Remove the tracebacks. Frames and exceptions of the library refer to each other, which would keep the body in memory."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def _diagnosis(error: Exception, failure: OSError | None, timeout: float) -> tuple[str, str]:
    """Return the kind of a failure and a sentence, which quotes only the operating system and the TLS library."""
    if isinstance(error, TooLarge) or isinstance(failure, TooLarge):
        return "too_large", "the answer is larger than 64 KiB"
    if isinstance(failure, TimeoutError) or isinstance(error, requests.Timeout):
        state = "connected" if attempt.connecting else "a whole answer"
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
