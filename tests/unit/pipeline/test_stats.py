"""The costs of delivery: requests, bytes, repeated attempts, and CPU time of the threads that deliver."""

from __future__ import annotations

import threading
import time

from agentscope.pipeline.delivery import Figures
from agentscope.protocols.base import Outcome


def work() -> None:
    """Use enough CPU time for the clock to show."""
    before = time.thread_time()
    while time.thread_time() == before:
        sum(range(1000))


def test_requests_and_bytes_and_retries_add_up() -> None:
    figures = Figures()
    figures.note(Outcome(requests=2, sent_bytes=300, cpu_seconds=0.5), retried=False)
    figures.note(Outcome(requests=1, sent_bytes=50), retried=True)
    assert (figures.requests, figures.sent_bytes, figures.retries, figures.cpu_seconds) == (3, 350, 1, 0.5)


def test_cpu_is_counted_from_begin_on_and_once() -> None:
    figures = Figures()
    work()
    before = time.thread_time()
    figures.begin()
    assert figures.cpu_seconds == 0.0
    work()
    figures.count_cpu()
    figures.count_cpu()
    assert 0 < figures.cpu_seconds <= time.thread_time() - before


def test_only_the_cpu_of_the_thread_that_began_last_is_counted() -> None:
    figures = Figures()
    figures.begin()

    def follow() -> None:
        work()
        figures.count_cpu()
        assert figures.cpu_seconds == 0.0
        figures.begin()
        work()
        figures.count_cpu()

    thread = threading.Thread(target=follow)
    thread.start()
    thread.join()
    assert figures.cpu_seconds > 0
