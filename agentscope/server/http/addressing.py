"""The names, pages and proxies by which a receiver is reached, and the address that a request was sent to."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, NamedTuple

from starlette.datastructures import Headers

from agentscope.errors import ConfigurationError

ANY = "*"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_.-]{1,253})(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]{{0,30}})://({_HOST.pattern})")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]{1,100}){1,8}")
_DEFAULT_PORTS = {"http": "80", "https": "443"}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Frame(NamedTuple):
    """The parts of a page that depend on the request and not on what is shown."""

    prefix: str = ""
    """The path in front of every address of the receiver, as the browser sees it; usually empty."""
    has_session: bool = False
    """True if the request carries the cookie of a login."""


NO_FRAME = Frame()
FRAME: ContextVar[Frame] = ContextVar("agentscope_frame", default=NO_FRAME)
"""The frame of the present request."""


class Addressing:
    """The checked options.

    `hosts` are names with or without a port; a name without one is allowed at every port. `origins` are origins of pages
    that may send events. "*" in either allows all, and needs a key. `proxies` are addresses or networks whose
    `X-Forwarded-*` headers are believed. `root_path` is the path in front of every address. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        proxies: Iterable[str] = (),
        root_path: str = "",
        *,
        has_key: bool = True,
    ) -> None:
        self.hosts = tuple(map(_checked_host, hosts))
        self.origins = tuple(map(_checked_origin, origins))
        self.proxies = tuple(map(_network, proxies))
        self.root_path = _checked_prefix(root_path)
        for option, values in (("allow-host", self.hosts), ("allow-origin", self.origins)):
            if ANY in values and not has_key:
                raise ConfigurationError(f"{option} {ANY!r} is for a receiver with a key; name each one, or set a key.")
        self._names = frozenset(self.hosts)

    def serves(self, host: str, scope: Any) -> bool:
        """Return whether a value of the Host header names this receiver.

        The names of loopback do at any port, since a port may be forwarded, and so does the address at which the connection
        arrived: a rebound DNS name cannot look like either.
        """
        host = host.lower()
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        return ANY in self._names or found[1] in _LOOPBACK or self._is_named(host) or host == _address(scope)

    def is_own_origin(self, origin: str, host: str, scope: Any) -> bool:
        """Return whether an origin is that of the receiver's own pages, in a request to `host`.

        A page on another port of an allowed host is another program's.
        """
        found = _ORIGIN.fullmatch(origin.lower())
        if found is None or found[1] not in _DEFAULT_PORTS:
            return False
        scheme, origin_host, name, port = found.groups()
        own_port = _own_port(scope)
        is_explicit = origin_host in self._names or (name in self._names and port in (None, own_port))
        is_same = _with_port(origin_host, scheme) == _with_port(host.lower(), scheme)
        if scheme == scope.get("scheme", "http"):
            is_loopback = name in _LOOPBACK and (port or _DEFAULT_PORTS[scheme]) == own_port
            return is_same or is_explicit or is_loopback or origin_host == _address(scope)
        # A proxy that is not known to be one has taken TLS off.
        return is_explicit or (is_same and (ANY in self._names or name in self._names))

    def may_send(self, origin: str) -> bool:
        """Return whether pages of an origin may send events."""
        return ANY in self.origins or origin.lower() in self.origins

    def resolve(self, scope: Any) -> str:
        """Put the outer address into the scope of a request, and take the prefix off its path. Returns the prefix.

        `X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix` are believed only where the connection comes from a proxy of the
        list. Of several values the last one is the nearest proxy's.
        """
        prefix = self.root_path
        if self.proxies and self._is_proxy((scope.get("client") or ("", 0))[0]):
            headers = Headers(scope=scope)
            scope["client"] = (self._client(headers.getlist("x-forwarded-for"), scope["client"][0]), 0)
            scheme = _last(headers, "x-forwarded-proto").lower()
            if scheme in _DEFAULT_PORTS:
                scope["scheme"] = scheme
            host = _last(headers, "x-forwarded-host")
            if host:
                others = [(name, value) for name, value in scope["headers"] if name != b"host"]
                scope["headers"] = [(b"host", host.encode("latin-1")), *others]
            given = _last(headers, "x-forwarded-prefix").rstrip("/")
            if not prefix and _PREFIX.fullmatch(given):
                prefix = given
        path = scope["path"]
        if prefix and (path == prefix or path.startswith(f"{prefix}/")):
            # The proxy has not taken it off.
            scope["path"] = path[len(prefix) :] or "/"
            scope["raw_path"] = (scope.get("raw_path") or b"")[len(prefix) :] or b"/"
        return prefix

    def _is_named(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        return found is not None and (host in self._names or found[1] in self._names)

    def _is_proxy(self, address: str) -> bool:
        found = _ip(address)
        return found is not None and any(found in network for network in self.proxies)

    def _client(self, forwarded: list[str], peer: str) -> str:
        """Return the nearest address that is no proxy of the list."""
        for part in reversed(",".join(forwarded).split(",")):
            found = _ip(part.strip())
            if found is None:
                break
            peer = str(found)
            if not self._is_proxy(peer):
                break
        return peer


def bracketed(host: str) -> str:
    """Put an IPv6 address into the brackets that it has in a URL."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def _address(scope: Any) -> str | None:
    """Return the Host value of the address at which a connection arrived."""
    server = scope.get("server")
    found = _ip(server[0]) if server and server[1] is not None else None
    return None if found is None else f"{bracketed(str(found))}:{server[1]}"


def _own_port(scope: Any) -> str | None:
    server = scope.get("server")
    return str(server[1]) if server else None


def _with_port(host: str, scheme: str) -> str:
    found = _HOST.fullmatch(host)
    return f"{found[1]}:{found[2] or _DEFAULT_PORTS[scheme]}" if found else ""


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address, with or without a port. One of IPv4 inside IPv6 becomes that of IPv4."""
    found = re.fullmatch(r"\[([^\]]*)\](?::\d+)?|([0-9.]+):\d+", text)
    try:
        address = ipaddress.ip_address(text if found is None else found[1] or found[2])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _last(headers: Headers, name: str) -> str:
    return ",".join(headers.getlist(name)).rpartition(",")[2].strip()


def _checked_host(name: str) -> str:
    host = bracketed(name.strip().lower())
    if host != ANY and not _HOST.fullmatch(host):
        raise ConfigurationError(f"allow-host takes a name such as traces.example.com or box:8000, not {name!r}.")
    return host


def _checked_origin(origin: str) -> str:
    found = origin.strip().lower().rstrip("/")
    if found != ANY and not _ORIGIN.fullmatch(found):
        raise ConfigurationError(f"allow-origin takes an origin such as https://app.example.com, not {origin!r}.")
    return found


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ConfigurationError(
            f"trusted-proxy takes an address or a network such as 10.0.0.0/8, not {text!r}."
        ) from None


def _checked_prefix(text: str) -> str:
    prefix = text.rstrip("/")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(f"root-path takes a path such as /agentscope, not {text!r}.")
    return prefix
