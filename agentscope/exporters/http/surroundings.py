"""The parts of the process that make requests, as they were when the transport was made.

Tests of an application replace some of them for a while: sockets that refuse, recorders of HTTP calls, variables, file systems.
Requests are made in the background, so that the first one may meet a replacement that is not meant for it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class Surroundings(NamedTuple):
    """The functions and certificates that connections are made with."""

    socket: type[socket.socket]
    resolve: Callable[..., Any]
    exists: Callable[[str], bool]
    bundle_name: str | None
    """The variable that names other certificates to trust."""
    bundle: str | None

    @classmethod
    def now(cls, environ: Mapping[str, str] | None = None) -> Surroundings:
        """Return the present surroundings."""
        env = os.environ if environ is None else environ
        name = next((name for name in _BUNDLES if env.get(name)), None)
        # A mock in the place of the class cannot be a base of ours.
        kind = socket.socket if isinstance(socket.socket, type) else socket.SocketType.__subclasses__()[0]
        return cls(kind, socket.getaddrinfo, os.path.exists, name, env[name] if name else None)


def defined_by(module: str, name: str) -> Any:
    """Return the class that a module defined under this name, if a subclass of it has taken its place."""
    found = getattr(import_module(module), name)
    return next((kind for kind in found.__mro__ if (kind.__module__, kind.__qualname__) == (module, name)), found)
