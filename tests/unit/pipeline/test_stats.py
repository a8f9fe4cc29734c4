"""What delivery costs is counted: requests, bytes, attempts that were repeated, and CPU of the threads that deliver."""

from __future__ import annotations

import threading
import time

from agentscope.pipeline.delivery import Figures
from agentscope.protocols.base import Outcome


def work() -> None:
    """Take some CPU that the clock can tell."""
    before = time.thread_time()
    while time.thread_time() == before:
        sum(range(1000))


def test_requests_and_bytes_and_retries_add_up() -> None:
    figures = Figures()
    figures.note(Outcome(requests=2, sent_bytes=300, cpu_seconds=0.5), retried=False)
    figures.note(Outcome(requests=1, sent_bytes=50), retried=True)
    assert (figures.requests, figures.sent_bytes, figures.retries, figures.cpu_seconds) == (3, 350, 1, 0.5)


def test_cpu_is_counted_from_the_begin_and_only_once() -> None:
    figures = Figures()
    work()
    before = time.thread_time()
    figures.begin()
    assert figures.cpu_seconds == 0.0
    work()
    figures.count_cpu()
    figures.count_cpu()
    assert 0 < figures.cpu_seconds <= time.thread_time() - before


def test_a_thread_that_did_not_begin_is_not_counted_and_the_next_one_that_does_is() -> None:
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
