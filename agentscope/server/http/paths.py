"""Ids in the paths of addresses: an id may hold slashes, percent signs, or be a name that clients take out of a path."""

from __future__ import annotations

from urllib.parse import quote, unquote

from starlette.convertors import Convertor, register_url_convertor
from starlette.types import ASGIApp, Receive, Scope, Send

_UNNAMEABLE = frozenset({".", ".."})
"""Ids that no path can hold: clients resolve these parts of a path themselves, percent-encoded too."""


def address_of(start: str, run_id: str, rest: str = "") -> str:
    """Return an address below `start` that names a run: in its path, or in the parameter `id` where no path can."""
    if run_id in _UNNAMEABLE:
        return f"{start}/{rest}?id={run_id}"
    return f"{start}/{quote(run_id, safe='')}{rest}"


class WholeParts:
    """ASGI middleware: matches routes with the parts of a path as they were sent.

    A slash that was sent as `%2F` is part of an id, and one that was sent as it is separates.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path") or quote(scope.get("path", "")).encode()
        if b"%" in raw:
            parts = raw.partition(b"?")[0].decode("latin-1").split("/")
            scope["path"] = "/".join(map(_IDS.to_string, map(unquote, parts)))
        await self._app(scope, receive, send)


class _Ids(Convertor[str]):
    """Ids as they are in a path for the time of the match: a line end, which no route matches, is encoded as well."""

    regex = ".*"

    def convert(self, value: str) -> str:
        return value.replace("%2F", "/").replace("%0A", "\n").replace("%25", "%")

    def to_string(self, value: str) -> str:
        return value.replace("%", "%25").replace("\n", "%0A").replace("/", "%2F")


_IDS = _Ids()
register_url_convertor("id", _IDS)
