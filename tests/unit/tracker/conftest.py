"""A tracker whose events are kept in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentscope import Tracker
from tests.support.recording import Recording, recorded


@pytest.fixture
def recording() -> Iterator[Recording]:
    with recorded() as found:
        yield found


@pytest.fixture
def tracker(recording: Recording) -> Iterator[Tracker]:
    """The tracker, inside a run."""
    with recording.tracker.track_run("agent"):
        yield recording.tracker
