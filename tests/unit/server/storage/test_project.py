"""A route works in the project of its request, without naming it."""

from __future__ import annotations

import threading
from contextvars import Context, copy_context
from typing import Any

import pytest

from agentscope.server.storage.base import DEFAULT_PROJECT, RunQuery, Store
from agentscope.server.storage.project import PROJECT, of_request

from .memory_store import MemoryStore


class Recorded(MemoryStore):
    """Notes the project of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.projects: list[str] = []

    def list_runs(self, query: RunQuery, *, project: str = DEFAULT_PROJECT) -> Any:
        self.projects.append(project)
        return super().list_runs(query, project=project)


@pytest.fixture
def store() -> Recorded:
    return Recorded()


def in_project(project: str | None, store: Store) -> None:
    if project is not None:
        PROJECT.set(project)
    of_request(store).list_runs(RunQuery())


@pytest.mark.parametrize(("project", "seen"), [("team", "team"), (DEFAULT_PROJECT, DEFAULT_PROJECT), (None, "")])
def test_a_call_is_made_in_the_project_of_the_request_and_in_none_before_its_key_was_checked(
    store: Recorded, project: str | None, seen: str
) -> None:
    Context().run(in_project, project, store)
    assert store.projects == [seen]


def test_a_thread_of_the_request_works_in_its_project(store: Recorded) -> None:
    def request() -> None:
        PROJECT.set("team")
        thread = threading.Thread(target=copy_context().run, args=(in_project, None, store))
        thread.start()
        thread.join()

    Context().run(request)
    assert store.projects == ["team"]
