"""One HTTP attempt at a backend, bounded in time and in size, with failures that are safe to show.

The HTTP library is imported with the first request, in `session`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING

from agentscope._version import __version__
from agentscope.protocols.base import Failure, Response

from .surroundings import Surroundings
from .url import target_of

if TYPE_CHECKING:
    from .session import Session

USER_AGENT = f"agentscope-python/{__version__}"


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"(?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?")


class Transport:
    """Sends requests to one backend over a few kept connections. Safe to share between threads, not over a fork.

    base_url: `http://` or `https://`, with or without a path.
    headers: sent with each request; the place for keys. They show in no repr, log or failure.
    max_connections: how many idle connections are kept. certificate: a file of certificates to trust instead of the usual.

    Redirects are not followed, cookies neither kept nor sent, `.netrc` is not read. Proxies of the environment are used
    for all hosts but this one, and `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE` and `SSL_CERT_FILE` name other certificates to
    trust; nothing turns verification off. The transport keeps the sockets and the certificates that it was made with.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        max_connections: int = 4,
        user_agent: str = USER_AGENT,
        certificate: str | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"User-Agent": user_agent, "Accept": "application/json", **headers}
        self._max_connections = max_connections
        self._certificate = certificate
        self._surroundings = Surroundings.now()
        self._lock = Lock()
        self._session: Session | None = None

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] = MappingProxyType({}),
        timeout: float = 10.0,
    ) -> Response | Failure:
        """Make one attempt and return the answer, whatever its status, or why there is none.

        path: what follows the base URL, already quoted. headers: added to those of the transport.
        timeout: seconds for all of it, from connecting to the last byte of the answer. Only the look-up of the host
        name is outside of it: the system's resolver has its own limits.

        A failure is returned and not raised, so that no traceback or chain of exceptions can hold the headers; its
        sentence holds neither key, nor path, nor payload, nor control characters. An answer larger than 64 KiB is a
        failure.
        """
        if not timeout > 0:
            return Failure("timeout", "no time was left to send", unsent=True)
        merged = {**self._headers, **headers, "Accept-Encoding": "identity"}
        # The library's own complaint about a header quotes it, and so the key.
        wrong = next((name for name, value in merged.items() if not _fits(name, value)), None)
        if wrong is not None:
            shown = wrong if _HEADER_NAME.fullmatch(str(wrong)) else "with an odd name"
            return Failure("protocol", f"the header {shown} cannot be sent as it is", unsent=True)
        return self._opened().send(method, self._base_url + path, body, merged, timeout)

    def close(self) -> None:
        """Close idle connections, and abort attempts in progress. A later `send` opens new ones."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def warm_up(self) -> None:
        """Import the HTTP library now instead of with the first request."""
        self._opened()
        "host".encode("idna")  # the resolver would import this codec with the first look-up

    def __repr__(self) -> str:
        return f"<Transport to {target_of(self._base_url)}>"

    def _opened(self) -> Session:
        with self._lock:
            if self._session is None:
                from .session import Session

                self._session = Session(self._base_url, self._max_connections, self._certificate, self._surroundings)
            return self._session


def _fits(name: object, value: object) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, str)
        and _HEADER_NAME.fullmatch(name) is not None
        and _HEADER_VALUE.fullmatch(value) is not None
    )
