"""A VoltAgent SDK with a real pipeline and an exporter that keeps its events in a list, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import agentscope.pipeline.factory
from agentscope.config import Config
from agentscope.events import Event
from agentscope.pipeline.pipeline import Pipeline
from agentscope.protocols.assemble import merged
from agentscope.tracker.context import switch
from agentscope.voltagent import VoltAgentSDK

from .recording import URL, Memory, Recording, balanced, decoded

ENDS = ("run.end", "step.end", "step")
STARTS = ("run.start", "step.start", "step")


class Traced(Recording):
    """An SDK, and the events that it has delivered so far."""

    def __init__(self, sdk: VoltAgentSDK, kept: list[Event], said: list[str]) -> None:
        super().__init__(sdk, kept, said)  # it asks for what both faces have
        self.sdk = sdk

    def parts(self) -> dict[tuple[str, str | None], list[dict[str, Any]]]:
        """The events of each run and each step, in order."""
        found: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
        for event in self.events():
            found.setdefault((event["run_id"], event["step_id"]), []).append(event)
        return found

    def whole(self, name: str) -> dict[str, Any]:
        """The only run or step of this name, with its events merged."""
        (found,) = [whole for whole in self.wholes() if name in (whole.get("name"), whole.get("agent_name"))]
        return found

    def wholes(self) -> list[dict[str, Any]]:
        """All runs and steps with their events merged, in order of their starts."""
        assert self.sdk._pipeline.flush(60).pending == 0
        parts: dict[tuple[str, str | None], list[Event]] = {}
        for event in sorted(self.raw, key=lambda event: event.seq):
            parts.setdefault((event.run_id, event.step_id), []).append(event)
        return [decoded(merged(events)) for events in parts.values()]

    def tree(self) -> dict[str, str | None]:
        """The name of each step, with the name of its parent step or run."""
        wholes = self.wholes()
        names = {whole["step_id"] or whole["run_id"]: whole.get("name") or whole.get("agent_name") for whole in wholes}
        return {
            whole["name"]: names.get(whole["parent_id"] or whole["run_id"], whole["parent_id"])
            for whole in wholes
            if whole["step_id"] is not None
        }

    def outcomes(self) -> dict[str, str]:
        """The status of each run and each step."""
        return {whole.get("name") or whole["agent_name"]: whole["status"] for whole in self.wholes()}


def make(kept: list[Event], **options: Any) -> VoltAgentSDK:
    """An SDK that keeps its events in this list. SDKs with one `secret_key` have one destination."""

    def pipeline_for(config: Config) -> Pipeline:
        return Pipeline(config, lambda: Memory(kept), lambda event: event)

    options.setdefault("base_url", URL)
    options.setdefault("public_key", "pk_test")
    options.setdefault("secret_key", f"sk_{uuid4()}")
    with patch.object(agentscope.pipeline.factory, "pipeline_for", pipeline_for):
        return VoltAgentSDK(**options)


@contextmanager
def traced(**options: Any) -> Iterator[Traced]:
    """An SDK with a destination of its own, in an empty context. At the end its ledger must add up."""
    before = switch(None)
    found = Traced(make(kept := [], **options), kept, said := [])
    try:
        with patch.object(agentscope.pipeline.pipeline, "say", said.append):
            yield found
        assert found.sdk._pipeline.flush(60).pending == 0
        stats = found.sdk.stats()
        assert balanced(stats), stats
        assert stats.delivered == len(kept)
    finally:
        found.sdk._pipeline.shutdown(10)
        switch(before)
