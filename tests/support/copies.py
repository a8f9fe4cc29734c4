"""A process that loads a pickle, played within the process of the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch
from weakref import WeakValueDictionary

from agentscope.tracker import copies


@contextmanager
def another_process() -> Iterator[None]:
    """Forget the trackers of this process: pickles that are loaded inside find none."""
    with patch.object(copies, "_known", WeakValueDictionary()), patch.object(copies, "_remade", {}):
        yield
