"""The SQLite store passes the conformance suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentscope.server.storage.sqlite.store import SQLiteStore
from tests.unit.server.storage.conformance import DurableConformance, OpenStore


class TestSQLiteStore(DurableConformance):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return lambda: SQLiteStore(tmp_path / "runs.db")

    def let_pass(self, store: SQLiteStore, seconds: float) -> None:
        before = store._now
        store._now = lambda: before() + seconds
