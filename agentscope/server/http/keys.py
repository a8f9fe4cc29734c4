"""The keys of a receiver: their roles, the file that names them, and the sessions of people who logged in with one."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import Scope

from agentscope.errors import ConfigurationError
from agentscope.protocols.headers import AGENTSCOPE_KEY, VOLTAGENT_SECRET_KEY
from agentscope.server.storage.base import DEFAULT_PROJECT
from agentscope.server.storage.project import PROJECT

from .limits import Refused

INGEST, READ, ADMIN = "ingest", "read", "admin"
ROLES = (INGEST, READ, ADMIN)
"""The roles of a key. `ingest` sends events, `read` reads, `admin` does both and deletes."""
SESSION_SECONDS = 12 * 3600.0
"""Age at which the session of a login ends."""

_KEY_HEADERS = (AGENTSCOPE_KEY.lower(), "x-api-key", VOLTAGENT_SECRET_KEY.lower())
_MAX_SESSIONS = 10_000
_MAX_FILE = 1 << 20
_PRINTABLE = range(0x21, 0x7F)


@dataclass(frozen=True)
class Key:
    """One key: the name by which it is logged, its role, and the project that its events belong to."""

    name: str
    role: str
    project: str = DEFAULT_PROJECT
    secret: bytes = field(default=b"", repr=False)

    def may(self, role: str) -> bool:
        """Return whether the key has a role. `admin` includes the others."""
        return self.role in (role, ADMIN)


ANYBODY = Key("", ADMIN)
"""The key of every request to a receiver without keys."""


class Keys:
    """Checks API keys and browser sessions. Without keys any non-empty secret is accepted, and all may be read.

    `api_key` is a key with every role for the project "default"; `named` are those of a file.
    """

    def __init__(
        self, api_key: str | None = None, named: Iterable[Key] = (), *, now: Callable[[], float] = time.monotonic
    ) -> None:
        own = [] if api_key is None else [Key("api_key", ADMIN, secret=api_key.encode())]
        self._keys = (*own, *named)
        self._sessions: dict[bytes, tuple[float, Key]] = {}
        self._now = now

    def __repr__(self) -> str:
        return f"Keys(required={self.required})"

    @property
    def required(self) -> bool:
        """True if the receiver has a key."""
        return bool(self._keys)

    @property
    def of_projects(self) -> bool:
        """True if the receiver has keys of more than one project."""
        return len({key.project for key in self._keys}) > 1

    def find(self, secret: bytes) -> Key | None:
        """Return the key with this secret. Takes the same time for any wrong one."""
        if not self._keys:
            return ANYBODY if secret else None
        found = [key for key in self._keys if compare_digest(secret, key.secret)]
        return found[0] if found else None

    def given_by(self, headers: Headers) -> Key | None:
        """Return the key that a request carries, in any header that clients of the protocols use; None for a wrong one.

        `Authorization: Bearer <key>`, or `Basic` with the key as password (Langfuse), `X-Agentscope-Key`, `x-api-key`
        (LangSmith) or `X-Secret-Key` (VoltAgent).
        """
        found = (self.find(secret) for secret in secrets_in(headers))
        return next((key for key in found if key is not None), None)

    def sender(self, headers: Headers) -> Key:
        """Authorise a request to send events, and select the project of its key. Returns the key.

        A receiver without keys needs none. Raises `Refused`.
        """
        key = self.given_by(headers) if self._keys else ANYBODY
        if key is None:
            raise Refused(401, f"Send the receiver's key, as Authorization: Bearer KEY or {AGENTSCOPE_KEY}: KEY.")
        if not key.may(INGEST):
            raise Refused(403, f"The key {key.name!r} may not send events: its role is {key.role}.")
        PROJECT.set(key.project)
        return key

    def reader(self, scope: Scope) -> Key | None:
        """Authorise a request to read, and select the project of its key. Returns the key; None if the request may not read.

        The key is that of a header, or of the login that a cookie names. An `Authorization` that holds no key may be that of
        a proxy, which the browser sends with each request.
        """
        headers = Headers(scope=scope)
        key: Key | None
        if not self._keys:
            key = ANYBODY
        elif (key := self.given_by(headers)) is None and not any(name in headers for name in _KEY_HEADERS):
            self._forget_ended()
            _, key = self._sessions.get(_digest(session_token(scope)), (0.0, None))
        if key is None or not key.may(READ):
            return None
        PROJECT.set(key.project)
        return key

    def may_read(self, scope: Scope) -> bool:
        """Return whether a request may read."""
        return self.reader(scope) is not None

    def open_session(self, key: Key) -> str:
        """Begin the session of a login. Returns its token, of which the receiver keeps a digest only."""
        self._forget_ended()
        while len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token)] = (self._now() + SESSION_SECONDS, key)
        return token

    def end_session(self, scope: Scope) -> None:
        """End the session that the cookie of a request names."""
        self._sessions.pop(_digest(session_token(scope)), None)

    def _forget_ended(self) -> None:
        now = self._now()
        for digest, (end, _) in [*self._sessions.items()]:  # the oldest first
            if end > now:
                break
            del self._sessions[digest]


def secrets_in(headers: Headers) -> list[bytes]:
    """Return every secret that a request carries. Starlette reads the bytes of headers as Latin-1."""
    found = [headers.get(name, "").encode("latin-1") for name in _KEY_HEADERS]
    return [*found, *map(_password, headers.getlist("authorization"))]


def carries_key(headers: Headers) -> bool:
    """Return whether a request has any header for a key."""
    return "authorization" in headers or any(name in headers for name in _KEY_HEADERS)


def session_cookie(token: str, scope: Scope, prefix: str) -> str:
    """Return the Set-Cookie value of a session; an empty token deletes the cookie."""
    age = int(SESSION_SECONDS) if token else 0
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    return f"{_cookie_name(scope)}={token}; Path={prefix}/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}"


def session_token(scope: Scope) -> str:
    """Return the session token in the cookies of a request, or an empty text."""
    for part in Headers(scope=scope).get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == _cookie_name(scope):
            return value
    return ""


def read_keys(path: str | os.PathLike[str]) -> list[Key]:
    """Read a file of keys.

    Each line has a name, a role, a project and a key, separated by blanks; `#` begins a comment line. Raises
    `ConfigurationError` for a file that others may read or write, and for a line that is wrong, without showing the key.
    """
    file = Path(path)
    found = file.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
        raise ConfigurationError(f"{file} holds keys and may be read by others: run chmod 600 on it.")
    if found.st_size > _MAX_FILE:
        raise ConfigurationError(f"{file} is too large for a file of keys.")
    keys: list[Key] = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith(b"#"):
            keys.append(_key(line.split(), f"{file}, line {number}", keys))
    if not keys:
        raise ConfigurationError(f"{file} has no key; write lines of name, role, project and key.")
    return keys


def _key(words: list[bytes], place: str, before: list[Key]) -> Key:
    if len(words) != 4 or not all(byte in _PRINTABLE for word in words for byte in word):
        raise ConfigurationError(f"{place}: write a name, a role, a project and a key, separated by blanks.")
    name, role, project = (word.decode("ascii") for word in words[:3])
    if role not in ROLES:
        raise ConfigurationError(f"{place}: the role is one of {', '.join(ROLES)}.")
    if any(key.name == name or key.secret == words[3] for key in before):
        raise ConfigurationError(f"{place}: the name or the key is that of an earlier line.")
    return Key(name, role, project, words[3])


def _digest(token: str) -> bytes:
    return sha256(token.encode("latin-1")).digest()


def _password(authorization: str) -> bytes:
    """Return the secret in an `Authorization` header; empty for an unknown scheme."""
    scheme, _, rest = authorization.strip().partition(" ")
    value = rest.strip().encode("latin-1")
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _cookie_name(scope: Scope) -> str:
    """Return the name of the session cookie. It holds the port, since browsers share cookies between the ports of a host."""
    server = scope.get("server")
    return f"agentscope_{server[1] if server else 0}"
