"""The fixture of every unit test: limits of a shutdown are long, because a busy machine may delay any thread."""

from __future__ import annotations

import pytest

from tests.support.patient import be_patient


@pytest.fixture(autouse=True)
def _long_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch.setattr, lambda *_: None)
