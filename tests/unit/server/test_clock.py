"""The clock of a receiver."""

from __future__ import annotations

import pytest

from agentscope.server.clock import Clock


def test_the_clock_does_not_jump_with_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    now = Clock()
    before = now()
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert now() >= before
