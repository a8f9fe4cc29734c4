"""Several pipelines that look like one: every event goes to all of them, and none waits for another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from agentscope.types import FlushResult, Stats

from .flushing import Deliveries, total
from .ledger import added
from .pipeline import Pipeline
from .process import clock
from .stats import Meter

_SUMS = [field.name for field in fields(Stats) if type(field.default) in (int, float)]
"""The counts of `Stats`."""


class FanOut(Deliveries):
    """Pipelines with a queue, retry and counts each. The counts of the whole are their sums."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        super().__init__(pipelines)
        self._pipelines: tuple[Pipeline, ...] = tuple(pipelines)
        self._first = self._pipelines[0]
        self.open_items = self._first.open_items
        self.sealing = False
        """Payloads are encoded at the call: each pipeline would have to encode them again."""

    @property
    def closed(self) -> bool:
        return self._first.closed

    def preview(self, value: object) -> Any:
        """Return the redacted form of `value`. All destinations get the same."""
        return self._first.preview(value)

    @property
    def meter(self) -> Meter:
        return self._first.meter

    def new_step_id(self) -> str:
        """A UUID."""
        return self._first.new_step_id()

    def put(self, *event: Any, **more: Any) -> bool:
        """Enqueue one event everywhere, as `Pipeline.put` does. True if any of them accepted it."""
        taken = [pipeline.put(*event, **more) for pipeline in self._pipelines]
        return any(taken)

    def watch(self) -> None:
        """Have all workers look at the open steps from now on."""
        for pipeline in self._pipelines:
            pipeline.watch()

    def holds(self, type_: str, run_id: str, step_id: str | None) -> bool:
        """Return whether the event is queued in any pipeline."""
        return any(pipeline.holds(type_, run_id, step_id) for pipeline in self._pipelines)

    def flush(self, timeout: float) -> FlushResult:
        """Wait until every event accepted before is settled in all pipelines, for `timeout` seconds at most."""
        waits = [pipeline.begin_flush() for pipeline in self._pipelines]
        return self._all(waits, timeout)

    def shutdown(self, timeout: float) -> FlushResult:
        """Shut all pipelines down at the same time."""
        for pipeline in self._pipelines:
            pipeline.ask_to_stop(timeout)
        return self._all([pipeline.shutdown for pipeline in self._pipelines], timeout)

    def call_before_stop(self, hook: Callable[[], object]) -> None:
        """Call a hook before the first of the pipelines stops."""
        for pipeline in self._pipelines:
            pipeline.call_before_stop(hook)

    def retire(self) -> None:
        for pipeline in self._pipelines:
            pipeline.retire()

    def invalid_call(self, kind: str, message: str) -> None:
        """Count an invalid call once, and log the first of its kind."""
        self._first.invalid_call(kind, message)

    def stats(self) -> Stats:
        """Return the sums of all pipelines, and the counts of each in `exporters`."""
        each = tuple(pipeline.stats() for pipeline in self._pipelines)
        sums: dict[str, Any] = {name: sum(getattr(stats, name) for stats in each) for name in _SUMS}
        sums.update(calls=each[0].calls, call_seconds=each[0].call_seconds)  # a call counts once for all pipelines
        return Stats(
            **sums,
            dropped=MappingProxyType(added(stats.dropped for stats in each)),
            invalid_calls=MappingProxyType(added(stats.invalid_calls for stats in each)),
            protocol=", ".join(stats.protocol for stats in each if stats.protocol) or None,
            problem=next((stats.problem for stats in each if stats.problem), None),
            exporters=each,
        )

    def _all(self, waits: Iterable[Callable[[float], FlushResult]], timeout: float) -> FlushResult:
        end = clock.monotonic() + timeout
        return total([wait(max(end - clock.monotonic(), 0.0)) for wait in waits])
