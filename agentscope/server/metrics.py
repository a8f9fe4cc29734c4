"""The metrics of a receiver, in the text format of Prometheus.

https://prometheus.io/docs/instrumenting/exposition_formats/ describes it. No label holds a value from outside.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
except ImportError as problem:
    from .extra import missing_extra

    raise missing_extra(problem) from problem

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentscope._version import __version__

from .http.gate import PROBES
from .storage.base import IngestCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
"""The label of requests to no route, and of unknown methods."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one application, and gauges that are read when they are asked for."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        labels = ("route", "method", "status")
        self._requests = Counter("agentscope_requests", "Requests that were answered.", labels, registry=registry)
        self._seconds = Histogram(
            "agentscope_request_seconds",
            "Time from the head of a request to the end of its answer.",
            ("route", "method"),
            registry=registry,
            buckets=_SECONDS,
        )
        self._events = Counter(
            "agentscope_events", "Events that came in, by what became of them.", ("result",), registry=registry
        )
        for result in ("accepted", "duplicate", "conflict", "rejected"):
            self._events.labels(result)
        self._wrong_keys = Counter("agentscope_wrong_keys", "Wrong keys that came.", registry=registry)
        self._under_way = Gauge("agentscope_requests_under_way", "Requests that are being answered.", registry=registry)
        Gauge("agentscope_info", "The version of the receiver.", ("version",), registry=registry).labels(
            __version__
        ).set(1)
        ProcessCollector(registry=registry)
        self._routes: dict[Any, str] = {path: path for path in PROBES}

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value `read` returns."""
        Gauge(f"agentscope_{name}", text, registry=self._registry).set_function(read)

    def name_routes(self, routes: Sequence[Route]) -> None:
        """Give requests the label of the route that answers them."""
        for route in routes:
            self._routes.setdefault(route.endpoint, route.path)

    def came(self, counts: IngestCounts, rejected: int) -> None:
        """Count the events of a batch."""
        numbers = (counts.accepted, counts.duplicates - counts.conflicts, counts.conflicts, rejected)
        for result, number in zip(("accepted", "duplicate", "conflict", "rejected"), numbers, strict=True):
            self._events.labels(result).inc(number)

    def wrong_key(self) -> None:
        """Count a wrong key."""
        self._wrong_keys.inc()

    def text(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)

    def measured(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application: its requests are counted and timed."""

        async def measure(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            began = time.perf_counter()
            status = 0

            async def send_measured(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            self._under_way.inc()
            try:
                await app(scope, receive, send_measured)
            except asyncio.CancelledError:
                status = status or 499
                raise
            finally:
                self._under_way.dec()
                route = self._routes.get(scope.get("endpoint"), OTHER)
                method = scope["method"] if scope["method"] in _METHODS else OTHER
                self._requests.labels(route, method, status or 500).inc()
                self._seconds.labels(route, method).observe(time.perf_counter() - began)

        return measure


def add_disk_gauges(metrics: Metrics, path: Path) -> None:
    """Add the sizes of a database file and of its log, and the room that is left beside it."""
    wal = path.with_name(f"{path.name}-wal")
    metrics.gauge("database_bytes", "Size of the database file.", lambda: _size(path))
    metrics.gauge("database_log_bytes", "Size of the write-ahead log of the database.", lambda: _size(wal))
    metrics.gauge("disk_free_bytes", "Room on the disk of the database.", lambda: shutil.disk_usage(path.parent).free)


def _size(path: Path) -> float:
    try:
        return path.stat().st_size
    except OSError:
        return 0.0
