"""What holds for every unit test: no end is in a hurry, for a busy machine may put a thread of the test to sleep."""

from __future__ import annotations

import pytest

from tests.support.patient import be_patient


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch.setattr, lambda *_: None)
