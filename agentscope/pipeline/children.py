"""Processes that end without atexit's functions: the children of process pools, which end by `os._exit`.

Each kind has a place of its own where it calls others before it ends. None of the libraries is imported here: who is their child
has imported them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable


def register(stop: Callable[[], None]) -> None:
    """Have `stop` called at the end of this process, if it is such a child. Called once a process."""
    if _is_child("multiprocessing.process") or _is_child("billiard.process"):
        from multiprocessing.util import Finalize  # billiard's own is the same

        Finalize(None, stop, exitpriority=10)
    celery = sys.modules.get("celery.signals")
    if celery is not None:
        # The children of its pool don't even come that far. It knows what it is given by its name: a second time is no other.
        celery.worker_process_shutdown.connect(
            lambda **_: stop(), weak=False, dispatch_uid=f"{__package__}.{stop.__name__}"
        )


def _is_child(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and type(module.current_process()).__name__ != "_MainProcess"
