"""A tracker with a real pipeline and an exporter that keeps its events in a list, without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import agentscope.pipeline.factory
from agentscope import Stats, Tracker, create_tracker
from agentscope.config import Config
from agentscope.events import Event
from agentscope.pipeline.pipeline import Pipeline
from agentscope.protocols.base import Batch, Outcome
from agentscope.tracker.context import current, switch

URL = "http://memory.test"


class Memory:
    """An exporter that delivers everything at once into a list."""

    protocol: str | None = "memory"

    def __init__(self, kept: list[Event]) -> None:
        self._kept = kept

    def export(self, batch: Batch, timeout: float) -> Outcome:
        self._kept.extend(batch.events)
        return Outcome(delivered=[event.seq for event in batch.events], reported=True)

    def warm_up(self) -> None:
        """Do nothing: there is nothing to import."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def decoded(event: Event) -> dict[str, Any]:
    """An event as a flat dictionary, with its payloads parsed strictly."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    told: dict[str, Any] = {name: getattr(event, name) for name in ("type", "run_id", "step_id", "parent_id")}
    for name, value in event.fields.items():
        told[name] = json.loads(value, parse_constant=refuse) if type(value) is bytes else value
    json.dumps(told)  # the rest is plain as well
    return told


class Recording:
    """A tracker, and the events that it has delivered so far."""

    def __init__(self, tracker: Tracker, kept: list[Event], said: list[str]) -> None:
        self.tracker = tracker
        self.raw = kept
        self.said = said
        """The lines about calls that another thread would have logged."""

    def events(self, type_: str | None = None) -> list[dict[str, Any]]:
        """The events so far, in order; optionally of one type."""
        assert self.tracker._pipeline.flush(60).pending == 0
        told = [decoded(event) for event in sorted(self.raw, key=lambda event: event.seq)]
        return [event for event in told if type_ in (None, event["type"])]

    def steps(self) -> list[dict[str, Any]]:
        return self.events("step")

    def step(self) -> dict[str, Any]:
        """The only step."""
        (only,) = self.steps()
        return only

    def parents(self) -> dict[str, str | None]:
        """The name of each step, with the name of its parent."""
        steps = self.steps()
        names = {step["step_id"]: step["name"] for step in steps}
        return {step["name"]: names.get(step["parent_id"], step["parent_id"]) for step in steps}

    def end(self) -> dict[str, Any]:
        """The only end of a run."""
        (only,) = self.events("run.end")
        return only

    @property
    def invalid_calls(self) -> dict[str, int]:
        return dict(self.tracker.stats().invalid_calls)


def balanced(stats: Stats) -> bool:
    """The identity of the ledger."""
    return stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.spooled + stats.pending


def make(kept: list[Event], make_tracker: Callable[..., Tracker] = create_tracker, **options: Any) -> Tracker:
    """A tracker that keeps its events in this list. Trackers with one `api_key` have one destination."""

    def pipeline_for(config: Config) -> Pipeline:
        return Pipeline(config, lambda: Memory(kept), lambda event: event)

    options.setdefault("api_key", f"ask_{uuid4()}")
    options.setdefault("base_url", URL)
    with patch.object(agentscope.pipeline.factory, "pipeline_for", pipeline_for):
        return make_tracker(**options)


@contextmanager
def recorded(**options: Any) -> Iterator[Recording]:
    """A tracker with a destination of its own, in an empty context. At the end its ledger must add up."""
    before = switch(None)
    recording = Recording(make(kept := [], **options), kept, said := [])
    try:
        with patch.object(agentscope.pipeline.pipeline, "say", said.append):
            yield recording
        assert recording.tracker._pipeline.flush(60).pending == 0
        stats = recording.tracker.stats()
        assert balanced(stats), stats
        assert stats.delivered == len(kept)
    finally:
        recording.tracker._pipeline.shutdown(10)
        switch(before)


def current_scope() -> object:
    """The current runs and steps of this context, for a comparison of before and after."""
    return current()
