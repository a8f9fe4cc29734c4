"""The store as one request sees it: the project of its key, and no other."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import Any, cast

from .base import DEFAULT_PROJECT, Store

PROJECT: ContextVar[str] = ContextVar("agentscope_project", default="")
"""The project of the key of the present request. Until its key was checked, an empty one, in which nothing is stored."""


def of_request(store: Store) -> Store:
    """Return a store whose methods work in the project of the request that calls them, also in the threads of that request.

    A route cannot forget the project, and so cannot show or change the runs of others.
    """
    return cast("Store", _OfRequest(store))


class _OfRequest:
    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        method, project = getattr(self._store, name), PROJECT.get()
        # The default is left to the store, so that one without projects works for a receiver without them.
        return method if project == DEFAULT_PROJECT else partial(method, project=project)
