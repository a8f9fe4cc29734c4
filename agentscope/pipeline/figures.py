"""What delivery costs, for `tracker.stats()`."""

from __future__ import annotations

import time
from _thread import get_ident

from ..protocols import Outcome


class Figures:
    """Counted by the thread that delivers; any other may read."""

    def __init__(self) -> None:
        self.requests = 0
        """That were sent, answered or not."""
        self.sent_bytes = 0
        """Of their bodies, as they were sent."""
        self.retries = 0
        """Attempts after one that got nowhere."""
        self.cpu_seconds = 0.0
        """Of all threads that deliver."""
        self._thread = 0
        self._counted = 0.0

    def note(self, outcome: Outcome, retried: bool) -> None:
        """An attempt was made."""
        self.requests += outcome.requests
        self.sent_bytes += outcome.sent_bytes
        self.retries += retried
        self.cpu_seconds += outcome.cpu_seconds
        self.count_cpu()

    def begin(self) -> None:
        """This thread delivers from now on."""
        self._thread, self._counted = get_ident(), time.thread_time()

    def count_cpu(self) -> None:
        """Count what this thread has spent since it was counted before."""
        now = time.thread_time()
        if self._thread == get_ident():
            self.cpu_seconds += now - self._counted
            self._counted = now
